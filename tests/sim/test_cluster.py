"""Whole nodes in virtual time: they find each other, call each other, and notice what becomes of the others."""

from __future__ import annotations

import pytest
import trio
from _world import Work, World, seen, stub

import rpcnet
from rpcnet.testing import SimulatedCluster, run

ALIVE, FAILED, LEFT = rpcnet.NodeState.ALIVE, rpcnet.NodeState.FAILED, rpcnet.NodeState.LEFT


def test_five_nodes_join_and_call_each_other() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(5)
        for caller in nodes:
            assert [node.name for node in caller.node.registry.alive()] == ["n0", "n1", "n2", "n3", "n4"]
            for called in nodes:
                assert await stub(caller, called).who() == called.name

    run(scenario, seed=1)


@pytest.mark.parametrize("seed", range(3))
def test_a_crash_is_seen_by_all_others_and_calls_go_elsewhere(seed: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(5)
        await cluster.crash(nodes[2])
        others = [node for node in nodes if node is not nodes[2]]
        for node in others:
            await node.node.registry.wait_for(1, state=FAILED)
        assert sorted(seen(cluster.trace, "NodeFailed", "n2")) == ["n0", "n1", "n3", "n4"]
        assert not [
            entry for entry in cluster.trace if entry.what.startswith("NodeFailed") and " n2 " not in entry.what
        ]
        answers = [await stub(nodes[0]).who() for _ in range(40)]
        assert set(answers) == {"n0", "n1", "n3", "n4"}

    run(scenario, seed=seed)


def test_a_call_to_a_crashed_node_that_is_idempotent_is_answered_by_another() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(3)
        async with trio.open_nursery() as nursery:
            results: list[str] = []

            async def call() -> None:
                results.append(await nodes[0].node.stub(Work).again("key", 1.0))

            for _ in range(9):
                nursery.start_soon(call)
            await trio.sleep(0.5)
            assert {work.runs["key"] for work in world.works.values()} == {3}
            await cluster.crash(nodes[1])
        assert len(results) == 9
        assert "n1" not in results
        assert nodes[0].node.statistics().client.retries == 3

    run(scenario, seed=4)


def test_a_call_that_may_not_run_twice_does_not_and_says_that_it_may_have_run() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(3)
        errors: list[rpcnet.Unavailable] = []
        async with trio.open_nursery() as nursery:

            async def call(number: int) -> None:
                try:
                    await nodes[0].node.stub(Work).once(f"key {number}", 1.0)
                except rpcnet.Unavailable as error:
                    errors.append(error)

            for number in range(9):
                nursery.start_soon(call, number)
            await trio.sleep(0.5)
            await cluster.crash(nodes[1])
        assert len(errors) == 3
        assert not any(error.never_ran for error in errors)
        assert [world.ran(f"key {number}") for number in range(9)] == [1] * 9
        assert nodes[0].node.statistics().client.retries == 0

    run(scenario, seed=4)


@pytest.mark.parametrize("seed", range(3))
def test_a_partition_separates_and_heals(seed: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(5)
        cluster.partition(nodes[:2], nodes[2:])
        await nodes[0].node.registry.wait_for(3, state=FAILED)
        await nodes[4].node.registry.wait_for(2, state=FAILED)
        assert {await stub(nodes[0]).who() for _ in range(30)} == {"n0", "n1"}
        assert {await stub(nodes[4]).who() for _ in range(30)} == {"n2", "n3", "n4"}
        cluster.repair()
        await cluster.converged(within=15)
        assert {await stub(nodes[0]).who() for _ in range(40)} == {"n0", "n1", "n2", "n3", "n4"}
        assert seen(cluster.trace, "NodeRecovered", "n0")
        assert not seen(cluster.trace, "NodeReplaced")

    run(scenario, seed=seed)


def test_a_one_way_block_makes_no_node_fail() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(5)
        cluster.partition_oneway(nodes[0], nodes[1])
        await trio.sleep(60)
        assert not seen(cluster.trace, "NodeFailed")

    run(scenario, seed=1)


@pytest.mark.parametrize("pause", [0.0, 0.5, 30.0])
def test_a_node_that_is_started_again_has_a_higher_boot_id_and_serves_again(pause: float) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(4)
        for node in nodes:
            assert await stub(node, nodes[1]).who() == "n1"
        before = nodes[1].node.membership.local.boot_id
        await cluster.crash(nodes[1])
        await trio.sleep(pause)
        await world.bounce(nodes[1])
        await cluster.converged()
        after = nodes[1].node.membership.local.boot_id
        assert after > before
        for node in nodes:
            info = node.node.registry.get("n1")
            assert info is not None
            assert (info.boot_id, info.state) == (after, ALIVE)
            assert await stub(node, nodes[1]).who() == "n1"
        for other in ("n0", "n2", "n3"):
            news = [
                entry.what.split()[0]
                for entry in cluster.trace
                if entry.node == other and f" n1 boot={after} " in entry.what
            ]
            assert news[0] == ("NodeJoined" if pause == 30 else "NodeReplaced")

    run(scenario, seed=2)


def test_calls_of_a_node_that_was_just_started_again_are_not_cut() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(4)
        for node in nodes:
            await stub(node, nodes[1]).who()
        await world.bounce(nodes[1])
        async with trio.open_nursery() as nursery:
            for other in (nodes[0], nodes[2], nodes[3]):
                nursery.start_soon(stub(nodes[1], other).once, f"to {other.name}", 2.0)
                nursery.start_soon(stub(other, nodes[1]).once, f"from {other.name}", 2.0)

    for seed in range(4):
        run(scenario, seed=seed)


@pytest.mark.parametrize("seed", range(3))
def test_a_graceful_end_is_seen_as_a_goodbye_and_never_as_a_failure(seed: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(6)
        begun = trio.current_time()
        await cluster.stop(nodes[3])
        assert trio.current_time() - begun <= 2.5
        for node in cluster.running:
            await node.node.registry.wait_for(1, state=LEFT)
        assert trio.current_time() - begun <= 3
        await trio.sleep(60)
        assert sorted(seen(cluster.trace, "NodeLeft", "n3")) == ["n0", "n1", "n2", "n4", "n5"]
        assert not seen(cluster.trace, "NodeFailed")
        assert not seen(cluster.trace, "NodeSuspected")
        assert {await stub(nodes[0]).who() for _ in range(40)} == {"n0", "n1", "n2", "n4", "n5"}

    run(scenario, seed=seed)


def test_a_node_that_left_by_hand_stays_gone_and_ends_at_once() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(3)
        await nodes[1].node.leave()
        await nodes[0].node.registry.wait_for(1, state=LEFT)
        await trio.sleep(30)
        begun = trio.current_time()
        await cluster.stop(nodes[1])
        assert trio.current_time() == begun
        assert seen(cluster.trace, "NodeLeft", "n1").count("n0") == 1
        assert not seen(cluster.trace, "NodeFailed")

    run(scenario, seed=1)


def test_a_leave_that_was_cancelled_is_made_up_for_at_the_end() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(3)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stub(nodes[0], nodes[1]).once, "running", 5.0)
            await trio.sleep(0.1)
            with trio.move_on_after(0.5) as scope:
                await nodes[1].node.leave()
            assert scope.cancelled_caught
            await cluster.stop(nodes[1])
        assert world.works["n1"].ended
        await nodes[0].node.registry.wait_for(1, state=LEFT)
        assert not seen(cluster.trace, "NodeFailed")

    run(scenario, seed=1)


def test_new_tags_reach_everybody_and_change_who_is_called() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(5, tags=lambda name: {"name": name})
        await nodes[3].node.update_tags({"gpu": "a100", "zone": "eu"})
        assert dict(nodes[3].node.tags) == {"name": "n3", "gpu": "a100", "zone": "eu"}
        for node in nodes:
            assert [info.name for info in await node.node.registry.wait_for(1, where="gpu")] == ["n3"]
            assert node.node.workers.worker_count("zone=eu") == 1
            assert await node.node.stub(Work, where="gpu=a100,zone=eu").who() == "n3"
        await nodes[3].node.remove_tags("gpu", "never set")
        await trio.sleep(5)
        for node in nodes:
            assert node.node.workers.worker_count("gpu") == 0
            assert node.node.workers.select_worker("zone=eu").name == "n3"
        updates = seen(cluster.trace, "NodeUpdated", "n3")
        assert {updates.count(node.name) for node in nodes} == {2}

    run(scenario, seed=3)


def test_tags_set_by_two_tasks_at_once_are_both_there() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(2)
        await cluster.converged()
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for number in range(5):
                    nursery.start_soon(nodes[0].node.update_tags, {f"tag{number}": "x"})
                nursery.start_soon(nodes[0].node.remove_tags, "nothing")
        assert sorted(nodes[0].node.tags) == [f"tag{number}" for number in range(5)]
        await nodes[1].node.registry.wait_for(1, where="tag0,tag1,tag2,tag3,tag4")

    run(scenario, seed=3)


def test_tags_that_are_too_large_are_refused_and_change_nothing() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        (node,) = await cluster.start(1)
        await node.node.update_tags({"kept": "yes"})
        with pytest.raises(rpcnet.ConfigError, match="65536"):
            await node.node.update_tags({"huge": "x" * 65536})
        assert dict(node.node.tags) == {"kept": "yes"}
        await node.node.update_tags({"more": "yes"})
        assert dict(node.node.tags) == {"kept": "yes", "more": "yes"}

    run(scenario)
