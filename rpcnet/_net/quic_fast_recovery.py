"""Bookkeeping of what was received and of what was sent, without the walks that the common case does not need.

The rules of this file:

* Loss detection, round-trip times, pacing and congestion control are the engine's own, with the engine's own state;
  only the ways to them are shorter. What is rare is left to the inherited code.
* An acknowledgement visits the packets it acknowledges and those sent before them, which are few: whatever was sent
  three packets before an acknowledged one counts as lost and is gone (RFC 9002, 6.1.1).
* Received packets come in order but for a few: a range that only grows at its end costs nothing to grow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from aioquic import tls
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicDeliveryState, QuicSentPacket
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import QuicPacketRecovery, QuicPacketSpace

from .quic_fast_packets import read_varint, write_varint

__all__ = ["PacketRanges", "Recovery", "SentPacket", "read_acknowledgement", "write_acknowledgement"]

_ACK = b"\x02"
_RANGE_BYTES = 16  # two numbers, at most
_FIXED_RANGES = 3  # what the frame holds before the first of the older ranges, in ranges


class SentPacket(QuicSentPacket):
    """A 1-RTT packet on its way; what the engine's class makes lists for is made only where it is used."""

    epoch = tls.Epoch.ONE_RTT
    packet_type = QuicPacketType.ONE_RTT
    is_crypto_packet = False

    def __init__(
        self,
        packet_number: int,
        sent_time: float,
        sent_bytes: int,
        delivery_handlers: list[tuple[Callable[..., None], Any]],
        *,
        is_ack_eliciting: bool,
    ) -> None:
        self.packet_number = packet_number
        self.sent_time = sent_time
        self.sent_bytes = sent_bytes
        self.delivery_handlers = delivery_handlers
        self.is_ack_eliciting = self.in_flight = is_ack_eliciting


class PacketRanges(RangeSet):
    """Ranges of packet numbers, or of bytes, that mostly grow at their end and are taken away from their start."""

    _RangeSet__ranges: list[range]

    def __init__(self) -> None:
        super().__init__()
        self.ranges = self._RangeSet__ranges
        """The ranges in ascending order, always the same list."""

    def add(self, start: int, stop: int | None = None) -> None:
        """Add a number, or a range of them."""
        ranges = self.ranges
        end = start + 1 if stop is None else stop
        if not ranges:
            ranges.append(range(start, end))
        elif ranges[-1].stop == start:
            ranges[-1] = range(ranges[-1].start, end)
        else:
            super().add(start, end)

    def subtract(self, start: int, stop: int) -> None:
        """Remove a range of numbers."""
        ranges = self.ranges
        if not ranges or start > ranges[0].start or stop <= ranges[0].start:
            super().subtract(start, stop)
        elif stop < ranges[0].stop:
            ranges[0] = range(stop, ranges[0].stop)
        elif stop >= ranges[-1].stop:
            ranges.clear()
        else:
            super().subtract(start, stop)


class Recovery(QuicPacketRecovery):
    """The engine's recovery, with a shorter way from an acknowledgement to what follows from it."""

    def register(self, packet: SentPacket, space: QuicPacketSpace, now: float) -> None:
        """Note a packet as sent, as ``on_packet_sent`` does."""
        space.sent_packets[packet.packet_number] = packet
        if packet.is_ack_eliciting:
            space.ack_eliciting_in_flight += 1
            self._time_of_last_sent_ack_eliciting_packet = now
            self._cc.on_packet_sent(packet=packet)

    def acknowledge(self, ranges: Sequence[range], ack_delay: float, now: float, space: QuicPacketSpace) -> None:
        """Do what follows from an acknowledgement, as ``on_ack_received`` does.

        Args:
            ranges: the packet numbers it names, in ascending order.
            ack_delay: seconds that the peer says it took its time.
            now: the current time.
            space: the packet numbers they belong to.
        """
        sent = space.sent_packets
        largest = ranges[-1].stop - 1
        space.largest_acked_packet = max(space.largest_acked_packet, largest)
        acked = _named_by(ranges, sent)
        if not acked:
            return
        on_packet_acked = self._cc.on_packet_acked
        eliciting = 0
        for number in acked:
            packet = sent.pop(number)
            eliciting += packet.is_ack_eliciting
            if packet.in_flight:
                on_packet_acked(packet=packet, now=now)
            for handler, args in packet.delivery_handlers:
                handler(QuicDeliveryState.ACKED, *args)
        space.ack_eliciting_in_flight -= eliciting
        if packet.packet_number == largest and eliciting and packet.sent_time is not None:
            self._measure(now - packet.sent_time, ack_delay, now)
        if next(iter(sent), largest + 1) <= largest:
            self._detect_loss(now=now, space=space)
        else:
            space.loss_time = None
        if self.peer_completed_address_validation:
            self._pto_count = 0

    def _measure(self, latest: float, ack_delay: float, now: float) -> None:
        """Take a round-trip time into account (RFC 9002, 5.3), in the engine's own way."""
        recent = max(latest, 0.001)
        self._rtt_min = min(self._rtt_min, recent)
        ack_delay = min(ack_delay, self.max_ack_delay)
        if recent > self._rtt_min + ack_delay:
            recent -= ack_delay
        self._rtt_latest = recent
        if self._rtt_initialized:
            self._rtt_variance = 0.75 * self._rtt_variance + 0.25 * abs(self._rtt_min - recent)
            self._rtt_smoothed = 0.875 * self._rtt_smoothed + 0.125 * recent
        else:
            self._rtt_first_sample_time = now
            self._rtt_initialized = True
            self._rtt_variance = latest / 2
            self._rtt_smoothed = latest
        self._cc.on_rtt_measurement(now=now, rtt=latest)
        self._pacer.update_rate(congestion_window=self._cc.congestion_window, smoothed_rtt=self._rtt_smoothed)


def _named_by(ranges: Sequence[range], sent: dict[int, QuicSentPacket]) -> list[int]:
    """Return which packets on their way an acknowledgement names, in ascending order."""
    named: list[int] = []
    places = iter(ranges)
    place = next(places)
    start, stop = place.start, place.stop
    for number in sent:
        while number >= stop:
            following = next(places, None)
            if following is None:
                return named
            start, stop = following.start, following.stop
        if number >= start:
            named.append(number)
    return named


def read_acknowledgement(data: bytes, position: int) -> tuple[list[range], int, int] | None:
    """Return the ranges of an ACK frame in ascending order, its delay as it stands there, and where it ends.

    Returns None for a packet number below zero.

    Raises:
        IndexError: if it is truncated.
    """
    largest, position = read_varint(data, position + 1)
    delay, position = read_varint(data, position)
    count, position = read_varint(data, position)
    length, position = read_varint(data, position)
    smallest = largest - length
    ranges = [range(smallest, largest + 1)]
    for _ in range(count):
        gap, position = read_varint(data, position)
        length, position = read_varint(data, position)
        largest = smallest - gap - 2
        smallest = largest - length
        ranges.append(range(smallest, largest + 1))
    ranges.reverse()
    return None if smallest < 0 else (ranges, delay, position)


def write_acknowledgement(ranges: list[range], delay: int, max_bytes: int) -> bytes:
    """Return an ACK frame, without the oldest ranges if it has no room for them (RFC 9000, 13.2.3)."""
    newest = ranges[-1]
    largest, smallest = newest.stop - 1, newest.start
    if len(ranges) == 1:
        return b"".join((_ACK, write_varint(largest), write_varint(delay), b"\0", write_varint(largest - smallest)))
    first = write_varint(largest - smallest)
    more: list[bytes] = []
    older_ranges = max(0, max_bytes // _RANGE_BYTES - _FIXED_RANGES)
    for older in ranges[-2 : -2 - older_ranges : -1]:
        more += (write_varint(smallest - older.stop - 1), write_varint(older.stop - older.start - 1))
        smallest = older.start
    return b"".join((_ACK, write_varint(largest), write_varint(delay), write_varint(len(more) // 2), first, *more))
