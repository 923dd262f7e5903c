"""What a cluster can tell: the family of :class:`ClusterEvent`, and the words it uses.

The rules of this file:

* An event is a frozen value. It says what changed, when (Trio time), about whom, and under which cause.
* Per node: :class:`NodeJoined` comes first; :class:`NodeFailed` and :class:`NodeLeft` come only after it; and
  ``(boot_id, incarnation)`` never goes back.
* Events are edges, snapshots are truth: after :class:`EventsDropped` the reader looks at the snapshot again.

Events of the tasks inside a node that no user needs are in ``_signals.py``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

import attrs

__all__ = [
    "ClusterEvent",
    "EventsDropped",
    "NodeEvent",
    "NodeFailed",
    "NodeInfo",
    "NodeJoined",
    "NodeLeft",
    "NodeReaped",
    "NodeRecovered",
    "NodeReplaced",
    "NodeState",
    "NodeSuspected",
    "NodeUpdated",
]


class NodeState(enum.Enum):
    """What this node believes of another one."""

    ALIVE = "alive"
    """It answers, or somebody heard from it lately."""
    SUSPECT = "suspect"
    """Somebody missed its answer; it may still refute that. Calls avoid it."""
    FAILED = "failed"
    """The suspicion was not refuted in time. Calls never go there."""
    LEFT = "left"
    """It said goodbye."""


def _frozen_tags(tags: Mapping[str, str]) -> Mapping[str, str]:
    return tags if isinstance(tags, MappingProxyType) else MappingProxyType(dict(tags))


@attrs.frozen
class NodeInfo:
    """One node as this node sees it: an immutable copy, never updated in place."""

    id: str
    """32 hexadecimal digits, derived from the cluster's and the node's name: the same after a restart."""
    name: str
    """The name, unique in the cluster."""
    address: str
    """``"host:port"`` that the node advertises; IPv6 in brackets."""
    boot_id: int
    """Grows with every start of the process."""
    incarnation: int
    """Grows when the node refutes a suspicion; compared only within one ``boot_id``."""
    state: NodeState
    """What this node believes of it."""
    tags: Mapping[str, str] = attrs.field(factory=dict, converter=_frozen_tags, hash=False)
    """The tags the node chose."""
    services: tuple[str, ...] = ()
    """The names of the services it serves, sorted."""
    meta_version: int = 0
    """Grows when tags, services or the address change."""

    @property
    def is_usable(self) -> bool:
        """Whether calls may go there: alive, or suspect as the last resort."""
        return self.state in (NodeState.ALIVE, NodeState.SUSPECT)


@attrs.frozen
class ClusterEvent:
    """The root of all events: ``at`` is Trio time in seconds, ``cause`` numbers what led to it within this node."""

    at: float = attrs.field(kw_only=True)
    """When this node learnt of it, in Trio time."""
    cause: int = attrs.field(kw_only=True, default=0)
    """Events with the same number come from the same datagram, timer or order; 0 when there is none."""


@attrs.frozen
class NodeEvent(ClusterEvent):
    """An event about one node; ``node`` is the node as it is after the change."""

    node: NodeInfo
    """The node after the change."""


@attrs.frozen
class NodeJoined(NodeEvent):
    """A node is new to this one, or came back with a new boot id after it had failed or left."""


@attrs.frozen
class NodeUpdated(NodeEvent):
    """A node changed its tags, services or address."""

    previous: NodeInfo
    """The node before the change."""


@attrs.frozen
class NodeSuspected(NodeEvent):
    """A node did not answer. It is avoided from now on, and declared failed unless it refutes."""

    phi: float
    """How improbable its silence would be if it were alive, as -log10 of the probability."""
    accusers: tuple[str, ...]
    """The ids of the nodes that missed its answer."""


@attrs.frozen
class NodeRecovered(NodeEvent):
    """A node that was suspected or declared failed is alive after all, in the same boot."""


@attrs.frozen
class NodeFailed(NodeEvent):
    """A suspicion was not refuted in time. Connections to the node are cut and calls on them end."""

    reason: str
    """Why, for a person to read."""


@attrs.frozen
class NodeLeft(NodeEvent):
    """A node said goodbye."""


@attrs.frozen
class NodeReplaced(NodeEvent):
    """A node was restarted before anybody saw it fail: same name, higher boot id."""

    previous: NodeInfo
    """The node before the restart."""


@attrs.frozen
class NodeReaped(NodeEvent):
    """A node that had failed or left was forgotten; its name is free again."""


@attrs.frozen
class EventsDropped(ClusterEvent):
    """The reader was too slow and its buffer is bounded: ``count`` events were merged or lost before the next one.

    Of every node that changed meanwhile the latest event follows, so what is read afterwards ends in the true state.
    """

    count: int
    """How many events were not delivered one by one."""
