"""The parts of the short ways, each beside the part of the engine that it stands in for."""

from __future__ import annotations

import copy
from typing import Any

import attrs
import pytest
from aioquic._crypto import CryptoError
from aioquic.buffer import Buffer, encode_uint_var  # type: ignore[attr-defined]
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicProtocolVersion, pull_ack_frame, push_ack_frame
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import QuicPacketRecovery, QuicPacketSpace
from aioquic.tls import CipherSuite
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._net.quic_fast_packets import PacketKeys, read_varint, write_varint
from rpcnet._net.quic_fast_recovery import (
    PacketRanges,
    Recovery,
    SentPacket,
    read_acknowledgement,
    write_acknowledgement,
)

CID = b"01234567"
VARINTS = st.one_of(st.integers(0, 70), st.integers(0, 1 << 15), st.integers(0, 1 << 31), st.integers(0, (1 << 62) - 1))
SUITES = [
    CipherSuite.AES_128_GCM_SHA256,
    CipherSuite.AES_256_GCM_SHA384,
    CipherSuite.CHACHA20_POLY1305_SHA256,
]


@given(VARINTS, st.binary(max_size=9))
def test_numbers_are_written_and_read_as_the_engine_does(value: int, rest: bytes) -> None:
    written = write_varint(value)
    assert written == encode_uint_var(value)
    assert read_varint(b"?" + written + rest, 1) == (value, 1 + len(written))


@pytest.mark.parametrize("value", [0, 64, 1 << 14, 1 << 30])
def test_a_truncated_number_is_none(value: int) -> None:
    written = write_varint(value)
    for size in range(len(written)):
        with pytest.raises(IndexError):
            read_varint(written[:size], 0)


@st.composite
def packet_ranges(draw: st.DrawFn) -> list[range]:
    ranges = []
    start = draw(st.integers(0, 1 << 20))
    for gap, length in draw(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 20_000)), min_size=1, max_size=64)):
        ranges.append(range(start, start + length))
        start += length + gap
    return ranges


@settings(max_examples=50)
@given(packet_ranges(), st.integers(0, 1 << 20))
def test_an_acknowledgement_is_written_and_read_as_the_engine_does(ranges: list[range], delay: int) -> None:
    buffer = Buffer(capacity=2000)
    buffer.push_uint_var(2)
    push_ack_frame(buffer, RangeSet(ranges), delay, 1900)
    written = write_acknowledgement(ranges, delay, 1200)
    assert written == buffer.data
    assert read_acknowledgement(b"?" + written + b"?", 1) == (ranges, delay, 1 + len(written))
    buffer = Buffer(data=written)
    buffer.pull_uint_var()
    assert pull_ack_frame(buffer) == (RangeSet(ranges), delay)


@settings(max_examples=50)
@given(packet_ranges(), st.integers(60, 400))
def test_an_acknowledgement_without_room_names_the_newest_packets(ranges: list[range], room: int) -> None:
    written = write_acknowledgement(ranges, 7, room)
    assert len(written) <= room
    found = read_acknowledgement(written, 0)
    assert found is not None
    assert found[0] == ranges[-len(found[0]) :]


@settings(max_examples=50)
@given(packet_ranges())
def test_a_truncated_acknowledgement_is_none(ranges: list[range]) -> None:
    written = write_acknowledgement(ranges, 7, 1200)
    for size in range(1, len(written), 7):
        with pytest.raises(IndexError):
            read_acknowledgement(written[:size], 0)


def test_an_acknowledgement_of_packets_below_zero_is_none() -> None:
    assert read_acknowledgement(b"\x02\x05\x00\x00\x06", 0) is None
    assert read_acknowledgement(b"\x02\x05\x00\x01\x05\x00\x00", 0) is None


@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.integers(1, 8)), max_size=60))
def test_packet_ranges_are_the_engine_s_ranges(steps: list[tuple[bool, int, int]]) -> None:
    ours, theirs = PacketRanges(), RangeSet()
    for adds, start, size in steps:
        for ranges in (ours, theirs):
            if not adds:
                ranges.subtract(0 if size % 2 else start, start + size)
            elif size == 1:
                ranges.add(start)
            else:
                ranges.add(start, start + size)
        assert list(ours) == list(theirs)


def pair_of_keys(suite: CipherSuite) -> tuple[CryptoPair, CryptoPair]:
    here, there = CryptoPair(), CryptoPair()
    for one, other, secret in ((here, there, b"a" * 48), (there, here, b"b" * 48)):
        for context in (one.send, other.recv):
            context.setup(cipher_suite=suite, secret=secret, version=QuicProtocolVersion.VERSION_1)
    return here, there


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("spin", [False, True])
def test_the_engine_opens_what_we_seal(suite: CipherSuite, spin: bool) -> None:
    here, there = pair_of_keys(suite)
    keys = PacketKeys(here)
    for number in (0, 255, 70_000):
        sealed = keys.seal(b"frames", CID, number, spin=spin)
        header, frames, found = there.decrypt_packet(sealed, 1 + len(CID), max(0, number - 5))
        assert (frames, found) == (b"frames", number)
        assert header[0] == 0x41 | spin << 5
        assert header[1:9] == CID


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_we_open_what_the_engine_seals(suite: CipherSuite, size: int) -> None:
    here, there = pair_of_keys(suite)
    keys = PacketKeys(there)
    number = (1 << 8 * size) + 5
    header = bytes((0x40 | size - 1,)) + CID + (number % (1 << 8 * size)).to_bytes(size, "big")
    sealed = here.encrypt_packet(header, b"some frames", number)
    assert keys.open(sealed, 1 + len(CID), number - 3) == (0x40 | size - 1, number, b"some frames")
    assert keys.open(sealed, 1 + len(CID), number + (3 << 8 * size)) is None
    for place in range(9, len(sealed)):
        mangled = sealed[:place] + bytes((sealed[place] ^ 1,)) + sealed[place + 1 :]
        assert keys.open(mangled, 1 + len(CID), number) is None


@pytest.mark.parametrize("suite", SUITES)
def test_keys_of_the_next_phase_are_the_engine_s_to_find_and_then_ours(suite: CipherSuite) -> None:
    here, there = pair_of_keys(suite)
    keys, other_keys = PacketKeys(here), PacketKeys(there)
    old = other_keys.seal(b"old frames", CID, 1, spin=False)
    there.update_key()
    header = bytes((0x40 | there.key_phase << 2,)) + CID + b"\x02"
    sealed = there.encrypt_packet(header, b"new frames", 2)
    assert keys.open(sealed, 9, 2) is None
    assert here.decrypt_packet(sealed, 9, 2)[1] == b"new frames"
    again = other_keys.seal(b"more frames", CID, 3, spin=False)
    assert keys.open(again, 9, 3) == (0x45, 3, b"more frames")
    assert other_keys.open(keys.seal(b"an answer", CID, 0, spin=False), 9, 0) == (0x45, 0, b"an answer")
    assert keys.open(old, 9, 1) is None
    with pytest.raises(CryptoError):
        here.decrypt_packet(old, 9, 1)


def test_a_packet_with_reserved_bits_is_left_to_the_engine() -> None:
    here, there = pair_of_keys(SUITES[0])
    sealed = here.encrypt_packet(b"\x51" + CID + b"\0\1", b"frames", 1)
    assert PacketKeys(there).open(sealed, 9, 1) is None


def test_keys_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="no keys"):
        PacketKeys(CryptoPair())


# --- recovery


@attrs.define(eq=False)
class Twin:
    """One of two recoveries to which the same happens."""

    recovery: QuicPacketRecovery
    space: QuicPacketSpace
    told: list[tuple[str, int]] = attrs.field(factory=list)
    number: int = 0

    @classmethod
    def make(cls, kind: type[QuicPacketRecovery]) -> Twin:
        recovery = kind(
            congestion_control_algorithm="reno",
            initial_rtt=0.1,
            max_datagram_size=1200,
            peer_completed_address_validation=True,
            send_probe=lambda: None,
        )
        recovery.handshake_confirmed = True
        space = QuicPacketSpace(is_application_data=True)
        recovery.spaces = [space]
        return cls(recovery, space)

    def send(self, now: float, size: int, *, eliciting: bool) -> None:
        packet = SentPacket(self.number, now, size, [(self.hear, (self.number,))], is_ack_eliciting=eliciting)
        self.recovery.on_packet_sent(packet=packet, space=self.space)
        self.number += 1

    def hear(self, delivery: QuicDeliveryState, number: int) -> None:
        self.told.append((delivery.name, number))

    def state(self) -> dict[str, Any]:
        recovery = vars(self.recovery).copy()
        for name in ("spaces", "_send_probe", "_cc", "_pacer"):
            del recovery[name]
        congestion = {name: value for name, value in vars(self.recovery._cc).items() if name != "_rtt_monitor"}
        space = vars(self.space).copy()
        space["sent_packets"] = list(self.space.sent_packets)
        for name in ("ack_queue", "received_packets"):
            del space[name]
        return {**recovery, **congestion, **vars(self.recovery._pacer), **space, "told": self.told}


STEPS = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 12), st.booleans()),
    st.tuples(st.just("acknowledge"), packet_ranges(), st.floats(0, 0.05)),
    st.tuples(st.just("wait"), st.floats(0, 0.3), st.just(None)),
    st.tuples(st.just("timeout"), st.just(None), st.just(None)),
)


@settings(max_examples=50)
@given(st.lists(STEPS, max_size=60))
def test_an_acknowledgement_does_what_the_engine_s_does(steps: list[tuple[str, Any, Any]]) -> None:
    ours, theirs = Twin.make(Recovery), Twin.make(QuicPacketRecovery)
    now = 1.0
    for what, first, second in steps:
        if what == "wait":
            now += first
        for twin in (ours, theirs):
            if what == "send":
                for _ in range(first):
                    twin.send(now, 1200, eliciting=second)
            elif what == "timeout":
                twin.recovery.on_loss_detection_timeout(now=now)
            elif what == "acknowledge" and twin.number:
                _acknowledge(twin, _within(first, twin.number), second, now)
        assert ours.state() == theirs.state()


def _within(ranges: list[range], number: int) -> list[range]:
    """Bring ranges down to packet numbers that were sent, without order or distance being lost on the way."""
    wanted = RangeSet()
    for found in copy.copy(ranges):
        start = found.start % number
        wanted.add(start, min(number, start + 1 + len(found) % 7))
    return list(wanted)


def _acknowledge(twin: Twin, ranges: list[range], delay: float, now: float) -> None:
    if isinstance(twin.recovery, Recovery):
        twin.recovery.acknowledge(ranges, delay, now, twin.space)
    else:
        twin.recovery.on_ack_received(ack_rangeset=RangeSet(ranges), ack_delay=delay, now=now, space=twin.space)
