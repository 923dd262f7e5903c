"""What membership posts on the bus for the other tasks and for readers outside."""

from __future__ import annotations

import attrs

from rpcnet._core.members import MemberRecord
from rpcnet.events import NodeInfo

from .bus import Bus

__all__ = ["MembershipSnapshot", "nodes_of"]


@attrs.frozen
class MembershipSnapshot:
    """All that membership knows, as it was when its last effect had been performed."""

    local: MemberRecord
    """This node's own record."""
    records: tuple[MemberRecord, ...]
    """Every record, this node's included."""
    nodes: tuple[NodeInfo, ...]
    """The same for readers, sorted by id."""


def nodes_of(bus: Bus) -> tuple[NodeInfo, ...]:
    """Return every node of membership's last snapshot; none before the first."""
    last = bus.latest(MembershipSnapshot)
    return () if last is None else last.nodes
