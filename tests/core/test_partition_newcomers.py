"""Nodes that have not seen the cluster whole: they do not go on where older members may not, and are not kept for ever.

In the tables the first letter is the lowest id and the oldest node.
"""

from __future__ import annotations

import random

import attrs
import pytest
from _halted_world import World
from _partition_bench import Watcher, info
from _swim_bench import events, kinds, machine, record, tell
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._core.heads import Refresh
from rpcnet._core.members import MemberRecord, Vitals, merge
from rpcnet._core.messages import (
    MessageError,
    decode_datagram,
    encode_age,
    encode_datagram,
    encode_head,
    encode_refresh,
    encode_update,
)
from rpcnet._signals import OwnVitals
from rpcnet.config import PartitionConfig
from rpcnet.events import NodeUpdated
from rpcnet.quorum import KeepMajority, KeepOldest, LeaseQuorum, QuorumStrategy, StaticQuorum


async def never() -> bool:
    """Not called here: the answers are handed to the machine."""
    raise AssertionError


# --- nodes that start inside a part


@pytest.mark.parametrize(
    ("members", "sides", "joins", "writable", "following"),
    [
        ("abcde", "abc de", "de", "abc", "x"),
        ("abcde", "abc de", "abc", "abcx", ""),
        ("abcd", "ab cd", "cd", "ab", "x"),
        ("abc", "a b c", "c", "", "x"),
        ("abcdef", "abcd ef", "ef", "abcd", "x"),
    ],
)
def test_a_node_that_starts_on_a_side_may_do_there_what_the_others_may(
    members: str, sides: str, joins: str, writable: str, following: str
) -> None:
    world = World(members, KeepMajority())
    world.cut(*sides.split())
    world.start("x", joins)
    assert (world.writable, world.following) == (writable, following)
    world.settle()
    assert (world.writable, world.following) == (writable, following)
    world.cut(members + "x")
    assert (world.writable, world.following) == (members + "x", "")


def test_many_nodes_that_start_on_a_side_at_once_do_not_vouch_for_each_other() -> None:
    world = World("abcde", KeepMajority())
    world.cut("abc", "de")
    for name in "uvwxyz":
        world.start(name, "de" if name == "u" else next(side for side in world.sides if "d" in side))
    world.settle()
    assert (world.writable, world.following) == ("abc", "uvwxyz")


def test_the_memory_of_a_side_outlives_a_restart_of_its_members_one_by_one() -> None:
    world = World("abcde", KeepMajority())
    world.cut("abc", "de")
    for name in "dede":
        world.start(name, "de")
        world.settle()
        assert world.writable == "abc"
    world.cut("abcde")
    assert (world.writable, world.following) == ("abcde", "")


def test_members_that_all_start_again_at_once_go_on() -> None:
    world = World("abcde", KeepMajority())
    world.cut("abc", "de")
    world.meet("abc", "d", "e")
    for name in "de":
        world.start(name, name)
    world.settle()
    world.cut("abc", "de")
    assert world.writable == "abcde"


def test_a_new_node_without_older_ones_waits_until_it_meets_a_side_that_may_go_on() -> None:
    world = World("abcde", KeepMajority())
    world.cut("abc", "de")
    world.start("x", "de")
    world.cut("abc", "d", "e", "x")
    assert (world.writable, world.following) == ("abc", "x")
    world.cut("abcx", "d", "e")
    assert (world.writable, world.following) == ("abcx", "")


def test_nobody_who_comes_back_halted_stops_those_that_may_go_on() -> None:
    world = World("abcde", KeepMajority())
    world.cut("abcd", "e")
    assert world.writable == "abcd"
    world.meet("abcde")
    assert set(world.writable) >= set("abcd")
    world.settle()
    assert world.writable == "abcde"


# --- a node that was cut off alone


def test_a_node_that_was_given_up_makes_no_majority_of_those_it_meets() -> None:
    world = World("abcde", KeepMajority())
    world.cut("abcd", "e")
    world.cut("ab", "cde")
    assert (world.writable, world.following) == ("ab", "e")
    world.cut("abcde")
    assert (world.writable, world.following) == ("abcde", "")


def test_parts_of_which_none_may_go_on_do_not_keep_each_other_halted() -> None:
    world = World("abcdef", KeepMajority())
    world.cut("ab", "cd", "ef")
    assert world.writable == ""
    world.cut("abcd", "ef")
    assert world.writable == "abcd"
    world.cut("abcdef")
    assert world.writable == "abcdef"


def test_a_side_that_counts_nodes_which_all_others_forgot_goes_on_with_those() -> None:
    node = Watcher(info("a"), PartitionConfig(strategy=KeepMajority()), [info(name) for name in "bcde"])
    node.loses("bcde")
    node.settle()
    node.reaps("bcd")
    node.passes(10)
    seen = [node.writable]
    node.recovers("e")
    node.passes(10)
    assert [*seen, node.writable] == [False, True]
    assert set(node.machine.snapshot().voters) == set("ae")


def test_a_failed_task_does_not_forget_whom_it_follows() -> None:
    world = World("abcde", KeepMajority())
    world.cut("abc", "de")
    world.start("x", "de")
    world.settle()
    world.watchers["x"].restart()
    world.settle()
    assert (world.writable, world.following) == ("abc", "x")


# --- other strategies


def test_without_a_strategy_nobody_is_halted() -> None:
    node = Watcher(info("a"), PartitionConfig(strategy=None), [info("b", halted=True), info("c", halted=True)])
    node.loses("bc")
    node.settle()
    seen = node.machine.snapshot()
    assert (seen.writable, seen.is_halted, seen.is_following) == (True, False, False)


def test_a_static_quorum_follows_nobody_because_its_number_decides() -> None:
    node = Watcher(info("a"), PartitionConfig(strategy=StaticQuorum(2)), [info("b", halted=True)])
    assert (node.writable, node.has_quorum) == (True, True)
    node.loses("b")
    seen = node.machine.snapshot()
    assert (seen.writable, seen.is_halted, seen.is_following) == (False, True, False)


def test_a_new_node_asks_for_the_lease_itself_when_others_are_refused_it() -> None:
    node = Watcher(info("x"), PartitionConfig(strategy=LeaseQuorum(never)), [info("a", halted=True)])
    assert (node.machine.wants_lease, node.writable) == (True, False)
    seen = []
    for has_lease in (False, True):
        node.machine.lease(node.now, has_lease=has_lease)
        seen.append(node.writable)
    assert seen == [False, True]
    node.hear(NodeUpdated(info("a"), previous=info("a", halted=True), at=node.now))
    node.settle()
    assert (node.machine.wants_lease, node.writable) == (False, True)


def test_an_older_node_goes_by_the_lease_alone() -> None:
    node = Watcher(info("a"), PartitionConfig(strategy=LeaseQuorum(never)), [info("b"), info("c")])
    node.fails("c")
    node.machine.lease(node.now, has_lease=True)
    node.settle()
    node.hear(NodeUpdated(info("b", halted=True), previous=info("b"), at=node.now))
    assert node.writable


# --- whatever happens


def sides_of(rng: random.Random, members: str) -> list[str]:
    parts: dict[int, str] = {}
    count = rng.randint(1, 3)
    for name in members:
        part = rng.randrange(count)
        parts[part] = parts.get(part, "") + name
    return list(parts.values())


def a_strategy(rng: random.Random) -> QuorumStrategy:
    return rng.choice([KeepMajority(), KeepOldest(), KeepOldest(down_if_alone=False)])


def check(world: World) -> None:
    assert len(world.going_on) <= 1, f"{world.going_on} of {world.sides} are writable"


def heal(world: World) -> None:
    everyone = "".join(sorted("".join(world.sides)))
    world.cut(everyone)
    assert world.writable == everyone


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_cuts_in_a_row_never_leave_two_sides_writable(rng: random.Random) -> None:
    members = "abcdefghi"[: rng.randint(3, 9)]
    world = World(members, a_strategy(rng))
    for _ in range(rng.randint(2, 4)):
        world.cut(*sides_of(rng, members))
        check(world)
    heal(world)


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_nodes_that_start_inside_a_part_never_make_a_second_side_writable(rng: random.Random) -> None:
    members = "abcdefghi"[: rng.randint(3, 9)]
    world = World(members, a_strategy(rng))
    sides = sides_of(rng, members)
    world.cut(*sides)
    for name in "uvwxyz"[: rng.randint(1, 6)]:
        world.start(name, rng.choice([side for side in world.sides if side]))
        check(world)
        if rng.random() < 0.5:
            world.settle()
            check(world)
    heal(world)


# --- what a node tells


def told(item: MemberRecord) -> Vitals:
    update = decode_datagram(encode_datagram(encode_head(None), [encode_age(0) + encode_update(item)])).updates[0]
    return update.record.vitals


def refreshed(data: bytes) -> Refresh:
    return decode_datagram(encode_datagram(encode_head(None), [], [encode_age(0) + data])).refreshes[0]


@pytest.mark.parametrize(("halted", "following"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("stall", [0.0, 0.25, 128.0])
def test_whether_a_node_may_go_on_travels_with_its_vitals(halted: bool, following: bool, stall: float) -> None:
    vitals = Vitals(7, stall, None, is_halted=halted, is_following=following)
    item = attrs.evolve(record("a"), vitals=vitals)
    assert told(item) == vitals
    refresh = refreshed(encode_refresh(item))
    assert (refresh.stall, refresh.is_halted, refresh.is_following) == (stall, halted, following)


@pytest.mark.parametrize("condition", [0x40, 0x45, 0x0B, 0x20, 0x8B, 0xBF, 0xFF])
def test_other_conditions_of_a_node_are_refused(condition: int) -> None:
    data = bytearray(encode_refresh(attrs.evolve(record("a"), vitals=Vitals(7))))
    data[14] = condition
    with pytest.raises(MessageError):
        refreshed(bytes(data))


def test_a_change_of_whether_a_node_may_go_on_is_news_at_once() -> None:
    swim = machine()
    tell(swim, record("b"))
    effects = swim.halted(3.0, is_halted=True)
    assert kinds(events(effects)) == [NodeUpdated]
    assert (swim.local.info().is_halted, swim.local.vitals.epoch) == (True, 1)
    swim.on_timer(3.0)
    swim.own_vitals(OwnVitals(coordinates=(0.0, 0.0, 0.0, 1.0), stall=1.0, at=3.0), 3.0)
    assert swim.local.vitals.is_halted


def test_a_node_that_others_halt_or_release_is_updated() -> None:
    swim = machine()
    tell(swim, record("b"))
    heard = [tell(swim, attrs.evolve(record("b"), vitals=Vitals(epoch, is_halted=epoch < 2))) for epoch in (1, 1, 2)]
    assert [[event.node.is_halted for event in said if isinstance(event, NodeUpdated)] for said in heard] == [
        [True],
        [],
        [False],
    ]


def test_of_two_statements_with_the_same_number_the_halted_one_counts() -> None:
    free = attrs.evolve(record("a"), vitals=Vitals(7, 1.0))
    halted = attrs.evolve(record("a"), vitals=Vitals(7, is_halted=True))
    later = attrs.evolve(record("a"), vitals=Vitals(8))
    assert merge(free, halted).vitals == merge(halted, free).vitals == halted.vitals
    assert merge(later, halted).vitals == merge(halted, later).vitals == later.vitals
