"""The membership machine: gossip, bad input and what happens by the clock."""

from __future__ import annotations

import itertools

import pytest
from _swim_bench import (
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
    knows,
    machine,
    ping_from,
    placed,
    quiet,
    record,
    sent,
    snapshot,
    tell,
    wait,
)

from rpcnet._core.members import MemberRecord
from rpcnet._core.messages import MAX_PAYLOAD_BYTES, MessageError, Update, decode_datagram
from rpcnet._core.swim import Effect, OpenSync, SendDatagram
from rpcnet._signals import LeaseExpired, NewsAged, PeerHeard, VitalsHeard
from rpcnet.errors import ConfigError
from rpcnet.events import NodeJoined, NodeReaped

# --- gossip


def test_news_goes_out_at_once_after_a_silence_then_in_rounds_and_then_there_is_silence() -> None:
    swim = machine(A, B, sync_interval=3600, heal_interval=3600, refresh_interval=3600)
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


def test_news_is_passed_on_with_the_age_it_came_with_and_the_time_it_waited() -> None:
    swim = machine(A, B)
    quiet(swim)
    tell(swim, C, now=5.0, age=0.75)
    (out,) = {tuple(datagram.updates) for datagram in sent(swim.on_timer(5.5)).values()}
    assert out == (Update(C, (), 1.25),)


def test_ages_saturate_instead_of_overflowing_when_a_clock_jumps() -> None:
    swim = machine(A, B)
    quiet(swim)
    tell(swim, record("b", incarnation=1), now=5.0, age=65.0)
    assert sent(swim.on_timer(5.6))["b:1"].updates[0].age == 65.535
    assert sent(swim.on_timer(5.0 + 86400))["b:1"].updates[0].age == 65.535


def test_what_waited_while_the_clock_jumped_brings_nobody_back() -> None:
    asleep, awake = machine(A, B), machine(B, A)
    quiet(awake)
    tell(asleep, C, now=5.0)
    for effect in asleep.on_timer(5.0 + 86400):
        if isinstance(effect, SendDatagram) and effect.address == "b:1":
            awake.handle_datagram(effect.payload, "a:1", 5.0 + 86400)
    assert not knows(awake, "c")
    assert C.id in awake._checks


# --- samples of how fast news spreads


def test_what_was_news_is_a_sample_of_its_age_once_per_datagram() -> None:
    swim = machine(A, B)
    news = datagram(None, Update(C, (), 0.5), Update(D, (), 0.75))
    found = events(swim.handle_datagram(news, "b:1", 3.0))
    assert [event.age for event in found if isinstance(event, NewsAged)] == [0.5]
    assert [event.age for event in events(swim.handle_datagram(news, "b:1", 3.0)) if isinstance(event, NewsAged)] == []


def test_what_a_node_says_of_itself_in_a_probe_is_no_sample() -> None:
    swim = machine(A)
    found = events(swim.handle_datagram(datagram(ping_from(B, A), Update(B)), "b:1", 3.0))
    assert kinds(found) == [NodeJoined]


def test_what_others_say_of_oneself_is_no_sample() -> None:
    swim = machine(A, B)
    rival = record("a", boot_id=9, address="z:1")
    assert events(swim.handle_datagram(datagram(None, Update(rival)), "b:1", 3.0)) == []


def test_a_refresh_that_went_as_news_is_a_sample_on_every_node() -> None:
    swim = machine(A, B)
    quiet(swim)
    found = events(swim.handle_datagram(datagram(None, Update(placed(B, 4), (), 0.5)), "c:1", 3.0))
    assert kinds(found) == [NewsAged, VitalsHeard]
    assert B.id in swim._queue


# --- bad input


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\xff" * 100, datagram(ping_from(B, A))[:-1]])
def test_a_malformed_datagram_raises_and_changes_nothing(payload: bytes) -> None:
    swim = machine(A, B)
    before = snapshot(swim)
    with pytest.raises(MessageError):
        swim.handle_datagram(payload, "b:1", 3.0)
    assert snapshot(swim) == before


@pytest.mark.parametrize("bad", [{"tags": {"k": "v" * (64 << 10)}}, {"address": "nowhere"}, {"name": ""}])
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
    assert machine(A).peer_heard(heard, 3.0) == []


def test_a_full_exchange_happens_now_and_then() -> None:
    swim = machine(A, B, sync_interval=10, heal_interval=3600)
    quiet(swim)
    syncs = [at for at, effect in wait(swim, 100) if isinstance(effect, OpenSync)]
    gaps = [b - a for a, b in itertools.pairwise(syncs)]
    assert all(8 <= gap <= 12 for gap in gaps)
    assert len(gaps) >= 7


def test_exchanges_are_rarer_in_large_clusters() -> None:
    def syncs(n: int) -> int:
        others = [MemberRecord(id=f"{i:032x}", name=f"n{i}", address="n:1", boot_id=1) for i in range(n)]
        swim = machine(A, *others, sync_interval=10, heal_interval=3600, refresh_interval=86400)
        quiet(swim)
        return len([at for at, effect in wait(swim, 1000) if isinstance(effect, OpenSync)])

    assert syncs(10) > 1.7 * syncs(64) > 1.7 * 1.3 * syncs(128) > 0


def test_the_gone_are_forgotten_in_time_and_their_names_are_free_again() -> None:
    swim = machine(A, B, C, dead_reap_after=100, sync_interval=3600, heal_interval=3600, refresh_interval=3600)
    tell(swim, record("b", state=FAILED), now=10.0)
    tell(swim, record("c", state=LEFT), now=50.0)
    assert kinds(events(swim.on_timer(109.0))) == []
    assert kinds(events(swim.on_timer(110.0))) == [NodeReaped]
    assert kinds(events(swim.on_timer(150.0))) == [NodeReaped]
    assert [info.name for info in swim.members()] == ["a"]
    assert kinds(tell(swim, B)) == [NodeJoined]


def test_a_member_of_whom_nothing_was_heard_for_three_intervals_is_to_be_probed() -> None:
    swim = machine(A, B, C, sync_interval=5, refresh_interval=10)
    quiet(swim)
    swim.peer_heard(PeerHeard(node_id=C.id, at=25.0), 25.0)
    expired = [(at, e) for at, effect in wait(swim, 40) for e in events([effect]) if isinstance(e, LeaseExpired)]
    assert {event.node_id for _, event in expired} == {B.id}
    assert all(at > 31 for at, _ in expired)


def test_a_refresh_renews_the_lease() -> None:
    swim = machine(A, B, sync_interval=5, refresh_interval=10)
    quiet(swim)
    swim.handle_datagram(datagram(None, refreshes=[(placed(B, 1), 2.0)]), "c:1", 27.0)
    found = [(at, e) for at, effect in wait(swim, 70) for e in events([effect]) if isinstance(e, LeaseExpired)]
    assert found
    assert all(at > 25 + 30 for at, _ in found)


def test_after_a_jump_of_the_clock_a_few_leases_expire_at_a_time() -> None:
    others = [MemberRecord(id=f"{i:032x}", name=f"n{i}", address="n:1", boot_id=1) for i in range(100)]
    swim = machine(A, *others, sync_interval=30)
    quiet(swim)
    found = [event for event in events(swim.on_timer(1e6)) if isinstance(event, LeaseExpired)]
    assert len(found) == len({event.node_id for event in found}) == 8


def test_the_suspect_has_no_lease_because_it_is_probed_anyway() -> None:
    swim = machine(A, record("b", state=SUSPECT), sync_interval=5, refresh_interval=10)
    assert [event for event in events(swim.on_timer(1000.0)) if isinstance(event, LeaseExpired)] == []


def test_the_same_seed_and_input_give_the_same_effects() -> None:
    def run() -> list[list[Effect]]:
        swim = machine(A, B, C, D, seeds=["s:1"])
        return [swim.on_timer(i / 10) for i in range(300)]

    assert run() == run()


# --- user data


def test_a_string_for_one_node_goes_where_it_is_known_to_be() -> None:
    swim = machine(A, B)
    quiet(swim)
    (out,) = swim.send_user(B.id, "old:1", b"for b", 3.0)
    assert (out.address, decode_datagram(out.payload).user) == ("b:1", (b"for b",))


def test_a_string_for_a_stranger_goes_to_where_it_said_it_is_or_nowhere() -> None:
    swim = machine(A)
    (out,) = swim.send_user(B.id, "said:1", b"for b", 3.0)
    assert (out.address, decode_datagram(out.payload).user) == ("said:1", (b"for b",))
    assert swim.send_user(B.id, None, b"for b", 3.0) == []
