from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from random import Random

import pytest
import trio
from trio.testing import MockClock

from rpcnet._net.memory import MemoryNetwork, MemoryPort, SimulatedEnvironment
from rpcnet.errors import ConfigError

A, B, C = ("10.0.0.1", 7946), ("10.0.0.2", 7946), ("10.0.0.3", 7946)


@contextlib.asynccontextmanager
async def running(network: MemoryNetwork) -> AsyncIterator[MemoryNetwork]:
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        yield network
        nursery.cancel_scope.cancel()


def drain(port: MemoryPort) -> list[bytes]:
    out = []
    while (got := port.receive()) is not None:
        out.append(got[0])
    return out


async def test_a_datagram_arrives_after_the_latency(autojump_clock: MockClock) -> None:
    async with running(MemoryNetwork(Random(1), latency=(0.25, 0.25))) as network:
        a, b = network.bind(A), network.bind(B)
        assert a.send([(b"hello", B)]) == 1
        assert b.receive() is None
        await b.wait_readable()
        assert trio.current_time() == pytest.approx(0.25)
        assert b.receive() == (b"hello", A)
        assert b.receive() is None
        assert network.statistics().delivered == 1


async def test_datagrams_of_one_moment_keep_their_order(autojump_clock: MockClock) -> None:
    async with running(MemoryNetwork(Random(1))) as network:
        a, b = network.bind(A), network.bind(B)
        datagrams = [b"%d" % index for index in range(50)]
        a.send([(data, B) for data in datagrams])
        await trio.sleep(1)
        assert drain(b) == datagrams


async def test_a_sooner_datagram_overtakes_a_later_one(autojump_clock: MockClock) -> None:
    async with running(MemoryNetwork(Random(1))) as network:
        a, b, c = network.bind(A), network.bind(B), network.bind(C)
        network.set_latency(A[0], C[0], (2, 2))
        a.send([(b"slow", C)])
        await trio.sleep(0.5)
        b.send([(b"fast", C)])
        await c.wait_readable()
        assert trio.current_time() == pytest.approx(0.501)
        assert drain(c) == [b"fast"]
        await c.wait_readable()
        assert trio.current_time() == pytest.approx(2)
        assert drain(c) == [b"slow"]


async def test_latency_lies_within_its_range_and_reorders(autojump_clock: MockClock) -> None:
    async with running(MemoryNetwork(Random(1), latency=(0.1, 0.2))) as network:
        a, b = network.bind(A), network.bind(B)
        a.send([(b"%03d" % index, B) for index in range(100)])
        await trio.sleep(0.0999)
        assert b.receive() is None
        await trio.sleep(0.1002)
        got = drain(b)
        assert len(got) == 100
        assert got != sorted(got)


async def test_loss_has_its_probability_and_hits_one_direction(autojump_clock: MockClock) -> None:
    async with running(MemoryNetwork(Random(1))) as network:
        a, b = network.bind(A), network.bind(B)
        network.set_loss(A[0], B[0], 0.3)
        a.send([(b"x", B)] * 1000)
        b.send([(b"x", A)] * 1000)
        await trio.sleep(1)
        assert 600 < len(drain(b)) < 800
        assert len(drain(a)) == 1000
        assert network.statistics().lost == 1000 - b.statistics().datagrams_received


async def test_a_datagram_above_the_mtu_is_refused(autojump_clock: MockClock) -> None:
    async with running(MemoryNetwork(Random(1))) as network:
        a, b = network.bind(A), network.bind(B)
        assert a.max_datagram_bytes(B[0]) == 1200
        assert a.send([(bytes(1201), B), (bytes(1200), B)]) == 1
        assert a.statistics().datagrams_refused == 1
        await trio.sleep(1)
        assert drain(b) == [bytes(1200)]


async def test_a_partition_holds_both_ways_until_repaired(autojump_clock: MockClock) -> None:
    async with running(MemoryNetwork(Random(1))) as network:
        a, b, c = network.bind(A), network.bind(B), network.bind(C)
        network.partition([A[0]], [B[0]])
        a.send([(b"1", B), (b"1", C)])
        b.send([(b"2", A), (b"2", C)])
        await trio.sleep(1)
        assert (drain(a), drain(b), drain(c)) == ([], [], [b"1", b"2"])
        assert network.statistics().blocked == 2
        network.repair()
        a.send([(b"3", B)])
        b.send([(b"4", A)])
        await trio.sleep(1)
        assert (drain(a), drain(b)) == ([b"4"], [b"3"])


async def test_a_block_holds_one_way(autojump_clock: MockClock) -> None:
    async with running(MemoryNetwork(Random(1))) as network:
        a, b = network.bind(A), network.bind(B)
        network.block(A[0], B[0])
        a.send([(b"1", B)])
        b.send([(b"2", A)])
        await trio.sleep(1)
        assert (drain(a), drain(b)) == ([b"2"], [])


async def test_what_is_on_its_way_survives_a_partition_and_a_crash_of_its_sender(autojump_clock: MockClock) -> None:
    async with running(MemoryNetwork(Random(1))) as network:
        a, b = network.bind(A), network.bind(B)
        a.send([(b"in flight", B)])
        network.partition([A[0]], [B[0]])
        network.crash(A[0])
        await trio.sleep(1)
        assert drain(b) == [b"in flight"]


async def test_a_crashed_host_sends_and_takes_nothing_and_comes_back_by_binding(autojump_clock: MockClock) -> None:
    async with running(MemoryNetwork(Random(1))) as network:
        a, b = network.bind(A), network.bind(B)
        a.send([(b"too late", B)])
        b.send([(b"unread", A)])
        await trio.sleep(1)
        network.crash(A[0])
        network.crash(B[0])
        assert drain(a) == []
        a.send([(b"from the grave", B)])
        b.send([(b"from the grave", A)])
        fresh = network.bind(A)
        b.send([(b"from the grave", A)])
        await trio.sleep(1)
        assert (drain(a), drain(b), drain(fresh)) == ([], [], [])
        back = network.bind(B)
        back.send([(b"alive", A)])
        a.send([(b"still dead", B)])
        await trio.sleep(1)
        assert (drain(fresh), drain(back)) == ([b"alive"], [])


async def test_a_datagram_to_a_crashed_host_is_lost_on_arrival(autojump_clock: MockClock) -> None:
    async with running(MemoryNetwork(Random(1))) as network:
        a, b = network.bind(A), network.bind(B)
        a.send([(b"x", B)])
        network.crash(B[0])
        await trio.sleep(1)
        assert drain(b) == []
        assert network.statistics().unreachable == 1


async def test_a_reader_that_does_not_read_loses_the_newest(autojump_clock: MockClock) -> None:
    async with running(MemoryNetwork(Random(1))) as network:
        a, b = network.bind(A), network.bind(B)
        a.send([(b"%d" % index, B) for index in range(4100)])
        await trio.sleep(1)
        got = drain(b)
        assert len(got) == 4096
        assert got[-1] == b"4095"
        assert b.statistics().datagrams_overflowed == 4


async def test_closing_frees_the_address_and_wakes_the_reader(autojump_clock: MockClock) -> None:
    async with running(MemoryNetwork(Random(1))) as network:
        port = network.bind(A)
        with pytest.raises(ConfigError, match=r"10\.0\.0\.1:7946.*in use"):
            network.bind(A)
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await port.wait_readable()

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            port.close()
            port.close()
        with pytest.raises(trio.ClosedResourceError):
            await port.wait_readable()
        assert port.send([(b"x", B)]) == 0
        network.bind(A)


async def test_an_old_port_that_is_closed_late_does_not_take_the_new_one_away(autojump_clock: MockClock) -> None:
    async with running(MemoryNetwork(Random(1))) as network:
        old, b = network.bind(A), network.bind(B)
        network.crash(A[0])
        new = network.bind(A)
        old.close()
        b.send([(b"x", A)])
        await trio.sleep(1)
        assert drain(new) == [b"x"]


async def test_waiting_is_a_checkpoint_even_when_something_waits(autojump_clock: MockClock) -> None:
    async with running(MemoryNetwork(Random(1))) as network:
        a, b = network.bind(A), network.bind(B)
        a.send([(b"x", B)])
        await b.wait_readable()
        with trio.testing.assert_checkpoints():
            await b.wait_readable()


def noisy_run(seed: int) -> list[tuple[float, bytes, str]]:
    arrivals: list[tuple[float, bytes, str]] = []

    async def main() -> None:
        async with running(MemoryNetwork(Random(seed), latency=(0.001, 0.02), loss=0.2)) as network:
            a, b = network.bind(A), network.bind(B)
            for index in range(100):
                a.send([(b"%d" % index, B)])
                b.send([(b"%d" % index, A)])
                await trio.sleep(0.005)
                for port in (a, b):
                    arrivals.extend((trio.current_time(), data, port.local_address) for data in drain(port))

    trio.run(main, clock=MockClock(autojump_threshold=0))
    return arrivals


def test_the_same_seed_gives_the_same_arrivals() -> None:
    assert noisy_run(3) == noisy_run(3)
    assert noisy_run(3) != noisy_run(4)


async def test_every_default_bind_is_a_host_of_its_own(autojump_clock: MockClock) -> None:
    environment = SimulatedEnvironment(MemoryNetwork(Random(1)), seed=1)
    ports = [await environment.bind(address) for address in ("127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "127.0.0.1:0")]
    assert [port.local_address for port in ports] == [f"10.0.0.{index}:7946" for index in (1, 2, 3, 4)]


async def test_an_address_that_is_asked_for_is_given_once(autojump_clock: MockClock) -> None:
    environment = SimulatedEnvironment(MemoryNetwork(Random(1)), seed=1)
    assert (await environment.bind("10.0.0.1:5000")).local_address == "10.0.0.1:5000"
    assert (await environment.bind("10.0.0.9:0")).local_address == "10.0.0.9:7946"
    with pytest.raises(ConfigError, match="in use"):
        await environment.bind("10.0.0.1:5000")
    with pytest.raises(ConfigError, match="no port"):
        await environment.bind("10.0.0.1")


async def test_default_binds_step_over_addresses_that_are_taken(autojump_clock: MockClock) -> None:
    environment = SimulatedEnvironment(MemoryNetwork(Random(1)), seed=1)
    await environment.bind("10.0.0.1:7946")
    addresses = {(await environment.bind("127.0.0.1:0")).local_address for _ in range(600)}
    assert len(addresses) == 600
    assert "10.0.0.1:7946" not in addresses


def values(seed: int) -> list[object]:
    environment = SimulatedEnvironment(MemoryNetwork(Random(1)), seed=seed)
    return [environment.rng().random(), environment.rng().random(), environment.token_bytes(8), environment.hostname()]


def test_a_simulated_environment_follows_from_its_seed() -> None:
    assert values(1) == values(1)
    assert values(1)[:3] != values(2)[:3]
    assert values(1)[0] != values(1)[1]


async def test_the_simulated_wall_clock_moves_with_virtual_time(autojump_clock: MockClock) -> None:
    environment = SimulatedEnvironment(MemoryNetwork(Random(1)), seed=1)
    start = environment.wall_clock()
    await trio.sleep(100)
    assert environment.wall_clock() - start == pytest.approx(100)


async def test_simulated_names_come_from_a_table(autojump_clock: MockClock) -> None:
    environment = SimulatedEnvironment(MemoryNetwork(Random(1)), seed=1, names={"seeds": ["10.0.0.1", "10.0.0.2"]})
    assert await environment.resolve("seeds") == ["10.0.0.1", "10.0.0.2"]
    assert await environment.resolve("10.0.0.5") == ["10.0.0.5"]
    with pytest.raises(OSError, match="unknown"):
        await environment.resolve("elsewhere")
