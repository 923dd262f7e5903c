"""Whom to probe next, and how one cycle goes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._core.peers import Peers
from rpcnet._core.phi import Trial
from rpcnet._core.probing import ASKING_AFTER, Cycle, schedule
from rpcnet.events import NodeInfo, NodeState


def info(name: str) -> NodeInfo:
    return NodeInfo(id=name, name=name, address=f"{name}:1", boot_id=1, incarnation=0, state=NodeState.ALIVE)


def turn(ring: Peers, rng: random.Random) -> str | None:
    node = ring.next(rng)
    return None if node is None else node.id


def names(n: int) -> list[str]:
    return [f"n{i:02}" for i in range(n)]


def test_nobody_waits_longer_than_twice_the_cluster() -> None:
    n = 12
    ring, rng = Peers(), random.Random(3)
    for name in names(n):
        ring.put(info(name), rng)
    last = dict.fromkeys(names(n), 0)
    for period in range(1, 2000):
        target = turn(ring, rng)
        assert target is not None
        assert period - last[target] <= 2 * n - 1
        last[target] = period


@given(st.lists(st.tuples(st.sampled_from(["insert", "remove", "next"]), st.integers(0, 9)), max_size=60))
@settings(max_examples=200, deadline=None)
def test_the_ring_holds_each_member_once_whatever_happens(steps: list[tuple[str, int]]) -> None:
    ring, rng = Peers(), random.Random(1)
    members: set[str] = set()
    for step, i in steps:
        name = str(i)
        if step == "insert":
            ring.put(info(name), rng)
            members.add(name)
        elif step == "remove":
            ring.remove(name)
            members.discard(name)
        else:
            target = turn(ring, rng)
            assert (target in members) if members else target is None
    assert set(ring) == members
    assert len(ring) == len(members)
    for _ in range(len(members)):
        turn(ring, rng)
    assert {turn(ring, rng) for _ in range(2 * len(members))} == (members or set())


def test_a_new_node_does_not_make_the_others_start_over() -> None:
    ring, rng = Peers(), random.Random(1)
    for name in names(10):
        ring.put(info(name), rng)
    first = [turn(ring, rng) for _ in range(5)]
    ring.put(info("new"), rng)
    rest = [turn(ring, rng) for _ in range(5)]
    assert not {*first} & {name for name in rest if name != "new"}


@given(st.integers(0, 40), st.integers(1, 6), st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_a_sample_holds_different_members_that_are_able(size: int, count: int, n_able: int) -> None:
    ring, rng = Peers(), random.Random(1)
    ring.fill([info(name) for name in names(size)])
    able = set(names(size)[:n_able])
    found = [node.id for node in ring.sample(count, rng, able.__contains__)]
    assert len(found) == len(set(found)) <= count
    assert set(found) <= able
    if size <= 4 * count:
        assert len(found) == min(count, len(able))


def test_members_that_come_all_at_once_are_as_if_they_had_come_one_by_one() -> None:
    ring, rng = Peers(), random.Random(1)
    ring.fill([info(name) for name in names(10)])
    assert {turn(ring, rng) for _ in range(10)} == set(names(10))
    ring.put(info("new"), rng)
    ring.remove("n03")
    assert {turn(ring, rng) for _ in range(20)} == {*names(10), "new"} - {"n03"}
    with pytest.raises(ValueError, match="already"):
        ring.fill([info("late")])


def test_the_order_of_a_pass_cannot_be_foreseen_and_is_another_one_each_time() -> None:
    ring, rng = Peers(), random.Random(1)
    ring.fill([info(name) for name in names(20)])
    passes = [tuple(turn(ring, rng) for _ in range(20)) for _ in range(10)]
    assert len(set(passes)) == 10


def test_coordinates_stay_with_their_member_whoever_comes_and_goes() -> None:
    ring, rng = Peers(), random.Random(1)
    for i, name in enumerate(names(30)):
        ring.put(info(name), rng)
        ring.place(name, (i / 8, 0.0, 0.25, 0.5))
        turn(ring, rng)
    for name in names(30)[::3]:
        ring.remove(name)
        turn(ring, rng)
    for i, name in enumerate(names(30)):
        assert ring.coordinates(name) == (None if i % 3 == 0 else (i / 8, 0.0, 0.25, 0.5))
    ring.put(info("n00"), rng)
    assert ring.coordinates("n00") is None


# --- cycles


def cycle(*, sent: int = 0, q90: float = 0.005) -> Cycle:
    offsets, length = schedule(q90, 1.0)
    return Cycle("a", 1, 10.0, offsets, length, ASKING_AFTER, seqs=list(range(sent)))


def test_a_cycle_asks_helpers_twice_and_a_connection_once_after_a_tenth_of_the_period() -> None:
    assert [cycle(sent=i).asks_helpers for i in range(6)] == [False, False, False, False, True, True]
    assert [cycle(sent=i).asks_connection for i in range(6)] == [False, False, False, False, False, True]
    assert cycle().offsets[4] == pytest.approx(0.15)


def test_on_a_slow_network_a_cycle_asks_with_its_third_ping() -> None:
    assert [cycle(sent=i, q90=0.1).asks_helpers for i in range(3)] == [False, False, True]


def test_a_cycle_whose_target_was_refused_asks_helpers_once_and_no_connection() -> None:
    refused = [cycle(sent=i) for i in range(6)]
    for each in refused:
        each.is_refused = True
    assert [each.asks_helpers for each in refused] == [False, False, False, False, True, False]
    assert not any(each.asks_connection for each in refused)


def test_a_cycle_that_was_answered_to_a_helper_asks_no_more_of_them() -> None:
    helped = cycle(sent=4)
    helped.is_helped = True
    assert not helped.asks_helpers


def test_a_nack_counts_once_per_request_and_only_from_who_was_asked() -> None:
    asked = cycle(sent=3)
    asked.trials = [Trial(10.0, 0.05), Trial(10.015, 0.3, hops=2)]
    asked.helpers = {(7, "h"): 1}
    assert asked.were_helpers_silent
    assert not asked.nack(8, "h", 0.001)
    assert not asked.nack(7, "stranger", 0.001)
    assert asked.nack(7, "h", 0.001)
    assert not asked.nack(7, "h", 0.001)
    assert asked.trials[1] == Trial(10.015, 0.001, hops=0)
    assert not asked.were_helpers_silent
