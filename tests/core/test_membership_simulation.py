"""Membership and failure detection together, a few nodes, in virtual time.

What the design promises at larger sizes is in ``test_scenarios.py``; what must hold in every run is checked by the
simulator itself.
"""

from __future__ import annotations

import pytest
from _membership_world import Town, settled

from rpcnet.events import (
    NodeFailed,
    NodeJoined,
    NodeLeft,
    NodeReplaced,
    NodeState,
    NodeSuspected,
)

ALL_KNOW_WITHIN = 12.0


@pytest.mark.parametrize("seed", range(2))
def test_twenty_nodes_that_join_through_one_seed_all_see_each_other(seed: int) -> None:
    town = Town(seed, 20)
    town.start_all()
    town.run_until(lambda: town.everyone_sees(range(20)), within=5)
    town.run(10)
    assert len(town.heard(NodeJoined)) == 20 * 19
    assert town.heard(NodeSuspected) == []


def test_nodes_that_join_one_after_the_other_are_known_within_two_seconds() -> None:
    town = Town(1, 10)
    town.start_all(interval=1.0)
    town.run_until(lambda: town.everyone_sees(range(10)), within=2)


def test_a_node_joins_also_when_its_seed_starts_later() -> None:
    town = Town(1, 2)
    town.start(1, seeds=[0])
    town.run(3)
    town.start(0)
    town.run_until(lambda: town.everyone_sees(range(2)), within=15)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_crash_in_a_small_cluster_is_known_to_all_in_time(n: int) -> None:
    town = settled(1, n)
    town.crash(1)
    town.run_until(lambda: town.all_know(1, NodeState.FAILED), within=ALL_KNOW_WITHIN)
    assert town.subjects(NodeFailed) == {1}


def test_a_process_that_is_gone_from_its_host_is_known_sooner_than_a_host_that_is_gone() -> None:
    killed, gone = settled(1, 10), settled(1, 10)
    killed.kill(4)
    gone.crash(4)
    took = killed.run_until(lambda: killed.all_know(4, NodeState.FAILED), within=6)
    assert took < gone.run_until(lambda: gone.all_know(4, NodeState.FAILED), within=ALL_KNOW_WITHIN)


def test_half_of_the_cluster_crashing_at_once_is_noticed_by_the_other_half() -> None:
    town = settled(2, 12)
    for number in range(6, 12):
        town.crash(number)
    town.run_until(lambda: town.everyone_sees(range(6)), within=40)


def test_datagrams_that_arrive_twice_and_late_change_nothing() -> None:
    town = settled(1, 10, duplication=0.3)
    town.run(60)
    assert town.heard(NodeFailed) == []
    assert town.everyone_sees(range(10))


@pytest.mark.parametrize("n", [2, 3])
def test_a_node_of_a_few_that_stops_for_five_seconds_is_not_declared_failed(n: int) -> None:
    town = settled(1, n)
    town.pause(1, 5.0)
    town.run(6)
    assert town.heard(NodeSuspected)
    town.run(20)
    assert town.heard(NodeFailed) == []
    assert town.everyone_sees(range(n))


def test_a_node_that_stopped_for_long_accuses_nobody_when_it_wakes() -> None:
    town = settled(1, 10)
    town.pause(1, 60.0)
    town.run(90)
    assert town.subjects(NodeFailed) == {1}
    assert town.everyone_sees(range(10))


def test_a_node_cut_off_alone_sees_the_others_as_failed_and_finds_back() -> None:
    town = settled(1, 5)
    town.partition([0], range(1, 5))
    town.run_until(lambda: list(town.states(0).values()).count(NodeState.FAILED) == 4, within=60)
    town.repair()
    town.run_until(lambda: town.everyone_sees(range(5)), within=15)


def test_a_node_that_left_is_never_taken_for_failed() -> None:
    town = settled(3, 10)
    town.leave(3)
    town.run_until(lambda: not town.hosts[3].is_up, within=3)
    town.run(20)
    assert town.all_know(3, NodeState.LEFT)
    assert town.heard(NodeFailed) == []
    assert town.subjects(NodeLeft) == {3}


def test_a_node_that_restarts_at_once_is_replaced_and_not_failed() -> None:
    town = settled(1, 10)
    town.kill(4)
    town.start(4, seeds=[0])
    town.run(20)
    assert town.heard(NodeFailed) == []
    assert len(town.heard(NodeReplaced)) == 9
    assert town.everyone_sees(range(10))


def test_a_restarted_membership_task_costs_nobody_his_life() -> None:
    town = settled(1, 10)
    town.restart_membership(4)
    town.run(30)
    assert town.heard(NodeFailed) == []
    assert len(town.heard(NodeJoined, 4)) == 9
    assert town.everyone_sees(range(10))
