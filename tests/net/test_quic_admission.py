"""Floods: what they may cost, and that whoever is where he says he is gets in all the same."""

from __future__ import annotations

import os
from random import Random

import attrs
import pytest
from _quic_pair import CLIENT, SERVER, Pair, Recorder

from rpcnet._net.addresses import Address
from rpcnet._net.quic import CLOSE_TOO_MANY, CloseKind
from rpcnet._net.quic_admission import Admission, Place, Verdict
from rpcnet._net.quic_engine import Engine, RetryTokens
from rpcnet.config import NodeConfig, RpcConfig
from rpcnet.errors import ConfigError

BYE = 0x100
GOOD: Address = ("10.0.1.1", 7946)


def spoofed(number: int) -> Address:
    return (f"192.168.{number // 250}.{number % 250 + 1}", 1000 + number % 7)


@attrs.define(eq=False)
class Strangers:
    """Clients that begin handshakes from anywhere and never go on, unless they are where they say they are."""

    pair: Pair
    engines: dict[Address, list[Engine]] = attrs.field(factory=dict)

    def begin(self, source: Address) -> bytes:
        """Send a first packet from an address; nobody need be there."""
        first = self.first(source)
        self.pair.server.receive(first, source, self.pair.now)
        return first

    def first(self, source: Address) -> bytes:
        """Return a first packet."""
        configuration = self.pair.client._identity.configuration(is_client=True, max_datagram_bytes=1200)
        engine = Engine(configuration, lambda cid: None)
        engine.connect(SERVER, self.pair.now)
        [(first, _), *_] = engine.datagrams_to_send(self.pair.now)
        self.engines.setdefault(source, []).append(engine)
        return first

    def answer(self, source: Address) -> None:
        """Be where one address says, take what was sent there and answer with one more first packet at most."""
        for data, destination in self.pair.ports[SERVER].sent:
            if destination == source:
                for engine in self.engines[source]:
                    engine.receive_datagram(data, SERVER, self.pair.now)
        for engine in self.engines[source]:
            if engine._retry_count and engine.heard_nothing:
                for data, _ in engine.datagrams_to_send(self.pair.now)[:1]:
                    self.pair.server.receive(data, source, self.pair.now)

    def settle(self) -> None:
        self.pair.server.settle(self.pair.now)
        self.pair.server.flush(self.pair.now)


def assert_gets_in(pair: Pair, source: Address = GOOD, within: float = 2.0) -> Recorder:
    link, recorder = pair.dial(expected_name="b", source=source)
    pair.run(within)
    assert recorder.kinds == ["ready"]
    link.close(BYE, "")
    pair.run(0.1)
    return recorder


def test_a_flood_from_addresses_that_are_not_the_senders_keeps_nobody_out() -> None:
    pair = Pair()
    strangers = Strangers(pair)
    for number in range(400):
        strangers.begin(spoofed(number))
    strangers.settle()
    statistics = pair.server.statistics()
    assert statistics.handshaking == 64
    assert statistics.retried == 400 - 64
    assert_gets_in(pair)
    link, recorder = pair.dial(expected_name="b", source=GOOD)
    for number in range(100):
        strangers.begin(spoofed(1000 + number))
        pair.run(0.002)
    assert recorder.kinds == ["ready"]
    assert link.is_ready
    pair.run(10)
    assert pair.server.statistics().handshaking == 0


def test_a_flood_in_the_name_of_a_clients_own_address_does_not_keep_it_out() -> None:
    pair = Pair(config=RpcConfig(max_connections_per_address=20, max_handshakes_per_second=30))
    strangers = Strangers(pair)
    for _ in range(300):
        strangers.begin(GOOD)
    strangers.settle()
    assert pair.server.statistics().handshaking == 20
    assert_gets_in(pair)


def test_a_flood_of_what_only_looks_like_first_packets_gets_tokens_instead_of_work() -> None:
    pair = Pair(config=RpcConfig(max_handshakes_per_second=50))
    strangers = Strangers(pair)
    first = strangers.first(spoofed(0))
    start = 6 + first[5]
    for number in range(500):
        forged = first[:6] + number.to_bytes(8, "big").ljust(first[5], b"\0") + first[start:]
        pair.server.receive(forged, spoofed(number), pair.now)
    statistics = pair.server.statistics()
    assert (statistics.garbage, statistics.retried, statistics.links) == (50, 450, 0)
    assert_gets_in(pair)
    assert pair.server._routes.keys() == {cid for link in pair.server._links for cid in link.cids}


def test_an_answer_to_a_stranger_is_no_larger_than_what_it_sent_and_costs_no_memory() -> None:
    pair = Pair(config=RpcConfig(max_unauthenticated=4))
    strangers = Strangers(pair)
    strangers.begin(spoofed(0))
    routes = dict(pair.server._routes)
    for number in range(1, 50):
        first = strangers.begin(spoofed(number))
        answer, destination = pair.ports[SERVER].sent[-1]
        assert destination == spoofed(number)
        assert len(answer) < len(first) / 3
    assert pair.server._routes == routes
    assert pair.server.statistics().links == 1
    assert len(pair.server._admission._origins) == 1


def test_a_flood_from_one_real_address_keeps_nobody_else_out() -> None:
    pair = Pair(config=RpcConfig(max_unauthenticated=40))
    strangers = Strangers(pair)
    hostile = spoofed(1)
    for _ in range(60):
        strangers.begin(hostile)
    strangers.answer(hostile)
    strangers.settle()
    statistics = pair.server.statistics()
    assert statistics.handshaking == 20
    assert statistics.retried == 50
    assert statistics.refused == 40
    assert_gets_in(pair)


def test_places_for_handshakes_are_bounded_in_total() -> None:
    pair = Pair(config=RpcConfig(max_unauthenticated=8))
    strangers = Strangers(pair)
    for number in range(10):
        for _ in range(3):
            strangers.begin(spoofed(number))
        strangers.answer(spoofed(number))
    assert pair.server.statistics().handshaking == 8
    pair.run(6)
    assert pair.server.statistics().handshaking == 0
    assert_gets_in(pair)


def test_one_address_has_so_many_connections_and_no_more() -> None:
    pair = Pair(config=RpcConfig(max_connections_per_address=3, connect_timeout=1))
    links = [pair.dial(expected_name="b") for _ in range(5)]
    pair.run(0.9)
    assert [recorder.kinds for _, recorder in links] == [["ready"]] * 3 + [["ready", "closed"]] * 2
    reason = links[4][1].closed
    assert reason is not None
    assert (reason.code, reason.kind, reason.by_peer) == (CLOSE_TOO_MANY, CloseKind.CLOSED, True)
    assert reason.message == "too many connections from this address"
    assert len(pair.accepted) == 3
    assert_gets_in(pair)
    _, late = pair.dial(expected_name="b")
    pair.run(2)
    assert late.kinds == ["closed"]
    links[0][0].close(BYE, "")
    pair.run(0.1)
    assert_gets_in(pair, CLIENT)


def test_more_handshakes_per_second_than_allowed_take_a_round_trip_more_then_more_time() -> None:
    pair = Pair(config=RpcConfig(max_handshakes_per_second=2))
    dialled = [pair.dial(expected_name="b")[1] for _ in range(6)]
    pair.run(0.02)
    assert [recorder.kinds for recorder in dialled] == [["ready"]] * 4 + [[]] * 2
    assert pair.server.statistics().retried == 4
    assert pair.server.statistics().refused == 2
    assert_gets_in(pair, within=0.02)
    pair.run(4)
    assert [recorder.kinds for recorder in dialled] == [["ready"]] * 6


def test_a_handshake_makes_the_server_take_so_many_bytes_and_no_more() -> None:
    pair = Pair(config=RpcConfig(max_unauthenticated=2, max_unauthenticated_bytes=65536))
    strangers = Strangers(pair)
    first = strangers.begin(spoofed(1))
    for _ in range(100):
        pair.server.receive(first, spoofed(1), pair.now)
    strangers.settle()
    statistics = pair.server.statistics()
    assert statistics.datagrams == 32768 // 1200
    assert statistics.refused == 101 - 32768 // 1200
    assert_gets_in(pair)
    pair.run(6)
    assert pair.server.statistics().links == 0


def test_data_of_a_verified_peer_is_not_counted_as_a_strangers() -> None:
    pair = Pair(config=RpcConfig(max_unauthenticated=2, max_unauthenticated_bytes=65536))
    link, _, _, server = pair.connect()
    stream = link.open_stream()
    link.send(stream, bytes(300_000), end=True)
    pair.run(2)
    assert server.received == {stream: bytes(300_000)}
    assert pair.server.statistics().refused == 0


def test_the_share_of_a_handshake_must_be_enough_for_one() -> None:
    with pytest.raises(ConfigError, match="max_unauthenticated_bytes = 65536: must be at least 32768 times"):
        NodeConfig(rpc=RpcConfig(max_unauthenticated=3, max_unauthenticated_bytes=65536))


@pytest.mark.parametrize("broken", ["short", "token", "length", "cid"])
def test_first_packets_that_are_none_get_no_token(broken: str) -> None:
    pair = Pair(config=RpcConfig(max_unauthenticated=4))
    strangers = Strangers(pair)
    strangers.begin(spoofed(0))
    first = strangers.first(spoofed(1))
    end = 7 + first[5] + first[6 + first[5]]
    forged = {
        "short": first[:7] + bytes(1193),
        "token": first[:end] + b"\x7f\xff" + first[end + 2 :],
        "length": first[:end] + b"\x00\x7f\xff" + first[end + 3 :],
        "cid": first[: 6 + first[5]] + b"\xff" + first[7 + first[5] :],
    }[broken]
    before = len(pair.ports[SERVER].sent)
    pair.server.receive(forged, spoofed(1), pair.now)
    statistics = pair.server.statistics()
    if broken == "short":  # its fields happen to be read as empty ones
        assert statistics.retried + statistics.garbage == 1
    else:
        assert statistics.garbage == 1
        assert len(pair.ports[SERVER].sent) == before


def test_random_first_packets_never_raise_while_tokens_are_asked_for() -> None:
    pair = Pair(config=RpcConfig(max_unauthenticated=4))
    Strangers(pair).begin(spoofed(0))
    rng = Random(9)
    for _ in range(500):
        data = bytes([0xC0 | rng.randrange(16)]) + b"\x00\x00\x00\x01\x08" + rng.randbytes(8 + rng.randrange(1, 60))
        pair.server.receive(data.ljust(1200, bytes([rng.randrange(256)])), spoofed(2), pair.now)
    statistics = pair.server.statistics()
    assert statistics.links == 1
    assert statistics.retried + statistics.garbage == 500


# --- tokens


def first_and_second_packet(pair: Pair, tokens: RetryTokens, source: Address) -> tuple[bytes, bytes]:
    configuration = pair.client._identity.configuration(is_client=True, max_datagram_bytes=1200)
    engine = Engine(configuration, lambda cid: None)
    engine.connect(SERVER, 0.0)
    [(first, _), *_] = engine.datagrams_to_send(0.0)
    answer = tokens.retry(first, source, 0.0)
    assert answer is not None
    engine.receive_datagram(answer, SERVER, 0.0)
    [(second, _), *_] = engine.datagrams_to_send(0.0)
    return first, second


def test_a_token_is_good_where_it_was_sent_for_a_short_time_and_nowhere_else() -> None:
    tokens = RetryTokens()
    first, second = first_and_second_packet(Pair(), tokens, GOOD)
    assert tokens.original_destination(first, GOOD, 0.0) is None
    assert tokens.original_destination(second, GOOD, 20.0) == first[6 : 6 + first[5]]
    assert tokens.original_destination(second, GOOD, 31.0) is None
    assert tokens.original_destination(second, (GOOD[0], 1), 0.0) is None
    assert tokens.original_destination(second, ("10.0.1.2", GOOD[1]), 0.0) is None
    assert RetryTokens().original_destination(second, GOOD, 0.0) is None
    elsewhere = second[:6] + os.urandom(second[5]) + second[6 + second[5] :]
    assert tokens.original_destination(elsewhere, GOOD, 0.0) is None
    assert tokens.original_destination(second[:40], GOOD, 0.0) is None


def test_a_token_is_good_for_addresses_of_both_families() -> None:
    tokens = RetryTokens()
    for source in (("2001:db8::1", 7), ("fe80::1%eth0", 7), ("10.0.0.1", 7)):
        first, second = first_and_second_packet(Pair(), tokens, source)
        assert tokens.original_destination(second, source, 0.0) == first[6 : 6 + first[5]]


def test_a_token_of_a_server_that_was_started_anew_ends_the_handshake_at_once() -> None:
    pair = Pair(config=RpcConfig(max_handshakes_per_second=1))
    pair.connect()
    _, recorder = pair.dial(expected_name="b")
    pair.client.flush(pair.now)
    pair.run(0.0015)
    assert pair.server.statistics().retried == 1
    pair.restart_server()
    pair.run(0.5)
    assert recorder.closed is not None
    assert recorder.closed.kind is CloseKind.HANDSHAKE_FAILED
    assert_gets_in(pair)


# --- the counts


def admission(**settings: float) -> Admission:
    return Admission(RpcConfig(**settings))  # type: ignore[arg-type]


def test_addresses_are_forgotten_when_there_are_too_many_but_not_what_they_have() -> None:
    strict = admission(max_connections=100_000)
    kept = strict.begin(spoofed(0), 0.0, is_proved=True)
    assert strict.verify(kept)
    for number in range(1, 20_000):
        strict.end(strict.begin((f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1), 0.0, is_proved=False))
    assert len(strict._origins) <= 4096
    assert strict._origins[spoofed(0)[0]] is kept.origin
    assert kept.origin.verified == 1


@pytest.mark.parametrize(
    ("other", "is_same"),
    [("2001:db8:1:2::7", True), ("2001:db8:1:2:ffff::", True), ("2001:db8:1:3::7", False), ("10.0.0.1", False)],
)
def test_ipv6_counts_by_what_a_site_has_of_its_own(other: str, is_same: bool) -> None:
    strict = admission(max_connections_per_address=1)
    strict.verify(strict.begin(("2001:db8:1:2::1", 1), 0.0, is_proved=True))
    verdict = strict.judge((other, 1), 0.0, is_proved=True)
    assert (verdict is Verdict.REFUSE) is is_same


def test_an_allowance_comes_back_with_time_but_never_more_than_a_second_of_it() -> None:
    strict = admission(max_handshakes_per_second=2)

    def admitted(now: float) -> int:
        count = 0
        while strict.judge(GOOD, now, is_proved=False) is Verdict.ADMIT:
            strict.end(strict.begin(GOOD, now, is_proved=False))
            count += 1
        return count

    assert [admitted(now) for now in (0.0, 0.1, 0.5, 100.0, 99.0)] == [2, 0, 1, 2, 0]


def test_whatever_happens_the_counts_add_up_and_the_limits_hold() -> None:
    for seed in range(30):
        rng = Random(seed)
        strict = admission(
            max_connections=20, max_unauthenticated=8, max_connections_per_address=5, max_handshakes_per_second=1000
        )
        alive: list[Place] = []
        for step in range(400):
            source, is_proved = spoofed(rng.randrange(6)), rng.random() < 0.5
            act = rng.random()
            if act < 0.5 and strict.judge(source, step / 10, is_proved=is_proved) is Verdict.ADMIT:
                alive.append(strict.begin(source, step / 10, is_proved=is_proved))
            elif act < 0.75 and alive:
                place = rng.choice(alive)
                if not place.is_verified and not strict.verify(place):
                    alive.remove(place)
                    strict.end(place)
            elif alive:
                strict.end(alive.pop(rng.randrange(len(alive))))
            handshaking = [place for place in alive if not place.is_verified]
            assert strict.accepted == len(alive) <= 20
            assert strict.handshaking == len(handshaking) <= 8
            assert strict._unproved == sum(not place.is_proved for place in handshaking) <= 2
            for origin in strict._origins.values():
                mine = [place for place in alive if place.origin is origin]
                assert origin.places == len(mine)
                assert origin.verified == sum(place.is_verified for place in mine) <= 5
                assert origin.handshakes == sum(place.is_proved and not place.is_verified for place in mine) <= 2
        while alive:
            strict.end(alive.pop())
        assert strict.accepted == strict.handshaking == strict._unproved == 0
