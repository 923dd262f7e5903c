"""The port of a client: a UDP port of the right family of addresses, and the race for who answers first.

The rules of this file:

* A port reaches addresses of one family, IPv4 or IPv6. Where a host name stands for both, there is a port for each
  until somebody has answered at one of them; the others are closed then.
* Who is dialled next gets a head start before the one after it, and the first one that answers wins.
* A client that dials this machine only binds the loopback interface only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from rpcnet._core.resilience import RetryPolicy
from rpcnet._middleware import Middleware, check_middleware
from rpcnet._net.addresses import is_loopback, parse_address
from rpcnet._net.endpoint import Endpoint, Pause, Role
from rpcnet._net.identity import Security
from rpcnet._net.ports import DatagramPort, Environment
from rpcnet.config import RpcConfig
from rpcnet.errors import ConfigError, RpcNetError, SecurityError, Unavailable

from .common import checked, checked_config, checked_security, child, hello_of, random_name

__all__ = ["ClientParts", "ClientSettings", "Route", "first_to_answer", "most_telling", "open_client_port"]

_HEAD_START = 0.5
"""Seconds; RFC 8305 has a quarter of one, for connections that cost less to begin."""

_BINDS = {
    (False, True): "127.0.0.1:0",
    (False, False): "0.0.0.0:0",
    (True, True): "[::1]:0",
    (True, False): "[::]:0",
}
"""What is bound, by whether it is for IPv6 and for this machine only."""


@attrs.frozen(eq=False)
class ClientSettings:
    """What a client is told by its user, checked."""

    name: str | None
    """Its name; None for one that is made up."""
    security: Security | None
    """What is shown and checked; None for the default."""
    config: RpcConfig
    """Limits and timeouts."""
    retry: RetryPolicy
    """When a failed attempt is followed by another."""
    middleware: Sequence[Middleware[Any]]
    """What runs around every call."""

    @classmethod
    def checked(
        cls,
        *,
        name: str | None,
        security: Security | None,
        config: RpcConfig | None,
        retry: RetryPolicy | None,
        middleware: Iterable[Middleware[Any]],
    ) -> ClientSettings:
        """Return the settings.

        Raises:
            ConfigError: one of them is wrong.
        """
        checked("name", name or "", str)
        return cls(
            name,
            checked_security(security),
            checked_config(config),
            checked("retry", retry or RetryPolicy(), RetryPolicy),
            tuple(check_middleware(middleware)),
        )

    def identity(self, rng: Random) -> tuple[Security, str]:
        """Return the security, and the name that the client's certificate proves.

        Raises:
            ConfigError: the name is too long.
            SecurityError: the certificate stands for another name, or there is no usable secret.
        """
        security = self.security or Security.default()
        name = self.name or security.name or random_name("client", rng)
        security.check_name(name)
        return security, name


@attrs.frozen(eq=False)
class Route:
    """One way to reach somebody."""

    endpoint: Endpoint
    """The port that it is dialled from."""
    address: str
    """``"host:port"``."""
    name: str = ""
    """Who must answer there; empty for anybody of the cluster."""


@attrs.define(eq=False, kw_only=True)
class ClientParts:
    """What a running client is made of."""

    endpoints: list[Endpoint]
    _scopes: dict[Endpoint, trio.CancelScope] = attrs.field(factory=dict)
    _nursery: trio.Nursery | None = None

    @property
    def endpoint(self) -> Endpoint:
        """The port; the preferred one as long as there are several."""
        return self.endpoints[0]

    async def run(
        self,
        on_crash: Callable[[Exception], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve the ports until cancelled; close them then."""
        try:
            async with trio.open_nursery() as nursery:
                for endpoint in self.endpoints:
                    await nursery.start(self._serve, endpoint)
                self._nursery = nursery
                self.start_more(nursery)
                task_status.started()
        finally:
            self.close()

    def start_more(self, nursery: trio.Nursery) -> None:
        """Start what runs beside the ports."""

    async def _serve(self, endpoint: Endpoint, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.CancelScope() as scope:
            self._scopes[endpoint] = scope
            try:
                await endpoint.run(task_status=task_status)
            finally:
                endpoint.close()

    def keep_only(self, chosen: Endpoint) -> None:
        """Close all ports but one."""
        for endpoint in self.endpoints:
            if endpoint is not chosen:
                endpoint.close_connections()
                self._scopes[endpoint].cancel()
        self.endpoints = [chosen]

    async def goodbye(self) -> None:
        """Close all connections."""
        for endpoint in self.endpoints:
            endpoint.close_connections()

    def close(self) -> None:
        """Close the ports."""
        for endpoint in self.endpoints:
            endpoint.close()


async def open_client_port(
    addresses: Sequence[str], settings: ClientSettings, environment: Environment, rng: Random
) -> tuple[list[Route], dict[str, str], str]:
    """Open what is needed to dial some addresses. A checkpoint.

    Args:
        addresses: what is to be dialled.
        settings: who dials, and how.
        environment: resolves names and opens ports.
        rng: the client's source of chance.

    Returns:
        The ways to reach them, the preferred ones first; why the addresses to which there is none cannot be reached;
        and the name of the client.

    Raises:
        ConfigError: no port could be opened for what they resolve to.
        SecurityError: they are not on this machine, and the security is for this machine only.
    """
    config = settings.config
    security, name = settings.identity(rng)
    found, failures = await _resolve_all(addresses, environment, config)
    hello = hello_of(config)
    ports: dict[bool, DatagramPort] = {}
    endpoints: dict[bool, Endpoint] = {}
    try:
        await _bind_all(ports, [ip for ips in found.values() for ip in ips], environment, security)
        for is_ipv6, port in ports.items():
            endpoints[is_ipv6] = Endpoint(
                port,
                environment=environment,
                security=security,
                name=name,
                config=config,
                hello=lambda: hello,
                rng=child(rng),
                role=Role.CLIENT,
            )
    except BaseException:
        for port in ports.values():
            port.close()
        raise
    routes = [
        Route(endpoints[is_ipv6], address)
        for address, ips in found.items()
        for is_ipv6 in dict.fromkeys(":" in ip for ip in ips)
        if is_ipv6 in endpoints
    ]
    return routes, failures, name


async def _bind_all(
    ports: dict[bool, DatagramPort], ips: Sequence[str], environment: Environment, security: Security
) -> None:
    """Bind a port for each family of addresses, as far as that is possible; the keys say whether it is IPv6."""
    refusals: list[RpcNetError] = []
    for is_ipv6 in dict.fromkeys(":" in ip for ip in ips):
        is_local = all(is_loopback(ip) for ip in ips if (":" in ip) == is_ipv6)
        bind = _BINDS[is_ipv6, is_local]
        try:
            security.check_bind(bind)
            ports[is_ipv6] = await environment.bind(bind)
        except (ConfigError, SecurityError) as error:
            refusals.append(error)
    if refusals and not ports:
        raise refusals[0]


async def _resolve_all(
    addresses: Sequence[str], environment: Environment, config: RpcConfig
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the IP addresses behind each address, and why there are none behind the others."""
    found: dict[str, list[str]] = {}
    failures: dict[str, str] = {}
    timeout = config.connect_timeout

    async def resolve(address: str) -> None:
        host, _ = parse_address(address)
        try:
            found[address] = await environment.resolve(host)
            del failures[address]
        except OSError as error:
            failures[address] = f"{host} does not resolve: {error}"

    with trio.move_on_after(timeout):
        async with trio.open_nursery() as nursery:
            for address in addresses:
                failures[address] = f"{parse_address(address)[0]} does not resolve within {timeout:g} s"
                nursery.start_soon(resolve, address)
    return {address: found[address] for address in addresses if address in found}, failures


async def first_to_answer(routes: Sequence[Route]) -> tuple[Route | None, dict[Route, RpcNetError]]:
    """Dial one after another until somebody answers, and return how; None if nobody does. A checkpoint.

    Returns:
        The way that worked, and what became of those that failed before.
    """
    failures: dict[Route, RpcNetError] = {}
    winners: list[Route] = []
    async with trio.open_nursery() as nursery:

        @enable_ki_protection
        async def dial(route: Route, over: trio.Event) -> None:
            try:
                await route.endpoint.connect(route.address, route.name, pause=Pause.IGNORE)
            except RpcNetError as error:
                failures[route] = error
                over.set()
            else:
                winners.append(route)
                nursery.cancel_scope.cancel(reason="somebody has answered")

        for route in routes:
            over = trio.Event()
            nursery.start_soon(dial, route, over)
            with trio.move_on_after(_HEAD_START):
                await over.wait()
    return (winners[0] if winners else None), failures


def most_telling(failures: Sequence[RpcNetError]) -> RpcNetError:
    """Return the failure that says most: a refusal rather than silence."""
    return next((error for error in failures if not isinstance(error, Unavailable)), failures[0])
