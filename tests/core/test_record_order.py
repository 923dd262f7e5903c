"""The order of records, as a table: which one wins, for every pair, part by part."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from rpcnet._core.members import (
    MAX_BOOT_ID,
    MAX_EPOCH,
    MAX_INCARNATION,
    NO_VITALS,
    MemberRecord,
    Vitals,
    merge,
    supersedes,
)
from rpcnet.events import NodeState

ALIVE, SUSPECT, FAILED, LEFT = NodeState.ALIVE, NodeState.SUSPECT, NodeState.FAILED, NodeState.LEFT

# Status, from the weakest to the strongest: boot id, incarnation, state.
STATUS_TABLE = (
    (0, 0, ALIVE),
    (1, 0, ALIVE),
    (1, 0, SUSPECT),
    (1, 0, FAILED),
    (1, 0, LEFT),
    (1, 1, ALIVE),
    (1, 1, SUSPECT),
    (1, 1, FAILED),
    (1, 1, LEFT),
    (1, 2, ALIVE),
    (1, MAX_INCARNATION - 1, LEFT),
    (1, MAX_INCARNATION, ALIVE),
    (1, MAX_INCARNATION, LEFT),
    (2, 0, ALIVE),
    (2, 0, FAILED),
    (2, 1, ALIVE),
    (MAX_BOOT_ID - 1, MAX_INCARNATION, LEFT),
    (MAX_BOOT_ID, 0, ALIVE),
    (MAX_BOOT_ID, 0, SUSPECT),
    (MAX_BOOT_ID, MAX_INCARNATION, LEFT),
)

# Metadata, from the oldest to the newest: boot id, meta version, and what is said (of two with one version, the
# greater content counts, so that all nodes choose the same).
METADATA_TABLE: tuple[tuple[int, int, dict[str, object]], ...] = (
    (0, MAX_INCARNATION, {"tags": {"z": "z"}}),
    (1, 0, {}),
    (1, 0, {"tags": {"zone": "a"}}),
    (1, 0, {"tags": {"zone": "b"}}),
    (1, 0, {"tags": {"zone": "b"}, "services": ("s",)}),
    (1, 0, {"digest": b"\x00" * 11 + b"\x01"}),
    (1, 0, {"digest": b"\x00" * 11 + b"\x02"}),
    (1, 0, {"address": "b:1"}),
    (1, 1, {}),
    (1, 2, {"tags": {"zone": "a"}}),
    (1, MAX_INCARNATION, {}),
    (2, 0, {}),
    (2, 0, {"address": "b:1"}),
    (MAX_BOOT_ID, 0, {}),
    (MAX_BOOT_ID, MAX_INCARNATION, {}),
)

# Vitals, from the oldest to the newest: boot id, epoch, stall, coordinates, whether it is halted, and follows others.
VITALS_TABLE: tuple[tuple[Any, ...], ...] = (
    (0, MAX_EPOCH, 4.0, (9.0, 9.0, 9.0, 1.0)),
    (1, 0, 0.0, None),
    (1, 1, 0.0, None),
    (1, 1, 0.0, (-1.0, 0.0, 0.0, 0.5)),
    (1, 1, 0.0, (0.0, 0.0, 0.0, 0.5)),
    (1, 1, 0.25, None),
    (1, 1, 0.0, None, True, False),
    (1, 1, 8.0, None, True, False),
    (1, 1, 0.0, None, True, True),
    (1, 2, 0.0, None),
    (1, MAX_EPOCH, 0.0, None),
    (2, 0, 0.0, None),
    (2, 1, 0.0, None),
    (MAX_BOOT_ID, 0, 0.0, None),
    (MAX_BOOT_ID, MAX_EPOCH, 8.0, (0.0, 0.0, 0.0, 0.5)),
)


def record(boot_id: int = 1, **changes: object) -> MemberRecord:
    first = MemberRecord(id="ab" * 16, name="a", address="a:1", boot_id=boot_id)
    return attrs.evolve(first, **changes)  # type: ignore[arg-type]


BY_STATUS = [record(boot, incarnation=incarnation, state=state) for boot, incarnation, state in STATUS_TABLE]
BY_METADATA = [record(boot, meta_version=version, **said) for boot, version, said in METADATA_TABLE]
BY_VITALS = [record(boot, vitals=Vitals(*said)) for boot, *said in VITALS_TABLE]


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(BY_STATUS, id="status"),
        pytest.param(BY_METADATA, id="metadata"),
        pytest.param(BY_VITALS, id="vitals"),
    ],
)
def test_of_every_pair_the_one_further_down_in_the_table_wins(table: list[MemberRecord]) -> None:
    pairs = list(itertools.combinations(table, 2))
    assert len(pairs) > 60
    for weaker, stronger in pairs:
        assert supersedes(stronger, weaker), (stronger, weaker)
        assert not supersedes(weaker, stronger), (stronger, weaker)
        assert merge(weaker, stronger) == stronger
        assert merge(stronger, weaker) is stronger
    for entry in table:
        assert not supersedes(entry, attrs.evolve(entry))
        assert merge(entry, attrs.evolve(entry)) is entry


# What wins when the parts disagree: two records, and what is believed when both were heard.
PARTS_TABLE: tuple[tuple[dict[str, object], dict[str, object], dict[str, object]], ...] = (
    (
        {"state": SUSPECT},
        {"meta_version": 1, "tags": {"k": "v"}},
        {"state": SUSPECT, "meta_version": 1, "tags": {"k": "v"}},
    ),
    ({"state": FAILED}, {"vitals": Vitals(7)}, {"state": FAILED, "vitals": Vitals(7)}),
    ({"incarnation": 3}, {"state": LEFT, "meta_version": 2}, {"incarnation": 3, "meta_version": 2}),
    (
        {"meta_version": 2, "vitals": Vitals(1)},
        {"meta_version": 1, "vitals": Vitals(2)},
        {"meta_version": 2, "vitals": Vitals(2)},
    ),
    (
        {"meta_version": 1, "digest": b"d" * 12},
        {"meta_version": 2, "tags": {"k": "v"}},
        {"meta_version": 2, "tags": {"k": "v"}},
    ),
    (
        {"boot_id": 2},
        {"boot_id": 1, "incarnation": 9, "state": LEFT, "meta_version": 9, "vitals": Vitals(9)},
        {"boot_id": 2},
    ),
    ({"boot_id": 2, "meta_version": 0}, {"boot_id": 1, "meta_version": MAX_INCARNATION}, {"boot_id": 2}),
    ({"boot_id": 2, "vitals": NO_VITALS}, {"boot_id": 1, "vitals": Vitals(MAX_EPOCH, 8.0)}, {"boot_id": 2}),
)


@pytest.mark.parametrize(("one", "other", "both"), PARTS_TABLE)
def test_the_three_parts_of_a_record_grow_independently_within_one_boot(
    one: dict[str, object], other: dict[str, object], both: dict[str, object]
) -> None:
    a, b, expected = (attrs.evolve(record(), **changes) for changes in (one, other, both))  # type: ignore[arg-type]
    assert merge(a, b) == merge(b, a) == expected


HALTS = ((False, False), (True, False), (True, True))


def any_record(rng: random.Random) -> MemberRecord:
    """Return one of so many records that ties in every part are frequent."""
    is_large = rng.random() < 0.3
    tags = {} if is_large else {key: rng.choice("12") for key in rng.sample("xyz", rng.randrange(3))}
    place = None if rng.random() < 0.5 else (float(rng.randrange(2)), 0.0, 0.0, 0.5)
    return record(
        rng.choice((0, 1, 2, MAX_BOOT_ID)),
        incarnation=rng.choice((0, 1, 2, MAX_INCARNATION)),
        state=rng.choice(list(NodeState)),
        meta_version=rng.choice((0, 1, MAX_INCARNATION)),
        address=rng.choice(("a:1", "b:1")),
        tags=tags,
        services=() if is_large else rng.choice(((), ("s",), ("r", "s"))),
        digest=bytes(11) + bytes([rng.randrange(3)]) if is_large else b"",
        vitals=Vitals(rng.choice((0, 1, 2, MAX_EPOCH)), rng.choice((0.0, 0.25)), place, *rng.choice(HALTS)),
    )


def fold(told: list[MemberRecord], into: Callable[[MemberRecord, MemberRecord], MemberRecord]) -> MemberRecord:
    result = told[0]
    for entry in told[1:]:
        result = into(result, entry)
    return result


def test_a_thousand_random_triples_commute_associate_and_repeat_without_effect() -> None:
    rng = random.Random(11)
    changed = 0
    for _ in range(1000):
        a, b, c = (any_record(rng) for _ in range(3))
        both = merge(a, b)
        assert both == merge(b, a)
        assert merge(both, c) == merge(a, merge(b, c))
        assert merge(a, attrs.evolve(a)) is a
        assert merge(both, a) is both
        assert merge(both, b) is both
        assert supersedes(b, a) == (both != a)
        changed += both not in (a, b)
    assert changed > 50, "hardly any of them mixed parts of both"


def test_a_thousand_random_records_end_the_same_in_any_order_any_number_of_times_and_in_any_grouping() -> None:
    rng = random.Random(12)
    told = [any_record(rng) for _ in range(1000)]
    expected = fold(told, merge)
    for _ in range(5):
        again = [*told, *rng.sample(told, 300)]
        rng.shuffle(again)
        assert fold(again, merge) == expected
        groups = [fold(again[i : i + 37], merge) for i in range(0, len(again), 37)]
        assert fold(groups, lambda old, new: merge(new, old)) == expected


def test_whether_the_body_of_large_tags_is_here_makes_no_difference_to_the_order() -> None:
    named = record(digest=b"d" * 12, meta_version=1)
    complete = attrs.evolve(named, tags={"k": "v"}, services=("s",))
    assert not supersedes(named, complete)
    assert not supersedes(complete, named)
    assert merge(complete, named) is complete
