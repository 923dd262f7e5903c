"""Strategies: which side may go on, and that it is never two."""

from __future__ import annotations

import random

import pytest
from _partition_bench import Watcher, cluster, info, outcome, split
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet.config import PartitionConfig
from rpcnet.events import NodeState, PartitionStatus
from rpcnet.quorum import KeepMajority, KeepOldest, LeaseQuorum, QuorumStrategy, StaticQuorum

NODES = "abcdefghijkl"


async def never() -> bool:
    """Not called here: the answers are handed to the machine."""
    raise AssertionError


# --- tables; the first letter is the lowest id and the oldest node


@pytest.mark.parametrize(
    ("sides", "writable"),
    [
        ("abc de", "abc"),
        ("de abc", "abc"),
        ("ab cde", "cde"),
        ("ab cd", "ab"),
        ("a b", "a"),
        ("ab cd ef", ""),
        ("abc d ef", "abc"),
        ("a bcde f", "bcde"),
        ("bc adef", "adef"),
        ("a bcdef", "bcdef"),
    ],
)
def test_keep_majority_keeps_more_than_half_or_the_half_with_the_lowest_id(sides: str, writable: str) -> None:
    watchers = cluster(sides.replace(" ", ""), KeepMajority())
    split(watchers, *sides.split())
    assert "".join(sorted(outcome(watchers))) == writable


@pytest.mark.parametrize(
    ("sides", "down_if_alone", "writable"),
    [
        ("ab cde", True, "ab"),
        ("a bcde", True, "bcde"),
        ("a bcde", False, "a"),
        ("a b", True, "a"),
        ("a bc de", True, ""),
        ("a bc de", False, "a"),
        ("ab cd ef", True, "ab"),
    ],
)
def test_keep_oldest_keeps_the_side_of_the_oldest_unless_it_is_alone(
    sides: str, down_if_alone: bool, writable: str
) -> None:
    watchers = cluster(sides.replace(" ", ""), KeepOldest(down_if_alone=down_if_alone))
    split(watchers, *sides.split())
    assert outcome(watchers) == writable


def test_who_is_oldest_does_not_change_with_a_restart_during_a_partition() -> None:
    watchers = cluster("abcde", KeepOldest())
    split(watchers, "ab", "cde")
    watchers["b"].replaces("a", boot=1000)
    watchers["b"].settle()
    assert outcome(watchers) == "ab"


@pytest.mark.parametrize(("n", "sides", "writable"), [(3, "abc de", "abc"), (3, "ab cd e", ""), (2, "ab cd e", "abcd")])
def test_a_static_quorum_counts_nodes(n: int, sides: str, writable: str) -> None:
    watchers = cluster(sides.replace(" ", ""), StaticQuorum(n))
    split(watchers, *sides.split())
    assert outcome(watchers) == writable


def test_a_static_quorum_counts_only_the_nodes_that_match() -> None:
    others = [info("b", role="core"), info("c", role="core"), *(info(name) for name in "defgh")]
    node = Watcher(info("a", role="core"), PartitionConfig(strategy=StaticQuorum(2, where="role=core")), others)
    node.loses("bc")
    node.settle()
    assert (node.status, node.writable) == (PartitionStatus.MINORITY, False)


def test_a_cluster_that_is_not_complete_yet_has_no_static_quorum() -> None:
    node = Watcher(info("a"), PartitionConfig(strategy=StaticQuorum(3)), [info("b")])
    assert (node.status, node.has_quorum, node.writable) == (PartitionStatus.WHOLE, False, False)
    node.joined(info("c"))
    assert (node.has_quorum, node.writable) == (True, True)


def test_a_static_quorum_follows_the_tags() -> None:
    config = PartitionConfig(strategy=StaticQuorum(2, where="role=core"))
    node = Watcher(info("a", role="core"), config, [info("b"), info("c")])
    seen = [node.writable]
    for role in ("core", "edge", "core"):
        node.retags("b", role=role)
        seen.append(node.writable)
    assert seen == [False, True, False, True]


def test_a_newcomer_can_complete_a_static_quorum() -> None:
    node = Watcher(info("a"), PartitionConfig(strategy=StaticQuorum(3)), [info("b"), info("c")])
    node.loses("c")
    node.settle()
    assert node.take() == ["minority ab | c"]
    node.joined(info("d"))
    assert not node.writable
    node.settle()
    assert (node.take(), node.writable, node.status) == (["healed "], True, PartitionStatus.WHOLE)


def test_without_a_strategy_every_side_may_go_on_and_is_told_what_it_is() -> None:
    watchers = cluster("abcdef", None)
    split(watchers, "abc", "de", "f")
    assert outcome(watchers) == "abcdef"
    told = [(watcher.status, watcher.has_quorum) for watcher in watchers.values()]
    assert told == [
        *[(PartitionStatus.TIE, False)] * 3,
        *[(PartitionStatus.MINORITY, False)] * 2,
        (PartitionStatus.ISOLATED, False),
    ]


def test_without_a_strategy_one_lost_node_is_no_partition_even_of_two() -> None:
    watchers = cluster("ab", None)
    split(watchers, "a", "b")
    assert [watcher.take() for watcher in watchers.values()] == [[], []]
    assert all(watcher.has_quorum for watcher in watchers.values())


# --- a lease


def leased(members: str) -> dict[str, Watcher]:
    return cluster(members, LeaseQuorum(never))


def answer(watcher: Watcher, has_lease: bool) -> None:
    watcher.said += watcher.machine.lease(watcher.now, has_lease=has_lease)


def test_a_lease_is_wanted_as_soon_as_a_member_has_failed() -> None:
    node = leased("abc")["a"]
    node.suspects("b")
    assert (node.machine.wants_lease, node.writable) == (False, True)
    node.fails("b")
    assert (node.machine.wants_lease, node.writable) == (True, False)
    node.recovers("b")
    assert (node.machine.wants_lease, node.writable) == (False, True)


def test_a_side_with_the_lease_may_go_on_once_nothing_changes() -> None:
    node = leased("abcde")["e"]
    node.loses("abc")
    node.take()
    answer(node, True)
    assert not node.writable
    node.settle()
    assert (node.take(), node.writable) == (["majority de | abc"], True)


def test_a_side_that_is_refused_the_lease_may_not_go_on() -> None:
    node = leased("abcde")["a"]
    node.loses("de")
    answer(node, False)
    node.settle()
    assert (node.take()[-1], node.writable) == ("minority abc | de", False)


def test_a_side_that_knows_nothing_of_the_lease_cannot_tell_until_it_does() -> None:
    node = leased("abcde")["a"]
    node.loses("de")
    node.settle()
    assert (node.take()[-1], node.writable) == ("tie abc | de", False)
    answer(node, True)
    assert (node.take(), node.writable) == (["majority abc | de"], True)


def test_a_lease_that_is_lost_stops_the_side_and_says_so() -> None:
    node = leased("abcde")["a"]
    node.loses("de")
    answer(node, True)
    node.settle()
    node.take()
    answer(node, False)
    assert (node.take(), node.writable) == (["minority abc | de"], False)
    answer(node, True)
    assert (node.take(), node.writable) == (["majority abc | de"], True)


def test_a_single_dead_node_does_not_lose_its_vote_under_a_lease() -> None:
    watchers = leased("abcdef")
    split(watchers, "abcde", "f")
    answer(watchers["f"], True)
    assert all(watcher.machine.wants_lease for watcher in watchers.values())
    assert outcome(watchers) == "f"


def test_a_side_that_has_the_lease_goes_on_asking_until_who_is_lost_is_back_or_forgotten() -> None:
    node = leased("abcdef")["a"]
    node.loses("f")
    answer(node, True)
    node.settle()
    assert (node.take(), node.writable) == (["majority abcde | f"], True)
    assert node.machine.wants_lease
    node.reaps("f")
    assert (node.take(), node.writable) == (["healed "], True)
    assert not node.machine.wants_lease


def test_an_answer_about_the_lease_that_nobody_waits_for_changes_nothing() -> None:
    node = leased("abc")["a"]
    answer(node, False)
    assert (node.take(), node.writable) == ([], True)


# --- never two


def sides_of(rng: random.Random, members: str, most: int = 4) -> list[str]:
    """Return the members in up to ``most`` parts, drawn at random."""
    parts: dict[int, str] = {}
    count = rng.randint(1, most)
    for name in members:
        part = rng.randrange(count)
        parts[part] = parts.get(part, "") + name
    return list(parts.values())


def check(watchers: dict[str, Watcher], sides: list[str]) -> None:
    going_on = [side for side in sides if any(watchers[name].writable for name in side)]
    assert len(going_on) <= 1, f"{going_on} of {sides} are writable"
    for side in sides:
        assert len({watchers[name].writable for name in side}) == 1, f"{side} does not agree with itself"


def a_strategy(rng: random.Random, size: int) -> QuorumStrategy:
    return rng.choice([KeepMajority(), StaticQuorum(size // 2 + 1), KeepOldest(), KeepOldest(down_if_alone=False)])


@settings(max_examples=80)
@given(st.randoms(use_true_random=False))
def test_a_split_never_leaves_two_sides_writable(rng: random.Random) -> None:
    members = NODES[: rng.randint(1, 12)]
    watchers = cluster(members, a_strategy(rng, len(members)))
    goodbyes = {name for name in members if rng.random() < 0.1}
    for name in goodbyes:
        del watchers[name]
    for watcher in watchers.values():
        watcher.hears_goodbye(*sorted(goodbyes))
        watcher.settle()
    sides = sides_of(rng, "".join(watchers))
    split(watchers, *sides)
    check(watchers, sides)


@settings(max_examples=80)
@given(st.randoms(use_true_random=False))
def test_goodbyes_and_joins_inside_a_part_never_make_two_sides_writable(rng: random.Random) -> None:
    members = NODES[: rng.randint(2, 12)]
    watchers = cluster(members, rng.choice([KeepMajority(), KeepOldest(), KeepOldest(down_if_alone=False)]))
    sides = sides_of(rng, members)
    split(watchers, *sides)
    remaining = []
    for side in sides:
        goodbyes = [name for name in side if rng.random() < 0.3]
        rest = "".join(name for name in side if name not in goodbyes)
        newcomers = [info(f"{side}-{number}") for number in range(rng.randrange(4))]
        for name in rest:
            watchers[name].joined(*newcomers)
            watchers[name].hears_goodbye(*goodbyes)
            watchers[name].settle()
        remaining += [rest] if rest else []
    check(watchers, remaining)


@settings(max_examples=50)
@given(st.randoms(use_true_random=False))
def test_no_order_of_cuts_makes_two_sides_writable_where_every_loss_counts(rng: random.Random) -> None:
    members = NODES[: rng.randint(2, 9)]
    watchers = cluster(members, a_strategy(rng, len(members)), least_lost=1, lost_share=0)
    for _ in range(4):
        sides = sides_of(rng, members, most=3)
        split(watchers, *sides)
        check(watchers, sides)
    split(watchers, members)
    assert outcome(watchers) == members
    assert {watcher.status for watcher in watchers.values()} == {PartitionStatus.WHOLE}


@settings(max_examples=50)
@given(st.randoms(use_true_random=False))
def test_a_static_quorum_holds_whatever_dies_restarts_and_joins(rng: random.Random) -> None:
    members = NODES[: rng.randint(2, 9)]
    watchers = cluster(members, StaticQuorum(len(members) // 2 + 1))
    for _ in range(5):
        sides = sides_of(rng, members, most=3)
        split(watchers, *sides)
        name = rng.choice(members)
        config, known = watchers[name].config, watchers[name].nodes
        alive = [node for node in known.values() if node.state is NodeState.ALIVE and node.id != name]
        watchers[name] = Watcher(info(name, boot=1000), config, alive)
        watchers[name].nodes = known | watchers[name].nodes
        check(watchers, sides)


# --- whatever membership says


@settings(max_examples=40)
@given(st.randoms(use_true_random=False))
def test_no_order_of_events_confuses_the_machine(rng: random.Random) -> None:
    strategy = rng.choice([None, KeepMajority(), StaticQuorum(3), KeepOldest(), LeaseQuorum(never)])
    node = Watcher(info("a"), PartitionConfig(strategy=strategy), [info(name) for name in "bcdef"])
    for _ in range(120):
        name = rng.choice(sorted(node.nodes))
        match rng.randrange(12):
            case 0:
                node.joined(info(rng.choice("abcdefgh"), boot=rng.randrange(5)))
            case 1 | 2:
                node.suspects(name, seconds=0.0)
            case 3 | 4:
                node.fails(name)
            case 5 | 6:
                node.recovers(name)
            case 7:
                node.hears_goodbye(name)
            case 8 if name != "a":
                node.reaps(name)
            case 9:
                node.retags(name, zone=rng.choice("12"))
            case 10:
                node.restart() if rng.random() < 0.3 else answer(node, rng.random() < 0.5)
            case _:
                node.passes(rng.choice([0.1, 3.0, 12.0]))
        due, seen = node.machine.next_timer(), node.machine.snapshot()
        assert due is None or due > node.now - 1e-6, "a timer lies in the past"
        assert "a" in seen.voters
        assert {lost.id for lost in seen.lost} <= set(seen.voters) - {"a"}
        assert (seen.status is PartitionStatus.WHOLE) == (not seen.detected)
        assert seen.has_quorum or not seen.writable or strategy is None
