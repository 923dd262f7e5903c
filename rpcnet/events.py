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
    "DEGRADED_STALL",
    "ClusterEvent",
    "EventsDropped",
    "LinkDegraded",
    "LocalDegraded",
    "NameConflictDetected",
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
    "PartitionDetected",
    "PartitionHealed",
    "PartitionStatus",
    "PartitionSuspected",
    "QueryReceived",
    "SelfIsolated",
    "UserEvent",
]

DEGRADED_STALL = 1.0
"""Seconds of stall from which on a node counts as degraded: others avoid it, and it tells its own application."""


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
    stall: float = 0.0
    """Seconds that its event loop, by its own account, stops for at times; in classes that double, 0 for below 1/4."""
    is_halted: bool = False
    """Whether it is, by its own account, on a side of a partition that may not go on."""
    is_following: bool = False
    """Whether it is halted only because others are, of whose cluster it knows too little itself."""

    @property
    def is_degraded(self) -> bool:
        """Whether it is alive but slow, by its own account: calls go elsewhere while they can."""
        return self.stall >= DEGRADED_STALL

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
    age: float = 0.0
    """Seconds that the news of it has travelled: as long ago the first of them said so."""


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


class PartitionStatus(enum.Enum):
    """Which part of a cluster that has fallen apart this node is in."""

    WHOLE = "whole"
    """The cluster has not fallen apart."""
    MAJORITY = "majority"
    """More than half, by the strategy that was chosen: this side may go on."""
    MINORITY = "minority"
    """The others may go on, this side should not."""
    TIE = "tie"
    """Two halves, and the strategy cannot choose: neither should go on."""
    ISOLATED = "isolated"
    """This node alone."""


@attrs.frozen
class PartitionSuspected(ClusterEvent):
    """So many nodes were lost at once that it looks like a cut network; whether it is one shows later.

    If they come back before that, nothing more is said of it than their ``NodeRecovered``.
    """

    lost: tuple[NodeInfo, ...]
    """The nodes that are suspect or failed; more may follow."""
    kept: tuple[NodeInfo, ...]
    """The nodes that are alive, this one included."""
    zones: tuple[str, ...] = ()
    """The values of the zone tag that were lost whole so far."""


@attrs.frozen
class PartitionDetected(ClusterEvent):
    """The cluster has fallen apart, and nothing has changed for long enough to say into what."""

    reachable: tuple[NodeInfo, ...]
    """The nodes on this side, this one included."""
    unreachable: tuple[NodeInfo, ...]
    """The nodes that were members at the last stable point and are on no side that this node sees."""
    status: PartitionStatus
    """Which side this is, by the strategy that was chosen."""
    zones: tuple[str, ...] = ()
    """The values of the zone tag that are unreachable whole."""


@attrs.frozen
class PartitionHealed(ClusterEvent):
    """A partition that was detected is over: all are back, or those still missing have left or are only a few."""

    merged: tuple[NodeInfo, ...]
    """The nodes that came back."""


@attrs.frozen
class SelfIsolated(ClusterEvent):
    """Most probes of this node fail and nobody else misses their targets: this node is cut off, not the others.

    Meanwhile it accuses nobody and tries its seeds.
    """

    failed: tuple[str, ...]
    """The ids of the nodes that did not answer."""


@attrs.frozen
class LinkDegraded(ClusterEvent):
    """A node lives and others reach it, but this node does not: the path between the two is broken or one-way."""

    node: NodeInfo
    """The other end."""
    observer: str
    """The id of this end, the node that says so."""
    reason: str
    """What does not pass, for a person to read."""


@attrs.frozen
class LocalDegraded(ClusterEvent):
    """This node's own event loop stalls; it has told the others, so that they avoid it instead of suspecting it."""

    stall: float
    """Seconds, as it is told to others."""
    handler: str | None = None
    """The handler that held the loop, when it was one."""


@attrs.frozen
class NameConflictDetected(ClusterEvent):
    """Two live nodes have the same name; the one that started later loses it."""

    node: NodeInfo
    """This node."""
    address: str
    """Where the other one is."""
    is_lost: bool
    """Whether this node is the one that lost; it ends with ``NameConflict`` then."""


@attrs.frozen
class UserEvent(ClusterEvent):
    """Something that a node published to all, itself included; see ``Node.publish``.

    Of one sender the events come in the order in which it published them, none twice.
    """

    sender: str
    """The id of the node that published it."""
    name: str
    """What it is called."""
    payload: bytes
    """What it says."""
    number: int
    """Counts what the sender has published since its start, from 1. A number left out is an event that was lost."""
    boot_id: int = 0
    """Which start of the sender it is; a later one has a higher number."""


@attrs.frozen
class QueryReceived(ClusterEvent):
    """A node asks; answer with ``Node.respond`` before ``deadline``. See ``Node.query``."""

    sender: str
    """The id of the node that asks."""
    name: str
    """What the question is called."""
    payload: bytes
    """The question."""
    number: int
    """Which of the sender's questions it is, since its start."""
    deadline: float
    """Trio time after which no answer is collected."""
    boot_id: int = 0
    """Which start of the sender it is; a later one has a higher number."""


@attrs.frozen
class EventsDropped(ClusterEvent):
    """The reader was too slow and its buffer is bounded: ``count`` events were merged or lost before the next one.

    Of every node that changed meanwhile the latest event follows, so what is read afterwards ends in the true state.
    """

    count: int
    """How many events were not delivered one by one."""
