"""Paths that do not work though both ends do: nobody is declared failed, and who cannot get through says so."""

from __future__ import annotations

import pytest
import trio
from _witness import all_know, subjects
from _world import World, seen, stub

from rpcnet.testing import SimulatedCluster, run


@pytest.mark.parametrize("seed", range(1))
@pytest.mark.parametrize("count", [3, 8])
def test_a_one_way_block_for_ninety_seconds_kills_nobody_and_is_named_by_its_two_ends(count: int, seed: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(count)
        await cluster.converged()
        await trio.sleep(5)
        cluster.partition_oneway(nodes[1], nodes[2])
        await trio.sleep(90)
        await cluster.converged(within=1)
        cluster.repair()
        await trio.sleep(15)
        await cluster.converged(within=1)

    trace = run(scenario, seed=seed)
    assert subjects(trace, "NodeFailed") == set()
    assert subjects(trace, "LinkDegraded", by="n1") == {"n2"}
    assert subjects(trace, "LinkDegraded", by="n2") == {"n1"}
    assert set(seen(trace, "LinkDegraded")) == {"n1", "n2"}
    assert len(seen(trace, "LinkDegraded")) <= 4


def test_a_link_that_is_cut_both_ways_between_two_of_five_is_no_death() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(5)
        await cluster.converged()
        cluster.partition(nodes[:1], nodes[4:])
        await trio.sleep(60)
        await cluster.converged(within=1)
        await cluster.kill(nodes[3])
        await all_know(cluster, "NodeFailed", "n3", within=10)

    trace = run(scenario, seed=4)
    assert subjects(trace, "NodeFailed") == {"n3"}
    assert subjects(trace, "LinkDegraded", by="n0") == {"n4"}
    assert subjects(trace, "LinkDegraded", by="n4") == {"n0"}


@pytest.mark.parametrize("is_calling", [False, True])
def test_a_peer_that_answers_calls_is_not_probed_for_nothing(is_calling: bool) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        one, other = await world.start(2)
        await trio.sleep(5)
        before = one.node.statistics().membership.sent
        for _ in range(120):
            if is_calling:
                await stub(one, other).who()
            await trio.sleep(0.5)
        sent = one.node.statistics().membership.sent - before
        if is_calling:
            assert sent <= 2 * 60 / 10 + 8
        else:
            assert sent >= 2 * 55

    trace = run(scenario)
    assert seen(trace, "NodeSuspected") == []
