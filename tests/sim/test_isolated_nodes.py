"""One node that loses everybody: it takes the fault on itself, and nobody else is harmed."""

from __future__ import annotations

import pytest
import trio
from _witness import one_cluster, subjects
from _world import seen

from rpcnet.testing import SimulatedCluster, run

NAMES = {f"n{i}" for i in range(10)}


@pytest.mark.parametrize("seed", range(1))
@pytest.mark.parametrize("seconds", [20.0, 75.0])
def test_a_node_of_ten_that_loses_everything_says_so_and_no_other_is_declared_failed(seconds: float, seed: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(10)
        await cluster.converged()
        await trio.sleep(12)
        *others, alone = nodes
        cluster.partition(others, [alone])
        await trio.sleep(seconds)
        assert seen(cluster.trace, "SelfIsolated") == ["n9"]
        assert not alone.node.membership.writable
        assert all(node.node.membership.writable for node in others)
        if seconds > 60:
            assert [info.name for info in alone.node.registry.alive()] == ["n9"]
        cluster.repair()
        await one_cluster([node.node for node in nodes], within=20)
        await trio.sleep(20)
        await one_cluster([node.node for node in nodes], within=1)

    trace = run(scenario, seed=seed)
    assert subjects([entry for entry in trace if entry.node != "n9"], "NodeFailed") == {"n9"}
    assert subjects(trace, "NodeFailed", by="n9") == (NAMES - {"n9"} if seconds > 60 else set())


def test_a_node_that_loses_nearly_everything_it_receives_does_not_take_others_with_it() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(10)
        await cluster.converged()
        await trio.sleep(12)
        *others, deaf = nodes
        for other in others:
            cluster.set_loss(other, deaf, 0.9)
        await trio.sleep(90)
        for other in others:
            cluster.set_loss(other, deaf, 0.0)
        await one_cluster([node.node for node in nodes], within=20)

    trace = run(scenario, seed=5)
    assert subjects([entry for entry in trace if entry.node != "n9"], "NodeFailed") <= {"n9"}
