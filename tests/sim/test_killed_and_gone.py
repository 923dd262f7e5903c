"""How soon a death is known: of a process on a live host, of a host, and of one whose address somebody else has."""

from __future__ import annotations

import statistics

import pytest
import trio
from _witness import all_know, moments, subjects

import rpcnet
from rpcnet.testing import SimulatedCluster, run

SIZES = [2, 3, 5, 10]


def death(count: int, seed: int, *, is_host_gone: bool) -> float:
    """Let one of some nodes die; return the virtual seconds until all know. Nobody else may be declared failed."""
    taken: list[float] = []

    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(count)
        await cluster.converged()
        await trio.sleep(10)
        await (cluster.crash if is_host_gone else cluster.kill)(nodes[-1])
        taken.append(await all_know(cluster, "NodeFailed", nodes[-1].name, within=30))

    trace = run(scenario, seed=seed)
    assert subjects(trace, "NodeFailed") == {f"n{count - 1}"}
    return taken[0]


@pytest.mark.parametrize("count", SIZES)
def test_a_process_killed_on_a_live_host_is_known_much_sooner_than_a_host_that_is_gone(count: int) -> None:
    seeds = range(3)
    killed = [death(count, seed, is_host_gone=False) for seed in seeds]
    gone = [death(count, seed, is_host_gone=True) for seed in seeds]
    assert statistics.median(killed) <= 3.5
    assert max(killed) <= 6
    assert all(later > sooner + 2 for sooner, later in zip(killed, gone, strict=True))
    assert statistics.median(gone) <= 9
    assert max(gone) <= 12
    assert min(gone) > 5


@pytest.mark.parametrize("seed", range(1))
def test_a_node_whose_address_answers_as_another_one_is_declared_failed_at_the_first_answer(seed: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(5)
        await cluster.converged()
        await trio.sleep(5)
        heard: list[rpcnet.NodeFailed] = []

        async def listen(node: rpcnet.Node, *, task_status: trio.TaskStatus[None]) -> None:
            async with node.events(rpcnet.NodeFailed) as events:
                task_status.started()
                async for event in events:
                    assert isinstance(event, rpcnet.NodeFailed)
                    heard.append(event)

        async with trio.open_nursery() as nursery:
            for node in nodes[:4]:
                await nursery.start(listen, node.node)
            await cluster.crash(nodes[4])
            other = rpcnet.Node("other", bind=nodes[4].address, seeds=[nodes[0].address], security=cluster.security)
            async with other:
                assert other.address == nodes[4].address
                taken = await all_know(cluster, "NodeFailed", "n4", within=30)
                assert taken <= 4.5
                assert "another node has its address now" in {event.reason for event in heard}
                await trio.sleep(20)
                for node in nodes[:4]:
                    assert {info.name for info in node.node.registry.alive()} == {"n0", "n1", "n2", "n3", "other"}
            nursery.cancel_scope.cancel()

    trace = run(scenario, seed=seed)
    assert subjects(trace, "NodeFailed") == {"n4"}
    assert not moments(trace, "NodeRecovered", "n4")
