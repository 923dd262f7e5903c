from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._core.keyring import KeyRing
from rpcnet._net.sealing import MAX_PAYLOAD_BYTES, SEALED_TYPES, GossipKey, Sealer, SealingStatistics
from rpcnet.errors import SecurityError

KEY = GossipKey(7, b"k" * 32)


def sealer(salt: bytes = b"sender-a", cluster: str = "rpcnet", key: GossipKey = KEY, max_senders: int = 100) -> Sealer:
    return Sealer(cluster, [key], salt, max_senders=max_senders)


def counts(subject: Sealer) -> dict[str, int]:
    return {name: count for name, count in attrs.asdict(subject.statistics()).items() if count}


@pytest.mark.parametrize("payload", [b"", b"x", b"ping" * 100, bytes(MAX_PAYLOAD_BYTES)])
def test_what_one_node_seals_another_opens(payload: bytes) -> None:
    a, b = sealer(), sealer(b"sender-b")
    datagram = a.seal(payload)
    assert len(datagram) == len(payload) + 36 <= 1200
    assert datagram[0] in SEALED_TYPES
    assert b.open(datagram) == payload
    assert counts(a) == {"sealed": 1}
    assert counts(b) == {"opened": 1}


def test_the_payload_is_not_to_be_seen() -> None:
    assert b"attack at dawn" not in sealer().seal(b"attack at dawn")


def test_the_same_payload_never_looks_the_same() -> None:
    a = sealer()
    assert len({a.seal(b"same")[20:] for _ in range(50)}) == 50


def test_another_start_of_the_same_node_uses_other_keys() -> None:
    assert sealer(b"start--1").seal(b"same")[20:] != sealer(b"start--2").seal(b"same")[20:]


def test_a_payload_that_does_not_fit_is_refused_with_both_sizes() -> None:
    with pytest.raises(ValueError, match="at most 1164 bytes, not 1165"):
        sealer().seal(bytes(MAX_PAYLOAD_BYTES + 1))


def test_a_sealer_needs_a_key_and_a_salt_of_its_size() -> None:
    with pytest.raises(SecurityError, match="needs a key"):
        Sealer("rpcnet", [], b"sender-a")
    with pytest.raises(ValueError, match="8 bytes, not 3"):
        Sealer("rpcnet", [KEY], b"abc")


def foreign(a: Sealer) -> bytes:
    return sealer(cluster="other").seal(b"x")


def own(a: Sealer) -> bytes:
    return a.seal(b"x")


def unknown_key(a: Sealer) -> bytes:
    return sealer(b"sender-b", key=GossipKey(8, b"k" * 32)).seal(b"x")


def other_secret(a: Sealer) -> bytes:
    return sealer(b"sender-b", key=GossipKey(7, b"j" * 32)).seal(b"x")


def replayed(a: Sealer) -> bytes:
    datagram = sealer(b"sender-b").seal(b"x")
    assert a.open(datagram) == b"x"
    return datagram


def too_long(a: Sealer) -> bytes:
    return sealer(b"sender-b").seal(bytes(MAX_PAYLOAD_BYTES)) + b"\0"


@pytest.mark.parametrize(
    ("reason", "make"),
    [
        ("malformed", lambda a: b""),
        ("malformed", lambda a: sealer(b"sender-b").seal(b"")[:-1]),
        ("malformed", lambda a: b"\x21" + sealer(b"sender-b").seal(b"x")[1:]),
        ("too_long", too_long),
        ("foreign_cluster", foreign),
        ("own", own),
        ("unknown_key", unknown_key),
        ("forged", other_secret),
        ("forged", lambda a: sealer(b"sender-b").seal(b"xy")[:-1]),
        ("replayed", replayed),
    ],
)
def test_each_reason_of_refusal_has_its_counter(reason: str, make: object) -> None:
    a = sealer()
    datagram = make(a)  # type: ignore[operator]
    before = counts(a)
    assert a.open(datagram) is None
    after = counts(a)
    assert after.pop(reason) == before.pop(reason, 0) + 1
    assert after == before


@given(st.binary(max_size=1300))
@settings(deadline=None)
def test_noise_never_opens_and_never_raises(noise: bytes) -> None:
    a = sealer()
    assert a.open(noise) is None
    assert a.open(b"\x20" + noise) is None
    assert sum(counts(a).values()) == 2


@given(payload=st.binary(max_size=200), data=st.data())
@settings(deadline=None)
def test_a_datagram_with_any_bit_changed_never_opens(payload: bytes, data: st.DataObject) -> None:
    a, b = sealer(), sealer(b"sender-b")
    datagram = bytearray(a.seal(payload))
    position = data.draw(st.integers(0, len(datagram) - 1))
    datagram[position] ^= data.draw(st.integers(1, 255))
    assert b.open(bytes(datagram)) is None
    assert b.statistics().opened == 0


@given(payload=st.binary(max_size=50), cut=st.integers(1, 80), tail=st.binary(min_size=1, max_size=20))
@settings(deadline=None)
def test_a_datagram_cut_or_lengthened_never_opens(payload: bytes, cut: int, tail: bytes) -> None:
    a, b = sealer(), sealer(b"sender-b")
    datagram = a.seal(payload)
    assert b.open(datagram[:-cut]) is None
    assert b.open(datagram + tail) is None


@given(order=st.permutations(range(40)), repeats=st.lists(st.integers(0, 39), max_size=40))
@settings(deadline=None)
def test_within_the_window_each_datagram_opens_exactly_once_in_any_order(order: list[int], repeats: list[int]) -> None:
    a, b = sealer(), sealer(b"sender-b")
    datagrams = [a.seal(b"%d" % index) for index in range(40)]
    assert [b.open(datagrams[index]) for index in order] == [b"%d" % index for index in order]
    assert all(b.open(datagrams[index]) is None for index in repeats)
    assert b.statistics().replayed == len(repeats)


@given(st.lists(st.integers(0, 300), max_size=60))
@settings(deadline=None)
def test_the_window_agrees_with_a_simple_model(arrivals: list[int]) -> None:
    a, b = sealer(), sealer(b"sender-b")
    datagrams = [a.seal(b"") for _ in range(301)]
    seen: set[int] = set()
    for index in arrivals:
        fresh = index not in seen and (not seen or index > max(seen) - 64)
        assert (b.open(datagrams[index]) is not None) == fresh
        if fresh:
            seen.add(index)


def test_a_forgery_does_not_move_the_window() -> None:
    a, b = sealer(), sealer(b"sender-b")
    first = a.seal(b"1")
    for _ in range(200):
        last = a.seal(b"x")
    assert b.open(last[:-1] + bytes([last[-1] ^ 1])) is None
    assert b.open(first) == b"1"


def test_forgeries_push_no_sender_out() -> None:
    b = sealer(b"sender-b", max_senders=4)
    a = sealer()
    datagram = a.seal(b"1")
    assert b.open(datagram) == b"1"
    for index in range(100):
        forged = datagram[:6] + index.to_bytes(8, "big") + datagram[14:]
        assert b.open(forged) is None
    assert b.open(datagram) is None
    assert counts(b) == {"opened": 1, "forged": 100, "replayed": 1}


def test_the_number_of_remembered_senders_is_bounded_and_the_oldest_goes() -> None:
    b = sealer(b"sender-b", max_senders=4)
    senders = [sealer(b"%08d" % index) for index in range(6)]
    datagrams = [each.seal(b"x") for each in senders]
    for datagram in datagrams:
        assert b.open(datagram) == b"x"
    assert len(b._senders) == 4
    assert b.open(datagrams[0]) == b"x"
    assert b.open(datagrams[5]) is None


def test_several_keys_open_and_the_first_one_seals() -> None:
    old, new = GossipKey(1, b"o" * 32), GossipKey(2, b"n" * 32)
    both = Sealer("rpcnet", [new, old], b"both----")
    assert both.open(sealer(b"sender-a", key=old).seal(b"old")) == b"old"
    assert both.open(sealer(b"sender-b", key=new).seal(b"new")) == b"new"
    assert sealer(b"sender-c", key=new).open(both.seal(b"x")) == b"x"
    assert sealer(b"sender-d", key=old).open(both.seal(b"x")) is None


OLD, NEW = GossipKey(1, b"o" * 32), GossipKey(2, b"n" * 32)


def install(each: Sealer, key: GossipKey) -> bool:
    return each.adopt(each.ring.install(key))


def use(each: Sealer, key_id: int) -> bool:
    return each.adopt(each.ring.use(key_id))


def remove(each: Sealer, key_id: int) -> bool:
    return each.adopt(each.ring.remove(key_id))


def test_a_key_that_is_installed_opens_from_the_next_datagram_on() -> None:
    a, b = sealer(key=OLD), sealer(b"sender-b", key=NEW)
    assert a.open(b.seal(b"early")) is None
    assert install(a, NEW)
    assert not install(a, NEW)
    assert a.open(b.seal(b"late")) == b"late"
    assert b.open(a.seal(b"still with the old one")) is None
    assert counts(a) == {"sealed": 1, "opened": 1, "unknown_key": 1}


def test_a_key_that_is_used_seals_from_the_next_datagram_on() -> None:
    a, b = sealer(key=OLD), sealer(b"sender-b", key=NEW)
    install(a, NEW)
    assert use(a, NEW.key_id)
    assert not use(a, NEW.key_id)
    assert b.open(a.seal(b"x")) == b"x"


def test_a_key_that_is_removed_opens_no_more_not_even_for_known_senders() -> None:
    a, b = sealer(key=NEW), sealer(b"sender-b", key=OLD)
    install(a, OLD)
    assert a.open(b.seal(b"1")) == b"1"
    assert remove(a, OLD.key_id)
    assert not remove(a, OLD.key_id)
    assert a.open(b.seal(b"2")) is None
    assert counts(a) == {"opened": 1, "unknown_key": 1}


def test_what_was_derived_from_a_key_is_forgotten_with_it() -> None:
    a, b = sealer(key=NEW), sealer(b"sender-b", key=OLD)
    install(a, OLD)
    a.open(b.seal(b"1"))
    remove(a, OLD.key_id)
    assert [sender.derived for sender in a._senders.values()] == [b""]
    namesake = GossipKey(OLD.key_id, b"m" * 32)
    install(a, namesake)
    assert a.open(b.seal(b"2")) is None
    b.adopt(KeyRing((namesake,)))
    assert a.open(b.seal(b"3")) == b"3"
    assert counts(a) == {"opened": 2, "forged": 1}


def test_the_window_of_a_sender_holds_whatever_key_it_seals_with() -> None:
    a, b = sealer(key=OLD), sealer(b"sender-b", key=OLD)
    for each in (a, b):
        install(each, NEW)
    first = b.seal(b"1")
    assert a.open(first) == b"1"
    use(b, NEW.key_id)
    second = b.seal(b"2")
    assert a.open(second) == b"2"
    use(b, OLD.key_id)
    assert [a.open(datagram) for datagram in (first, second, b.seal(b"3"))] == [None, None, b"3"]
    assert counts(a) == {"opened": 3, "replayed": 2}


def test_a_nonce_does_not_repeat_when_a_key_is_used_again() -> None:
    a = sealer(key=OLD)
    install(a, NEW)
    sealed = []
    for key in (OLD, NEW, OLD, NEW):
        use(a, key.key_id)
        sealed += [a.seal(b"same") for _ in range(3)]
    assert len({(datagram[1], datagram[14:20]) for datagram in sealed}) == 12


def test_a_change_that_is_refused_changes_nothing() -> None:
    a = sealer(key=OLD)
    before = a.ring
    with pytest.raises(SecurityError, match="install it first"):
        use(a, 9)
    with pytest.raises(SecurityError, match="in use"):
        remove(a, OLD.key_id)
    with pytest.raises(SecurityError, match="make another key"):
        install(a, GossipKey(OLD.key_id, b"z" * 32))
    assert a.ring is before
    assert sealer(b"sender-b", key=OLD).open(a.seal(b"x")) == b"x"


@given(data=st.data())
@settings(deadline=None, max_examples=50)
def test_during_a_rotation_everybody_always_opens_what_anybody_seals(data: st.DataObject) -> None:
    nodes = [sealer(b"%08d" % index, key=OLD) for index in range(4)]
    steps: list[Callable[[Sealer], bool]] = [
        lambda node: install(node, NEW),
        lambda node: use(node, NEW.key_id),
        lambda node: remove(node, OLD.key_id),
    ]
    for step in steps:
        for node in data.draw(st.permutations(nodes)):
            step(node)
            for sender in nodes:
                datagram = sender.seal(b"x")
                assert all(other.open(datagram) == b"x" for other in nodes if other is not sender)
    assert all(node.ring.list() == sealer(key=NEW).ring.list() for node in nodes)


def test_what_is_told_of_keys_shows_no_secret() -> None:
    a = sealer(key=OLD)
    install(a, NEW)
    told = a.ring.list()
    assert [(info.key_id, info.is_in_use) for info in told] == [(1, True), (2, False)]
    assert "oooo" not in repr(told) + repr(a.ring)


def test_a_key_does_not_show_its_secret() -> None:
    assert "kkkk" not in repr(KEY)
    assert "kkkk" not in repr(sealer())


def test_statistics_start_at_zero() -> None:
    assert set(attrs.astuple(sealer().statistics())) == {0}
    assert isinstance(sealer().statistics(), SealingStatistics)
