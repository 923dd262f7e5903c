"""Whom to probe next, and who is on a jury."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._core.probing import ProbeRing
from rpcnet._core.suspicion import JURY, is_juror


def names(n: int) -> list[str]:
    return [f"n{i:02}" for i in range(n)]


def test_nobody_waits_longer_than_twice_the_cluster() -> None:
    n = 12
    ring, rng = ProbeRing(), random.Random(3)
    for name in names(n):
        ring.insert(name, rng)
    last = dict.fromkeys(names(n), 0)
    for period in range(1, 2000):
        target = ring.next(rng)
        assert target is not None
        assert period - last[target] <= 2 * n - 1
        last[target] = period


@given(st.lists(st.tuples(st.sampled_from(["insert", "remove", "next"]), st.integers(0, 9)), max_size=60))
@settings(max_examples=200, deadline=None)
def test_the_ring_holds_each_member_once_whatever_happens(steps: list[tuple[str, int]]) -> None:
    ring, rng = ProbeRing(), random.Random(1)
    members: set[str] = set()
    for step, i in steps:
        name = str(i)
        if step == "insert":
            ring.insert(name, rng)
            members.add(name)
        elif step == "remove":
            ring.remove(name)
            members.discard(name)
        else:
            target = ring.next(rng)
            assert (target in members) if members else target is None
    assert set(ring) == members
    assert len(ring) == len(members)
    for _ in range(len(members)):
        ring.next(rng)
    assert {ring.next(rng) for _ in range(2 * len(members))} == (members or set())


def test_a_new_node_does_not_make_the_others_start_over() -> None:
    ring, rng = ProbeRing(), random.Random(1)
    for name in names(10):
        ring.insert(name, rng)
    first = [ring.next(rng) for _ in range(5)]
    ring.insert("new", rng)
    rest = [ring.next(rng) for _ in range(5)]
    assert not {*first} & {name for name in rest if name != "new"}


def test_the_jury_has_five_members_on_average_at_any_size() -> None:
    for n in (20, 100, 1000):
        sizes = [sum(is_juror(f"s{s}", 1, 0, juror_id=f"j{j}", n_members=n) for j in range(n - 2)) for s in range(40)]
        assert sum(sizes) / len(sizes) == pytest.approx(JURY, abs=1.0)


def test_in_a_small_cluster_everyone_is_a_juror() -> None:
    assert all(is_juror("s", 1, 0, juror_id=f"j{j}", n_members=7) for j in range(50))
