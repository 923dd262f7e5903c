"""A peer that has the cluster's secret and does what it likes with its connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import trio

from rpcnet._core.bodies import Hello, encode_hello
from rpcnet._core.framing import FrameKind, StreamKind, encode_frame
from rpcnet._net.addresses import parse_address
from rpcnet._net.environment import current_environment
from rpcnet._net.identity import Security
from rpcnet._net.ports import DatagramPort
from rpcnet._net.pump import PortPump
from rpcnet._net.quic import LinkClosed, QuicEndpoint, QuicLink
from rpcnet._net.sealing import Sealer
from rpcnet.config import RpcConfig


def hello(**changes: int | str) -> bytes:
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
    on_data: Callable[[Connection], object] | None = None
    control: int = -1

    def link_ready(self, link: QuicLink) -> None:
        self.link = link
        self.ready.set()

    def link_data(self, link: QuicLink, stream_id: int, data: bytes, end: bool) -> None:
        is_first = not self.received
        self.received[stream_id] = self.received.get(stream_id, b"") + data
        if is_first and self.on_data is not None:
            self.on_data(self)

    def link_reset(self, link: QuicLink, stream_id: int, code: int) -> None: ...

    def link_stopped(self, link: QuicLink, stream_id: int, code: int) -> None: ...

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

    async def greet(self) -> None:
        """Say HELLO and wait for the answer."""
        self.control = self.open(bytes([StreamKind.CONTROL]) + hello())
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
        connection = Connection(peers[0].pump, on_data=peers[0].on_accepted)
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
