"""What the two ends of one connection have in common: streams of frames over a QUIC link.

The rules of this file:

* The dialling side opens the control stream first and says HELLO; the other side answers HELLO. Before both have been
  said, nothing else is looked at.
* Output collects per stream until the pump flushes. A stream that breaks a rule closes its connection, with the frame's
  name in the reason; no other connection notices.
* Control streams and lanes last as long as the connection. Whoever ends, resets or stops one ends the connection.
* When one half of a stream is over and nothing is to follow on the other, that one is reset, so that nothing is left of
  the stream.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable

import trio

from rpcnet._core.bodies import Hello, decode_hello, encode_hello
from rpcnet._core.framing import MAX_CONTROL_BYTES, Frame, FrameKind, FrameReader, StreamKind, encode_frame
from rpcnet.config import RpcConfig
from rpcnet.errors import ProtocolError, VersionMismatch

from .call_stream import LARGE_BYTES, CallStream
from .pump import PortPump
from .quic import LinkClosed, QuicLink, StreamsExhausted

__all__ = [
    "CLOSE_GOING_AWAY",
    "CLOSE_NORMAL",
    "CLOSE_PEER_FAILED",
    "CLOSE_PROTOCOL_ERROR",
    "CLOSE_VERSION_MISMATCH",
    "MAX_STATE_BYTES",
    "PROTOCOL_MAX",
    "PROTOCOL_MIN",
    "STREAM_CANCELLED",
    "STREAM_DONE",
    "InboundStream",
    "Session",
    "check_versions",
]

PROTOCOL_MIN = PROTOCOL_MAX = 1
CLOSE_NORMAL, CLOSE_PROTOCOL_ERROR, CLOSE_VERSION_MISMATCH, CLOSE_GOING_AWAY, CLOSE_PEER_FAILED = range(0x100, 0x105)
STREAM_CANCELLED, STREAM_DONE = 0x110, 0x111
MAX_STATE_BYTES = 32 << 20
"""The longest full-state exchange: some 200,000 members."""
_MAX_GIVEN_UP = 1024
_MAX_STALLS = 3
_LASTING = (StreamKind.CONTROL, StreamKind.LANE)

log = logging.getLogger("rpcnet.rpc")


def check_versions(ours: Hello, theirs: Hello) -> None:
    """Check that two HELLOs have a protocol version in common.

    Raises:
        VersionMismatch: they have none; the message names both ranges and which side is older.
    """
    if ours.protocol_min <= theirs.protocol_max and theirs.protocol_min <= ours.protocol_max:
        return
    older = "the peer" if theirs.protocol_max < ours.protocol_min else "this side"
    raise VersionMismatch(
        f"no common protocol version: this side (rpcnet {ours.library}) speaks {ours.protocol_min} to "
        f"{ours.protocol_max}, the peer (rpcnet {theirs.library}) {theirs.protocol_min} to {theirs.protocol_max}; "
        f"{older} is older"
    )


class InboundStream:
    """The receiving half of one stream: what it is for, and the reader of its frames."""

    __slots__ = ("call_id", "channel", "counted", "kind", "reader", "since")

    def __init__(self, kind: StreamKind, max_body_bytes: int, since: float) -> None:
        self.kind = kind
        self.reader = FrameReader(max_body_bytes)
        self.since = since
        """When it was opened, or an incomplete frame last grew, in Trio time."""
        self.counted = 0
        """Bytes of the incomplete frame that the session has counted."""
        self.call_id: int | None = None
        """The call that it carries, if it carries one."""
        self.channel: CallStream | None = None
        """Where the values of a streaming call go."""


class Session(ABC):
    """One connection's streams and frames, on either side; the handler of its :class:`QuicLink`.

    Args:
        pump: the pump of the port that the connection lives on.
        config: limits.
        hello: what this side says first.
    """

    def __init__(self, pump: PortPump, config: RpcConfig, hello: Hello) -> None:
        self._pump = pump
        self._config = config
        self._hello = hello
        self._link: QuicLink | None = None
        self._closed: LinkClosed | None = None
        self._streams: dict[int, InboundStream] = {}
        self._silent: dict[int, float] = {}
        self._given_up: dict[int, None] = {}
        self._output: dict[int, list[bytes]] = {}
        self._queued = False
        self._room: deque[trio.Event] = deque()
        self._all_sent = trio.Event()
        self._all_sent.set()
        self._unopened: deque[tuple[Callable[[int], None], bool]] = deque()
        self._has_progressed = False
        self._stalls = 0
        self.peer_hello: Hello | None = None
        """What the other side said first; None until it has."""
        self.message_limit = 0
        """The longest body that both sides take; 0 before HELLO."""
        self.heard_at = float("-inf")
        """When data of the verified peer last arrived, in Trio time."""
        self.failure: Exception | None = None
        """Why this side closed the connection, when it was this side."""

    @property
    def peer_name(self) -> str | None:
        """The verified name of the peer; None before the handshake is complete."""
        return None if self._link is None else self._link.peer_name

    @property
    def link(self) -> QuicLink:
        """The QUIC connection underneath."""
        if self._link is None:
            raise RuntimeError("the session has no link yet")
        return self._link

    @property
    @abstractmethod
    def calls_in_flight(self) -> int:
        """The number of calls that are not ended."""

    @property
    def wants_tracebacks(self) -> bool:
        """Whether the peer wants the tracebacks of handlers that fail."""
        return self.peer_hello is not None and self.peer_hello.tracebacks

    @property
    def is_closed(self) -> bool:
        """Whether the connection has ended."""
        return self._closed is not None

    # --- output

    def write(self, stream_id: int, data: bytes) -> None:
        """Queue bytes for a stream; they go out at the next flush, together with what others wrote."""
        parts = self._output.get(stream_id)
        if parts is None:
            self._output[stream_id] = [data]
            if not self._queued:
                self._queued = True
                self._pump.add_writer(self)
        else:
            parts.append(data)

    def write_out(self) -> None:
        """Hand everything queued to QUIC."""
        self._queued = False
        output = self._output
        if not output:
            return
        self._output = {}
        if self._closed is not None or self._link is None:
            return
        send = self._link.send
        for stream_id, parts in output.items():
            if len(parts) == 1:
                send(stream_id, parts[0])
            elif len(parts[-1]) > LARGE_BYTES:
                for part in parts:
                    send(stream_id, part)
            else:
                send(stream_id, b"".join(parts))

    def write_last(self, stream_id: int, *parts: bytes) -> None:
        """Send bytes, in parts that are not copied together, and close the sending half of a stream."""
        self.write_out()
        *first, last = parts
        for part in first:
            self.link.send(stream_id, part)
        self.link.send(stream_id, last, end=True)

    def with_stream(self, use: Callable[[int], None], *, unidirectional: bool = False) -> None:
        """Open a stream and use it: now or, if the peer allows no more, when it does, in the order of asking."""
        if not self._unopened:
            try:
                stream_id = self.link.open_stream(unidirectional=unidirectional)
            except StreamsExhausted:
                pass
            else:
                use(stream_id)
                return
        self._unopened.append((use, unidirectional))

    def _open_streams(self) -> None:
        while self._unopened and self._closed is None:
            use, unidirectional = self._unopened[0]
            try:
                stream_id = self.link.open_stream(unidirectional=unidirectional)
            except StreamsExhausted:
                return
            self._unopened.popleft()
            use(stream_id)

    async def wait_for_room(self) -> None:
        """Wait until less than the watermark is unacknowledged on the connection; a checkpoint only if it waits."""
        while self._closed is None and self.link.buffered_bytes > self._config.send_watermark_bytes:
            event = trio.Event()
            self._room.append(event)
            try:
                await event.wait()
            finally:
                if not event.is_set():
                    self._room.remove(event)

    async def wait_sent(self, patience: float) -> None:
        """Wait until the peer has all that was written, or has taken nothing for a while. A checkpoint if it waits.

        Args:
            patience: seconds after which a peer that acknowledges nothing is not waited for.
        """
        while self._closed is None and self.has_unsent:
            before = self.link.buffered_bytes
            with trio.move_on_after(patience):
                self._all_sent = trio.Event()
                await self._all_sent.wait()
            if self.link.buffered_bytes >= before:
                return

    @property
    def has_unsent(self) -> bool:
        """Whether the peer has not acknowledged all that was written."""
        return bool(self._output or self._unopened) or (self._link is not None and self._link.buffered_bytes > 0)

    def _wake_waiters_for_room(self) -> None:
        if not self._all_sent.is_set() and (self._closed is not None or not self.has_unsent):
            self._all_sent.set()
        if self._room and (self._closed is not None or self.link.buffered_bytes <= self._config.send_watermark_bytes):
            while self._room:
                self._room.popleft().set()

    def close(self, code: int, message: str) -> None:
        """Close the connection; ``link_closed`` follows."""
        if self._closed is None and self._link is not None:
            self.write_out()
            self._link.close(code, message)

    def fail(self, error: ProtocolError | VersionMismatch) -> None:
        """Close the connection because the peer broke a rule, and remember which."""
        self.failure = error
        code = CLOSE_VERSION_MISMATCH if isinstance(error, VersionMismatch) else CLOSE_PROTOCOL_ERROR
        log.warning("closing the connection with %s: %s", self.peer_name or self.link.address, error)
        self.close(code, str(error))

    # --- input: the callbacks of the link

    def attach(self, link: QuicLink) -> None:
        """Know the link before it is ready, so that it can be closed."""
        self._link = link

    def link_ready(self, link: QuicLink) -> None:
        """Start: the peer is verified."""
        self._link = link
        self.on_ready()

    def link_data(self, link: QuicLink, stream_id: int, data: bytes, end: bool) -> None:  # noqa: FBT001
        """Take bytes of a stream."""
        if self.failure is not None or self._closed is not None:
            return
        self.heard_at = trio.current_time()
        try:
            self._take(stream_id, data, end=end)
        except (ProtocolError, VersionMismatch) as error:
            self.fail(error)
        self._wake_waiters_for_room()

    def link_progress(self, link: QuicLink) -> None:
        """Notice that the peer acknowledged something, or allows more streams."""
        self._has_progressed = True
        if self._unopened:
            self._open_streams()
        self._wake_waiters_for_room()

    def link_reset(self, link: QuicLink, stream_id: int, code: int) -> None:
        """Notice that the peer gave a stream up."""
        if self.failure is not None or self._closed is not None:
            return
        stream = self._streams.get(stream_id)
        if stream is not None and stream.kind in _LASTING:
            self.fail(ProtocolError(f"the peer reset a {stream.kind.name} stream"))
            return
        self._forget_stream(stream_id)
        self.on_stream_reset(stream_id, stream)

    def link_stopped(self, link: QuicLink, stream_id: int, code: int) -> None:
        """Notice that the peer wants no more of a stream."""
        if self.failure is not None or self._closed is not None:
            return
        self._output.pop(stream_id, None)
        stream = self._streams.get(stream_id)
        if stream is not None and stream.kind in _LASTING:
            self.fail(ProtocolError(f"the peer stopped a {stream.kind.name} stream"))
        else:
            self.on_stream_stopped(stream_id)

    def _forget_stream(self, stream_id: int) -> None:
        stream = self._streams.pop(stream_id, None)
        self._silent.pop(stream_id, None)
        if stream is not None:
            self.count_partial(stream, 0)

    def link_closed(self, link: QuicLink, reason: LinkClosed) -> None:
        """Notice the end of the connection, once."""
        self._link = link
        self._closed = reason
        self._streams.clear()
        self._silent.clear()
        self._output.clear()
        self._unopened.clear()
        self._wake_waiters_for_room()
        self.on_closed(reason)

    def _take(self, stream_id: int, data: bytes, *, end: bool) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            if stream_id & 1 != self.link.is_client:
                return  # a stream of our own that was given up; this was on its way
            if stream_id in self._given_up:
                return
            if not data:
                self._note_silent(stream_id, end=end)
                return
            stream = self._begin_stream(stream_id, data[0])
            data = data[1:]
        take = self._take_control if stream.kind is StreamKind.CONTROL else self.on_frame
        reader = stream.reader
        frames = reader.feed(data)
        if reader.buffered_bytes != stream.counted:  # before a request counts as a whole
            self.count_partial(stream, reader.buffered_bytes)
        for frame in frames:
            take(stream_id, stream, frame)
        if end:
            self._streams.pop(stream_id, None)
            if not reader.is_between_frames:
                raise ProtocolError(f"{stream.kind.name} stream ended in the middle of a frame")
            self.on_stream_end(stream_id, stream)

    def _note_silent(self, stream_id: int, *, end: bool) -> None:
        """Remember a stream that was opened and says nothing; see :meth:`expire_streams`."""
        if end:
            self._silent.pop(stream_id, None)
            self.link.reset(stream_id, STREAM_CANCELLED)
        elif stream_id not in self._silent:
            self._silent[stream_id] = trio.current_time()

    def _begin_stream(self, stream_id: int, first_byte: int) -> InboundStream:
        self._silent.pop(stream_id, None)
        try:
            kind = StreamKind(first_byte)
        except ValueError:
            raise ProtocolError(f"stream of unknown kind {first_byte}") from None
        if kind is not StreamKind.CONTROL and self.peer_hello is None:
            raise ProtocolError(f"{kind.name} stream before HELLO")
        self.check_stream(stream_id, kind)
        if (kind is StreamKind.RESULT) != bool(stream_id & 2):
            raise ProtocolError(f"{kind.name} stream that is {'uni' if stream_id & 2 else 'bi'}directional")
        return self.expect(stream_id, kind)

    def expect(self, stream_id: int, kind: StreamKind) -> InboundStream:
        """Begin to read frames on a stream."""
        limit = {StreamKind.CONTROL: MAX_CONTROL_BYTES, StreamKind.STATE: MAX_STATE_BYTES}.get(
            kind, self._config.max_message_bytes
        )
        stream = self._streams[stream_id] = InboundStream(kind, limit, trio.current_time())
        return stream

    def expire_streams(self, patience: float) -> None:
        """Give up streams of the peer that were opened, or began a frame, and said nothing more for a while."""
        before = trio.current_time() - patience
        silent = [stream_id for stream_id, since in self._silent.items() if since < before]
        stuck = [
            stream_id
            for stream_id, stream in self._streams.items()
            if stream_id & 1 == self.link.is_client and stream.since < before and self.is_stuck(stream)
        ]
        for stream_id in silent + stuck:
            self._give_up(stream_id)

    def expect_progress(self) -> None:
        """Close the connection if the peer has taken nothing of what waits for it the last three times this was asked.

        A peer that is silent is given up by QUIC. This is for one that goes on talking and takes nothing.
        """
        is_stalled = not self._has_progressed and self.link.buffered_bytes > 0
        self._stalls = self._stalls + 1 if is_stalled else 0
        self._has_progressed = False
        if self._stalls > _MAX_STALLS:
            self.close(CLOSE_PEER_FAILED, "the peer takes nothing of what is sent")

    def _give_up(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None and stream.kind is StreamKind.LANE:
            self.fail(ProtocolError("LANE stream: a frame was begun and not completed"))
            return
        self._forget_stream(stream_id)
        self.link.reset(stream_id, STREAM_CANCELLED)
        self.link.stop(stream_id, STREAM_CANCELLED)
        self._given_up[stream_id] = None
        if len(self._given_up) > _MAX_GIVEN_UP:
            del self._given_up[next(iter(self._given_up))]
        self.on_stream_reset(stream_id, stream)

    def is_stuck(self, stream: InboundStream) -> bool:
        """Whether a stream should have said more than it did."""
        if stream.kind is StreamKind.CONTROL:
            return False
        waits_for_first = stream.call_id is None and stream.kind is not StreamKind.LANE
        return waits_for_first or not stream.reader.is_between_frames

    def count_partial(self, stream: InboundStream, size: int) -> None:
        """Count the bytes of a stream's incomplete frame."""
        stream.counted = size
        stream.since = trio.current_time()

    def _take_control(self, stream_id: int, stream: InboundStream, frame: Frame) -> None:
        if frame.kind != FrameKind.HELLO:
            if self.peer_hello is None:
                raise ProtocolError(f"{FrameKind(frame.kind).name} frame on a control stream before HELLO")
            self.on_control(frame)
            return
        if self.peer_hello is not None:
            raise ProtocolError("HELLO frame: it was said already")
        hello = decode_hello(frame.body)
        self.peer_hello = hello
        self.message_limit = min(self._config.max_message_bytes, hello.max_message_bytes)
        check_versions(self._hello, hello)
        self.on_hello(hello)

    def say_hello(self, stream_id: int, prefix: bytes = b"") -> None:
        """Send this side's HELLO on the control stream."""
        self.write(stream_id, prefix + encode_frame(FrameKind.HELLO, 0, body=encode_hello(self._hello)))

    # --- what the two sides do differently

    @abstractmethod
    def on_ready(self) -> None:
        """The handshake is complete and the peer verified."""

    @abstractmethod
    def on_hello(self, hello: Hello) -> None:
        """The peer said HELLO, and the versions fit."""

    @abstractmethod
    def on_control(self, frame: Frame) -> None:
        """A control frame other than HELLO arrived."""

    @abstractmethod
    def check_stream(self, stream_id: int, kind: StreamKind) -> None:
        """Raise ProtocolError if the peer may not open such a stream."""

    @abstractmethod
    def on_frame(self, stream_id: int, stream: InboundStream, frame: Frame) -> None:
        """A frame arrived on another stream."""

    @abstractmethod
    def on_stream_end(self, stream_id: int, stream: InboundStream) -> None:
        """The peer closed its half of a stream between two frames."""

    @abstractmethod
    def on_stream_reset(self, stream_id: int, stream: InboundStream | None) -> None:
        """The peer reset a stream that does not last, or it was given up here because nothing came."""

    @abstractmethod
    def on_stream_stopped(self, stream_id: int) -> None:
        """The peer wants no more of what is sent on a stream that does not last; the rest is dropped."""

    @abstractmethod
    def on_closed(self, reason: LinkClosed) -> None:
        """The connection ended."""
