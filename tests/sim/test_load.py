"""Many calls and large ones, over a network that delays and loses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from _world import Work, World, stub

import rpcnet
from rpcnet.testing import SimulatedCluster, run

MEBIBYTE = 1 << 20


async def all_at_once(count: int, call: Callable[[int], Awaitable[object]]) -> list[object]:
    """Make that many calls at once and return what each ended with."""
    results: list[object] = [None] * count

    async def one(number: int) -> None:
        try:
            results[number] = await call(number)
        except rpcnet.RpcNetError as error:
            results[number] = error

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(one, number)
    return results


def test_two_thousand_small_calls_at_once_on_one_connection() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        one, other = await world.start(2)
        peak = 0

        async def watch() -> None:
            nonlocal peak
            while True:
                peak = max(peak, other.node.statistics().active_calls)
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            called = stub(one, other)
            results = await all_at_once(2000, lambda number: called.again("key", 0.5))
            nursery.cancel_scope.cancel()
        assert results == ["n1"] * 2000
        assert world.ran("key") == 2000
        assert peak == 1024
        assert one.node.statistics().client.retries == 0

    run(scenario)


def test_two_thousand_calls_that_never_suspend() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        one, other = await world.start(2)
        called = stub(one, other)
        assert await all_at_once(2000, lambda number: called.who()) == ["n1"] * 2000
        assert one.node.statistics().client.retries == 0

    run(scenario)


LARGE: dict[str, Callable[[Work], Awaitable[object]]] = {
    "an argument of a MiB": lambda called: called.measure(b"x" * MEBIBYTE, 0.0),
    "a result of a MiB": lambda called: called.produce(MEBIBYTE, 0.0),
}


@pytest.mark.parametrize("call", LARGE.values(), ids=LARGE)
def test_a_large_message_arrives_whole(call: Callable[[Work], Awaitable[object]]) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        one, other = await world.start(2)
        cluster.set_loss(one, other, 0.02)
        cluster.set_loss(other, one, 0.02)
        assert await call(stub(one, other)) in (MEBIBYTE, bytes([MEBIBYTE % 251]) * MEBIBYTE)

    run(scenario)


MANY: dict[str, Callable[[Work, int], Awaitable[object]]] = {
    "arguments": lambda called, number: called.measure(b"x" * (20_000 + number), 0.5),
    "results": lambda called, number: called.produce(20_000 + number, 0.5),
}


@pytest.mark.parametrize("call", MANY.values(), ids=MANY)
@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_many_large_messages_at_once_over_a_network_that_loses(
    call: Callable[[Work, int], Awaitable[object]], loss: float
) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        one, other = await world.start(2)
        cluster.set_loss(one, other, loss)
        cluster.set_loss(other, one, loss)
        called = stub(one, other)
        results = await all_at_once(150, lambda number: call(called, number))
        sizes = [result if isinstance(result, int) else len(result) for result in results]  # type: ignore[arg-type]
        assert sizes == [20_000 + number for number in range(150)]
        assert world.ran("measure") + world.ran("produce") == 150
        assert one.node.statistics().client.retries == 0
        for node in (one, other):
            assert set(node.node.statistics().restarts.values()) == {0}
            assert node.node.statistics().active_calls == 0

    run(scenario)


def test_many_large_messages_on_their_way_can_be_cancelled() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        one, other = await world.start(2)
        called = stub(one, other)
        with trio.move_on_after(1.0):
            await all_at_once(150, lambda number: called.measure(b"x" * 20_000, 10.0))
        await trio.sleep(1)
        assert other.node.statistics().active_calls == 0
        assert await called.measure(b"x" * 20_000, 0.0) == 20_000
        assert await all_at_once(150, lambda number: called.measure(b"x" * 20_000, 0.1)) == [20_000] * 150

    run(scenario)


def test_small_calls_do_not_wait_behind_large_ones() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        one, other = await world.start(2)
        called = stub(one, other)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(called.measure, b"x" * MEBIBYTE, 0.0)
            await trio.sleep(0.001)
            begun = trio.current_time()
            assert await called.who() == "n1"
            assert trio.current_time() - begun < 0.1
            assert world.ran("measure") == 0

    run(scenario)


@pytest.mark.parametrize("seed", range(2))
def test_calls_over_a_bad_network_are_all_answered_once(seed: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(3)
        for one in nodes:
            for other in nodes:
                if one is not other:
                    cluster.set_latency(one, other, 0.001, 0.03)
                    cluster.set_loss(one, other, 0.1)
        results = await all_at_once(300, lambda number: stub(nodes[0]).once(f"key {number}", number % 7 / 10))
        assert set(results) == {"n0", "n1", "n2"}
        assert [world.ran(f"key {number}") for number in range(300)] == [1] * 300

    run(scenario, seed=seed)


@pytest.mark.parametrize("size", [100, 100_000])
def test_calls_beyond_what_a_server_takes_at_once_wait_at_the_caller(size: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        rpc = rpcnet.RpcConfig(max_calls_per_connection=4, send_watermark_bytes=65536)
        one, other = await world.start(2, config=rpcnet.NodeConfig(rpc=rpc))
        called = stub(one, other)
        results = await all_at_once(60, lambda number: called.measure(b"x" * size, 0.1))
        assert results == [size] * 60
        assert world.ran("measure") == 60
        assert one.node.statistics().client.retries == 0

    run(scenario)
