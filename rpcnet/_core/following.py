"""Following a cluster: what a program that is no member knows of it, from what one node tells.

The rules of this file:

* A node tells first all that it knows, in pieces, and then every change. News carry nodes as they are, not what
  happened to them: the events follow from what was known before, so that they fit together also when another node goes
  on telling.
* What is told of a node is taken unless it is older than what is known of it, by boot and incarnation.
* A node that is missing in a whole account is forgotten, and counted as failed if it was usable. That is no reason to
  cut a connection with it: who tells may have just begun to know.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import attrs

from rpcnet.events import (
    ClusterEvent,
    NodeFailed,
    NodeInfo,
    NodeJoined,
    NodeLeft,
    NodeReaped,
    NodeRecovered,
    NodeReplaced,
    NodeState,
    NodeSuspected,
    NodeUpdated,
)

from .registry import RegistryMachine, RegistrySnapshot

__all__ = ["ClusterNews", "Followed", "NewsKind", "NodeEntry", "in_pieces"]

_NODES_PER_PIECE = 16
"""Some 20 KB at most, so that they fit into messages whose limit was made small."""


class NewsKind(enum.Enum):
    """What a piece of news is a part of."""

    CHANGE = "change"
    """A change since the last news."""
    PIECE = "piece"
    """A piece of a whole account; more of it follows."""
    LAST_PIECE = "last piece"
    """The last piece of a whole account."""


@attrs.frozen
class NodeEntry:
    """A node, as it goes over the wire; see :class:`~rpcnet.events.NodeInfo`."""

    id: str
    """Its id."""
    name: str
    """Its name."""
    address: str
    """Where it is dialled."""
    boot_id: int
    """Grows with every start."""
    incarnation: int
    """Grows when it refutes a suspicion."""
    state: NodeState
    """What the teller believes of it."""
    tags: dict[str, str]
    """Its tags."""
    services: list[str]
    """The names of its services, sorted."""
    meta_version: int
    """Grows when tags, services or the address change."""

    @classmethod
    def of(cls, node: NodeInfo) -> NodeEntry:
        """Return the entry of a node."""
        return cls(
            id=node.id,
            name=node.name,
            address=node.address,
            boot_id=node.boot_id,
            incarnation=node.incarnation,
            state=node.state,
            tags=dict(node.tags),
            services=list(node.services),
            meta_version=node.meta_version,
        )

    def info(self) -> NodeInfo:
        """Return the node."""
        return NodeInfo(
            id=self.id,
            name=self.name,
            address=self.address,
            boot_id=self.boot_id,
            incarnation=self.incarnation,
            state=self.state,
            tags=self.tags,
            services=tuple(self.services),
            meta_version=self.meta_version,
        )


@attrs.frozen
class ClusterNews:
    """What a node tells those who follow a cluster through it."""

    kind: NewsKind
    """What it is a part of."""
    nodes: list[NodeEntry]
    """Nodes as they are now."""
    forgotten: list[str] = attrs.field(factory=list)
    """The ids of nodes that are not known any more."""
    phi: float = 0.0
    """If a node is suspected: how improbable its silence would be if it were alive."""
    accusers: list[str] = attrs.field(factory=list)
    """If a node is suspected: the ids of those that missed its answer."""
    reason: str = ""
    """If a node has failed: why."""


def in_pieces(nodes: Sequence[NodeInfo]) -> list[ClusterNews]:
    """Return a whole account, in pieces that fit into messages."""
    starts = range(0, max(1, len(nodes)), _NODES_PER_PIECE)
    parts = [nodes[start : start + _NODES_PER_PIECE] for start in starts]
    pieces = [ClusterNews(NewsKind.PIECE, [NodeEntry.of(node) for node in part]) for part in parts]
    return [*pieces[:-1], attrs.evolve(pieces[-1], kind=NewsKind.LAST_PIECE)]


class Followed:
    """What is known of a cluster."""

    def __init__(self) -> None:
        self._machine = RegistryMachine()
        self._nodes: dict[str, NodeInfo] = {}
        self._told: dict[str, None] = {}

    def snapshot(self) -> RegistrySnapshot:
        """Return all nodes as they are known now."""
        return self._machine.snapshot()

    def begin(self) -> None:
        """Expect a whole account, from a node that tells from now on."""
        self._told.clear()

    def take(self, news: ClusterNews, source: str, now: float) -> list[ClusterEvent]:
        """Take news in, and return what happened.

        Args:
            news: what was told.
            source: who told it.
            now: the current time.
        """
        events: list[ClusterEvent] = []
        for entry in news.nodes:
            self._told[entry.id] = None
            events += self._update(entry.info(), news, source, now)
        for node_id in news.forgotten:
            events += self._forget(node_id, f"forgotten by {source}", now)
        if news.kind is NewsKind.LAST_PIECE:
            for node_id in [node_id for node_id in self._nodes if node_id not in self._told]:
                events += self._forget(node_id, f"not known to {source}", now)
        if news.kind is not NewsKind.PIECE:
            self._told.clear()
        return events

    def _update(self, node: NodeInfo, news: ClusterNews, source: str, now: float) -> list[ClusterEvent]:
        before = self._nodes.get(node.id)
        if not self._machine.apply(NodeUpdated(node, at=now, previous=before or node)):
            return []
        self._nodes[node.id] = node
        if before is not None and before.boot_id == node.boot_id:
            return _changes(before, node, news, source, now)
        events: list[ClusterEvent] = []
        was_usable = before is not None and before.is_usable
        if node.is_usable and before is not None and was_usable:
            events.append(NodeReplaced(node, at=now, previous=before))
        elif node.is_usable:
            events.append(NodeJoined(node, at=now))
        if node.state is NodeState.SUSPECT or (was_usable and not node.is_usable):
            events.append(_event_of_state(node, news, source, now))
        return events

    def _forget(self, node_id: str, reason: str, now: float) -> list[ClusterEvent]:
        node = self._nodes.pop(node_id, None)
        if node is None:
            return []
        events: list[ClusterEvent] = []
        if node.is_usable:
            node = attrs.evolve(node, state=NodeState.FAILED)
            events.append(NodeFailed(node, at=now, reason=reason))
        reaped = NodeReaped(node, at=now)
        self._machine.apply(reaped)
        return [*events, reaped]


def _changes(before: NodeInfo, node: NodeInfo, news: ClusterNews, source: str, now: float) -> list[ClusterEvent]:
    """Return what happened to a node within one boot."""
    events: list[ClusterEvent] = []
    if (before.tags, before.services, before.address) != (node.tags, node.services, node.address):
        events.append(NodeUpdated(node, at=now, previous=before))
    if before.state is not node.state:
        events.append(_event_of_state(node, news, source, now))
    return events


def _event_of_state(node: NodeInfo, news: ClusterNews, source: str, now: float) -> ClusterEvent:
    """Return what made a node be in the state that it is in."""
    match node.state:
        case NodeState.ALIVE:
            return NodeRecovered(node, at=now)
        case NodeState.SUSPECT:
            return NodeSuspected(node, at=now, phi=news.phi, accusers=tuple(news.accusers))
        case NodeState.FAILED:
            return NodeFailed(node, at=now, reason=news.reason or f"reported by {source}")
        case NodeState.LEFT:
            return NodeLeft(node, at=now)
