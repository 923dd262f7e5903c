"""A peer that has the cluster's secret and does what it likes with its connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import trio

from rpcnet._core.bodies import Hello, encode_hello
from rpcnet._core.framing import Frame, FrameKind, FrameReader, StreamKind, encode_frame
from rpcnet._net.addresses import parse_address
from rpcnet._net.environment import current_environment
from rpcnet._net.identity import Security
from rpcnet._net.ports import DatagramPort
from rpcnet._net.pump import PortPump
from rpcnet._net.quic import LinkClosed, QuicEndpoint, QuicLink
from rpcnet._net.sealing import Sealer
from rpcnet.config import RpcConfig


def hello(**changes: object) -> bytes:
    """Return a HELLO frame, with some fields changed."""
    usual = Hello(
        protocol_min=1,
        protocol_max=1,
        library="raw",
        node_id="",
        boot_id=0,
        max_calls=1024,
        max_message_bytes=1 << 20,
    )
    return encode_frame(FrameKind.HELLO, 0, body=encode_hello(attrs.evolve(usual, **changes)))  # type: ignore[arg-type]


@attrs.define(eq=False)
class Connection:
    """One connection of the raw peer: what came in, and a way to send anything."""

    pump: PortPump
    link: QuicLink | None = None
    ready: trio.Event = attrs.field(factory=trio.Event)
    closed: LinkClosed | None = None
    ended: trio.Event = attrs.field(factory=trio.Event)
    received: dict[int, bytes] = attrs.field(factory=dict)
    resets: list[int] = attrs.field(factory=list)
    stops: list[int] = attrs.field(factory=list)
    on_data: Callable[[Connection], object] | None = None
    """What it does when the first bytes arrive."""
    on_frame: Callable[[Connection, int, Frame], object] | None = None
    """What it does with every frame."""
    control: int = -1
    _readers: dict[int, FrameReader] = attrs.field(factory=dict)

    def link_ready(self, link: QuicLink) -> None:
        self.link = link
        self.ready.set()

    def link_data(self, link: QuicLink, stream_id: int, data: bytes, end: bool) -> None:
        is_first = not self.received
        self.received[stream_id] = self.received.get(stream_id, b"") + data
        if is_first and self.on_data is not None:
            self.on_data(self)
        if stream_id not in self._readers:
            self._readers[stream_id] = FrameReader(1 << 26)
            if stream_id & 1 == link.is_client:
                data = data[1:]  # the other side opened the stream, with its kind
        for frame in self._readers[stream_id].feed(data):
            if self.on_frame is not None:
                self.on_frame(self, stream_id, frame)

    def link_reset(self, link: QuicLink, stream_id: int, code: int) -> None:
        self.resets.append(stream_id)

    def link_stopped(self, link: QuicLink, stream_id: int, code: int) -> None:
        self.stops.append(stream_id)

    def link_progress(self, link: QuicLink) -> None: ...

    def link_closed(self, link: QuicLink, reason: LinkClosed) -> None:
        self.closed = reason
        self.ended.set()

    def open(self, data: bytes, *, end: bool = False, unidirectional: bool = False) -> int:
        """Open a stream and send bytes on it."""
        assert self.link is not None
        stream_id = self.link.open_stream(unidirectional=unidirectional)
        self.send(stream_id, data, end=end)
        return stream_id

    def send(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Send bytes on a stream."""
        assert self.link is not None
        self.link.send(stream_id, data, end)
        if not self.pump.busy:
            self.pump.flush()

    def reset(self, stream_id: int) -> None:
        """Give up sending on a stream, and no more than that."""
        assert self.link is not None
        self.link.reset(stream_id, 7)
        self.pump.flush()

    def stop(self, stream_id: int) -> None:
        """Ask for no more of a stream, and no more than that."""
        assert self.link is not None
        self.link.stop(stream_id, 7)
        self.pump.flush()

    def frames(self, stream_id: int) -> list[Frame]:
        """Return the frames that came on a stream of its own."""
        return FrameReader(1 << 26).feed(self.received.get(stream_id, b""))

    async def greet(self, **changes: object) -> None:
        """Say HELLO, with some fields changed, and wait for the answer."""
        self.control = self.open(bytes([StreamKind.CONTROL]) + hello(**changes))
        await trio.sleep(0.1)
        assert self.received[self.control]


@attrs.define(eq=False)
class RawPeer:
    """The peer's port."""

    port: DatagramPort
    quic: QuicEndpoint
    pump: PortPump
    accepted: list[Connection]
    on_accepted: Callable[[Connection], object] | None = None
    """What it does when somebody has dialled it and said HELLO."""
    on_frame: Callable[[Connection, int, Frame], object] | None = None
    """What it does with every frame on connections that others have dialled."""

    @property
    def address(self) -> str:
        return self.port.local_address

    async def dial(self, address: str) -> Connection:
        """Open a verified connection on which nothing has been said."""
        connection = Connection(self.pump)
        self.quic.dial(parse_address(address), connection, expected_name=None, now=trio.current_time())
        await connection.ready.wait()
        return connection


@asynccontextmanager
async def open_raw_peer(security: Security, address: str = "10.7.7.7:7946") -> AsyncIterator[RawPeer]:
    """Bind a port on a host of its own and serve it."""
    port = await current_environment().bind(address)
    peers: list[RawPeer] = []

    def accept(link: QuicLink) -> Connection:
        connection = Connection(peers[0].pump, link, on_data=peers[0].on_accepted, on_frame=peers[0].on_frame)
        peers[0].accepted.append(connection)
        return connection

    quic = QuicEndpoint(port=port, security=security, name="raw", config=RpcConfig(), accept=accept)
    sealer = Sealer(security.cluster, security.gossip_keys, b"raw peer")
    peer = RawPeer(port, quic, PortPump(port, quic, sealer, lambda *_: None), [])
    peers.append(peer)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(peer.pump.run)
            yield peer
            nursery.cancel_scope.cancel()
    finally:
        port.close()
