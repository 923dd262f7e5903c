"""A QUIC connection that is cheap per packet and per stream: aioquic's, with short ways for its common case.

The rules of this file:

* The short way out is for packets that hold an acknowledgement and bytes of streams, on the one validated path of an
  established connection. If anything else is to be said, or keys are to be changed, the inherited code writes the whole
  flush, streams included, with the same objects.
* A flush visits only streams that have something to send. Which of them comes first follows from the order in which
  they got it, see :mod:`.quic_fast_streams`.
* Every packet is registered when it is sealed; the congestion window and the pacer hold as in the inherited code.
* A side that only receives asks for an acknowledgement of its acknowledgements now and then, so that neither side keeps
  an endless list of them (RFC 9000, 13.2.4).
* Everything stays interoperable: what goes out and comes in is plain QUIC.
"""

# ruff: noqa: SLF001 - this file knows the private names of the engine

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aioquic import tls
from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE
from aioquic.quic.connection import (
    Limit,
    NetworkAddress,
    QuicConnectionId,
    QuicConnectionState,
    QuicNetworkPath,
)
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream

from .quic_fast_packets import TAG_BYTES, write_varint
from .quic_fast_receive import Established, ReceivingConnection
from .quic_fast_recovery import SentPacket, write_acknowledgement
from .quic_fast_streams import Stream

__all__ = ["FastConnection"]

_HEADER_BYTES = 3  # and the connection id
_LEAST_ROOM = 48
"""Bytes that a packet must have left for another frame; the longest header of a frame is 19."""
_PING = b"\x01"
_STREAM, _FIN, _OFFSET = 0x0A, 0x01, 0x04  # with its length, always
_KINDS = [bytes((_STREAM | flags,)) for flags in range(8)]
_LENGTH_BYTES = 0x4000
_UNACKNOWLEDGED_PACKETS = 32
"""Packets after which a side that only acknowledges asks for an acknowledgement."""

Handlers = list[tuple[Callable[..., None], Any]]
"""Whom to tell that a packet was acknowledged or lost, and with what."""


class FastConnection(ReceivingConnection):
    """A connection whose cost does not grow with its streams, and that spares its common case what others need."""

    _has_new_ids = True

    @property
    def has_other_output(self) -> bool:
        """Whether there is more to send than acknowledgements and bytes of streams."""
        established, path = self._established, self._network_paths[0]
        return (
            established is None
            or self._close_pending
            or self._probe_pending
            or bool(self._ping_pending or self._table.controls or self._table.limits)
            or self._has_new_ids
            or self._handshake_done_pending
            or not established.tickets.buffer_is_empty
            or not path.is_validated
            or (len(self._network_paths) > 1 and any(map(_is_probed, self._network_paths[1:])))
            or self._owes_limits
            or self._streams_blocked_pending
            or bool(path.remote_challenges or self._retire_connection_ids or self._datagrams_pending)
        )

    @property
    def _owes_limits(self) -> bool:
        """Whether the peer is to be granted more bytes in all, or more streams."""
        data, bidi, uni = self._local_max_data, self._local_max_streams_bidi, self._local_max_streams_uni
        return (
            data.value != data.sent
            or data.used * 2 > data.value
            or (bidi.value != bidi.sent and _owes_streams(bidi))
            or (uni.value != uni.sent and _owes_streams(uni))
        )

    def owes_acknowledgement(self, now: float) -> bool:
        """Whether an acknowledgement should not wait any longer for data to ride with."""
        space = self._application_space
        return space is not None and space.ack_at is not None and space.ack_at <= now

    @property
    def _application_space(self) -> QuicPacketSpace | None:
        established = self._established
        return self._spaces.get(tls.Epoch.ONE_RTT) if established is None else established.space

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """Return what is to be sent; what is acknowledged with a delay otherwise rides along with data now."""
        established, space = self._established, self._application_space
        if space is not None and space.ack_at is not None and space.ack_at > now and self._table.has_data:
            space.ack_at = now
        if (
            established is not None
            and self._state is QuicConnectionState.CONNECTED
            and not established.keys.pair._update_key_requested
            and not self.has_other_output
        ):
            return self._send_fast(established, now)
        self._streams_queue = self._table.queue()
        datagrams = self._send_slow(now)
        self._table.requeue(self._streams_queue)
        self._streams_queue.clear()
        self._has_new_ids = any(not connection_id.was_sent for connection_id in self._host_cids)
        return datagrams

    def _send_slow(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """Leave it to the engine, which pads the datagrams of a handshake to the full size: that is the least then."""
        if self._handshake_confirmed:
            return super().datagrams_to_send(now)
        full, self._max_datagram_size = self._max_datagram_size, SMALLEST_MAX_DATAGRAM_SIZE
        try:
            return super().datagrams_to_send(now)
        finally:
            self._max_datagram_size = full

    def get_timer(self) -> float | None:
        """Return when the next timer is due."""
        established = self._established
        if (
            established is None
            or self._state is not QuicConnectionState.CONNECTED
            or not self._network_paths[0].is_validated
        ):
            return super().get_timer()
        space, loss = established.space, self._loss
        if space.loss_time is None and space.ack_eliciting_in_flight:
            timeout = loss.get_probe_timeout() * (1 << loss._pto_count)
            self._loss_at = loss._time_of_last_sent_ack_eliciting_packet + timeout
        else:
            self._loss_at = space.loss_time
        at = self._close_at
        for other in (space.ack_at, self._loss_at, self._pacing_at):
            if other is not None and (at is None or other < at):
                at = other
        return at

    # --- packets

    def _send_fast(self, established: Established, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """Return packets that hold acknowledgements and bytes of streams, as many as may leave now."""
        self._streams_queue.clear()
        self._pacing_at = None
        space, pacer = established.space, self._loss._pacer
        path = self._network_paths[0]
        datagrams = []
        while True:
            is_ack_due = space.ack_at is not None and space.ack_at <= now
            if not is_ack_due and not self._table.has_data:
                break
            if space.ack_at is None or space.ack_at >= now:
                self._pacing_at = pacer.next_send_time(now)
                if self._pacing_at is not None:
                    break
            datagram = self._next_packet(established, now, is_ack_due=is_ack_due)
            if datagram is None:
                break
            pacer.update_after_send(now)
            path.bytes_sent += len(datagram)
            datagrams.append((datagram, path.addr))
        return datagrams

    def _next_packet(self, established: Established, now: float, *, is_ack_due: bool) -> bytes | None:
        """Build a packet and register it; None if there is nothing that may leave."""
        congestion, peer_cid = self._loss._cc, self._peer_cid.cid
        overhead = _HEADER_BYTES + len(peer_cid) + TAG_BYTES
        room = self._max_datagram_size - overhead
        window = congestion.congestion_window - congestion.bytes_in_flight
        parts: list[bytes | bytearray] = []
        handlers: Handlers = []
        if is_ack_due:
            parts.append(self._acknowledge(established, handlers, room, now))
        taken = len(parts[0]) if parts else 0
        is_eliciting = self._fill(parts, handlers, min(room, self._room_of(window) - overhead) - taken)
        if not parts:
            return None
        if not is_eliciting and self._wants_answer(established):
            parts.append(_PING)
            is_eliciting = True
        number = self._packet_number
        datagram = established.keys.seal(b"".join(parts), peer_cid, number, spin=self._spin_bit)
        self._packet_number = number + 1
        packet = SentPacket(number, now, len(datagram), handlers, is_ack_eliciting=is_eliciting)
        established.loss.register(packet, established.space, now)
        if is_eliciting and not self._ack_eliciting_sent_since_receipt:
            self._close_at = now + self._idle_timeout()
            self._ack_eliciting_sent_since_receipt = True
        return datagram

    def _room_of(self, window: int) -> int:
        """Return how large a packet may be; none at all rather than a scrap while larger ones are on their way."""
        return window if window >= self._max_datagram_size // 4 else 0

    def _acknowledge(self, established: Established, handlers: Handlers, room: int, now: float) -> bytes:
        """Return the acknowledgement of all that was received."""
        space = established.space
        waited = 0.0 if space.largest_received_time is None else now - space.largest_received_time
        handlers.append((self._on_ack_delivery, (space, space.largest_received_packet)))
        space.ack_at = None
        established.unanswered = 0
        return write_acknowledgement(
            established.received.ranges, int(waited * 1_000_000) >> self._local_ack_delay_exponent, room
        )

    def _wants_answer(self, established: Established) -> bool:
        """Whether a packet that only acknowledges should be acknowledged, lest the lists of both sides grow."""
        space = established.space
        return not space.ack_eliciting_in_flight and (
            len(space.sent_packets) >= _UNACKNOWLEDGED_PACKETS
            or (len(established.received.ranges) > 1 and self._packet_number % 8 == 0)
        )

    def _fill(self, parts: list[bytes | bytearray], handlers: Handlers, room: int) -> bool:
        """Add bytes of streams to a packet; say whether there were any."""
        table = self._table
        has_some = False
        for _ in range(table.begin_packet()):
            if room < _LEAST_ROOM:
                break
            stream = table.next_stream()
            used = self._add_frame(parts, handlers, stream, room)
            has_some |= used > 0
            room -= used
            if not stream.sender.buffer_is_empty:
                table.waiting.append(stream)
        return has_some

    def _add_frame(self, parts: list[bytes | bytearray], handlers: Handlers, stream: Stream, room: int) -> int:
        """Add what a stream has to send to a packet; return how many bytes that took."""
        if stream.is_blocked:
            return 0
        sender = stream.sender
        highest = sender.highest_offset
        credit = highest + self._remote_max_data - self._remote_max_data_used
        offset = sender.next_offset
        place = write_varint(offset) if offset else b""
        header = 3 + len(stream.prefix) + len(place)
        taken = sender.take(room - header, min(credit, stream.max_stream_data_remote))
        if taken is None:
            return 0
        start, data, ends = taken
        size = len(data)
        self._remote_max_data_used += sender.highest_offset - highest
        kind = _KINDS[(_OFFSET if start else 0) | ends]
        parts += (kind, stream.prefix, place, (size | _LENGTH_BYTES).to_bytes(2, "big"), data)
        handlers.append((sender.on_data_delivery, (start, start + size, ends)))
        return header + size

    # --- what sets the inherited way in motion

    def _replenish_connection_ids(self) -> None:
        super()._replenish_connection_ids()
        self._has_new_ids = True

    def _on_new_connection_id_delivery(self, delivery: QuicDeliveryState, connection_id: QuicConnectionId) -> None:
        super()._on_new_connection_id_delivery(delivery, connection_id)
        self._has_new_ids |= not connection_id.was_sent

    def _on_max_stream_data_delivery(self, delivery: QuicDeliveryState, stream: QuicStream) -> None:
        super()._on_max_stream_data_delivery(delivery, stream)
        if isinstance(stream, Stream):
            self._table.has_received(stream)


def _is_probed(path: QuicNetworkPath) -> bool:
    """Whether a path that is not in use is to be sent something."""
    return bool(path.remote_challenges) or not (path.is_validated or path.local_challenge_sent)


def _owes_streams(limit: Limit) -> bool:
    """Whether the peer has fewer streams left to open than it could be granted, as the engine asks it."""
    return limit.sent - limit.used < limit.value - limit.sent
