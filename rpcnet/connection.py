"""A connection to one server or node, for programs that are no members of its cluster."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar, cast

import attrs

from ._assembly.client_port import ClientParts, ClientSettings, first_to_answer, most_telling, open_client_port
from ._assembly.common import checked, child
from ._clients.by_name import MethodsByName
from ._clients.caller import Target
from ._clients.middleware import ClientCall
from ._clients.one_peer import OnePeer, OnePeerCaller
from ._clients.stubs import caller_of, make_stub
from ._core.bodies import encode_metadata
from ._core.resilience import RetryPolicy
from ._middleware import Middleware
from ._net.addresses import check_setting
from ._net.environment import current_environment
from ._net.identity import Security
from ._net.ports import PortStatistics
from ._net.quic import EndpointStatistics
from ._tasks.lifetime import serving
from .config import RpcConfig
from .errors import Unavailable
from .selectors import Selector

__all__ = ["Connection", "ConnectionStatistics", "connect"]

T = TypeVar("T")
_ANYBODY = Selector()


@attrs.frozen(kw_only=True)
class ConnectionStatistics:
    """Counters of a connection since it was entered."""

    calls: int
    """Calls that were begun."""
    retries: int
    """Attempts beyond the first of a call."""
    failures: int
    """Calls that ended with an error."""
    active_calls: int
    """Attempts under way."""
    port: PortStatistics
    """The client's UDP port."""
    quic: EndpointStatistics
    """The QUIC connection, with those that it took the place of."""


class Connection:
    """A connection to whoever answers at one address; made by :func:`connect`."""

    def __init__(self, parts: ClientParts, caller: OnePeerCaller, peer: OnePeer, name: str, config: RpcConfig) -> None:
        self._parts = parts
        self._caller = caller
        self._peer = peer
        self._name = name
        self._config = config
        self._by_name = MethodsByName(config)
        self._server = ""
        self._see_server()

    def __repr__(self) -> str:
        """Return who is connected with whom."""
        state = "" if self.is_connected else ", not connected"
        return f"<rpcnet.Connection of {self._name!r} with {self.server!r} at {self.address}{state}>"

    @property
    def address(self) -> str:
        """The address that is dialled, ``"host:port"``."""
        return self._peer.address

    @property
    def name(self) -> str:
        """The client's name, which its certificate proves."""
        return self._name

    @property
    def server(self) -> str:
        """The name that the server has proved, now or when it was last connected."""
        self._see_server()
        return self._server

    @property
    def is_connected(self) -> bool:
        """Whether a call could be sent at once. If not, the next call waits for that."""
        return self._parts.endpoint.session(self._peer.address, self._peer.name) is not None

    def _see_server(self) -> None:
        session = self._parts.endpoint.session(self._peer.address, self._peer.name)
        if session is not None and session.peer_name is not None:
            self._server = session.peer_name

    def stub(self, service: Callable[..., T], *, metadata: Mapping[str, str] | None = None) -> T:
        """Return a typed proxy: its methods are the service's, and calling one calls the server.

        Args:
            service: a class decorated with :func:`rpcnet.service`; a protocol or an abstract class will do.
            metadata: text by name that goes along with every call, for the handler's ``current_call().metadata``.

        Raises:
            ConfigError: the class is no service.
        """
        encoded = encode_metadata(metadata or {}, self._config.max_metadata_bytes)
        target = functools.partial(Target, where=_ANYBODY, metadata=encoded)
        return cast("T", make_stub(self._caller, service, self._config, target))

    async def call(self, method: str, /, *args: object, metadata: Mapping[str, str] | None = None) -> Any:
        """Call a method by name, without its contract: ``await connection.call("printing.submit", job)``.

        Arguments are positional; results come as plain values, with classes as dictionaries. Only for methods without
        streams. A checkpoint; cancelling cancels the handler.

        Args:
            method: ``"service.method"``.
            args: the arguments.
            metadata: text by name that goes along, for the handler's ``current_call().metadata``.

        Raises:
            StatusError: whatever the call ended with.
        """
        target = self._by_name.target(method, args, metadata=metadata)
        return await caller_of(self._caller, target, self._config)(*args)

    def statistics(self) -> ConnectionStatistics:
        """Return every counter of the connection, frozen."""
        calls, retries, failures = self._caller.counts
        endpoint = self._parts.endpoint
        return ConnectionStatistics(
            calls=calls,
            retries=retries,
            failures=failures,
            active_calls=self._caller.active,
            port=endpoint.port_statistics(),
            quic=endpoint.quic_statistics(),
        )


def connect(
    address: str,
    *,
    name: str | None = None,
    server: str | None = None,
    security: Security | None = None,
    config: RpcConfig | None = None,
    retry: RetryPolicy | None = None,
    middleware: Iterable[Middleware[ClientCall]] = (),
) -> AbstractAsyncContextManager[Connection]:
    """Connect with a server, or with one node of a cluster, without becoming a member of anything.

    ``async with rpcnet.connect("host:7000") as connection: greeter = connection.stub(Greeter)``. The client has a UDP
    port of its own, on the loopback interface if that is where the address is. Entering dials; where a host name stands
    for addresses of both families, IPv4 and IPv6, the one that answers first is used. It is a checkpoint, and takes
    ``config.connect_timeout`` seconds at most. Leaving closes the connection, and waits for nothing.

    A connection that nothing happens on is closed after ``config.idle_timeout``, and one whose server gives no sign of
    life for ``config.silence_timeout`` while calls wait for it is given up. The next call dials again, at once; after a
    dial that failed, a pause comes first, which grows from ``config.reconnect_min`` to ``config.reconnect_max``.
    Nothing is dialled while nobody wants anything.

    A call made while there is no connection waits for one, for ``config.connect_timeout`` seconds or until its own
    deadline, and so does one that meets a server that drains. Then it ends with ``Unavailable``, of which
    ``never_ran`` is True; if the other side refuses, with ``Unauthenticated`` or ``VersionMismatch``, without waiting
    for it to change its mind. A call that was under way when the connection was lost ends with ``Unavailable`` as well,
    and may have run; it is repeated on the next connection if its method is ``idempotent=True``, as far as ``retry``
    goes.

    Args:
        address: ``"host:port"``; IPv6 in brackets, ``"[::1]:7000"``.
        name: the name that the client's certificate proves; default ``"client-<6 random letters>"`` or, with
            :meth:`Security.files`, the one in the certificate.
        server: the name that the server must prove; by default anybody will do who belongs to the same cluster, that
            is, who has the same secret or a certificate for it.
        security: what is shown and checked; default :meth:`Security.default`. It needs no keys for gossip.
        config: limits and timeouts.
        retry: when a failed attempt is followed by another; default ``RetryPolicy()``.
        middleware: what runs around every call, the outermost first; see :class:`Middleware`.

    Raises:
        ConfigError: an argument is wrong; raised when this is called.
        SecurityError: the security settings do not permit this address or this name.
        Unavailable: nobody answered within ``config.connect_timeout``, or the name does not resolve.
        Unauthenticated: one side did not prove who it is, or is not whom the connection was for.
        VersionMismatch: there is no common protocol version.
        NodeCrashed: the client failed inside, which is a bug.
    """
    check_setting("address", address, is_dialled=True)
    checked("server", server or "", str)
    settings = ClientSettings.checked(name=name, security=security, config=config, retry=retry, middleware=middleware)
    return _connected(OnePeer(address, server or ""), settings)


@asynccontextmanager
async def _connected(peer: OnePeer, settings: ClientSettings) -> AsyncGenerator[Connection, None]:
    environment = current_environment()
    rng = environment.rng()
    routes, failures, name = await open_client_port([peer.address], settings, environment, rng)
    if not routes:
        raise Unavailable(failures[peer.address], never_ran=True)
    routes = [attrs.evolve(route, name=peer.name) for route in routes]
    parts = ClientParts(endpoints=[route.endpoint for route in routes])

    async def enter() -> None:
        winner, refusals = await first_to_answer(routes)
        if winner is None:
            raise most_telling([refusals[route] for route in routes])
        parts.keep_only(winner.endpoint)

    async with serving(parts, enter):
        caller = OnePeerCaller(parts.endpoint, peer, settings.retry, child(rng), settings.middleware, is_patient=True)
        yield Connection(parts, caller, peer, name, settings.config)
