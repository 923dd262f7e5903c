"""What is believed of the members, and how a node defends itself."""

from __future__ import annotations

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

from rpcnet._core.members import MemberRecord
from rpcnet._core.messages import (
    Accusation,
)
from rpcnet._core.swim import OpenSync
from rpcnet._signals import Accused, Suspicion, Verdict
from rpcnet.errors import ConfigError
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
        (None, record("b", state=SUSPECT), [NodeJoined, NodeSuspected]),
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
    joined, suspected = tell(machine(), record("b", state=SUSPECT))
    assert isinstance(joined, NodeJoined)
    assert isinstance(suspected, NodeSuspected)
    assert (joined.node.state, suspected.node.state) == (ALIVE, SUSPECT)


def test_an_update_shows_what_was_before() -> None:
    (event,) = tell(machine(A, B), record("b", meta_version=1, tags={"x": "y"}))
    assert isinstance(event, NodeUpdated)
    assert (dict(event.previous.tags), dict(event.node.tags)) == ({}, {"x": "y"})


def test_events_of_one_datagram_have_one_cause_and_those_of_the_next_another() -> None:
    swim = machine()
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


# --- refutation


@pytest.mark.parametrize("state", [SUSPECT, FAILED, LEFT])
def test_a_higher_incarnation_refutes_what_is_said_of_oneself(state: NodeState) -> None:
    swim = machine(A, B)
    assert tell(swim, record("a", state=state)) == []
    assert (swim.local.state, swim.local.incarnation, swim.local.boot_id) == (ALIVE, 1, 1)
    told = sent(swim.on_timer(1.0))["b:1"].updates
    assert [update.record.incarnation for update in told if update.record.name == "a"] == [1]


def test_a_refutation_outbids_an_incarnation_the_node_never_had() -> None:
    swim = machine(A, B)
    tell(swim, record("a", incarnation=7))
    assert swim.local.incarnation == 8


def test_old_news_about_oneself_needs_no_answer() -> None:
    swim = machine(record("a", boot_id=5, incarnation=2), B)
    quiet(swim)
    tell(swim, record("a", boot_id=5, incarnation=1, state=FAILED), record("a", boot_id=4, incarnation=9, state=FAILED))
    assert (swim.local.boot_id, swim.local.incarnation) == (5, 2)
    assert A.id not in swim._queue


def test_a_higher_boot_id_said_of_oneself_is_outbid_but_only_once_a_second() -> None:
    swim = machine(A, B)
    tell(swim, record("a", boot_id=10, incarnation=3), now=1.0)
    assert (swim.local.boot_id, swim.local.incarnation) == (11, 0)
    tell(swim, record("a", boot_id=20), now=1.5)
    assert swim.local.boot_id == 11
    tell(swim, record("a", boot_id=20), now=2.0)
    assert swim.local.boot_id == 21


def test_the_boot_id_is_raised_when_no_incarnation_is_left() -> None:
    swim = machine(A, B)
    tell(swim, record("a", incarnation=2**32 - 1, state=SUSPECT))
    assert (swim.local.boot_id, swim.local.incarnation) == (2, 0)
    assert swim.state_payload()


def test_a_meta_version_said_of_oneself_is_outbid() -> None:
    swim = machine(A, B)
    tell(swim, record("a", meta_version=5, tags={"forged": "1"}))
    assert (swim.local.meta_version, dict(swim.local.tags)) == (6, {})
    tell(swim, record("a", meta_version=2**32 - 1))
    swim.update_local(3.0, tags={"x": "y"})
    assert (swim.local.boot_id, dict(swim.local.tags)) == (2, {"x": "y"})


# --- what a node says of itself


def test_new_tags_raise_the_meta_version_and_not_the_incarnation() -> None:
    swim = machine(A, B)
    (event,) = events(swim.update_local(3.0, tags={"x": "y"}, services=["s", "r"]))
    assert isinstance(event, NodeUpdated)
    assert (event.node.meta_version, event.node.incarnation, event.node.services) == (1, 0, ("r", "s"))
    assert A.id in swim._queue
    assert swim.update_local(3.0, tags={"x": "y"}) == []


def test_tags_that_do_not_fit_change_nothing() -> None:
    swim = machine(A, B)
    with pytest.raises(ConfigError, match="512"):
        swim.update_local(3.0, tags={"k": "v" * 600})
    with pytest.raises(ConfigError, match="address"):
        swim.update_local(3.0, address="nowhere")
    assert swim.local == A


def test_leaving_is_told_until_the_limit_and_then_done() -> None:
    swim = machine(A, B, C)
    quiet(swim)
    effects = swim.leave(3.0)
    assert kinds(events(effects)) == [NodeLeft]
    spread = [swim.is_leave_spread]
    goodbyes = len(sent(effects))
    for _ in range(3):
        timer = swim.next_timer()
        assert timer is not None
        goodbyes += len(sent(swim.on_timer(timer)))
        spread.append(swim.is_leave_spread)
    assert spread == [False, False, False, True]
    assert goodbyes == 8
    assert swim.leave(5.0) == []


def test_a_node_without_peers_has_left_at_once() -> None:
    swim = machine(A)
    swim.leave(3.0)
    assert swim.is_leave_spread


def test_who_has_left_accuses_nobody_and_holds_to_it_when_suspected() -> None:
    swim = machine(A, B)
    swim.leave(3.0)
    assert swim.suspicion(Suspicion(node_id=B.id, boot_id=1, incarnation=0, phi=3.0, at=4.0), 4.0) == []
    tell(swim, record("a", state=SUSPECT))
    assert (swim.local.state, swim.local.incarnation) == (LEFT, 0)
    tell(swim, record("a", state=SUSPECT, incarnation=4))
    assert swim.local.state is LEFT
    assert swim.local.incarnation >= 4


def test_who_has_left_can_join_again_with_a_higher_incarnation() -> None:
    swim = machine(A, B)
    swim.leave(3.0)
    assert swim.join(["b:1"], 4.0) == [OpenSync("b:1")]
    assert (swim.local.state, swim.local.incarnation) == (ALIVE, 1)


def test_a_restarted_machine_announces_nothing_it_knew_and_everything_new() -> None:
    swim = machine(record("a", boot_id=2), known=[A, B, record("c", state=FAILED)])
    assert [info.name for info in swim.members()] == ["a", "b", "c"]
    assert swim.local.boot_id == 2
    assert tell(swim, B) == []
    assert kinds(tell(swim, record("b", state=FAILED), D)) == [NodeFailed, NodeJoined]
    assert kinds(tell(swim, record("c", incarnation=1))) == [NodeRecovered]
