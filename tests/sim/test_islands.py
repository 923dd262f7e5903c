"""Clusters that started apart: they meet through seeds, without an operator; and what a seed that is down costs."""

from __future__ import annotations

import pytest
import trio
from _witness import one_cluster, subjects

import rpcnet
from rpcnet.testing import SimulatedCluster, SimulatedNode, run

SEEDS = ["dns://nodes.example:7946"]


async def by_name(cluster: SimulatedCluster, count: int) -> list[SimulatedNode]:
    """Start nodes that all look for each other under one name, which stands for the first of them so far."""
    cluster.set_name("nodes.example", [])
    first = await cluster.start(1, seeds=SEEDS, config=rpcnet.NodeConfig(join="background"))
    cluster.set_name("nodes.example", [first[0].host])
    return [*first, *await cluster.start(count - 1, seeds=SEEDS)]


@pytest.mark.parametrize("seed", range(1))
def test_two_islands_meet_when_their_seeds_come_to_name_both(seed: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        ours = await by_name(cluster, 4)
        theirs = await by_name(cluster, 3)
        await one_cluster([node.node for node in ours], within=5)
        await one_cluster([node.node for node in theirs], within=5)
        cluster.set_name("nodes.example", [ours[0].host, theirs[0].host])
        await one_cluster([node.node for node in (*ours, *theirs)], within=60)
        await trio.sleep(20)
        await one_cluster([node.node for node in (*ours, *theirs)], within=1)

    trace = run(scenario, seed=seed)
    assert subjects(trace, "NodeFailed") == set()


@pytest.mark.parametrize("seed", range(1))
def test_two_nodes_that_each_thought_to_be_the_first_meet(seed: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        one, other = await by_name(cluster, 1), await by_name(cluster, 1)
        cluster.set_name("nodes.example", [one[0].host, other[0].host])
        await one_cluster([one[0].node, other[0].node], within=60)

    run(scenario, seed=seed)


def traffic(nodes: list[SimulatedNode]) -> int:
    return sum(node.node.statistics().port.bytes_sent for node in nodes)


async def idle_traffic(cluster: SimulatedCluster, seeds: list[str], seconds: float) -> float:
    """Return what five idle nodes send per node and second, in bytes."""
    first = await cluster.start(1, seeds=())
    nodes = [*first, *await cluster.start(4, seeds=[first[0].address, *seeds])]
    await cluster.converged()
    await trio.sleep(60)
    before = traffic(nodes)
    await trio.sleep(seconds)
    return (traffic(nodes) - before) / seconds / len(nodes)


def test_a_seed_that_is_down_costs_little() -> None:
    rates: list[float] = []

    async def without(cluster: SimulatedCluster) -> None:
        rates.append(await idle_traffic(cluster, [], 200))

    async def with_one(cluster: SimulatedCluster) -> None:
        rates.append(await idle_traffic(cluster, ["10.9.9.9:7946"], 200))

    run(without)
    run(with_one)
    assert 50 < rates[0] < 600
    assert rates[0] < rates[1] < rates[0] + 200
