"""The cluster client: chooses a worker, calls it, and calls another one where that is safe.

The rules of this file:

* A call goes to one of the nodes that advertise its service and match its selector, chosen by the balancing strategy.
* How a call is made, and when it is repeated, is in ``_clients/caller.py``.
* A node that could not be reached a moment ago is called only where there is no other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar, cast

import attrs
import trio

from ._clients.by_name import MethodsByName, split_name
from ._clients.caller import Caller, Target
from ._clients.middleware import ClientCall
from ._clients.stubs import caller_of, make_stub
from ._core.balancing import LeastConnections, LoadBalancingStrategy, WorkerView
from ._core.bodies import encode_metadata
from ._core.resilience import RetryPolicy, RetryState
from ._middleware import Middleware
from ._net.endpoint import Endpoint
from ._tasks.subscriptions import EventStream
from .config import RpcConfig
from .errors import NoWorkers, RpcNetError
from .events import ClusterEvent, NodeInfo
from .selectors import Selector
from .statistics import ClientStatistics, NodeCalls
from .views import NodeRegistry, WorkerRegistry

if TYPE_CHECKING:
    from ._assembly.cluster_link import ClusterLink
    from .node import Node

__all__ = ["ClusterClient"]

T = TypeVar("T")
_MAX_COUNTED_NODES = 4096


@attrs.define(eq=False)
class _Counts:
    done: int = 0
    failed: int = 0


@attrs.frozen(eq=False)
class ClientHost:
    """What a client needs of its node."""

    registry: NodeRegistry
    """Where workers are looked up."""
    endpoint: Endpoint
    """Where connections live."""
    config: RpcConfig
    """Limits."""
    rng: Random
    """A source of chance of the client's own."""
    rtt: Callable[[str], float | None] = attrs.field(default=lambda _node_id: None)
    """Estimates the round trip to a node."""


class ClusterClient(Caller[NodeInfo]):
    """Calls the services of a cluster.

    Args:
        node: the node whose registry and connections it uses. Programs that are no nodes get their client from
            :func:`connect_cluster`.
        balancing: chooses among the workers that match.
        retry: when a failed attempt is followed by another.
        middleware: what runs around every call of this client, the outermost first; see :class:`Middleware`.
    """

    def __init__(
        self,
        node: Node | ClusterLink,
        *,
        balancing: LoadBalancingStrategy | None = None,
        retry: RetryPolicy | None = None,
        middleware: Iterable[Middleware[ClientCall]] = (),
    ) -> None:
        self._host = host = node._client_host()  # noqa: SLF001 - the two share one room
        super().__init__(host.endpoint, retry or RetryPolicy(), host.rng, middleware)
        self._balancing = balancing or LeastConnections()
        self._registry = host.registry
        self._active: dict[str, int] = {}
        self._counts: dict[str, _Counts] = {}
        self._by_name = MethodsByName(host.config)
        self.workers = WorkerRegistry(host.registry, self._choose, lambda: self._active)
        """The nodes that serve something, and how many calls of this client each has in hand."""

    @property
    def registry(self) -> NodeRegistry:
        """Every node with state and metadata, as this client sees it."""
        return self._registry

    def events(self, *kinds: type[ClusterEvent]) -> AbstractAsyncContextManager[EventStream]:
        """Open a subscription to what happens in the cluster; see :meth:`Node.events`."""
        return self._registry.subscribe(*kinds)

    def statistics(self) -> ClientStatistics:
        """Return the counters."""
        per_node = {
            node_id: NodeCalls(self._active.get(node_id, 0), counts.done, counts.failed)
            for node_id, counts in self._counts.items()
        }
        return ClientStatistics(self._calls, self._retries, self._failures, per_node)

    def stub(
        self,
        service: Callable[..., T],
        *,
        where: str | Selector = "",
        node: str | None = None,
        wait_for_worker: float = 0.0,
        metadata: Mapping[str, str] | None = None,
    ) -> T:
        """Return a typed proxy: its methods are the service's, and calling one calls a worker.

        Args:
            service: a class decorated with :func:`rpcnet.service`; a protocol or an abstract class will do.
            where: a selector over the tags of the workers.
            node: the name or id of the one node to call, instead of any.
            wait_for_worker: seconds to wait for a worker while none matches; 0 raises at once.
            metadata: text by name that goes along with every call, for the handler's ``current_call().metadata``.

        Raises:
            ConfigError: the class is no service, or the selector is malformed.
        """
        target = functools.partial(
            Target,
            where=Selector.parse(where),
            node=node,
            wait_for_worker=wait_for_worker,
            metadata=encode_metadata(metadata or {}, self._host.config.max_metadata_bytes),
        )
        return cast("T", make_stub(self, service, self._host.config, target))

    async def call_worker(
        self,
        method: str,
        /,
        *args: object,
        where: str | Selector = "",
        node: str | None = None,
        wait_for_worker: float = 0.0,
    ) -> Any:
        """Call a method by name, without its contract: ``await client.call_worker("printing.submit", job)``.

        Arguments are positional; results come as plain values, with classes as dictionaries. A checkpoint; cancelling
        cancels the handler.

        Args:
            method: ``"service.method"``.
            args: the arguments.
            where: a selector over the tags of the workers.
            node: the name or id of the one node to call, instead of any.
            wait_for_worker: seconds to wait for a worker while none matches.

        Raises:
            StatusError: whatever the call ended with.
            NoWorkers: no node serves it where that is asked for.
        """
        target = self._by_name.target(method, args, where=where, node=node, wait_for_worker=wait_for_worker)
        return await caller_of(self, target, self._host.config)(*args)

    async def call_all_workers(self, method: str, /, *args: object, where: str | Selector = "") -> dict[NodeInfo, Any]:
        """Call a method on every worker that matches, and collect what each answers. A checkpoint.

        Returns:
            By node, its result or the :class:`RpcNetError` that its call ended with; empty if no worker matches.
        """
        service, _ = split_name(method)
        selector = Selector.parse(where)
        nodes = self._host.registry.snapshot().workers(service, selector)
        results: dict[NodeInfo, Any] = {}

        async def call(node: NodeInfo) -> None:
            try:
                results[node] = await self.call_worker(method, *args, node=node.id)
            except RpcNetError as error:
                results[node] = error

        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(call, node)
        return {node: results[node] for node in nodes}

    # --- counting

    def _begin(self, peer: NodeInfo) -> None:
        active, node_id = self._active, peer.id
        active[node_id] = active.get(node_id, 0) + 1

    def _end(self, peer: NodeInfo, *, done: bool) -> None:
        active, node_id = self._active, peer.id
        counts = self._counts.get(node_id) or self._count_for(node_id)
        if done:
            counts.done += 1
        else:
            counts.failed += 1
        if active[node_id] == 1:
            del active[node_id]
        else:
            active[node_id] -= 1

    def _count_for(self, node_id: str) -> _Counts:
        """Begin to count for a node; beyond the bound, the one counted longest that has no call is forgotten."""
        if len(self._counts) >= _MAX_COUNTED_NODES:
            idle = next((counted for counted in self._counts if counted not in self._active), None)
            if idle is not None:
                del self._counts[idle]
        counts = self._counts[node_id] = _Counts()
        return counts

    # --- choosing

    def _choose(self, nodes: tuple[NodeInfo, ...]) -> NodeInfo:
        if len(nodes) == 1:
            return nodes[0]
        return self._balancing.select(WorkerView(nodes, self._active, self._rng, self._host.rtt))

    def _select(self, target: Target, state: RetryState | None = None) -> NodeInfo | None:
        snapshot = self._registry.snapshot()
        if target.node is not None:
            pinned = snapshot.get(target.node)
            return pinned if pinned is not None and pinned.is_usable else None
        nodes = snapshot.workers(target.name[0], target.where)
        if state is not None:
            nodes = state.candidates(nodes)
        if self._endpoint.unreachable:
            avoids = self._endpoint.avoids
            nodes = tuple([node for node in nodes if not avoids(node.address, node.name)]) or nodes
        return self._choose(nodes) if nodes else None

    async def _wait_for_peer(self, target: Target) -> NodeInfo:
        with trio.move_on_after(target.wait_for_worker):
            async with self._host.registry.subscribe() as events:
                while (node := self._select(target)) is None:
                    if await anext(events, None) is None:
                        break  # the node has stopped
                else:
                    return node
        raise NoWorkers(self._nobody(target))

    def _nobody(self, target: Target) -> str:
        if target.node is not None:
            known = self._host.registry.get(target.node)
            state = "is not known" if known is None else f"is {known.state.value}"
            return f"node {target.node!r}, which {'.'.join(target.name)} was to be called on, {state}"
        where = f" where {str(target.where)!r}" if str(target.where) else ""
        return f"no live node serves {target.name[0]}{where}"
