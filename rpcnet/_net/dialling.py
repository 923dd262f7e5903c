"""The connections that one port has dialled: shared, made again when they are lost, and not hammered for.

The rules of this file:

* There is one connection per address and name, shared by all who call that peer; dialling twice at once dials once.
* A connection that ends is forgotten at once; the next call dials again. One whose server drains takes no new calls,
  and stays for those that run on it.
* After a failed dial an address is left alone for a while, see ``_core/redialling.py``. Whoever wants it meanwhile
  waits, ``connect_timeout`` seconds in all.
* Of the addresses of a name, each failed dial tries the next one.
"""

from __future__ import annotations

import contextvars
import enum
from collections.abc import Callable, Iterator
from random import Random

import trio
from trio.lowlevel import enable_ki_protection

from rpcnet._core.bodies import Hello
from rpcnet._core.redialling import DialKey, Redialling
from rpcnet.config import RpcConfig
from rpcnet.errors import RpcNetError, Unauthenticated, Unavailable, VersionMismatch

from .addresses import Address, is_literal, parse_address
from .client_session import ClientSession
from .early import EarlyClientSession
from .host_names import HostNames
from .ports import Environment
from .pump import PortPump
from .quic import QuicEndpoint
from .session import CLOSE_PEER_FAILED

__all__ = ["DialledSession", "Dialler", "Pause"]


class Pause(enum.Enum):
    """What to do about an address that could not be reached and is left alone for a while."""

    ONCE = "once"
    """Wait until it may be dialled, and say what became of that dial: the caller may know somebody else."""
    AGAIN = "again"
    """Wait until it may be dialled and, as long as nobody answers, again: there is nobody else."""
    IGNORE = "ignore"
    """Dial now: the caller makes pauses of his own."""


class DialledSession(EarlyClientSession):
    """The dialling side of a connection, which remembers how it came about."""

    def __init__(
        self,
        pump: PortPump,
        config: RpcConfig,
        hello: Hello,
        *,
        on_open: Callable[[], object],
        on_end: Callable[[], object],
    ) -> None:
        super().__init__(pump, config, hello, on_end=on_end)
        self._on_open = on_open
        self.dialled_at = trio.current_time()
        """When it was dialled, in Trio time."""
        self.was_open = False
        """Whether both sides have said HELLO."""
        self.has_failed = False
        """Whether it is known already that it did not come about."""
        self.silent_ticks = 0
        """How often the peer was looked for and had given no sign of life."""
        self._last_signs: tuple[float, float, int] = (0.0, 0.0, 0)

    def on_hello(self, hello: Hello) -> None:
        """Let the callers go, and say so."""
        super().on_hello(hello)
        self.was_open = True
        self._on_open()

    @property
    def end(self) -> RpcNetError:
        """Why it ended before anything ran on it."""
        return self._why_closed(never_ran=True)

    def look_for_life(self) -> int:
        """Ask for a sign of life if calls wait for one; return how often in a row there was none."""
        link = self.link
        state = link.statistics()
        heard_at, rtt, unsent = self._last_signs
        self._last_signs = (self.heard_at, state.rtt, state.buffered_bytes)
        is_answered = not state.bytes_in_flight or state.rtt != rtt or state.buffered_bytes < unsent
        if is_answered or self.heard_at > heard_at or not self.calls_in_flight:
            self.silent_ticks = 0
        else:
            self.silent_ticks += 1
        if self.calls_in_flight:
            link.ping()
        return self.silent_ticks


class Dialler:
    """Dials, and keeps what it has dialled.

    Args:
        pump: reads and flushes the port.
        quic: all QUIC connections of the port.
        names: resolves host names, for the port's family of addresses.
        environment: resolves the other addresses of a name.
        is_ipv6: the port's family.
        config: limits.
        hello: makes what this side says first on a connection.
        rng: for the jitter.
        owner: what the port belongs to, for messages.
    """

    def __init__(
        self,
        *,
        pump: PortPump,
        quic: QuicEndpoint,
        names: HostNames,
        environment: Environment,
        is_ipv6: bool,
        config: RpcConfig,
        hello: Callable[[], Hello],
        rng: Random,
        owner: str,
    ) -> None:
        self._pump = pump
        self._quic = quic
        self._names = names
        self._environment = environment
        self._is_ipv6 = is_ipv6
        self._config = config
        self._hello = hello
        self._owner = owner
        self._current: dict[DialKey, DialledSession] = {}
        self._superseded: dict[DialledSession, None] = {}
        self._nursery: trio.Nursery | None = None
        self._redialled: dict[DialKey, None] = {}
        self.redialling = Redialling(config.reconnect_min, config.reconnect_max, rng)
        """Which addresses could not be reached."""
        self.is_closed = False
        """Whether nothing is dialled any more."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Dial in the background what calls avoid, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def sessions(self) -> Iterator[DialledSession]:
        """Iterate over all connections."""
        yield from list(self._current.values())
        yield from list(self._superseded)

    # --- connections

    def session(self, address: str, name: str | None) -> ClientSession | None:
        """Return the open connection to an address that takes calls, if there is one."""
        session = self._current.get((address, name))
        return session if session is not None and session.is_open and not session.is_draining else None

    async def connect(
        self, address: str, name: str | None, pause: Pause, *, even_draining: bool, is_early: bool = False
    ) -> ClientSession:
        """Return an open connection to an address, dialling if there is none. A checkpoint only if it has to wait.

        Args:
            address: ``"host:port"``.
            name: who must answer there; None for anybody of the cluster.
            pause: what to do while an address that could not be reached is left alone.
            even_draining: whether a connection will do whose server takes no calls.
            is_early: whether one will do that is not open yet, where calls that may run twice can be sent early.

        Raises:
            Unavailable: it cannot be had; nothing ran.
            Unauthenticated: one side did not prove who it is.
            VersionMismatch: there is no common protocol version.
        """
        key = (address, name)
        session = self._current.get(key)
        if session is not None and session.is_open and (even_draining or not session.is_draining):
            return session
        if self.is_closed:
            raise Unavailable(f"the {self._owner} has stopped", never_ran=True)
        timeout = self._config.connect_timeout
        with trio.move_on_after(timeout):
            while True:
                try:
                    return await self._try(key, pause, even_draining=even_draining, is_early=is_early)
                except Unavailable:
                    if pause is not Pause.AGAIN or self.is_closed:
                        raise
        self._give_up(key)
        raise self._out_of_time(key)

    def _out_of_time(self, key: DialKey) -> RpcNetError:
        """Return what a caller hears that has waited long enough: above all, what became of the last dial."""
        address, name = key
        error = self.redialling.error(key)
        if isinstance(error, VersionMismatch):
            return VersionMismatch(str(error))
        if isinstance(error, Unauthenticated):
            return Unauthenticated(error.message, never_ran=True)
        whom = f"{name} at {address}" if name else address
        why = error or "nobody answered"
        timeout = self._config.connect_timeout
        return Unavailable(f"no connection with {whom} within {timeout:g} s: {why}", never_ran=True)

    async def _try(self, key: DialKey, pause: Pause, *, even_draining: bool, is_early: bool) -> ClientSession:
        """Return the connection, after one dial if there is none."""
        self._give_up(key)
        session = self._current.get(key)
        if session is None or (session.is_draining and not even_draining):
            left = self.redialling.pause(key, trio.current_time())
            if left and pause is not Pause.IGNORE:
                await trio.sleep(left)
            session = await self._dial(key, even_draining=even_draining)
        if is_early and session.is_early:
            return session
        await session.wait_open()
        if session.is_draining and not even_draining:
            self._supersede(key, session)
            if not session.calls_in_flight:
                session.shut()
            draining = Unavailable(f"{session.peer_name} is draining", never_ran=True)
            self.redialling.failed(key, draining, trio.current_time())
            raise draining
        return session

    async def _dial(self, key: DialKey, *, even_draining: bool) -> DialledSession:
        resolved = await self._resolve(key)
        before = self._current.get(key)
        if before is not None:
            if even_draining or not before.is_draining:
                return before  # somebody else has dialled meanwhile
            self._supersede(key, before)

        def ended() -> None:
            self._superseded.pop(dialled, None)
            if self._current.get(key) is dialled:
                del self._current[key]
            if not dialled.was_open and not dialled.has_failed:
                self.redialling.failed(key, dialled.end, trio.current_time())

        self._current[key] = dialled = DialledSession(
            self._pump,
            self._config,
            self._hello(),
            on_open=lambda: self.redialling.succeeded(key),
            on_end=ended,
        )
        # Nothing is sent early to whom there was trouble with: it may drain, and would refuse call after call.
        early = dialled if before is None and key not in self.redialling.unreachable else None
        expected = key[1] or None
        now = trio.current_time()
        dialled.attach(self._quic.dial(resolved, dialled, expected_name=expected, now=now, early=early))
        return dialled

    async def _resolve(self, key: DialKey) -> Address:
        host, port = parse_address(key[0])
        failures = self.redialling.failures(key)
        try:
            if is_literal(host) or not failures:
                return await self._names.resolve(host), port
            found = await self._environment.resolve(host)
        except OSError as error:
            unknown = Unavailable(f"{host} does not resolve: {error}", never_ran=True)
            self.redialling.failed(key, unknown, trio.current_time())
            raise unknown from error
        fitting = [ip for ip in found if (":" in ip) == self._is_ipv6] or found
        return fitting[failures % len(fitting)], port

    def _supersede(self, key: DialKey, session: DialledSession) -> None:
        """Let a connection whose server drains serve out the calls that it has."""
        if self._current.get(key) is session:
            del self._current[key]
            self._superseded[session] = None

    def _give_up(self, key: DialKey) -> None:
        """Close a connection that should have come about by now."""
        session = self._current.get(key)
        timeout = self._config.connect_timeout
        if session is not None and not session.was_open and trio.current_time() >= session.dialled_at + timeout:
            session.has_failed = True
            del self._current[key]
            self.redialling.failed(key, Unavailable("nobody answered", never_ran=True), trio.current_time())
            session.shut()

    def forget(self, name: str, message: str) -> None:
        """Forget what is known of whoever has a name, because it is gone: also the dial that is under way."""
        self.redialling.forget(name)
        for key, session in list(self._current.items()):
            if key[1] == name and not session.was_open:
                session.has_failed = True
                del self._current[key]
                session.close(CLOSE_PEER_FAILED, message)

    # --- for those who have a choice

    def avoids(self, address: str, name: str | None) -> bool:
        """Return whether a call that can go elsewhere should, because the last dial of an address failed.

        The address is then dialled again in the background, when its time has come.
        """
        key = (address, name)
        if key not in self.redialling.unreachable:
            return False
        if self._nursery is not None and key not in self._redialled:
            self._redialled[key] = None
            contextvars.Context().run(self._nursery.start_soon, self._redial, key)
        return True

    @enable_ki_protection
    async def _redial(self, key: DialKey) -> None:
        try:
            await trio.sleep(self.redialling.pause(key, trio.current_time()))
            if key in self.redialling.unreachable:
                await self.connect(*key, Pause.IGNORE, even_draining=True)
        except RpcNetError:
            return
        finally:
            del self._redialled[key]
