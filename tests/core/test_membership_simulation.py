"""Membership and failure detection together, many nodes, in virtual time.

The bounds are those the design promises (LAN profile, 1 ms latency); what must hold in every run is checked by the
world itself.
"""

from __future__ import annotations

import itertools
import statistics

import attrs
import pytest
from _membership_world import World, node_id

from rpcnet._core.messages import encode_datagram, encode_head, encode_update
from rpcnet._core.swim import SendDatagram
from rpcnet.events import NodeEvent, NodeFailed, NodeJoined, NodeLeft, NodeReplaced, NodeState, NodeSuspected

ALL_KNOW_WITHIN = 12.0
MEDIAN_WITHIN = 9.0


def names(n: int, start: int = 0) -> list[str]:
    return [f"n{i}" for i in range(start, n)]


def everyone_sees(world: World, expected: set[str]) -> bool:
    return all(host.alive() == expected for host in world.live())


def settled(seed: int, n: int, *, loss: float = 0.0, duplication: float = 0.0) -> World:
    """A world whose ``n`` nodes have all met, and probed for a while."""
    world = World(seed, loss=loss, duplication=duplication)
    world.start_many(n)
    world.run_until(lambda: everyone_sees(world, set(names(n))), within=30)
    world.run(5)
    return world


def heard(world: World, kind: type[NodeEvent]) -> list[NodeEvent]:
    return [event for host in world.hosts.values() for event in host.heard(kind)]


def all_know(world: World, name: str, state: NodeState) -> bool:
    return all(host.states().get(name) is state for host in world.live())


def crash_and_wait(world: World, name: str, within: float) -> float:
    world.crash(name)
    return world.run_until(lambda: all_know(world, name, NodeState.FAILED), within=within)


@pytest.mark.parametrize("seed", range(3))
def test_twenty_nodes_that_join_through_one_seed_all_see_each_other(seed: int) -> None:
    world = World(seed)
    world.start_many(20)
    world.run_until(lambda: everyone_sees(world, set(names(20))), within=5)
    world.run(10)
    assert len(heard(world, NodeJoined)) == 20 * 19
    assert heard(world, NodeSuspected) == []


def test_nodes_that_join_one_after_the_other_are_known_within_two_seconds() -> None:
    world = World(1)
    world.start_many(10, interval=1.0)
    world.run_until(lambda: everyone_sees(world, set(names(10))), within=2)


def test_a_crash_among_twenty_is_known_to_all_in_time_and_nobody_else_is_accused_of_it() -> None:
    times = []
    for seed in range(5):
        world = settled(seed, 20)
        times.append(crash_and_wait(world, "n7", ALL_KNOW_WITHIN))
        assert {event.node.name for event in heard(world, NodeFailed)} == {"n7"}
    assert statistics.median(times) <= MEDIAN_WITHIN


def test_a_crash_among_fifty_is_known_to_all_in_time() -> None:
    world = settled(1, 50)
    crash_and_wait(world, "n7", ALL_KNOW_WITHIN)
    assert {event.node.name for event in heard(world, NodeFailed)} == {"n7"}


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_crash_in_a_small_cluster_is_known_to_all_in_time(n: int) -> None:
    crash_and_wait(settled(1, n), "n1", ALL_KNOW_WITHIN)


def test_a_crash_is_known_in_time_also_when_three_datagrams_in_ten_are_lost() -> None:
    world = settled(1, 20, loss=0.3)
    crash_and_wait(world, "n7", 12.5)
    assert {event.node.name for event in heard(world, NodeFailed)} == {"n7"}


def test_half_of_the_cluster_crashing_at_once_is_noticed_by_the_other_half() -> None:
    world = settled(2, 12)
    for name in names(12, start=6):
        world.crash(name)
    world.run_until(lambda: everyone_sees(world, set(names(6))), within=40)


def test_three_datagrams_in_ten_lost_for_two_minutes_kill_nobody() -> None:
    world = settled(1, 20, loss=0.3)
    world.run(120)
    assert heard(world, NodeFailed) == []
    subjects = {(event.node.name, event.node.incarnation) for event in heard(world, NodeSuspected)}
    assert len(subjects) <= 0.1 * 20 * 2


def test_datagrams_that_arrive_twice_and_late_change_nothing() -> None:
    world = settled(1, 10, duplication=0.3)
    world.run(60)
    assert heard(world, NodeFailed) == []
    assert everyone_sees(world, set(names(10)))


@pytest.mark.parametrize("n", [2, 3, 10, 20])
@pytest.mark.parametrize("seed", range(2))
def test_a_node_that_stops_for_five_seconds_is_not_declared_failed(seed: int, n: int) -> None:
    world = settled(seed, n)
    world.pause("n1", 5.0)
    world.run(6)
    assert heard(world, NodeSuspected)
    world.run(20)
    assert heard(world, NodeFailed) == []
    assert everyone_sees(world, set(names(n)))


def test_a_node_that_stopped_for_long_accuses_nobody_when_it_wakes() -> None:
    world = settled(1, 10)
    world.pause("n1", 60.0)
    world.run(90)
    assert {event.node.name for event in heard(world, NodeFailed)} == {"n1"}
    assert everyone_sees(world, set(names(10)))


@pytest.mark.parametrize("seed", range(2))
def test_a_split_separates_and_heals_by_itself(seed: int) -> None:
    world = settled(seed, 20)
    large, small = names(12), names(20, start=12)
    world.partition(large, small)

    def is_separate() -> bool:
        sides = ((large, small), (small, large))
        return all(
            {name for name, state in world.hosts[mine].states().items() if state is NodeState.FAILED} == set(other)
            for own, other in sides
            for mine in own
        )

    took = world.run_until(is_separate, within=35)
    world.run(60 - took)
    world.repair()
    world.run_until(lambda: everyone_sees(world, set(names(20))), within=15)


def test_a_node_cut_off_alone_sees_the_others_as_failed_and_finds_back() -> None:
    world = settled(1, 5)
    world.partition(["n0"], names(5, start=1))
    alone = world.hosts["n0"]
    world.run_until(lambda: list(alone.states().values()).count(NodeState.FAILED) == 4, within=60)
    world.repair()
    world.run_until(lambda: everyone_sees(world, set(names(5))), within=15)


def test_a_link_that_is_blocked_in_one_direction_kills_nobody() -> None:
    world = settled(1, 10)
    world.block("n1", "n2")
    world.run(90)
    assert heard(world, NodeFailed) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_goodbye_is_heard_everywhere_and_is_never_taken_for_a_failure(seed: int) -> None:
    world = settled(seed, 20)
    host = world.hosts["n3"]
    world.perform(host, host.swim.leave(world.now))
    world.run_until(lambda: host.swim.is_leave_spread, within=2)
    world.crash("n3")
    world.run_until(lambda: all_know(world, "n3", NodeState.LEFT), within=3)
    world.run(20)
    assert heard(world, NodeFailed) == []
    assert {event.node.name for event in heard(world, NodeLeft)} == {"n3"}


def test_a_node_that_restarts_at_once_is_replaced_and_not_failed() -> None:
    world = settled(1, 10)
    world.crash("n4")
    world.start("n4", seeds=["n0"], boot_id=2)
    world.run(20)
    assert heard(world, NodeFailed) == []
    assert len([event for event in heard(world, NodeReplaced) if event.node.name == "n4"]) == 9
    assert everyone_sees(world, set(names(10)))


def test_a_restarted_membership_task_costs_nobody_his_life() -> None:
    world = settled(1, 10)
    world.restart_membership("n4")
    world.run(30)
    assert heard(world, NodeFailed) == []
    assert len(world.hosts["n4"].heard(NodeJoined)) == 9
    assert everyone_sees(world, set(names(10)))
    assert all(info.boot_id == 1 + (info.name == "n4") for info in world.hosts["n0"].swim.members())


def test_a_cluster_restarted_within_ten_seconds_is_complete_again() -> None:
    world = settled(1, 12)
    for i in range(12):
        world.crash(f"n{i}")
        world.run(10 / 12)
        world.start(f"n{i}", seeds=[f"n{(i + 1) % 12}", f"n{(i + 5) % 12}"], boot_id=2)

    def is_complete() -> bool:
        views = [host.swim.members() for host in world.live()]
        return all(len(view) == 12 and all(info.boot_id == 2 and info.is_usable for info in view) for view in views)

    world.run_until(is_complete, within=30)


def test_nobody_waits_longer_for_a_probe_than_twice_the_cluster() -> None:
    n = 10
    world = settled(1, n)
    world.run(100)
    for host in world.live():
        for name in names(n):
            times = [at for at, target in host.probes if target == node_id(name) and at > 5.0]
            gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
            assert name == host.name or max(gaps) <= (2 * n - 1) * 1.01


def test_an_idle_node_sends_two_small_datagrams_a_second_whatever_the_clusters_size() -> None:
    for n in (5, 25):
        world = settled(1, n)
        datagrams, size = world.datagrams, world.bytes
        world.run(30)
        assert (world.datagrams - datagrams) / n / 30 <= 2.2
        assert (world.bytes - size) / n / 30 <= 300


def test_the_same_seed_gives_the_same_run() -> None:
    def run(seed: int) -> list[tuple[float, str, str]]:
        world = World(seed, loss=0.2)
        world.start_many(8)
        world.run(10)
        world.crash("n3")
        world.run(20)
        return world.trace

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_the_world_notices_when_somebody_else_raises_an_incarnation() -> None:
    world = settled(1, 3)
    forged = attrs.evolve(world.hosts["n1"].swim.local, incarnation=9)
    payload = encode_datagram(encode_head(None), [encode_update(forged)])
    with pytest.raises(AssertionError, match="raised by somebody else"):
        world.perform(world.hosts["n0"], [SendDatagram("n2:7946", payload)])
