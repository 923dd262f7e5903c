"""The membership messages on the wire."""

from __future__ import annotations

import contextlib
import math
import tracemalloc
from collections.abc import Sequence

import attrs
import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._core.members import (
    MAX_BOOT_ID,
    MAX_EPOCH,
    MAX_INCARNATION,
    MAX_INLINE_BYTES,
    NO_VITALS,
    MemberRecord,
    Vitals,
    encode_metadata,
)
from rpcnet._core.messages import (
    AGE_BYTES,
    DIGEST_BYTES,
    MAX_ACCUSERS,
    MAX_PAYLOAD_BYTES,
    REFRESH_BYTES,
    Accusation,
    Ack,
    Claim,
    Datagram,
    Head,
    MessageError,
    Nack,
    Ping,
    PingReq,
    Refresh,
    Status,
    Update,
    decode_datagram,
    encode_age,
    encode_datagram,
    encode_head,
    encode_refresh,
    encode_update,
    quantize,
    quantize_stall,
)
from rpcnet._signals import Coordinates
from rpcnet.errors import ProtocolError
from rpcnet.events import NodeState

ids = st.binary(min_size=16, max_size=16).map(bytes.hex)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
u32 = st.integers(0, 2**32 - 1)
boot_ids = st.integers(0, MAX_BOOT_ID)
statuses = st.builds(Status, boot_ids, u32, st.sampled_from(NodeState), u32)
addresses = st.sampled_from(["a:1", "10.0.0.1:7946", "[2001:db8::1]:65535", "node.example.org:80"])
ages = st.integers(0, 65535).map(lambda millis: millis / 1000)
stalls = st.sampled_from([0.0, *[0.25 * 2**n for n in range(10)]])
halves = st.integers(-1024, 1024).map(lambda steps: steps / 32 / 1000)  # what a half float holds exactly, in seconds
errors = st.integers(0, 64).map(lambda steps: steps / 32)
places = st.none() | st.tuples(halves, halves, halves.map(abs), errors)
halts = st.sampled_from([(False, False), (True, False), (True, True)])
vitals = st.builds(lambda epoch, stall, place, halt: Vitals(epoch, stall, place, *halt), u32, stalls, places, halts)
bodies = st.fixed_dictionaries(
    {
        "tags": st.dictionaries(texts.filter(bool), texts, max_size=3),
        "services": st.lists(texts.filter(bool), max_size=3).map(tuple),
    }
) | st.fixed_dictionaries({"digest": st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES)})
bare_records = st.builds(
    MemberRecord,
    id=ids,
    name=texts.filter(bool),
    address=addresses,
    boot_id=boot_ids,
    incarnation=u32,
    state=st.sampled_from(NodeState),
    meta_version=u32,
)
records = st.builds(
    lambda record, body, vital: attrs.evolve(
        record, **body, vitals=vital if record.state is NodeState.ALIVE else NO_VITALS
    ),
    bare_records,
    bodies,
    vitals,
)
accusations = st.builds(Accusation, ids, st.integers(0, 255).map(lambda steps: steps / 16), st.booleans())


def by_weight(entries: list[Accusation]) -> tuple[Accusation, ...]:
    return tuple(sorted(entries, key=lambda entry: (-entry.phi, entry.accuser)))


def as_update(record: MemberRecord, entries: list[Accusation], age: float) -> Update:
    return Update(record, by_weight(entries) if record.state is NodeState.SUSPECT else (), age)


def as_ack(ack: Ack) -> Ack:
    return attrs.evolve(ack, you=None) if ack.is_stranger else ack


updates = st.builds(as_update, records, st.lists(accusations, max_size=MAX_ACCUSERS), ages)
acks = st.builds(
    Ack,
    u32,
    ids,
    ids,
    statuses,
    you=st.none() | statuses,
    is_stranger=st.booleans(),
    asked=st.none() | ids,
    stall=stalls,
    coordinates=places,
).map(as_ack)
heads: st.SearchStrategy[Head | None] = st.one_of(
    st.none(),
    st.builds(Ping, u32, ids, ids, statuses),
    acks,
    st.builds(PingReq, u32, ids, ids, statuses, st.integers(0, 2**31).map(lambda ms: ms / 1000), addresses),
    st.builds(Nack, u32, ids, ids, st.booleans()),
    st.builds(Claim, ids, statuses, boot_ids, addresses),
)
refreshes = st.tuples(
    st.builds(lambda record, vital: attrs.evolve(record, vitals=vital), bare_records, vitals),
    ages,
)
strings = st.binary(max_size=60)

LARGEST = MemberRecord(
    id="ff" * 16,
    name="\u00e9" * 127 + "x",
    address="a" * 249 + ":65535",
    boot_id=MAX_BOOT_ID,
    incarnation=MAX_INCARNATION,
    state=NodeState.SUSPECT,
    meta_version=MAX_INCARNATION,
    tags={"k": "v" * (MAX_INLINE_BYTES - 8)},
)
PLAIN = MemberRecord(id="ab" * 16, name="a", address="a:1", boot_id=1, tags={"k": "v"}, services=("s",))
SUSPECTED = attrs.evolve(PLAIN, state=NodeState.SUSPECT)
LIVELY = attrs.evolve(PLAIN, vitals=Vitals(7, 0.5, (0.001, -0.002, 0.003, 0.25)))
STATUS = Status(1, 2, NodeState.ALIVE, 3)
OTHER = "cd" * 16


def encode(
    head: Head | None,
    *news: Update,
    signs: Sequence[tuple[MemberRecord, float]] = (),
    user: Sequence[bytes] = (),
) -> bytes:
    return encode_datagram(
        encode_head(head),
        [encode_age(item.age) + encode_update(item.record, item.accusations) for item in news],
        [encode_age(age) + encode_refresh(record) for record, age in signs],
        user,
    )


def as_refresh(record: MemberRecord, age: float) -> Refresh:
    """Return what a sign of life says: the error of a place is not told."""
    place, vital = record.vitals.coordinates, record.vitals
    told = None if place is None else (*place[:3], 0.5)
    halt = (vital.is_halted, vital.is_following)
    return Refresh(record.id[:16], record.boot_id % 2**16, vital.epoch, vital.stall, told, age, *halt)


@given(heads, st.lists(updates, max_size=2), st.lists(refreshes, max_size=3), st.lists(strings, max_size=2))
@settings(max_examples=100, deadline=None)
def test_a_datagram_comes_back_as_it_went_in(
    head: Head | None, news: list[Update], signs: list[tuple[MemberRecord, float]], user: list[bytes]
) -> None:
    payload = encode(head, *news, signs=signs, user=user)
    if len(payload) > MAX_PAYLOAD_BYTES:
        return
    decoded = decode_datagram(payload)
    assert decoded.updates == tuple(news)
    assert decoded.refreshes == tuple(as_refresh(record, age) for record, age in signs)
    assert decoded.user == tuple(user)
    if isinstance(head, PingReq) and isinstance(decoded.head, PingReq):
        assert decoded.head.remaining == pytest.approx(head.remaining, abs=0.001)
        head = attrs.evolve(head, remaining=decoded.head.remaining)
    assert decoded.head == head


@pytest.mark.parametrize(
    "head",
    [
        Ping(2**32 - 1, PLAIN.id, OTHER, STATUS),
        Ack(1, PLAIN.id, PLAIN.id, STATUS),
        Ack(1, PLAIN.id, OTHER, STATUS),
        Ack(1, PLAIN.id, PLAIN.id, STATUS, you=Status(5, 6, NodeState.FAILED, 7)),
        Ack(1, PLAIN.id, OTHER, STATUS, you=Status(5, 6, NodeState.FAILED, 7), asked="ef" * 16),
        Ack(1, PLAIN.id, PLAIN.id, STATUS, is_stranger=True, asked=OTHER),
        Ack(1, PLAIN.id, PLAIN.id, STATUS, stall=128.0, coordinates=(0.5, -0.25, 0.125, 2.0)),
        PingReq(1, PLAIN.id, OTHER, STATUS, 0.5, "[2001:db8::1]:65535"),
        Nack(1, PLAIN.id, OTHER),
        Nack(1, PLAIN.id, OTHER, refused=True),
        Claim(PLAIN.id, STATUS, MAX_BOOT_ID, "a:1"),
        None,
    ],
)
def test_every_head_comes_back_as_it_went_in_with_everything_that_may_ride_on_it(head: Head | None) -> None:
    news = (
        Update(LIVELY, (), 65.535),
        Update(SUSPECTED, (Accusation(OTHER, 2.5, refused=True), Accusation("ef" * 16, 2.0)), 0.001),
        Update(attrs.evolve(PLAIN, tags={}, services=(), digest=bytes(range(12)))),
    )
    payload = encode(head, *news, signs=[(LIVELY, 1.5)], user=[b"", b"user"])
    decoded = decode_datagram(payload)
    assert (decoded.head, decoded.updates, decoded.user) == (head, news, (b"", b"user"))
    (sign,) = decoded.refreshes
    assert (sign.key, sign.boot, sign.epoch, sign.stall, sign.age) == ("ab" * 8, 1, 7, 0.5, 1.5)
    assert encode(head, *decoded.updates, signs=[(LIVELY, 1.5)], user=decoded.user) == payload


def test_user_strings_travel_without_refreshes_and_refreshes_without_user_strings() -> None:
    assert decode_datagram(encode(None, user=[b"x"])) == Datagram(None, (), (), (b"x",))
    assert decode_datagram(encode(None, signs=[(LIVELY, 0.0)])).user == ()
    assert len(encode(None)) == 2


def test_the_sizes_that_decide_the_traffic_of_an_idle_node() -> None:
    assert len(encode(Ping(1, PLAIN.id, OTHER, STATUS))) == 55
    assert len(encode(Ack(1, PLAIN.id, PLAIN.id, STATUS, coordinates=(0.1, 0.1, 0.1, 0.1)))) == 49
    assert REFRESH_BYTES == AGE_BYTES + len(encode_refresh(LIVELY)) == 23
    assert len(encode(None, signs=[(LIVELY, 0.0)])) - len(encode(None)) == 1 + REFRESH_BYTES


def test_the_sizes_of_the_other_heads() -> None:
    assert len(encode(PingReq(1, PLAIN.id, OTHER, STATUS, 0.5, "10.0.0.1:7946"))) == 73
    assert len(encode(Nack(1, PLAIN.id, OTHER))) == 39
    assert len(encode(Claim(PLAIN.id, STATUS, 1, "10.0.0.1:7946"))) == 57
    assert len(encode(Ack(1, PLAIN.id, OTHER, STATUS, you=STATUS, asked=OTHER))) == 49 + 17 + 16 + 16


@pytest.mark.parametrize(
    ("age", "told"),
    [(0.0, 0.0), (0.0004, 0.0), (0.0006, 0.001), (65.535, 65.535), (65.6, 65.535), (1e12, 65.535), (-3.0, 0.0)],
)
def test_ages_travel_in_milliseconds_and_saturate(age: float, told: float) -> None:
    (update,) = decode_datagram(encode(None, Update(PLAIN, (), age))).updates
    (refresh,) = decode_datagram(encode(None, signs=[(LIVELY, age)])).refreshes
    assert (update.age, refresh.age) == (told, told)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (-1.0, 0.0),
        (0.0, 0.0),
        (0.249, 0.0),
        (0.25, 0.25),
        (0.499, 0.25),
        (0.5, 0.5),
        (1.0, 1.0),
        (127.9, 64.0),
        (128.0, 128.0),
        (1e9, 128.0),
    ],
)
def test_stalls_travel_in_classes_and_are_never_rounded_up(seconds: float, told: float) -> None:
    assert quantize_stall(seconds) == told
    assert quantize_stall(told) == told
    record = attrs.evolve(PLAIN, vitals=Vitals(1, seconds))
    (update,) = decode_datagram(encode(None, Update(record))).updates
    assert update.record.vitals == Vitals(1, told)


@pytest.mark.parametrize(
    "place",
    [
        (1e9, -1e9, 1e9, 99.0),
        (0.0, 0.0, -5.0, -5.0),
        (math.inf, 0.0, math.inf, math.inf),
        (1e-12, -1e-12, 1e-12, 1e-12),
    ],
)
def test_a_place_out_of_range_is_told_as_the_nearest_that_others_read(place: Coordinates) -> None:
    (update,) = decode_datagram(encode(None, Update(attrs.evolve(PLAIN, vitals=Vitals(1, 0.0, place))))).updates
    told = update.record.vitals.coordinates
    assert told is not None
    assert [abs(part) <= 60.0 for part in told] == [True] * 4


@pytest.mark.parametrize("at", range(4))
def test_a_place_that_is_no_number_is_told_as_none(at: int) -> None:
    place = tuple(math.nan if i == at else 0.5 for i in range(4))
    record = attrs.evolve(PLAIN, vitals=Vitals(1, 0.0, place))  # type: ignore[arg-type]
    decoded = decode_datagram(encode(Ack(1, PLAIN.id, PLAIN.id, STATUS, coordinates=record.vitals.coordinates)))
    assert isinstance(decoded.head, Ack)
    assert decoded.head.coordinates is None
    (update,) = decode_datagram(encode(None, Update(record))).updates
    assert update.record.vitals.coordinates is None


@given(st.binary(max_size=MAX_PAYLOAD_BYTES + 100))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_are_refused_or_decoded_and_nothing_else(payload: bytes) -> None:
    with contextlib.suppress(MessageError):
        decode_datagram(payload)


mutations = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4)


@given(heads, updates, refreshes, mutations)
@settings(max_examples=100, deadline=None)
def test_mutated_messages_are_refused_or_decoded_and_what_is_decoded_can_be_said_again(
    head: Head | None, news: Update, sign: tuple[MemberRecord, float], changes: list[tuple[int, int]]
) -> None:
    mutated = bytearray(encode(head, news, signs=[sign], user=[b"user"]))
    for position, value in changes:
        mutated[position % len(mutated)] = value
    try:
        decoded = decode_datagram(bytes(mutated))
    except MessageError:
        return
    said = tuple(attrs.evolve(item, accusations=by_weight(list(item.accusations))) for item in decoded.updates)
    again = decode_datagram(encode(decoded.head, *said, user=decoded.user))
    assert (again.head, again.updates, again.user) == (decoded.head, said, decoded.user)


FULL = encode(
    Ping(1, PLAIN.id, PLAIN.id, STATUS),
    Update(LIVELY),
    Update(SUSPECTED, (Accusation(OTHER, 2.0),)),
    signs=[(LIVELY, 0.5), (LIVELY, 1.0)],
    user=[b"one", b""],
)


@pytest.mark.parametrize(
    "payload",
    [
        encode(Ping(1, PLAIN.id, PLAIN.id, STATUS), Update(PLAIN)),
        encode(Ack(1, PLAIN.id, PLAIN.id, STATUS, you=STATUS), Update(SUSPECTED, (Accusation(OTHER, 2.0),))),
        encode(Ack(1, PLAIN.id, OTHER, STATUS, asked=OTHER), Update(LIVELY)),
        encode(PingReq(1, PLAIN.id, PLAIN.id, STATUS, 0.5, "a:1"), Update(PLAIN)),
        encode(Nack(1, PLAIN.id, PLAIN.id)),
        encode(Claim(PLAIN.id, STATUS, 1, "a:1")),
        encode(None, Update(PLAIN), Update(SUSPECTED)),
    ],
)
def test_every_truncation_is_refused(payload: bytes) -> None:
    decode_datagram(payload)
    for size in range(len(payload)):
        with pytest.raises(MessageError):
            decode_datagram(payload[:size])


def test_a_datagram_may_end_after_any_of_its_sections_and_nowhere_else() -> None:
    whole = decode_datagram(FULL)
    user = 1 + 2 + 3 + 2
    ends = {len(FULL), len(FULL) - user, len(FULL) - user - 1 - 2 * REFRESH_BYTES}
    for size in range(len(FULL)):
        if size in ends:
            assert decode_datagram(FULL[:size]).updates == whole.updates
            continue
        with pytest.raises(MessageError):
            decode_datagram(FULL[:size])


@pytest.mark.parametrize("payload", [FULL, encode(None, user=[b"x"])])
def test_trailing_bytes_are_refused(payload: bytes) -> None:
    with pytest.raises(MessageError, match="too many"):
        decode_datagram(payload + b"\0")


def test_a_message_error_is_a_protocol_error() -> None:
    assert issubclass(MessageError, ProtocolError)


def replaced(payload: bytes, old: bytes, new: bytes) -> bytes:
    assert payload.count(old) == 1
    return payload.replace(old, new)


def changed(payload: bytes, at: int, *values: int) -> bytes:
    return payload[:at] + bytes(values) + payload[at + len(values) :]


ACK = encode(Ack(1, PLAIN.id, PLAIN.id, STATUS, coordinates=(0.1, 0.1, 0.1, 0.1)))
NAMED = attrs.evolve(PLAIN, tags={}, services=(), digest=bytes(range(12)))


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"\x09" + bytes(60), "unknown message kind 9"),
        (b"\x04\x00" + bytes(MAX_PAYLOAD_BYTES), "at most 1164"),
        (replaced(encode(None, Update(PLAIN)), b"\x03a:1", b"\x03a:x"), "not an address"),
        (replaced(encode(None, Update(PLAIN)), b"\x01a\x03a:1", b"\x00\x03a:1a"), "name of 0"),
        (replaced(encode(None, Update(PLAIN)), b"\x01a\x03", b"\x01\xff\x03"), "not UTF-8"),
        (changed(ACK, 38, 16), "unknown flags 16"),
        (changed(ACK, 38, 3), "unknown flags 3"),
        (changed(ACK, 39, 11), "unknown stall class 11"),
        (changed(ACK, 44, 0x7C, 0x00), "out of range"),
        (changed(ACK, 46, 0xBC, 0x00), "out of range"),
        (changed(encode(Nack(1, PLAIN.id, OTHER)), 37, 2), "2 is neither 0 nor 1"),
        (changed(encode(Claim(PLAIN.id, STATUS, 1, "a:1")), 34, 0x80), "boot id"),
        (replaced(encode(None, Update(NAMED)), b"\x00\x0c" + NAMED.digest, b"\x00\x0b" + NAMED.digest), "digest of 11"),
        (changed(encode(None, Update(LIVELY)), 2 + 2 + 16 + 12, 0x82), "vitals of a node that is not alive"),
        (encode(None, signs=[(LIVELY, 0.0)])[:-7] + b"\x0b" + bytes(6), "unknown stall class 11"),
        (encode(None, signs=[(LIVELY, 0.0)])[:-7] + b"\x42" + bytes(6), "not halted follows others"),
        (encode(None, Update(SUSPECTED, (Accusation(OTHER, 2.0),)))[:-1] + b"\x02", "2 is neither 0 nor 1"),
        (encode(None, Update(SUSPECTED))[:-1] + bytes([MAX_ACCUSERS + 1]) + bytes(18 * 6), "6 accusers"),
        (encode(Ping(1, PLAIN.id, PLAIN.id, attrs.evolve(STATUS, boot_id=2**63))), "boot id"),
    ],
)
def test_what_is_wrong_is_named(payload: bytes, message: str) -> None:
    with pytest.raises(MessageError, match=message):
        decode_datagram(payload)


def test_an_unknown_state_is_refused() -> None:
    payload = bytearray(encode(None, Update(PLAIN)))
    payload[2 + 2 + 16 + 12] = 4
    with pytest.raises(MessageError, match="unknown state 4"):
        decode_datagram(bytes(payload))


def with_metadata(metadata: bytes) -> bytes:
    bare = encode_update(attrs.evolve(PLAIN, tags={}, services=()))
    return b"\x04\x01\x00\x00" + bare[:-2] + len(metadata).to_bytes(2, "big") + metadata


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
    tracemalloc.start()
    for payload in (b"\x04\xff" + bytes(1000), b"\x04\x00\xff" + bytes(1000), b"\x04\x00\x00\xff" + b"\xff" * 1000):
        with pytest.raises(MessageError):
            decode_datagram(payload)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def test_the_largest_record_fits_into_one_datagram_with_its_accusers() -> None:
    entries = tuple(Accusation(f"{i:032x}", 3.0) for i in range(MAX_ACCUSERS))
    payload = encode(None, Update(LARGEST, entries))
    assert 1100 < len(payload) <= MAX_PAYLOAD_BYTES
    assert decode_datagram(payload).updates == (Update(LARGEST, entries),)


def test_the_largest_record_of_a_node_fits_into_its_ack() -> None:
    ack = Ack(1, PLAIN.id, PLAIN.id, STATUS, you=STATUS)
    largest = attrs.evolve(LARGEST, state=NodeState.ALIVE, vitals=Vitals(MAX_EPOCH, 128.0, (1.0, 1.0, 1.0, 1.0)))
    assert len(encode_update(largest)) == 1072
    payload = encode(ack, Update(largest))
    assert 1100 < len(payload) <= MAX_PAYLOAD_BYTES
    relayed = attrs.evolve(ack, you=None, node=OTHER)
    assert len(encode(relayed, Update(largest))) <= MAX_PAYLOAD_BYTES


def test_only_the_weightiest_accusers_travel() -> None:
    entries = [Accusation(f"{i:032x}", i / 4) for i in range(12)]
    (update,) = decode_datagram(encode(None, Update(SUSPECTED, tuple(entries)))).updates
    assert [entry.phi for entry in update.accusations] == [2.75, 2.5, 2.25, 2.0, 1.75]


@pytest.mark.parametrize(("phi", "told"), [(2.0, 2.0), (2.99, 2.9375), (-1.0, 0.0), (99.0, 15.9375), (0.06, 0.0)])
def test_phi_travels_in_sixteenths_and_is_never_rounded_up(phi: float, told: float) -> None:
    assert quantize(phi) == told
