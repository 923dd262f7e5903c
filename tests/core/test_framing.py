"""Frames: whatever was encoded comes out again, however the bytes arrive; what nobody encoded is refused by name."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._core.framing import (
    HEADER_BYTES,
    MAX_TIMEOUT_MS,
    Frame,
    FrameKind,
    FrameReader,
    encode_frame,
    timeout_to_wire,
)
from rpcnet.errors import ProtocolError

LIMIT = 256

frames = st.builds(
    Frame,
    kind=st.sampled_from([int(kind) for kind in FrameKind]),
    call_id=st.integers(0, 0xFFFF_FFFF),
    a=st.integers(0, 0xFFFF),
    b=st.integers(0, 0xFFFF_FFFF),
    body=st.binary(max_size=LIMIT),
)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut bytes into pieces of these sizes, again and again, until nothing is left."""
    pieces, turn = [], 0
    while data:
        size = sizes[turn % len(sizes)]
        pieces.append(data[:size])
        data = data[size:]
        turn += 1
    return pieces


@given(st.lists(frames, max_size=8), st.lists(st.integers(1, 300), min_size=1, max_size=6))
@settings(deadline=None)
def test_frames_survive_any_chunking(sent: list[Frame], sizes: list[int]) -> None:
    reader = FrameReader(LIMIT)
    received = []
    for piece in cut(b"".join(encode_frame(*frame) for frame in sent), sizes):
        received += reader.feed(piece)
    assert received == sent
    assert reader.is_between_frames


@given(frames, st.data())
@settings(deadline=None)
def test_a_reader_knows_that_it_is_in_the_middle_of_a_frame(frame: Frame, data: st.DataObject) -> None:
    encoded = encode_frame(*frame)
    middle = data.draw(st.integers(1, len(encoded) - 1))
    reader = FrameReader(LIMIT)
    assert reader.feed(encoded[:middle]) == []
    assert not reader.is_between_frames
    assert reader.feed(encoded[middle:]) == [frame]
    assert reader.is_between_frames


@given(st.lists(st.binary(max_size=80), max_size=10))
@settings(deadline=None)
def test_garbage_gives_frames_or_a_protocol_error_and_nothing_else(pieces: list[bytes]) -> None:
    reader = FrameReader(LIMIT)
    with contextlib.suppress(ProtocolError):
        for piece in pieces:
            for frame in reader.feed(piece):
                assert frame.kind in set(FrameKind)
                assert len(frame.body) <= LIMIT


def test_a_length_above_the_limit_is_refused_by_its_header_before_the_body_is_collected() -> None:
    header = encode_frame(FrameKind.CALL, 1, body=b"x" * (LIMIT + 1))[:HEADER_BYTES]
    with pytest.raises(ProtocolError, match=f"CALL frame of {LIMIT + 1} bytes on a stream limited to {LIMIT} bytes"):
        FrameReader(LIMIT).feed(header)


def test_a_body_of_exactly_the_limit_is_taken() -> None:
    frame = Frame(FrameKind.RESULT, 1, 0, 0, b"x" * LIMIT)
    assert FrameReader(LIMIT).feed(encode_frame(*frame)) == [frame]


@given(st.integers(0, 255).filter(lambda kind: kind not in set(FrameKind)))
@settings(deadline=None)
def test_an_unknown_kind_is_refused_by_number(kind: int) -> None:
    with pytest.raises(ProtocolError, match=f"unknown kind {kind}"):
        FrameReader(LIMIT).feed(struct.pack(">IBIHI", 0, kind, 0, 0, 0))


def test_a_frame_after_a_refused_one_is_not_looked_at() -> None:
    good = encode_frame(FrameKind.CANCEL, 1)
    bad = struct.pack(">IBIHI", 0, 77, 0, 0, 0)
    with pytest.raises(ProtocolError):
        FrameReader(LIMIT).feed(good + bad + good)


# --- deadlines


@given(st.floats(0, MAX_TIMEOUT_MS / 1000 - 1))
@settings(deadline=None)
def test_a_deadline_travels_rounded_up_and_by_less_than_two_milliseconds(seconds: float) -> None:
    wire = timeout_to_wire(seconds)
    assert 1 <= wire <= MAX_TIMEOUT_MS
    assert seconds * 1000 <= wire < seconds * 1000 + 2


@given(st.floats(max_value=0))
@settings(deadline=None)
def test_a_deadline_in_the_past_travels_as_one_millisecond_not_as_for_ever(seconds: float) -> None:
    assert timeout_to_wire(seconds) == 1


@pytest.mark.parametrize("seconds", [MAX_TIMEOUT_MS / 1000, 1e12, float("inf")])
def test_a_deadline_too_far_to_write_down_travels_as_none(seconds: float) -> None:
    assert timeout_to_wire(seconds) == 0
