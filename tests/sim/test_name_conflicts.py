"""Two live nodes of one name: which of them keeps it, what the other one is told, and that nobody else suffers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from _followers import until
from _witness import Guest, island, one_cluster, subjects

import rpcnet
from rpcnet.testing import SimulatedCluster, SimulatedNode, run


def twin(cluster: SimulatedCluster, seed: SimulatedNode) -> Guest:
    return Guest(rpcnet.Node("twin", seeds=[seed.address], security=cluster.security))


def states_of(nodes: list[SimulatedNode], name: str) -> Callable[[], set[tuple[rpcnet.NodeState, str] | None]]:
    """Return a function that tells what the nodes believe of one: its state and address."""

    def look() -> set[tuple[rpcnet.NodeState, str] | None]:
        found = [node.node.registry.get(name) for node in nodes]
        return {None if info is None else (info.state, info.address) for info in found}

    return look


async def settle(twins: list[Guest]) -> tuple[Guest, Guest]:
    """Wait until one of two has ended; return who survived and who did not."""
    await until(lambda: any(guest.ended_by is not None for guest in twins), within=45)
    (survivor,) = [guest for guest in twins if guest.ended_by is None]
    (loser,) = [guest for guest in twins if guest.ended_by is not None]
    return survivor, loser


def check_the_loser(loser: Guest) -> None:
    assert isinstance(loser.ended_by, rpcnet.NodeCrashed)
    assert isinstance(loser.ended_by.__cause__, rpcnet.NameConflict)
    assert "'twin' belongs to a node at" in str(loser.ended_by.__cause__)
    assert loser.conflicts() == [True]


@pytest.mark.parametrize("seed", range(2))
def test_of_two_that_join_at_the_same_moment_through_different_seeds_one_survives(seed: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(5)
        await cluster.converged()
        async with trio.open_nursery() as nursery:
            twins = [twin(cluster, nodes[0]), twin(cluster, nodes[4])]
            for guest in twins:
                nursery.start_soon(guest.live)
            survivor, loser = await settle(twins)
            check_the_loser(loser)
            assert survivor.address < str(loser.ended_by).split(" at ")[-1].rstrip("'")
            await one_cluster([*(node.node for node in nodes), survivor.node], within=10)
            await trio.sleep(30)
            assert states_of(nodes, "twin")() == {(rpcnet.NodeState.ALIVE, survivor.address)}
            assert set(survivor.conflicts()) == {False}
            assert survivor.ended_by is None
            nursery.cancel_scope.cancel()

    trace = run(scenario, seed=seed)
    assert subjects(trace, "NodeFailed") == subjects(trace, "NodeLeft") - {"twin"} == set()


@pytest.mark.parametrize("seed", range(2))
def test_when_two_islands_that_each_have_the_name_meet_the_later_one_ends(seed: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        async with trio.open_nursery() as nursery:
            ours = await island(cluster, 3)
            late = twin(cluster, ours[2])
            theirs = await island(cluster, 3)
            early = twin(cluster, theirs[0])
            await nursery.start(early.live)
            await trio.sleep(3)
            await nursery.start(late.live)
            await trio.sleep(5)
            assert not early.conflicts()
            assert not late.conflicts()
            await ours[1].node.join([theirs[1].address])
            survivor, loser = await settle([early, late])
            assert survivor is early
            check_the_loser(loser)
            await one_cluster([*(node.node for node in cluster.running), early.node], within=15)
            await trio.sleep(30)
            assert states_of([*ours, *theirs], "twin")() == {(rpcnet.NodeState.ALIVE, early.address)}
            nursery.cancel_scope.cancel()

    trace = run(scenario, seed=seed)
    assert subjects(trace, "NodeFailed") == set()


@pytest.mark.parametrize("seed", range(2))
def test_a_node_that_starts_again_elsewhere_is_no_conflict(seed: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(5)
        await cluster.converged()
        others = nodes[:4]
        await cluster.crash(nodes[4])
        async with trio.open_nursery() as nursery:
            again = Guest(rpcnet.Node("n4", seeds=[nodes[3].address], security=cluster.security))
            await nursery.start(again.live)
            await trio.sleep(20)
            assert states_of(others, "n4")() == {(rpcnet.NodeState.ALIVE, again.address)}
            assert again.address != nodes[4].address
            assert again.conflicts() == []
            assert again.ended_by is None
            nursery.cancel_scope.cancel()

    trace = run(scenario, seed=seed)
    assert subjects(trace, "NodeFailed") == set()
    assert subjects(trace, "NodeReplaced") == {"n4"}
