"""Whom to probe next, and who is on a jury."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._core.peers import Peers
from rpcnet._core.suspicion import JURY, is_juror
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


def test_the_jury_has_five_members_on_average_at_any_size() -> None:
    for n in (20, 100, 1000):
        sizes = [sum(is_juror(f"s{s}", 1, 0, juror_id=f"j{j}", n_members=n) for j in range(n - 2)) for s in range(40)]
        assert sum(sizes) / len(sizes) == pytest.approx(JURY, abs=1.0)


def test_in_a_small_cluster_everyone_is_a_juror() -> None:
    assert all(is_juror("s", 1, 0, juror_id=f"j{j}", n_members=7) for j in range(50))
