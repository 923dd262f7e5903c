"""Cluster events between the tasks of one node: the ones no user needs, so they never reach a subscription.

Who says and who hears what is the table in ``docs/architecture.md``; the bus routes by class.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from .events import ClusterEvent

__all__ = [
    "Accused",
    "Draining",
    "Leaving",
    "PeerHeard",
    "ProbeAnswered",
    "ProbeDue",
    "Signal",
    "Suspicion",
    "TagsChanged",
    "Verdict",
]


@attrs.frozen
class Signal(ClusterEvent):
    """An event that stays inside the node."""


# --- the failure detector says, membership hears


@attrs.frozen
class ProbeDue(Signal):
    """Send a PING to ``node_id`` now, and, if ``helpers`` is not empty, ask each of them to ping it too."""

    node_id: str
    boot_id: int
    seq: int
    """Comes back in :class:`ProbeAnswered`; one number per attempt."""
    helpers: tuple[str, ...] = ()
    """Ids of the nodes that are asked to ping it on our behalf (SWIM, section 3.1)."""
    remaining: float = 0.0
    """Seconds until the probe cycle ends, for the helpers."""
    direct: bool = True
    """False when only the helpers are to ping."""


@attrs.frozen
class Suspicion(Signal):
    """This node's own probe cycles say that ``node_id`` does not answer; also its own confirmation as a juror."""

    node_id: str
    boot_id: int
    incarnation: int
    phi: float


@attrs.frozen
class Verdict(Signal):
    """The suspicion of ``node_id`` was not refuted in time: declare it failed."""

    node_id: str
    boot_id: int
    incarnation: int
    reason: str


# --- membership says, the failure detector hears


@attrs.frozen
class ProbeAnswered(Signal):
    """An ACK arrived for probe ``seq``."""

    node_id: str
    seq: int
    via: str | None = None
    """The id of the helper that relayed it; None for a direct answer."""


@attrs.frozen
class Accused(Signal):
    """Somebody (``accuser``, perhaps this node itself) suspects ``node_id``; said once per accuser and accusation."""

    node_id: str
    boot_id: int
    incarnation: int
    accuser: str
    phi: float


# --- the RPC server says


@attrs.frozen
class PeerHeard(Signal):
    """An authenticated packet of ``node_id`` arrived on a connection: it is alive, first-hand."""

    node_id: str


# --- the node says


@attrs.frozen
class TagsChanged(Signal):
    """The node's own tags are these from now on."""

    tags: Mapping[str, str]


@attrs.frozen
class Draining(Signal):
    """Take no new calls."""


@attrs.frozen
class Leaving(Signal):
    """Tell the cluster goodbye."""
