"""Finding back: whom a node tries to reach again, for ever, while nodes are missing."""

from __future__ import annotations

import itertools
import math
import random

from _swim_bench import (
    FAILED,
    LEFT,
    SUSPECT,
    A,
    B,
    C,
    exchange,
    machine,
    quiet,
    record,
    sent,
    state_of,
    synced,
    tell,
    wait,
)

from rpcnet._core.healing import Healing
from rpcnet._core.members import MemberRecord
from rpcnet._core.messages import Accusation
from rpcnet._core.roster import Roster
from rpcnet._core.swim import OpenSync, SwimMachine
from rpcnet._signals import Suspicion


def many(number: int, address: str = "n:1") -> list[MemberRecord]:
    return [MemberRecord(id=f"{i:032x}", name=f"n{i}", address=address, boot_id=1) for i in range(number)]


def tries(swim: SwimMachine, until: float) -> list[tuple[float, str]]:
    """Return what is tried until a time, and when, without the exchanges that happen anyway."""
    swim._sync_at = math.inf
    return [(at, effect.address) for at, effect in wait(swim, until) if isinstance(effect, OpenSync)]


def alone(heal_interval: float = 10.0) -> SwimMachine:
    return machine(
        A,
        record("b", state=FAILED),
        seeds=["s:1", "a:1"],
        sync_interval=3600,
        refresh_interval=86400,
        heal_interval=heal_interval,
    )


def test_failed_nodes_and_seeds_are_tried_again_for_ever_and_never_oneself() -> None:
    tried = tries(alone(), 2000.0)
    assert {address for _, address in tried} == {"s:1", "b:1"}
    assert len(tried) > 300
    assert tried[-1][0] > 1980.0


def test_the_tries_are_an_interval_apart_with_some_chance_in_it() -> None:
    times = sorted({at for at, _ in tries(alone(heal_interval=10), 1000.0)})
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert all(8 <= gap <= 12 for gap in gaps)
    assert max(gaps) - min(gaps) > 1


def test_a_healthy_cluster_does_not_trouble_seeds_that_are_members() -> None:
    swim = machine(A, B, C, seeds=["b:1", "c:1"], sync_interval=3600, refresh_interval=86400)
    quiet(swim)
    assert tries(swim, 3000.0) == []


def test_a_seed_where_no_member_is_is_tried_about_once_an_interval_by_all_nodes_together() -> None:
    swim = machine(
        A, *many(9), seeds=["n:1", "elsewhere:1"], heal_interval=10, sync_interval=3600, refresh_interval=86400
    )
    quiet(swim)
    tried = tries(swim, 10_000.0)
    assert {address for _, address in tried} == {"elsewhere:1"}
    assert 60 < len(tried) < 150


def test_one_failed_node_among_many_is_tried_seldom() -> None:
    swim = machine(
        A, *many(40), record("b", state=FAILED), heal_interval=10, sync_interval=3600, refresh_interval=86400
    )
    quiet(swim)
    assert 5 <= len(tries(swim, 10_000.0)) <= 60


def test_the_more_nodes_failed_the_likelier_they_are_tried() -> None:
    def share(n_failed: int) -> int:
        failed = [
            MemberRecord(id=f"f{i:031x}", name=f"f{i}", address="f:1", boot_id=1, state=FAILED) for i in range(n_failed)
        ]
        swim = machine(A, *many(19), *failed, heal_interval=10, sync_interval=3600, refresh_interval=86400)
        quiet(swim)
        return len(tries(swim, 3000.0))

    assert share(0) == 0
    assert share(2) < share(10) < share(40)


def test_a_node_that_sees_less_than_half_of_what_it_saw_always_tries() -> None:
    swim = machine(
        A, *many(8), seeds=["s:1"], heal_interval=10, dead_reap_after=1e6, sync_interval=3600, refresh_interval=86400
    )
    quiet(swim)
    for item in many(5):
        tell(swim, record("1", id=item.id, name=item.name, address=item.address, state=FAILED), now=3.0)
    tried = tries(swim, 500.0)
    assert len([address for _, address in tried if address == "s:1"]) > 38


def test_members_that_left_in_good_order_are_not_missed() -> None:
    swim = machine(A, *many(8), seeds=["n:1"], heal_interval=10, sync_interval=3600, refresh_interval=86400)
    quiet(swim)
    for item in many(7):
        tell(swim, record("1", id=item.id, name=item.name, address=item.address, state=LEFT), now=3.0)
    assert [address for _, address in tries(swim, 500.0) if address == "n:1"] == []


def test_who_is_cut_off_tries_at_once() -> None:
    swim = machine(A, *many(20), seeds=["n:1"], heal_interval=3600, sync_interval=3600, refresh_interval=86400)
    quiet(swim)
    swim.isolated(5.0)
    assert swim.next_timer() == 5.0
    assert synced(swim.on_timer(5.0)) == ["n:1"]
    assert tries(swim, 2000.0) == []


def test_who_has_left_tries_nobody() -> None:
    swim = alone()
    swim.leave(3.0)
    assert tries(swim, 500.0) == []


def test_what_seed_sources_say_now_replaces_what_they_said_and_not_what_was_given() -> None:
    swim = machine(A, seeds=["given:1"], sync_interval=3600, refresh_interval=86400)
    swim.seeds_resolved(["old:1"])
    swim.seeds_resolved(["new:1"])
    assert {address for _, address in tries(swim, 500.0)} == {"given:1", "new:1"}


def test_addresses_that_were_joined_by_hand_are_seeds_from_then_on() -> None:
    swim = machine(A, sync_interval=3600, refresh_interval=86400)
    swim.join(["hand:1"], 3.0)
    assert {address for _, address in tries(swim, 500.0)} == {"hand:1"}


def test_seeds_are_bounded_and_the_latest_joined_are_kept() -> None:
    healing = Healing([f"s:{i}" for i in range(1, 200)], 10.0, random.Random(1), 0.0)
    healing.remember(["hand:1"])
    healing.resolve([f"r:{i}" for i in range(1, 200)])
    roster = Roster(A, [], max_members=10, now=0.0)
    chosen = {address for _ in range(5000) for address in healing.choose(roster, 0.0)}
    assert len(chosen) == 64 + 64
    assert "hand:1" in chosen


def test_one_try_that_gets_through_heals_both_sides() -> None:
    left, right = (
        machine(A, B, record("c", state=FAILED)),
        machine(C, record("a", state=FAILED), record("b", state=FAILED)),
    )
    assert "c:1" in {address for _, address in tries(left, 60.0)}
    exchange(left, right, 61.0)
    exchange(left, right, 62.0)
    assert state_of(left, "c") is state_of(right, "a")
    assert state_of(right, "a") is left.local.state


def test_a_node_that_finds_itself_cut_off_does_not_tell_what_it_alone_accused_others_of() -> None:
    swim = machine(A, B, C)
    quiet(swim)
    tell(swim, record("c", state=SUSPECT), by=[Accusation(B.id, 2.0)], now=3.0)
    swim.suspicion(Suspicion(node_id=B.id, boot_id=1, incarnation=0, phi=2.0, at=3.0), 3.0)
    swim.isolated(4.0)
    told = [update for datagram in sent(swim._gossip_round(5.0)).values() for update in datagram.updates]
    assert {update.record.name for update in told} == {"c"}
