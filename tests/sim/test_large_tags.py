"""Tags that are too large for gossip: told by digest, fetched from whoever has them."""

from __future__ import annotations

import re

import pytest
import trio
from _followers import until

import rpcnet
from rpcnet.testing import SimulatedCluster, SimulatedNode, run

LARGE = {"role": "store", "map": "x" * 20_000}


def tags(node: SimulatedNode, name: str) -> dict[str, str]:
    """Return the tags of another node as one sees them."""
    info = node.node.registry.get(name)
    return {} if info is None else dict(info.tags)


async def everybody_sees(nodes: list[SimulatedNode], name: str, expected: dict[str, str], within: float = 5.0) -> None:
    await until(lambda: all(tags(node, name) == expected for node in nodes), within=within)


@pytest.mark.parametrize("seed", range(1))
def test_large_tags_reach_everybody_when_they_are_set_changed_and_removed(seed: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(6)
        await cluster.converged()
        for one in nodes:
            for other in nodes:
                cluster.set_loss(one, other, 0.1)
        owner = nodes[2].node
        await owner.update_tags(LARGE)
        await everybody_sees(nodes, "n2", LARGE)
        assert [info.name for info in nodes[5].node.registry.where("role = store")] == ["n2"]
        changed = {**LARGE, "map": "y" * 30_000}
        await owner.update_tags(changed)
        await everybody_sees(nodes, "n2", changed)
        await owner.remove_tags("map")
        await everybody_sees(nodes, "n2", {"role": "store"})

    run(scenario, seed=seed)


def test_a_node_that_starts_with_large_tags_and_one_that_joins_later_see_each_others() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(3, tags=lambda name: {**LARGE, "who": name})
        await cluster.converged()
        nodes += await cluster.start(1, tags=lambda name: {**LARGE, "who": name})
        for node in nodes:
            await everybody_sees(nodes, node.name, {**LARGE, "who": node.name})

    run(scenario)


def test_tags_of_a_node_that_cannot_be_reached_are_fetched_from_another_holder() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(4)
        await cluster.converged()
        cluster.partition(nodes[:1], nodes[3:])
        await nodes[0].node.update_tags(LARGE)
        await everybody_sees(nodes, "n0", LARGE, within=20.0)

    run(scenario)


@pytest.mark.parametrize("seed", range(1))
def test_a_newcomer_gets_the_tags_of_an_owner_that_has_just_died(seed: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(4)
        await cluster.converged()
        await nodes[0].node.update_tags(LARGE)
        await everybody_sees(nodes, "n0", LARGE)
        await cluster.crash(nodes[0])
        (late,) = await cluster.start(1)
        await everybody_sees([late], "n0", LARGE, within=45.0)
        assert late.node.statistics().restarts["membership"] == 0

    run(scenario, seed=seed)


def test_who_was_paused_sees_only_the_last_of_many_changes() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(4)
        await cluster.converged()
        cluster.pause(nodes[3])
        for number in range(3):
            await nodes[0].node.update_tags({"map": str(number) * 20_000})
            await trio.sleep(1)
        cluster.resume(nodes[3])
        await everybody_sees(nodes, "n0", {"map": "2" * 20_000})

    run(scenario)


def test_what_is_above_the_limit_is_refused_with_both_sizes_and_changes_nothing() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        (one,) = await cluster.start(1)
        await one.node.update_tags(LARGE)
        with pytest.raises(rpcnet.ConfigError) as caught:
            await one.node.update_tags({"more": "z" * 50_000})
        taken, allowed = map(int, re.findall(r"\d+", str(caught.value)))
        assert allowed == 65536
        assert 70_000 < taken < 70_100
        assert one.node.tags == LARGE
        await one.node.update_tags({"more": "z" * 45_000})
        assert len(one.node.tags["more"]) == 45_000

    run(scenario)
