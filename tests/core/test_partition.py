"""Partition detection: when a loss is a partition, what it is called, and how it ends."""

from __future__ import annotations

import pytest
from _partition_bench import Watcher, cluster, info, names, split

from rpcnet._core.partition import stable_time
from rpcnet.config import PartitionConfig
from rpcnet.errors import ConfigError
from rpcnet.events import PartitionDetected, PartitionStatus, PartitionSuspected, SelfIsolated
from rpcnet.quorum import KeepMajority, LeaseQuorum, StaticQuorum

MAJORITY, MINORITY = PartitionStatus.MAJORITY, PartitionStatus.MINORITY
WHOLE, ISOLATED, TIE = PartitionStatus.WHOLE, PartitionStatus.ISOLATED, PartitionStatus.TIE


def watcher(own: str, others: str, **settings: object) -> Watcher:
    return cluster(own + others, KeepMajority(), **settings)[own]


# --- how long, how many


@pytest.mark.parametrize(("members", "seconds"), [(1, 5), (5, 7), (10, 10), (20, 13), (50, 17), (100, 20), (1000, 30)])
def test_a_larger_cluster_takes_longer_to_be_stable(members: int, seconds: float) -> None:
    assert stable_time(PartitionConfig(), 5.0, members) == pytest.approx(seconds, abs=0.1)


def test_a_profile_that_waits_longer_for_pauses_takes_longer_to_be_stable() -> None:
    assert stable_time(PartitionConfig(), 10.0, 100) == pytest.approx(40)


def test_the_time_of_stability_can_be_set() -> None:
    assert stable_time(PartitionConfig(stable_after=3.0), 5.0, 1000) == 3.0


@pytest.mark.parametrize(
    ("total", "lost", "is_suspected"),
    [
        (2, 1, False),
        (3, 1, False),
        (3, 2, True),
        (5, 1, False),
        (5, 2, True),
        (15, 2, False),
        (15, 3, True),
        (24, 4, False),
    ],
)
def test_a_partition_is_suspected_from_two_and_a_fifth_of_the_members_on(
    total: int, lost: int, is_suspected: bool
) -> None:
    members = "abcdefghijklmnopqrstuvwxyz"[:total]
    node = watcher("a", members[1:])
    node.suspects(members[1:][:lost])
    assert node.machine.snapshot().is_suspected == is_suspected
    assert bool(node.take()) == is_suspected


def test_both_measures_can_be_set() -> None:
    node = watcher("a", "bcdefghij", least_lost=4, lost_share=0.0)
    node.suspects("bcd")
    assert node.take() == []
    node.suspects("e")
    assert node.take() == ["suspected bcde | afghij"]


def test_losses_over_a_long_time_are_not_suspected_as_a_partition() -> None:
    node = watcher("a", "bcdefghij", stable_after=60.0)
    node.fails("b")
    node.passes(30)
    node.fails("c")
    assert node.take() == []
    node.settle()
    assert (node.take(), node.status, node.writable) == ([], WHOLE, True)


def test_zones_that_were_lost_whole_are_named_first_as_they_seem_then_as_they_are() -> None:
    others = [info(name, rack="2") for name in "bcd"] + [info("e", rack="3"), info("f")]
    node = Watcher(info("a", rack="1"), PartitionConfig(zone_tag="rack"), others)
    node.suspects("bcdef")
    node.fails("bcdf")
    node.recovers("e")
    node.settle()
    suspected, detected = node.said
    assert isinstance(suspected, PartitionSuspected)
    assert isinstance(detected, PartitionDetected)
    assert (names(suspected.lost), names(suspected.kept), suspected.zones) == ("bcdef", "a", ("2", "3"))
    assert (names(detected.unreachable), detected.zones) == ("bcdf", ("2",))


def test_a_zone_of_which_one_node_is_left_is_not_named() -> None:
    node = Watcher(info("a", zone="1"), PartitionConfig(), [info(name, zone="2") for name in "bcd"])
    node.suspects("bc")
    event = node.said[0]
    assert isinstance(event, PartitionSuspected)
    assert (names(event.kept), event.zones) == ("ad", ())


def test_suspicions_that_are_refuted_at_once_are_no_loss() -> None:
    node = watcher("e", "abcd")
    node.suspects("abcd", seconds=1.0)
    assert (node.take(), node.has_quorum, node.writable) == ([], True, True)
    node.recovers("abcd")
    node.settle()
    assert (node.take(), node.status) == ([], WHOLE)


# --- the course of a partition


def test_a_partition_is_suspected_then_detected_then_healed() -> None:
    node = watcher("a", "bcde")
    node.suspects("de")
    assert node.take() == ["suspected de | abc"]
    node.passes(5)
    node.fails("de")
    assert (node.take(), node.status) == ([], WHOLE)
    node.settle()
    assert (node.take(), node.status) == (["majority abc | de"], MAJORITY)
    node.recovers("d")
    assert node.take() == []
    node.recovers("e")
    assert (node.take(), node.status) == (["healed de"], WHOLE)


def test_the_side_with_fewer_is_the_minority_and_not_writable_from_the_first_suspicions_on() -> None:
    node = watcher("e", "abcd")
    node.suspects("ab")
    before = node.writable
    node.suspects("c")
    assert (before, node.writable) == (True, False)
    node.passes(5)
    node.fails("abc")
    node.settle()
    assert (node.take()[-1], node.status, node.writable) == ("minority de | abc", MINORITY, False)
    node.recovers("abc")
    assert (node.take(), node.status, node.writable) == (["healed abc"], WHOLE, True)


def test_a_partition_that_was_only_suspected_is_forgotten_without_an_event() -> None:
    node = watcher("a", "bcde")
    node.suspects("bcde")
    assert node.take() == ["suspected bcde | a"]
    node.passes(3)
    assert (node.machine.snapshot().is_suspected, node.writable) == (True, False)
    node.recovers("bcde")
    assert (node.machine.snapshot().is_suspected, node.writable) == (False, True)
    node.settle()
    assert (node.take(), node.status) == ([], WHOLE)


def test_nothing_is_detected_while_something_changes() -> None:
    node = watcher("a", "bcdefghij")
    node.loses("ghij")
    node.take()
    for name in "fed":
        node.passes(9)
        node.fails(name)
        assert node.take() == []
    node.passes(11)
    assert node.take() == ["minority abc | defghij"]


def test_a_stable_point_waits_for_suspects_that_could_tip_the_scale() -> None:
    node = watcher("a", "bcde")
    node.suspects("cde")
    node.passes(60)
    assert node.take() == ["suspected cde | ab"]
    node.fails("cd")
    node.passes(60)
    assert node.take() == []
    node.recovers("e")
    assert node.take() == ["majority abe | cd"]


def test_a_stable_point_does_not_wait_for_a_suspect_that_makes_no_difference() -> None:
    node = watcher("a", "bcdefg")
    node.loses("bc")
    node.suspects("d")
    node.settle()
    assert node.take() == ["suspected bc | adefg", "majority adefg | bc"]


def test_nodes_that_flap_are_suspected_and_not_detected() -> None:
    node = watcher("a", "bcde")
    for _ in range(20):
        node.suspects("bc")
        node.passes(2)
        node.recovers("bc")
        node.passes(2)
    assert set(node.take()) == {"suspected bc | ade"}
    assert (node.status, node.writable) == (WHOLE, True)


def test_a_node_that_flaps_between_two_sides_gives_the_smaller_one_no_quorum_in_turns() -> None:
    node = watcher("e", "abcd")
    node.loses("abc")
    node.settle()
    for _ in range(5):
        node.recovers("c")
        assert node.has_quorum
        assert not node.writable
        node.passes(5)
        node.fails("c")
    node.recovers("c")
    node.settle()
    assert node.writable
    assert node.status is MAJORITY


def test_a_short_suspicion_on_the_edge_costs_the_quorum_only_while_it_lasts() -> None:
    node = watcher("a", "bcde")
    node.loses("de")
    node.settle()
    node.suspects("c")
    assert not node.writable
    node.recovers("c")
    assert node.writable


def test_a_partition_that_grows_or_shrinks_is_detected_anew() -> None:
    node = watcher("a", "bcdefg")
    node.loses("efg")
    node.settle()
    node.loses("d")
    node.settle()
    node.recovers("de")
    node.settle()
    node.recovers("fg")
    assert node.take() == [
        "suspected efg | abcd",
        "majority abcd | efg",
        "minority abc | defg",
        "majority abcde | fg",
        "healed fg",
    ]


def test_a_second_cut_on_the_same_side_is_suspected_again() -> None:
    node = watcher("a", "bcdefg")
    node.loses("fg")
    node.settle()
    node.take()
    node.loses("de")
    node.settle()
    assert node.take() == ["suspected defg | abc", "minority abc | defg"]


def test_what_is_left_of_a_partition_is_no_partition_when_it_is_a_few_dead_nodes() -> None:
    node = watcher("a", "bcdefghij")
    node.loses("ghij")
    node.settle()
    node.take()
    node.recovers("ghi")
    assert (node.take(), node.status) == ([], MAJORITY)
    node.settle()
    assert (node.take(), node.status) == (["healed ghi"], WHOLE)
    assert "j" not in node.machine.snapshot().voters


def test_a_node_that_was_stopped_itself_waits_anew() -> None:
    node = watcher("a", "bcde")
    node.loses("de")
    node.take()
    node.now += 20
    assert node.machine.on_timer(node.now) == []
    node.recovers("de")
    node.settle()
    assert (node.take(), node.status) == ([], WHOLE)


def test_a_node_that_is_cut_off_has_no_quorum_although_it_accuses_nobody() -> None:
    node = watcher("a", "bcde")
    node.hear(SelfIsolated(("b", "c", "d"), at=node.now))
    assert (node.has_quorum, node.writable, node.status) == (False, False, WHOLE)
    node.passes(26)
    assert not node.writable
    node.fails("bcde")
    node.settle()
    assert (node.take(), node.writable) == (["suspected bc | ade", "isolated a | bcde"], False)


def test_a_node_that_is_not_cut_off_any_more_has_its_quorum_again_after_a_while() -> None:
    node = watcher("a", "bcde")
    node.hear(SelfIsolated(("b", "c", "d"), at=node.now))
    node.passes(20)
    node.restart()
    assert not node.writable
    node.passes(20)
    assert (node.take(), node.has_quorum, node.writable) == ([], True, True)


# --- goodbyes, restarts, joins, forgetting


def test_goodbyes_are_no_loss() -> None:
    node = watcher("a", "bcde")
    node.suspects("b")
    node.hears_goodbye("b", "c", "d", "e")
    node.settle()
    assert (node.take(), node.status, node.writable) == ([], WHOLE, True)
    assert list(node.machine.snapshot().voters) == ["a"]


def test_a_goodbye_ends_a_partition_of_the_side_that_hears_it() -> None:
    node = watcher("a", "bcde")
    node.loses("de")
    node.settle()
    node.take()
    node.hears_goodbye("d", "e")
    assert (node.take(), node.status) == (["healed "], WHOLE)


def test_restarts_are_no_loss() -> None:
    node = watcher("a", "bcde")
    node.suspects("b")
    for name in "bcde":
        node.replaces(name, boot=1000)
    assert (node.take(), node.machine.snapshot().lost) == ([], ())


def test_a_node_that_comes_back_with_a_new_boot_id_is_the_same_voter() -> None:
    node = watcher("a", "bcde")
    node.loses("de")
    node.settle()
    node.take()
    node.joined(info("d", boot=1000), info("e", boot=1000))
    assert node.take() == ["healed de"]


def test_who_joins_during_a_partition_has_no_vote_on_either_side() -> None:
    watchers = cluster("abcdef", KeepMajority())
    split(watchers, "abcd", "ef")
    watchers["e"].joined(info("v"), info("w"), info("x"), info("y"), info("z"))
    watchers["a"].joined(info("q"))
    for name in "ae":
        watchers[name].settle()
    assert (watchers["a"].status, watchers["a"].writable) == (MAJORITY, True)
    assert (watchers["e"].status, watchers["e"].writable) == (MINORITY, False)
    assert watchers["e"].take()[-1] == "minority ef | abcd"


def test_who_joined_during_a_partition_votes_at_the_first_stable_point_after_it() -> None:
    node = watcher("a", "bcde")
    node.loses("de")
    node.settle()
    node.joined(info("x"), info("y"))
    node.settle()
    node.recovers("de")
    assert "x" not in node.machine.snapshot().voters
    node.settle()
    assert sorted(node.machine.snapshot().voters) == list("abcdexy")


def test_a_newcomer_that_fails_before_it_has_a_vote_is_no_loss() -> None:
    node = watcher("a", "bcde")
    node.joined(info("x"), info("y"), info("z"))
    node.fails("xyz")
    node.settle()
    assert (node.take(), sorted(node.machine.snapshot().voters)) == ([], list("abcde"))


def test_a_side_that_may_go_on_gives_up_who_is_forgotten() -> None:
    node = watcher("a", "bcde")
    node.loses("de")
    node.settle()
    node.take()
    node.reaps("de")
    assert (node.take(), node.status, sorted(node.machine.snapshot().voters)) == (["healed "], WHOLE, list("abc"))


def test_a_side_that_may_not_go_on_does_not_become_writable_by_waiting() -> None:
    node = watcher("e", "abcd")
    node.loses("abc")
    node.settle()
    node.take()
    node.reaps("abc")
    node.settle()
    assert (node.take(), node.status, node.writable) == ([], MINORITY, False)
    assert names(node.machine.snapshot().lost) == "abc"
    node.joined(info("a", boot=1000), info("b"), info("c"))
    assert (node.take(), node.writable) == (["healed abc"], True)


def test_a_few_dead_nodes_have_no_vote_after_the_next_stable_point() -> None:
    node = watcher("a", "bcde")
    for dead in "edc":
        node.loses(dead)
        node.settle()
    assert (node.take(), node.status, node.writable) == ([], WHOLE, True)
    assert sorted(node.machine.snapshot().voters) == ["a", "b"]


# --- small clusters


@pytest.mark.parametrize(
    ("members", "own", "lost", "status", "writable"),
    [
        ("ab", "a", "b", WHOLE, True),
        ("ab", "b", "a", ISOLATED, False),
        ("abc", "c", "a", WHOLE, True),
        ("abc", "a", "bc", ISOLATED, False),
        ("abcd", "a", "cd", MAJORITY, True),
        ("abcd", "c", "ab", MINORITY, False),
        ("abcde", "e", "a", WHOLE, True),
        ("abcde", "e", "ab", MAJORITY, True),
        ("abcde", "e", "abc", MINORITY, False),
        ("abcde", "e", "abcd", ISOLATED, False),
    ],
)
def test_the_table_of_losses(members: str, own: str, lost: str, status: PartitionStatus, writable: bool) -> None:
    node = watcher(own, members.replace(own, ""))
    node.loses(lost)
    node.settle()
    assert (node.status, node.writable, node.has_quorum) == (status, writable, writable)


def test_of_two_nodes_that_lose_each_other_one_may_go_on_and_both_see_it_heal() -> None:
    watchers = cluster("ab", KeepMajority())
    split(watchers, "a", "b")
    assert [watchers[name].take() for name in "ab"] == [[], ["isolated b | a"]]
    watchers["a"].recovers("b")
    watchers["b"].recovers("a")
    assert [watchers[name].take() for name in "ab"] == [[], ["healed a"]]


# --- restarts of the task


def test_a_new_machine_goes_on_with_a_partition() -> None:
    node = watcher("e", "abcd")
    node.loses("abc")
    node.settle()
    node.take()
    node.restart()
    node.settle()
    assert (node.take(), node.status, node.writable) == ([], MINORITY, False)
    node.recovers("abc")
    assert node.take() == ["healed abc"]


def test_a_new_machine_goes_on_with_a_suspected_partition() -> None:
    node = watcher("a", "bcde")
    node.suspects("de")
    node.take()
    node.restart()
    node.fails("de")
    node.settle()
    assert node.take() == ["majority abc | de"]


def test_a_new_machine_sees_what_happened_while_there_was_none() -> None:
    node = watcher("a", "bcdefg")
    node.loses("fg")
    node.settle()
    node.take()
    node.nodes["b"] = info("b", state=node.nodes["f"].state)
    node.nodes["c"] = info("c", state=node.nodes["f"].state)
    node.nodes["f"] = info("f")
    node.nodes["z"] = info("z")
    node.restart()
    assert node.take() == ["suspected bcg | adefz"]
    node.settle()
    assert node.take() == ["majority adefz | bcg"]


def test_a_new_machine_gives_up_who_left_while_there_was_none() -> None:
    node = watcher("a", "bcde")
    node.loses("de")
    node.settle()
    node.take()
    node.nodes["d"] = info("d", state=type(node.own.state).LEFT)
    del node.nodes["e"]
    node.restart()
    assert (node.take(), node.status) == (["healed "], WHOLE)


# --- settings


@pytest.mark.parametrize(
    "make",
    [
        lambda: PartitionConfig(strategy="keep-majority"),  # type: ignore[arg-type]
        lambda: PartitionConfig(stable_after=0.0),
        lambda: PartitionConfig(stable_after=True),
        lambda: PartitionConfig(least_lost=0),
        lambda: PartitionConfig(lost_share=1.5),
        lambda: PartitionConfig(zone_tag=None),  # type: ignore[arg-type]
        lambda: StaticQuorum(0),
        lambda: StaticQuorum(2, where="a=="),
        lambda: LeaseQuorum("row"),  # type: ignore[arg-type]
        lambda: LeaseQuorum(print, timeout=0),  # type: ignore[arg-type]
    ],
)
def test_settings_that_make_no_sense_are_refused(make: object) -> None:
    with pytest.raises(ConfigError):
        make()  # type: ignore[operator]
