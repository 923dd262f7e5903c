"""The cluster client: chooses a worker, calls it, and calls another one where that is safe.

The rules of this file:

* A call goes to one of the nodes that advertise its service and match its selector, chosen by the balancing strategy.
* It is repeated only where it cannot have run twice, or may: see :class:`RetryPolicy`. All attempts share one deadline,
  that of the caller.
* Counting is exact: an attempt is active from the moment its node is chosen until it has ended, however it ends.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar, cast

import attrs
import trio

from ._context import call_deadline
from ._core.balancing import LeastConnections, LoadBalancingStrategy, WorkerView
from ._core.framing import timeout_to_wire
from ._core.resilience import RetryBudget, RetryPolicy, RetryState
from ._core.values import MethodCodec, compile_method, compile_service
from ._net.endpoint import Endpoint
from .config import NodeConfig
from .errors import ConfigError, DeadlineExceeded, NoWorkers, RpcNetError, StatusError
from .events import NodeInfo
from .selectors import Selector
from .service import MethodDefinition, Parameter, Shape, definition_of
from .statistics import ClientStatistics, NodeCalls
from .views import NodeRegistry, WorkerRegistry

if TYPE_CHECKING:
    from .node import Node

__all__ = ["ClusterClient"]

T = TypeVar("T")
_NEVER = float("inf")
_MAX_GENERIC_CODECS = 256
_MAX_COUNTED_NODES = 4096


@attrs.define(eq=False)
class _Counts:
    done: int = 0
    failed: int = 0


@attrs.frozen(eq=False)
class _Target:
    """What a stub's method calls: fixed when the stub is made."""

    name: tuple[str, str]
    codec: MethodCodec
    idempotent: bool | None
    where: Selector
    node: str | None
    wait_for_worker: float


@attrs.frozen(eq=False)
class ClientHost:
    """What a client needs of its node."""

    registry: NodeRegistry
    """Where workers are looked up."""
    endpoint: Endpoint
    """Where connections live."""
    config: NodeConfig
    """Limits."""
    rng: Random
    """A source of chance of the client's own."""


def _split(full_name: str) -> tuple[str, str]:
    service, _, method = full_name.partition(".")
    if not service or not method:
        raise ConfigError(f"method = {full_name!r}: must be 'service.method'")
    return service, method


class Stub:
    """A typed proxy of a service, made by :meth:`ClusterClient.stub`; it has the service's methods and nothing else."""

    def __init__(self, service: str, methods: Mapping[str, object]) -> None:
        self.__dict__.update(methods)
        self.__service = service

    def __repr__(self) -> str:
        """Return the service's name."""
        return f"<rpcnet stub of {self.__service}>"


class ClusterClient:
    """Calls the services of a cluster.

    Args:
        node: the node whose registry and connections it uses.
        balancing: chooses among the workers that match.
        retry: when a failed attempt is followed by another.
    """

    def __init__(
        self,
        node: Node,
        *,
        balancing: LoadBalancingStrategy | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._host = host = node._client_host()  # noqa: SLF001 - the two share one room
        self._balancing = balancing or LeastConnections()
        self._retry = retry or RetryPolicy()
        self._budget = RetryBudget(self._retry)
        self._rng = host.rng
        self._active: dict[str, int] = {}
        self._counts: dict[str, _Counts] = {}
        self._calls = self._retries = self._failures = 0
        self._generic: dict[object, MethodCodec] = {}
        self._idempotent: dict[tuple[str, str], bool] = {}
        self.workers = WorkerRegistry(host.registry, self._choose, lambda: self._active)
        """The nodes that serve something, and how many calls of this client each has in hand."""

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
    ) -> T:
        """Return a typed proxy: its methods are the service's, and calling one calls a worker.

        Args:
            service: a class decorated with :func:`rpcnet.service`; a protocol or an abstract class will do.
            where: a selector over the tags of the workers.
            node: the name or id of the one node to call, instead of any.
            wait_for_worker: seconds to wait for a worker while none matches; 0 raises at once.

        Raises:
            ConfigError: the class is no service, or the selector is malformed.
        """
        definition = definition_of(service)
        rpc = self._host.config.rpc
        codecs = compile_service(definition, max_depth=rpc.max_depth, max_bytes=rpc.max_message_bytes)
        selector = Selector.parse(where)
        methods: dict[str, object] = {}
        for method in definition.methods.values():
            target = _Target(
                name=(definition.name, method.name),
                codec=codecs[method.name],
                idempotent=method.idempotent,
                where=selector,
                node=node,
                wait_for_worker=wait_for_worker,
            )
            methods[method.name] = functools.partial(self._call, target)
        return cast("T", Stub(definition.name, methods))

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
        return await self._call(self._generic_target(method, args, where, node, wait_for_worker), *args)

    async def call_all_workers(self, method: str, /, *args: object, where: str | Selector = "") -> dict[NodeInfo, Any]:
        """Call a method on every worker that matches, and collect what each answers. A checkpoint.

        Returns:
            By node, its result or the :class:`RpcNetError` that its call ended with; empty if no worker matches.
        """
        service, _ = _split(method)
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

    def _generic_target(
        self, full_name: str, args: tuple[object, ...], where: str | Selector, node: str | None, wait: float
    ) -> _Target:
        service, method = _split(full_name)
        annotations = tuple(type(arg) if attrs.has(type(arg)) else Any for arg in args)
        codec = self._generic.get((full_name, annotations))
        if codec is None:
            if len(self._generic) >= _MAX_GENERIC_CODECS:
                self._generic.clear()
            rpc = self._host.config.rpc
            parameters = tuple(Parameter(f"argument {i}", kind) for i, kind in enumerate(annotations, 1))
            definition = MethodDefinition(method, service, Shape.UNARY, parameters, Any, idempotent=False)
            codec = compile_method(definition, max_depth=rpc.max_depth, max_bytes=rpc.max_message_bytes)
            self._generic[full_name, annotations] = codec
        return _Target((service, method), codec, None, Selector.parse(where), node, wait)

    # --- one call

    async def _call(self, target: _Target, /, *args: object, **kwargs: object) -> object:
        body = target.codec.encode_arguments(args, kwargs)
        deadline = min(trio.current_effective_deadline(), call_deadline.get())
        if deadline == -_NEVER:
            await trio.lowlevel.checkpoint()  # the caller is cancelled already: nothing is sent
        self._calls += 1
        self._budget.deposit()
        try:
            node = self._select(target)
            if node is None:
                node = await self._wait_for_worker(target)
            try:
                return target.codec.decode_result(await self._attempt(target, node, body, deadline))
            except StatusError as error:
                return await self._repeat(target, node, body, deadline, error)
        except RpcNetError:
            self._failures += 1
            raise

    async def _repeat(
        self, target: _Target, node: NodeInfo, body: bytes, deadline: float, error: StatusError
    ) -> object:
        """Follow a failed attempt by others, as far as the policy goes, or raise what it ended with."""
        state = RetryState(self._retry, self._budget)
        while True:
            state.avoid(node.id)
            if isinstance(error, DeadlineExceeded) and trio.current_time() >= deadline:
                await trio.lowlevel.checkpoint()  # if it was the caller's own deadline, this is where it strikes
            idempotent = target.idempotent
            if idempotent is None:
                idempotent = self._idempotent.get(target.name, False)
            now = trio.current_time()
            delay = state.on_failure(error, idempotent=idempotent, rng=self._rng, now=now, deadline=deadline)
            if delay is None:
                raise error
            await trio.sleep(delay)
            chosen = self._select(target, state)
            if chosen is None:
                raise error
            self._retries += 1
            node = chosen
            try:
                return target.codec.decode_result(await self._attempt(target, node, body, deadline))
            except StatusError as next_error:
                error = next_error

    async def _attempt(self, target: _Target, node: NodeInfo, body: bytes, deadline: float) -> bytes:
        active, node_id = self._active, node.id
        active[node_id] = active.get(node_id, 0) + 1
        counts = self._counts.get(node_id) or self._count_for(node_id)
        try:
            endpoint = self._host.endpoint
            session = endpoint.session(node.address, node.name) or await endpoint.connect(node.address, node.name)
            method = session.method(target.name)
            if target.idempotent is None:
                self._idempotent[target.name] = method.idempotent
            timeout = timeout_to_wire(deadline - trio.current_time()) if deadline != _NEVER else 0
            result = await session.call(method.number, body, timeout)
        except BaseException:
            counts.failed += 1
            raise
        else:
            counts.done += 1
            return result
        finally:
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
        return nodes[0] if len(nodes) == 1 else self._balancing.select(WorkerView(nodes, self._active, self._rng))

    def _select(self, target: _Target, state: RetryState | None = None) -> NodeInfo | None:
        snapshot = self._host.registry.snapshot()
        if target.node is not None:
            pinned = snapshot.get(target.node)
            return pinned if pinned is not None and pinned.is_usable else None
        nodes = snapshot.workers(target.name[0], target.where)
        if state is not None:
            nodes = state.candidates(nodes)
        return self._choose(nodes) if nodes else None

    async def _wait_for_worker(self, target: _Target) -> NodeInfo:
        with trio.move_on_after(target.wait_for_worker):
            async with self._host.registry.subscribe() as events:
                while (node := self._select(target)) is None:
                    if await anext(events, None) is None:
                        break  # the node has stopped
                else:
                    return node
        raise NoWorkers(self._nobody(target))

    def _nobody(self, target: _Target) -> str:
        if target.node is not None:
            known = self._host.registry.get(target.node)
            state = "is not known" if known is None else f"is {known.state.value}"
            return f"node {target.node!r}, which {'.'.join(target.name)} was to be called on, {state}"
        where = f" where {str(target.where)!r}" if str(target.where) else ""
        return f"no live node serves {target.name[0]}{where}"
