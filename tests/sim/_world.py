"""What the simulations share: a service that remembers what was done to it, and questions to the trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import attrs
import trio

import rpcnet
from rpcnet.testing import SimulatedCluster, SimulatedNode, TraceEntry


@rpcnet.service(name="work")
class Work:
    """A service that remembers which of its handlers ran, and how they ended."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.node: rpcnet.Node | None = None
        self.runs: Counter[str] = Counter()
        self.cancelled: list[tuple[float, str]] = []
        self.ended: list[tuple[float, str]] = []

    @rpcnet.rpc(idempotent=True)
    async def who(self) -> str:
        """Return the node's name, at once."""
        self.runs["who"] += 1
        return self.name

    @rpcnet.rpc
    async def once(self, key: str, seconds: float) -> str:
        """Return the node's name after a while; must not run twice with one key."""
        return await self._sleep(key, seconds)

    @rpcnet.rpc(idempotent=True)
    async def again(self, key: str, seconds: float) -> str:
        """Return the node's name after a while; may run twice."""
        return await self._sleep(key, seconds)

    @rpcnet.rpc(idempotent=True)
    async def measure(self, data: bytes, seconds: float) -> int:
        """Return the length of what arrived."""
        await self._sleep("measure", seconds)
        return len(data)

    @rpcnet.rpc(idempotent=True)
    async def produce(self, size: int, seconds: float) -> bytes:
        """Return that many bytes."""
        await self._sleep("produce", seconds)
        return bytes([size % 251]) * size

    @rpcnet.rpc
    async def through(self, names: list[str], seconds: float) -> str:
        """Call the next node of a list, and the last one for a while."""
        if not names:
            return await self._sleep("through", seconds)
        assert self.node is not None
        self.runs["through"] += 1
        try:
            return await self.node.stub(Work, node=names[0]).through(names[1:], seconds)
        except trio.Cancelled:
            self.cancelled.append((trio.current_time(), "through"))
            raise

    async def _sleep(self, key: str, seconds: float) -> str:
        self.runs[key] += 1
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            self.cancelled.append((trio.current_time(), key))
            raise
        self.ended.append((trio.current_time(), key))
        return self.name


@attrs.define(eq=False)
class World:
    """A cluster of nodes that all serve :class:`Work`."""

    cluster: SimulatedCluster
    works: dict[str, Work] = attrs.field(factory=dict)
    handles: list[SimulatedNode] = attrs.field(factory=list)

    async def start(self, count: int, **settings: object) -> list[SimulatedNode]:
        started = await self.cluster.start(count, services=self.make, **settings)  # type: ignore[arg-type]
        for handle in started:
            self.attach(handle)
        self.handles += started
        await self.cluster.converged()
        return started

    def make(self, name: str) -> list[object]:
        self.works[name] = Work(name)
        return [self.works[name]]

    def attach(self, handle: SimulatedNode) -> None:
        if handle.name in self.works:
            self.works[handle.name].node = handle.node

    async def bounce(self, handle: SimulatedNode) -> None:
        await self.cluster.bounce(handle)
        self.attach(handle)

    def ran(self, key: str) -> int:
        """Return how often handlers ran with this key, on any node that is still the one first started."""
        return sum(work.runs[key] for work in self.works.values())


def seen(trace: Iterable[TraceEntry], kind: str, subject: str = "") -> list[str]:
    """Return who noticed events of this kind (about that node), in order."""
    words = [(entry.node, [*entry.what.split(), ""]) for entry in trace]
    return [node for node, (what, about, *_) in words if what == kind and subject in ("", about)]


def stub(handle: SimulatedNode, node: SimulatedNode | None = None) -> Work:
    """Return the stub of the service on any node, or on that one."""
    return handle.node.stub(Work, node=node.name if node else None)
