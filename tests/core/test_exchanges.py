"""Two tables that are exchanged over a stream of requests and answers."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._core.antientropy import BucketHashes, bucket_of, is_in
from rpcnet._core.exchanges import (
    MAX_AGE,
    MAX_MESSAGE_BYTES,
    AskerExchange,
    Hearsay,
    answer,
    decode_bodies,
    encode_fetch,
)
from rpcnet._core.members import MemberRecord, Vitals, encode_metadata, merge
from rpcnet._core.messages import MessageError, encode_update
from rpcnet._core.metadata import Body, digest_of
from rpcnet.events import NodeState

NOW = 1000.0
MANY = 100_000


def record(number: int, **changes: object) -> MemberRecord:
    first = MemberRecord(
        id=random.Random(number).randbytes(16).hex(), name=f"node-{number}", address=f"10.0.0.1:{number + 1}", boot_id=5
    )
    return attrs.evolve(first, **changes)  # type: ignore[arg-type]


class Table:
    """A node's table: records, ages, bodies."""

    def __init__(self, records: Sequence[MemberRecord] = (), ages: Mapping[str, float] | None = None) -> None:
        self._records: dict[str, MemberRecord] = {}
        self.hashes = BucketHashes()
        self.ages = dict(ages or {})
        self.bodies: dict[bytes, Body] = {}
        self.hear(records)

    def hear(self, records: Sequence[MemberRecord]) -> None:
        for new in records:
            old = self._records.get(new.id)
            merged = new if old is None else merge(old, new)
            self.hashes.update(old, merged)
            self._records[new.id] = merged

    def records(self) -> Sequence[MemberRecord]:
        return sorted(self._records.values(), key=lambda record: record.id)

    def heard_age(self, node_id: str, now: float) -> float:
        assert now == NOW
        return self.ages.get(node_id, 0.0)

    def body(self, digest: bytes) -> Body | None:
        return self.bodies.get(digest)


@attrs.define
class Cost:
    """What an exchange took."""

    rounds: int = 0
    n_bytes: int = 0
    largest: int = 0
    asked: list[Hearsay] = attrs.field(factory=list)
    told: list[Hearsay] = attrs.field(factory=list)


def run(exchange: AskerExchange, asker: Table, answerer: Table) -> Cost:
    """Drive an exchange to its end, both sides merging what they hear at once."""
    cost = Cost()
    request: bytes | None = exchange.start(NOW)
    while request is not None:
        reply, shown = answer(request, answerer, NOW)
        cost.rounds += 1
        cost.n_bytes += len(request) + len(reply)
        cost.largest = max(cost.largest, len(request), len(reply))
        answerer.hear([entry.record for entry in shown])
        cost.told += shown
        request = exchange.handle(reply, NOW)
        asker.hear([entry.record for entry in exchange.records])
        cost.asked += exchange.records
    assert exchange.is_done
    return cost


def sync(asker: Table, answerer: Table) -> Cost:
    return run(AskerExchange.sync(asker, max_records=MANY), asker, answerer)


# --- SYNC


def test_equal_tables_cost_one_round_of_530_bytes() -> None:
    records = [record(i) for i in range(1000)]
    cost = sync(Table(records), Table(records))
    assert (cost.rounds, cost.n_bytes, cost.asked, cost.told) == (1, 529, [], [])


def test_three_differences_in_a_thousand_cost_three_buckets() -> None:
    records = [record(i) for i in range(1000)]
    ours, theirs = Table(records), Table(records)
    ours.hear([attrs.evolve(records[0], incarnation=1)])
    theirs.hear([attrs.evolve(records[1], state=NodeState.SUSPECT), record(1001)])
    mask = sum(1 << bucket for bucket in {bucket_of(entry.id) for entry in (records[0], records[1], record(1001))})
    in_buckets = [entry for entry in theirs.records() if is_in(entry.id, mask)]
    cost = sync(ours, theirs)
    assert {entry.record.id for entry in cost.asked} == {entry.id for entry in in_buckets}
    assert [entry.record for entry in cost.told] == [attrs.evolve(records[0], incarnation=1)]
    assert cost.rounds == 2
    assert cost.n_bytes < 529 + 100 * (len(in_buckets) + 1) < 8000
    assert ours.records() == theirs.records()
    assert ours.hashes == theirs.hashes


def test_newer_vitals_alone_are_not_shown() -> None:
    records = [record(i) for i in range(200)]
    ours = Table([attrs.evolve(entry, vitals=Vitals(epoch=7)) for entry in records])
    theirs = Table([*records, record(201)])
    assert sync(ours, theirs).told == []


states = st.sampled_from(list(NodeState))
versions = st.tuples(st.integers(1, 2), st.integers(0, 2), states, st.integers(0, 2))
tables = st.dictionaries(st.integers(0, 299), versions, max_size=300)


def told(entries: Mapping[int, tuple[int, int, NodeState, int]]) -> list[MemberRecord]:
    """Records whose content depends on whose they are and on boot and meta version, as an owner has it."""
    return [
        record(
            number,
            boot_id=boot,
            incarnation=incarnation,
            state=state,
            meta_version=meta,
            tags={"v": f"{boot}.{meta}"},
        )
        for number, (boot, incarnation, state, meta) in entries.items()
    ]


@given(tables, tables)
@settings(max_examples=40, deadline=None)
def test_one_exchange_brings_both_sides_to_the_merge_of_both(
    first: dict[int, tuple[int, int, NodeState, int]], second: dict[int, tuple[int, int, NodeState, int]]
) -> None:
    asker, answerer, both = Table(told(first)), Table(told(second)), Table([*told(first), *told(second)])
    sync(asker, answerer)
    assert asker.records() == answerer.records() == both.records()
    assert sync(asker, answerer).n_bytes == 529


def test_random_tables_of_three_hundred_converge_by_one_exchange() -> None:
    rng = random.Random(4)
    for _ in range(10):
        sides = [
            told(
                {
                    number: (rng.randrange(1, 3), rng.randrange(3), rng.choice(list(NodeState)), rng.randrange(3))
                    for number in rng.sample(range(400), 300)
                }
            )
            for _ in range(2)
        ]
        asker, answerer = Table(sides[0]), Table(sides[1])
        sync(asker, answerer)
        assert asker.records() == answerer.records() == Table([*sides[0], *sides[1]]).records()


LARGE = {f"tag-{i}": "x" * 60 for i in range(7)}


def test_large_tables_are_paged_in_both_directions() -> None:
    ours = [record(i, tags=LARGE) for i in range(1500)]
    theirs = [record(i, tags=LARGE) for i in range(1500, 3000)]
    asker, answerer = Table(ours), Table(theirs)
    cost = sync(asker, answerer)
    assert asker.records() == answerer.records() == Table([*ours, *theirs]).records()
    n_pages = -(-1500 * len(encode_update(ours[0])) // MAX_MESSAGE_BYTES)
    assert n_pages > 3
    assert cost.rounds <= 2 * (n_pages + 1)
    assert MAX_MESSAGE_BYTES - 1100 < cost.largest <= MAX_MESSAGE_BYTES


def test_a_page_is_filled_to_the_last_byte_and_not_beyond() -> None:
    def size(entries: Sequence[MemberRecord]) -> int:
        return 15 + sum(2 + len(encode_update(entry)) for entry in entries)

    records = sorted((record(i, tags=LARGE) for i in range(600)), key=lambda entry: entry.id)
    while size(records) > MAX_MESSAGE_BYTES:
        records.pop()
    for at in range(20):
        spare = min(MAX_MESSAGE_BYTES - size(records), 100)
        records[at] = attrs.evolve(records[at], name=records[at].name + "n" * spare)
    assert size(records) == MAX_MESSAGE_BYTES
    cost = sync(Table(), Table(records))
    assert (cost.rounds, cost.largest) == (1, MAX_MESSAGE_BYTES)
    records[-1] = attrs.evolve(records[-1], name=records[-1].name + "n")
    cost = sync(Table(), Table(records))
    assert (cost.rounds, len(cost.asked)) == (2, len(records))
    assert cost.largest == size(records[:-1])


def test_the_ages_of_records_travel_in_whole_seconds_rounded_up() -> None:
    told_ages = {0: 0.0, 1: 0.2, 2: 41.0, 3: 41.001, 4: MAX_AGE + 5, 5: float("inf"), 6: -1.0}
    heard_ages = {0: 0.0, 1: 1.0, 2: 41.0, 3: 42.0, 4: MAX_AGE, 5: MAX_AGE, 6: 0.0}
    records = [record(i) for i in told_ages]
    answerer = Table(records, {records[i].id: age for i, age in told_ages.items()})
    cost = run(AskerExchange.listen(Table(), max_records=MANY), Table(), answerer)
    assert {entry.record.id: entry.age for entry in cost.asked} == {records[i].id: age for i, age in heard_ages.items()}


# --- LIST and SHOW


def test_a_node_that_listens_learns_all_and_shows_nothing() -> None:
    asker, answerer = Table([record(5000)]), Table([record(i, tags=LARGE) for i in range(1000)])
    cost = run(AskerExchange.listen(asker, max_records=MANY), asker, answerer)
    assert [entry.record for entry in cost.asked] == list(answerer.records())
    assert cost.told == []
    assert len(asker.records()) == 1001


def test_a_usual_table_of_a_thousand_is_read_in_one_page() -> None:
    asker, answerer = Table(), Table([record(i) for i in range(1000)])
    cost = run(AskerExchange.listen(asker, max_records=MANY), asker, answerer)
    assert cost.rounds == 1
    assert cost.n_bytes < 80_000


def test_a_node_that_shows_itself_is_heard_and_told_nothing() -> None:
    asker, answerer = Table([record(1)]), Table([record(2)])
    cost = run(AskerExchange.show(asker, [record(1)]), asker, answerer)
    assert [entry.record for entry in cost.told] == [record(1)]
    assert (cost.rounds, cost.asked) == (1, [])
    assert cost.n_bytes < 100


def test_changes_between_pages_do_no_harm() -> None:
    answerer = Table([record(i, tags=LARGE) for i in range(2000)])
    before = answerer.records()
    exchange = AskerExchange.listen(Table(), max_records=MANY)
    request, heard, rounds = exchange.start(NOW), dict[str, MemberRecord](), 0
    while True:
        reply, _ = answer(request, answerer, NOW)
        rounds += 1
        answerer.hear([record(number + 10_000 * rounds) for number in range(50)])
        answerer.hear([attrs.evolve(entry, incarnation=rounds) for entry in before[::7]])
        going_on = exchange.handle(reply, NOW)
        fresh = {entry.record.id: entry.record for entry in exchange.records}
        assert not fresh.keys() & heard.keys()
        heard |= fresh
        if going_on is None:
            break
        request = going_on
    assert rounds > 3
    assert {entry.id for entry in before} <= heard.keys()


def test_an_empty_table_is_listed_as_nothing() -> None:
    cost = run(AskerExchange.listen(Table(), max_records=MANY), Table(), Table())
    assert (cost.rounds, cost.asked) == (1, [])


def test_showing_nothing_is_one_short_round() -> None:
    assert run(AskerExchange.show(Table(), ()), Table(), Table()).n_bytes == 8


# --- bounds


def test_the_asker_reads_no_more_records_than_it_may() -> None:
    answerer = Table([record(i, tags=LARGE) for i in range(1000)])
    for limit in (1, 2, 300, 999):
        asker = Table()
        cost = run(AskerExchange.listen(asker, max_records=limit), asker, answerer)
        assert [entry.record for entry in cost.asked] == list(answerer.records())[:limit]


def test_an_answerer_that_goes_on_for_ever_is_left() -> None:
    exchange = AskerExchange.listen(Table(), max_records=1000)
    exchange.start(NOW)
    for number in range(1, 8):
        assert exchange.handle(_listed([attrs.evolve(record(0), id=f"{number:032x}")], more=1), NOW) is not None
    with pytest.raises(MessageError, match="more pages than the records can fill"):
        exchange.handle(_listed([attrs.evolve(record(0), id=f"{8:032x}")], more=1), NOW)
    assert exchange.is_done


def _listed(records: Sequence[MemberRecord], *, more: int = 0) -> bytes:
    """Return an answer to LIST with the records in the order given."""
    parts = [b"\0\0" + encode_update(entry) for entry in records]
    return bytes((1, 2, more)) + len(records).to_bytes(4, "big") + b"".join(parts)


def test_ids_must_grow_within_a_page_and_from_page_to_page() -> None:
    first, second, third = sorted((record(i) for i in range(3)), key=lambda entry: entry.id)
    exchange = AskerExchange.listen(Table(), max_records=MANY)
    exchange.start(NOW)
    with pytest.raises(MessageError, match="comes after"):
        exchange.handle(_listed([second, first]), NOW)
    exchange = AskerExchange.listen(Table(), max_records=MANY)
    exchange.start(NOW)
    assert exchange.handle(_listed([first, second], more=1), NOW) is not None
    with pytest.raises(MessageError, match="comes after"):
        exchange.handle(_listed([second, third]), NOW)
    assert exchange.records == []


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (_listed([], more=1), "an empty page that is not the last"),
        (_listed([], more=2), "neither yes nor no"),
        (_listed([record(1)])[:-1], "truncated"),
        (_listed([record(1)]) + b"\0", "1 bytes too many"),
        (bytes((1, 2, 0)) + b"\xff\xff\xff\xff", "do not fit"),
        (b"\2" + _listed([])[1:], "unknown version 2"),
        (bytes((1, 3)), "an answer of kind 3 to a request of kind 2"),
        (b"", "truncated"),
        (bytes(MAX_MESSAGE_BYTES + 1), "at most"),
    ],
)
def test_a_malformed_answer_ends_the_exchange(reply: bytes, problem: str) -> None:
    exchange = AskerExchange.listen(Table(), max_records=MANY)
    exchange.start(NOW)
    with pytest.raises(MessageError, match=problem):
        exchange.handle(reply, NOW)
    assert exchange.is_done
    with pytest.raises(MessageError, match="an answer to nothing"):
        exchange.handle(_listed([]), NOW)


def test_records_of_buckets_that_do_not_differ_are_refused() -> None:
    exchange = AskerExchange.sync(Table(), max_records=MANY)
    exchange.start(NOW)
    body = _listed([record(1)])[2:]
    other = 1 << (bucket_of(record(1).id) + 1) % 64
    with pytest.raises(MessageError, match="was not asked for"):
        exchange.handle(bytes((1, 1)) + other.to_bytes(8, "big") + body, NOW)


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (b"\1\5", "unknown request kind 5"),
        (b"\1\0", "unknown request kind 0"),
        (b"\2\1" + bytes(512), "unknown version 2"),
        (b"\1\1" + bytes(511), "truncated"),
        (b"\1\1" + bytes(513), "1 bytes too many"),
        (b"\1\2" + bytes(8) + b"\2ab", "a cursor of 2 bytes"),
        (b"\1\2" + bytes(8) + b"\x10" + bytes(15), "truncated"),
        (b"\1\3" + b"\0\0\0\2", "do not fit"),
        (b"\1\4\2" + bytes(12), "truncated"),
        (bytes(MAX_MESSAGE_BYTES + 1), "at most"),
    ],
)
def test_a_malformed_request_is_refused(request_: bytes, problem: str) -> None:
    with pytest.raises(MessageError, match=problem):
        answer(request_, Table([record(1)]), NOW)


def test_a_record_shown_twice_in_one_request_is_refused() -> None:
    shown = AskerExchange.show(Table(), [record(1), record(1)]).start(NOW)
    with pytest.raises(MessageError, match="comes after"):
        answer(shown, Table(), NOW)


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Return the bytes with some flipped, cut off, doubled or taken out."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(4):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                del changed[at:]
            case 2:
                changed[at:at] = rng.randbytes(rng.randrange(1, 5))
            case _:
                del changed[at : at + rng.randrange(1, 9)]
    return bytes(changed)


def test_mutated_messages_are_read_or_refused_and_never_anything_else() -> None:
    rng = random.Random(5)
    records = [record(i, tags={"zone": "a"}, state=rng.choice(list(NodeState))) for i in range(12)]
    view, data = Table(records), encode_metadata(LARGE | {"more": "y" * 200}, ())
    view.bodies[digest_of(data)] = Body.read(digest_of(data), data)
    starts = [
        AskerExchange.sync(Table(), max_records=MANY),
        AskerExchange.listen(Table(), max_records=MANY),
        AskerExchange.show(view, records[:3]),
    ]
    requests = [exchange.start(NOW) for exchange in starts] + [encode_fetch([digest_of(data)] * 2)]
    replies = [answer(request, view, NOW)[0] for request in requests]
    before, refused, tried = view.records(), 0, 4000
    for _ in range(tried):
        try:
            answer(mutated(rng, rng.choice(requests)), view, NOW)
        except MessageError:
            refused += 1
        exchange = AskerExchange.sync(Table(), max_records=MANY)
        exchange.start(NOW)
        try:
            exchange.handle(mutated(rng, replies[0]), NOW)
        except MessageError:
            refused += 1
            assert exchange.is_done
            assert exchange.records == []
        try:
            found = decode_bodies(mutated(rng, replies[3]), [digest_of(data)] * 2)
            assert all(body.data == data for body in found.values())
        except MessageError:
            refused += 1
    assert tried < refused < 3 * tried
    assert view.records() == before


# --- FETCH


def body_of(number: int, size: int = 1000) -> tuple[bytes, Body]:
    data = encode_metadata({"number": str(number), "text": "x" * size}, ("service",))
    return digest_of(data), Body.read(digest_of(data), data)


def test_bodies_are_fetched_by_digest_and_those_that_are_not_there_left_out() -> None:
    view, (a, b, c) = Table(), (body_of(i) for i in range(3))
    view.bodies |= {a[0]: a[1], c[0]: c[1]}
    digests = [a[0], b[0], c[0]]
    reply, shown = answer(encode_fetch(digests), view, NOW)
    assert decode_bodies(reply, digests) == {a[0]: a[1], c[0]: c[1]}
    assert shown == []
    assert dict(decode_bodies(reply, digests)[a[0]].tags)["number"] == "0"


def test_bodies_that_do_not_fit_into_one_answer_are_left_out() -> None:
    view, bodies = Table(), [body_of(i, 100_000) for i in range(3)]
    view.bodies |= dict(bodies)
    digests = [digest for digest, _ in bodies]
    reply, _ = answer(encode_fetch(digests), view, NOW)
    assert len(reply) <= MAX_MESSAGE_BYTES
    assert list(decode_bodies(reply, digests)) == digests[:2]


def test_a_body_that_was_not_asked_for_is_refused() -> None:
    view, (asked, _), (other, body) = Table(), body_of(0), body_of(1)
    view.bodies[other] = body
    reply, _ = answer(encode_fetch([other]), view, NOW)
    with pytest.raises(MessageError, match="that were asked for"):
        decode_bodies(reply, [asked])
    with pytest.raises(MessageError, match="1 bodies for 2"):
        decode_bodies(reply, [other, asked])
