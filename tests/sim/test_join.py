"""Joining: through which seeds, under which name, with which secret; and what an error says."""

from __future__ import annotations

import pytest
import trio
from _world import Work, World, stub

import rpcnet
from rpcnet.testing import SimulatedCluster, run

ALIVE, FAILED, LEFT = rpcnet.NodeState.ALIVE, rpcnet.NodeState.FAILED, rpcnet.NodeState.LEFT


def test_a_node_with_the_name_of_a_live_one_is_refused_and_nobody_notices() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(3)
        noticed = len(cluster.trace)
        twin = rpcnet.Node("n1", seeds=[nodes[0].address, nodes[2].address], security=cluster.security)
        with pytest.raises(rpcnet.NameConflict, match=r"'n1' belongs to a live node at 10\.0\.0\.2:7946"):
            await twin.__aenter__()
        await trio.sleep(30)
        assert cluster.trace[noticed:] == ()
        assert await stub(nodes[0], nodes[1]).who() == "n1"

    run(scenario, seed=1)


def test_the_name_of_a_failed_node_is_free_for_another_address() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(3)
        await cluster.crash(nodes[1])
        await nodes[0].node.registry.wait_for(1, state=FAILED)
        async with rpcnet.Node(
            "n1", seeds=[nodes[0].address], services=[Work("the new n1")], security=cluster.security
        ) as other:
            await nodes[0].node.registry.wait_for(3)
            assert await nodes[0].node.stub(Work, node="n1").who() == "the new n1"
            assert other.id == nodes[1].node.id

    run(scenario, seed=1)


def test_a_join_that_nobody_answers_names_every_seed_and_what_it_answered() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        seeds = ["10.9.9.1:7946", "10.9.9.2:7946", "nowhere.example:7946"]
        begun = trio.current_time()
        with pytest.raises(rpcnet.JoinError) as caught:
            await rpcnet.Node("a", seeds=seeds, security=cluster.security).__aenter__()
        assert 10 <= trio.current_time() - begun <= 12.5
        assert list(caught.value.answers) == seeds
        for seed in seeds:
            assert f"{seed}: {caught.value.answers[seed]}" in str(caught.value)
        assert "no connection" in caught.value.answers["10.9.9.1:7946"]
        assert "nowhere.example" in caught.value.answers["nowhere.example:7946"]

    run(scenario)


def test_one_seed_that_answers_is_enough() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        (first,) = await cluster.start(1)
        seeds = ["nowhere.example:7946", "10.9.9.1:7946", first.address]
        begun = trio.current_time()
        async with rpcnet.Node("a", seeds=seeds, security=cluster.security) as node:
            assert trio.current_time() - begun < 1
            assert [info.name for info in node.registry.alive()] == ["a", "n0"]
            await trio.sleep(120)
            assert [info.name for info in node.registry.alive()] == ["a", "n0"]
            assert node.statistics().restarts["membership"] == 0

    run(scenario)


def test_a_name_that_does_not_resolve_among_the_seeds_does_no_harm_later() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        (first,) = await cluster.start(1)
        async with rpcnet.Node("a", seeds=["nowhere.example:7946", first.address], security=cluster.security) as node:
            await cluster.crash(first)
            await node.registry.wait_for(1, state=FAILED)
            await trio.sleep(300)
            assert node.statistics().restarts["membership"] == 0

    run(scenario)


def test_joining_in_the_background_keeps_trying() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        config = rpcnet.NodeConfig(join="background")
        async with rpcnet.Node("early", seeds=["10.0.0.2:7946"], security=cluster.security, config=config) as early:
            assert trio.current_time() == 0
            assert [info.name for info in early.registry.alive()] == ["early"]
            await trio.sleep(40)
            (late,) = await cluster.start(1)
            assert late.address == "10.0.0.2:7946"
            with trio.fail_after(20):
                await early.registry.wait_for(2)
            await late.node.registry.wait_for(2)

    run(scenario)


def test_joining_by_hand() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        (first,) = await cluster.start(1)
        async with rpcnet.Node("a", security=cluster.security) as node:
            with pytest.raises(rpcnet.JoinError, match=r"10\.9\.9\.1:7946"):
                await node.join(["10.9.9.1:7946"])
            await node.join([first.address])
            assert [info.name for info in node.registry.alive()] == ["a", "n0"]
            await first.node.registry.wait_for(2)

    run(scenario)


def test_a_node_that_has_left_says_that_it_cannot_join_again() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        one, other = await cluster.start(2)
        await cluster.converged()
        await other.node.leave()
        with pytest.raises(RuntimeError, match="has left"):
            await other.node.join([one.address])
        async with rpcnet.Node("again", seeds=[one.address], security=cluster.security):
            await one.node.registry.wait_for(2)

    run(scenario)


def test_joining_one_two_and_many_at_once() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start(1)
        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(cluster.start)
        assert len(cluster.running) == 13
        await cluster.converged(within=10)

    for seed in range(3):
        run(scenario, seed=seed)


def test_a_node_of_another_secret_cannot_join_and_its_datagrams_change_nothing() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(2)
        await cluster.converged()
        noticed = len(cluster.trace)
        stranger = rpcnet.Security.shared_secret("another secret, long enough", cluster="simulation")
        with pytest.raises(rpcnet.JoinError) as caught:
            await rpcnet.Node("stranger", seeds=[nodes[0].address], security=stranger).__aenter__()
        assert "certificate" in caught.value.answers[nodes[0].address]
        await trio.sleep(30)
        assert cluster.trace[noticed:] == ()
        quic = nodes[0].node.statistics().quic
        assert quic.handshakes_failed + quic.unauthenticated > 0

    run(scenario)


def test_a_node_of_another_cluster_with_the_same_secret_cannot_join() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        secret = "a secret that both clusters share"
        ours, theirs = (rpcnet.Security.shared_secret(secret, cluster=name) for name in ("ours", "theirs"))
        async with rpcnet.Node("a", security=ours) as node:
            with pytest.raises(rpcnet.JoinError):
                await rpcnet.Node("b", seeds=[node.address], security=theirs).__aenter__()
            assert len(node.registry.nodes()) == 1

    run(scenario)


def test_a_refusal_for_good_ends_the_join_at_once() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        (node,) = await cluster.start(1)
        stranger = rpcnet.Security.shared_secret("another secret, long enough", cluster="simulation")
        begun = trio.current_time()
        with pytest.raises(rpcnet.JoinError):
            async with rpcnet.Node("stranger", seeds=[node.address], security=stranger):
                pass
        assert trio.current_time() - begun < 2

    run(scenario)


def test_a_node_that_was_killed_rejoins_at_another_address_before_anybody_noticed() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(3)
        await cluster.crash(nodes[1])
        begun = trio.current_time()
        async with rpcnet.Node("n1", seeds=[nodes[0].address], security=cluster.security):
            assert trio.current_time() - begun < 2
            assert [node.state for node in nodes[0].node.registry.nodes()] == [rpcnet.NodeState.ALIVE] * 3

    run(scenario, seed=2)
