"""A simulated cluster: nodes on hosts of their own, and the faults that befall them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs
import trio

from rpcnet._net.addresses import parse_address
from rpcnet._net.identity import Security
from rpcnet._net.memory import MemoryNetwork
from rpcnet._net.ports import ServiceRecord
from rpcnet._net.seeds import SeedSource
from rpcnet.config import NodeConfig
from rpcnet.events import ClusterEvent, EventsDropped, LinkDegraded, NodeEvent, NodeState
from rpcnet.node import Node

from ._freezing import FreezableQueue

__all__ = ["SimulatedCluster", "SimulatedNode", "TraceEntry"]

_SECRET = bytes.fromhex("6f1c1b7d2a93de4580c46b0e97f32a5d1e88c07b45f9a6d3")


@attrs.frozen
class TraceEntry:
    """One thing that one node noticed, or that befell it."""

    at: float
    """When, in virtual seconds."""
    node: str
    """The node that noticed it."""
    what: str
    """What it was."""

    def __str__(self) -> str:
        """Return the entry as one line."""
        return f"{self.at:10.4f}  {self.node:12} {self.what}"


def _describe(event: ClusterEvent) -> str:
    match event:
        case NodeEvent(node=node):
            return f"{type(event).__name__} {node.name} boot={node.boot_id} inc={node.incarnation} {node.state.value}"
        case LinkDegraded(node=node):
            return f"LinkDegraded {node.name}"
        case EventsDropped(count=count):
            return f"EventsDropped {count}"
        case _:
            return type(event).__name__


@attrs.define(eq=False)
class SimulatedNode:
    """A handle of one simulated node; it stays valid when the node crashes and is started again."""

    name: str
    """Its name."""
    address: str
    """Its address; the host is its own."""
    node: Node
    """The node itself, of the latest start."""
    is_running: bool = False
    """Whether it is inside its block."""
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Ends its block."""
    ended: trio.Event = attrs.field(factory=trio.Event)
    """Set when its block has ended."""
    make: Callable[[str, Sequence[str | SeedSource] | None], Node] | None = None
    """Makes a fresh node for an address and seeds, for another start."""
    task: trio.lowlevel.Task | None = None
    """Where its block runs."""

    @property
    def host(self) -> str:
        """The IP address of its host."""
        return parse_address(self.address)[0]


class SimulatedCluster:
    """Starts nodes and breaks things; made by :func:`rpcnet.testing.run`.

    Args:
        nursery: where the nodes live.
        network: what connects them.
    """

    def __init__(self, nursery: trio.Nursery, network: MemoryNetwork) -> None:
        self._nursery = nursery
        self._network = network
        self._security = Security.shared_secret(_SECRET, cluster="simulation")
        self._nodes: list[SimulatedNode] = []
        self._trace: list[TraceEntry] = []
        self._changed = trio.Event()
        self._queue = FreezableQueue.install()

    @property
    def nodes(self) -> tuple[SimulatedNode, ...]:
        """Every node that was ever started, in order."""
        return tuple(self._nodes)

    @property
    def running(self) -> tuple[SimulatedNode, ...]:
        """The nodes that run now, in order."""
        return tuple(node for node in self._nodes if node.is_running)

    @property
    def security(self) -> Security:
        """The security of the cluster, for nodes that a scenario makes itself."""
        return self._security

    @property
    def trace(self) -> tuple[TraceEntry, ...]:
        """What every node noticed so far, in order."""
        return tuple(self._trace)

    # --- nodes

    async def start(
        self,
        count: int = 1,
        *,
        services: Callable[[str], Iterable[object]] | None = None,
        tags: Callable[[str], Mapping[str, str]] | None = None,
        config: NodeConfig | None = None,
        security: Security | None = None,
        seeds: Sequence[str | SeedSource] | None = None,
        snapshot: Callable[[str], str] | None = None,
    ) -> list[SimulatedNode]:
        """Start nodes that join through those already running, and return their handles.

        Args:
            count: how many.
            services: makes the services of a node from its name.
            tags: makes the tags of a node from its name.
            config: settings of all of them.
            security: another security than the cluster's, to see what comes of it.
            seeds: what to join through, if not through some of those already running.
            snapshot: makes the path of a node's snapshot file from its name; the disk outlives every crash.
        """

        def make(name: str, bind: str, again: Sequence[str | SeedSource] | None) -> Node:
            running = [node.address for node in self.running if node.name != name][:3]
            chosen = seeds if again is None else again
            return Node(
                name,
                bind=bind,
                seeds=running if chosen is None else chosen,
                services=services(name) if services else (),
                tags=tags(name) if tags else {},
                config=config,
                security=security or self._security,
                snapshot=snapshot(name) if snapshot else None,
            )

        started = []
        for _ in range(count):
            name = f"n{len(self._nodes)}"
            handle = SimulatedNode(name, "", make(name, "127.0.0.1:0", None))
            handle.make = lambda bind, again, name=name: make(name, bind, again)
            self._nodes.append(handle)
            started.append(handle)
            await self._nursery.start(self._live, handle)
        return started

    async def crash(self, node: SimulatedNode) -> None:
        """End a node without a goodbye, with everything it has not sent; its host is gone with it."""
        self._note(node.name, "crashes")
        self._network.crash(node.host)
        await self._kill(node)

    async def kill(self, node: SimulatedNode) -> None:
        """End a node's process without a goodbye; its host lives on and says that nobody has the port."""
        self._note(node.name, "is killed")
        self._network.kill(node.host)
        await self._kill(node)

    async def bounce(self, node: SimulatedNode, *, seeds: Sequence[str | SeedSource] | None = None) -> None:
        """Crash a node and start it again with the same name and address; it knows what its snapshot file says.

        Args:
            node: which.
            seeds: what to join through now, if not what it would join through as a new node.
        """
        if node.is_running:
            await self.crash(node)
        if node.make is None:
            raise RuntimeError(f"{node.name} was never started")
        self._note(node.name, "starts again")
        node.node = node.make(node.address, seeds)
        node.scope, node.ended = trio.CancelScope(), trio.Event()
        await self._nursery.start(self._live, node)

    async def stop(self, node: SimulatedNode) -> None:
        """End a node in good order: its block ends, it says goodbye."""
        self._note(node.name, "leaves")
        node.scope.cancel(reason="stopped by the scenario")
        await node.ended.wait()

    async def end(self) -> None:
        """End every node at once, without a goodbye."""
        for node in self.running:
            self._network.crash(node.host)
            await self._kill(node)

    async def _kill(self, node: SimulatedNode) -> None:
        node.node._kill()  # noqa: SLF001 - there is no public way to die
        node.scope.cancel(reason="crashed by the scenario")
        self._thaw(node)
        await node.ended.wait()

    def _thaw(self, node: SimulatedNode) -> None:
        if node.task is not None:
            self._queue.thaw(node.task)

    async def _live(self, handle: SimulatedNode, *, task_status: trio.TaskStatus[None]) -> None:
        handle.task = trio.lowlevel.current_task()
        try:
            with handle.scope:
                async with handle.node:
                    handle.address = handle.node.address
                    handle.is_running = True
                    async with handle.node.events() as events:
                        task_status.started()
                        async for event in events:
                            self._note(handle.name, _describe(event))
        finally:
            handle.is_running = False
            handle.ended.set()
            self._notify()

    # --- faults

    def pause(self, node: SimulatedNode) -> None:
        """Let a node stand still, as SIGSTOP does: nothing of it runs, and what is sent to it waits in its socket.

        Its clock goes on, so all its timers are late when it goes on. Calls that the scenario makes through the node
        run as far as they do without it.
        """
        if node.task is None:
            raise RuntimeError(f"{node.name} was never started")
        self._note(node.name, "stands still")
        self._queue.freeze(node.task)

    def resume(self, node: SimulatedNode) -> None:
        """Let a node go on that stands still."""
        self._note(node.name, "goes on")
        self._thaw(node)

    def partition(self, one: Sequence[SimulatedNode], other: Sequence[SimulatedNode]) -> None:
        """Lose everything between two groups of nodes, both ways."""
        self._note("network", f"partition {[n.name for n in one]} | {[n.name for n in other]}")
        self._network.partition([node.host for node in one], [node.host for node in other])

    def partition_oneway(self, source: SimulatedNode, destination: SimulatedNode) -> None:
        """Lose everything from one node to another, one way."""
        self._note("network", f"partition {source.name} -> {destination.name}")
        self._network.block(source.host, destination.host)

    def repair(self) -> None:
        """End all partitions."""
        self._note("network", "repair")
        self._network.repair()

    def set_latency(self, source: SimulatedNode, destination: SimulatedNode, low: float, high: float) -> None:
        """Let datagrams take between ``low`` and ``high`` seconds from one node to another, one way."""
        self._network.set_latency(source.host, destination.host, (low, high))

    def set_loss(self, source: SimulatedNode, destination: SimulatedNode, probability: float) -> None:
        """Lose datagrams from one node to another with a probability, one way."""
        self._network.set_loss(source.host, destination.host, probability)

    # --- names

    def set_name(self, name: str, ips: Sequence[str]) -> None:
        """Let a name stand for these IP addresses in DNS from now on; with none, it is unknown."""
        self._note("network", f"{name} is {list(ips)}")
        self._network.set_name(name, ips)

    def set_service(self, name: str, records: Sequence[tuple[int, int, int, str]]) -> None:
        """Let a name have these SRV records in DNS from now on; with none, it is unknown.

        Args:
            name: for example ``"_rpcnet._udp.example.org"``.
            records: priority, weight, port and target of each.
        """
        self._note("network", f"{name} is {list(records)}")
        found = [ServiceRecord(priority, weight, port, target) for priority, weight, port, target in records]
        self._network.set_service(name, found)

    # --- waiting

    async def converged(self, *, within: float = 30.0) -> None:
        """Wait until every running node sees exactly the running nodes as alive. A checkpoint.

        Raises:
            AssertionError: they do not agree within that many virtual seconds; the message says who sees what.
        """
        with trio.move_on_after(within):
            while self._disagreements():
                await self._changed.wait()
            await trio.lowlevel.checkpoint()
            return
        views = "\n".join(self._disagreements())
        raise AssertionError(f"not converged within {within} virtual seconds:\n{views}")

    def _disagreements(self) -> list[str]:
        expected = {node.node.id: node.name for node in self.running}
        found = []
        for node in self.running:
            members = node.node.registry.nodes()
            alive = {member.id for member in members if member.state is NodeState.ALIVE}
            missing = sorted(name for node_id, name in expected.items() if node_id not in alive)
            extra = sorted(m.name for m in members if m.state is NodeState.ALIVE and m.id not in expected)
            if missing or extra:
                found.append(f"{node.name} does not see {missing}" + (f", still sees {extra}" if extra else ""))
        return found

    def _note(self, node: str, what: str) -> None:
        self._trace.append(TraceEntry(trio.current_time(), node, what))
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
