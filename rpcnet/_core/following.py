"""Following a cluster: what a program that is no member knows of it, from what one node tells.

The rules of this file:

* A node tells first all that it knows, in pieces, and then every change. News carry nodes as they are, not what
  happened to them: the events follow from what was known before, so that they fit together also when another node goes
  on telling. They are the ones that a member would have been told (``roster.py``).
* What is told of a node is taken unless it is older than what is known of it, by boot and incarnation.
* A whole account is taken when its last piece has come; one that breaks off changes nothing.
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
        self._pieces: list[NodeEntry] = []

    def snapshot(self) -> RegistrySnapshot:
        """Return all nodes as they are known now."""
        return self._machine.snapshot()

    def begin(self) -> None:
        """Expect a whole account, from a node that tells from now on."""
        self._pieces = []

    def knows(self, node_id: str) -> bool:
        """Return whether a node is known, in whatever state."""
        return node_id in self._nodes

    def take(self, news: ClusterNews, source: str, now: float) -> list[ClusterEvent]:
        """Take news in, and return what happened.

        Args:
            news: what was told.
            source: who told it.
            now: the current time.
        """
        if news.kind is NewsKind.PIECE:
            self._pieces += news.nodes
            return []
        entries = news.nodes
        if news.kind is NewsKind.LAST_PIECE:
            entries, self._pieces = [*self._pieces, *entries], []
        events: list[ClusterEvent] = []
        for entry in entries:
            events += self._update(entry.info(), news, source, now)
        for node_id in news.forgotten:
            events += self._forget(node_id, f"forgotten by {source}", now)
        if news.kind is NewsKind.LAST_PIECE:
            told = {entry.id for entry in entries}
            for node_id in [node_id for node_id in self._nodes if node_id not in told]:
                events += self._forget(node_id, f"not known to {source}", now)
        return events

    def _update(self, node: NodeInfo, news: ClusterNews, source: str, now: float) -> list[ClusterEvent]:
        before = self._nodes.get(node.id)
        if not self._machine.apply(NodeUpdated(node, at=now, previous=before or node)):
            return []
        self._nodes[node.id] = node
        if not node.is_usable:
            return _departure(before, node, news.reason or f"reported by {source}", now)
        events = _arrival(before, node, now)
        if node.state is NodeState.SUSPECT and (before is None or _standing(before) != _standing(node)):
            events.append(NodeSuspected(node, at=now, phi=news.phi, accusers=tuple(news.accusers)))
        is_same = before is not None and before.boot_id == node.boot_id and before.state is not NodeState.LEFT
        if before is not None and is_same and _public(before) != _public(node):
            events.append(NodeUpdated(node, at=now, previous=before))
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


def _arrival(before: NodeInfo | None, node: NodeInfo, now: float) -> list[ClusterEvent]:
    """Return how a node that is usable came to be; it is suspected only afterwards."""
    arrived = attrs.evolve(node, state=NodeState.ALIVE)
    if before is None or before.state is NodeState.LEFT:
        return [NodeJoined(arrived, at=now)]
    if node.boot_id > before.boot_id:
        return [NodeReplaced(arrived, at=now, previous=before) if before.is_usable else NodeJoined(arrived, at=now)]
    if before.state is NodeState.FAILED or (before.state is NodeState.SUSPECT and node.state is NodeState.ALIVE):
        return [NodeRecovered(arrived, at=now)]
    return []


def _departure(before: NodeInfo | None, node: NodeInfo, reason: str, now: float) -> list[ClusterEvent]:
    """Return how a node that is not usable came to be; nothing if it never was."""
    if before is None:
        return []
    if node.state is NodeState.LEFT:
        return [NodeLeft(node, at=now)] if before.state is not NodeState.LEFT else []
    return [NodeFailed(node, at=now, reason=reason)] if before.is_usable else []


def _standing(node: NodeInfo) -> tuple[int, int, NodeState]:
    return node.boot_id, node.incarnation, node.state


def _public(node: NodeInfo) -> tuple[object, ...]:
    return node.address, node.tags, node.services
