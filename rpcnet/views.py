"""What an application reads of a node: membership, registry, workers. All of it comes from immutable snapshots."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import trio

from ._core.detector import DetectorSnapshot
from ._core.partition import PartitionSnapshot
from ._core.registry import RegistrySnapshot
from ._tasks.bus import Bus
from ._tasks.snapshots import MembershipSnapshot, nodes_of
from ._tasks.subscriptions import EventStream, SubscriptionHub
from .errors import NoWorkers
from .events import ClusterEvent, NodeInfo, NodeState, PartitionStatus
from .selectors import Selector

__all__ = ["ClusterHealth", "ClusterMembership", "NodeRegistry", "PartitionView", "WorkerRegistry"]


@attrs.frozen
class PartitionView:
    """Whether the cluster has fallen apart, as this node sees it at one moment."""

    status: PartitionStatus
    """Which side this is, as the last ``PartitionDetected`` or ``PartitionHealed`` said; at first ``WHOLE``."""
    reachable: tuple[NodeInfo, ...]
    """The nodes that are alive right now, this one included, sorted by id."""
    unreachable: tuple[NodeInfo, ...]
    """The members of the last stable point that are failed, or suspect without having refuted it in time, by id."""
    since: float
    """Since when ``status`` is what it is, in Trio time."""
    is_suspected: bool
    """Whether many nodes were lost at once, and it is not yet known what became of them."""
    has_quorum: bool
    """Whether the nodes that are reachable right now are enough, by the strategy; without one, more than half."""
    writable: bool
    """Whether this node may go on: it has a quorum, and after a loss of it nothing changed for ``stable_after``.

    Always true where ``PartitionConfig.strategy`` is None.
    """


@attrs.frozen
class ClusterHealth:
    """A summary of what this node knows of its cluster."""

    alive: int
    """How many nodes are alive, this one included."""
    suspect: int
    """How many are suspected."""
    failed: int
    """How many have failed and are remembered."""
    left: int
    """How many have left and are remembered."""
    degraded: tuple[str, ...]
    """The names of the nodes that are alive but slow, by their own account."""
    stall: float
    """Seconds that this node's own event loop stops for at times, in the class that it tells the others."""
    partition: PartitionStatus
    """Which side of a partition this node is on."""
    writable: bool
    """Whether this node may go on."""


class ClusterMembership:
    """The read side of SWIM: who is known, and how sure this node is that they live."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    @property
    def local(self) -> NodeInfo:
        """This node, as it tells the others."""
        snapshot = self._bus.latest(MembershipSnapshot)
        if snapshot is None:
            raise RuntimeError("the node is not running")
        return snapshot.local.info()

    def members(self) -> tuple[NodeInfo, ...]:
        """Return every node that is remembered, this one included, failed and departed ones too, sorted by id."""
        return nodes_of(self._bus)

    def phi(self, node_id: str) -> float:
        """Return how improbable a node's silence would be if it were alive, as -log10 of the probability.

        From 0 to about 3 while the node is not suspected (the latest probe's evidence), up to the threshold while it
        is, infinite once it has failed or left; 0 for this node itself and for one that is not known.
        """
        snapshot = self._bus.latest(DetectorSnapshot)
        is_judged = node_id != self.local.id and any(node.id == node_id for node in self.members())
        return snapshot.phi(node_id, trio.current_time()) if snapshot is not None and is_judged else 0.0

    def rtt(self, node_id: str) -> float | None:
        """Return the round trip to a node in seconds, without a ping: measured lately, or foretold from coordinates.

        Coordinates (Vivaldi; Dabek et al. 2004) are learnt from probes and told with signs of life, so a new node's
        estimates become good within a minute or so. None for a node of which nothing is known yet; 0 for this one.
        """
        if node_id == self.local.id:
            return 0.0
        snapshot = self._bus.latest(DetectorSnapshot)
        return None if snapshot is None else snapshot.rtt(node_id)

    @property
    def partition(self) -> PartitionView:
        """Whether the cluster has fallen apart, and who is on this side."""
        last = self._bus.latest(PartitionSnapshot)
        if last is None:
            raise RuntimeError("the node is not running")
        return PartitionView(
            status=last.status,
            reachable=tuple([node for node in self.members() if node.state is NodeState.ALIVE]),
            unreachable=last.lost,
            since=last.since,
            is_suspected=last.is_suspected,
            has_quorum=last.has_quorum,
            writable=self.writable,
        )

    @property
    def has_quorum(self) -> bool:
        """Whether the nodes that are reachable right now are enough, by ``PartitionConfig.strategy``."""
        last = self._bus.latest(PartitionSnapshot)
        return last is not None and last.has_quorum

    @property
    def writable(self) -> bool:
        """Whether this node may go on with what only one side of a partition may do.

        True while the cluster is whole, and on the side that the strategy chose. False from the moment at which too
        many nodes do not refute that they are suspected, until enough are back for a while; before the node runs, and
        once it has left. Nothing else happens: what a node that is not writable refuses to do is its application's
        decision.
        """
        last, membership = self._bus.latest(PartitionSnapshot), self._bus.latest(MembershipSnapshot)
        has_left = membership is None or membership.local.state is NodeState.LEFT
        return last is not None and last.writable and not has_left

    @property
    def health(self) -> ClusterHealth:
        """A summary: members by state, who is slow, and whether the cluster is whole."""
        nodes, partition = self.members(), self.partition
        states = Counter(node.state for node in nodes)
        slow = [node.name for node in nodes if node.state is NodeState.ALIVE and node.is_degraded]
        return ClusterHealth(
            alive=states[NodeState.ALIVE],
            suspect=states[NodeState.SUSPECT],
            failed=states[NodeState.FAILED],
            left=states[NodeState.LEFT],
            degraded=tuple(sorted(slow)),
            stall=self.local.stall,
            partition=partition.status,
            writable=partition.writable,
        )


class NodeRegistry:
    """Every node with its state and metadata."""

    def __init__(self, bus: Bus, hub: SubscriptionHub) -> None:
        self._bus = bus
        self._hub = hub

    def snapshot(self) -> RegistrySnapshot:
        """Return everything at once, unchanging."""
        snapshot = self._bus.latest(RegistrySnapshot)
        if snapshot is None:
            raise RuntimeError("the node is not running")
        return snapshot

    def nodes(self) -> tuple[NodeInfo, ...]:
        """Return every node that is remembered, sorted by name."""
        return self.snapshot().nodes

    def alive(self) -> tuple[NodeInfo, ...]:
        """Return the nodes that are alive and not suspected, sorted by name."""
        return self.snapshot().alive()

    def get(self, id_or_name: str) -> NodeInfo | None:
        """Return one node; None if it is not known."""
        return self.snapshot().get(id_or_name)

    def where(self, selector: str | Selector) -> tuple[NodeInfo, ...]:
        """Return the usable nodes whose tags match, sorted by name.

        Raises:
            ConfigError: the selector is malformed; the message names the column.
        """
        return tuple([node for node in self.snapshot().where(Selector.parse(selector)) if node.is_usable])

    async def wait_for(
        self, n: int, *, where: str | Selector = "", state: NodeState = NodeState.ALIVE
    ) -> tuple[NodeInfo, ...]:
        """Wait until at least ``n`` nodes match, and return all that do. A checkpoint.

        Args:
            n: how many; of a node, it counts itself.
            where: a selector over their tags.
            state: the state they must be in.

        Raises:
            RuntimeError: the node or client that asks has stopped, so they will not come.
        """
        selector = Selector.parse(where)

        def matching() -> tuple[NodeInfo, ...]:
            return tuple(node for node in self.nodes() if node.state is state and selector.matches(node.tags))

        async with self.subscribe() as events:
            while len(found := matching()) < n:
                if await anext(events, None) is None:
                    raise RuntimeError("the node has stopped, or the client was closed")
        await trio.lowlevel.checkpoint()
        return found

    def subscribe(self, *kinds: type[ClusterEvent]) -> AbstractAsyncContextManager[EventStream]:
        """Open a subscription to events of these kinds, of all kinds if none is given; see ``Node.events``."""
        return self._subscribe(kinds or (ClusterEvent,))

    @asynccontextmanager
    async def _subscribe(self, kinds: tuple[type[ClusterEvent], ...]) -> AsyncGenerator[EventStream, None]:
        mailbox = self._hub.subscribe(kinds, self.nodes())
        try:
            yield EventStream(mailbox)
        finally:
            self._hub.unsubscribe(mailbox)


class WorkerRegistry:
    """The nodes that serve something, and how many calls of a client each has in hand."""

    def __init__(
        self,
        registry: NodeRegistry,
        choose: Callable[[tuple[NodeInfo, ...]], NodeInfo],
        active: Callable[[], Mapping[str, int]],
    ) -> None:
        self._registry = registry
        self._choose = choose
        self._active = active

    def workers(self, where: str | Selector = "") -> tuple[NodeInfo, ...]:
        """Return the nodes that serve something and match: the alive ones or, if there are none, the suspected."""
        return self._registry.snapshot().workers(None, Selector.parse(where))

    def worker_count(self, where: str | Selector = "") -> int:
        """Return how many :meth:`workers` there are."""
        return len(self.workers(where))

    def select_worker(self, where: str | Selector = "") -> NodeInfo:
        """Return the worker that the client would call next.

        Raises:
            NoWorkers: none matches.
        """
        workers = self.workers(where)
        if not workers:
            raise NoWorkers(f"no live node serves anything where {str(where)!r}")
        return self._choose(workers)

    def active_calls(self, node_id: str) -> int:
        """Return how many calls of the client a worker has in hand."""
        return self._active().get(node_id, 0)
