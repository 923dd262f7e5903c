"""Connections under calls: shared, kept while they are needed, dropped when idle, made again unnoticed."""

from __future__ import annotations

import pytest
import trio
from _world import World, stub

import rpcnet
from rpcnet.testing import SimulatedCluster, run


def test_a_call_outlives_the_idle_timeout_many_times() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        one, other = await world.start(2)
        begun = trio.current_time()
        assert await stub(one, other).once("long", 1000.0) == "n1"
        assert 1000 <= trio.current_time() - begun < 1001
        assert world.ran("long") == 1

    run(scenario)


@pytest.mark.parametrize("pause", [59.9, 59.99, 59.995, 60.0, 60.001, 60.005, 60.01, 60.1, 150.0])
def test_a_call_after_a_pause_about_as_long_as_the_idle_timeout_is_answered_at_once(pause: float) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        one, other = await world.start(2)
        for _ in range(3):
            begun = trio.current_time()
            assert await stub(one, other).once("key", 0.0) == "n1"
            assert trio.current_time() - begun < 0.1
            await trio.sleep(pause)
        assert world.ran("key") == 3
        assert one.node.statistics().client.retries == 0

    run(scenario)


def test_first_calls_at_the_same_moment_share_one_connection() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        one, other = await world.start(2)
        await trio.sleep(10)
        before = one.node.statistics().quic.established
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(stub(one, other).again, "key", 0.1)
        assert one.node.statistics().quic.established == before + 1

    run(scenario)


def test_who_gives_up_dialling_leaves_the_connection_to_the_others() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        one, other = await world.start(2)
        cluster.set_latency(one, other, 0.2, 0.2)
        cluster.set_latency(other, one, 0.2, 0.2)
        answers: list[str] = []

        async def call(patience: float) -> None:
            with trio.move_on_after(patience):
                answers.append(await stub(one, other).once("key", 0.0))

        async with trio.open_nursery() as nursery:
            for patience in (0.05, 0.3, 0.5, 60.0):
                nursery.start_soon(call, patience)
        assert answers == ["n1"]
        assert world.ran("key") == 1

    run(scenario)


def test_a_node_that_cannot_be_dialled_costs_the_connect_timeout_and_another_takes_the_call() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(3)
        cluster.partition(nodes[:1], nodes[1:2])
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            answers: list[str] = []

            async def call() -> None:
                answers.append(await stub(nodes[0]).once("key", 0.1))

            for _ in range(9):
                nursery.start_soon(call)
        assert set(answers) == {"n0", "n2"}
        assert trio.current_time() - begun < 6
        assert world.ran("key") == 9

    run(scenario)


def test_a_connection_is_made_again_after_its_end_by_a_short_cut() -> None:
    """A cut that is shorter than detection loses datagrams, not calls."""

    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        one, other = await world.start(2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stub(one, other).once, "across", 1.0)
            await trio.sleep(0.5)
            cluster.partition([one], [other])
            await trio.sleep(2.0)
            cluster.repair()
        assert world.ran("across") == 1
        assert one.node.statistics().client.retries == 0

    run(scenario)


def test_statistics_count_what_a_client_did() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        one, other = await world.start(2)
        for _ in range(3):
            await stub(one, other).who()
        with pytest.raises(rpcnet.NoWorkers):
            await one.node.client.call_worker("nothing.at_all")
        with trio.move_on_after(0.1):
            await stub(one, other).once("key", 1.0)
        client = one.node.statistics().client
        assert (client.calls, client.failures, client.retries) == (5, 1, 0)
        calls = client.per_node[other.node.id]
        assert (calls.active, calls.done, calls.failed) == (0, 3, 1)

    run(scenario)


def test_calls_go_elsewhere_while_a_dead_node_s_address_belongs_to_another() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(3)
        await cluster.crash(nodes[1])
        async with rpcnet.Node("squatter", bind=nodes[1].address, security=cluster.security):
            answers = [await stub(nodes[0]).who() for _ in range(30)]
        assert set(answers) == {"n0", "n2"}

    run(scenario)
