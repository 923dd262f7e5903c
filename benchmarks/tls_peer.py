"""Frames over asyncio's TLS, without any RPC: the limit of plain Python.

The rules of this file:

* A frame is its length, a kind and a body. Answers come in the order of the requests, so there are no ids, no
  deadlines, no errors, no types.
* What is written within one turn of the loop goes out together. A writer waits while the transport is full, and a
  stream that is not read stops the transport.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
import struct
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from certificates import configure, tls_context
from measure import Usage, usage
from peering import AsyncioLoop, Dial, Loop, Settings, check, messages
from program import announce, main

_HEAD = struct.Struct("!IB")
_PAIR = struct.Struct("!QQ")
_ECHO, _USAGE, _HOLD, _COUNT, _CHUNK, _END = range(6)
_MOST_UNREAD = 1 << 20


class Frames(asyncio.Protocol):
    """Cuts what arrives into frames, and sends frames; both sides are made of it."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._unsent: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()
        self._room.set()
        self.transport: Any = None
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that it is over."""
        self.closed.set()

    def data_received(self, data: bytes) -> None:
        """Handle every frame that is complete."""
        received = self._received
        received += data
        start, end = 0, len(received)
        view = memoryview(received)
        try:
            while end - start >= _HEAD.size:
                length, kind = _HEAD.unpack_from(view, start)
                stop = start + _HEAD.size + length
                if stop > end:
                    break
                self.handle(kind, bytes(view[start + _HEAD.size : stop]))
                start = stop
        finally:
            view.release()
        if start:
            del received[:start]

    def handle(self, kind: int, body: bytes) -> None:
        """Do what a frame asks for."""
        raise NotImplementedError

    def send(self, kind: int, body: bytes) -> None:
        """Send a frame with the others of this turn."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(_HEAD.pack(len(body), kind))
        self._unsent.append(body)

    def _flush(self) -> None:
        data = b"".join(self._unsent)
        self._unsent.clear()
        self.transport.write(data)

    def pause_writing(self) -> None:
        """Let writers wait."""
        self._room.clear()

    def resume_writing(self) -> None:
        """Let writers go on."""
        self._room.set()

    async def send_all(self, kind: int, chunks: AsyncIterator[bytes]) -> None:
        """Send many frames, waiting while the transport is full."""
        unsent = 0
        async for chunk in chunks:
            self.send(kind, chunk)
            unsent += len(chunk)
            if unsent > 1 << 16:
                unsent = 0
                await asyncio.sleep(0)  # the flush
                await self._room.wait()


class ServerFrames(Frames):
    """The server's side of a connection."""

    def __init__(self) -> None:
        super().__init__()
        self._held: list[int] = []
        self._chunks = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def pause_writing(self) -> None:
        """Take nothing from a client that does not read its answers."""
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        self.transport.resume_reading()

    def handle(self, kind: int, body: bytes) -> None:
        """Answer."""
        if kind == _ECHO:
            self.send(_ECHO, body)
        elif kind == _CHUNK:
            check(self._chunks, body)
            self._chunks += 1
        elif kind == _END:
            self.send(_END, self._chunks.to_bytes(8, "big"))
            self._chunks = 0
        elif kind == _USAGE:
            self.send(_USAGE, usage().pack())
        elif kind == _HOLD:
            self._hold(*_PAIR.unpack(body))
        else:
            task = self._loop.create_task(self._count(*_PAIR.unpack(body)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _hold(self, number: int, everybody: int) -> None:
        self._held.append(number)
        if len(self._held) == everybody:
            for held in self._held:
                self.send(_HOLD, held.to_bytes(8, "big"))
            self._held.clear()

    async def _count(self, count: int, size: int) -> None:
        await self.send_all(_CHUNK, messages(count, size))
        self.send(_END, b"")


class TlsClient(Frames):
    """The client's side of a connection."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[asyncio.Future[bytes]] = deque()
        self._unread: deque[bytes | None] = deque()
        self._unread_bytes = 0
        self._reading: asyncio.Future[None] | None = None
        self._is_streaming = False

    def handle(self, kind: int, body: bytes) -> None:
        """Give an answer to who waits for it."""
        if not self._is_streaming:
            self._waiting.popleft().set_result(body)
            return
        self._unread.append(None if kind == _END else body)
        self._unread_bytes += len(body)
        if self._unread_bytes > _MOST_UNREAD:
            self.transport.pause_reading()
        if self._reading is not None:
            self._reading.set_result(None)
            self._reading = None

    async def _ask(self, kind: int, body: bytes) -> bytes:
        waiter: asyncio.Future[bytes] = self._loop.create_future()
        self._waiting.append(waiter)
        self.send(kind, body)
        return await waiter

    async def echo(self, data: bytes) -> bytes:
        """Return what the server gave back."""
        return await self._ask(_ECHO, data)

    async def usage(self) -> Usage:
        """Return what the server's process has used so far."""
        return Usage.unpack(await self._ask(_USAGE, b""))

    async def hold(self, number: int, everybody: int) -> int:
        """Return the number; answers come in the order of the calls."""
        return int.from_bytes(await self._ask(_HOLD, _PAIR.pack(number, everybody)), "big")

    @asynccontextmanager
    async def count(self, count: int, size: int) -> AsyncIterator[AsyncIterator[bytes]]:
        """Return messages of the server."""
        self.send(_COUNT, _PAIR.pack(count, size))
        self._is_streaming = True
        yield self._read()
        self._is_streaming = False

    async def total(self, chunks: AsyncIterator[bytes]) -> int:
        """Return how many messages the server got."""
        await self.send_all(_CHUNK, chunks)
        return int.from_bytes(await self._ask(_END, b""), "big")

    @asynccontextmanager
    async def echo_all(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
        """Return what the server gave back."""

        async def send() -> None:
            await self.send_all(_ECHO, chunks)
            self.send(_END, b"")

        async with asyncio.TaskGroup() as group:
            self._is_streaming = True
            group.create_task(send())
            yield self._read()
            self._is_streaming = False

    async def _read(self) -> AsyncIterator[bytes]:
        while True:
            while not self._unread:
                self.transport.resume_reading()
                self._reading = self._loop.create_future()
                await self._reading
            value = self._unread.popleft()
            if value is None:
                return
            self._unread_bytes -= len(value)
            yield value


class _ResumingContext(ssl.SSLContext):
    """Offers a session kept from before; asyncio has no argument for it."""

    kept: ssl.SSLSession | None = None

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Return an object that resumes, if there is what to resume."""
        return super().wrap_bio(*args, **{**kwargs, "session": self.kept})


class TlsPeer:
    """Frames over TLS on both sides."""

    def __init__(self, settings: Settings, loop: Loop) -> None:
        self._directory = settings.directory
        self._host, _, self._port = settings.address.rpartition(":")
        self._full = tls_context(settings.directory, "client")
        self._resuming = _ResumingContext(ssl.PROTOCOL_TLS_CLIENT)
        configure(self._resuming, settings.directory, "client")

    async def serve(self) -> None:
        """Serve until killed."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            ServerFrames, "127.0.0.1", 0, ssl=tls_context(self._directory, "server"), backlog=4096
        )
        announce(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await server.serve_forever()

    def connect(self) -> AbstractAsyncContextManager[TlsClient]:
        """Open a connection."""
        return self._connect(self._full)

    @asynccontextmanager
    async def dialling(self, *, resume: bool = False) -> AsyncIterator[Dial]:
        """Get ready to open many connections."""
        yield functools.partial(self._connect, self._resuming if resume else self._full)

    @asynccontextmanager
    async def _connect(self, context: ssl.SSLContext) -> AsyncIterator[TlsClient]:
        loop = asyncio.get_running_loop()
        transport, client = await loop.create_connection(TlsClient, self._host, int(self._port), ssl=context)
        try:
            yield client
        finally:
            if isinstance(context, _ResumingContext):
                ssl_object = transport.get_extra_info("ssl_object")
                if context.kept is not None and not ssl_object.session_reused:
                    raise AssertionError("the connection was not resumed")
                context.kept = ssl_object.session  # came with the first answer
            transport.close()
            await client.closed.wait()


if __name__ == "__main__":
    main(TlsPeer, AsyncioLoop(), __doc__)
