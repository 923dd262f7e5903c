"""Hashes of buckets of records."""

from __future__ import annotations

import random

import attrs
import pytest

from rpcnet._core.antientropy import ALL_BUCKETS, HASHES_BYTES, N_BUCKETS, BucketHashes, bucket_of, is_in
from rpcnet._core.members import MemberRecord, Vitals
from rpcnet.events import NodeState

RECORD = MemberRecord(id="ab" * 16, name="a", address="a:1", boot_id=5, incarnation=3, meta_version=2)


def table(n_records: int, seed: int = 1) -> list[MemberRecord]:
    rng = random.Random(seed)
    return [attrs.evolve(RECORD, id=rng.randbytes(16).hex(), name=f"n{i}") for i in range(n_records)]


def test_equal_tables_have_equal_hashes_whatever_the_order_they_were_filled_in() -> None:
    records = table(200)
    shuffled = random.Random(2).sample(records, len(records))
    assert BucketHashes.of(records) == BucketHashes.of(shuffled)
    assert BucketHashes.of(records).differing(BucketHashes.of(shuffled)) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"boot_id": 6},
        {"boot_id": 2**63 - 1},
        {"incarnation": 4},
        {"incarnation": 2**32 - 1},
        {"state": NodeState.SUSPECT},
        {"state": NodeState.LEFT},
        {"meta_version": 3},
    ],
)
def test_each_part_that_orders_records_counts(change: dict[str, object]) -> None:
    changed = attrs.evolve(RECORD, **change)  # type: ignore[arg-type]
    ours, theirs = BucketHashes.of([RECORD]), BucketHashes.of([changed])
    assert ours != theirs
    assert ours.differing(theirs)
    ours.update(RECORD, changed)
    assert ours == theirs


def test_whose_a_record_is_counts() -> None:
    other = attrs.evolve(RECORD, id="00" * 15 + "ab")
    assert bucket_of(other.id) == bucket_of(RECORD.id)
    assert BucketHashes.of([RECORD]) != BucketHashes.of([other])


def test_vitals_do_not_count() -> None:
    assert BucketHashes.of([RECORD]) == BucketHashes.of([attrs.evolve(RECORD, vitals=Vitals(epoch=9, stall=1.0))])


def test_only_the_bucket_of_the_changed_record_differs() -> None:
    records = table(1000)
    ours = BucketHashes.of(records)
    theirs = BucketHashes.of([*records[1:], attrs.evolve(records[0], incarnation=4)])
    assert ours.differing(theirs) == theirs.differing(ours) == 1 << bucket_of(records[0].id)
    assert is_in(records[0].id, ours.differing(theirs))


def test_a_table_changed_step_by_step_hashes_as_one_made_at_once() -> None:
    rng, hashes, records = random.Random(3), BucketHashes(), dict[str, MemberRecord]()
    for record in table(300):
        hashes.update(None, record)
        records[record.id] = record
        changed = records[rng.choice(list(records))]
        newer = attrs.evolve(changed, incarnation=changed.incarnation + 1, state=rng.choice(list(NodeState)))
        hashes.update(changed, newer)
        records[changed.id] = newer
        if rng.random() < 0.3:
            hashes.update(records.pop(rng.choice(list(records))), None)
    assert hashes == BucketHashes.of(records.values())
    for record in records.values():
        hashes.update(record, None)
    assert hashes == BucketHashes()


def test_a_change_to_the_same_record_changes_nothing() -> None:
    hashes = BucketHashes.of([RECORD])
    hashes.update(RECORD, attrs.evolve(RECORD, tags={"a": "b"}))
    assert hashes == BucketHashes.of([RECORD])


def test_hashes_survive_the_wire() -> None:
    hashes = BucketHashes.of(table(100))
    data = hashes.encode()
    assert len(data) == HASHES_BYTES == 512
    assert BucketHashes.decode(data) == hashes


def test_random_ids_spread_over_all_buckets_evenly() -> None:
    counts = [0] * N_BUCKETS
    for record in table(6400):
        counts[bucket_of(record.id)] += 1
    assert min(counts) > 60
    assert max(counts) < 150


def test_ids_that_begin_alike_spread_as_well() -> None:
    assert sorted(bucket_of(f"{number:032x}") for number in range(N_BUCKETS)) == list(range(N_BUCKETS))


def test_a_mask_holds_the_buckets_that_it_names() -> None:
    assert all(is_in(record.id, ALL_BUCKETS) and not is_in(record.id, 0) for record in table(100))
    assert BucketHashes.of(table(1000)).differing(BucketHashes()) == ALL_BUCKETS


def test_hashes_say_how_full_they_are_and_equal_nothing_else() -> None:
    assert repr(BucketHashes.of([RECORD])) == "<BucketHashes of 1 buckets in use>"
    assert BucketHashes() != 0
