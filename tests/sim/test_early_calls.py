"""Calls that go out with the first packets of a resumed connection."""

from __future__ import annotations

import trio
from _world import World, stub

from rpcnet.config import NodeConfig, RpcConfig
from rpcnet.testing import SimulatedCluster, SimulatedNode, run

CONFIG = NodeConfig(rpc=RpcConfig(idle_timeout=2.0))
LATENCY = 0.05
PAUSE = 7.0


async def two(cluster: SimulatedCluster) -> tuple[World, SimulatedNode, SimulatedNode]:
    """Start two nodes that are far from each other, call once, and wait until the connection is closed."""
    world = World(cluster)
    one, other = await world.start(2, config=CONFIG)
    for source, destination in ((one, other), (other, one)):
        cluster.set_latency(source, destination, LATENCY, LATENCY)
    await stub(one, other).who()
    await trio.sleep(PAUSE)
    return world, one, other


def early(node: SimulatedNode) -> tuple[int, int]:
    quic = node.node.statistics().quic
    return quic.early, quic.early_lost


def test_a_call_that_may_run_twice_takes_one_round_trip_on_a_resumed_connection() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        _, one, other = await two(cluster)
        before, begun = early(one), trio.current_time()
        assert await stub(one, other).who() == "n1"
        took = trio.current_time() - begun
        assert 1.99 * LATENCY < took < 3 * LATENCY
        assert early(one) == (before[0] + 1, before[1])
        assert await stub(one, other).who() == "n1"

    run(scenario)


def test_a_call_that_may_not_run_twice_waits_for_the_handshake() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world, one, other = await two(cluster)
        begun = trio.current_time()
        assert await stub(one, other).once("key", 0.0) == "n1"
        assert trio.current_time() - begun > 3.99 * LATENCY
        assert world.ran("key") == 1

    run(scenario)


def test_several_calls_go_early_together_and_are_answered_each() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        _, one, other = await two(cluster)
        sizes: list[int] = []

        async def measure(size: int) -> None:
            sizes.append(await stub(one, other).measure(bytes(size), 0.0))

        async with trio.open_nursery() as nursery:
            for size in range(100, 130):
                nursery.start_soon(measure, size)
        assert sorted(sizes) == list(range(100, 130))

    run(scenario)


def test_what_was_sent_early_to_a_node_that_was_started_anew_is_sent_again() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world, one, other = await two(cluster)
        await world.bounce(other)
        for source, destination in ((one, other), (other, one)):
            cluster.set_latency(source, destination, LATENCY, LATENCY)
        assert await stub(one, other).who() == "n1"
        assert await stub(one, other).again("key", 0.1) == "n1"

    run(scenario)


def test_a_lossy_network_loses_no_early_call() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        _, one, other = await two(cluster)
        for source, destination in ((one, other), (other, one)):
            cluster.set_loss(source, destination, 0.3)
        for _ in range(5):
            with trio.fail_after(30):
                assert await stub(one, other).who() == "n1"
            await trio.sleep(PAUSE)

    for seed in range(3):
        run(scenario, seed=seed)
