"""One end of a connection without a network: a real session, with a link that keeps what QUIC promises and no more.

The other end is whoever drives the bench: it opens streams, sends bytes in order, ends, resets and stops them, says
what it has received, and closes. Programs of such steps are read from bytes, so that Hypothesis and a fuzzer can write
them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

import attrs
import trio

import rpcnet
from rpcnet._core.values import compile_service
from rpcnet._net.pump import PortPump, Writer
from rpcnet._net.quic import CloseKind, LinkClosed, QuicLink, StreamsExhausted
from rpcnet._tasks.handler_table import HandlerTable
from rpcnet.call import CallHost
from rpcnet.service import definition_of

if TYPE_CHECKING:
    from rpcnet._net.session import Session

SMALL = rpcnet.RpcConfig(
    max_message_bytes=4096,
    lane_limit_bytes=512,
    max_calls_per_connection=4,
    send_watermark_bytes=65536,
    stream_window_bytes=1024,
    max_request_bytes=65536,
    lanes=2,
)
MAX_OPEN = 64


@rpcnet.service(name="toys")
class Toys:
    """Handlers of all shapes that end soon, wait until they are cancelled, or fail."""

    @rpcnet.rpc
    async def add(self, one: int, other: int = 1) -> int:
        return one + other

    @rpcnet.rpc
    async def blob(self, data: bytes, size: int) -> bytes:
        await trio.sleep(0.5)
        return bytes(size % 8192)

    @rpcnet.rpc
    async def wait(self) -> None:
        await trio.sleep_forever()

    @rpcnet.rpc
    async def fail(self, why: str) -> dict[str, list[int]]:
        raise rpcnet.NotFound(why)

    @rpcnet.rpc
    async def count(self, upto: int) -> AsyncIterator[int]:
        for number in range(min(upto, 500)):
            yield number

    @rpcnet.rpc
    async def total(self, numbers: AsyncIterator[int]) -> int:
        result = 0
        async for number in numbers:
            result += number
        return result

    @rpcnet.rpc
    async def double(self, blobs: AsyncIterator[bytes], pause: float) -> AsyncIterator[bytes]:
        async for blob in blobs:
            await trio.sleep(min(pause, 1.0))
            yield blob + blob


CODECS = compile_service(definition_of(Toys), max_depth=64, max_bytes=4096)
NUMBERS = MappingProxyType({name: number for number, name in enumerate(CODECS)})


def table(config: rpcnet.RpcConfig = SMALL) -> HandlerTable:
    """Return the table of what the bench serves."""
    return HandlerTable([Toys()], config, CallHost(None, lambda _: None, trio.Event, config))


class Pump:
    """The pump of a port without a port: it flushes when it is told to."""

    def __init__(self) -> None:
        self.busy = False
        self._writers: list[Writer] = []

    def add_writer(self, writer: Writer) -> None:
        self._writers.append(writer)

    def flush(self) -> None:
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.write_out()

    def finish(self) -> None:
        self.busy = False
        self.flush()

    def take_reading(self) -> bool:
        return False


@attrs.define(eq=False)
class Half:
    """What became of one direction of a stream."""

    is_over: bool = False
    was_stopped: bool = False


class Link:
    """What a session takes for its QUIC link; misuse that would be an error there is one here."""

    def __init__(self, *, is_client: bool) -> None:
        self.is_client = is_client
        self.peer_name = "peer"
        self.address = ("192.0.2.1", 7946)
        self.session: Session | None = None
        self.closing: LinkClosed | None = None
        self.closed: LinkClosed | None = None
        self.is_early = False
        self.buffered_bytes = 0
        self.pings = 0
        self.sent: dict[int, bytearray] = {}
        self.ours: dict[int, Half] = {}
        """The sending halves of streams, ours."""
        self.theirs: dict[int, Half] = {}
        """The sending halves of streams, the peer's."""
        self._opened = [0, 0]

    @property
    def buffered_at_most(self) -> int:
        return self.buffered_bytes

    @property
    def open_streams(self) -> int:
        return sum(
            not (self.ours.get(stream_id, Half(is_over=True)).is_over and half.is_over)
            for stream_id, half in self.theirs.items()
        )

    def attach(self, session: Session) -> None:
        self.session = session
        session.link_ready(cast(QuicLink, self))

    # --- what the session does

    def open_stream(self, *, unidirectional: bool = False) -> int:
        if self._opened[unidirectional] >= MAX_OPEN or self.closed is not None:
            raise StreamsExhausted("enough")
        stream_id = 4 * self._opened[unidirectional] + 2 * unidirectional + (not self.is_client)
        self._opened[unidirectional] += 1
        self.ours[stream_id] = Half()
        self.theirs[stream_id] = Half(is_over=unidirectional)
        return stream_id

    def send(self, stream_id: int, data: bytes, end: bool = False) -> None:
        half = self.ours[stream_id]
        if self.closed is not None or half.was_stopped:
            return
        assert not half.is_over, "sent after the end"
        half.is_over = end
        self.buffered_bytes += len(data)
        self.sent.setdefault(stream_id, bytearray()).extend(data)

    def reset(self, stream_id: int, code: int) -> None:
        half = self.ours.get(stream_id)
        if half is not None:
            half.is_over = half.was_stopped = True

    def stop(self, stream_id: int, code: int) -> None:
        assert stream_id in self.theirs

    def ping(self) -> None:
        self.pings += 1

    def close(self, code: int, message: str) -> None:
        self.closing = self.closing or LinkClosed(code, message, by_peer=False, kind=CloseKind.CLOSED)

    def flush(self) -> None:
        """End a connection that the session has closed, as QUIC does when it sends next."""
        if self.closing is not None:
            self._end(self.closing)

    # --- what the peer does

    @property
    def _is_heard(self) -> bool:
        return self.closing is None and self.closed is None

    def _begin(self, stream_id: int) -> None:
        if stream_id not in self.theirs:
            self.theirs[stream_id] = Half()
            if not stream_id & 2:
                self.ours[stream_id] = Half()

    def take(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Let bytes arrive, unless QUIC would not let them through."""
        self._begin(stream_id)
        half = self.theirs[stream_id]
        if self._is_heard and not half.is_over and self.session is not None:
            half.is_over = end
            self.session.link_data(cast(QuicLink, self), stream_id, data, end)

    def take_reset(self, stream_id: int) -> None:
        self._begin(stream_id)
        half = self.theirs[stream_id]
        if self._is_heard and not half.is_over and self.session is not None:
            half.is_over = True
            self.session.link_reset(cast(QuicLink, self), stream_id, 0)

    def take_stop(self, stream_id: int) -> None:
        self._begin(stream_id)
        half = self.ours.get(stream_id)
        if self._is_heard and half is not None and self.session is not None:
            half.is_over = half.was_stopped = True
            self.session.link_stopped(cast(QuicLink, self), stream_id, 0)

    def acknowledge(self) -> None:
        if self._is_heard and self.session is not None and self.buffered_bytes:
            self.buffered_bytes = 0
            self.session.link_progress(cast(QuicLink, self))

    def take_close(self) -> None:
        self._end(LinkClosed(0, "closed by the peer", by_peer=True, kind=CloseKind.CLOSED))

    def _end(self, reason: LinkClosed) -> None:
        if self.closed is None and self.session is not None:
            self.closed = reason
            self.buffered_bytes = 0
            self.session.link_closed(cast(QuicLink, self), reason)


def as_pump(pump: Pump) -> PortPump:
    """Return the pump as what the session takes it for."""
    return cast(PortPump, pump)


class Choices:
    """Choices read from bytes; when they are used up, always the first."""

    def __init__(self, program: bytes) -> None:
        self._program = program
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._program)

    def below(self, count: int) -> int:
        """Return a number from 0 to ``count - 1``, at most 255."""
        if not self:
            return 0
        self._at += 1
        return self._program[self._at - 1] % count

    def chunk(self, most: int) -> bytes:
        """Return up to ``most`` bytes."""
        size = self.below(most + 1)
        self._at += size
        return self._program[self._at - size : self._at]
