"""Nodes that start inside a part of a cluster that has been cut, as whole nodes on a simulated network."""

from __future__ import annotations

import trio

import rpcnet
from rpcnet.testing import SimulatedCluster, SimulatedNode, run

STABLE = 10.0
"""Seconds after which a cluster of a few nodes has come to a stable point."""
PARTED = 30.0
"""Seconds after which all nodes of a few know that the cluster has been cut."""
HEALED = 45.0
"""Seconds within which all nodes of a few have found together and may go on, those that followed others included."""


def may_write(nodes: list[SimulatedNode]) -> list[bool]:
    return [node.node.membership.writable for node in nodes]


async def cut_in_two(cluster: SimulatedCluster, settings: rpcnet.NodeConfig) -> list[SimulatedNode]:
    """Start five nodes, and cut off the last two."""
    nodes = await cluster.start(5, config=settings)
    await cluster.converged()
    await trio.sleep(STABLE)
    cluster.partition(nodes[:3], nodes[3:])
    await trio.sleep(PARTED)
    return nodes


def test_a_node_that_starts_in_a_minority_is_not_writable_until_the_cut_has_healed() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        settings = rpcnet.NodeConfig.lan()
        nodes = await cut_in_two(cluster, settings)
        few = nodes[3:]
        async with rpcnet.Node("late", seeds=[few[0].address], security=cluster.security, config=settings) as late:
            cluster.partition(nodes[:3], [SimulatedNode("late", late.address, late)])
            for _ in range(30):
                await trio.sleep(1)
                assert not late.membership.writable
            assert (may_write(nodes[:3]), may_write(few)) == ([True] * 3, [False] * 2)
            assert late.membership.local.is_following
            told = {node.name: (node.is_halted, node.is_following) for node in few[0].node.membership.members()}
            assert (told["n3"], told["n4"], told["late"]) == ((True, False), (True, False), (True, True))
            cluster.repair()
            await trio.sleep(HEALED)
            assert all(may_write(nodes))
            assert late.membership.writable
            assert not any(node.is_halted for node in late.membership.members())

    run(scenario, seed=11)


def test_a_node_that_starts_with_the_majority_is_writable() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        settings = rpcnet.NodeConfig.lan()
        nodes = await cut_in_two(cluster, settings)
        async with rpcnet.Node("late", seeds=[nodes[0].address], security=cluster.security, config=settings) as late:
            cluster.partition(nodes[3:], [SimulatedNode("late", late.address, late)])
            await trio.sleep(PARTED)
            assert late.membership.writable
            assert (may_write(nodes[:3]), may_write(nodes[3:])) == ([True] * 3, [False] * 2)

    run(scenario, seed=12)
