"""The connections that one port has dialled: shared, made again when they are lost, and not hammered for.

The rules of this file:

* There is one connection per address and name, shared by all who call that peer; dialling twice at once dials once.
* A connection that ends is forgotten at once; the next call dials again. One whose server drains takes no new calls,
  and stays for those that run on it.
* After a failed dial an address is left alone for a while, see ``_core/redialling.py``. Whoever wants it meanwhile is
  told at once why it cannot be had or, with a patient dialler, waits for it, ``connect_timeout`` seconds in all.
* Of the addresses of a name, each failed dial tries the next one.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from random import Random

import trio
from trio.lowlevel import enable_ki_protection

from rpcnet._core.bodies import Hello
from rpcnet._core.redialling import DialKey, Redialling
from rpcnet.config import RpcConfig
from rpcnet.errors import RpcNetError, Unavailable

from .addresses import Address, is_literal, parse_address
from .client_session import ClientSession
from .host_names import HostNames
from .ports import Environment
from .pump import PortPump
from .quic import LinkClosed, QuicEndpoint

__all__ = ["DialledSession", "Dialler"]


class DialledSession(ClientSession):
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
        self.end_reason = ""
        """Why it ended."""
        self.silent_ticks = 0
        """How often the peer was looked for and had given no sign of life."""
        self._last_signs: tuple[float, float, int] = (0.0, 0.0, 0)

    def on_hello(self, hello: Hello) -> None:
        """Let the callers go, and say so."""
        super().on_hello(hello)
        self.was_open = True
        self._on_open()

    def on_closed(self, reason: LinkClosed) -> None:
        """End every call, and remember why."""
        self.end_reason = self.end_reason or reason.message
        super().on_closed(reason)

    def give_up_dialling(self, why: str) -> None:
        """Close a connection that does not come about."""
        self.end_reason = why
        self.shut()

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
        is_patient: whether whoever wants a connection waits for the next dial, instead of hearing that the last failed.
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
        is_patient: bool,
    ) -> None:
        self._pump = pump
        self._quic = quic
        self._names = names
        self._environment = environment
        self._is_ipv6 = is_ipv6
        self._config = config
        self._hello = hello
        self._owner = owner
        self._is_patient = is_patient
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

    async def connect(self, address: str, name: str | None, *, is_urgent: bool) -> ClientSession:
        """Return an open connection to an address, dialling if there is none. A checkpoint only if it has to wait.

        Args:
            address: ``"host:port"``.
            name: who must answer there; None for anybody of the cluster.
            is_urgent: dial now, whatever became of the last dial, and take a connection whose server drains.

        Raises:
            Unavailable: it cannot be had; nothing ran.
            Unauthenticated: one side did not prove who it is.
            VersionMismatch: there is no common protocol version.
        """
        key = (address, name)
        session = self._current.get(key)
        if session is not None and session.is_open and self._will_do(session, is_urgent=is_urgent):
            return session
        if self.is_closed:
            raise Unavailable(f"the {self._owner} has stopped", never_ran=True)
        timeout = self._config.connect_timeout
        with trio.move_on_after(timeout):
            while True:
                try:
                    return await self._try(key, is_urgent=is_urgent)
                except Unavailable:
                    if is_urgent or not self._is_patient or self.is_closed:
                        raise
        self._give_up(key)
        why = self.redialling.reason(key) or "nobody answered"
        raise Unavailable(
            f"no connection with {name or address} at {address} within {timeout} s: {why}", never_ran=True
        )

    def _will_do(self, session: ClientSession, *, is_urgent: bool) -> bool:
        """Whether a connection is what a caller waits for: who is patient does not want one that takes no calls."""
        return is_urgent or not self._is_patient or not session.is_draining

    async def _try(self, key: DialKey, *, is_urgent: bool) -> ClientSession:
        """Return the connection, after one dial if there is none."""
        self._give_up(key)
        session = self._current.get(key)
        if session is None or not self._will_do(session, is_urgent=is_urgent):
            if not is_urgent:
                await self._pause(key)
            session = await self._dial(key)
        await session.wait_open()
        if not self._will_do(session, is_urgent=is_urgent):
            self._supersede(key, session)
            if not session.calls_in_flight:
                session.shut()
            self.redialling.failed(key, "it is draining", trio.current_time())
            raise Unavailable(f"{session.peer_name} is draining", never_ran=True)
        return session

    async def _pause(self, key: DialKey) -> None:
        """Wait until an address may be dialled, or raise because that is not yet."""
        pause = self.redialling.pause(key, trio.current_time())
        if not pause:
            return
        if not self._is_patient:
            reason = self.redialling.reason(key)
            raise Unavailable(
                f"{key[0]} could not be reached: {reason}; it is dialled again in {pause:.1f} s", never_ran=True
            )
        await trio.sleep(pause)

    async def _dial(self, key: DialKey) -> DialledSession:
        resolved = await self._resolve(key)
        before = self._current.get(key)
        if before is not None:
            if self._will_do(before, is_urgent=False):
                return before  # somebody else has dialled meanwhile
            self._supersede(key, before)

        def ended() -> None:
            self._superseded.pop(dialled, None)
            if self._current.get(key) is dialled:
                del self._current[key]
            if not dialled.was_open:
                self.redialling.failed(key, dialled.end_reason, trio.current_time())

        self._current[key] = dialled = DialledSession(
            self._pump,
            self._config,
            self._hello(),
            on_open=lambda: self.redialling.succeeded(key),
            on_end=ended,
        )
        expected = key[1] or None
        dialled.attach(self._quic.dial(resolved, dialled, expected_name=expected, now=trio.current_time()))
        return dialled

    async def _resolve(self, key: DialKey) -> Address:
        host, port = parse_address(key[0])
        failures = self.redialling.failures(key)
        try:
            if is_literal(host) or not failures:
                return await self._names.resolve(host), port
            found = await self._environment.resolve(host)
        except OSError as error:
            why = f"{host} does not resolve: {error}"
            self.redialling.failed(key, why, trio.current_time())
            raise Unavailable(why, never_ran=True) from error
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
            session.give_up_dialling(f"nobody answered within {timeout:g} s")

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
                await self.connect(*key, is_urgent=True)
        except RpcNetError:
            return
        finally:
            del self._redialled[key]
