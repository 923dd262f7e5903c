"""One UDP port with everything that lives on it: the pump, both kinds of sessions, membership's own port.

The rules of this file:

* A node takes part in membership, takes calls and dials. A server on its own takes calls, a client dials; both drop
  and count what membership sends, and tell who asks that they are no node.
* Whom this side dials, and when, is in ``dialling.py``.
* Calls that arrive wait in a queue that belongs to the port, so that they outlive the task that runs them.
* Who calls a server that drains is told so at once, also on a new connection.
"""

from __future__ import annotations

import enum
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterator
from random import Random

import trio
from trio.lowlevel import enable_ki_protection

from rpcnet._core.bodies import Hello
from rpcnet._core.redialling import DialKey
from rpcnet.config import RpcConfig
from rpcnet.errors import RpcNetError, Unavailable

from .addresses import parse_address
from .client_session import ClientSession
from .dialling import Dialler, Pause
from .host_names import HostNames
from .identity import Security
from .key_exchange import KeyExchange
from .membership_port import MembershipPort
from .ports import Address, DatagramPort, Environment, PortStatistics
from .pump import PortPump
from .quic import EndpointStatistics, QuicEndpoint, QuicLink
from .sealing import REFUSALS, GossipKey, Sealer, SealingStatistics
from .server_session import IncomingCall, ServerSession, StateRequest
from .session import CLOSE_GOING_AWAY, CLOSE_NORMAL, CLOSE_PEER_FAILED, Session

__all__ = ["CallQueue", "Endpoint", "Pause", "Role"]

log = logging.getLogger("rpcnet.membership")
_SIGNS_WANTED = 4
_KEY_BYTES = 32
_MAX_NAMED = 4096


class Role(enum.Enum):
    """What a port is there for."""

    NODE = "node"
    """It takes calls, dials and takes part in membership."""
    SERVER = "server"
    """It takes calls."""
    CLIENT = "client"
    """It dials."""


class CallQueue:
    """The calls that have arrived and that no worker has taken; bounded by what each connection may have in flight."""

    def __init__(self) -> None:
        self.waiting: deque[IncomingCall] = deque()
        """Oldest first."""
        self.active = 0
        """How many have arrived and not ended."""
        self._idle = trio.Event()
        self._idle.set()

    def accept(self, call: IncomingCall) -> None:
        """Queue a call."""
        if not self.active:
            self._idle = trio.Event()
        self.active += 1
        self.waiting.append(call)

    def end(self) -> None:
        """Note that a call has ended."""
        self.active -= 1
        if not self.active:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until no call waits or runs. A checkpoint."""
        while self.active:
            await self._idle.wait()


class _DrainingSession(ServerSession):
    """A connection that was accepted although no calls are taken any more."""

    def on_hello(self, hello: Hello) -> None:
        """Answer HELLO, and say what is to be known at once."""
        super().on_hello(hello)
        self.say_goaway()


class Endpoint:
    """An open port; serve it with :meth:`run`.

    Args:
        port: the bound UDP port; the endpoint closes it.
        environment: where host names are resolved and random bytes come from.
        security: who may talk.
        name: this side's name, for its certificate.
        config: limits.
        hello: makes what this side says first on a connection.
        rng: for the pauses between dials.
        role: what the port is there for.
    """

    def __init__(
        self,
        port: DatagramPort,
        *,
        environment: Environment,
        security: Security,
        name: str,
        config: RpcConfig,
        hello: Callable[[], Hello],
        rng: Random,
        role: Role = Role.NODE,
    ) -> None:
        is_ipv6 = ":" in parse_address(port.local_address)[0]
        self._port = port
        self._names = HostNames(environment, is_ipv6=is_ipv6)
        self._named: dict[Address, Address] = {}
        self._config = config
        self._hello = hello
        self._role = role
        self._accepted: dict[ServerSession, None] = {}
        self._quic = QuicEndpoint(
            port=port, security=security, name=name, config=config, accept=self._accept, accept_early=self._accept
        )
        is_node = role is Role.NODE
        keys = security.gossip_keys if is_node else (GossipKey(0, environment.token_bytes(_KEY_BYTES)),)
        self._sealer = Sealer(security.cluster, keys, environment.token_bytes(8))
        self._reported = self._sealer.statistics()
        self._keys = KeyExchange(self._sealer, security, name, environment.wall_clock) if is_node else None
        self.membership = MembershipPort(self._send_sealed, self._exchange_state, self._is_connected)
        """Membership's side of the port."""
        refusals = self._on_refused if is_node else None
        self.pump = PortPump(port, self._quic, self._sealer, self.membership.deliver_datagram, refusals)
        """Who reads, who flushes."""
        self._dialler = Dialler(
            pump=self.pump,
            quic=self._quic,
            names=self._names,
            environment=environment,
            is_ipv6=is_ipv6,
            config=config,
            hello=hello,
            rng=rng,
            owner=role.value,
        )
        self.session: Callable[[str, str | None], ClientSession | None] = self._dialler.session
        """Return the open connection to an address that takes calls, given whose it must be; None if there is none."""
        self.avoids: Callable[[str, str | None], bool] = self._dialler.avoids
        """Return whether a call that has a choice should not go to an address, because it could not be reached."""
        self.unreachable: Collection[DialKey] = self._dialler.redialling.unreachable
        """The addresses, with the names, whose last dial failed, as they are at any time."""
        self.dial_failures: Callable[[DialKey], int] = self._dialler.redialling.failures
        """Return how many dials of an address have failed in a row."""
        self.dial_error: Callable[[DialKey], RpcNetError | None] = self._dialler.redialling.error
        """Return why the last dial of an address failed; None if it did not."""
        self.calls = CallQueue()
        """Calls of peers that wait for a worker."""
        self.draining = trio.Event()
        """Set when new calls are refused."""
        self._owed: list[ServerSession] = []

    @property
    def address(self) -> str:
        """The address that the port is bound to."""
        return self._port.local_address

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the port until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.pump.run)
            nursery.start_soon(self._keep_alive, name="rpcnet keep-alive")
            nursery.start_soon(self._names.run, name="rpcnet host names")
            await nursery.start(self._dialler.run)
            if self._role is Role.CLIENT:
                nursery.start_soon(self._look_for_life, name="rpcnet signs of life")
            task_status.started()

    @property
    def keys(self) -> KeyExchange:
        """What keeps the keys of membership datagrams the same on all nodes.

        Raises:
            RuntimeError: this is no node.
        """
        if self._keys is None:
            raise RuntimeError(f"the {self._role.value} is no node and has no keys of membership datagrams")
        return self._keys

    def port_statistics(self) -> PortStatistics:
        """Return the counters of the UDP port."""
        return self._port.statistics()

    def quic_statistics(self) -> EndpointStatistics:
        """Return the counters of the connections."""
        return self._quic.statistics()

    def sealing_statistics(self) -> SealingStatistics:
        """Return how many datagrams were opened and refused, by reason."""
        return self._sealer.statistics()

    async def connect(
        self,
        address: str,
        name: str | None = None,
        *,
        pause: Pause = Pause.ONCE,
        even_draining: bool = True,
        is_early: bool = False,
    ) -> ClientSession:
        """Return an open connection to an address, dialling if there is none. A checkpoint only if it has to wait.

        Args:
            address: ``"host:port"``.
            name: who must answer there; None for anybody of the cluster.
            pause: what to do while an address that could not be reached is left alone.
            even_draining: whether a connection will do whose server takes no calls.
            is_early: whether one will do that is not open yet, where calls that may run twice can be sent early.

        Raises:
            Unavailable: the port is closed, the name does not resolve, or nobody answered within ``connect_timeout``;
                nothing ran.
            Unauthenticated: one side did not prove who it is.
            VersionMismatch: there is no common protocol version.
        """
        return await self._dialler.connect(address, name, pause, even_draining=even_draining, is_early=is_early)

    def _accept(self, link: QuicLink) -> ServerSession:
        kind = _DrainingSession if self.draining.is_set() else ServerSession
        session = kind(
            self.pump,
            self._config,
            self._hello(),
            calls=self.calls,
            states=lambda request: self._answer_state(request, session),
            on_end=lambda ended: self._accepted.pop(ended, None),
        )
        self._accepted[session] = None
        if self._role is Role.CLIENT:
            link.close(CLOSE_NORMAL, "this is a client, which takes no connections")
        return session

    def sessions(self) -> Iterator[Session]:
        """Iterate over all connections, dialled and accepted."""
        yield from self._dialler.sessions()
        yield from list(self._accepted)

    def has_accepted(self, name: str) -> bool:
        """Tell whether somebody of that name has an open connection to this port; under its own name, it itself has."""
        return any(session.peer_name == name for session in self._accepted)

    def cut(self, name: str, boot_id: int, message: str) -> None:
        """Close every connection with a node that is gone; not those with a later boot of it, nor with mere clients."""
        self._dialler.forget(name, message)
        for session in self.sessions():
            hello = session.peer_hello
            if session.peer_name == name and (hello is None or (hello.node_id and hello.boot_id <= boot_id)):
                session.close(CLOSE_PEER_FAILED, message)

    def heard_since(self, at: float) -> list[Session]:
        """Return the connections on which data of a verified node arrived after a time."""
        return [
            session
            for session in self.sessions()
            if session.heard_at > at and session.peer_hello is not None and session.peer_hello.node_id
        ]

    def drain(self) -> None:
        """Tell all who call this node that it takes no new calls."""
        if not self.draining.is_set():
            self.draining.set()
            self._owed = [session for session in self._accepted if session.calls_in_flight or session.has_unsent]
            for session in list(self._accepted):
                session.say_goaway()

    async def wait_answered(self, patience: float) -> None:
        """Wait until all who called this node before it drained have their answers. A checkpoint only if it waits.

        Args:
            patience: seconds after which one that acknowledges nothing is not waited for.
        """
        self.pump.flush()
        for session in self._owed:
            await session.wait_sent(patience)

    def close_connections(self) -> None:
        """Close all connections; sends what was written and a goodbye, and waits for nothing."""
        self.pump.flush()
        self._quic.close(trio.current_time(), CLOSE_GOING_AWAY, f"the {self._role.value} is leaving")
        self.pump.flush()

    def close(self) -> None:
        """Close the port; to be called when nobody reads it any more."""
        self._dialler.is_closed = True
        self._port.close()

    # --- for membership

    def _send_sealed(self, payload: bytes, address: Address) -> None:
        found = self._names.find(address)
        if found is None:
            return
        if found != address:
            if found not in self._named and len(self._named) >= _MAX_NAMED:
                del self._named[next(iter(self._named))]
            self._named[found] = address
        self.pump.send_sealed(payload, found)

    def _on_refused(self, address: Address, at: float) -> None:
        """Tell membership that nobody listens at an address, as membership called it when it last sent there."""
        self.membership.deliver_refused(self._named.get(address, address), at)

    def _is_connected(self, address: str, name: str) -> bool:
        return self.session(address, name) is not None or self.session(address, None) is not None

    async def _exchange_state(self, address: str, payload: bytes, name: str | None) -> bytes:
        session = await self.connect(address, name, pause=Pause.IGNORE)
        if session.peer_hello is None or not session.peer_hello.node_id:
            raise Unavailable(f"{session.peer_name} at {address} is no node of a cluster", never_ran=True)
        if self._keys is None:
            return await session.exchange_state(payload)
        return await self._keys.exchange_state(session, payload)

    def _answer_state(self, request: StateRequest, session: ServerSession) -> None:
        """Answer what a peer asks about the ring, and leave the rest to membership; without it, answer nothing."""
        if self._keys is None:
            request.reply(b"")
        elif (left := self._keys.answer(request, session)) is not None:
            self.membership.deliver_request(left)

    @enable_ki_protection
    async def _keep_alive(self) -> None:
        interval = self._config.idle_timeout / 3
        while True:
            await trio.sleep(interval)
            for session in self.sessions():
                if session.is_closed:
                    continue
                if session.calls_in_flight:
                    session.link.ping()
                session.expire_streams(interval)
                session.expect_progress()
            if self._keys is not None:
                self._keys.look()
            self._report_refused()

    @enable_ki_protection
    async def _look_for_life(self) -> None:
        timeout = self._config.silence_timeout
        while True:
            await trio.sleep(timeout / _SIGNS_WANTED)
            for session in self._dialler.sessions():
                if session.was_open and not session.is_closed and session.look_for_life() >= _SIGNS_WANTED - 1:
                    session.close(CLOSE_PEER_FAILED, f"no sign of life for {timeout:g} s")

    def _report_refused(self) -> None:
        """Log how many membership datagrams did not open since the last time, in one line, if there were any."""
        before, now = self._reported, self._sealer.statistics()
        self._reported = now
        counts = {reason: getattr(now, reason) - getattr(before, reason) for reason in REFUSALS}
        listed = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in counts.items() if count)
        if listed:
            log.warning("membership datagrams that did not open: %s", listed)
