"""Partition machines without a network: each is told by hand whom its node loses and sees again."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from rpcnet._core.partition import PartitionMachine, stable_time
from rpcnet.config import DetectorConfig, GossipConfig, PartitionConfig
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
    PartitionDetected,
    PartitionHealed,
    PartitionStatus,
    PartitionSuspected,
)
from rpcnet.quorum import QuorumStrategy

UNREFUTED = 2.0
"""Seconds after which a suspicion counts in the small clusters of these tests."""

PartitionEvent = PartitionSuspected | PartitionDetected | PartitionHealed


def info(
    name: str,
    boot: int = 1,
    state: NodeState = NodeState.ALIVE,
    *,
    halted: bool = False,
    following: bool = False,
    **tags: str,
) -> NodeInfo:
    """Return a node whose id is its name."""
    return NodeInfo(
        id=name,
        name=name,
        address="127.0.0.1:1",
        boot_id=boot,
        incarnation=0,
        state=state,
        tags=tags,
        is_halted=halted,
        is_following=following,
    )


def names(nodes: Iterable[NodeInfo]) -> str:
    return "".join(node.name for node in nodes)


class Watcher:
    """One node's machine, the clock it sees, and what it has said."""

    def __init__(self, own: NodeInfo, config: PartitionConfig, others: Iterable[NodeInfo] = ()) -> None:
        self.now = 0.0
        self.own = own
        self.config = config
        self.nodes = {own.id: own}
        self.said: list[ClusterEvent] = []
        self.machine = PartitionMachine(
            local=own, config=config, detector=DetectorConfig(), gossip=GossipConfig(), now=self.now
        )
        self.joined(*others)
        self.settle()

    def hear(self, *events: ClusterEvent) -> None:
        for event in events:
            self.said += self.machine.handle(event, self.now)

    def _set(self, name: str, **changes: object) -> NodeInfo:
        self.nodes[name] = attrs.evolve(self.nodes[name], **changes)  # type: ignore[arg-type]
        return self.nodes[name]

    def joined(self, *nodes: NodeInfo) -> None:
        for node in nodes:
            self.nodes[node.id] = node
            self.hear(NodeJoined(node, at=self.now))

    def suspects(self, lost: str, seconds: float = UNREFUTED) -> None:
        """Suspect nodes, and let so much time pass that a refutation should have come."""
        for name in lost:
            node = self._set(name, state=NodeState.SUSPECT)
            self.hear(NodeSuspected(node, phi=2.0, accusers=(), at=self.now))
        self.passes(seconds)

    def fails(self, lost: str) -> None:
        for name in lost:
            self.hear(NodeFailed(self._set(name, state=NodeState.FAILED), reason="silence", at=self.now))

    def loses(self, lost: str, *, within: float = 5.0) -> None:
        """Suspect nodes, and declare them failed when they do not refute."""
        self.suspects(lost)
        self.passes(within)
        self.fails(lost)

    def recovers(self, back: str) -> None:
        for name in back:
            self.hear(NodeRecovered(self._set(name, state=NodeState.ALIVE), at=self.now))

    def hears_goodbye(self, *left: str) -> None:
        for name in left:
            self.hear(NodeLeft(self._set(name, state=NodeState.LEFT), at=self.now))

    def replaces(self, name: str, boot: int) -> None:
        before = self.nodes[name]
        self.hear(NodeReplaced(self._set(name, boot_id=boot, state=NodeState.ALIVE), previous=before, at=self.now))

    def retags(self, name: str, **tags: str) -> None:
        before = self.nodes[name]
        self.hear(NodeUpdated(self._set(name, tags=tags), previous=before, at=self.now))

    def reaps(self, gone: str) -> None:
        for name in gone:
            self.hear(NodeReaped(self.nodes.pop(name), at=self.now))

    def passes(self, seconds: float) -> None:
        """Let time pass; the timer fires when it is due."""
        end = self.now + seconds
        while (due := self.machine.next_timer()) is not None and due <= end:
            self.now = max(self.now, due)
            self.said += self.machine.on_timer(self.now)
        self.now = end

    def settle(self) -> None:
        """Let so much time pass that the machine comes to a stable point."""
        self.passes(stable_time(self.config, DetectorConfig().pause_tolerance, len(self.nodes)) + 1)

    def restart(self) -> None:
        """Replace the machine, as when its task failed; what happened meanwhile is in ``self.nodes``."""
        self.machine = PartitionMachine(
            local=self.own,
            config=self.config,
            detector=DetectorConfig(),
            gossip=GossipConfig(),
            now=self.now,
            last=self.machine.snapshot(),
        )
        self.said += self.machine.reset(self.nodes.values(), self.now)

    @property
    def status(self) -> PartitionStatus:
        return self.machine.snapshot().status

    @property
    def writable(self) -> bool:
        return self.machine.snapshot().writable

    @property
    def has_quorum(self) -> bool:
        return self.machine.snapshot().has_quorum

    def take(self) -> list[str]:
        """Return what was said since the last time, each as one line."""
        lines, self.said = [line(event) for event in self.said], []
        return lines


def line(event: ClusterEvent) -> str:
    match event:
        case PartitionSuspected(lost=lost, kept=kept):
            return f"suspected {names(lost)} | {names(kept)}"
        case PartitionDetected(reachable=reachable, unreachable=unreachable, status=status):
            return f"{status.value} {names(reachable)} | {names(unreachable)}"
        case PartitionHealed(merged=merged):
            return f"healed {names(merged)}"
        case _:
            return repr(event)


def cluster(members: str, strategy: QuorumStrategy | None, **settings: object) -> dict[str, Watcher]:
    """Return a watcher per member of a cluster that is whole; boot ids grow with the alphabet."""
    config = PartitionConfig(strategy=strategy, **settings)  # type: ignore[arg-type]
    everyone = [info(name, boot=ord(name)) for name in members]
    return {node.id: Watcher(node, config, [other for other in everyone if other is not node]) for node in everyone}


def split(watchers: dict[str, Watcher], *sides: str) -> None:
    """Let every watcher lose all that are not on its side, and come to a stable point."""
    for side in sides:
        for name in side:
            watcher = watchers[name]
            lost = "".join(
                other
                for other in sorted(watcher.nodes)
                if other not in side and watcher.nodes[other].state is NodeState.ALIVE
            )
            back = "".join(other for other in side if watcher.nodes[other].state is NodeState.FAILED)
            watcher.recovers(back)
            watcher.loses(lost)
            watcher.settle()


def outcome(watchers: dict[str, Watcher]) -> str:
    """Return the names of those that are writable."""
    return "".join(name for name, watcher in watchers.items() if watcher.writable)
