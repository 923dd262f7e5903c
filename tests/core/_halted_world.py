"""Partition machines that tell each other whether they may go on, as nodes of one side do."""

from __future__ import annotations

from collections.abc import Iterable

from _partition_bench import Watcher, cluster, info

from rpcnet.config import PartitionConfig
from rpcnet.events import NodeInfo, NodeJoined, NodeRecovered, NodeReplaced, NodeState, NodeUpdated
from rpcnet.quorum import QuorumStrategy

_SUSPICION = 5.0


class World:
    """A cluster that is cut into sides, in which nodes start and are started again; a node's id is one letter."""

    def __init__(self, members: str, strategy: QuorumStrategy, *, tells: bool = True, **settings: object) -> None:
        self.watchers = cluster(members, strategy, **settings)
        self.config = PartitionConfig(strategy=strategy, **settings)  # type: ignore[arg-type]
        self.sides = [members]
        self.tells = tells
        self._boot = 1000

    # --- what happens

    def cut(self, *sides: str) -> None:
        """Let those of one side see each other only, and wait until every side has come to a stable point."""
        self.meet(*sides)
        self.settle()

    def meet(self, *sides: str) -> None:
        """Let the sides be these: who is on one's side is seen at once, who is not is missed after a suspicion."""
        self.sides = [side for side in sides if side]
        for side in self.sides:
            for name in side:
                for other in side:
                    self._see(self.watchers[name], other)
        self.tell()
        for side in self.sides:
            for name in side:
                self.watchers[name].suspects(self._lost(name, side))
        self.tell()
        self._pass(_SUSPICION)
        for side in self.sides:
            for name in side:
                self.watchers[name].fails(self._lost(name, side, NodeState.SUSPECT))
        self.tell()

    def start(self, name: str, side: str) -> None:
        """Start a node on a side, for the first time or again."""
        self._boot += 1
        others = [self.info_of(other) for other in side if other != name]
        self.sides = [here.replace(name, "") for here in self.sides if here != side]
        self.sides = [*filter(None, self.sides), "".join(sorted({*side, name}))]
        self.watchers[name] = newcomer = Watcher(info(name, boot=self._boot), self.config)
        newcomer.joined(*others)
        for other in side.replace(name, ""):
            self._see(self.watchers[other], name)
        self.tell()

    def settle(self) -> None:
        """Let as much time pass as all need to come to stable points, the later ones because of the first."""
        for _ in range(3):
            for watcher in self._present():
                watcher.settle()
            self.tell()

    def _pass(self, seconds: float) -> None:
        for watcher in self._present():
            watcher.passes(seconds)
        self.tell()

    # --- what is seen

    def info_of(self, name: str) -> NodeInfo:
        """Return a node as it tells of itself."""
        watcher = self.watchers[name]
        seen = watcher.machine.snapshot()
        halted, following = (seen.is_halted, seen.is_following) if self.tells else (False, False)
        return info(name, boot=watcher.own.boot_id, halted=halted, following=following)

    def tell(self) -> None:
        """Let all of a side hear what the others say of themselves, until nobody says anything new."""
        for _ in range(20):
            if not sum(self._tell_in(side) for side in self.sides):
                return
        raise AssertionError("they do not come to an end")

    def _tell_in(self, side: str) -> int:
        said = 0
        for name in side:
            now = self.info_of(name)
            for other in side.replace(name, ""):
                watcher = self.watchers[other]
                before = watcher.nodes.get(name)
                is_known = before is not None and before.boot_id == now.boot_id and before.state is NodeState.ALIVE
                if is_known and before is not None and before != now:
                    watcher.nodes[name] = now
                    watcher.hear(NodeUpdated(now, previous=before, at=watcher.now))
                    said += 1
        return said

    def _see(self, watcher: Watcher, name: str) -> None:
        before, now = watcher.nodes.get(name), self.info_of(name)
        if watcher.own.id == name or (before is not None and before == now):
            return
        watcher.nodes[name] = now
        if before is None or (before.boot_id != now.boot_id and before.state is NodeState.FAILED):
            watcher.hear(NodeJoined(now, at=watcher.now))
        elif before.boot_id != now.boot_id:
            watcher.hear(NodeReplaced(now, previous=before, at=watcher.now))
        elif before.state is not NodeState.ALIVE:
            watcher.hear(NodeRecovered(now, at=watcher.now))
        else:
            watcher.hear(NodeUpdated(now, previous=before, at=watcher.now))

    def _lost(self, name: str, side: str, state: NodeState = NodeState.ALIVE) -> str:
        nodes = self.watchers[name].nodes
        return "".join(other for other in sorted(nodes) if other not in side and nodes[other].state is state)

    def _present(self) -> Iterable[Watcher]:
        return [self.watchers[name] for side in self.sides for name in side]

    # --- what comes of it

    @property
    def writable(self) -> str:
        """The nodes that may go on, sorted."""
        return "".join(sorted(name for side in self.sides for name in side if self.watchers[name].writable))

    @property
    def going_on(self) -> list[str]:
        """The sides of which somebody may go on."""
        return [side for side in self.sides if any(self.watchers[name].writable for name in side)]

    @property
    def following(self) -> str:
        """The nodes that are halted because others are."""
        return "".join(sorted(name for side in self.sides for name in side if self.info_of(name).is_following))
