"""What is believed and passed on: exchanges, signs of life, large tags."""

from __future__ import annotations

import attrs
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
    machine,
    placed,
    quiet,
    record,
    record_of,
    sent,
    show,
    state_of,
    synced,
    tell,
    wait,
)

from rpcnet._core.exchanges import Hearsay, answer, encode_fetch
from rpcnet._core.members import MemberRecord, Vitals, encode_metadata
from rpcnet._core.messages import Ack, MessageError, Ping, Status, Update
from rpcnet._core.metadata import Fetch, digest_of
from rpcnet._core.swim import Effect, FetchMetadata, OpenSync, SwimMachine
from rpcnet._signals import VitalsHeard
from rpcnet.events import NodeJoined, NodeLeft, NodeReaped, NodeState, NodeSuspected, NodeUpdated

# --- exchanges


def test_an_exchange_brings_both_sides_to_the_same_records() -> None:
    seed, joiner = machine(A, B), machine(C)
    assert joiner.join(["a:1"], 0.0) == [OpenSync("a:1")]
    exchange(joiner, seed, 3.0)
    assert [info.name for info in seed.members()] == [info.name for info in joiner.members()] == ["a", "b", "c"]
    assert seed.hashes == joiner.hashes


def test_a_node_does_not_join_itself() -> None:
    assert machine(A).join(["a:1", "b:1", "b:1"], 0.0) == [OpenSync("b:1")]


def test_a_node_that_joined_shows_itself_and_goes_on_only_if_it_knows_somebody_that_was_not_listed() -> None:
    alone = machine(A)
    listed = [Hearsay(B, 0.0), Hearsay(C, 0.0)]
    assert synced(alone.joined(listed, "b:1", 3.0)) == []
    merging = machine(A, D)
    assert synced(merging.joined(listed, "b:1", 3.0)) == ["b:1"]


def test_a_node_that_was_alone_gossips_only_itself_after_its_first_exchange() -> None:
    joiner = machine(C)
    joiner._queue.discard(C.id)
    assert kinds(show(joiner, A, B)) == [NodeJoined, NodeJoined]
    assert [letter for letter in (A, B, C) if letter.id in joiner._queue] == [C]


def test_a_member_gossips_what_an_exchange_taught_it() -> None:
    seed = machine(A, B)
    quiet(seed)
    show(seed, C)
    assert C.id in seed._queue


def test_what_an_exchange_taught_is_passed_on_as_if_said_now() -> None:
    seed = machine(A, B, refresh_interval=60)
    quiet(seed)
    show(seed, C, age=100.0, now=3.0)
    (update,) = seed._queue.take(1000, 3, now=3.0)
    assert update[:2] == bytes(2)
    assert seed.heard_age(C.id, 3.0) == 100.0


def test_an_exchange_that_taught_something_is_followed_by_another() -> None:
    swim = machine(A, sync_interval=3600, heal_interval=3600)
    show(swim, B, C, now=10.0)
    follow_up = [at for at, effect in wait(swim, 12.4) if isinstance(effect, OpenSync)]
    assert len(follow_up) == 1
    show(swim, B, C, now=13.0)
    assert [at for at, effect in wait(swim, 30.0) if isinstance(effect, OpenSync)] == []


def test_newer_vitals_that_an_exchange_happens_to_bring_are_no_news_and_no_sign_of_a_gap() -> None:
    swim = machine(A, placed(B, 1), C, sync_interval=3600, heal_interval=3600)
    quiet(swim)
    assert kinds(show(swim, placed(B, 9), now=10.0)) == [VitalsHeard]
    assert record_of(swim, "b").vitals.epoch == 9
    assert B.id not in swim._queue
    assert [at for at, effect in wait(swim, 30.0) if isinstance(effect, OpenSync)] == []


@pytest.mark.parametrize("told", [SUSPECT, FAILED])
def test_what_an_exchange_says_of_the_dead_is_a_suspicion_without_accusers(told: NodeState) -> None:
    swim = machine(A, B)
    (event,) = show(swim, record("b", state=told))
    assert isinstance(event, NodeSuspected)
    assert event.accusers == ()
    assert state_of(swim, "b") is SUSPECT
    assert B.id in swim._queue


def test_a_goodbye_is_believed_also_from_an_exchange() -> None:
    assert kinds(show(machine(A, B), record("b", state=LEFT))) == [NodeLeft]


def test_the_failed_that_an_exchange_tells_for_the_first_time_are_remembered_in_silence() -> None:
    swim = machine(A, C)
    quiet(swim)
    assert show(swim, record("b", state=FAILED)) == []
    assert state_of(swim, "b") is FAILED
    assert B.id not in swim._queue


def test_an_exchange_that_calls_us_failed_is_refuted() -> None:
    swim = machine(A, B)
    show(swim, record("a", state=FAILED, incarnation=2))
    assert swim.local.incarnation == 3


def test_two_halves_that_hold_each_other_for_failed_find_together_through_exchanges() -> None:
    left, right = machine(A, record("b", state=FAILED)), machine(B, record("a", state=FAILED))
    exchange(left, right, 3.0)
    exchange(left, right, 3.1)
    assert state_of(left, "b") is state_of(right, "a") is ALIVE


def test_a_malformed_request_of_an_exchange_changes_nothing() -> None:
    swim = machine(A)
    request = b"\x01\x03" + (2).to_bytes(4, "big") + bytes(100)
    with pytest.raises(MessageError):
        swim.answer_exchange(request, 3.0)
    assert len(swim.members()) == 1


# --- signs of life


def refresh(swim: SwimMachine, item: MemberRecord, age: float = 0.0, now: float = 5.0) -> list[Effect]:
    return swim.handle_datagram(datagram(None, refreshes=[(item, age)]), "x:1", now)


def test_a_refresh_tells_how_a_member_is_and_waits_to_be_passed_on() -> None:
    swim = machine(A, B)
    quiet(swim)
    (event,) = [event for event in events(refresh(swim, placed(B, 3, stall=0.5))) if isinstance(event, VitalsHeard)]
    assert (event.node_id, event.stall, event.coordinates) == (B.id, 0.5, (0.25, -0.5, 0.125, 0.5))
    assert len(swim._refreshes) == 1
    assert B.id not in swim._queue
    assert record_of(swim, "b").vitals.epoch == 3


def test_a_refresh_with_another_stall_updates_the_node() -> None:
    assert NodeUpdated in kinds(events(refresh(machine(A, B), placed(B, 3, stall=0.5))))
    assert NodeUpdated not in kinds(events(refresh(machine(A, B), placed(B, 3))))


@pytest.mark.parametrize("epoch", [0, 2, 3])
def test_a_refresh_that_is_not_newer_is_not_passed_on(epoch: int) -> None:
    swim = machine(A, placed(B, 3))
    quiet(swim)
    assert refresh(swim, placed(B, epoch, x=0.75)) == []
    assert len(swim._refreshes) == 0
    assert record_of(swim, "b").vitals == placed(B, 3).vitals


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(record("b", boot_id=2), id="another boot"),
        pytest.param(C, id="a stranger"),
        pytest.param(A, id="ourselves"),
        pytest.param(D, id="the dead"),
    ],
)
def test_a_refresh_that_is_about_no_member_of_that_boot_is_ignored(said: MemberRecord) -> None:
    swim = machine(A, B, record("d", state=FAILED))
    quiet(swim)
    before = swim.records()
    assert refresh(swim, placed(said, 3)) == []
    assert swim.records() == before
    assert len(swim._refreshes) == 0


def test_a_refresh_keeps_its_age_and_renews_the_lease_from_when_it_was_said() -> None:
    swim = machine(A, B)
    refresh(swim, placed(B, 3), age=2.5, now=10.0)
    assert swim.heard_age(B.id, 10.0) == 2.5
    (told,) = swim._refreshes.take(1000, 11.0)
    assert int.from_bytes(told[:2], "big") == 3500


def test_a_refresh_of_a_suspect_does_not_refute_for_it() -> None:
    swim = machine(A, record("b", state=SUSPECT))
    refresh(swim, placed(B, 3))
    assert state_of(swim, "b") is SUSPECT
    assert record_of(swim, "b").vitals.epoch == 3


def test_a_suspect_that_nobody_here_has_heard_of_is_asked_itself_and_not_listed() -> None:
    swim = machine(A, C)
    effects = swim.handle_datagram(datagram(None, Update(record("b", state=SUSPECT), ())), "c:1", 2.0)
    assert events(effects) == []
    assert [info.name for info in swim.members()] == ["a", "c"]
    asked = sent(swim.on_timer(2.0))["b:1"].head
    assert isinstance(asked, Ping)
    answer = Ack(asked.seq, B.id, B.id, Status.of(B))
    assert NodeJoined in kinds(events(swim.handle_datagram(datagram(answer), "b:1", 2.1)))
    assert state_of(swim, "b") is ALIVE


# --- large tags

TAGS = {"k": "v" * 1000}
BODY = encode_metadata(TAGS, ("s",))


def large(item: MemberRecord, version: int = 1, body: bytes = BODY) -> MemberRecord:
    return attrs.evolve(item, digest=digest_of(body), meta_version=version)


def fetch_from(swim: SwimMachine, until: float) -> tuple[FetchMetadata, float]:
    """Return what a machine asks for next, and when."""
    return next((effect, at) for at, effect in wait(swim, until) if isinstance(effect, FetchMetadata))


def owner() -> SwimMachine:
    swim = machine(B)
    swim.update_local(1.0, tags=TAGS, services=["s"])
    return swim


def replied(effect: FetchMetadata, by: SwimMachine) -> bytes:
    return answer(encode_fetch(effect.fetch.digests), by, 5.0)[0]


def test_a_record_that_names_its_tags_has_them_fetched_and_the_node_updated() -> None:
    swim = machine(A, C, sync_interval=3600, heal_interval=3600)
    told = tell(swim, owner().local, now=5.0)
    assert kinds(told) == [NodeJoined]
    effect, at = fetch_from(swim, 10.0)
    assert (effect.address, effect.fetch.node_id) == ("b:1", B.id)
    (event,) = events(swim.fetched(effect.fetch, replied(effect, owner()), at))
    assert isinstance(event, NodeUpdated)
    assert (dict(event.previous.tags), dict(event.node.tags), event.node.services) == ({}, TAGS, ("s",))
    assert [e for _, e in wait(swim, 100.0) if isinstance(e, FetchMetadata)] == []


def test_old_tags_stand_until_the_body_of_the_new_ones_is_here() -> None:
    swim = machine(A, C, record("b", tags={"old": "1"}, services=("r",)), sync_interval=3600, heal_interval=3600)
    tell(swim, owner().local, now=5.0)
    assert (dict(record_of(swim, "b").tags), record_of(swim, "b").services) == ({"old": "1"}, ("r",))
    assert record_of(swim, "b").meta_version == 1
    effect, at = fetch_from(swim, 10.0)
    (event,) = events(swim.fetched(effect.fetch, replied(effect, owner()), at))
    assert isinstance(event, NodeUpdated)
    assert (dict(event.previous.tags), dict(event.node.tags)) == ({"old": "1"}, TAGS)


def test_a_body_that_is_here_already_completes_the_next_record_at_once() -> None:
    swim = machine(A, C, sync_interval=3600, heal_interval=3600)
    tell(swim, owner().local, now=5.0)
    effect, at = fetch_from(swim, 10.0)
    swim.fetched(effect.fetch, replied(effect, owner()), at)
    (event,) = tell(swim, large(D), now=20.0)
    assert isinstance(event, NodeJoined)
    assert dict(event.node.tags) == TAGS


def test_a_suspicion_that_names_the_tags_does_not_lose_them() -> None:
    swim = machine(A, C, sync_interval=3600, heal_interval=3600)
    tell(swim, owner().local, now=5.0)
    effect, at = fetch_from(swim, 10.0)
    swim.fetched(effect.fetch, replied(effect, owner()), at)
    tell(swim, attrs.evolve(owner().local, state=SUSPECT), now=20.0)
    assert (state_of(swim, "b"), dict(record_of(swim, "b").tags)) == (SUSPECT, TAGS)


def test_no_answer_and_a_bad_answer_are_tried_again() -> None:
    swim = machine(A, C, sync_interval=3600, heal_interval=3600)
    tell(swim, owner().local, now=5.0)
    first, at = fetch_from(swim, 10.0)
    assert swim.fetched(first.fetch, None, at) == []
    second, at = fetch_from(swim, at + 20.0)
    with pytest.raises(MessageError):
        swim.fetched(second.fetch, b"\x01\x04\x01" + len(BODY).to_bytes(4, "big") + b"x" * len(BODY), at)
    third, at = fetch_from(swim, at + 60.0)
    assert kinds(events(swim.fetched(third.fetch, replied(third, owner()), at))) == [NodeUpdated]
    assert {fetch.digests for fetch in (first.fetch, second.fetch, third.fetch)} == {(digest_of(BODY),)}


def test_a_body_given_up_is_asked_for_again_by_the_owners_next_sign_of_life() -> None:
    swim = machine(A, C, sync_interval=3600, heal_interval=3600)
    said = owner().local
    tell(swim, said, now=5.0)
    tried, now = 0, 5.0
    while (found := [(at, e) for at, e in wait(swim, now + 500) if isinstance(e, FetchMetadata)]) or tried == 0:
        for at, effect in found:
            tried, now = tried + 1, at
            swim.fetched(effect.fetch, None, at)
    assert tried == 6
    refresh(swim, attrs.evolve(said, vitals=Vitals(5)), now=10_000.0)
    assert fetch_from(swim, 10_010.0)[0].fetch.digests == (said.digest,)


def test_an_answer_that_comes_after_the_tags_changed_again_changes_nothing() -> None:
    swim = machine(A, C, sync_interval=3600, heal_interval=3600)
    tell(swim, owner().local, now=5.0)
    effect, at = fetch_from(swim, 10.0)
    tell(swim, record("b", meta_version=9, tags={"now": "small"}), now=at)
    assert swim.fetched(effect.fetch, replied(effect, owner()), at) == []
    assert dict(record_of(swim, "b").tags) == {"now": "small"}
    assert swim.body(digest_of(BODY)) is None


def test_an_answer_to_what_nobody_asked_is_not_kept() -> None:
    swim = machine(A, C)
    stray = Fetch(C.id, (digest_of(BODY),))
    reply = b"\x01\x04\x01" + len(BODY).to_bytes(4, "big") + BODY
    assert swim.fetched(stray, reply, 5.0) == []
    assert swim.body(digest_of(BODY)) is None


def test_reaping_releases_the_bodies_of_the_gone() -> None:
    swim = machine(A, C, dead_reap_after=100, sync_interval=3600, heal_interval=3600)
    tell(swim, owner().local, now=5.0)
    effect, at = fetch_from(swim, 10.0)
    swim.fetched(effect.fetch, replied(effect, owner()), at)
    tell(swim, attrs.evolve(owner().local, state=FAILED), now=20.0)
    assert swim.body(digest_of(BODY)) is not None
    assert NodeReaped in kinds(events([effect for _, effect in wait(swim, 150.0)]))
    assert swim.body(digest_of(BODY)) is None
    assert swim._store.held_bytes == 0
