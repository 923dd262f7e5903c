"""Datagrams that nobody should have sent: they change nothing, are counted, and get no answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

import attrs
import pytest
import trio
from _world import World, stub

import rpcnet
from rpcnet._core.members import MemberRecord
from rpcnet._core.messages import encode_age, encode_datagram, encode_head, encode_update
from rpcnet._net.addresses import Address, parse_address
from rpcnet._net.environment import current_environment
from rpcnet._net.memory import MemoryNetwork, MemoryPort
from rpcnet._net.ports import DatagramPort
from rpcnet._net.sealing import Sealer
from rpcnet.testing import SimulatedCluster, run

Sent = list[tuple[bytes, Address, Address]]


@attrs.define(eq=False)
class Attacker:
    """A port on a host of its own, and everything that was sent on the network so far."""

    port: DatagramPort
    target: Address
    sent: Sent
    rng: Random
    security: rpcnet.Security

    def throw(self, *datagrams: bytes) -> None:
        for data in datagrams:
            self.port.send([(data, self.target)])


def simulate(attack: Callable[[Attacker, World], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack one of two nodes; check that neither notices, and that the attacker gets no answer."""
    sent: Sent = []
    original = MemoryNetwork._carry

    def carry(network: MemoryNetwork, port: MemoryPort, data: bytes, source: Address, destination: Address) -> None:
        sent.append((data, source, destination))
        original(network, port, data, source, destination)

    monkeypatch.setattr(MemoryNetwork, "_carry", carry)

    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        one, other = await world.start(2)
        for _ in range(3):
            await stub(one, other).who()
            await trio.sleep(1)
        noticed = len(cluster.trace)
        port = await current_environment().bind("10.7.7.7:7946")
        target = parse_address(other.address)
        await attack(Attacker(port, target, sent, Random(1), cluster.security), world)
        for _ in range(20):
            assert await stub(one, other).who() == "n1"
            await trio.sleep(0.5)
        assert cluster.trace[noticed:] == ()
        for node in (one, other):
            statistics = node.node.statistics()
            assert set(statistics.restarts.values()) == {0}
            assert statistics.quic.engine_errors == 0
            assert statistics.quic.unauthenticated == statistics.quic.handshaking == 0
        answers = [data for data, _, destination in sent if destination == ("10.7.7.7", 7946)]
        assert not [data for data in answers if len(data) > 100], "more came back than a version"
        assert one.node.statistics().client.retries == 0
        port.close()

    run(scenario)


def test_garbage_of_every_first_byte_and_length(monkeypatch: pytest.MonkeyPatch) -> None:
    async def attack(attacker: Attacker, world: World) -> None:
        for first in range(256):
            for size in (0, 1, 7, 40, 1199):
                attacker.throw(bytes([first]) + attacker.rng.randbytes(size))
            await trio.sleep(0.01)
        attacker.throw(b"")
        await trio.sleep(1)

    simulate(attack, monkeypatch)


def test_real_datagrams_again_from_somewhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    async def attack(attacker: Attacker, world: World) -> None:
        for data, _, destination in list(attacker.sent):
            if destination == attacker.target and data[0] & 0xC0 != 0xC0:
                attacker.throw(data)
        await trio.sleep(1)
        assert world.handles[1].node.statistics().sealing.replayed > 0

    simulate(attack, monkeypatch)


def test_real_datagrams_cut_and_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def attack(attacker: Attacker, world: World) -> None:
        rng = attacker.rng
        for data, _, destination in list(attacker.sent):
            if destination != attacker.target or data[0] & 0xC0 == 0xC0:
                continue
            attacker.throw(data[: rng.randrange(len(data))])
            changed = bytearray(data)
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            attacker.throw(bytes(changed), data + b"x")
        await trio.sleep(1)
        sealing = world.handles[1].node.statistics().sealing
        assert sealing.forged + sealing.replayed > 0

    simulate(attack, monkeypatch)


def goodbye_of(world: World) -> bytes:
    """Return what the first node would say if it left, as gossip."""
    parts = world.handles[0].node._parts
    assert parts is not None
    local: MemberRecord = attrs.evolve(parts.local, state=rpcnet.NodeState.LEFT)
    return encode_datagram(encode_head(None), [encode_age(0.0) + encode_update(local)])


def test_a_goodbye_that_was_sealed_with_another_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    async def attack(attacker: Attacker, world: World) -> None:
        for secret, cluster in (
            ("another secret, long enough", "simulation"),
            ("another secret, long enough", "other"),
        ):
            stranger = rpcnet.Security.shared_secret(secret, cluster=cluster)
            sealer = Sealer(stranger.cluster, stranger.gossip_keys, b"stranger")
            attacker.throw(*[sealer.seal(goodbye_of(world)) for _ in range(10)])
        await trio.sleep(1)

    simulate(attack, monkeypatch)


def test_garbage_that_was_sealed_with_the_right_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    async def attack(attacker: Attacker, world: World) -> None:
        sealer = Sealer(attacker.security.cluster, attacker.security.gossip_keys, b"insider!")
        good = goodbye_of(world)
        for size in range(200):
            attacker.throw(sealer.seal(attacker.rng.randbytes(size)), sealer.seal(good[: size % len(good)]))
        attacker.throw(sealer.seal(good + b"x"), sealer.seal(b""))
        await trio.sleep(1)

    simulate(attack, monkeypatch)


def test_the_goodbye_of_the_attacks_would_be_believed_if_it_were_sealed_rightly() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        other = (await world.start(2))[1]
        await trio.sleep(3)
        port = await current_environment().bind("10.7.7.7:7946")
        sealer = Sealer(cluster.security.cluster, cluster.security.gossip_keys, b"insider!")
        noticed = len(cluster.trace)
        port.send([(sealer.seal(goodbye_of(world)), parse_address(other.address))])
        await trio.sleep(1)
        assert "NodeLeft" in str(cluster.trace[noticed:])
        port.close()

    run(scenario)


def test_first_packets_of_connections_that_are_never_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    async def attack(attacker: Attacker, world: World) -> None:
        first = next(data for data, _, to in attacker.sent if to == attacker.target and data[0] & 0xF0 == 0xC0)
        for number in range(300):
            changed = bytearray(first)
            changed[8] = number % 256
            attacker.throw(bytes(changed))
        await trio.sleep(8)
        assert world.handles[1].node.statistics().quic.handshaking == 0

    simulate(attack, monkeypatch)
