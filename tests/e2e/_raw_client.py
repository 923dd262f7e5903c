"""aioquic itself over a UDP socket: a client that shows and says what it is told to, whether that is allowed or not."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import cbor2
import trio
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, StreamDataReceived

from rpcnet._core.bodies import Hello, decode_error, encode_hello
from rpcnet._core.framing import Frame, FrameKind, FrameReader, StreamKind, encode_frame
from rpcnet._net.addresses import parse_address
from rpcnet._net.identity import Credentials

MAX_BODY = 1 << 24
LOOK_AGAIN = 0.02
"""Seconds after which a condition is looked at again although nothing has arrived."""
HELLO = Hello(
    protocol_min=1,
    protocol_max=1,
    library="raw",
    node_id="",
    boot_id=1,
    max_calls=16,
    max_message_bytes=MAX_BODY,
)


@attrs.define(eq=False)
class RawClient:
    """One connection; what arrives on it is collected."""

    address: tuple[str, int]
    quic: QuicConnection
    socket: trio.socket.SocketType
    on_handshake: Callable[[RawClient], None]
    is_complete: bool = False
    terminated: ConnectionTerminated | None = None
    frames: list[Frame] = attrs.field(factory=list)
    _readers: dict[int, FrameReader] = attrs.field(factory=dict)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Drive the connection until the condition holds."""
        self.drain()
        while not condition():
            timer, soon = self.quic.get_timer(), trio.current_time() + LOOK_AGAIN
            with trio.move_on_at(soon if timer is None else min(timer, soon)):
                data = await self.socket.recv(65536)
                self.quic.receive_datagram(data, self.address, trio.current_time())
            if timer is not None and trio.current_time() >= timer:
                self.quic.handle_timer(trio.current_time())
            self.drain()
            await self.flush()

    async def flush(self) -> None:
        """Send what waits to be sent."""
        for data, _ in self.quic.datagrams_to_send(trio.current_time()):
            await self.socket.send(data)

    async def until_terminated(self) -> ConnectionTerminated:
        """Drive the connection to its end; return how it ended."""
        await self.until(lambda: self.terminated is not None)
        assert self.terminated is not None
        return self.terminated

    async def answer(self, call_id: int) -> Frame:
        """Drive the connection until the answer to a call is there."""
        await self.until(lambda: any(frame.call_id == call_id for frame in self.frames) or self.terminated is not None)
        assert self.terminated is None, self.terminated
        [frame] = [frame for frame in self.frames if frame.call_id == call_id and frame.kind != FrameKind.HELLO]
        return frame

    async def error(self, call_id: int) -> tuple[int, str]:
        """Drive the connection until a call has failed; return status and message."""
        frame = await self.answer(call_id)
        assert frame.kind == FrameKind.ERROR
        return frame.a, decode_error(frame.a, frame.body, never_ran=False).message

    def drain(self) -> None:
        while (event := self.quic.next_event()) is not None:
            match event:
                case HandshakeCompleted():
                    self.is_complete = True
                    self.on_handshake(self)
                case StreamDataReceived(data=data, stream_id=stream_id):
                    if stream_id not in self._readers:
                        self._readers[stream_id] = FrameReader(MAX_BODY)
                        data = data[stream_id & 1 :]  # the server's own streams begin with their kind
                    self.frames += self._readers[stream_id].feed(data)
                case ConnectionTerminated():
                    self.terminated = event

    def write(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        self.quic.send_stream_data(stream_id, data, end)


def say_hello(client: RawClient, hello: Hello = HELLO) -> None:
    """Open the control stream as a well-behaved client does."""
    client.write(0, bytes([StreamKind.CONTROL]) + encode_frame(FrameKind.HELLO, 0, body=encode_hello(hello)))


def open_lane(client: RawClient) -> None:
    """Open a lane on stream 4."""
    client.write(4, bytes([StreamKind.LANE]))


def call(call_id: int, number: int, *arguments: object) -> bytes:
    """Return a CALL frame."""
    return encode_frame(FrameKind.CALL, call_id, number, 0, cbor2.dumps(list(arguments)))


def speak(client: RawClient) -> None:
    """Say HELLO and call the first method at once, without waiting for an answer."""
    say_hello(client)
    open_lane(client)
    client.write(4, call(1, 0))


@asynccontextmanager
async def raw_client(
    address: str,
    credentials: Credentials | None,
    on_handshake: Callable[[RawClient], None] = speak,
    *,
    private_key: Any = None,
    alpn: str = "rpcnet/1",
    **settings: Any,
) -> AsyncIterator[RawClient]:
    """Connect to a node; yields after the first datagram has been sent."""
    configuration = QuicConfiguration(
        alpn_protocols=[alpn],
        certificate=None if credentials is None else credentials.certificate,
        private_key=private_key or (None if credentials is None else credentials.private_key),
        verify_mode=ssl.CERT_NONE,
        **settings,
    )
    quic = QuicConnection(configuration=configuration)
    target = parse_address(address)
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
        await sock.connect(target)
        client = RawClient(target, quic, sock, on_handshake)
        quic.connect(target, trio.current_time())
        await client.flush()
        yield client
