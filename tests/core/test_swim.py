"""The membership machine: probes, gossip, exchanges and what happens by the clock."""

from __future__ import annotations

import itertools

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
    quiet,
    record,
    sent,
    state,
    state_of,
    tell,
)

from rpcnet._core.members import MemberRecord
from rpcnet._core.messages import (
    MAX_PAYLOAD_BYTES,
    Ack,
    Datagram,
    MessageError,
    Ping,
    PingReq,
    Status,
    decode_datagram,
)
from rpcnet._core.relays import FIRST_RELAY_SEQ
from rpcnet._core.swim import Effect, OpenSync, SendDatagram
from rpcnet._signals import PeerHeard, ProbeAnswered, ProbeDue
from rpcnet.errors import ConfigError
from rpcnet.events import (
    NodeJoined,
    NodeLeft,
    NodeReaped,
    NodeRecovered,
    NodeState,
    NodeSuspected,
)

# --- probes


def test_a_ping_is_answered_to_where_it_came_from() -> None:
    swim = machine(A, B)
    quiet(swim)
    reply = sent(swim.handle_datagram(datagram(ping_from(B, A)), "elsewhere:9", 3.0))["elsewhere:9"]
    assert reply == Datagram(Ack(7, A.id, A.id, Status.of(A)))


def test_a_ping_for_somebody_else_is_not_answered() -> None:
    swim = machine(A, B)
    assert swim.handle_datagram(datagram(ping_from(B, C)), "b:1", 3.0) == []


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


def test_who_is_told_that_it_failed_refutes_and_says_so_at_once() -> None:
    swim = machine(A, B)
    ack = Ack(7, B.id, B.id, Status.of(B), you=Status(1, 3, FAILED, 0))
    reply = sent(swim.handle_datagram(datagram(ack), "b:1", 3.0))["b:1"]
    assert swim.local.incarnation == 4
    assert reply.updates[0].record == swim.local


def test_a_stranger_introduces_itself_when_told_that_it_is_one() -> None:
    asker, asked = machine(A, B), machine(B)
    ping = asker.probe_due(ProbeDue(node_id=B.id, boot_id=1, seq=7, at=3.0), 3.0)
    bare = SendDatagram("b:1", datagram(ping_from(A, B)))
    (ack,) = asked.handle_datagram(bare.payload, "a:1", 3.0)
    assert isinstance(ack, SendDatagram)
    answered = asker.handle_datagram(ack.payload, "b:1", 3.0)
    (introduction,) = [effect for effect in answered if isinstance(effect, SendDatagram)]
    assert kinds(events(asked.handle_datagram(introduction.payload, "a:1", 3.0))) == [NodeJoined]
    assert len(ping) == 1


def test_an_answer_is_reported_with_its_number() -> None:
    swim = machine(A, B)
    effects = swim.handle_datagram(datagram(Ack(7, B.id, B.id, Status.of(B))), "b:1", 3.0)
    assert events(effects) == [ProbeAnswered(node_id=B.id, seq=7, via=None, at=3.0, cause=2)]


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


def test_a_node_that_answers_while_leaving_has_left() -> None:
    swim = machine(A, B)
    ack = Ack(7, B.id, B.id, Status(1, 0, LEFT, 0))
    assert kinds(events(swim.handle_datagram(datagram(ack), "b:1", 3.0)))[0] is NodeLeft


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


@pytest.mark.parametrize("gone", [FAILED, LEFT])
def test_who_is_gone_is_not_probed(gone: NodeState) -> None:
    swim = machine(A, record("b", state=gone))
    assert swim.probe_due(ProbeDue(node_id=B.id, boot_id=1, seq=9, at=3.0), 3.0) == []


def test_a_helper_pings_and_passes_the_answer_on_under_the_askers_number() -> None:
    asker, helper, target = machine(A, B, C), machine(B, A, C), machine(C, A, B)
    due = ProbeDue(node_id=C.id, boot_id=1, seq=9, helpers=(B.id,), remaining=0.5, direct=False, at=3.0)
    (request,) = asker.probe_due(due, 3.0)
    assert isinstance(request, SendDatagram)
    (ping,) = helper.handle_datagram(request.payload, "a:1", 3.0)
    assert isinstance(ping, SendDatagram)
    assert ping.address == "c:1"
    (ack,) = target.handle_datagram(ping.payload, "b:1", 3.0)
    assert isinstance(ack, SendDatagram)
    (relayed,) = helper.handle_datagram(ack.payload, "c:1", 3.0)
    assert isinstance(relayed, SendDatagram)
    assert relayed.address == "a:1"
    answered = events(asker.handle_datagram(relayed.payload, "b:1", 3.0))
    assert [(e.node_id, e.seq, e.via) for e in answered if isinstance(e, ProbeAnswered)] == [(C.id, 9, B.id)]


def test_the_suspicion_travels_through_the_helper_and_the_refutation_comes_back() -> None:
    asker = machine(A, B, record("c", state=SUSPECT))
    helper, target = machine(B, A), machine(C, A, B)
    due = ProbeDue(node_id=C.id, boot_id=1, seq=9, helpers=(B.id,), remaining=0.5, direct=False, at=3.0)
    (request,) = asker.probe_due(due, 3.0)
    assert isinstance(request, SendDatagram)
    (ping,) = [e for e in helper.handle_datagram(request.payload, "a:1", 3.0) if isinstance(e, SendDatagram)]
    (ack,) = [e for e in target.handle_datagram(ping.payload, "b:1", 3.0) if isinstance(e, SendDatagram)]
    (relayed,) = [e for e in helper.handle_datagram(ack.payload, "c:1", 3.0) if isinstance(e, SendDatagram)]
    assert kinds(events(asker.handle_datagram(relayed.payload, "b:1", 3.0))) == [NodeRecovered, ProbeAnswered]


def test_a_helper_pings_again_twice_and_then_forgets() -> None:
    swim = machine(B, A, C)
    quiet(swim)
    request = PingReq(9, A.id, C.id, Status.of(C), 0.4, "c:1")
    (first,) = swim.handle_datagram(datagram(request), "a:1", 10.0)
    assert isinstance(first, SendDatagram)
    pings = [(now, sent(swim.on_timer(now)).get("c:1")) for now in (10.05, 10.1, 10.15, 10.2, 10.3, 10.4)]
    assert [now for now, ping in pings if ping is not None and isinstance(ping.head, Ping)] == [10.1, 10.2]
    assert len(swim._relays) == 0
    head = decode_datagram(first.payload).head
    assert isinstance(head, Ping)
    assert swim.handle_datagram(datagram(Ack(head.seq, C.id, C.id, Status.of(C))), "c:1", 10.5) == []


def test_requests_to_help_are_bounded() -> None:
    swim = machine(B, A, C)
    for seq in range(2000):
        swim.handle_datagram(datagram(PingReq(seq, A.id, C.id, Status.of(C), 1.0, "c:1")), "a:1", 3.0)
    assert len(swim._relays) == 1024
    swim.on_timer(5.0)
    assert len(swim._relays) == 0


def test_an_ack_for_a_relay_that_names_another_node_is_not_passed_on() -> None:
    swim = machine(B, A, C)
    swim.handle_datagram(datagram(PingReq(9, A.id, C.id, Status.of(C), 1.0, "c:1")), "a:1", 3.0)
    assert swim.handle_datagram(datagram(Ack(FIRST_RELAY_SEQ, D.id, D.id, Status.of(D))), "d:1", 3.0) == []


def test_a_node_asked_to_ping_itself_answers() -> None:
    swim = machine(B, A)
    out = sent(swim.handle_datagram(datagram(PingReq(9, A.id, B.id, Status.of(B), 1.0, "b:1")), "a:1", 3.0))
    assert isinstance(out["a:1"].head, Ack)


# --- gossip


def test_news_goes_out_at_once_after_a_silence_then_in_rounds_and_then_there_is_silence() -> None:
    swim = machine(A, B, sync_interval=3600, heal_interval=3600)
    quiet(swim, now=1.0)
    tell(swim, C, now=5.0)
    rounds = []
    while (timer := swim.next_timer()) is not None and timer < 100:
        now = max(timer, 5.0)
        rounds.append((round(now, 3), len(sent(swim.on_timer(now)))))
    assert rounds == [(5.0, 2), (5.2, 2), (5.4, 2), (5.6, 2)]


def test_nothing_is_gossiped_while_there_is_nobody_to_tell() -> None:
    swim = machine(A)
    assert sent(swim.on_timer(5.0)) == {}
    assert swim.next_timer() != 0.0


def test_each_round_goes_to_as_many_nodes_as_the_fanout_says() -> None:
    others = [record(letter) for letter in "bcdef"]
    assert len(sent(machine(A, *others).on_timer(1.0))) == 3
    assert len(sent(machine(A, *others, gossip_fanout=5).on_timer(1.0))) == 5


def test_a_datagram_full_of_news_stays_within_the_limit() -> None:
    swim = machine(A)
    for i in range(200):
        tell(swim, MemberRecord(id=f"{i:032x}", name="n" * 100, address="b:1", boot_id=1, tags={"k": "v" * (i * 2)}))
    sizes = [len(e.payload) for e in swim.on_timer(5.0) if isinstance(e, SendDatagram)]
    assert sizes
    assert all(900 < size <= MAX_PAYLOAD_BYTES for size in sizes)


def test_what_is_news_is_passed_on_and_what_is_known_is_not() -> None:
    swim = machine(A, B)
    quiet(swim)
    tell(swim, B)
    assert B.id not in swim._queue
    tell(swim, record("b", incarnation=1))
    assert B.id in swim._queue


# --- full exchanges


def test_joining_is_one_exchange_both_ways() -> None:
    seed, joiner = machine(A, B), machine(C)
    assert joiner.join(["a:1"], 0.0) == [OpenSync("a:1")]
    assert kinds(events(seed.handle_state(joiner.state_payload(), 1.0))) == [NodeJoined]
    assert kinds(events(joiner.handle_state(seed.state_payload(), 1.0))) == [NodeJoined, NodeJoined]
    assert [info.name for info in seed.members()] == [info.name for info in joiner.members()] == ["a", "b", "c"]


def test_a_node_does_not_join_itself() -> None:
    assert machine(A).join(["a:1", "b:1", "b:1"], 0.0) == [OpenSync("b:1")]


def test_a_seed_gossips_the_joiner_and_the_joiner_gossips_only_itself() -> None:
    seed, joiner = machine(A, B), machine(C)
    quiet(seed)
    seed.handle_state(joiner.state_payload(), 3.0)
    joiner.handle_state(seed.state_payload(), 3.0)
    assert C.id in seed._queue
    assert C.id in joiner._queue
    assert A.id not in joiner._queue


def test_an_exchange_that_taught_something_is_followed_by_another() -> None:
    swim = machine(A, sync_interval=3600, heal_interval=3600)
    swim.handle_state(state(B, C), 10.0)
    follow_up = [effect for effect in swim.on_timer(12.4) if isinstance(effect, OpenSync)]
    assert len(follow_up) == 1
    swim.handle_state(state(B, C), 13.0)
    assert [effect for effect in swim.on_timer(20.0) if isinstance(effect, OpenSync)] == []


@pytest.mark.parametrize("told", [SUSPECT, FAILED])
def test_what_an_exchange_says_of_the_dead_is_a_suspicion_without_accusers(told: NodeState) -> None:
    swim = machine(A, B)
    (event,) = events(swim.handle_state(state(record("b", state=told)), 3.0))
    assert isinstance(event, NodeSuspected)
    assert event.accusers == ()
    assert state_of(swim, "b") is SUSPECT
    assert B.id in swim._queue


def test_an_exchange_does_not_revive_the_failed() -> None:
    swim = machine(A, record("b", state=FAILED))
    assert swim.handle_state(state(B), 3.0) == []
    assert state_of(swim, "b") is FAILED


def test_a_goodbye_is_believed_also_from_an_exchange() -> None:
    assert kinds(events(machine(A, B).handle_state(state(record("b", state=LEFT)), 3.0))) == [NodeLeft]


def test_the_failed_that_an_exchange_tells_for_the_first_time_are_remembered_in_silence() -> None:
    swim = machine(A, C)
    quiet(swim)
    assert swim.handle_state(state(record("b", state=FAILED)), 3.0) == []
    assert state_of(swim, "b") is FAILED
    assert B.id not in swim._queue


def test_an_exchange_that_calls_us_failed_is_refuted() -> None:
    swim = machine(A, B)
    swim.handle_state(state(record("a", state=FAILED, incarnation=2)), 3.0)
    assert swim.local.incarnation == 3


def test_two_halves_that_hold_each_other_for_failed_find_together_through_one_exchange() -> None:
    left, right = machine(A, record("b", state=FAILED)), machine(B, record("a", state=FAILED))
    right.handle_state(left.state_payload(), 3.0)
    left.handle_state(right.state_payload(), 3.0)
    assert state_of(left, "b") is ALIVE
    right.handle_state(left.state_payload(), 3.1)
    assert state_of(right, "a") is ALIVE


# --- bad input


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\xff" * 100, datagram(ping_from(B, A))[:-1]])
def test_a_malformed_datagram_raises_and_changes_nothing(payload: bytes) -> None:
    swim = machine(A, B)
    before = (swim.records(), len(swim._queue), swim.next_timer())
    with pytest.raises(MessageError):
        swim.handle_datagram(payload, "b:1", 3.0)
    assert (swim.records(), len(swim._queue), swim.next_timer()) == before


def test_a_state_that_is_malformed_at_its_end_changes_nothing() -> None:
    swim = machine(A)
    with pytest.raises(MessageError):
        swim.handle_state(state(B, C)[:-1], 3.0)
    assert len(swim.members()) == 1


def test_a_datagram_that_claims_to_be_from_ourselves_is_not_answered() -> None:
    swim = machine(A, B)
    assert swim.handle_datagram(datagram(Ping(1, A.id, A.id, Status.of(A))), "a:1", 3.0) == []
    assert swim.handle_datagram(datagram(PingReq(1, A.id, B.id, Status.of(B), 1.0, "b:1")), "a:1", 3.0) == []
    assert swim.handle_datagram(datagram(Ack(1, A.id, A.id, Status.of(A))), "a:1", 3.0) == []


@pytest.mark.parametrize("bad", [{"tags": {"k": "v" * 600}}, {"address": "nowhere"}, {"name": ""}])
def test_a_node_that_cannot_be_told_to_others_is_not_built(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        machine(record("a", **bad))


# --- what happens by the clock


def test_a_node_heard_on_a_connection_is_told_to_refute_at_most_once_a_second() -> None:
    swim = machine(A, record("b", state=FAILED))
    heard = PeerHeard(node_id=B.id, at=3.0)
    assert sent(swim.peer_heard(heard, 3.0))["b:1"].updates[0].record.state is FAILED
    assert swim.peer_heard(heard, 3.9) == []
    assert sent(swim.peer_heard(heard, 4.0))
    assert machine(A, B).peer_heard(heard, 3.0) == []


def test_a_full_exchange_happens_now_and_then() -> None:
    swim = machine(A, B, sync_interval=10, heal_interval=3600)
    quiet(swim)
    syncs = []
    while (timer := swim.next_timer()) is not None and timer < 100:
        syncs += [timer for effect in swim.on_timer(timer) if isinstance(effect, OpenSync)]
    gaps = [b - a for a, b in itertools.pairwise(syncs)]
    assert all(8 <= gap <= 12 for gap in gaps)
    assert len(gaps) >= 7


def test_failed_nodes_and_seeds_are_tried_again_for_ever() -> None:
    swim = machine(A, record("b", state=FAILED), seeds=["s:1", "a:1"], sync_interval=3600)
    tried = []
    for _ in range(100):
        timer = swim.next_timer()
        assert timer is not None
        tried += [effect.address for effect in swim.on_timer(timer) if isinstance(effect, OpenSync)]
    assert set(tried) == {"s:1", "b:1"}
    assert len(tried) > 90


def test_a_healthy_cluster_does_not_trouble_its_seeds() -> None:
    swim = machine(A, B, C, seeds=["s:1"], sync_interval=3600)
    quiet(swim)
    for _ in range(50):
        timer = swim.next_timer()
        assert timer is not None
        assert not [effect for effect in swim.on_timer(timer) if effect == OpenSync("s:1")]


def test_one_failed_node_among_many_is_tried_seldom() -> None:
    others = [MemberRecord(id=f"{i:032x}", name=f"n{i}", address="n:1", boot_id=1) for i in range(40)]
    swim = machine(A, *others, record("b", state=FAILED), sync_interval=3600)
    quiet(swim)
    tried = 0
    for round_number in range(400):
        tried += OpenSync("b:1") in swim.on_timer(100.0 + 20.0 * round_number)
    assert 1 <= tried <= 40


def test_the_gone_are_forgotten_in_time_and_their_names_are_free_again() -> None:
    swim = machine(A, B, C, dead_reap_after=100, sync_interval=3600, heal_interval=3600)
    tell(swim, record("b", state=FAILED), now=10.0)
    tell(swim, record("c", state=LEFT), now=50.0)
    assert kinds(events(swim.on_timer(109.0))) == []
    assert kinds(events(swim.on_timer(110.0))) == [NodeReaped]
    assert kinds(events(swim.on_timer(150.0))) == [NodeReaped]
    assert [info.name for info in swim.members()] == ["a"]
    assert kinds(tell(swim, B)) == [NodeJoined]


def test_the_same_seed_and_input_give_the_same_effects() -> None:
    def run() -> list[list[Effect]]:
        swim = machine(A, B, C, D, seeds=["s:1"])
        return [swim.on_timer(i / 10) for i in range(300)]

    assert run() == run()
