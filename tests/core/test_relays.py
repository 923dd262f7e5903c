"""Pings on behalf of others, and what their helpers tell who asked."""

from __future__ import annotations

import pytest
from _swim_bench import (
    SUSPECT,
    A,
    B,
    C,
    D,
    datagram,
    events,
    kinds,
    machine,
    quiet,
    record,
    sent,
    wait,
)

from rpcnet._core.messages import Ack, Head, Nack, Ping, PingReq, Status, Update, decode_datagram
from rpcnet._core.relays import FIRST_CHECK_SEQ, FIRST_RELAY_SEQ, Relay, RelayTable
from rpcnet._core.swim import SendDatagram, SwimMachine
from rpcnet._signals import ProbeAnswered, ProbeDue
from rpcnet.events import NodeRecovered


def helper() -> SwimMachine:
    swim = machine(B, A, C)
    quiet(swim)
    return swim


def request(remaining: float = 0.4, seq: int = 9) -> bytes:
    return datagram(PingReq(seq, A.id, C.id, Status.of(C), remaining, "c:1"))


def heads(swim: SwimMachine, until: float) -> list[tuple[float, str, Head | None]]:
    """What a machine sends on its own, but for gossip."""
    told = [
        (round(at, 3), effect.address, decode_datagram(effect.payload).head)
        for at, effect in wait(swim, until)
        if isinstance(effect, SendDatagram)
    ]
    return [entry for entry in told if entry[2] is not None]


def test_a_helper_pings_and_passes_the_answer_on_under_the_askers_number() -> None:
    asker, aid, target = machine(A, B, C), machine(B, A, C), machine(C, A, B)
    due = ProbeDue(node_id=C.id, boot_id=1, seq=9, helpers=(B.id,), remaining=0.5, direct=False, at=3.0)
    (asked,) = asker.probe_due(due, 3.0)
    assert isinstance(asked, SendDatagram)
    (ping,) = aid.handle_datagram(asked.payload, "a:1", 3.0)
    assert isinstance(ping, SendDatagram)
    assert ping.address == "c:1"
    (ack,) = target.handle_datagram(ping.payload, "b:1", 3.0)
    assert isinstance(ack, SendDatagram)
    (relayed,) = [e for e in aid.handle_datagram(ack.payload, "c:1", 3.0) if isinstance(e, SendDatagram)]
    assert relayed.address == "a:1"
    answered = events(asker.handle_datagram(relayed.payload, "b:1", 3.0))
    assert [(e.node_id, e.seq, e.via) for e in answered if isinstance(e, ProbeAnswered)] == [(C.id, 9, B.id)]


def test_the_suspicion_travels_through_the_helper_and_the_refutation_comes_back() -> None:
    asker = machine(A, B, record("c", state=SUSPECT))
    aid, target = machine(B, A), machine(C, A, B)
    due = ProbeDue(node_id=C.id, boot_id=1, seq=9, helpers=(B.id,), remaining=0.5, direct=False, at=3.0)
    (asked,) = asker.probe_due(due, 3.0)
    assert isinstance(asked, SendDatagram)
    (ping,) = [e for e in aid.handle_datagram(asked.payload, "a:1", 3.0) if isinstance(e, SendDatagram)]
    (ack,) = [e for e in target.handle_datagram(ping.payload, "b:1", 3.0) if isinstance(e, SendDatagram)]
    (relayed,) = [e for e in aid.handle_datagram(ack.payload, "c:1", 3.0) if isinstance(e, SendDatagram)]
    told = kinds(events(asker.handle_datagram(relayed.payload, "b:1", 3.0)))
    assert NodeRecovered in told
    assert ProbeAnswered in told


def test_a_helper_pings_again_twice_says_that_nothing_came_at_four_fifths_and_forgets() -> None:
    swim = helper()
    (first,) = swim.handle_datagram(request(0.4), "a:1", 10.0)
    assert isinstance(first, SendDatagram)
    ping = decode_datagram(first.payload).head
    assert ping == Ping(FIRST_RELAY_SEQ, B.id, C.id, Status.of(C))
    nack = Nack(9, B.id, C.id, refused=False)
    told = heads(swim, 12.0)
    assert [entry for entry in told if 10 < entry[0] < 11] == [
        (10.1, "c:1", ping),
        (10.2, "c:1", ping),
        (10.32, "a:1", nack),
    ]
    late = Ack(FIRST_RELAY_SEQ, C.id, C.id, Status.of(C))
    assert sent(swim.handle_datagram(datagram(late), "c:1", 12.5)) == {}


def test_an_answer_after_the_nack_is_still_passed_on() -> None:
    swim = helper()
    swim.handle_datagram(request(0.4), "a:1", 10.0)
    wait(swim, 10.35)
    out = sent(swim.handle_datagram(datagram(Ack(FIRST_RELAY_SEQ, C.id, C.id, Status.of(C))), "c:1", 10.36))
    assert out["a:1"].head == Ack(9, B.id, C.id, Status.of(C))


def test_an_answer_ends_the_pings_and_there_is_no_nack() -> None:
    swim = helper()
    swim.handle_datagram(request(0.4), "a:1", 10.0)
    swim.handle_datagram(datagram(Ack(FIRST_RELAY_SEQ, C.id, C.id, Status.of(C))), "c:1", 10.05)
    assert [entry for entry in heads(swim, 11.0) if entry[0] >= 10] == []


def test_a_helper_that_wakes_late_sends_the_nack_alone() -> None:
    swim = helper()
    swim.handle_datagram(request(0.4), "a:1", 10.0)
    assert [head for head in (d.head for d in sent(swim.on_timer(10.39)).values()) if head] == [Nack(9, B.id, C.id)]


def test_a_refusal_is_passed_on_at_once_and_only_once() -> None:
    swim = helper()
    swim.handle_datagram(request(0.4), "a:1", 10.0)
    out = sent(swim.refused("c:1", 10.01))
    assert out["a:1"].head == Nack(9, B.id, C.id, refused=True)
    assert sent(swim.refused("c:1", 10.02)) == {}
    assert not [head for _, _, head in heads(swim, 11.0) if isinstance(head, Nack)]


def test_a_refusal_of_another_address_is_not_passed_on() -> None:
    swim = helper()
    swim.handle_datagram(request(0.4), "a:1", 10.0)
    assert sent(swim.refused("d:1", 10.01)) == {}


def test_an_address_that_answers_as_another_node_is_a_refusal_too() -> None:
    swim = helper()
    swim.handle_datagram(request(0.4), "a:1", 10.0)
    gone = Ack(FIRST_RELAY_SEQ, D.id, D.id, Status.of(D), asked=C.id)
    out = sent(swim.handle_datagram(datagram(gone), "c:1", 10.05))
    assert out["a:1"].head == Nack(9, B.id, C.id, refused=True)


def test_the_record_that_comes_with_the_answer_is_passed_on_with_it() -> None:
    swim = helper()
    swim.handle_datagram(request(0.4), "a:1", 10.0)
    newer = record("c", meta_version=2, tags={"k": "v"})
    ack = Ack(FIRST_RELAY_SEQ, C.id, C.id, Status.of(newer))
    out = sent(swim.handle_datagram(datagram(ack, Update(newer)), "c:1", 10.05))["a:1"]
    assert [update.record for update in out.updates] == [newer]


def test_an_ack_for_a_relay_that_names_another_node_is_not_passed_on() -> None:
    swim = helper()
    swim.handle_datagram(request(1.0), "a:1", 3.0)
    stray = Ack(FIRST_RELAY_SEQ, D.id, D.id, Status.of(D))
    assert sent(swim.handle_datagram(datagram(stray), "d:1", 3.0)) == {}


def test_a_node_asked_to_ping_itself_answers() -> None:
    out = sent(machine(B, A).handle_datagram(datagram(PingReq(9, A.id, B.id, Status.of(B), 1.0, "b:1")), "a:1", 3.0))
    assert isinstance(out["a:1"].head, Ack)


def test_a_stranger_is_pinged_where_the_asker_says_it_is() -> None:
    ask = PingReq(9, A.id, D.id, Status.of(D), 1.0, "elsewhere:4")
    assert list(sent(helper().handle_datagram(datagram(ask), "a:1", 3.0))) == ["elsewhere:4"]


def test_a_request_whose_time_is_over_is_not_taken_on() -> None:
    assert helper().handle_datagram(request(0.0), "a:1", 3.0) == []


# --- the table


def opened(table: RelayTable, remaining: float = 1.0, now: float = 0.0) -> Relay | None:
    return table.open(
        asker="a:1", asker_seq=1, target=C.id, address="c:1", known=Status.of(C), remaining=remaining, now=now
    )


def test_requests_to_help_are_bounded_and_end() -> None:
    table = RelayTable()
    assert sum(opened(table) is not None for _ in range(2000)) == len(table) == 1024
    assert table.due(1.0) == []
    assert len(table) == 0
    assert table.next_timer() is None


def test_nobody_occupies_a_helper_for_longer_than_a_minute() -> None:
    relay = opened(RelayTable(), remaining=4e6)
    assert relay is not None
    assert relay.expires_at == 60.0


def test_the_numbers_of_relays_never_run_into_those_of_checks() -> None:
    table = RelayTable()
    table._count = FIRST_CHECK_SEQ - FIRST_RELAY_SEQ - 1
    seqs = [relay.seq for relay in (opened(table), opened(table)) if relay is not None]
    assert seqs == [FIRST_CHECK_SEQ - 1, FIRST_RELAY_SEQ]


@pytest.mark.parametrize("at", [0.2, 0.25, 0.49, 0.5, 0.79, 0.8, 0.99, 1.0])
def test_what_is_due_is_never_due_twice_at_the_same_moment(at: float) -> None:
    table = RelayTable()
    opened(table)
    table.due(at)
    assert table.due(at) == []
