"""Large tags: told by digest, fetched once, kept while a record names them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import attrs
import pytest

from rpcnet._core.members import MAX_INLINE_BYTES, MemberRecord, encode_metadata
from rpcnet._core.messages import DIGEST_BYTES, MessageError
from rpcnet._core.metadata import MAX_BODIES, MAX_FETCH_BYTES, Body, Fetch, MetadataStore, digest_of, size_of

LIMIT = 64 << 10
PEERS = [f"{number:032x}" for number in range(1, 6)]
OWNER = PEERS[0]


def body(number: int = 0, size: int = 1000) -> tuple[bytes, Body]:
    data = encode_metadata({"number": str(number), "text": "x" * size}, ("service",))
    return digest_of(data), Body.read(digest_of(data), data)


def store(*, seed: int = 1, max_bytes: int = 64 << 20) -> MetadataStore:
    return MetadataStore(rng=random.Random(seed), max_body_bytes=LIMIT, max_bytes=max_bytes)


def ask(asker: MetadataStore, peers: Sequence[str] = PEERS, *, until: float = 1e9) -> tuple[list[Fetch], float]:
    """Let time pass until something is asked, or nothing is left to ask."""
    while (at := asker.next_timer()) is not None and at <= until:
        fetches = asker.due(at, peers)
        if fetches:
            return fetches, at
    return [], until


# --- digests


def test_small_tags_have_no_digest() -> None:
    assert digest_of(bytes(MAX_INLINE_BYTES)) == digest_of(b"") == b""
    assert len(digest_of(bytes(MAX_INLINE_BYTES + 1))) == DIGEST_BYTES == 12
    assert size_of(digest_of(bytes(5000))) == 5000


def test_a_body_is_what_its_digest_says_or_is_refused() -> None:
    digest, told = body()
    assert told.services == ("service",)
    assert told.tags["number"] == "0"
    for wrong in (b"", told.data[:-1], told.data + b"\0", told.data.replace(b"x", b"y", 1)):
        with pytest.raises(MessageError, match="that were asked for"):
            Body.read(digest, wrong)


@pytest.mark.parametrize("data", [b"\xff" * 600, bytes(600), b"\x82\xa0\x80" + bytes(600)])
def test_a_body_that_is_no_tags_is_refused_though_its_digest_is_right(data: bytes) -> None:
    with pytest.raises(MessageError, match="metadata"):
        Body.read(digest_of(data), data)


def test_records_with_the_same_tags_share_them_and_cannot_change_them() -> None:
    _, told = body()
    record = MemberRecord(id=OWNER, name="a", address="a:1", boot_id=1, tags=told.tags, services=told.services)
    assert record.tags is told.tags
    with pytest.raises(TypeError):
        told.tags["number"] = "1"  # type: ignore[index]


# --- one body


def test_the_owner_is_asked_and_what_it_answers_is_known_until_no_record_names_it() -> None:
    asker, (digest, told) = store(), body()
    assert asker.next_timer() is None
    asker.update(OWNER, b"", digest, 0.0)
    assert asker.is_wanted(digest)
    [fetch], at = ask(asker)
    assert fetch == Fetch(OWNER, (digest,))
    assert at <= 0.002 * len(PEERS)
    assert asker.body(digest) is None
    assert asker.answered(fetch, {digest: told}, at) == [OWNER]
    assert asker.body(digest) is told
    assert asker.held_bytes == size_of(digest)
    assert not asker.is_wanted(digest)
    assert asker.next_timer() is None
    asker.update(OWNER, digest, b"", at)
    assert asker.body(digest) is None
    assert asker.held_bytes == 0


def test_nodes_with_the_same_tags_share_one_body() -> None:
    asker, (digest, told) = store(), body()
    for peer in PEERS:
        asker.update(peer, b"", digest, 0.0)
    [fetch], at = ask(asker)
    assert asker.answered(fetch, {digest: told}, at) == PEERS
    for peer in PEERS[1:]:
        asker.update(peer, digest, b"", at)
        assert asker.body(digest) is told
    asker.update(OWNER, digest, b"", at)
    assert asker.body(digest) is None


def test_a_record_that_comes_to_name_a_known_body_asks_nobody() -> None:
    asker, (digest, told) = store(), body()
    asker.update(OWNER, b"", digest, 0.0)
    [fetch], at = ask(asker)
    asker.answered(fetch, {digest: told}, at)
    asker.update(PEERS[1], b"", digest, at)
    assert asker.next_timer() is None
    asker.update(OWNER, digest, b"", at)
    assert asker.body(digest) is told


def test_a_newer_record_ends_the_asking_for_the_older_body() -> None:
    asker, (old, told), (new, newer) = store(), body(1), body(2)
    asker.update(OWNER, b"", old, 0.0)
    [fetch], at = ask(asker)
    asker.update(OWNER, old, new, at)
    assert asker.answered(fetch, {old: told}, at) == []
    assert asker.body(old) is None
    [fetch], at = ask(asker)
    assert fetch.digests == (new,)
    assert asker.answered(fetch, {new: newer}, at) == [OWNER]


def test_bodies_above_the_limit_and_digests_of_what_should_be_inline_are_never_asked_for() -> None:
    asker = store()
    for size in (LIMIT + 1, 2**32 - 1, MAX_INLINE_BYTES, 0):
        asker.update(OWNER, b"", size.to_bytes(4, "big") + bytes(8), 0.0)
        assert asker.next_timer() is None
        asker.update(OWNER, size.to_bytes(4, "big") + bytes(8), b"", 0.0)


# --- whom to ask, and when


def test_the_owner_is_asked_first_then_anybody_with_growing_pauses_and_then_nobody() -> None:
    asker, (digest, _) = store(), body()
    asker.update(OWNER, b"", digest, 0.0)
    asked, times = list[str](), list[float]()
    for _ in range(20):
        fetches, at = ask(asker)
        if not fetches:
            break
        asked.append(fetches[0].node_id)
        times.append(at)
        asker.failed(fetches[0], at)
    assert len(asked) == 6
    assert asked[0] == asked[3] == OWNER
    assert set(asked) > {OWNER}
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert all(0.5 * 2**i <= pause <= 1.5 * 2**i for i, pause in enumerate(pauses))
    assert not asker.is_wanted(digest)


def test_what_was_given_up_is_asked_for_again_when_somebody_wants_it() -> None:
    asker, (digest, told) = store(), body()
    asker.update(OWNER, b"", digest, 0.0)
    while fetches := ask(asker)[0]:
        asker.failed(fetches[0], 100.0)
    asker.want(digest, 500.0)
    [fetch], at = ask(asker)
    assert fetch.node_id == OWNER
    assert 500.0 <= at < 501.0
    asker.want(digest, at)
    assert asker.due(at, PEERS) == []
    assert asker.answered(fetch, {digest: told}, at) == [OWNER]
    asker.want(digest, at)
    asker.want(body(9)[0], at)
    assert asker.next_timer() is None


def test_another_record_that_names_a_body_that_was_given_up_has_it_asked_for_again() -> None:
    asker, (digest, _) = store(), body()
    asker.update(OWNER, b"", digest, 0.0)
    while fetches := ask(asker)[0]:
        asker.failed(fetches[0], 100.0)
    asker.update(PEERS[2], b"", digest, 100.0)
    assert ask(asker)[0] != []


def test_an_owner_that_is_gone_is_not_asked_but_the_others_are() -> None:
    asker, (digest, _) = store(), body()
    asker.update(OWNER, b"", digest, 0.0)
    [fetch], _ = ask(asker, PEERS[1:])
    assert fetch.node_id in PEERS[1:]


def test_a_node_that_is_alone_asks_nobody_and_tries_again() -> None:
    asker, (digest, _) = store(), body()
    asker.update(OWNER, b"", digest, 0.0)
    assert ask(asker, [], until=5.0) == ([], 5.0)
    at = asker.next_timer()
    assert at is not None
    assert 5.0 < at <= 6.0
    assert ask(asker, [OWNER])[0] == [Fetch(OWNER, (digest,))]


def test_a_node_that_does_not_answer_is_given_up_after_a_while_and_may_still_answer() -> None:
    asker, (digest, told) = store(), body()
    asker.update(OWNER, b"", digest, 0.0)
    [late], first = ask(asker, [OWNER])
    [again], second = ask(asker, [OWNER])
    assert second - first > 15.0
    for _ in range(6):
        asker.failed(late, second)
    assert asker.is_wanted(digest)
    assert asker.next_timer() == second + 15.0
    assert asker.due(second, PEERS) == []
    assert asker.answered(late, {digest: told}, second) == [OWNER]
    assert asker.answered(again, {digest: told}, second) == []
    assert asker.next_timer() is None


def test_a_thousand_members_do_not_ask_the_owner_at_once() -> None:
    peers = [f"{number:032x}" for number in range(1000)]
    times = []
    for seed in range(200):
        asker, (digest, _) = store(seed=seed), body()
        asker.update(peers[0], b"", digest, 10.0)
        times.append(ask(asker, peers)[1])
    assert 10.0 <= min(times) < max(times) <= 12.0
    assert max(Counter(int(at * 10) for at in times).values()) < 30


# --- many bodies


@attrs.define
class Answers:
    """What a cluster in which everybody has everything answers."""

    bodies: Mapping[bytes, Body]
    n_fetches: int = 0

    def fetch_all(self, asker: MetadataStore, peers: Sequence[str]) -> float:
        at = 0.0
        while True:
            fetches, asked_at = ask(asker, peers)
            if not fetches:
                return at
            at = asked_at
            assert len(fetches) <= 4
            for fetch in fetches:
                self.n_fetches += 1
                assert len(fetch.digests) <= MAX_BODIES
                assert sum(map(size_of, fetch.digests)) <= max(MAX_FETCH_BYTES, size_of(fetch.digests[0]))
                asker.answered(fetch, {digest: self.bodies[digest] for digest in fetch.digests}, at)


def test_a_node_that_is_new_fetches_a_thousand_bodies_in_few_fetches() -> None:
    peers = [f"{number:032x}" for number in range(1000)]
    bodies = [body(number) for number in range(1000)]
    asker, answers = store(), Answers(dict(bodies))
    for peer, (digest, _) in zip(peers, bodies, strict=True):
        asker.update(peer, b"", digest, 0.0)
    took = answers.fetch_all(asker, peers)
    assert all(asker.body(digest) is told for digest, told in bodies)
    assert answers.n_fetches <= 12
    assert took < 5.0


def test_many_bodies_that_one_member_has_not_got_are_asked_of_their_owners() -> None:
    asker, bodies = store(), [body(number) for number in range(20)]
    peers = [f"{number:032x}" for number in range(20)]
    for peer, (digest, _) in zip(peers, bodies, strict=True):
        asker.update(peer, b"", digest, 0.0)
    owner_of = {digest: peer for peer, (digest, _) in zip(peers, bodies, strict=True)}
    known, told = set[str](), dict(bodies)
    while fetches := ask(asker, peers)[0]:
        at = asker.next_timer() or 0.0
        for fetch in fetches:
            own = {digest: told[digest] for digest in fetch.digests if owner_of[digest] == fetch.node_id}
            known.update(asker.answered(fetch, own, at))
    assert known == set(peers)


def test_a_member_that_is_being_asked_is_not_asked_for_more() -> None:
    asker, bodies = store(), [body(number) for number in range(300)]
    for number, (digest, _) in enumerate(bodies):
        asker.update(f"{number:032x}", b"", digest, 0.0)
    [fetch] = asker.due(0.0, [OWNER])
    assert ask(asker, [OWNER], until=10.0)[0] == []
    asker.answered(fetch, {digest: dict(bodies)[digest] for digest in fetch.digests}, 10.0)
    [second] = asker.due(10.1, [OWNER])
    assert not set(second.digests) & set(fetch.digests)


def test_four_members_are_asked_at_once_and_nothing_is_due_until_one_answers() -> None:
    asker, bodies = store(), [body(number, 60_000) for number in range(20)]
    peers = [f"{number:032x}" for number in range(20)]
    for peer, (digest, _) in zip(peers, bodies, strict=True):
        asker.update(peer, b"", digest, 0.0)
    fetches = list[Fetch]()
    while len(fetches) < 4:
        asked, at = ask(asker, peers)
        fetches += asked
    assert len({fetch.node_id for fetch in fetches}) == 4
    assert asker.next_timer() == 15.0
    asker.answered(fetches[3], {}, at)
    assert (asker.next_timer() or 0.0) <= at + 0.1


def test_many_bodies_are_asked_for_only_as_far_as_there_is_room() -> None:
    asker = store(max_bytes=35_000)
    for number in range(20):
        asker.update(f"{number:032x}", b"", body(number, 10_000)[0], 0.0)
    [fetch] = asker.due(0.0, PEERS)
    assert len(fetch.digests) == 3


def test_no_more_is_kept_than_allowed_and_room_that_comes_free_is_used() -> None:
    bodies = [body(number, 10_000) for number in range(5)]
    asker, answers = store(max_bytes=35_000), Answers(dict(bodies))
    for peer, (digest, _) in zip(PEERS, bodies, strict=True):
        asker.update(peer, b"", digest, 0.0)
    for _ in range(10):
        fetches, at = ask(asker, until=20.0)
        for fetch in fetches:
            asker.answered(fetch, {digest: answers.bodies[digest] for digest in fetch.digests}, at)
    known = [number for number, (digest, _) in enumerate(bodies) if asker.body(digest) is not None]
    assert len(known) == 3
    assert asker.held_bytes <= 35_000
    asker.update(PEERS[known[0]], bodies[known[0]][0], b"", 20.0)
    fetches, at = ask(asker, until=60.0)
    assert [len(fetch.digests) for fetch in fetches] == [1]
    assert at > 20.0


# --- this node's own


def test_a_node_keeps_its_own_body_whatever_others_name() -> None:
    mine, (digest, told), (other, _) = store(max_bytes=0), body(1), body(2)
    assert mine.set_own(told.data) == digest
    assert mine.body(digest) == told
    assert mine.held_bytes == 0
    mine.update(OWNER, b"", digest, 0.0)
    mine.update(OWNER, digest, other, 0.0)
    assert mine.body(digest) == told
    assert mine.set_own(b"") == b""
    assert mine.body(digest) is None


def test_a_body_that_others_name_outlives_its_being_ones_own() -> None:
    mine, (digest, told) = store(), body()
    mine.set_own(told.data)
    mine.update(OWNER, b"", digest, 0.0)
    assert mine.next_timer() is None
    mine.set_own(b"")
    assert mine.body(digest) == told


def test_a_long_random_life_keeps_exactly_what_records_name() -> None:
    rng, asker, bodies = random.Random(7), store(seed=7), [body(number) for number in range(8)]
    named, told, now = dict.fromkeys(PEERS, b""), dict(bodies), 0.0
    for _ in range(2000):
        now += rng.random()
        peer, new = rng.choice(PEERS), rng.choice([b"", *told])
        asker.update(peer, named[peer], new, now)
        named[peer] = new
        for fetch in asker.due(now, PEERS):
            had = {digest: told[digest] for digest in fetch.digests if rng.random() < 0.7}
            if rng.random() < 0.9:
                asker.answered(fetch, had, now)
        held = [digest for digest in told if asker.body(digest) is not None]
        assert set(held) <= set(named.values())
        assert asker.held_bytes == sum(map(size_of, held))
        assert all(asker.body(digest) is not None or asker.is_wanted(digest) for digest in named.values() if digest)
