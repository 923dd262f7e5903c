from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcnet._core.keyring import MAX_KEYS, GossipKey, KeyInfo, KeyRing
from rpcnet.errors import SecurityError


def secret(seed: int) -> bytes:
    return bytes((seed * 7 + index * 13) % 256 for index in range(32))


def clashing_keys() -> tuple[GossipKey, GossipKey]:
    known: dict[int, GossipKey] = {}
    for seed in itertools.count():
        key = GossipKey.of(secret(seed))
        if key.key_id in known:
            return known[key.key_id], key
        known[key.key_id] = key
    raise AssertionError("never")


A, B, C, D = (GossipKey(index, secret(index)) for index in (1, 2, 3, 4))


def test_the_first_key_is_in_use() -> None:
    assert KeyRing((A, B)).in_use == A


def test_an_installed_key_is_there_and_not_in_use() -> None:
    ring = KeyRing((A,)).install(B)
    assert ring.keys == (A, B)
    assert ring.in_use == A
    assert ring.get(2) == B
    assert ring.get(3) is None


def test_a_used_key_is_in_use_and_the_others_stay() -> None:
    assert KeyRing((A, B, C)).use(3).keys == (C, A, B)


def test_a_removed_key_is_gone() -> None:
    assert KeyRing((A, B, C)).remove(2).keys == (A, C)


def test_an_order_that_comes_twice_changes_nothing() -> None:
    ring = KeyRing((A, B))
    assert ring.install(B) is ring
    assert ring.install(A) is ring
    assert ring.use(1) is ring
    assert ring.remove(3) is ring


def test_a_known_secret_is_no_new_key_whatever_its_id() -> None:
    ring = KeyRing((A,))
    assert ring.install(GossipKey(9, A.secret)) is ring


def test_the_key_in_use_cannot_be_removed() -> None:
    with pytest.raises(SecurityError, match="the id 1 is in use; use another one first"):
        KeyRing((A, B)).remove(1)


def test_a_key_that_is_not_there_cannot_be_used() -> None:
    with pytest.raises(SecurityError, match="no key has the id 7, only 1, 2; install it first"):
        KeyRing((A, B)).use(7)


def test_a_fourth_key_is_refused() -> None:
    ring = KeyRing((A, B, C))
    assert len(ring.keys) == MAX_KEYS
    with pytest.raises(SecurityError, match="at most 3 keys, not 4; remove one"):
        ring.install(D)


def test_another_key_with_a_known_id_is_refused_by_both_fingerprints() -> None:
    one, other = clashing_keys()
    assert one.secret != other.secret
    with pytest.raises(SecurityError, match="make another key") as caught:
        KeyRing((one,)).install(other)
    assert one.fingerprint in str(caught.value)
    assert other.fingerprint in str(caught.value)
    with pytest.raises(SecurityError, match="make another key"):
        KeyRing((A, one, other))


@pytest.mark.parametrize(("keys", "why"), [((), "needs a key"), ((GossipKey(256, secret(1)),), "one byte, not 256")])
def test_keys_that_make_no_ring_are_refused(keys: tuple[GossipKey, ...], why: str) -> None:
    with pytest.raises(SecurityError, match=why):
        KeyRing(keys)


@pytest.mark.parametrize("wrong", [b"", b"x" * 32, secret(1)[:31], secret(1) + b"x"])
def test_a_secret_that_is_not_32_random_bytes_makes_no_key(wrong: bytes) -> None:
    with pytest.raises(SecurityError, match="32 random bytes"):
        GossipKey.of(wrong)


def test_an_id_and_a_fingerprint_follow_from_the_secret_in_every_process() -> None:
    key = GossipKey.of(secret(5))
    code = (
        "from rpcnet._core.keyring import GossipKey; import sys; "
        "key = GossipKey.of(bytes.fromhex(sys.argv[1])); print(key.key_id, key.fingerprint)"
    )
    there = subprocess.run([sys.executable, "-c", code, key.secret.hex()], capture_output=True, text=True, check=True)
    assert there.stdout.split() == [str(key.key_id), key.fingerprint]
    assert GossipKey.of(secret(6)).fingerprint != key.fingerprint


def test_a_list_tells_ids_and_fingerprints_and_no_secret() -> None:
    ring = KeyRing((A, B)).use(2)
    assert ring.list() == (KeyInfo(2, B.fingerprint, is_in_use=True), KeyInfo(1, A.fingerprint, is_in_use=False))
    shown = repr(ring) + repr(ring.list()) + str(A)
    assert A.secret.hex() not in shown
    assert repr(A.secret)[2:-1] not in shown


@given(st.lists(st.tuples(st.sampled_from(["install", "use", "remove"]), st.sampled_from([A, B, C, D])), max_size=20))
def test_whatever_is_ordered_a_ring_stays_one(orders: list[tuple[str, GossipKey]]) -> None:
    ring = KeyRing((A,))
    for order, key in orders:
        before = ring
        try:
            ring = ring.install(key) if order == "install" else getattr(ring, order)(key.key_id)
        except SecurityError:
            ring = before
        assert 1 <= len(ring.keys) <= MAX_KEYS
        assert len({known.key_id for known in ring.keys}) == len(ring.keys)
        assert [info.is_in_use for info in ring.list()].count(True) == 1
        if order != "use":
            assert ring.in_use == before.in_use
