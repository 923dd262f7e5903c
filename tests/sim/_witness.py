"""What simulations of membership share: nodes that a test makes itself, and questions to a trace with times."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import trio
from _followers import until

import rpcnet
from rpcnet.testing import SimulatedCluster, SimulatedNode, TraceEntry

FAILED = rpcnet.NodeState.FAILED


def moments(trace: Iterable[TraceEntry], kind: str, subject: str, since: float = 0.0) -> dict[str, float]:
    """Return when each node first noticed an event of this kind about that node, from a moment on."""
    found: dict[str, float] = {}
    for entry in trace:
        what, about, *_ = [*entry.what.split(), ""]
        if (what, about) == (kind, subject) and entry.at >= since:
            found.setdefault(entry.node, entry.at)
    return found


def subjects(trace: Iterable[TraceEntry], kind: str, *, by: str = "") -> set[str]:
    """Return about whom events of this kind were noticed (by that node)."""
    words = [(entry.node, [*entry.what.split(), ""]) for entry in trace]
    return {about for node, (what, about, *_) in words if what == kind and by in ("", node)}


async def all_know(cluster: SimulatedCluster, kind: str, subject: str, *, within: float) -> float:
    """Wait until every running node but that one has noticed an event; return the seconds that took from now on."""
    begun = trio.current_time()
    others = {node.name for node in cluster.running} - {subject}
    await until(lambda: others <= moments(cluster.trace, kind, subject, begun).keys(), within=within)
    return max(moments(cluster.trace, kind, subject, begun).values()) - begun


@attrs.define(eq=False)
class Guest:
    """A node that a test makes itself, and what it notices."""

    node: rpcnet.Node
    events: list[rpcnet.ClusterEvent] = attrs.field(factory=list)
    ended_by: BaseException | None = None
    """What its block ended with."""
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    address: str = ""

    async def live(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Live until something ends it; started when it has joined."""
        try:
            with self.scope:
                async with self.node, self.node.events() as events:
                    self.address = self.node.address
                    task_status.started()
                    async for event in events:
                        self.events.append(event)
        except rpcnet.RpcNetError as error:
            self.ended_by = error

    def conflicts(self) -> list[bool]:
        """Return of each conflict over its name whether it lost."""
        return [event.is_lost for event in self.events if isinstance(event, rpcnet.NameConflictDetected)]


async def island(cluster: SimulatedCluster, count: int) -> list[SimulatedNode]:
    """Start nodes that know only each other."""
    first = await cluster.start(1, seeds=())
    return [*first, *await cluster.start(count - 1, seeds=[first[0].address])]


async def one_cluster(nodes: Iterable[rpcnet.Node], *, within: float = 60.0) -> float:
    """Wait until these nodes, and nobody else, are alive in the eyes of each; return the seconds that took."""
    begun, everybody = trio.current_time(), list(nodes)
    ids = {node.id for node in everybody}
    await until(lambda: all({info.id for info in node.registry.alive()} == ids for node in everybody), within=within)
    return trio.current_time() - begun
