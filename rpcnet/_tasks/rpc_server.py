"""The RPC-server task: runs the handlers, drains, and cuts the connections of nodes that are gone."""

from __future__ import annotations

import random
from collections.abc import Mapping

import trio
from trio.lowlevel import enable_ki_protection

from rpcnet._core.redialling import DialKey
from rpcnet._net.endpoint import Endpoint
from rpcnet._signals import Draining, PeerHeard, PeerUnreachable, Stalled
from rpcnet.config import NodeConfig
from rpcnet.events import ClusterEvent, EventsDropped, NodeFailed, NodeLeft, NodeReplaced

from .bus import Bus
from .dispatch import Dispatcher
from .handler_table import HandlerTable
from .loop_watch import LoopWatch
from .snapshots import nodes_of

__all__ = ["RpcServerTask"]


class RpcServerTask:
    """Serves the calls that arrive at the port.

    Args:
        bus: where it hears ``NodeFailed``, ``NodeLeft``, ``NodeReplaced`` and ``Draining``, and says ``PeerHeard``,
            ``PeerUnreachable`` and ``Stalled``.
        endpoint: the port; it keeps the connections and the queue when this task is restarted.
        table: what is served.
        config: limits.
        rng: the node's source of chance.
    """

    def __init__(
        self, *, bus: Bus, endpoint: Endpoint, table: HandlerTable, config: NodeConfig, rng: random.Random
    ) -> None:
        self._bus = bus
        self._endpoint = endpoint
        self._table = table
        self._config = config
        self._rng = rng
        self._mailbox = bus.mailbox("RPC server", NodeFailed, NodeLeft, NodeReplaced, Draining)
        self._heard_until = trio.current_time()
        self._dials: dict[DialKey, int] = {}

    @enable_ki_protection
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        endpoint = self._endpoint
        async with trio.open_nursery() as nursery:
            limit = self._config.rpc.max_running_handlers
            dispatcher = Dispatcher(
                nursery,
                pump=endpoint.pump,
                queue=endpoint.calls,
                table=self._table,
                max_running=limit,
                rng=self._rng,
                sends_tracebacks=self._config.rpc.tracebacks,
                watch=LoopWatch(self._config.rpc.blocked_warning, on_blocked=self._say_stalled),
            )
            dispatcher.is_draining = endpoint.draining.is_set()
            endpoint.pump.on_calls = dispatcher.on_calls
            try:
                nursery.start_soon(self._report_peers, name="rpcnet heard peers")
                dispatcher.on_calls()
                task_status.started()
                while True:
                    self._take(await self._mailbox.get(), dispatcher)
            finally:
                endpoint.pump.on_calls = None

    def _say_stalled(self, seconds: float, handler: str | None) -> None:
        self._bus.publish(Stalled(seconds, handler, at=trio.current_time()))

    def _take(self, event: ClusterEvent, dispatcher: Dispatcher) -> None:
        match event:
            case NodeFailed(node=node):
                self._endpoint.cut(node.name, node.boot_id, f"{node.name} was declared failed")
            case NodeLeft(node=node):
                self._endpoint.cut(node.name, node.boot_id, f"{node.name} has left")
            case NodeReplaced(node=node):
                self._endpoint.cut(node.name, node.boot_id - 1, f"{node.name} was restarted")
            case EventsDropped():
                for node in nodes_of(self._bus):
                    if node.is_usable:
                        self._endpoint.cut(node.name, node.boot_id - 1, f"{node.name} was restarted")
                    else:
                        self._endpoint.cut(node.name, node.boot_id, f"{node.name} is {node.state.value}")
            case Draining():
                dispatcher.is_draining = True
                self._endpoint.drain()

    @enable_ki_protection
    async def _report_peers(self) -> None:
        """Say, once per probe, who was heard on a connection and to whom there is none to be had."""
        while True:
            await trio.sleep(self._config.detector.probe_interval)
            ids = {node.name: node.id for node in nodes_of(self._bus)}
            heard = {session.peer_name: None for session in self._endpoint.heard_since(self._heard_until)}
            self._heard_until = trio.current_time()
            for name in heard:
                if name in ids:
                    self._bus.publish(PeerHeard(ids[name], at=self._heard_until))
            self._report_unreachable(ids)

    def _report_unreachable(self, ids: Mapping[str, str]) -> None:
        before, self._dials = self._dials, {}
        for key in self._endpoint.unreachable:
            count, name = self._endpoint.dial_failures(key), key[1]
            self._dials[key] = count
            if name is not None and name in ids and count > before.get(key, 0):
                reason = f"no connection: {self._endpoint.dial_error(key)}"
                self._bus.publish(PeerUnreachable(ids[name], reason, at=self._heard_until))
