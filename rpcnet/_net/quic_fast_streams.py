"""Streams that say when there is something to do for them, so that nobody has to ask them all.

The rules of this file:

* A stream with bytes to send waits in one of two queues. One that has just got a little to send goes first, but every
  other packet begins with the others, so that neither small streams nor large ones starve.
* Within a queue the order is that of arrival, never that of a hash or an address: simulated runs repeat.
* ``sender.buffer_is_empty`` is False exactly while the stream waits in a queue.
* Streams belong to their table, never the table's queues to a stream that has left it: what is discarded is freed at
  once, without the garbage collector.
* The engine's own code works on these streams as on its own: every verb of its senders and receivers is kept.
* The engine sets memory aside for what is missing before bytes that came early, and grants more by how far a peer has
  come and not by what has arrived. So bytes that are out of order are bounded here, those that are missing included.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.events import StreamDataReceived, StreamReset
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicStreamFrame
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.stream import QuicStream, QuicStreamReceiver, QuicStreamSender

from .quic_fast_packets import write_varint
from .quic_fast_recovery import PacketRanges

__all__ = ["Stream", "StreamReceiver", "StreamSender", "StreamTable"]

_ACKED = QuicDeliveryState.ACKED
_SMALL_BYTES = 4096


class StreamTable(dict[int, QuicStream]):
    """The streams of a connection by number, and which of them have something to do.

    The engine makes its streams itself; on their way into the table they become :class:`Stream`.
    """

    def __init__(self, max_out_of_order: int) -> None:
        super().__init__()
        self.max_out_of_order = max_out_of_order
        """Bytes, those that are missing included, that may wait in all streams for earlier ones to arrive."""
        self.out_of_order = 0
        """How many wait."""
        self.unacknowledged = 0
        """Bytes that were written to streams and not acknowledged, whether sent or not."""
        self.fresh: deque[Stream] = deque()
        """Streams that have had few bytes to send since the last packet they were in."""
        self.waiting: deque[Stream] = deque()
        """Streams that have more to send than goes into a packet or two."""
        self.controls: dict[int, Stream] = {}
        """Streams that have something else to say: a reset, or that they want no more."""
        self.limits: dict[int, Stream] = {}
        """Streams that should grant the peer more bytes."""
        self.finished: list[Stream] = []
        """Streams that have ended in both directions since somebody looked."""
        self._owes_waiting = False
        self._turn_of_waiting = False

    def __setitem__(self, stream_id: int, stream: QuicStream) -> None:
        stream.__class__ = Stream
        stream.sender.__class__ = StreamSender
        stream.receiver.__class__ = StreamReceiver
        assert isinstance(stream, Stream)  # noqa: S101 - for the type checker
        stream.prefix = write_varint(stream_id)
        stream.sender.adopt(self)
        stream.receiver.table = self
        super().__setitem__(stream_id, stream)

    @property
    def has_data(self) -> bool:
        """Whether a stream has bytes, or its end, to send."""
        return bool(self.fresh or self.waiting)

    def wants_to_send(self, stream_id: int, size: int) -> None:
        """Queue a stream that has got something, of that many bytes, to send."""
        stream = self.get(stream_id)
        if isinstance(stream, Stream):
            (self.fresh if size <= _SMALL_BYTES else self.waiting).append(stream)

    def withdraw(self, stream_id: int) -> None:
        """Take a stream, which has nothing to send any more, out of its queue."""
        self.fresh = deque(stream for stream in self.fresh if stream.stream_id != stream_id)
        self.waiting = deque(stream for stream in self.waiting if stream.stream_id != stream_id)

    def wants_control(self, stream_id: int) -> None:
        """Note a stream that has a frame without data to send."""
        stream = self.get(stream_id)
        if isinstance(stream, Stream):
            self.controls[stream_id] = stream

    def may_have_ended(self, stream_id: int) -> None:
        """Note a stream if it has ended in both directions."""
        stream = self.get(stream_id)
        if isinstance(stream, Stream) and stream.is_finished:
            self.finished.append(stream)

    def has_received(self, stream: Stream) -> None:
        """Note a stream if the peer should be granted more bytes on it."""
        if stream.owes_limit:
            self.limits[stream.stream_id or 0] = stream

    def put_away(self) -> list[int]:
        """Forget the streams that have ended, and return their numbers."""
        gone = [stream.stream_id or 0 for stream in self.finished if self.pop(stream.stream_id or 0, None) is not None]
        self.finished.clear()
        for stream_id in gone:
            self.controls.pop(stream_id, None)
            self.limits.pop(stream_id, None)
        return gone

    def begin_packet(self) -> int:
        """Begin a new packet and return how many streams are queued for it."""
        self._turn_of_waiting, self._owes_waiting = self._owes_waiting, False
        return len(self.fresh) + len(self.waiting)

    def next_stream(self) -> Stream:
        """Take the stream out of its queue whose turn it is."""
        if not self.fresh or (self._turn_of_waiting and self.waiting):
            self._turn_of_waiting = False
            return self.waiting.popleft()
        if self.waiting:
            self._owes_waiting = True
        return self.fresh.popleft()

    def queue(self) -> list[QuicStream]:
        """Return every stream that has something to send, in the order of service."""
        return list(dict.fromkeys((*self.controls.values(), *self.fresh, *self.waiting)))

    def requeue(self, streams: Iterable[QuicStream]) -> None:
        """Take over the order in which the engine would serve streams next, after it has served some."""
        mine = [stream for stream in streams if isinstance(stream, Stream)]
        self.fresh.clear()
        self.waiting = deque(stream for stream in mine if not stream.sender.buffer_is_empty)
        self.controls = {
            stream_id: stream
            for stream_id, stream in self.controls.items()
            if stream.sender.reset_pending or stream.receiver.stop_pending
        }
        self.limits = {stream_id: stream for stream_id, stream in self.limits.items() if stream.owes_limit}


class StreamSender(QuicStreamSender):
    """The sending half of a stream: bytes never sent are one range, only those that were lost need a list of them."""

    def adopt(self, table: StreamTable) -> None:
        """Become part of a table; nothing has been written so far."""
        self._table = table
        self._unsent = self._buffer_stop
        self._number = self._stream_id or 0
        self._renew_ranges()

    def _renew_ranges(self) -> None:
        """Begin with nothing lost, and nothing acknowledged out of order; remember the lists within the ranges."""
        self._pending, self._acked = PacketRanges(), PacketRanges()
        self._lost, self._islands = self._pending.ranges, self._acked.ranges

    @property
    def next_offset(self) -> int:
        """The offset of what is sent next."""
        return self._lost[0].start if self._lost else self._unsent

    def write(self, data: bytes, end_stream: bool = False) -> None:  # noqa: FBT001, FBT002 - aioquic's signature
        """Take bytes to send; ``end_stream`` says that nothing follows.

        Raises:
            RuntimeError: if the stream has ended or was reset.
        """
        if self._buffer_fin is not None or self._reset_error_code is not None:
            raise RuntimeError("nothing can be sent on a stream after its end")
        if data:
            self._buffer += data
            self._buffer_stop += len(data)
            self._table.unacknowledged += len(data)
        if end_stream:
            self._buffer_fin = self._buffer_stop
            self._pending_eof = True
        if (data or end_stream) and self.buffer_is_empty:
            self.buffer_is_empty = False
            self._table.wants_to_send(self._number, len(data))

    def take(self, max_size: int, max_offset: int) -> tuple[int, bytearray, bool] | None:
        """Take what goes into the next frame: its offset, its bytes, and whether they are the last.

        Args:
            max_size: how many bytes fit, at least none.
            max_offset: how far flow control lets the stream go.

        Returns:
            None if flow control lets nothing go, or there is nothing.
        """
        lost = self._lost
        if lost:
            start = lost[0].start
            stop = min(lost[0].stop, start + max_size, max_offset)
            if stop <= start:
                return None
            self._pending.subtract(start, stop)
        elif self._unsent < self._buffer_stop:
            start = self._unsent
            stop = min(self._buffer_stop, start + max_size, max_offset)
            if stop <= start:
                return None
            self._unsent = self.highest_offset = stop
        elif self._pending_eof and self._buffer_fin is not None:
            start = stop = self._buffer_fin
        else:
            self.buffer_is_empty = True
            return None
        ends = stop == self._buffer_fin
        if ends:
            self._pending_eof = False
        self.buffer_is_empty = self._unsent == self._buffer_stop and not self._pending_eof and not lost
        base = self._buffer_start
        return start, self._buffer[start - base : stop - base], ends

    def get_frame(self, max_size: int, max_offset: int | None = None) -> QuicStreamFrame | None:
        """Take what goes into the next frame, for the engine's own code."""
        if max_size < 0:
            return None
        taken = self.take(max_size, self._buffer_stop if max_offset is None else max_offset)
        if taken is None:
            return None
        start, data, ends = taken
        return QuicStreamFrame(data=bytes(data), offset=start, fin=ends)

    def on_data_delivery(self, delivery: QuicDeliveryState, start: int, stop: int, fin: bool) -> None:  # noqa: FBT001
        """Take note that a frame was acknowledged, or lost and has to be sent again."""
        if self._reset_error_code is not None or self.is_finished:
            return
        if delivery is not _ACKED:
            self._send_again(start, stop, fin)
            return
        if start == self._buffer_start and not self._islands:
            self._forget(stop - start)
        elif stop > start:
            self._acked.add(start, stop)
            first = self._islands[0]
            if first.start == self._buffer_start:
                self._acked.shift()
                self._forget(first.stop - first.start)
        if fin:
            self._acked_fin = True
        if self._acked_fin and self._buffer_start == self._buffer_fin:
            self.is_finished = True
            if not self.buffer_is_empty:  # its end was to be sent again, for nothing
                self.buffer_is_empty = True
                self._table.withdraw(self._number)
            self._table.may_have_ended(self._number)

    def _send_again(self, start: int, stop: int, fin: bool) -> None:  # noqa: FBT001 - as above
        if stop > start:
            self._pending.add(start, stop)
        if fin:
            self._pending_eof = True
        if self.buffer_is_empty:
            self.buffer_is_empty = False
            self._table.wants_to_send(self._number, stop - start)

    def _forget(self, size: int) -> None:
        """Let go of bytes at the front, which have arrived."""
        del self._buffer[:size]
        self._buffer_start += size
        self._table.unacknowledged -= size

    def reset(self, error_code: int) -> None:
        """Give up sending; what was not delivered is let go at once. Does nothing the second time or after the end."""
        if self._reset_error_code is not None or self.is_finished:
            return
        was_queued = not self.buffer_is_empty
        super().reset(error_code)
        self._forget(self._buffer_stop - self._buffer_start)
        self._unsent = self._buffer_stop
        self._renew_ranges()
        self._pending_eof = False
        if was_queued:
            self._table.withdraw(self._number)
        self._table.wants_control(self._number)

    def on_reset_delivery(self, delivery: QuicDeliveryState) -> None:
        """Take note that the reset was acknowledged, or lost and has to be sent again."""
        super().on_reset_delivery(delivery)
        if self.is_finished:
            self._table.may_have_ended(self._number)
        else:
            self._table.wants_control(self._number)


class StreamReceiver(QuicStreamReceiver):
    """The receiving half of a stream."""

    table: StreamTable
    """The table it belongs to."""

    def handle_frame(self, frame: QuicStreamFrame) -> StreamDataReceived | None:
        """Take the bytes of a frame; return what is now in order."""
        was_finished, waiting = self.is_finished, len(self._buffer)
        ahead = frame.offset + len(frame.data) - self._buffer_start - waiting
        if frame.offset > self._buffer_start and self.table.out_of_order + ahead > self.table.max_out_of_order:
            why = "too many bytes out of order"
            raise QuicConnectionError(QuicErrorCode.FLOW_CONTROL_ERROR, QuicFrameType.STREAM_BASE, why)
        event = super().handle_frame(frame)
        self.table.out_of_order += len(self._buffer) - waiting
        stream = self.table.get(self._stream_id or 0)
        if self.is_finished and not was_finished:
            self.table.may_have_ended(self._stream_id or 0)
        elif isinstance(stream, Stream):
            self.table.has_received(stream)
        return event

    def handle_reset(self, *, final_size: int, error_code: int = QuicErrorCode.NO_ERROR) -> StreamReset | None:
        """Take note that the peer gave up sending."""
        was_finished = self.is_finished
        event = super().handle_reset(final_size=final_size, error_code=error_code)
        if self.is_finished and not was_finished:
            self.table.out_of_order -= len(self._buffer)
            self._buffer.clear()
            self.table.may_have_ended(self._stream_id or 0)
        return event

    def stop(self, error_code: int = QuicErrorCode.NO_ERROR) -> None:
        """Ask the peer to send no more."""
        super().stop(error_code)
        self.table.wants_control(self._stream_id or 0)

    def on_stop_sending_delivery(self, delivery: QuicDeliveryState) -> None:
        """Take note that the request was acknowledged, or lost and has to be sent again."""
        super().on_stop_sending_delivery(delivery)
        if self.stop_pending:
            self.table.wants_control(self._stream_id or 0)


class Stream(QuicStream):
    """A stream whose place in a set follows from its number."""

    sender: StreamSender
    """Its sending half."""
    receiver: StreamReceiver
    """Its receiving half."""
    prefix: bytes
    """Its number as frames carry it."""

    @property
    def owes_limit(self) -> bool:
        """Whether the peer has used half of what it may send, or was not told of all that it may."""
        limit = self.max_stream_data_local
        return not self.receiver.is_finished and (
            limit != self.max_stream_data_local_sent or self.receiver.highest_offset * 2 > limit
        )

    def __hash__(self) -> int:
        return self.stream_id or 0
