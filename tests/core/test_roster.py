"""The table of members: what a change of a record means, accusations, and what is remembered."""

from __future__ import annotations

import random

import pytest
from _swim_bench import (
    ALIVE,
    FAILED,
    LEFT,
    SUSPECT,
    A,
    B,
    C,
    D,
    events,
    kinds,
    machine,
    quiet,
    record,
    sent,
    state_of,
    tell,
)

from rpcnet._core.antientropy import BucketHashes
from rpcnet._core.members import MemberRecord
from rpcnet._core.messages import (
    Accusation,
)
from rpcnet._signals import Accused, Suspicion, Verdict
from rpcnet.events import (
    ClusterEvent,
    NodeFailed,
    NodeJoined,
    NodeLeft,
    NodeRecovered,
    NodeReplaced,
    NodeState,
    NodeSuspected,
    NodeUpdated,
)

# --- what a change of a record means


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (None, B, [NodeJoined]),
        (None, record("b", state=SUSPECT), []),
        (None, record("b", state=FAILED), []),
        (None, record("b", state=LEFT), []),
        (B, B, []),
        (B, record("b", incarnation=1), []),
        (B, record("b", state=SUSPECT), [NodeSuspected]),
        (B, record("b", state=FAILED), [NodeFailed]),
        (B, record("b", state=LEFT), [NodeLeft]),
        (B, record("b", boot_id=2), [NodeReplaced]),
        (B, record("b", boot_id=2, state=SUSPECT), [NodeReplaced, NodeSuspected]),
        (B, record("b", boot_id=2, state=FAILED), [NodeFailed]),
        (B, record("b", meta_version=1, tags={"a": "b"}), [NodeUpdated]),
        (B, record("b", meta_version=1, address="z:1"), [NodeUpdated]),
        (B, record("b", meta_version=1), []),
        (B, record("b", meta_version=1, services=("s",), state=SUSPECT), [NodeSuspected, NodeUpdated]),
        (record("b", state=SUSPECT), B, []),
        (record("b", state=SUSPECT), record("b", incarnation=1), [NodeRecovered]),
        (record("b", state=SUSPECT), record("b", state=SUSPECT, incarnation=1), [NodeSuspected]),
        (record("b", state=SUSPECT), record("b", boot_id=2), [NodeReplaced]),
    ],
)
def test_a_change_of_a_record_is_told_as_what_it_is(
    old: MemberRecord | None, new: MemberRecord, expected: list[type[ClusterEvent]]
) -> None:
    swim = machine(A, *([] if old is None else [old]))
    assert kinds(tell(swim, new)) == expected


@pytest.mark.parametrize(
    ("gone", "new", "expected"),
    [
        (FAILED, B, []),
        (FAILED, record("b", state=SUSPECT), []),
        (FAILED, record("b", incarnation=1), [NodeRecovered]),
        (FAILED, record("b", incarnation=1, state=SUSPECT), [NodeRecovered, NodeSuspected]),
        (FAILED, record("b", boot_id=2), [NodeJoined]),
        (FAILED, record("b", state=LEFT), [NodeLeft]),
        (FAILED, record("b", incarnation=1, state=FAILED), []),
        (LEFT, B, []),
        (LEFT, record("b", state=FAILED), []),
        (LEFT, record("b", incarnation=1), [NodeJoined]),
        (LEFT, record("b", boot_id=2), [NodeJoined]),
        (LEFT, record("b", boot_id=2, state=FAILED), []),
    ],
)
def test_a_node_that_was_gone_comes_back_only_by_its_own_word(
    gone: NodeState, new: MemberRecord, expected: list[type[ClusterEvent]]
) -> None:
    swim = machine(A, B, record("b", state=gone))
    assert kinds(tell(swim, new)) == expected


def test_a_node_first_heard_of_as_failed_joins_when_it_turns_out_alive() -> None:
    swim = machine(A, record("b", state=FAILED))
    assert state_of(swim, "b") is FAILED
    assert kinds(tell(swim, record("b", incarnation=1))) == [NodeJoined]


def test_joined_shows_the_node_alive_and_suspected_shows_it_suspected() -> None:
    swim = machine(A, B)
    tell(swim, record("b", state=FAILED))
    joined, suspected = tell(swim, record("b", boot_id=2, state=SUSPECT))
    assert isinstance(joined, NodeJoined)
    assert isinstance(suspected, NodeSuspected)
    assert (joined.node.state, suspected.node.state) == (ALIVE, SUSPECT)


def test_an_update_shows_what_was_before() -> None:
    (event,) = tell(machine(A, B), record("b", meta_version=1, tags={"x": "y"}))
    assert isinstance(event, NodeUpdated)
    assert (dict(event.previous.tags), dict(event.node.tags)) == ({}, {"x": "y"})


def test_events_of_one_datagram_have_one_cause_and_those_of_the_next_another() -> None:
    swim = machine(A, B)
    first = {event.cause for event in tell(swim, record("b", state=SUSPECT), by=[Accusation(C.id, 2.0)])}
    second = {event.cause for event in tell(swim, D)}
    assert len(first) == len(second) == 1
    assert first != second


def test_members_are_sorted_cached_and_include_the_local_node_and_the_gone() -> None:
    swim = machine(C, record("d", state=LEFT), B, A)
    assert [info.name for info in swim.members()] == ["a", "b", "c", "d"]
    assert swim.members() is swim.members()
    before = swim.members()
    tell(swim, record("a", state=SUSPECT))
    assert swim.members() is not before
    assert before[0].state is ALIVE


def test_more_nodes_than_allowed_are_not_taken_in() -> None:
    swim = machine(A, max_members=3)
    assert kinds(tell(swim, B, C, D)) == [NodeJoined, NodeJoined]
    assert len(swim.members()) == 3
    assert kinds(tell(swim, record("b", state=FAILED))) == [NodeFailed]


# --- accusations


def test_accusers_are_told_once_each_and_the_suspicion_once() -> None:
    swim = machine(A, B)
    suspect = record("b", state=SUSPECT)
    first = tell(swim, suspect, by=[Accusation(C.id, 2.0)])
    assert kinds(first) == [NodeSuspected, Accused]
    assert isinstance(first[0], NodeSuspected)
    assert (first[0].phi, first[0].accusers) == (2.0, (C.id,))
    assert tell(swim, suspect, by=[Accusation(C.id, 2.0)]) == []
    assert tell(swim, suspect, by=[Accusation(C.id, 1.0)]) == []
    more = tell(swim, suspect, by=[Accusation(C.id, 2.5), Accusation(D.id, 3.0)])
    assert [(e.accuser, e.phi) for e in more if isinstance(e, Accused)] == [(D.id, 3.0), (C.id, 2.5)]


def test_accusations_end_with_the_incarnation_they_belong_to() -> None:
    swim = machine(A, B)
    tell(swim, record("b", state=SUSPECT), by=[Accusation(C.id, 2.0)])
    tell(swim, record("b", incarnation=1))
    assert tell(swim, record("b", state=SUSPECT), by=[Accusation(D.id, 2.0)]) == []
    again = tell(swim, record("b", state=SUSPECT, incarnation=1), by=[Accusation(D.id, 2.0)])
    assert isinstance(again[0], NodeSuspected)
    assert again[0].accusers == (D.id,)


def test_a_node_cannot_accuse_itself() -> None:
    swim = machine(A, B)
    assert kinds(tell(swim, record("b", state=SUSPECT), by=[Accusation(B.id, 3.0)])) == [NodeSuspected]


def test_the_accusers_kept_for_one_suspect_are_bounded() -> None:
    swim = machine(A, B)
    for i in range(1000):
        tell(swim, record("b", state=SUSPECT), by=[Accusation(f"{i:032x}", 2.0)])
    member = swim._roster.get(B.id)
    assert member is not None
    assert len(member.accusations) <= 64


def test_an_own_suspicion_is_announced_gossiped_and_told_to_the_suspect() -> None:
    swim = machine(A, B, C)
    quiet(swim)
    effects = swim.suspicion(Suspicion(node_id=B.id, boot_id=1, incarnation=0, phi=2.7, at=3.0), 3.0)
    assert kinds(events(effects)) == [NodeSuspected, Accused]
    (update,) = sent(effects)["b:1"].updates
    assert update.record.state is SUSPECT
    assert update.accusations == (Accusation(A.id, 2.6875),)
    assert B.id in swim._queue


def test_an_own_suspicion_counts_against_the_incarnation_known_by_now() -> None:
    swim = machine(A, record("b", incarnation=4))
    swim.suspicion(Suspicion(node_id=B.id, boot_id=1, incarnation=2, phi=2.0, at=3.0), 3.0)
    assert next(m for m in swim.members() if m.name == "b").incarnation == 4
    assert state_of(swim, "b") is SUSPECT


def test_a_suspicion_of_another_boot_or_of_a_stranger_is_ignored() -> None:
    swim = machine(A, B)
    assert swim.suspicion(Suspicion(node_id=B.id, boot_id=9, incarnation=0, phi=2.0, at=3.0), 3.0) == []
    assert swim.suspicion(Suspicion(node_id=D.id, boot_id=1, incarnation=0, phi=2.0, at=3.0), 3.0) == []


def test_a_verdict_fails_the_suspect_it_names_with_its_reason() -> None:
    swim = machine(A, record("b", state=SUSPECT))
    (event,) = events(swim.verdict(Verdict(node_id=B.id, boot_id=1, incarnation=0, reason="silent", at=3.0), 3.0))
    assert isinstance(event, NodeFailed)
    assert event.reason == "silent"


@pytest.mark.parametrize("now_known", [B, record("b", incarnation=1), record("b", boot_id=2), record("b", state=LEFT)])
def test_a_verdict_that_comes_too_late_is_ignored(now_known: MemberRecord) -> None:
    swim = machine(A, now_known)
    assert swim.verdict(Verdict(node_id=B.id, boot_id=1, incarnation=0, reason="", at=3.0), 3.0) == []
    assert state_of(swim, "b") is now_known.state


# --- what is remembered


def test_a_restarted_machine_announces_nothing_it_knew_and_everything_new() -> None:
    swim = machine(record("a", boot_id=2), known=[A, B, record("c", state=FAILED)])
    assert [info.name for info in swim.members()] == ["a", "b", "c"]
    assert swim.local.boot_id == 2
    assert tell(swim, B) == []
    assert kinds(tell(swim, record("b", state=FAILED), D)) == [NodeFailed, NodeJoined]
    assert kinds(tell(swim, record("c", incarnation=1))) == [NodeRecovered]


def test_the_hashes_are_those_of_the_records_whatever_happened() -> None:
    rng = random.Random(3)
    swim = machine(A, known=[B, C], dead_reap_after=50)
    for step in range(400):
        letter = rng.choice("bcdef12")
        tell(swim, record(letter, incarnation=rng.randrange(20), state=rng.choice(list(NodeState))), now=1.0 + step)
        if step % 10 == 0:
            swim.on_timer(1.0 + step)
        assert swim.hashes == BucketHashes.of(swim.records())
        assert [item.id for item in swim.records()] == sorted(info.id for info in swim.members())
        present = [item for item in swim.records() if item.is_present]
        assert swim._roster.n_present == len(present)
        assert swim._roster.n_failed == len([item for item in swim.records() if item.state is FAILED])
        assert sorted(swim._roster.peers()) == [item.id for item in present if item.name != "a"]


def test_a_refresh_names_a_node_by_the_first_half_of_its_id() -> None:
    twin = record("b", id="b" * 31 + "c")
    swim = machine(A, B, C)
    roster = swim._roster
    assert [roster.by_key(letter * 16) is not None for letter in "abcd"] == [False, True, True, False]
    tell(swim, twin)
    assert roster.by_key("b" * 16) is None


def test_when_a_node_was_known_to_live_is_remembered() -> None:
    swim = machine(A, B)
    assert swim.heard_age(A.id, 9.0) == swim.heard_age(D.id, 9.0) == 0.0
    assert swim.heard_age(B.id, 9.0) == 8.0
    tell(swim, record("b", incarnation=1), now=9.0, age=0.5)
    assert swim.heard_age(B.id, 10.0) == 1.5
    tell(swim, record("b", incarnation=1, meta_version=1), now=20.0)
    assert swim.heard_age(B.id, 20.0) == 11.5
