from __future__ import annotations

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._net.sealing import MAX_PAYLOAD_BYTES, SEALED_TYPES, GossipKey, Sealer, SealingStatistics

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
    with pytest.raises(ValueError, match="needs a key"):
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


def test_a_key_does_not_show_its_secret() -> None:
    assert "kkkk" not in repr(KEY)
    assert "kkkk" not in repr(sealer())


def test_statistics_start_at_zero() -> None:
    assert set(attrs.astuple(sealer().statistics())) == {0}
    assert isinstance(sealer().statistics(), SealingStatistics)
