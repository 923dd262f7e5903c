"""Pings and their answers, as membership gives them."""

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
    datagram,
    events,
    kinds,
    machine,
    ping_from,
    placed,
    quiet,
    record,
    record_of,
    sent,
    state_of,
)

from rpcnet._core.members import MemberRecord
from rpcnet._core.messages import Ack, Claim, Datagram, Nack, Ping, PingReq, Status, Update
from rpcnet._core.swim import AskOverStream, SendDatagram
from rpcnet._signals import OwnVitals, ProbeAnswered, ProbeDue, ProbeNacked, ProbeRefused
from rpcnet.events import NodeFailed, NodeJoined, NodeLeft, NodeRecovered, NodeState

# --- answering


def test_a_ping_is_answered_to_where_it_came_from() -> None:
    swim = machine(A, B)
    quiet(swim)
    reply = sent(swim.handle_datagram(datagram(ping_from(B, A)), "elsewhere:9", 3.0))["elsewhere:9"]
    assert reply == Datagram(Ack(7, A.id, A.id, Status.of(A)))


def test_an_answer_tells_how_the_node_is_and_where_it_stands() -> None:
    swim = machine(A, B)
    swim.own_vitals(OwnVitals(coordinates=(0.5, -0.25, 0.125, 0.5), stall=1.9, at=2.0), 2.0)
    head = sent(swim.handle_datagram(datagram(ping_from(B, A)), "b:1", 3.0))["b:1"].head
    assert isinstance(head, Ack)
    assert (head.stall, head.coordinates) == (1.0, (0.5, -0.25, 0.125, 0.5))


def test_a_ping_for_another_id_is_answered_with_who_lives_here() -> None:
    swim = machine(A, B, C)
    quiet(swim)
    reply = sent(swim.handle_datagram(datagram(ping_from(B, C)), "b:1", 3.0))["b:1"]
    assert reply == Datagram(Ack(7, A.id, A.id, Status.of(A), asked=C.id))


@pytest.mark.parametrize(
    "believed",
    [
        record("a", boot_id=9),
        record("a", boot_id=0),
        record("a", meta_version=4),
        record("a", boot_id=0, meta_version=4),
    ],
)
def test_a_ping_that_knows_another_boot_or_older_tags_is_answered_with_the_own_record(believed: MemberRecord) -> None:
    swim = machine(record("a", tags={"x": "y"}, meta_version=5), B)
    quiet(swim)
    reply = sent(swim.handle_datagram(datagram(ping_from(B, believed)), "b:1", 3.0))["b:1"]
    assert [update.record for update in reply.updates] == [swim.local]


def test_a_suspicion_that_a_ping_carries_is_refuted_in_its_ack() -> None:
    swim = machine(A, B)
    reply = sent(swim.handle_datagram(datagram(ping_from(B, record("a", state=SUSPECT))), "b:1", 3.0))["b:1"]
    assert isinstance(reply.head, Ack)
    assert reply.head.status == Status(1, 1, ALIVE, 0)


def test_an_ack_tells_the_asker_what_is_believed_of_it() -> None:
    swim = machine(A, B, record("b", state=FAILED, incarnation=3))
    reply = sent(swim.handle_datagram(datagram(ping_from(B, A)), "b:1", 3.0))["b:1"]
    assert isinstance(reply.head, Ack)
    assert reply.head.you == Status(1, 3, FAILED, 0)


def test_an_ack_says_nothing_of_an_asker_that_is_simply_alive() -> None:
    head = sent(machine(A, B).handle_datagram(datagram(ping_from(B, A)), "b:1", 3.0))["b:1"].head
    assert isinstance(head, Ack)
    assert (head.you, head.is_stranger) == (None, False)


# --- hearing answers


def test_who_is_told_that_it_failed_refutes_and_says_so_at_once() -> None:
    swim = machine(A, B)
    ack = Ack(7, B.id, B.id, Status.of(B), you=Status(1, 3, FAILED, 0))
    reply = sent(swim.handle_datagram(datagram(ack), "b:1", 3.0))["b:1"]
    assert swim.local.incarnation == 4
    assert reply.updates[0].record == swim.local


def test_a_stranger_introduces_itself_when_told_that_it_is_one() -> None:
    asker, asked = machine(A, B), machine(B)
    bare = datagram(ping_from(A, B))
    (ack,) = asked.handle_datagram(bare, "a:1", 3.0)
    assert isinstance(ack, SendDatagram)
    answered = asker.handle_datagram(ack.payload, "b:1", 3.0)
    (introduction,) = [effect for effect in answered if isinstance(effect, SendDatagram)]
    assert kinds(events(asked.handle_datagram(introduction.payload, "a:1", 3.0)))[-1] is NodeJoined


def test_an_answer_is_reported_with_its_number_and_the_place_of_who_answered() -> None:
    swim = machine(A, B)
    place = (0.5, 0.25, 0.125, 0.5)
    effects = swim.handle_datagram(datagram(Ack(7, B.id, B.id, Status.of(B), coordinates=place)), "b:1", 3.0)
    (event,) = events(effects)
    assert event == ProbeAnswered(node_id=B.id, seq=7, via=None, coordinates=place, at=3.0, cause=event.cause)


def test_the_place_in_an_answer_that_was_passed_on_is_not_used() -> None:
    swim = machine(A, B, C)
    ack = Ack(7, C.id, B.id, Status.of(B), coordinates=(0.5, 0.25, 0.125, 0.5))
    (event,) = events(swim.handle_datagram(datagram(ack), "c:1", 3.0))
    assert isinstance(event, ProbeAnswered)
    assert (event.via, event.coordinates) == (C.id, None)


def test_an_answer_of_another_boot_is_no_answer() -> None:
    swim = machine(A, record("b", boot_id=5))
    assert events(swim.handle_datagram(datagram(Ack(7, B.id, B.id, Status.of(B))), "b:1", 3.0)) == []


def test_an_answer_with_a_higher_incarnation_clears_the_suspicion_first_hand() -> None:
    swim = machine(A, record("b", state=SUSPECT))
    ack = Ack(7, B.id, B.id, Status(1, 1, ALIVE, 0))
    assert kinds(events(swim.handle_datagram(datagram(ack), "b:1", 3.0))) == [NodeRecovered, ProbeAnswered]


def test_an_answer_with_the_same_incarnation_clears_nothing_and_the_node_is_told() -> None:
    swim = machine(A, record("b", state=SUSPECT))
    effects = swim.handle_datagram(datagram(Ack(7, B.id, B.id, Status.of(B))), "b:1", 3.0)
    assert state_of(swim, "b") is SUSPECT
    assert sent(effects)["b:1"].updates[0].record.state is SUSPECT


@pytest.mark.parametrize("claimed", [SUSPECT, FAILED])
def test_what_a_node_calls_itself_in_an_answer_is_not_believed_when_it_cannot_be(claimed: NodeState) -> None:
    swim = machine(A, B)
    swim.handle_datagram(datagram(Ack(7, B.id, B.id, Status(1, 5, claimed, 0))), "b:1", 3.0)
    assert record_of(swim, "b") == B


def test_a_node_that_answers_while_leaving_has_left() -> None:
    swim = machine(A, B)
    ack = Ack(7, B.id, B.id, Status(1, 0, LEFT, 0))
    assert kinds(events(swim.handle_datagram(datagram(ack), "b:1", 3.0)))[0] is NodeLeft


# --- asking


def test_a_probe_goes_out_with_what_is_believed_and_through_the_helpers() -> None:
    swim = machine(A, record("b", state=SUSPECT), C, D)
    due = ProbeDue(node_id=B.id, boot_id=1, seq=9, helpers=(C.id, D.id), remaining=0.5, at=3.0)
    out = sent(swim.probe_due(due, 3.0))
    known = Status(1, 0, SUSPECT, 0)
    assert out["b:1"].head == Ping(9, A.id, B.id, known)
    assert out["c:1"].head == out["d:1"].head == PingReq(9, A.id, B.id, known, 0.5, "b:1")


def test_an_indirect_probe_leaves_the_target_alone() -> None:
    swim = machine(A, B, C)
    due = ProbeDue(node_id=B.id, boot_id=1, seq=9, helpers=(C.id,), remaining=0.5, direct=False, at=3.0)
    assert list(sent(swim.probe_due(due, 3.0))) == ["c:1"]


def test_the_last_resort_is_to_ask_over_a_connection() -> None:
    swim = machine(A, B)
    due = ProbeDue(node_id=B.id, boot_id=1, seq=9, direct=False, fallback=True, at=3.0)
    assert swim.probe_due(due, 3.0) == [AskOverStream(B.id, "b", "b:1")]


def test_a_helper_that_is_gone_is_not_asked() -> None:
    swim = machine(A, B, record("c", state=FAILED))
    due = ProbeDue(node_id=B.id, boot_id=1, seq=9, helpers=(C.id, D.id), direct=False, at=3.0)
    assert swim.probe_due(due, 3.0) == []


@pytest.mark.parametrize("gone", [FAILED, LEFT])
def test_who_is_gone_is_not_probed(gone: NodeState) -> None:
    swim = machine(A, record("b", state=gone))
    assert swim.probe_due(ProbeDue(node_id=B.id, boot_id=1, seq=9, fallback=True, at=3.0), 3.0) == []


# --- GONE: another node answers at the address


def test_a_node_whose_address_answers_as_another_has_failed_at_once() -> None:
    swim = machine(A, B)
    quiet(swim)
    ack = Ack(7, C.id, C.id, Status.of(C), asked=B.id)
    effects = swim.handle_datagram(datagram(ack), "b:1", 3.0)
    (event,) = events(effects)
    assert isinstance(event, NodeFailed)
    assert event.reason == "another node has its address now"
    assert state_of(swim, "b") is FAILED
    assert B.id in swim._queue


@pytest.mark.parametrize(
    ("ack", "source"),
    [
        pytest.param(Ack(7, C.id, C.id, Status.of(C), asked=B.id), "c:1", id="from where the node is not"),
        pytest.param(Ack(7, B.id, B.id, Status.of(B), asked=B.id), "b:1", id="from the node itself"),
        pytest.param(Ack(7, C.id, C.id, Status.of(C), asked=D.id), "b:1", id="of a stranger"),
    ],
)
def test_nobody_fails_by_an_answer_that_proves_nothing(ack: Ack, source: str) -> None:
    swim = machine(A, B, C)
    assert events(swim.handle_datagram(datagram(ack), source, 3.0)) == []
    assert {state_of(swim, name) for name in "abc"} == {ALIVE}


def test_a_restart_under_another_name_at_the_same_port_is_noticed_by_the_first_probe() -> None:
    swim, newcomer = machine(A, B), machine(record("c", address="b:1"), A)
    (ping,) = swim.probe_due(ProbeDue(node_id=B.id, boot_id=1, seq=9, at=3.0), 3.0)
    assert isinstance(ping, SendDatagram)
    answered = newcomer.handle_datagram(ping.payload, "a:1", 3.0)
    (ack,) = [effect for effect in answered if isinstance(effect, SendDatagram)]
    assert NodeFailed in kinds(events(swim.handle_datagram(ack.payload, "b:1", 3.0)))


# --- REFUSED: nobody has the port


def test_a_refusal_is_reported_of_every_present_node_at_that_address() -> None:
    swim = machine(A, B, record("c", address="b:1"), record("d", address="b:1", state=FAILED))
    found = events(swim.refused("b:1", 3.0))
    assert kinds(found) == [ProbeRefused, ProbeRefused]
    assert [event.node_id for event in found if isinstance(event, ProbeRefused)] == [B.id, C.id]
    assert swim.refused("nobody:1", 3.0) == []


def test_a_nack_is_reported_with_who_gave_it_and_whether_it_was_refused() -> None:
    swim = machine(A, B, C)
    for refused in (False, True):
        (event,) = events(swim.handle_datagram(datagram(Nack(7, C.id, B.id, refused)), "c:1", 3.0))
        assert isinstance(event, ProbeNacked)
        assert (event.node_id, event.seq, event.helper, event.refused) == (B.id, 7, C.id, refused)


# --- ourselves


def test_a_datagram_that_claims_to_be_from_ourselves_is_not_answered() -> None:
    swim = machine(A, B)
    for head in (
        Ping(1, A.id, A.id, Status.of(A)),
        PingReq(1, A.id, B.id, Status.of(B), 1.0, "b:1"),
        Ack(1, A.id, A.id, Status.of(A)),
        Nack(1, A.id, B.id),
        Claim(B.id, Status.of(B), 0, "b:1"),
    ):
        assert swim.handle_datagram(datagram(head), "a:1", 3.0) == []


def test_news_about_the_receiver_goes_with_the_ping() -> None:
    swim = machine(A, B, C, D)
    due = ProbeDue(node_id=C.id, boot_id=1, seq=9, at=3.0)
    out = sent(swim.probe_due(due, 3.0))["c:1"]
    assert out.updates[0].record == C
    assert len(out.updates) == 4


def test_vitals_of_others_ride_on_the_answer_too() -> None:
    swim = machine(A, B, C)
    quiet(swim)
    swim.handle_datagram(datagram(None, refreshes=[(placed(C, 3), 0.5)]), "b:1", 3.0)
    reply = sent(swim.handle_datagram(datagram(ping_from(B, A)), "b:1", 4.0))["b:1"]
    (refresh,) = reply.refreshes
    assert (refresh.key, refresh.boot, refresh.epoch, refresh.age) == (C.id[:16], 1, 3, 1.5)
    assert Update(C) not in reply.updates
