"""The short way in: packets of an established connection, without the steps that only a handshake needs.

The rules of this file:

* The short way is for datagrams with a short header, for the connection id in use, from the path in use, which is
  validated. It is left before anything has changed when a datagram is anything else; the inherited code then takes it
  from the start.
* ACK, STREAM, PING and PADDING frames are read here. From the first frame that is of another kind, or that breaks a
  rule, or that would need more than appending bytes to a stream, the rest of the packet goes to the inherited code.
* What is recorded of a packet, and in which order, is what the inherited code records.
* An acknowledgement waits a little for data to ride with. A packet out of its order is acknowledged at once, so that
  the sender learns of a loss early (RFC 9000, 13.2.1), and so is every eighth, so that a peer that only sends is not
  held back (RFC 9000, 13.2.2).
"""

# ruff: noqa: SLF001 - this file knows the private names of the engine

from __future__ import annotations

from typing import Any

import attrs
from aioquic import tls
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    NetworkAddress,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionState,
    QuicNetworkPath,
    QuicReceiveContext,
)
from aioquic.quic.events import StreamDataReceived
from aioquic.quic.recovery import MAX_ACK_RANGES, QuicPacketSpace
from aioquic.quic.stream import StreamFinishedError

from .quic_fast_packets import PacketKeys, read_varint
from .quic_fast_recovery import PacketRanges, Recovery, read_acknowledgement
from .quic_fast_streams import Stream, StreamReceiver, StreamTable

__all__ = ["Established", "ReceivingConnection"]

_ONE_RTT = tls.Epoch.ONE_RTT
_PADDING, _PING, _ACK = 0x00, 0x01, 0x02
_FIRST_STREAM, _LAST_STREAM = 0x08, 0x0F
_FIN, _LENGTH, _OFFSET = 0x01, 0x02, 0x04
_ACK_DELAY = 0.008
"""Seconds that an acknowledgement waits for data to ride with; the peer allows for 25 ms (RFC 9000, 18.2)."""
_OUT_OF_ORDER_BYTES = 32 << 20
"""What a peer may send ahead of bytes that are missing, or four windows: more than it ever has on its way."""
_MAX_UNANSWERED = 8
"""Packets after which it waits no longer."""
_LEAST_SEALED = 4 + 16  # the longest packet number and the sample behind it


@attrs.define(eq=False)
class Established:
    """What the short ways need of an established connection."""

    space: QuicPacketSpace
    """The packet numbers of application data."""
    keys: PacketKeys
    """Its ciphers."""
    tickets: Any
    """The sender of what TLS says after the handshake."""
    loss: Recovery
    """What is on its way."""
    received: PacketRanges
    """The packets that are to be acknowledged."""
    idle_timeout: float
    """Seconds of silence after which the shorter patience of both sides ends."""
    unanswered: int = 0
    """Packets since the last acknowledgement."""


class ReceivingConnection(QuicConnection):
    """A connection that takes the packets of its common case by a shorter way."""

    def __init__(
        self, *, configuration: QuicConfiguration, original_destination_connection_id: bytes | None, **rest: Any
    ) -> None:
        self._established: Established | None = None
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            **rest,
        )
        self._ack_delay = _ACK_DELAY
        self._loss.__class__ = Recovery
        self._renew_streams()

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self._spaces[_ONE_RTT].ack_queue = PacketRanges()

    def _renew_streams(self) -> None:
        """Begin without any streams."""
        self._streams = self._table = StreamTable(max(_OUT_OF_ORDER_BYTES, 4 * self._configuration.max_data))
        self._streams_queue.clear()

    def receive_datagram(self, data: bytes, addr: NetworkAddress, now: float) -> None:
        """Take one datagram."""
        established = self._established
        if established is None or not self._receive_fast(established, data, addr, now):
            super().receive_datagram(data, addr, now)
            if established is None:
                self._established = self._establish()
        if self._table.finished:
            self._discard_finished()

    @property
    def _is_open(self) -> bool:
        """Whether neither side has closed the connection."""
        return self._state is QuicConnectionState.CONNECTED and not self._close_pending

    def _establish(self) -> Established | None:
        """Return what the short ways need, once nothing of the handshake is left."""
        if not self._handshake_confirmed or self._quic_logger is not None:
            return None
        pair = self._cryptos[_ONE_RTT]
        zero_rtt = self._cryptos[tls.Epoch.ZERO_RTT]
        early = self._spaces[tls.Epoch.INITIAL], self._spaces[tls.Epoch.HANDSHAKE]
        if (
            not all(space.discarded for space in early)
            or not (pair.recv.is_valid() and pair.send.is_valid())
            or zero_rtt.recv.is_valid()
            or zero_rtt.send.is_valid()
        ):
            return None
        space = self._spaces[_ONE_RTT]
        loss, received = self._loss, space.ack_queue
        assert isinstance(loss, Recovery)  # noqa: S101 - for the type checker
        assert isinstance(received, PacketRanges)  # noqa: S101 - as above
        patience = self._configuration.idle_timeout
        if self._remote_max_idle_timeout is not None:
            patience = min(patience, self._remote_max_idle_timeout)
        tickets = self._crypto_streams[_ONE_RTT].sender
        return Established(space, PacketKeys(pair), tickets, loss, received, patience)

    def _discard_finished(self) -> None:
        """Put away streams that have ended, each of which lets the peer open another (RFC 9000, 4.6)."""
        for stream_id in self._table.put_away():
            if (stream_id & 1) == self._is_client:
                self._stream_limit(stream_id).value += 1

    # --- packets

    def _receive_fast(self, established: Established, data: bytes, addr: NetworkAddress, now: float) -> bool:
        """Take a datagram of the common case; False, and nothing has changed, if it is another."""
        offset = 1 + len(self.host_cid)
        path = self._network_paths[0]
        if (
            len(data) < offset + _LEAST_SEALED
            or data[0] & 0xC0 != 0x40
            or data[1:offset] != self.host_cid
            or path.addr != addr
            or not path.is_validated
            or not self._is_open
        ):
            return False
        space = established.space
        opened = established.keys.open(data, offset, space.expected_packet_number)
        if opened is None:
            return False
        first, number, frames = opened
        largest = space.largest_received_packet
        if number <= largest and number in space.received_packets:
            return True  # a duplicate (RFC 9000, 12.3)
        if number > space.expected_packet_number:
            space.expected_packet_number = number + 1
        if number > self._spin_highest_pn:
            self._spin_bit = bool(first & 0x20) != self._is_client
            self._spin_highest_pn = number
        is_eliciting = self._take_payload(established, frames, path, now)
        if self._is_open:
            self._record(established, number, now, is_eliciting=is_eliciting)
        return True

    def _record(self, established: Established, number: int, now: float, *, is_eliciting: bool) -> None:
        """Note a packet as received, to be acknowledged."""
        space, queue = established.space, established.received
        self._close_at = now + self._idle_timeout()
        self._ack_eliciting_sent_since_receipt = False
        largest = space.largest_received_packet
        if number > largest:
            space.largest_received_packet = number
            space.largest_received_time = now
        queue.add(number)
        if len(queue.ranges) > MAX_ACK_RANGES:
            queue.shift()
        space.received_packets.add(number)
        if is_eliciting:
            established.unanswered += 1
            if number != largest + 1 or established.unanswered >= _MAX_UNANSWERED:
                space.ack_at = now
            elif space.ack_at is None:
                space.ack_at = now + self._ack_delay

    def _idle_timeout(self) -> float:
        established = self._established
        if established is None:
            return super()._idle_timeout()
        return max(established.idle_timeout, 3 * established.loss.get_probe_timeout())

    def _take_payload(self, established: Established, frames: bytes, path: QuicNetworkPath, now: float) -> bool:
        """Take the frames of a packet and say whether it asks for an acknowledgement; close if it breaks a rule."""
        try:
            return self._take_frames(established, frames, path, now)
        except QuicConnectionError as error:
            self._logger.warning(error)
            self.close(error_code=error.error_code, frame_type=error.frame_type, reason_phrase=error.reason_phrase)
            return False

    # --- frames

    def _take_frames(self, established: Established, frames: bytes, path: QuicNetworkPath, now: float) -> bool:
        position, end = 0, len(frames)
        is_eliciting = False
        while position < end:
            kind = frames[position]
            if _FIRST_STREAM <= kind <= _LAST_STREAM:
                after = self._take_stream_frame(frames, position, kind)
                is_eliciting = True
            elif kind == _ACK:
                after = self._take_acknowledgement(established, frames, position, now)
            elif kind == _PADDING:
                after = end - len(frames[position:].lstrip(b"\0"))
            elif kind == _PING:
                after = position + 1
                is_eliciting = True
            else:
                after = None
            if after is None:
                break
            position = after
        if position < end or not end:
            context = QuicReceiveContext(_ONE_RTT, self.host_cid, path, None, now, None)
            is_eliciting |= self._payload_received(context, frames[position:])[0]
        return is_eliciting

    def _take_acknowledgement(self, established: Established, frames: bytes, position: int, now: float) -> int | None:
        """Take an ACK frame and return where it ends; None, and nothing has changed, if it is not as it should be."""
        try:
            acknowledgement = read_acknowledgement(frames, position)
        except IndexError:
            return None
        if acknowledgement is None or acknowledgement[0][-1].stop > self._packet_number:
            return None
        ranges, delay, after = acknowledgement
        delay <<= self._remote_ack_delay_exponent
        established.loss.acknowledge(ranges, delay / 1_000_000, now, established.space)
        return after

    def _take_stream_frame(self, frames: bytes, position: int, kind: int) -> int | None:
        """Take a STREAM frame that continues its stream and return where it ends; None if it is any other."""
        try:
            stream_id, position = read_varint(frames, position + 1)
            start = 0
            if kind & _OFFSET:
                start, position = read_varint(frames, position)
            after = len(frames)
            if kind & _LENGTH:
                length, position = read_varint(frames, position)
                after = position + length
        except IndexError:
            return None
        if after > len(frames) or position == after:
            return None
        stream = self._stream_of(stream_id, kind)
        if stream is None:
            return None
        receiver = stream.receiver
        stop = start + after - position
        grown = stop - receiver.highest_offset
        limit = self._local_max_data
        if (
            receiver.is_finished
            or receiver._final_size is not None
            or start != receiver._buffer_start
            or receiver._buffer
            or grown != after - position
            or stop > stream.max_stream_data_local
            or limit.used + grown > limit.value
        ):
            return None
        limit.used += grown
        self._append(stream, receiver, frames[position:after], ends=bool(kind & _FIN))
        return after

    def _append(self, stream: Stream, receiver: StreamReceiver, data: bytes, *, ends: bool) -> None:
        """Take the next bytes of a stream."""
        receiver._buffer_start = receiver.highest_offset = receiver._buffer_start + len(data)
        self._events.append(StreamDataReceived(data, ends, stream.stream_id or 0))
        if ends:
            receiver._final_size = receiver._buffer_start
            receiver.is_finished = True
            if stream.sender.is_finished:
                self._table.finished.append(stream)
        elif receiver.highest_offset * 2 > stream.max_stream_data_local:
            self._table.has_received(stream)

    def _stream_of(self, stream_id: int, kind: int) -> Stream | None:
        """Return the stream of a frame, opened if the peer may; None if the inherited code has to say what is wrong."""
        stream = self._streams.get(stream_id)
        if stream is None:
            if (stream_id & 1) != self._is_client:
                return None
            try:
                stream = self._get_or_create_stream(kind, stream_id)
            except StreamFinishedError:
                return None
        return stream if isinstance(stream, Stream) else None
