"""Slow is not dead: single nodes that stand still, once or again and again, while the others go on."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
from _followers import until
from _witness import Guest, moments, subjects
from _world import World, seen, stub

import rpcnet
from rpcnet.testing import SimulatedCluster, SimulatedNode, run


async def stand_still(cluster: SimulatedCluster, node: SimulatedNode, seconds: float) -> None:
    cluster.pause(node)
    await trio.sleep(seconds)
    cluster.resume(node)


def stall_of(node: SimulatedNode, name: str) -> float:
    info = node.node.registry.get(name)
    assert info is not None
    return info.stall


@pytest.mark.parametrize("seed", range(1))
@pytest.mark.parametrize("count", [3, 10])
def test_a_pause_of_five_seconds_is_survived(count: int, seed: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(count)
        await cluster.converged()
        await trio.sleep(8)
        await stand_still(cluster, nodes[1], 5.0)
        await trio.sleep(10)
        await cluster.converged(within=1)

    trace = run(scenario, seed=seed)
    assert subjects(trace, "NodeSuspected") == {"n1"}
    assert subjects(trace, "NodeFailed") == set()
    assert {"n1"} == set(seen(trace, "LocalDegraded"))


@pytest.mark.parametrize("count", [2, 3, 10])
def test_a_pause_of_thirty_seconds_is_a_failure_and_then_a_recovery(count: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(count)
        await cluster.converged()
        await trio.sleep(8)
        await stand_still(cluster, nodes[1], 30.0)
        await trio.sleep(10)
        await cluster.converged(within=1)
        assert {stall_of(node, "n1") for node in nodes} == {16.0}

    trace = run(scenario, seed=count)
    others = {f"n{i}" for i in range(count)} - {"n1"}
    assert subjects(trace, "NodeFailed") == {"n1"}
    assert moments(trace, "NodeFailed", "n1").keys() == others
    assert moments(trace, "NodeRecovered", "n1").keys() == others
    assert max(moments(trace, "NodeRecovered", "n1").values()) < 8.1 + 30 + 3


def test_a_node_with_a_busy_loop_says_so_and_is_avoided_while_there_are_others() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(4)
        caller, others, busy = nodes[0], nodes[1:3], nodes[3]
        async with trio.open_nursery() as nursery:

            async def be_busy() -> None:
                while busy.is_running:
                    await stand_still(cluster, busy, 1.5)
                    await trio.sleep(0.3)

            nursery.start_soon(be_busy)
            await until(lambda: {stall_of(node, "n3") for node in nodes} == {1.0}, within=10)
            await trio.sleep(20)
            assert stall_of(caller, "n3") == 1.0
            answers = Counter([await stub(caller).who() for _ in range(40)])
            assert answers["n3"] == 0
            assert set(answers) >= {"n1", "n2"}
            for node in (caller, *others):
                assert {info.name for info in node.node.registry.nodes() if info.is_usable} == {"n0", "n1", "n2", "n3"}
            nursery.cancel_scope.cancel()
        cluster.resume(busy)
        for node in others:
            await cluster.stop(node)
        await trio.sleep(1)
        assert await stub(caller, busy).who() == "n3"
        await trio.sleep(130)
        assert stall_of(caller, "n3") == 0.0

    trace = run(scenario)
    assert set(seen(trace, "LocalDegraded")) == {"n3"}
    assert subjects(trace, "NodeFailed") == set()


def test_who_is_known_to_stall_for_long_is_given_that_long() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(5)
        await cluster.converged()
        await trio.sleep(5)
        await stand_still(cluster, nodes[4], 5.0)
        await trio.sleep(5)
        assert {stall_of(node, "n4") for node in nodes} == {4.0}
        await stand_still(cluster, nodes[4], 7.9)
        await trio.sleep(10)
        await cluster.converged(within=1)

    trace = run(scenario, seed=3)
    assert subjects(trace, "NodeFailed") == set()


def test_an_application_hears_that_its_node_is_degraded_and_how_badly() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        (first,) = await cluster.start(1)
        guest = Guest(rpcnet.Node("guest", seeds=[first.address], security=cluster.security))
        async with trio.open_nursery() as nursery:
            await nursery.start(guest.live)
            handle = SimulatedNode("guest", guest.address, guest.node)
            handle.task = next(task for task in nursery.child_tasks)
            await trio.sleep(3)
            await stand_still(cluster, handle, 2.5)
            await trio.sleep(1)
            degraded = [event for event in guest.events if isinstance(event, rpcnet.LocalDegraded)]
            assert [(event.stall, event.handler) for event in degraded] == [(2.0, None)]
            nursery.cancel_scope.cancel()

    run(scenario)


def test_a_node_that_stands_still_does_nothing_until_it_goes_on_or_is_killed() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(3)
        await cluster.converged()
        cluster.pause(nodes[0])
        cluster.pause(nodes[1])
        await trio.sleep(0.01)
        before = [node.node.statistics().port.datagrams_sent for node in nodes]
        await trio.sleep(3)
        after = [node.node.statistics().port.datagrams_sent for node in nodes]
        assert before[:2] == after[:2]
        assert after[2] > before[2]
        cluster.resume(nodes[0])
        await cluster.crash(nodes[1])
        await trio.sleep(3)
        assert nodes[0].node.statistics().port.datagrams_sent > after[0]
        assert not nodes[1].is_running

    run(scenario)
