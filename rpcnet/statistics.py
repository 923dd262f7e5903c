"""Counters of a node and of a client, frozen at the moment of asking."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from ._core.user_events import UserStatistics
from ._net.membership_port import MembershipPortStatistics
from ._net.ports import PortStatistics
from ._net.pump import PumpStatistics
from ._net.quic import EndpointStatistics
from ._net.sealing import SealingStatistics

__all__ = ["ClientStatistics", "NodeCalls", "NodeStatistics"]


@attrs.frozen
class NodeCalls:
    """What a client did with one node."""

    active: int
    """Attempts under way."""
    done: int
    """Attempts that ended with a result."""
    failed: int
    """Attempts that ended otherwise."""


@attrs.frozen
class ClientStatistics:
    """Counters of a client since it was made."""

    calls: int
    """Calls that were begun."""
    retries: int
    """Attempts beyond the first of a call."""
    failures: int
    """Calls that ended with an error."""
    per_node: Mapping[str, NodeCalls] = attrs.field(hash=False)
    """Attempts by node id, of the nodes called so far; at most some 4096 of them, the earliest are forgotten."""


@attrs.frozen(kw_only=True)
class NodeStatistics:
    """Counters of a node since it was entered."""

    restarts: Mapping[str, int] = attrs.field(hash=False)
    """How often each task was restarted."""
    port: PortStatistics
    """The UDP port."""
    pump: PumpStatistics
    """What was read from it, and what was dropped because it is for nobody."""
    quic: EndpointStatistics
    """The connections."""
    membership: MembershipPortStatistics
    """Membership datagrams."""
    sealing: SealingStatistics
    """Datagrams that were opened or refused, by reason."""
    user: UserStatistics
    """User events and queries."""
    active_calls: int
    """Calls of others that wait or run here."""
    client: ClientStatistics
    """The node's default client."""
