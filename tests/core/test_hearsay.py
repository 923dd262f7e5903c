"""Old news about unknown nodes: what is believed, what is checked, and that nothing brings the dead back."""

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
    datagram,
    events,
    exchange,
    kinds,
    knows,
    machine,
    quiet,
    record,
    record_of,
    sent,
    show,
    state_of,
    tell,
    wait,
)

from rpcnet._core.hearsay import CheckTable
from rpcnet._core.members import MemberRecord
from rpcnet._core.messages import Ack, Ping, Status, Update, decode_datagram
from rpcnet._core.relays import FIRST_CHECK_SEQ
from rpcnet._core.swim import SendDatagram, SwimMachine
from rpcnet.events import NodeFailed, NodeJoined, NodeRecovered, NodeReplaced, NodeState


def checks(swim: SwimMachine, until: float) -> list[tuple[float, str]]:
    """When whom a machine asks on its own, and where."""
    asked = []
    for at, effect in wait(swim, until):
        if isinstance(effect, SendDatagram) and isinstance(head := decode_datagram(effect.payload).head, Ping):
            assert head.seq >= FIRST_CHECK_SEQ
            asked.append((round(at, 3), effect.address))
    return asked


# --- what is believed


@pytest.mark.parametrize("age", [0.0, 1.0, 3.5])
def test_gossip_about_an_unknown_node_is_believed_while_it_spreads(age: float) -> None:
    assert kinds(tell(machine(A, C), B, age=age)) == [NodeJoined]


@pytest.mark.parametrize("state", [ALIVE, SUSPECT])
def test_gossip_that_is_older_than_that_is_checked_listed_nowhere_and_not_passed_on(state: NodeState) -> None:
    swim = machine(A, C)
    quiet(swim)
    assert tell(swim, record("b", state=state), age=10.0) == []
    assert not knows(swim, "b")
    assert B.id not in swim._queue
    assert B.id in swim._checks


def test_old_news_of_a_member_needs_no_check() -> None:
    swim = machine(A, B)
    tell(swim, record("b", incarnation=2), age=60.0)
    assert record_of(swim, "b").incarnation == 2
    assert len(swim._checks) == 0


@pytest.mark.parametrize("state", [FAILED, LEFT])
def test_that_a_node_is_gone_is_believed_however_old_it_is(state: NodeState) -> None:
    swim = machine(A)
    tell(swim, record("b", state=state), age=65.0)
    assert state_of(swim, "b") is state


def test_an_exchange_is_believed_as_long_as_the_lease_lasts() -> None:
    swim = machine(A, C, refresh_interval=10)
    assert kinds(show(swim, B, age=30.0)) == [NodeJoined]
    assert show(swim, D, age=31.0) == []
    assert D.id in swim._checks


# --- the dead


def test_a_stale_record_cannot_bring_back_the_dead() -> None:
    swim = machine(A, C, record("b", state=FAILED, incarnation=2))
    for stale in (B, record("b", incarnation=2), record("b", incarnation=2, state=SUSPECT)):
        assert tell(swim, stale, age=0.0) == []
        assert tell(swim, stale, age=60.0) == []
        assert show(swim, stale) == []
        assert show(swim, stale, age=60000.0) == []
    assert state_of(swim, "b") is FAILED


def test_even_a_higher_incarnation_does_not_bring_back_the_dead_when_it_is_old() -> None:
    swim = machine(A, C, B, record("b", state=FAILED))
    assert tell(swim, record("b", incarnation=9), age=60.0) == []
    assert state_of(swim, "b") is FAILED
    assert kinds(tell(swim, record("b", incarnation=9), age=0.5)) == [NodeRecovered]


def test_the_forgotten_dead_do_not_come_back_from_one_who_remembers_them_alive() -> None:
    swim = machine(A, C, B, dead_reap_after=100, sync_interval=3600, heal_interval=3600)
    tell(swim, record("b", state=FAILED), now=10.0)
    wait(swim, 200.0)
    assert not knows(swim, "b")
    assert show(swim, B, now=200.0, age=50000.0) == []
    asked = checks(swim, 300.0)
    assert [address for _, address in asked] == ["b:1"] * 3
    assert not knows(swim, "b")
    assert len(swim._checks) == 0


def test_old_talk_of_a_living_node_never_restarts_the_dead_in_a_random_cluster_of_tables() -> None:
    """Whoever heard the death never lists the dead again, whatever the others say and in whatever order."""
    for seed in range(5):
        rng = random.Random(seed)
        machines = [
            machine(
                record(letter), dead_reap_after=10_000, sync_interval=3600, heal_interval=3600, refresh_interval=86400
            )
            for letter in "0123456789"
        ]
        everyone = [swim.local for swim in machines]
        for swim in machines:
            show(swim, *[item for item in everyone if item != swim.local], record("d"), now=1.0)
        for number, swim in enumerate(machines[:5]):
            tell(swim, record("d", state=FAILED), now=100.0 + number)
        for step in range(120):
            one, other = rng.sample(machines, 2)
            exchange(one, other, 3000.0 + step)
            assert all(state_of(swim, "d") is FAILED for swim in machines[:5])


# --- checks


def test_three_checks_go_unanswered_further_and_further_apart_and_then_it_is_forgotten() -> None:
    swim = machine(A, C, sync_interval=3600, heal_interval=3600, refresh_interval=86400)
    quiet(swim)
    tell(swim, B, now=10.0, age=60.0)
    assert checks(swim, 15.99) == [(10.0, "b:1"), (11.0, "b:1")]
    assert B.id in swim._checks
    assert checks(swim, 100.0) == [(16.0, "b:1")]
    assert len(swim._checks) == 0
    assert not knows(swim, "b")


def test_a_node_that_answers_a_check_is_a_member_at_once() -> None:
    swim, checked = machine(A, C), machine(B)
    quiet(swim)
    tell(swim, B, now=10.0, age=60.0)
    ping = next(e for e in swim.on_timer(10.0) if isinstance(e, SendDatagram) and e.address == "b:1")
    (ack,) = checked.handle_datagram(ping.payload, "a:1", 10.1)
    assert isinstance(ack, SendDatagram)
    assert NodeJoined in kinds(events(swim.handle_datagram(ack.payload, "b:1", 10.2)))
    assert len(swim._checks) == 0
    assert record_of(swim, "b") == B
    assert checks(swim, 100.0) == []


def test_a_node_that_has_restarted_meanwhile_answers_with_what_it_is_now() -> None:
    swim, checked = machine(A, C), machine(record("b", boot_id=7))
    quiet(swim)
    tell(swim, B, now=10.0, age=60.0)
    ping = next(e for e in swim.on_timer(10.0) if isinstance(e, SendDatagram) and e.address == "b:1")
    for effect in checked.handle_datagram(ping.payload, "a:1", 10.1):
        if isinstance(effect, SendDatagram):
            swim.handle_datagram(effect.payload, "b:1", 10.2)
    assert record_of(swim, "b").boot_id == 7


def test_an_answer_of_another_boot_alone_is_no_word_for_what_was_checked() -> None:
    swim = machine(A, C)
    tell(swim, B, now=10.0, age=60.0)
    ack = Ack(FIRST_CHECK_SEQ, B.id, B.id, Status(9, 0, ALIVE, 0))
    assert events(swim.handle_datagram(datagram(ack), "b:1", 10.2)) == []
    assert not knows(swim, "b")


def test_fresh_news_settles_what_was_being_checked() -> None:
    swim = machine(A, C, sync_interval=3600, heal_interval=3600, refresh_interval=86400)
    quiet(swim)
    tell(swim, B, now=10.0, age=60.0)
    assert kinds(tell(swim, B, now=10.5)) == [NodeJoined]
    swim.handle_datagram(datagram(Ack(FIRST_CHECK_SEQ, B.id, B.id, Status.of(B))), "b:1", 10.6)
    assert record_of(swim, "b") == B


def test_of_two_old_records_of_a_node_the_newer_one_is_checked() -> None:
    swim = machine(A, C)
    quiet(swim)
    tell(swim, record("b", boot_id=3, address="new:1"), B, now=10.0, age=60.0)
    assert list(sent(swim.on_timer(10.0))) == ["new:1"]


def test_a_check_asks_with_what_was_said_so_that_the_node_can_refute() -> None:
    swim = machine(A, C)
    quiet(swim)
    tell(swim, record("b", state=SUSPECT, incarnation=4), now=10.0, age=60.0)
    head = sent(swim.on_timer(10.0))["b:1"].head
    assert head == Ping(FIRST_CHECK_SEQ, A.id, B.id, Status(1, 4, SUSPECT, 0))


# --- the table


def unknown(number: int) -> MemberRecord:
    return MemberRecord(id=f"{number:032x}", name="n", address="n:1", boot_id=1)


def test_the_table_is_bounded_and_asks_a_few_at_a_time() -> None:
    table = CheckTable()
    for number in range(3000):
        table.add(unknown(number), 0.0)
    assert len(table) == 1024
    assert [len(table.due(0.0)) for _ in range(129)] == [8] * 128 + [0]
    assert table.next_timer() == 1.0


def test_everything_in_the_table_ends() -> None:
    table = CheckTable()
    for number in range(1024):
        table.add(unknown(number), 0.0)
    asked = 0
    while (timer := table.next_timer()) is not None:
        asked += len(table.due(timer))
        assert timer < 60
    assert asked == 3 * 1024


# --- tombstones


def test_the_dead_are_forgotten_everywhere() -> None:
    """Exchanges among those who remember and those who do not never keep a tombstone alive for ever."""
    rng = random.Random(8)
    machines = [
        machine(record(letter), dead_reap_after=1000, sync_interval=3600, heal_interval=3600, refresh_interval=86400)
        for letter in "012345678"
    ]
    everyone = [swim.local for swim in machines]
    for number, swim in enumerate(machines):
        show(swim, *[item for item in everyone if item != swim.local], now=1.0)
        if number < 4:
            tell(swim, B, now=1.0)
            tell(swim, record("b", state=FAILED), now=2.0)
    for step in range(60):
        now = 100.0 + 30.0 * step
        for swim in machines:
            while (timer := swim._roster.next_reap(1000)) is not None and timer <= now:
                swim.on_timer(now)
        for _ in range(4):
            one, other = rng.sample(machines, 2)
            exchange(one, other, now)
        if now > 2 + 1.5 * 1000:
            assert not any(knows(swim, "b") for swim in machines), f"still known at {now}"


def test_who_is_gone_is_taken_in_only_while_others_will_remember_it_as_long() -> None:
    swim = machine(A, C, dead_reap_after=1000)
    assert show(swim, record("b", state=FAILED), age=500.0) == []
    assert not knows(swim, "b")
    assert show(swim, record("b", state=FAILED), age=499.0) == []
    assert state_of(swim, "b") is FAILED


def test_what_is_said_of_those_known_to_be_gone_is_merged_however_old() -> None:
    swim = machine(A, C, record("b", state=FAILED), dead_reap_after=1000)
    show(swim, record("b", boot_id=2, state=FAILED), age=900.0)
    assert record_of(swim, "b").boot_id == 2


# --- what becomes of a node that comes back


def test_a_node_that_was_dead_comes_back_by_its_own_word() -> None:
    swim = machine(A, C, B, record("b", state=FAILED))
    ack = Ack(7, B.id, B.id, Status(1, 1, ALIVE, 0))
    assert NodeRecovered in kinds(events(swim.handle_datagram(datagram(ack), "b:1", 3.0)))
    assert kinds(tell(swim, record("b", boot_id=2))) == [NodeReplaced]
    assert kinds(tell(swim, record("b", boot_id=2, state=FAILED))) == [NodeFailed]
    assert Update(B) not in [update for out in sent(swim.on_timer(3.0)).values() for update in out.updates]
