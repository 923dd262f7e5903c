"""One node's UDP port with everything that lives on it: the pump, both kinds of sessions, membership's own port.

The rules of this file:

* There is one connection per address and name, shared by all who call that node; dialling twice at once dials once.
* A connection that ends is forgotten at once; the next call dials again.
* Calls that arrive wait in a queue that belongs to the port, so that they outlive the task that runs them.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator

import trio
from trio.lowlevel import enable_ki_protection

from rpcnet._core.bodies import Hello
from rpcnet.config import NodeConfig
from rpcnet.errors import Unavailable

from .addresses import parse_address
from .client_session import ClientSession
from .host_names import HostNames
from .identity import Security
from .membership_port import MembershipPort
from .ports import Address, DatagramPort, Environment, PortStatistics
from .pump import PortPump
from .quic import EndpointStatistics, QuicEndpoint, QuicLink
from .sealing import REFUSALS, Sealer, SealingStatistics
from .server_session import IncomingCall, ServerSession
from .session import CLOSE_GOING_AWAY, CLOSE_PEER_FAILED, Session

__all__ = ["CallQueue", "Endpoint"]

log = logging.getLogger("rpcnet.membership")


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


class Endpoint:
    """A node's open port; serve it with :meth:`run`.

    Args:
        port: the bound UDP port; the endpoint closes it.
        environment: where host names are resolved and random bytes come from.
        security: who may talk.
        name: this node's name, for its certificate.
        config: limits.
        hello: makes what this side says first on a connection.
    """

    def __init__(
        self,
        port: DatagramPort,
        *,
        environment: Environment,
        security: Security,
        name: str,
        config: NodeConfig,
        hello: Callable[[], Hello],
    ) -> None:
        self._port = port
        self._names = HostNames(environment, is_ipv6=":" in parse_address(port.local_address)[0])
        self._config = config
        self._hello = hello
        self._dialled: dict[tuple[str, str | None], ClientSession] = {}
        self._accepted: dict[ServerSession, None] = {}
        self._quic = QuicEndpoint(
            port=port,
            security=security,
            name=name,
            config=config.rpc,
            accept=self._accept,
        )
        self._sealer = Sealer(security.cluster, security.gossip_keys, environment.token_bytes(8))
        self._reported = self._sealer.statistics()
        self.membership = MembershipPort(self._send_sealed, self._exchange_state)
        """Membership's side of the port."""
        self.pump = PortPump(port, self._quic, self._sealer, self.membership.deliver_datagram)
        """Who reads, who flushes."""
        self.calls = CallQueue()
        """Calls of peers that wait for a worker."""
        self.draining = trio.Event()
        """Set when new calls are refused."""
        self._owed: list[ServerSession] = []
        self._is_closed = False

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
            task_status.started()

    def port_statistics(self) -> PortStatistics:
        """Return the counters of the UDP port."""
        return self._port.statistics()

    def quic_statistics(self) -> EndpointStatistics:
        """Return the counters of the connections."""
        return self._quic.statistics()

    def sealing_statistics(self) -> SealingStatistics:
        """Return how many datagrams were opened and refused, by reason."""
        return self._sealer.statistics()

    def session(self, address: str, name: str | None) -> ClientSession | None:
        """Return the open connection to an address, if there is one."""
        session = self._dialled.get((address, name))
        return session if session is not None and session.is_open else None

    async def connect(self, address: str, name: str | None = None) -> ClientSession:
        """Return an open connection to an address, dialling if there is none. A checkpoint only if it dials.

        Args:
            address: ``"host:port"``.
            name: who must answer there; None for anybody of the cluster.

        Raises:
            Unavailable: the port is closed, the name does not resolve, or nobody answered, within ``connect_timeout``;
                nothing ran.
            Unauthenticated: one side did not prove who it is.
            VersionMismatch: there is no common protocol version.
        """
        session = self._dialled.get((address, name))
        if session is not None and session.is_open:
            return session
        if self._is_closed:
            raise Unavailable("the node has stopped", never_ran=True)
        timeout = self._config.rpc.connect_timeout
        try:
            with trio.fail_after(timeout):
                if session is None:
                    resolved = await self._resolve(address)
                    session = self._dialled.get((address, name)) or self._dial(address, resolved, name)
                await session.wait_open()
        except trio.TooSlowError:
            if session is not None:
                session.shut()
            message = f"no connection with {name or address} at {address} within {timeout} s"
            raise Unavailable(message, never_ran=True) from None
        return session

    async def _resolve(self, address: str) -> Address:
        host, port = parse_address(address)
        try:
            return await self._names.resolve(host), port
        except OSError as error:
            raise Unavailable(f"{host} does not resolve: {error}", never_ran=True) from error

    def _dial(self, address: str, resolved: Address, name: str | None) -> ClientSession:
        key = (address, name)
        session = ClientSession(self.pump, self._config.rpc, self._hello(), on_end=lambda: self._dialled.pop(key, None))
        self._dialled[key] = session
        session.attach(self._quic.dial(resolved, session, expected_name=name, now=trio.current_time()))
        return session

    def _accept(self, link: QuicLink) -> ServerSession:
        session = ServerSession(
            self.pump,
            self._config.rpc,
            self._hello(),
            calls=self.calls,
            states=self.membership.deliver_request,
            on_end=lambda ended: self._accepted.pop(ended, None),
        )
        self._accepted[session] = None
        return session

    def sessions(self) -> Iterator[Session]:
        """Iterate over all connections, dialled and accepted."""
        yield from list(self._dialled.values())
        yield from list(self._accepted)

    def cut(self, name: str, boot_id: int, message: str) -> None:
        """Close every connection with a node that is gone; not those with a later boot of it."""
        for session in self.sessions():
            hello = session.peer_hello
            if session.peer_name == name and (hello is None or hello.boot_id <= boot_id):
                session.close(CLOSE_PEER_FAILED, message)

    def heard_since(self, at: float) -> list[Session]:
        """Return the connections on which data of a verified peer arrived after a time."""
        return [session for session in self.sessions() if session.heard_at > at]

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
        self._quic.close(trio.current_time(), CLOSE_GOING_AWAY, "the node is leaving")
        self.pump.flush()

    def close(self) -> None:
        """Close the port; to be called when nobody reads it any more."""
        self._is_closed = True
        self._port.close()

    # --- for membership

    def _send_sealed(self, payload: bytes, address: Address) -> None:
        found = self._names.find(address)
        if found is not None:
            self.pump.send_sealed(payload, found)

    async def _exchange_state(self, address: str, payload: bytes) -> bytes:
        session = await self.connect(address)
        return await session.exchange_state(payload)

    @enable_ki_protection
    async def _keep_alive(self) -> None:
        interval = self._config.rpc.idle_timeout / 3
        while True:
            await trio.sleep(interval)
            for session in self.sessions():
                if session.is_closed:
                    continue
                if session.calls_in_flight:
                    session.link.ping()
                session.expire_streams(interval)
            self._report_refused()

    def _report_refused(self) -> None:
        """Log how many membership datagrams did not open since the last time, in one line, if there were any."""
        before, now = self._reported, self._sealer.statistics()
        self._reported = now
        counts = {reason: getattr(now, reason) - getattr(before, reason) for reason in REFUSALS}
        listed = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in counts.items() if count)
        if listed:
            log.warning("membership datagrams that did not open: %s", listed)
