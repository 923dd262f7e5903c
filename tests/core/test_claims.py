"""Two nodes of one name: who keeps it, and that the other one says nothing more."""

from __future__ import annotations

import attrs
import pytest
from _swim_bench import (
    ALIVE,
    FAILED,
    A,
    B,
    C,
    datagram,
    events,
    kinds,
    machine,
    ping_from,
    record,
    sent,
    show,
    tell,
    wait,
)

from rpcnet._core.claims import Claims
from rpcnet._core.members import MemberRecord
from rpcnet._core.messages import Ack, Claim, PingReq, Status, Update, decode_datagram
from rpcnet._core.swim import Effect, SendDatagram, SwimMachine
from rpcnet.events import NameConflictDetected

NAMESAKE = record("a", boot_id=50, address="z:1")


def claim_of(item: MemberRecord, started: int) -> Claim:
    return Claim(item.id, Status.of(item), started, item.address)


def claims(effects: list[Effect]) -> list[tuple[str, Claim]]:
    told = [(e.address, decode_datagram(e.payload).head) for e in effects if isinstance(e, SendDatagram)]
    return [(address, head) for address, head in told if isinstance(head, Claim)]


def gossip(swim: SwimMachine, item: MemberRecord, now: float = 3.0) -> list[Effect]:
    return swim.handle_datagram(datagram(None, Update(item)), "b:1", now)


def conflicts(effects: list[Effect]) -> list[tuple[str, bool]]:
    return [(e.address, e.is_lost) for e in events(effects) if isinstance(e, NameConflictDetected)]


# --- who notices


def test_news_of_a_namesake_at_another_address_is_answered_with_a_claim_there() -> None:
    swim = machine(record("a", boot_id=40), B)
    ((address, claim),) = claims(gossip(swim, NAMESAKE))
    assert address == "z:1"
    assert (claim.sender, claim.started, claim.address) == (A.id, 40, "a:1")
    assert claim.status == Status.of(swim.local)
    assert swim.local.boot_id == 51


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(record("a", boot_id=30), id="the past at the same address"),
        pytest.param(record("a", boot_id=50, address="z:1", state=FAILED), id="a namesake that has failed"),
        pytest.param(record("a", boot_id=40, address="z:1"), id="the present boot at an earlier address"),
    ],
)
def test_what_can_be_a_nodes_own_past_is_no_namesake(told: MemberRecord) -> None:
    assert claims(gossip(machine(record("a", boot_id=40, meta_version=1), B), told)) == []


def test_a_namesake_of_the_same_millisecond_is_asked_too_and_outbid_by_who_keeps_the_name() -> None:
    twin = record("a", boot_id=40, address="z:1")
    swim = machine(record("a", boot_id=40), B)
    ((address, _),) = claims(gossip(swim, twin))
    assert address == "z:1"
    assert swim.local.boot_id == 40
    effects = swim.handle_datagram(datagram(claim_of(twin, 40)), "z:1", 4.5)
    assert conflicts(effects) == [("z:1", False)]
    assert (swim.local.boot_id, swim.local.address) == (41, "a:1")


def test_an_exchange_that_tells_of_a_namesake_is_answered_with_a_claim_too() -> None:
    swim = machine(record("a", boot_id=40), B)
    assert show(swim, NAMESAKE) == []
    assert swim.local.boot_id == 51


def test_what_a_node_left_behind_at_another_address_does_no_harm() -> None:
    restarted = machine(record("a", boot_id=40, address="new:1"), B)
    effects = gossip(restarted, record("a", boot_id=30, address="old:1"))
    assert [address for address, _ in claims(effects)] == ["old:1"]
    assert conflicts(effects) == []
    assert not restarted.has_lost_name


def test_a_namesakes_address_is_asked_once_a_second_and_eight_times_in_all() -> None:
    swim = machine(record("a", boot_id=40), B)
    asked = [tenth / 10 for tenth in range(30, 300) if claims(gossip(swim, NAMESAKE, now=tenth / 10))]
    assert asked == [3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]


def test_only_so_many_addresses_of_namesakes_are_remembered() -> None:
    table = Claims(1)
    for number in range(1000):
        assert table.may_ask(f"z:{number}", 3.0)
    assert len(table._asked) == 16
    assert not table.may_ask("z:999", 3.5)
    assert table.may_ask("z:999", 4.0)


# --- who keeps the name


def test_who_started_later_gives_the_name_up_and_says_so_with_its_own_claim() -> None:
    swim = machine(record("a", boot_id=40), B)
    effects = swim.handle_datagram(datagram(claim_of(record("a", boot_id=30, address="z:1"), 30)), "z:1", 3.0)
    assert conflicts(effects) == [("z:1", True)]
    ((address, claim),) = claims(effects)
    assert (address, claim.started, claim.address) == ("z:1", 40, "a:1")
    assert list(sent(effects)) == ["z:1"]
    assert swim.has_lost_name


def test_who_started_earlier_keeps_the_name_outbids_and_claims_in_turn() -> None:
    swim = machine(record("a", boot_id=40), B)
    effects = swim.handle_datagram(datagram(claim_of(NAMESAKE, 50)), "z:1", 3.0)
    assert conflicts(effects) == [("z:1", False)]
    assert [address for address, _ in claims(effects)] == ["z:1"]
    assert not swim.has_lost_name
    assert swim.local.boot_id == 51


def test_boot_ids_that_were_outbid_do_not_change_who_was_first() -> None:
    swim = machine(record("a", boot_id=40), B)
    effects = swim.handle_datagram(datagram(claim_of(record("a", boot_id=999, address="z:1"), 30)), "z:1", 3.0)
    assert conflicts(effects) == [("z:1", True)]
    effects = machine(record("a", boot_id=999), B, started=20).handle_datagram(
        datagram(claim_of(NAMESAKE, 30)), "z:1", 3.0
    )
    assert conflicts(effects) == [("z:1", False)]


def test_of_two_that_started_in_the_same_millisecond_the_lower_address_keeps_the_name() -> None:
    one, other = machine(record("a", boot_id=40), B), machine(record("a", boot_id=40, address="z:1"), B)
    to_other = datagram(claim_of(one.local, 40))
    to_one = datagram(claim_of(other.local, 40))
    assert conflicts(one.handle_datagram(to_one, "z:1", 3.0)) == [("z:1", False)]
    assert conflicts(other.handle_datagram(to_other, "a:1", 3.0)) == [("a:1", True)]


def test_a_conflict_ends_with_one_loser_whoever_hears_of_it_first() -> None:
    for first in (0, 1):
        machines = [machine(record("a", boot_id=40), B), machine(record("a", boot_id=50, address="z:1"), B)]
        by_address = {"a:1": machines[0], "z:1": machines[1]}
        under_way = [
            (by_address[address], datagram(claim))
            for address, claim in claims(gossip(machines[first], machines[1 - first].local))
        ]
        told = 0
        while under_way:
            to, payload = under_way.pop()
            told += 1
            answered = claims(to.handle_datagram(payload, "whatever:1", 3.0))
            under_way += [(by_address[address], datagram(claim)) for address, claim in answered]
        assert [swim.has_lost_name for swim in machines] == [False, True]
        assert told <= 4


def test_a_claim_of_another_name_or_from_ones_own_address_is_ignored() -> None:
    swim = machine(record("a", boot_id=40), B)
    assert swim.handle_datagram(datagram(claim_of(record("c", address="z:1"), 1)), "z:1", 3.0) == []
    assert swim.handle_datagram(datagram(claim_of(record("a", boot_id=3), 3)), "a:1", 3.0) == []


def test_who_has_left_does_not_care_about_its_name() -> None:
    swim = machine(record("a", boot_id=40), B)
    swim.leave(2.0)
    assert swim.handle_datagram(datagram(claim_of(record("a", boot_id=3, address="z:1"), 3)), "z:1", 3.0) == []
    assert not swim.has_lost_name


def test_a_storm_of_claims_is_answered_and_reported_once_a_second() -> None:
    swim = machine(record("a", boot_id=40), B)
    told = []
    for tenth in range(200):
        storm = claim_of(attrs.evolve(NAMESAKE, boot_id=50 + 10 * tenth), 50)
        told.append(swim.handle_datagram(datagram(storm), "z:1", 3.0 + tenth / 10))
    assert len([effects for effects in told if claims(effects)]) == 8
    assert len([effects for effects in told if conflicts(effects)]) == 8


# --- the loser


def test_the_loser_says_nothing_more_whatever_happens() -> None:
    swim = machine(record("a", boot_id=40), B, C, seeds=["s:1"], dead_reap_after=100)
    swim.handle_datagram(datagram(PingReq(9, B.id, C.id, Status.of(C), 1.0, "c:1")), "b:1", 2.9)
    show(swim, record("d"), now=2.9, age=5000.0)
    tell(swim, record("e", state=FAILED), now=2.9)
    swim.handle_datagram(datagram(claim_of(record("a", boot_id=30, address="z:1"), 30)), "z:1", 3.0)
    caused = [
        *swim.handle_datagram(datagram(ping_from(B, swim.local)), "b:1", 3.1),
        *swim.handle_datagram(datagram(Ack(1, B.id, B.id, Status.of(B), is_stranger=True)), "b:1", 3.1),
        *swim.handle_datagram(datagram(PingReq(9, B.id, C.id, Status.of(C), 1.0, "c:1")), "b:1", 3.1),
        *gossip(swim, NAMESAKE, now=5.0),
        *gossip(swim, record("b", state=FAILED), now=5.0),
        *swim.leave(6.0),
        *swim.on_timer(7.0),
        *[effect for _, effect in wait(swim, 1e6)],
    ]
    assert caused == []


def test_the_loser_has_left_at_once_and_has_nothing_to_wait_for() -> None:
    swim = machine(record("a", boot_id=40), B)
    show(swim, record("d"), now=2.9, age=5000.0)
    swim.handle_datagram(datagram(claim_of(record("a", boot_id=30, address="z:1"), 30)), "z:1", 3.0)
    assert swim.next_timer() is None
    assert kinds(events(swim.leave(4.0))) == []
    assert swim.is_leave_spread
    assert swim.local.state is ALIVE
