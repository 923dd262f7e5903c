"""What a node says of itself, how it stands up for that, and what happens at the limits of its numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from _swim_bench import (
    ALIVE,
    FAILED,
    LEFT,
    SUSPECT,
    A,
    B,
    C,
    NoChance,
    datagram,
    events,
    exchange,
    kinds,
    machine,
    ping_from,
    placed,
    quiet,
    record,
    record_of,
    sent,
    state_of,
    synced,
    tell,
    wait,
)

from rpcnet._core.members import MAX_BOOT_ID, MAX_EPOCH, MAX_INCARNATION, MemberRecord
from rpcnet._core.messages import Status, Update, decode_datagram, encode_update
from rpcnet._core.swim import SendDatagram, SwimMachine
from rpcnet._signals import OwnVitals, Suspicion
from rpcnet.errors import ConfigError
from rpcnet.events import NodeLeft, NodeState, NodeUpdated

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


def test_a_meta_version_said_of_oneself_is_outbid() -> None:
    swim = machine(A, B)
    tell(swim, record("a", meta_version=5, tags={"forged": "1"}))
    assert (swim.local.meta_version, dict(swim.local.tags)) == (6, {})


def test_an_epoch_said_of_oneself_is_outbid() -> None:
    swim = machine(A, B)
    tell(swim, placed(A, 500))
    swim._own.refresh(3.0)
    assert swim.local.vitals.epoch == 501


# --- limits


def test_the_boot_id_is_raised_when_no_incarnation_is_left() -> None:
    swim = machine(A, B)
    tell(swim, record("a", incarnation=MAX_INCARNATION, state=SUSPECT))
    assert (swim.local.boot_id, swim.local.incarnation) == (2, 0)
    assert encode_update(swim.local)


def test_the_boot_id_is_raised_when_no_meta_version_is_left() -> None:
    swim = machine(A, B)
    tell(swim, record("a", meta_version=MAX_INCARNATION))
    assert (swim.local.boot_id, swim.local.incarnation, swim.local.meta_version) == (2, 0, 0)
    other = machine(record("a", meta_version=MAX_INCARNATION), B)
    (event,) = events(other.update_local(3.0, tags={"x": "y"}))
    assert isinstance(event, NodeUpdated)
    assert (event.node.boot_id, event.node.meta_version, dict(event.node.tags)) == (2, 0, {"x": "y"})


@pytest.mark.parametrize(
    "say",
    [
        pytest.param(lambda swim: swim._own.refresh(3.0), id="a refresh"),
        pytest.param(
            lambda swim: swim.own_vitals(OwnVitals(coordinates=(0, 0, 0, 1), stall=4.0, at=3.0), 3.0), id="a stall"
        ),
    ],
)
def test_the_boot_id_is_raised_when_no_epoch_is_left(say: Callable[[SwimMachine], object]) -> None:
    swim = machine(placed(A, MAX_EPOCH), B)
    say(swim)
    assert (swim.local.boot_id, swim.local.incarnation) == (2, 0)
    assert swim.local.vitals.epoch < 10
    peer = machine(B, placed(A, MAX_EPOCH))
    for effect in [*swim.on_timer(3.0), *swim.on_timer(3.2)]:
        if isinstance(effect, SendDatagram):
            peer.handle_datagram(effect.payload, "a:1", 3.3)
    assert record_of(peer, "a").boot_id == 2


LAST = {"boot_id": MAX_BOOT_ID, "incarnation": MAX_INCARNATION, "meta_version": MAX_INCARNATION}


@pytest.mark.parametrize(
    "local",
    [
        record("a", **LAST),
        record("a", boot_id=MAX_BOOT_ID, meta_version=MAX_INCARNATION),
        record("a", boot_id=MAX_BOOT_ID, incarnation=MAX_INCARNATION),
        placed(record("a", **LAST), MAX_EPOCH),
        placed(record("a", boot_id=MAX_BOOT_ID), MAX_EPOCH),
    ],
)
def test_with_every_number_used_up_a_node_still_says_what_others_can_read(local: MemberRecord) -> None:
    swim, peer = machine(local, B), machine(B, C)
    swim.update_local(3.0, tags={"x": "y"})
    swim._own.refresh(3.0)
    swim.own_vitals(OwnVitals(coordinates=(0, 0, 0, 1), stall=4.0, at=3.0), 3.0)
    for number, told in enumerate((record("a", **{**LAST, "state": FAILED}), record("a", **LAST), placed(local, 7))):
        tell(swim, told, now=5.0 + 2 * number)
    swim.join(["b:1"], 11.0)
    swim._own.refresh(12.0)
    out = [*swim.on_timer(12.0), *swim.handle_datagram(datagram(ping_from(B, local)), "b:1", 12.0), *swim.leave(13.0)]
    payloads = [effect.payload for effect in out if isinstance(effect, SendDatagram)]
    assert len(payloads) >= 3
    for payload in payloads:
        decode_datagram(payload)
        peer.handle_datagram(payload, "a:1", 13.0)
    exchange(peer, swim, 13.0)
    assert record_of(peer, "a").boot_id == MAX_BOOT_ID


def test_a_boot_id_beyond_all_is_left_standing() -> None:
    swim = machine(A, B)
    tell(swim, record("a", boot_id=MAX_BOOT_ID, state=FAILED))
    assert swim.local == A


# --- what a node says of itself


def test_new_tags_raise_the_meta_version_and_not_the_incarnation() -> None:
    swim = machine(A, B)
    (event,) = events(swim.update_local(3.0, tags={"x": "y"}, services=["s", "r"]))
    assert isinstance(event, NodeUpdated)
    assert (event.node.meta_version, event.node.incarnation, event.node.services) == (1, 0, ("r", "s"))
    assert A.id in swim._queue
    assert swim.update_local(3.0, tags={"x": "y"}) == []


def test_tags_that_do_not_fit_change_nothing() -> None:
    swim = machine(A, B, max_metadata_bytes=600)
    with pytest.raises(ConfigError, match="600"):
        swim.update_local(3.0, tags={"k": "v" * 600})
    with pytest.raises(ConfigError, match="address"):
        swim.update_local(3.0, address="nowhere")
    assert swim.local == A


def test_tags_above_512_bytes_are_told_by_digest_and_below_it_inline_again() -> None:
    swim = machine(A, B)
    swim.update_local(3.0, tags={"k": "v" * 600})
    assert len(swim.local.digest) == 12
    assert swim.body(swim.local.digest) is not None
    assert len(encode_update(swim.local)) < 100
    digest = swim.local.digest
    swim.update_local(4.0, tags={"k": "v"})
    assert swim.local.digest == b""
    assert swim.body(digest) is None


def test_a_change_of_the_stalls_is_news_and_a_change_of_the_place_is_not() -> None:
    swim = machine(A, B)
    quiet(swim)
    assert swim.own_vitals(OwnVitals(coordinates=(0.5, 0.0, 0.0, 1.0), stall=0.2, at=3.0), 3.0) == []
    assert A.id not in swim._queue
    assert swim.local.vitals.coordinates == (0.5, 0.0, 0.0, 1.0)
    (event,) = events(swim.own_vitals(OwnVitals(coordinates=(0.5, 0.0, 0.0, 1.0), stall=2.5, at=4.0), 4.0))
    assert isinstance(event, NodeUpdated)
    assert (event.previous.stall, event.node.stall) == (0.0, 2.0)
    assert A.id in swim._queue
    assert swim.own_vitals(OwnVitals(coordinates=(0.5, 0.0, 0.0, 1.0), stall=3.9, at=5.0), 5.0) == []


def test_whether_a_node_may_go_on_is_news_and_is_said_once() -> None:
    swim = machine(A, B)
    quiet(swim)
    (event,) = events(swim.halted(3.0, is_halted=True))
    assert isinstance(event, NodeUpdated)
    assert (event.previous.is_halted, event.node.is_halted, event.node.is_following) == (False, True, False)
    assert A.id in swim._queue
    epoch = swim.local.vitals.epoch
    assert events(swim.halted(4.0, is_halted=True)) == []
    assert swim.local.vitals.epoch == epoch
    peer = machine(B, A)
    peer.handle_datagram(datagram(None, Update(swim.local)), "a:1", 5.0)
    assert record_of(peer, "a").vitals.is_halted


# --- refreshes


def test_a_node_says_now_and_then_that_it_lives_and_this_waits_for_a_ride() -> None:
    swim = machine(A, B, rng=NoChance(1), sync_interval=3600, heal_interval=3600, refresh_interval=10)
    quiet(swim)
    assert [effect for at, effect in wait(swim, 100) if isinstance(effect, SendDatagram)] == []
    assert 8 <= swim.local.vitals.epoch <= 13
    (refresh,) = sent(swim.handle_datagram(datagram(ping_from(B, A)), "b:1", 101.0))["b:1"].refreshes
    assert (refresh.key, refresh.boot, refresh.epoch) == (A.id[:16], 1, swim.local.vitals.epoch)


def test_one_refresh_in_about_32_goes_as_news() -> None:
    swim = machine(A, B)
    quiet(swim)
    as_news = 0
    for number in range(3200):
        swim._own.refresh(3.0 + number)
        as_news += A.id in swim._queue
        swim._queue.discard(A.id)
    assert 60 < as_news < 140


def test_in_large_clusters_all_refreshes_together_are_about_one_a_second() -> None:
    others = [MemberRecord(id=f"{i:032x}", name=f"n{i}", address="n:1", boot_id=1) for i in range(299)]
    assert machine(A, *others)._own.refresh_interval == 300.0
    assert machine(A)._own.refresh_interval == 60.0


def test_who_has_left_refreshes_nothing() -> None:
    swim = machine(A, B)
    swim.leave(3.0)
    swim._own.refresh(4.0)
    assert swim.local.vitals.epoch == 0
    assert len(swim._refreshes) == 0


# --- leaving


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
    assert synced(swim.join(["b:1"], 4.0)) == ["b:1"]
    assert (swim.local.state, swim.local.incarnation) == (ALIVE, 1)


def test_who_left_with_its_last_incarnation_joins_again_with_a_new_boot_id() -> None:
    swim, peer = machine(record("a", incarnation=MAX_INCARNATION), B), machine(B)
    swim.leave(3.0)
    tell(peer, swim.local)
    swim.join(["b:1"], 4.0)
    assert (swim.local.state, swim.local.boot_id) == (ALIVE, 2)
    peer.handle_datagram(datagram(None, Update(swim.local)), "a:1", 4.0)
    assert state_of(peer, "a") is ALIVE


def test_what_a_ping_believes_wrongly_is_outbid_in_the_answer() -> None:
    swim = machine(A, B)
    believed = record("a", incarnation=3, state=FAILED, meta_version=9)
    ack = sent(swim.handle_datagram(datagram(ping_from(B, believed)), "b:1", 3.0))["b:1"].head
    assert getattr(ack, "status", None) == Status.of(swim.local)
    assert swim.local.incarnation == 4
