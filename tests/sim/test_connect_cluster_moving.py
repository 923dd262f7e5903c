"""A client of a cluster that is no member: whom it follows and calls when nodes die, drain or cannot be reached."""

from __future__ import annotations

import pytest
import trio
from _followers import event_of, follow, followed, followers, names, until
from _world import Work, World

import rpcnet
from rpcnet._net.addresses import parse_address
from rpcnet.testing import SimulatedCluster, run

# --- moving on


def test_when_the_followed_node_dies_another_one_is_followed_and_no_idempotent_call_is_lost() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(4)
        async with follow(cluster, nodes[0]) as client, client.events(rpcnet.NodeFailed) as events:
            answers: list[str] = []

            async def load() -> None:
                for _ in range(100):
                    answer = await client.stub(Work).again("key", 0.2)
                    answers.append(answer)

            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(load)
                await trio.sleep(2)
                await cluster.crash(nodes[0])
                await event_of(events, rpcnet.NodeFailed, "n0")
                assert followed(world) != []
            assert len(answers) == 1000
            assert client.statistics().failures == 0
            await until(lambda: names(client) == ["n1", "n2", "n3"])
            assert set(answers[-100:]) == {"n1", "n2", "n3"}

    run(scenario)


def test_when_the_followed_node_drains_another_one_is_followed_at_once() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(3)
        async with follow(cluster, nodes[0]) as client:
            assert followed(world) == ["n0"]
            begun = trio.current_time()
            await nodes[0].node.drain()
            await until(lambda: followed(world) not in ([], ["n0"]))
            assert trio.current_time() - begun < 1.0
            assert followed(world) in (["n1"], ["n2"])
            assert {await client.stub(Work).who() for _ in range(30)} == {"n1", "n2"}
            assert client.statistics().failures == 0

    run(scenario)


def test_draining_does_not_wait_for_followers() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(1)
        async with follow(cluster, nodes[0]) as client:
            begun = trio.current_time()
            await nodes[0].node.drain()
            assert trio.current_time() - begun < 2.5
            assert followers(nodes[0]) == 0
            assert names(client) == ["n0"]

    run(scenario)


def test_a_rolling_restart_of_all_nodes_loses_no_call() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(3)
        async with follow(cluster, nodes[0]) as client:
            answers: list[str] = []
            is_over = False

            async def load(number: int) -> None:
                turn = 0
                while not is_over:
                    turn += 1
                    answers.append(await client.stub(Work).once(f"{number}.{turn}", 0.1))

            async with trio.open_nursery() as nursery:
                for number in range(5):
                    nursery.start_soon(load, number)
                for node in nodes:
                    await trio.sleep(2)
                    await cluster.stop(node)
                    await world.bounce(node)
                    await cluster.converged()
                await trio.sleep(2)
                is_over = True
            assert client.statistics().failures == 0
            assert len(answers) > 200
            assert names(client) == ["n0", "n1", "n2"]

    run(scenario)


def test_calls_go_on_while_nobody_can_be_followed() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(2)
        async with follow(cluster, nodes[0]) as client:
            for node in nodes:
                node.node._cluster.end()
            await until(lambda: followed(world) == [])
            assert {await client.stub(Work).who() for _ in range(20)} == {"n0", "n1"}
            await trio.sleep(100)
            assert {await client.stub(Work).who() for _ in range(20)} == {"n0", "n1"}
            tries = sum(node.node.statistics().quic.established for node in nodes)
            assert tries < 60
            await world.start(1)
            await nodes[0].node.update_tags({"late": "1"})
            assert names(client) == ["n0", "n1"]

    run(scenario)


def test_a_call_on_a_node_that_the_next_one_has_never_heard_of_goes_on() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        (node,) = await world.start(1)
        async with rpcnet.Node("lonely", services=[Work("lonely")], security=cluster.security) as lonely:
            seeds = [node.address, lonely.address]
            async with (
                rpcnet.connect_cluster(seeds, security=cluster.security) as client,
                client.events(rpcnet.NodeEvent) as events,
            ):
                answers: list[str] = []

                async def call() -> None:
                    answers.append(await client.stub(Work).once("key", 10.0))

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(call)
                    await trio.sleep(1)
                    node.node._cluster.end()
                    failed = await event_of(events, rpcnet.NodeFailed, "n0")
                    assert isinstance(failed, rpcnet.NodeFailed)
                    assert failed.reason == f"not known to {lonely.address}"
                    await event_of(events, rpcnet.NodeReaped, "n0")
                    assert names(client) == ["lonely"]
                    assert await client.stub(Work).who() == "lonely"
                assert answers == ["n0"]

    run(scenario)


def test_a_cluster_that_went_away_as_a_whole_is_found_again_through_the_seeds() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(2)
        async with follow(cluster, nodes[0]) as client:
            for node in nodes:
                await cluster.crash(node)
            with pytest.raises(rpcnet.Unavailable):
                await client.stub(Work).again("key", 0.0)
            await trio.sleep(60)
            await world.bounce(nodes[0])
            await until(lambda: followed(world) == ["n0"], within=20)
            assert names(client) == ["n0"]
            assert await client.stub(Work).who() == "n0"

    run(scenario)


def test_nodes_that_follow_nobody_for_long_are_not_tried_in_a_hurry() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(2)
        async with follow(cluster, nodes[0]) as client:
            told = 0
            begun = trio.current_time()
            while trio.current_time() < begun + 20:
                for node in nodes:
                    for mailbox in list(node.node._cluster._followers):
                        mailbox.close()
                        told += 1
                await trio.sleep(0.001)
            assert 5 <= told <= 40
            await until(lambda: followed(world) != [])
            await nodes[0].node.update_tags({"late": "1"})
            await until(lambda: client.registry.nodes() == nodes[0].node.registry.nodes())

    run(scenario)


# --- unreachable nodes


def test_a_node_that_cannot_be_reached_is_avoided_and_called_again_when_it_can() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(3)
        async with follow(cluster, nodes[0]) as client:
            ours = parse_address(client._host.endpoint.address)[0]
            cluster._network.partition([ours], [nodes[2].host])
            stub = client.stub(Work)
            first = trio.current_time()
            answers = [await stub.who() for _ in range(10)]
            assert trio.current_time() - first < 6  # one call waits for the connect timeout
            begun = trio.current_time()
            answers += [await stub.who() for _ in range(200)]
            assert trio.current_time() - begun < 2
            assert set(answers) == {"n0", "n1"}
            assert client.statistics().retries <= 1
            cluster._network.repair()
            for _ in range(60):
                await trio.sleep(0.5)
                answers.append(await stub.who())
            assert "n2" in answers
            assert client.statistics().failures == 0

    run(scenario)


def test_calls_on_the_one_node_that_will_do_wait_until_it_is_dialled_again() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(2)
        config = rpcnet.RpcConfig(reconnect_min=4.0, connect_timeout=4.5)
        async with follow(cluster, nodes[0], config=config, retry=rpcnet.RetryPolicy(max_attempts=1)) as client:
            ours = parse_address(client._host.endpoint.address)[0]
            cluster._network.partition([ours], [nodes[1].host])
            stub = client.stub(Work, node="n1")
            with pytest.raises(rpcnet.Unavailable):
                await stub.who()
            cluster._network.repair()
            begun, before = trio.current_time(), nodes[1].node.statistics().quic.established
            async with trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(stub.once, f"call {number}", 0.0)
            assert 2.0 <= trio.current_time() - begun <= 4.1
            assert client.statistics().failures == 1
            assert nodes[1].node.statistics().quic.established == before + 1

    run(scenario)


def test_a_node_that_refuses_is_not_dialled_for_every_call() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(2)
        async with follow(cluster, nodes[0], retry=rpcnet.RetryPolicy(max_attempts=1)) as client:
            await cluster.crash(nodes[1])
            async with rpcnet.Node("squatter", bind=nodes[1].address, security=cluster.security):
                before = client._host.endpoint.quic_statistics().unauthenticated

                async def call() -> None:
                    with pytest.raises(rpcnet.Unauthenticated, match="is node 'squatter', not 'n1'"):
                        await client.stub(Work, node="n1").who()

                async with trio.open_nursery() as nursery:
                    for _ in range(200):
                        nursery.start_soon(call)
                        await trio.sleep(0.01)
                assert client._host.endpoint.quic_statistics().unauthenticated - before <= 6

    run(scenario)
