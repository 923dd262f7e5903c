"""Two QUIC endpoints joined by a wire in memory: no Trio, no waiting, time is a number."""

from __future__ import annotations

import functools
import heapq
from collections.abc import Callable, Sequence
from typing import TypeVar

import attrs

from rpcnet._net.addresses import Address, format_address
from rpcnet._net.identity import Credentials, Security, _SharedSecret
from rpcnet._net.ports import PortStatistics
from rpcnet._net.quic import EarlyLinkHandler, LinkClosed, LinkHandler, QuicEndpoint, QuicLink
from rpcnet.config import RpcConfig

SECRET = "n3Vv8ZyTq0-Lk2wXbR7mHd"
CLIENT: Address = ("10.0.0.1", 7946)
SERVER: Address = ("10.0.0.2", 7946)
LATENCY = 0.001

R = TypeVar("R", bound="Recorder")


@functools.cache
def security(secret: str = SECRET, cluster: str = "rpcnet") -> _SharedSecret:
    made = Security.shared_secret(secret, cluster=cluster)
    assert isinstance(made, _SharedSecret)
    return made


@attrs.define
class TrustingSecurity:
    """Shows a certificate like any other, and believes whatever it is shown."""

    real: Security

    def refresh(self, now: float, wall_now: float) -> int:
        return 0

    def issue(self, name: str) -> Credentials:
        return self.real.issue(name)

    def verify(self, certificate: object, chain: object) -> str:
        return "anybody"


class WirePort:
    """A port whose datagrams go into the pair's heap."""

    def __init__(self, address: Address, carry: Callable[[bytes, Address, Address], None], max_bytes: int) -> None:
        self._address = address
        self._carry = carry
        self._max_bytes = max_bytes
        self.sent: list[tuple[bytes, Address]] = []

    @property
    def local_address(self) -> str:
        return format_address(self._address)

    def receive(self) -> tuple[bytes, Address] | None:
        raise AssertionError("the pair feeds its endpoints itself")

    async def wait_readable(self) -> None:
        raise AssertionError("the pair feeds its endpoints itself")

    def send(self, datagrams: Sequence[tuple[bytes, Address]]) -> int:
        for data, destination in datagrams:
            self.sent.append((data, destination))
            self._carry(data, self._address, destination)
        return len(datagrams)

    def refused(self) -> list[Address]:
        raise AssertionError("the pair has no network that could say so")

    def max_datagram_bytes(self, host: str) -> int:
        return self._max_bytes

    def close(self) -> None:
        raise AssertionError("nobody closes this port")

    def statistics(self) -> PortStatistics:
        raise AssertionError("nobody asks this port")


@attrs.define(eq=False)
class Recorder:
    """A handler that writes down what it hears."""

    log: list[tuple[object, ...]] = attrs.field(factory=list)
    received: dict[int, bytes] = attrs.field(factory=dict)
    ended: dict[int, bool] = attrs.field(factory=dict)
    link: QuicLink | None = None
    closed: LinkClosed | None = None
    progress: int = 0
    on_data: Callable[[QuicLink, int, bytes, bool], None] | None = None

    def link_ready(self, link: QuicLink) -> None:
        self.link = link
        self.log.append(("ready", link.peer_name))

    def link_data(self, link: QuicLink, stream_id: int, data: bytes, end: bool) -> None:
        self.received[stream_id] = self.received.get(stream_id, b"") + data
        self.ended[stream_id] = end
        self.log.append(("data", stream_id, data, end))
        if self.on_data is not None:
            self.on_data(link, stream_id, data, end)

    def link_reset(self, link: QuicLink, stream_id: int, code: int) -> None:
        self.log.append(("reset", stream_id, code))

    def link_stopped(self, link: QuicLink, stream_id: int, code: int) -> None:
        self.log.append(("stopped", stream_id, code))

    def link_progress(self, link: QuicLink) -> None:
        self.progress += 1

    def link_closed(self, link: QuicLink, reason: LinkClosed) -> None:
        assert self.closed is None, "link_closed came twice"
        self.closed = reason
        self.log.append(("closed", reason.kind))

    @property
    def kinds(self) -> list[object]:
        return [entry[0] for entry in self.log]


@attrs.define(eq=False)
class EarlyRecorder(Recorder):
    """A handler that begins early, and writes down what it heard before the handshake was complete."""

    early: bytes = b""
    on_early: Callable[[QuicLink], None] | None = None

    def link_early(self, link: QuicLink) -> None:
        self.link = link
        self.log.append(("early", link.peer_name))
        if self.on_early is not None:
            self.on_early(link)

    def link_early_lost(self, link: QuicLink) -> None:
        self.log.append(("lost",))
        if self.on_early is not None:
            self.on_early(link)

    def link_data(self, link: QuicLink, stream_id: int, data: bytes, end: bool) -> None:
        if link.is_early:
            self.early += data
        super().link_data(link, stream_id, data, end)


@attrs.define(eq=False)
class Pair:
    """A client and a server endpoint, and the wire between them."""

    config: RpcConfig = attrs.field(factory=RpcConfig)
    client_security: Security = attrs.field(factory=security)
    server_security: Security = attrs.field(factory=security)
    max_bytes: int = 1200
    drop: Callable[[bytes, Address, Address], bool] | None = None
    now: float = 0.0
    wall_clock: Callable[[], float] = float
    accepted: list[Recorder] = attrs.field(factory=list)
    trace: list[tuple[float, str, int]] = attrs.field(factory=list)
    ports: dict[Address, WirePort] = attrs.field(factory=dict)
    ends: dict[Address, QuicEndpoint] = attrs.field(factory=dict)
    on_accept: Callable[[Recorder], None] | None = None
    accepts_early: bool = False
    _wire: list[tuple[float, int, bytes, Address, Address]] = attrs.field(factory=list)
    _count: int = 0

    def __attrs_post_init__(self) -> None:
        for address, secure in ((CLIENT, self.client_security), (SERVER, self.server_security)):
            self.start(address, secure)

    def start(self, address: Address, secure: Security) -> None:
        """Start an endpoint at an address; another one that was there is forgotten with all it knew."""
        if address not in self.ports:
            self.ports[address] = WirePort(address, self._carry, self.max_bytes)
        self.ends[address] = QuicEndpoint(
            self.ports[address],
            secure,
            "b" if address == SERVER else "a",
            self.config,
            self._accept,
            accept_early=self._accept_early if self.accepts_early else None,
            clock=lambda: self.now,
            wall_clock=self.wall_clock,
        )

    def restart_server(self) -> None:
        """Put a server in the other's place that knows nothing of what was before."""
        self.start(SERVER, self.server_security)

    @property
    def client(self) -> QuicEndpoint:
        return self.ends[CLIENT]

    @property
    def server(self) -> QuicEndpoint:
        return self.ends[SERVER]

    def dial(
        self, *, expected_name: str | None = None, address: Address = SERVER, source: Address = CLIENT
    ) -> tuple[QuicLink, Recorder]:
        recorder = Recorder()
        if source not in self.ends:
            self.start(source, self.client_security)
        link = self.ends[source].dial(address, recorder, expected_name=expected_name, now=self.now)
        return link, recorder

    def connect(self) -> tuple[QuicLink, Recorder, QuicLink, Recorder]:
        """Dial and run the handshake; return link and recorder of both sides."""
        link, recorder = self.dial(expected_name="b")
        self.run(0.05)
        server = self.accepted[-1]
        assert recorder.kinds == ["ready"]
        assert server.link is not None
        return link, recorder, server.link, server

    def run(self, seconds: float) -> None:
        """Let that much time pass: datagrams arrive, timers fire."""
        until = self.now + seconds
        while True:
            for end in self.ends.values():
                end.settle(self.now)
                end.flush(self.now)
            moments = [end.next_timer() for end in self.ends.values()]
            moments.append(self._wire[0][0] if self._wire else None)
            at = min((moment for moment in moments if moment is not None), default=until)
            if at >= until:
                self.now = until
                return
            self.now = max(self.now, at)
            self._deliver()
            for end in self.ends.values():
                end.on_timer(self.now)

    def _accept_early(self, link: QuicLink) -> EarlyLinkHandler:
        return self._record(EarlyRecorder())

    def _accept(self, link: QuicLink) -> LinkHandler:
        return self._record(Recorder())

    def _record(self, recorder: R) -> R:
        self.accepted.append(recorder)
        if self.on_accept is not None:
            self.on_accept(recorder)
        return recorder

    def _carry(self, data: bytes, source: Address, destination: Address) -> None:
        self.trace.append((round(self.now, 9), source[0], len(data)))
        if self.drop is None or not self.drop(data, source, destination):
            self._count += 1
            heapq.heappush(self._wire, (self.now + LATENCY, self._count, data, source, destination))

    def _deliver(self) -> None:
        while self._wire and self._wire[0][0] <= self.now:
            _, _, data, source, destination = heapq.heappop(self._wire)
            if destination in self.ends:
                self.ends[destination].receive(data, source, self.now)
