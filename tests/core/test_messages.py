"""The membership messages on the wire."""

from __future__ import annotations

import tracemalloc

import attrs
import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._core.members import MAX_INLINE_BYTES, MemberRecord, encode_metadata
from rpcnet._core.messages import (
    MAX_ACCUSERS,
    MAX_PAYLOAD_BYTES,
    Accusation,
    Ack,
    Datagram,
    Head,
    MessageError,
    Ping,
    PingReq,
    Status,
    Update,
    decode_datagram,
    decode_state,
    encode_datagram,
    encode_head,
    encode_state,
    encode_update,
    quantize,
)
from rpcnet.errors import ProtocolError
from rpcnet.events import NodeState

ids = st.binary(min_size=16, max_size=16).map(bytes.hex)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
u32 = st.integers(0, 2**32 - 1)
statuses = st.builds(Status, st.integers(0, 2**63 - 1), u32, st.sampled_from(NodeState), u32)
addresses = st.sampled_from(["a:1", "10.0.0.1:7946", "[2001:db8::1]:65535", "node.example.org:80"])
records = st.builds(
    MemberRecord,
    id=ids,
    name=texts.filter(bool),
    address=addresses,
    boot_id=st.integers(0, 2**63 - 1),
    incarnation=u32,
    state=st.sampled_from(NodeState),
    meta_version=u32,
    tags=st.dictionaries(texts.filter(bool), texts, max_size=3),
    services=st.lists(texts.filter(bool), max_size=3).map(tuple),
)
accusations = st.builds(Accusation, ids, st.integers(0, 255).map(lambda steps: steps / 16))


def by_weight(entries: list[Accusation]) -> tuple[Accusation, ...]:
    return tuple(sorted(entries, key=lambda entry: (-entry.phi, entry.accuser)))


def as_update(record: MemberRecord, entries: list[Accusation]) -> Update:
    return Update(record, by_weight(entries) if record.state is NodeState.SUSPECT else ())


updates = st.builds(as_update, records, st.lists(accusations, max_size=MAX_ACCUSERS))
acks = st.one_of(
    st.builds(Ack, u32, ids, ids, statuses, you=st.none() | statuses),
    st.builds(Ack, u32, ids, ids, statuses, is_stranger=st.just(value=True)),
)
heads: st.SearchStrategy[Head | None] = st.one_of(
    st.none(),
    st.builds(Ping, u32, ids, ids, statuses),
    acks,
    st.builds(PingReq, u32, ids, ids, statuses, st.integers(0, 2**31).map(lambda ms: ms / 1000), addresses),
)

LARGEST = MemberRecord(
    id="ff" * 16,
    name="\u00e9" * 127 + "x",
    address="a" * 249 + ":65535",
    boot_id=2**63 - 1,
    incarnation=2**32 - 1,
    state=NodeState.SUSPECT,
    meta_version=2**32 - 1,
    tags={"k": "v" * (MAX_INLINE_BYTES - 8)},
)
PLAIN = MemberRecord(id="ab" * 16, name="a", address="a:1", boot_id=1, tags={"k": "v"}, services=("s",))
SUSPECTED = attrs.evolve(PLAIN, state=NodeState.SUSPECT)
STATUS = Status(1, 2, NodeState.ALIVE, 3)


def encode(head: Head | None, *news: Update) -> bytes:
    return encode_datagram(encode_head(head), [encode_update(item.record, item.accusations) for item in news])


@given(heads, st.lists(updates, max_size=2))
@settings(max_examples=200, deadline=None)
def test_a_datagram_comes_back_as_it_went_in(head: Head | None, news: list[Update]) -> None:
    payload = encode(head, *news)
    if len(payload) <= MAX_PAYLOAD_BYTES:
        decoded = decode_datagram(payload)
        if isinstance(head, PingReq) and isinstance(decoded.head, PingReq):
            assert decoded.head.remaining == pytest.approx(head.remaining, abs=0.001)
            head = attrs.evolve(head, remaining=decoded.head.remaining)
        assert decoded == Datagram(head, tuple(news))


@given(st.lists(records, max_size=5))
@settings(max_examples=200, deadline=None)
def test_a_full_state_comes_back_as_it_went_in(state: list[MemberRecord]) -> None:
    assert decode_state(encode_state(state)) == state


@given(st.binary(max_size=MAX_PAYLOAD_BYTES + 100))
@settings(max_examples=500, deadline=None)
def test_arbitrary_bytes_are_refused_or_decoded_and_nothing_else(payload: bytes) -> None:
    for decode in (decode_datagram, decode_state):
        try:
            decode(payload)
        except MessageError:
            continue


mutations = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4)


@given(heads, updates, mutations)
@settings(max_examples=400, deadline=None)
def test_mutated_messages_are_refused_or_decoded_and_nothing_else(
    head: Head | None, news: Update, changes: list[tuple[int, int]]
) -> None:
    for decode, payload in ((decode_datagram, encode(head, news)), (decode_state, encode_state([news.record]))):
        mutated = bytearray(payload)
        for position, value in changes:
            mutated[position % len(mutated)] = value
        try:
            decode(bytes(mutated))
        except MessageError:
            continue


@pytest.mark.parametrize(
    "payload",
    [
        encode(Ping(1, PLAIN.id, PLAIN.id, STATUS), Update(PLAIN)),
        encode(Ack(1, PLAIN.id, PLAIN.id, STATUS, you=STATUS), Update(SUSPECTED, (Accusation("cd" * 16, 2.0),))),
        encode(PingReq(1, PLAIN.id, PLAIN.id, STATUS, 0.5, "a:1"), Update(PLAIN)),
        encode(None, Update(PLAIN), Update(SUSPECTED)),
    ],
)
def test_every_truncation_and_every_trailing_byte_is_refused(payload: bytes) -> None:
    decode_datagram(payload)
    for size in range(len(payload)):
        with pytest.raises(MessageError):
            decode_datagram(payload[:size])
    with pytest.raises(MessageError, match="too many"):
        decode_datagram(payload + b"\0")


def test_a_full_state_is_refused_when_truncated_or_too_long() -> None:
    payload = encode_state([PLAIN, SUSPECTED])
    for size in range(len(payload)):
        with pytest.raises(MessageError):
            decode_state(payload[:size])
    with pytest.raises(MessageError, match="too many"):
        decode_state(payload + b"\0")


def test_a_message_error_is_a_protocol_error() -> None:
    assert issubclass(MessageError, ProtocolError)


def replaced(payload: bytes, old: bytes, new: bytes) -> bytes:
    assert payload.count(old) == 1
    return payload.replace(old, new)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"\x09" + bytes(60), "unknown message kind 9"),
        (b"\x04\x00" + bytes(MAX_PAYLOAD_BYTES), "at most 1164"),
        (replaced(encode(None, Update(PLAIN)), b"\x03a:1", b"\x03a:x"), "not an address"),
        (replaced(encode(None, Update(PLAIN)), b"\x01a\x03a:1", b"\x00\x03a:1a"), "name of 0"),
        (replaced(encode(None, Update(PLAIN)), b"\x01a\x03", b"\x01\xff\x03"), "not UTF-8"),
        (encode(Ack(1, PLAIN.id, PLAIN.id, STATUS))[:-2] + b"\x03\x00", "unknown view 3"),
        (encode(None, Update(SUSPECTED))[:-1] + bytes([MAX_ACCUSERS + 1]) + bytes(17 * 6), "6 accusers"),
        (encode(Ping(1, PLAIN.id, PLAIN.id, attrs.evolve(STATUS, boot_id=2**63))), "boot id"),
    ],
)
def test_what_is_wrong_is_named(payload: bytes, message: str) -> None:
    with pytest.raises(MessageError, match=message):
        decode_datagram(payload)


def test_an_unknown_state_is_refused() -> None:
    payload = bytearray(encode(None, Update(PLAIN)))
    payload[2 + 16 + 12] = 4
    with pytest.raises(MessageError, match="unknown state 4"):
        decode_datagram(bytes(payload))


def with_metadata(metadata: bytes) -> bytes:
    bare = encode_update(attrs.evolve(PLAIN, tags={}, services=()))
    return b"\x04\x01" + bare[:-2] + len(metadata).to_bytes(2, "big") + metadata


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param(b"\x81" * 500, id="too deep"),
        pytest.param(b"\x9b" + b"\xff" * 8, id="huge array"),
        pytest.param(b"\xbb" + b"\x00\x00\x00\xff" * 2, id="huge map"),
        pytest.param(b"\x7b" + b"\x7f" * 8, id="huge text"),
        pytest.param(b"\x82\xbf\xff\x80", id="indefinite length"),
        pytest.param(b"\x82\xa2aaabaaab\x80", id="duplicate keys"),
        pytest.param(b"\x82\xd8\x23a.\x80", id="regular expression"),
        pytest.param(b"\x82\xd8\x24a.\x80", id="MIME message"),
        pytest.param(b"\xd8\x1c\x82\xa0\x81\xd8\x1d\x00", id="cycle"),
        pytest.param(b"\xd9\xff\xff\x82\xa1aaab\x80", id="unknown tag"),
        pytest.param(b"\xda\x00\x01\x11\x70\x82\xa1aaab\x80", id="large tag"),
        pytest.param(cbor2.dumps([{"a": 1}, []]), id="number for a value"),
        pytest.param(cbor2.dumps([{1: "a"}, []]), id="number for a key"),
        pytest.param(cbor2.dumps([{"a": "b"}, [b"s"]]), id="bytes for a service"),
        pytest.param(cbor2.dumps([{"a": "b"}]), id="no services"),
        pytest.param(cbor2.dumps({"a": "b"}), id="a map"),
        pytest.param(cbor2.dumps([{}, []]), id="empty but there"),
        pytest.param(cbor2.dumps([{"b": "1", "a": "2"}, []]), id="keys out of order"),
        pytest.param(encode_metadata({"a": "b"}, ()) + b"\x00", id="trailing byte"),
        pytest.param(b"\x82\xa1aaa\xff\x80", id="not UTF-8"),
        pytest.param(encode_metadata({"a": "v" * MAX_INLINE_BYTES}, ()), id="above the limit"),
    ],
)
def test_metadata_that_is_not_what_we_write_is_refused(metadata: bytes) -> None:
    with pytest.raises(MessageError, match="metadata"):
        decode_datagram(with_metadata(metadata))


def test_the_test_of_bad_metadata_can_pass_good_metadata() -> None:
    (update,) = decode_datagram(with_metadata(encode_metadata({"a": "b"}, ("s",)))).updates
    assert (dict(update.record.tags), update.record.services) == ({"a": "b"}, ("s",))


def test_a_huge_count_takes_no_memory() -> None:
    payload = b"\x01\xff\xff\xff\xff" + bytes(1000)
    tracemalloc.start()
    with pytest.raises(MessageError, match="do not fit"):
        decode_state(payload)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def test_a_full_state_of_another_version_is_refused() -> None:
    with pytest.raises(MessageError, match="version 2"):
        decode_state(b"\x02" + encode_state([])[1:])


def test_the_largest_record_fits_into_one_datagram_with_its_accusers() -> None:
    entries = tuple(Accusation(f"{i:032x}", 3.0) for i in range(MAX_ACCUSERS))
    payload = encode(None, Update(LARGEST, entries))
    assert 1100 < len(payload) <= MAX_PAYLOAD_BYTES
    assert decode_datagram(payload).updates == (Update(LARGEST, entries),)


def test_the_largest_record_of_a_node_fits_into_its_ack() -> None:
    ack = Ack(1, PLAIN.id, PLAIN.id, STATUS, you=STATUS)
    payload = encode(ack, Update(attrs.evolve(LARGEST, state=NodeState.ALIVE)))
    assert 1100 < len(payload) <= MAX_PAYLOAD_BYTES


def test_only_the_weightiest_accusers_travel() -> None:
    entries = [Accusation(f"{i:032x}", i / 4) for i in range(12)]
    (update,) = decode_datagram(encode(None, Update(SUSPECTED, tuple(entries)))).updates
    assert [entry.phi for entry in update.accusations] == [2.75, 2.5, 2.25, 2.0, 1.75]


def test_a_probe_and_its_answer_stay_small_when_there_is_no_news() -> None:
    assert len(encode(Ping(1, PLAIN.id, PLAIN.id, STATUS))) <= 56
    assert len(encode(Ack(1, PLAIN.id, PLAIN.id, STATUS))) <= 57


@pytest.mark.parametrize(("phi", "told"), [(2.0, 2.0), (2.99, 2.9375), (-1.0, 0.0), (99.0, 15.9375), (0.06, 0.0)])
def test_phi_travels_in_sixteenths_and_is_never_rounded_up(phi: float, told: float) -> None:
    assert quantize(phi) == told
