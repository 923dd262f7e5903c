"""Bodies of control frames and errors: what was encoded comes out again, what nobody encoded is refused by name."""

from __future__ import annotations

import contextlib

import attrs
import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._core.bodies import (
    Hello,
    MethodEntry,
    ServiceEntry,
    decode_error,
    decode_hello,
    decode_metadata,
    encode_error,
    encode_hello,
    encode_metadata,
    join_metadata,
    split_metadata,
)
from rpcnet.errors import Hop, InvalidArgument, NotFound, ProtocolError, ResourceExhausted
from rpcnet.service import Shape

methods = st.builds(
    MethodEntry,
    name=st.text(),
    number=st.integers(0, 0xFFFF),
    idempotent=st.booleans(),
    shape=st.sampled_from(Shape),
    schema=st.text(),
)
services = st.builds(
    ServiceEntry, name=st.text(), version=st.integers(0, 1 << 40), methods=st.lists(methods, max_size=3).map(tuple)
)
hellos = st.builds(
    Hello,
    protocol_min=st.integers(0, 1 << 20),
    protocol_max=st.integers(0, 1 << 20),
    library=st.text(),
    node_id=st.text(),
    boot_id=st.integers(0, (1 << 64) - 1),
    max_calls=st.integers(1, 1 << 32),
    max_message_bytes=st.integers(1, 1 << 32),
    max_request_bytes=st.integers(1, 1 << 40),
    stream_window_bytes=st.integers(1, 1 << 32),
    tracebacks=st.booleans(),
    services=st.lists(services, max_size=3).map(tuple),
)


@given(st.text(max_size=100), st.none() | st.text(max_size=20))
@settings(deadline=None)
def test_an_error_survives_the_wire(message: str, call_id: str | None) -> None:
    sent = NotFound(message, call_id=call_id)
    error = decode_error(sent.status, encode_error(sent), never_ran=True)
    assert type(error) is NotFound
    assert (error.message, error.call_id, error.never_ran) == (message, call_id, True)


def test_a_long_error_message_is_cut() -> None:
    error = decode_error(5, encode_error(NotFound("x" * 100_000)), never_ran=False)
    assert error.message == "x" * 8192


@given(hellos)
@settings(deadline=None)
def test_a_hello_survives_the_wire(hello: Hello) -> None:
    assert decode_hello(encode_hello(hello)) == hello


def test_a_hello_with_fields_of_a_later_version_is_understood() -> None:
    hello = Hello(protocol_min=1, protocol_max=9, library="9", node_id="n", boot_id=1, max_calls=1, max_message_bytes=1)
    later = {**cbor2.loads(encode_hello(hello)), "colour": "blue"}
    assert decode_hello(cbor2.dumps(later)) == hello


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_a_body_of_garbage_gives_a_protocol_error_and_nothing_else(body: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        decode_hello(body)
    with contextlib.suppress(ProtocolError):
        decode_error(5, body, never_ran=False)
    with contextlib.suppress(InvalidArgument):
        decode_metadata(body, 1000)


WRONG_FIELDS: list[tuple[str, object]] = [
    ("min", None),
    ("max", "1"),
    ("lib", 1),
    ("node", b"n"),
    ("boot", 1.5),
    ("calls", 0),
    ("calls", -5),
    ("bytes", 0),
    ("services", {}),
    ("services", [["a", 1]]),
    ("services", [["a", "1", []]]),
    ("services", [["a", 1, [["m", 70_000, True, 0, ""]]]]),
    ("services", [["a", 1, [["m", -1, True, 0, ""]]]]),
    ("services", [["a", 1, [["m", 1, 1, 0, ""]]]]),
    ("services", [["a", 1, [["m", 1, True]]]]),
    ("services", [["a", 1, [["m", 1, True, 4, ""]]]]),
    ("services", [["a", 1, [["m", 1, True, 0, None]]]]),
    ("room", 0),
    ("window", 0),
    ("tb", 1),
]


@pytest.mark.parametrize(("field", "value"), WRONG_FIELDS)
def test_a_hello_with_a_wrong_field_is_refused_by_the_frames_name(field: str, value: object) -> None:
    hello = Hello(protocol_min=1, protocol_max=1, library="1", node_id="n", boot_id=1, max_calls=1, max_message_bytes=1)
    wrong = {**cbor2.loads(encode_hello(hello)), field: value}
    with pytest.raises(ProtocolError, match="HELLO frame"):
        decode_hello(cbor2.dumps(wrong))
    del wrong[field]
    with pytest.raises(ProtocolError, match="HELLO frame"):
        decode_hello(cbor2.dumps(wrong))


def test_a_hello_with_a_method_table_above_the_limit_of_nesting_is_refused() -> None:
    nested: object = []
    for _ in range(50):
        nested = [nested]
    hello = Hello(protocol_min=1, protocol_max=1, library="1", node_id="n", boot_id=1, max_calls=1, max_message_bytes=1)
    with pytest.raises(ProtocolError, match="not valid CBOR"):
        decode_hello(cbor2.dumps({**attrs.asdict(hello), "services": nested}))


@given(st.text(max_size=2000), st.integers(128, 4096))
@settings(deadline=None)
def test_an_error_is_cut_to_what_the_other_side_takes(message: str, limit: int) -> None:
    error = NotFound(message, call_id="0123456789ab", hops=(Hop("n" * 100, "m" * 100),), remote_traceback="t" * 5000)
    error.wire_fields = ("Lost", b"f" * 500)
    body = encode_error(error, limit)
    assert len(body) <= limit
    assert message.startswith(decode_error(5, body, never_ran=False).message)


@given(st.lists(st.builds(Hop, st.text(max_size=5), st.text(max_size=5), st.none() | st.text(max_size=5)), max_size=4))
@settings(deadline=None)
def test_the_chain_of_nodes_and_the_traceback_of_an_error_survive_the_wire(hops: list[Hop]) -> None:
    sent = NotFound("gone", hops=tuple(hops), remote_traceback="Traceback")
    sent.wire_fields = ("Lost", b"\x81\x03")
    error = decode_error(5, encode_error(sent), never_ran=False)
    assert error.hops == tuple(hops)
    assert error.remote_traceback == "Traceback"
    assert error.wire_fields == ("Lost", b"\x81\x03")


def test_an_error_whose_hops_are_no_hops_is_refused() -> None:
    with pytest.raises(ProtocolError, match="hop"):
        decode_error(5, cbor2.dumps(["m", None, {"hops": [1]}]), never_ran=False)


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=20), min_size=1), st.binary())
@settings(deadline=None)
def test_metadata_lies_in_front_of_the_arguments(metadata: dict[str, str], arguments: bytes) -> None:
    encoded, rest = split_metadata(join_metadata(encode_metadata(metadata, 10_000), arguments))
    assert rest == arguments
    assert decode_metadata(encoded, 10_000) == metadata


def test_metadata_above_the_limit_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(ResourceExhausted, match="metadata of 101 bytes is above the limit of 100"):
        decode_metadata(b"\xff" * 101, 100)
    with pytest.raises(ResourceExhausted, match="above the limit of 100"):
        encode_metadata({"a": "x" * 100}, 100)


@pytest.mark.parametrize("body", [b"\x01", b"\xff", cbor2.dumps({1: "a"}), cbor2.dumps({"a": 1}), cbor2.dumps([])])
def test_metadata_that_is_no_map_of_text_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidArgument, match="metadata"):
        decode_metadata(body, 100)


def test_metadata_longer_than_its_frame_is_out_of_place() -> None:
    with pytest.raises(ProtocolError, match="CALL_WITH_METADATA"):
        split_metadata(b"\x00\x00\x00\x05abcd")
