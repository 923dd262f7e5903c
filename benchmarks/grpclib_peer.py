"""grpclib over TLS: gRPC in pure Python on asyncio. Messages are bytes, without protobuf."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from certificates import tls_context
from grpclib.client import Channel, StreamStreamMethod, StreamUnaryMethod, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.const import Cardinality, Handler
from grpclib.encoding.base import CodecBase
from grpclib.server import Server, Stream
from measure import Usage, usage
from peering import AsyncioLoop, Gate, Loop, Settings, check, messages
from program import announce, main

_PAIR = struct.Struct("!QQ")
_ALPN = ("h2",)


class BytesCodec(CodecBase):
    """Passes bytes through."""

    __content_subtype__ = "proto"

    def encode(self, message: bytes, message_type: type[bytes]) -> bytes:
        """Return the message."""
        return message

    def decode(self, data: bytes, message_type: type[bytes]) -> bytes:
        """Return the message."""
        return data


class GrpclibClient:
    """One channel."""

    def __init__(self, channel: Channel) -> None:
        self._echo = UnaryUnaryMethod(channel, "/bench.Echo/Echo", bytes, bytes)
        self._usage = UnaryUnaryMethod(channel, "/bench.Echo/Usage", bytes, bytes)
        self._hold = UnaryUnaryMethod(channel, "/bench.Echo/Hold", bytes, bytes)
        self._count = UnaryStreamMethod(channel, "/bench.Echo/Count", bytes, bytes)
        self._total = StreamUnaryMethod(channel, "/bench.Echo/Total", bytes, bytes)
        self._echo_all = StreamStreamMethod(channel, "/bench.Echo/EchoAll", bytes, bytes)

    async def echo(self, data: bytes) -> bytes:
        """Return what the server gave back."""
        return await self._echo(data)

    async def usage(self) -> Usage:
        """Return what the server's process has used so far."""
        return Usage.unpack(await self._usage(b""))

    async def hold(self, number: int, everybody: int) -> int:
        """Return the number, once everybody is there."""
        return int.from_bytes(await self._hold(_PAIR.pack(number, everybody)), "big")

    @asynccontextmanager
    async def count(self, count: int, size: int) -> AsyncIterator[AsyncIterator[bytes]]:
        """Return messages of the server."""
        async with self._count.open() as stream:
            await stream.send_message(_PAIR.pack(count, size), end=True)
            yield aiter(stream)

    async def total(self, chunks: AsyncIterator[bytes]) -> int:
        """Return how many messages the server got."""
        async with self._total.open() as stream:
            async for chunk in chunks:
                await stream.send_message(chunk)
            await stream.end()
            answer = await stream.recv_message()
            assert answer is not None
            return int.from_bytes(answer, "big")

    @asynccontextmanager
    async def echo_all(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
        """Return what the server gave back."""
        async with self._echo_all.open() as stream, asyncio.TaskGroup() as group:

            async def send() -> None:
                async for chunk in chunks:
                    await stream.send_message(chunk)
                await stream.end()

            await stream.send_request()
            group.create_task(send())
            yield aiter(stream)


class GrpclibPeer:
    """grpclib on both sides."""

    def __init__(self, settings: Settings, loop: Loop) -> None:
        self._settings = settings
        self._gate = Gate(loop.event)

    def __mapping__(self) -> dict[str, Handler]:
        """Return the methods, as grpclib asks a service for them."""
        shapes = {
            "Echo": (self._echo, Cardinality.UNARY_UNARY),
            "Usage": (self._usage, Cardinality.UNARY_UNARY),
            "Hold": (self._hold, Cardinality.UNARY_UNARY),
            "Count": (self._send, Cardinality.UNARY_STREAM),
            "Total": (self._count, Cardinality.STREAM_UNARY),
            "EchoAll": (self._echo_all, Cardinality.STREAM_STREAM),
        }
        return {
            f"/bench.Echo/{name}": Handler(handler, shape, bytes, bytes) for name, (handler, shape) in shapes.items()
        }

    async def serve(self) -> None:
        """Serve until killed."""
        server = Server([self], codec=BytesCodec())
        sock = socket.socket(
            socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
        )  # named, so that asyncio sets no-delay
        sock.bind(("127.0.0.1", 0))
        await server.start(sock=sock, ssl=tls_context(self._settings.directory, "server", _ALPN))
        announce(f"127.0.0.1:{sock.getsockname()[1]}")
        await server.wait_closed()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[GrpclibClient]:
        """Open a channel."""
        host, _, port = self._settings.address.rpartition(":")
        context = tls_context(self._settings.directory, "client", _ALPN)
        async with Channel(host, int(port), ssl=context, codec=BytesCodec()) as channel:
            yield GrpclibClient(channel)

    @asynccontextmanager
    async def dialling(
        self, *, resume: bool = False
    ) -> AsyncIterator[Callable[[], AbstractAsyncContextManager[GrpclibClient]]]:
        """Get ready to open many connections; none is resumed."""
        assert not resume
        yield self.connect

    async def _echo(self, stream: Stream[bytes, bytes]) -> None:
        await stream.send_message(await _only(stream))

    async def _usage(self, stream: Stream[bytes, bytes]) -> None:
        await _only(stream)
        await stream.send_message(usage().pack())

    async def _hold(self, stream: Stream[bytes, bytes]) -> None:
        number, everybody = _PAIR.unpack(await _only(stream))
        await self._gate.pass_through(everybody)
        await stream.send_message(int(number).to_bytes(8, "big"))

    async def _send(self, stream: Stream[bytes, bytes]) -> None:
        count, size = _PAIR.unpack(await _only(stream))
        async for chunk in messages(count, size):
            await stream.send_message(chunk)

    async def _count(self, stream: Stream[bytes, bytes]) -> None:
        number = 0
        async for chunk in stream:
            check(number, chunk)
            number += 1
        await stream.send_message(number.to_bytes(8, "big"))

    async def _echo_all(self, stream: Stream[bytes, bytes]) -> None:
        async for chunk in stream:
            await stream.send_message(chunk)


async def _only(stream: Stream[bytes, bytes]) -> bytes:
    request = await stream.recv_message()
    assert request is not None
    return request


if __name__ == "__main__":
    main(GrpclibPeer, AsyncioLoop(), __doc__)
