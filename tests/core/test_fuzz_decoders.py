"""Whatever reads the bytes of strangers returns a value or raises one of its documented errors, whatever they are."""

from __future__ import annotations

import tracemalloc

import attrs
import cbor2
import pytest
from _decoders import DECODERS, Decoder, mutate
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._core.bodies import Hello, decode_error, decode_hello, encode_error, encode_hello
from rpcnet.errors import Hop, NotFound, ProtocolError

changes = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 8), st.binary(max_size=8) | st.sampled_from([b"\xff" * 9, b"\x00"])),
    min_size=1,
    max_size=6,
)
scalars = st.none() | st.booleans() | st.integers(-(1 << 80), 1 << 80) | st.floats() | st.text() | st.binary()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
)
each = pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)


@each
def test_a_real_encoding_is_read(decoder: Decoder) -> None:
    for seed in decoder.seeds:
        decoder.read(seed)


@each
@given(st.data())
@settings(max_examples=60)
def test_a_real_encoding_that_was_changed_is_read_or_refused(decoder: Decoder, data: st.DataObject) -> None:
    decoder.survive(mutate(data.draw(st.sampled_from(decoder.seeds)), data.draw(changes)))


@each
@given(st.binary(max_size=300))
@settings(max_examples=50)
def test_arbitrary_bytes_are_read_or_refused(decoder: Decoder, data: bytes) -> None:
    decoder.survive(data)


@each
@given(values, st.integers(0, 255))
@settings(max_examples=50)
def test_any_cbor_item_is_read_or_refused(decoder: Decoder, value: object, first: int) -> None:
    encoded = cbor2.dumps(value)
    decoder.survive(encoded)
    decoder.survive(bytes([first]) + encoded)
    decoder.survive(bytes([first]) + cbor2.dumps([value, value]))


@each
def test_no_bytes_make_a_decoder_take_much_more_memory_than_they_are_long(decoder: Decoder) -> None:
    bombs = [head + b"\x7f" + b"\xff" * 7 for head in (b"\x5b", b"\x7b", b"\x9b", b"\xbb")]
    bombs += [b"\x9a\x7f\xff\xff\xff" * 12, b"\x81" * 5000, b"\xc2\x5a\x00\x0f\x42\x40" + bytes(1_000)]
    for seed in decoder.seeds:
        bombs += [seed[:at] + bomb for at in range(0, len(seed), 11) for bomb in bombs[:4]]
    tracemalloc.start()
    try:
        for bomb in bombs:
            for first in (b"", b"\x03", b"\x07"):
                tracemalloc.reset_peak()
                before, _ = tracemalloc.get_traced_memory()
                decoder.survive(first + bomb)
                _, peak = tracemalloc.get_traced_memory()
                assert peak - before < 4_000_000
    finally:
        tracemalloc.stop()


# --- what was found


HELLO = Hello(protocol_min=1, protocol_max=1, library="1", node_id="n", boot_id=1, max_calls=1, max_message_bytes=1)


@pytest.mark.parametrize("field", ["min", "max", "boot", "calls", "bytes", "room", "window"])
@pytest.mark.parametrize("value", [1 << 64, 1 << 8000, -1])
def test_a_hello_with_a_number_that_no_side_means_is_refused(field: str, value: int) -> None:
    wild = {**cbor2.loads(encode_hello(HELLO)), field: value}
    with pytest.raises(ProtocolError, match="HELLO frame"):
        decode_hello(cbor2.dumps(wild))


@pytest.mark.parametrize("field", ["lib", "node"])
def test_a_hello_with_a_name_as_long_as_a_book_is_refused(field: str) -> None:
    wild = {**cbor2.loads(encode_hello(HELLO)), field: "x" * 257}
    with pytest.raises(ProtocolError, match="out of range"):
        decode_hello(cbor2.dumps(wild))


@pytest.mark.parametrize(
    "services",
    [
        [["s" * 257, 1, []]],
        [["s", 1 << 64, []]],
        [["s", 1, [["m" * 257, 0, True, 0, ""]]]],
        [["s", 1, [["m", 0, True, 0, "x" * 257]]]],
    ],
)
def test_a_hello_with_a_table_of_books_is_refused(services: object) -> None:
    wild = {**cbor2.loads(encode_hello(HELLO)), "services": services}
    with pytest.raises(ProtocolError, match=r"HELLO frame: a (service|method) must be"):
        decode_hello(cbor2.dumps(wild))


@pytest.mark.parametrize("tag", [0, 1, 4, 5, 25, 28, 29, 30, 35, 36, 258, 260])
def test_a_control_body_with_a_tag_is_refused(tag: int) -> None:
    wild = {**cbor2.loads(encode_hello(HELLO)), "later": cbor2.CBORTag(tag, "1")}
    with pytest.raises(ProtocolError, match="HELLO frame: the body is not valid CBOR"):
        decode_hello(cbor2.dumps(wild))


@pytest.mark.parametrize("message", ["\udc80 is no text", "caf\udce9", "\ud800"])
def test_an_error_whose_text_cannot_be_encoded_is_sent_all_the_same(message: str) -> None:
    error = NotFound(message, call_id=message, hops=(Hop(message, message, message),), remote_traceback=message)
    received = decode_error(5, encode_error(error), never_ran=False)
    assert received.message == message.encode(errors="backslashreplace").decode()
    assert received.hops[0].node == received.remote_traceback == received.call_id == received.message


def test_an_error_whose_message_is_no_text_is_sent_all_the_same() -> None:
    error = NotFound(404, call_id=7)  # type: ignore[arg-type]
    received = decode_error(5, encode_error(error), never_ran=False)
    assert (received.message, received.call_id) == ("404", "7")


def test_the_texts_of_an_error_are_cut_by_the_receiver_as_well() -> None:
    book = "x" * 100_000
    more = {"hops": [[book, book, book]] * 40, "app": [book, b"fields"], "tb": book}
    error = decode_error(5, cbor2.dumps([book, book, more]), never_ran=False)
    assert len(error.message) == 8192
    assert len(error.call_id or "") == 256
    assert len(error.hops) == 32
    assert [len(attrs.astuple(hop)[0]) for hop in error.hops] == [256] * 32
    assert len(error.remote_traceback or "") == 65536
    assert error.wire_fields == ("x" * 256, b"fields")
