"""A server on its own: services at an address, without a cluster."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

import attrs

from ._assembly.common import advertised, checked, checked_config, checked_security, child, hello_of, random_name
from ._assembly.serving import ServerParts
from ._builtin.health import HealthBoard
from ._builtin.services import served
from ._middleware import Middleware
from ._net.addresses import check_setting
from ._net.endpoint import Endpoint, Role
from ._net.environment import current_environment
from ._net.identity import Security
from ._net.ports import Environment, PortStatistics
from ._net.pump import PumpStatistics
from ._net.quic import EndpointStatistics
from ._net.sealing import SealingStatistics
from ._tasks.bus import Bus
from ._tasks.lifetime import serving
from ._tasks.service_lifetimes import ServiceLifetimes
from ._tasks.supervisor import Supervisor
from .call import CallHost, ServerCall
from .config import NodeConfig, RpcConfig
from .errors import ConfigError

__all__ = ["Server", "ServerStatistics"]


@attrs.frozen(kw_only=True)
class ServerStatistics:
    """Counters of a server since it was entered."""

    restarts: int
    """How often the task that runs the handlers was restarted."""
    port: PortStatistics
    """The UDP port."""
    pump: PumpStatistics
    """What was read from it, and what was dropped because it is for nobody."""
    quic: EndpointStatistics
    """The connections."""
    sealing: SealingStatistics
    """Membership datagrams, which a server refuses, by reason."""
    active_calls: int
    """Calls that wait or run here."""


class Server:
    """Serves calls at an address, without a cluster; ``async with`` makes it begin and, at the end of the block, drain.

    ``async with rpcnet.Server([Greeter()]) as server: await trio.sleep_forever()`` is a whole server program. Clients
    reach it with :func:`rpcnet.connect`. Whatever a node does with calls a server does as well: deadlines,
    cancellation, streams, middleware, draining, supervision. It is no member of anything: nobody finds it but by its
    address, and what membership sends to its port is dropped and counted.

    Entering binds the port and returns when it takes calls. Leaving drains (running calls get ``drain_timeout``
    seconds) and closes, within bounded time, also when the block is cancelled. Errors of the body come out bare.
    Services that are async context managers are entered before the first call and left after the last one, as in
    :class:`Node`.

    Args:
        services: objects of classes decorated with :func:`rpcnet.service`.
        name: the name that its certificate proves, at most 128 characters; default ``"<hostname>-<6 random letters>"``
            or, with :meth:`Security.files`, the one in the certificate.
        bind: the UDP address; port 0 takes any free one. ``"0.0.0.0:7000"`` and ``"[::]:7000"`` are every address of
            one family.
        advertise: what clients dial, when it differs from ``bind``: only for :attr:`address`.
        middleware: what runs around every call, the outermost first; see :class:`Middleware`.
        security: who may call; default :meth:`Security.default`. It needs no keys for gossip.
        config: limits of the RPC layer, as those of clients and of nodes. There is nothing else to set but the next.
        drain_timeout: seconds that running calls get to finish when the block ends, from 0 to 3600.

    Raises:
        ConfigError: an argument is wrong, or the port is taken; the message names it.
        SecurityError: the security settings do not permit this address or this name.
        NodeCrashed: the task that runs the handlers failed too often, or a service object failed.
    """

    def __init__(
        self,
        services: Iterable[object],
        *,
        name: str | None = None,
        bind: str = "127.0.0.1:0",
        advertise: str | None = None,
        middleware: Iterable[Middleware[ServerCall]] = (),
        security: Security | None = None,
        config: RpcConfig | None = None,
        drain_timeout: float = NodeConfig().drain_timeout,
    ) -> None:
        self._name = name
        self._bind = bind
        self._advertise = advertise
        rpc = checked_config(config)
        try:
            self._config = NodeConfig(rpc=rpc, drain_timeout=drain_timeout)
        except ConfigError as error:
            raise ConfigError(str(error).removeprefix("NodeConfig.")) from None
        self._services = list(checked("services", services, Iterable))
        host = CallHost(self, lambda _: None, lambda: self._running.endpoint.draining, rpc)
        self._table, self._health = served(
            self._services, rpc, host, middleware, lambda: self._running.endpoint.draining
        )
        self._security = checked_security(security)
        check_setting("bind", bind, is_dialled=False)
        if advertise is not None:
            check_setting("advertise", advertise, is_dialled=True)
        self._parts: ServerParts | None = None
        self._lifetime: AbstractAsyncContextManager[None] | None = None
        self._is_entered = False

    def __repr__(self) -> str:
        """Return name, address and whether it runs."""
        state = "not running" if self._parts is None else f"at {self._parts.address}"
        return f"<rpcnet.Server {self._name!r} {state}>"

    async def __aenter__(self) -> Self:
        """Bind and begin to serve."""
        if self._is_entered:
            raise RuntimeError("a server can be entered once; make a new one to start again")
        self._is_entered = True
        environment = current_environment()
        security = self._security or Security.default()
        security.check_bind(self._bind)
        self._parts = parts = await self._assemble(environment, security)
        self._lifetime = serving(parts, parts.enter)
        try:
            await self._lifetime.__aenter__()
        except BaseException:
            parts.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Drain and close."""
        if self._lifetime is None:
            raise RuntimeError("the server was not entered")
        return await self._lifetime.__aexit__(kind, error, traceback)

    async def _assemble(self, environment: Environment, security: Security) -> ServerParts:
        rng = environment.rng()
        if self._name is None:
            self._name = security.name or random_name(environment.hostname(), rng)
        security.check_name(self._name)
        port = await environment.bind(self._bind)
        try:
            address = self._advertise or await advertised(port.local_address, environment)
            hello = hello_of(self._config.rpc, services=self._table.entries)
            endpoint = Endpoint(
                port,
                environment=environment,
                security=security,
                name=self._name,
                config=self._config.rpc,
                hello=lambda: hello,
                rng=child(rng),
                role=Role.SERVER,
            )
        except BaseException:
            port.close()
            raise
        bus = Bus(self._config.supervision.inbox_size)
        return ServerParts(
            name=self._name,
            address=address,
            bus=bus,
            supervisor=Supervisor(self._config.supervision, bus),
            endpoint=endpoint,
            table=self._table,
            lifetimes=ServiceLifetimes(self._services, self._table.contexts),
            config=self._config,
            rng=rng,
        )

    @property
    def _running(self) -> ServerParts:
        if self._parts is None:
            raise RuntimeError("the server is not running: use it inside its `async with` block")
        return self._parts

    def _kill(self) -> None:
        """See to it that the end of the block says no goodbye, as if the process were killed; for simulations."""
        if self._parts is not None:
            self._parts.is_killed = True

    @property
    def name(self) -> str:
        """The name that its certificate proves."""
        return self._running.name

    @property
    def address(self) -> str:
        """The address that clients dial, ``"host:port"``."""
        return self._running.address

    @property
    def config(self) -> RpcConfig:
        """The limits of the RPC layer."""
        return self._config.rpc

    @property
    def health(self) -> HealthBoard:
        """Where the application says how it is; others ask the built-in service :class:`rpcnet.Health`."""
        return self._health

    async def drain(self) -> None:
        """Take no new calls, tell the clients so, and wait for the running ones and their answers. A checkpoint.

        There is no bound but the caller's: ``with trio.move_on_after(30): await server.drain()``. Cancelling stops the
        waiting; calls are refused from then on all the same, until the block has ended.
        """
        await self._running.drain()

    def statistics(self) -> ServerStatistics:
        """Return every counter of the server, frozen."""
        parts = self._running
        return ServerStatistics(
            restarts=sum(parts.supervisor.restarts.values()),
            port=parts.endpoint.port_statistics(),
            pump=parts.endpoint.pump.statistics(),
            quic=parts.endpoint.quic_statistics(),
            sealing=parts.endpoint.sealing_statistics(),
            active_calls=parts.endpoint.calls.active,
        )
