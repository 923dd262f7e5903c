"""How nodes come to have the same key ring, without a network."""

from __future__ import annotations

from contextlib import suppress
from random import Random

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._core.key_desk import MAX_CHANGES, KeyDesk, RingVersion, is_note, print_of
from rpcnet._core.keyring import GossipKey, KeyRing
from rpcnet._core.messages import MessageError
from rpcnet.errors import SecurityError


def key(number: int) -> GossipKey:
    return GossipKey.of(Random(number).randbytes(32))


FIRST, SECOND, THIRD, FOREIGN = (key(number) for number in range(4))


@attrs.define
class Holder:
    """Has a ring and seals nothing."""

    ring: KeyRing

    def adopt(self, ring: KeyRing) -> bool:
        before, self.ring = self.ring, ring
        return ring != before


class Member(KeyDesk):
    """A desk that remembers whose it is."""

    def __init__(self, name: str, *keys: GossipKey, cluster: str = "prod") -> None:
        super().__init__(Holder(KeyRing(keys or (FIRST,))), cluster, name)
        self.name = name


def compare(asker: Member, answerer: Member) -> list[bytes]:
    """Let one node compare rings with another, and return what they sent."""
    sent: list[bytes] = []
    note: bytes | None = asker.ask()
    while note is not None:
        answer = answerer.answer(note, asker.name)
        sent += [note, answer]
        note = asker.hear(answer, answerer.name)
    return sent


def test_equal_rings_cost_one_round_and_no_keys() -> None:
    a, b = Member("a"), Member("b")
    sent = compare(a, b)
    assert len(sent) == 2
    assert all(is_note(note) and FIRST.secret not in note for note in sent)


def test_the_asker_takes_a_newer_ring() -> None:
    a, b = Member("a"), Member("b")
    assert b.change(b.ring.install(SECOND))
    assert len(compare(a, b)) == 2
    assert (a.ring, a.version) == (b.ring, b.version)


def test_the_asker_hands_over_a_newer_ring() -> None:
    a, b = Member("a"), Member("b")
    a.change(a.ring.install(SECOND))
    assert len(compare(a, b)) == 4
    assert (a.ring, a.version) == (b.ring, b.version)


def test_a_ring_in_which_nothing_has_changed_is_no_newer_one() -> None:
    a = Member("a")
    assert not a.change(a.ring.install(FIRST))
    assert a.version.changes == 0


def test_of_two_rings_with_as_many_changes_the_same_one_wins_on_both_sides() -> None:
    for ask in (0, 1):
        pair = Member("a"), Member("b")
        pair[0].change(pair[0].ring.install(SECOND))
        pair[1].change(pair[1].ring.install(THIRD))
        winner = max(pair, key=lambda member: member.version).ring
        compare(pair[ask], pair[1 - ask])
        assert [member.ring for member in pair] == [winner, winner]


def test_rings_that_nobody_has_changed_are_left_alone() -> None:
    a, b = Member("a", FIRST), Member("b", FIRST, SECOND)
    assert not a.should_compare(b.version)
    compare(a, b)
    assert a.ring.keys == (FIRST,)
    assert b.ring.keys == (FIRST, SECOND)


def test_a_node_that_has_only_a_removed_key_gets_the_ring() -> None:
    a, b = Member("a"), Member("b")
    b.change(b.ring.install(SECOND).use(SECOND.key_id).remove(FIRST.key_id))
    compare(a, b)
    assert a.ring.keys == (SECOND,)


def test_the_keys_that_a_node_began_with_prove_for_ever() -> None:
    a, b = Member("a"), Member("b")
    for number in range(100, 130):
        b.change(KeyRing((key(number),)))
    assert len(list(b._known())) == 1 + 9
    compare(a, b)
    assert a.ring == b.ring


def test_who_knows_no_key_gets_none_and_gives_none() -> None:
    a, stranger = Member("a"), Member("stranger", FOREIGN)
    a.change(a.ring.install(SECOND))
    answer = a.answer(stranger.ask(), "stranger")
    assert not any(known.secret in answer for known in a.ring.keys)
    with pytest.raises(SecurityError, match="a has another key ring, and none of the keys"):
        stranger.hear(answer, "a")
    for _ in range(5):
        stranger.change(KeyRing((key(stranger.version.changes + 50),)))
    before = a.version
    a.answer(stranger._note(has_keys=True), "stranger")
    assert a.version == before
    with pytest.raises(SecurityError, match="stranger has another key ring"):
        a.hear(stranger._note(has_keys=True), "stranger")
    assert a.version == before


def test_a_stranger_whose_ring_is_as_it_was_configured_is_no_error() -> None:
    assert Member("a").hear(Member("stranger", FOREIGN).ask(), "stranger") is None


def test_the_proof_of_another_node_or_cluster_proves_nothing() -> None:
    a, b = Member("a"), Member("b")
    b.change(b.ring.install(SECOND).use(SECOND.key_id))
    captured = a.ask()
    assert SECOND.secret in b.answer(captured, "a")
    assert SECOND.secret not in b.answer(captured, "thief")
    assert SECOND.secret not in b.answer(Member("a", cluster="test").ask(), "a")


def test_keys_that_are_gone_are_forgotten_but_for_what_checks_proofs() -> None:
    a = Member("a")
    a.change(KeyRing((SECOND,)))
    a.change(KeyRing((THIRD,)))
    kept = [*a._known()]
    assert not {FIRST.secret, SECOND.secret, THIRD.secret} & {*kept}
    assert len(kept) == 3


def test_the_configuration_is_followed_when_it_changes_and_only_then() -> None:
    a = Member("a")
    a.change(a.ring.install(SECOND).use(SECOND.key_id))
    assert not a.follow([FIRST])
    assert a.ring.in_use == SECOND
    assert a.follow([FIRST, THIRD])
    assert a.ring.keys == (FIRST, THIRD)
    assert a.version.changes == 2
    assert not a.follow([FIRST, THIRD])
    assert not a.follow([FIRST, THIRD])


def test_what_rides_on_an_exchange_comes_off_again() -> None:
    a = Member("a")
    a.change(a.ring.install(SECOND))
    assert a.untag(a.tag(b"exchange")) == (a.version, b"exchange")
    assert a.untag(b"\x01exchange") == (None, b"\x01exchange")
    assert a.untag(b"") == (None, b"")
    assert a.untag(a.tag(b"")[:-1])[0] is None
    assert not is_note(a.tag(b""))


def test_the_order_of_keys_that_are_not_in_use_makes_no_other_ring() -> None:
    assert print_of(["a", "b", "c"]) == print_of(["a", "c", "b"]) != print_of(["b", "a", "c"])


def test_a_ring_cannot_be_changed_without_end() -> None:
    a = Member("a")
    a._take(a.ring, MAX_CHANGES)
    with pytest.raises(SecurityError, match="restart the cluster"):
        a.change(a.ring.install(SECOND))
    assert a.ring.keys == (FIRST,)


def _changed(note: bytes, at: int, data: bytes) -> bytes:
    return note[:at] + data + note[at + len(data) :]


def _notes() -> dict[str, bytes]:
    b = Member("b")
    b.change(b.ring.install(SECOND))
    note = b._note(has_keys=True)
    return {
        "truncated": note[:-1],
        "too long": note + b"\0",
        "of another kind": b"\x4b" + note[1:],
        "changed too often": _changed(note, 1, (MAX_CHANGES + 1).to_bytes(8, "big")),
        "a ring of another hash": _changed(note, 9, bytes(8)),
        "a key twice": note[:-32] + FIRST.secret,
        "a key that is not random": note[:-32] + bytes(32),
        "too many keys": note[:-65] + b"\4" + b"".join(key(number).secret for number in (60, 61, 62, 63)),
        "empty": b"",
    }


@pytest.mark.parametrize("why", _notes())
def test_a_note_that_is_malformed_changes_nothing(why: str) -> None:
    a = Member("a")
    for take in (a.answer, a.hear):
        with pytest.raises(MessageError) as caught:
            take(_notes()[why], "b")
        assert FIRST.secret.hex() not in str(caught.value)
    assert (a.ring.keys, a.version.changes) == ((FIRST,), 0)


@given(st.binary(max_size=300), st.booleans())
@settings(deadline=None)
def test_noise_changes_nothing(noise: bytes, is_alike: bool) -> None:
    a = Member("a")
    note = (a.ask()[:17] + noise) if is_alike else noise
    for take in (a.answer, a.hear):
        with suppress(MessageError):
            take(note, "b")
    a.untag(noise)
    assert (a.ring.keys, a.version.changes) == ((FIRST,), 0)


def test_versions_are_a_total_order_but_for_those_of_configuration() -> None:
    versions = [RingVersion(changes, hashed) for changes in range(3) for hashed in (b"a", b"b")]
    for i, one in enumerate(versions):
        for j, other in enumerate(versions):
            assert one.is_newer_than(other) == (i > j and one.changes > 0)


@pytest.mark.parametrize("seed", range(100))
def test_after_any_steps_on_any_parts_all_end_with_one_ring(seed: int) -> None:
    rng = Random(seed)
    members = [Member(f"n{number}") for number in range(5)]
    keys = [key(number) for number in range(6)]
    for _ in range(rng.randrange(60)):
        some = rng.choice(members)
        with suppress(SecurityError):
            match rng.randrange(5):
                case 0:
                    some.change(some.ring.install(rng.choice(keys)))
                case 1:
                    some.change(some.ring.use(rng.choice(keys).key_id))
                case 2:
                    some.change(some.ring.remove(rng.choice(keys).key_id))
                case 3:
                    compare(some, rng.choice(members))
                case 4 if rng.random() < 0.3:
                    members[members.index(some)] = Member(some.name)  # it starts again
    changes = max(member.version.changes for member in members)
    for _ in range(2):
        for one in members:
            for other in members:
                compare(one, other)
    assert len({member.version for member in members}) == 1
    assert len({frozenset(member.ring.keys) for member in members}) == 1
    assert len({member.ring.in_use for member in members}) == 1
    assert members[0].version.changes == changes
