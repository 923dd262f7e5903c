"""grpc.aio over TLS.

Handlers are generic and pass bytes through, so no stubs are generated and no time is spent on protobuf: what is
measured is grpc's own cost.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from measure import Usage, usage
from peering import AsyncioLoop, Gate, Loop, Settings, check, messages
from program import announce, main

_PAIR = struct.Struct("!QQ")
_MOST_WAITING = 1 << 16
"""A server refuses calls at random once a thousand wait, unless told otherwise."""


class GrpcClient:
    """One channel."""

    def __init__(self, channel: Any) -> None:
        self._echo = channel.unary_unary("/bench.Echo/Echo")
        self._usage = channel.unary_unary("/bench.Echo/Usage")
        self._hold = channel.unary_unary("/bench.Echo/Hold")
        self._count = channel.unary_stream("/bench.Echo/Count")
        self._total = channel.stream_unary("/bench.Echo/Total")
        self._echo_all = channel.stream_stream("/bench.Echo/EchoAll")

    async def echo(self, data: bytes) -> bytes:
        """Return what the server gave back."""
        answer: bytes = await self._echo(data)
        return answer

    async def usage(self) -> Usage:
        """Return what the server's process has used so far."""
        return Usage.unpack(await self._usage(b""))

    async def hold(self, number: int, everybody: int) -> int:
        """Return the number, once everybody is there."""
        return int.from_bytes(await self._hold(_PAIR.pack(number, everybody)), "big")

    @asynccontextmanager
    async def count(self, count: int, size: int) -> AsyncIterator[AsyncIterator[bytes]]:
        """Return messages of the server."""
        yield aiter(self._count(_PAIR.pack(count, size)))

    async def total(self, chunks: AsyncIterator[bytes]) -> int:
        """Return how many messages the server got."""
        return int.from_bytes(await self._total(chunks), "big")

    @asynccontextmanager
    async def echo_all(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
        """Return what the server gave back."""
        yield aiter(self._echo_all(chunks))


class GrpcPeer:
    """grpc.aio on both sides."""

    def __init__(self, settings: Settings, loop: Loop) -> None:
        self._settings = settings
        self._gate = Gate(loop.event)
        self._files = {path.name: path.read_bytes() for path in settings.directory.iterdir()}

    async def serve(self) -> None:
        """Serve until killed."""
        files = self._files
        limits = ("grpc.server.max_pending_requests", "grpc.server.max_pending_requests_hard_limit")
        server = grpc.aio.server(options=[(limit, _MOST_WAITING) for limit in limits])
        handlers = {
            "Echo": grpc.unary_unary_rpc_method_handler(self._echo),
            "Usage": grpc.unary_unary_rpc_method_handler(self._usage),
            "Hold": grpc.unary_unary_rpc_method_handler(self._hold),
            "Count": grpc.unary_stream_rpc_method_handler(self._count),
            "Total": grpc.stream_unary_rpc_method_handler(self._total),
            "EchoAll": grpc.stream_stream_rpc_method_handler(self._echo_all),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", handlers),))
        credentials = grpc.ssl_server_credentials(
            [(files["server.key"], files["server.pem"])],
            root_certificates=files["ca.pem"],
            require_client_auth=True,
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        announce(f"127.0.0.1:{port}")
        await server.wait_for_termination()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[GrpcClient]:
        """Open a channel that shares its connection with no other."""
        files = self._files
        credentials = grpc.ssl_channel_credentials(
            root_certificates=files["ca.pem"], private_key=files["client.key"], certificate_chain=files["client.pem"]
        )
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.secure_channel(self._settings.address, credentials, options=options) as channel:
            yield GrpcClient(channel)

    @asynccontextmanager
    async def dialling(
        self, *, resume: bool = False
    ) -> AsyncIterator[Callable[[], AbstractAsyncContextManager[GrpcClient]]]:
        """Get ready to open many connections; none is resumed."""
        assert not resume
        yield self.connect

    async def _echo(self, request: bytes, _context: Any) -> bytes:
        return request

    async def _usage(self, _request: bytes, _context: Any) -> bytes:
        return usage().pack()

    async def _hold(self, request: bytes, _context: Any) -> bytes:
        number, everybody = _PAIR.unpack(request)
        await self._gate.pass_through(everybody)
        return int(number).to_bytes(8, "big")

    async def _count(self, request: bytes, _context: Any) -> AsyncIterator[bytes]:
        count, size = _PAIR.unpack(request)
        async for chunk in messages(count, size):
            yield chunk

    async def _total(self, chunks: AsyncIterator[bytes], _context: Any) -> bytes:
        number = 0
        async for chunk in chunks:
            check(number, chunk)
            number += 1
        return number.to_bytes(8, "big")

    async def _echo_all(self, chunks: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk


if __name__ == "__main__":
    main(GrpcPeer, AsyncioLoop(), __doc__)
