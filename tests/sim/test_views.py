"""What an application reads of the cluster, and waits for."""

from __future__ import annotations

import random

import pytest
import trio
from _world import World, stub

import rpcnet
from rpcnet.testing import SimulatedCluster, run

ALIVE, FAILED, LEFT = rpcnet.NodeState.ALIVE, rpcnet.NodeState.FAILED, rpcnet.NodeState.LEFT


def test_waiting_for_nodes_by_number_tag_and_state() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        (first,) = await cluster.start(1)
        found: dict[str, list[str]] = {}

        async def wait(name: str, n: int, where: str, state: rpcnet.NodeState) -> None:
            nodes = await first.node.registry.wait_for(n, where=where, state=state)
            found[name] = [node.name for node in nodes]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, "three", 3, "", ALIVE)
            nursery.start_soon(wait, "odd", 1, "odd", ALIVE)
            nursery.start_soon(wait, "failed", 1, "", FAILED)
            nursery.start_soon(wait, "nobody", 0, "nobody-has-it", ALIVE)
            others = await cluster.start(2, tags=lambda name: {"odd": "yes"} if name == "n1" else {})
            await trio.sleep(1)
            assert found == {"nobody": [], "three": ["n0", "n1", "n2"], "odd": ["n1"]}
            await cluster.crash(others[0])
        assert found["failed"] == ["n1"]

    run(scenario)


def test_where_finds_usable_nodes_only() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(3, tags=lambda name: {"role": "worker"})
        await cluster.converged()
        registry = nodes[0].node.registry
        assert len(registry.where("role=worker")) == 3
        await cluster.crash(nodes[1])
        await registry.wait_for(1, state=FAILED)
        await cluster.stop(nodes[2])
        await registry.wait_for(1, state=LEFT)
        assert [node.name for node in registry.where("role=worker")] == ["n0"]
        assert [node.name for node in registry.nodes()] == ["n0", "n1", "n2"]
        with pytest.raises(rpcnet.ConfigError, match="column"):
            registry.where("role=")

    run(scenario)


def test_the_worker_registry_counts_chooses_and_knows_what_is_under_way() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(3)
        (idle,) = await cluster.start(1)
        await cluster.converged()
        workers = idle.node.workers
        assert workers.worker_count() == 3
        assert [node.name for node in workers.workers()] == ["n0", "n1", "n2"]
        assert workers.select_worker().name in {"n0", "n1", "n2"}
        with pytest.raises(rpcnet.NoWorkers, match="gpu"):
            workers.select_worker("gpu")
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(stub(idle).again, "key", 1.0)
            await trio.sleep(0.5)
            assert [workers.active_calls(node.node.id) for node in nodes] == [2, 2, 2]
            assert [node.node.statistics().active_calls for node in nodes] == [2, 2, 2]
        assert [workers.active_calls(node.node.id) for node in nodes] == [0, 0, 0]
        assert [node.node.statistics().active_calls for node in nodes] == [0, 0, 0]

    run(scenario)


def test_waiting_for_what_never_comes_ends_with_the_node() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        errors: list[Exception] = []

        async def wait(node: rpcnet.Node) -> None:
            try:
                await node.registry.wait_for(5)
            except RuntimeError as error:
                errors.append(error)

        async with trio.open_nursery() as nursery, rpcnet.Node("a", security=cluster.security) as node:
            nursery.start_soon(wait, node)
            await trio.sleep(1)
        assert len(errors) == 1

    run(scenario)


def test_phi_grows_while_a_node_is_silent() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(3)
        await cluster.converged()
        await trio.sleep(10)
        membership, lost = nodes[0].node.membership, nodes[2].node.id
        assert membership.phi(lost) < 1
        await cluster.crash(nodes[2])
        async with nodes[0].node.events(rpcnet.NodeSuspected) as events:
            await anext(events)
        await trio.sleep(1)
        assert membership.phi(lost) > 0
        await nodes[0].node.registry.wait_for(1, state=FAILED)
        await trio.sleep(0.1)
        assert membership.phi(lost) == float("inf")
        assert membership.phi("nobody") == 0
        assert membership.phi(nodes[0].node.id) == 0

    run(scenario)


def test_the_counts_of_a_client_stay_bounded_while_nodes_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rpcnet.client._MAX_COUNTED_NODES", 2)

    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        one, *others = await world.start(5)
        for other in others:
            assert await stub(one, other).who() == other.name
        counted = one.node.statistics().client.per_node
        assert [counted[other.node.id].done for other in others[-2:]] == [1, 1]
        assert len(counted) == 2

    run(scenario)


class Nearest:
    """Chooses the worker with the shortest round trip."""

    def select(self, workers: rpcnet.WorkerView) -> rpcnet.NodeInfo:
        def far(node: rpcnet.NodeInfo) -> float:
            rtt = workers.rtt(node.id)
            return 9.0 if rtt is None else rtt

        return min(workers.nodes, key=far)


def test_a_strategy_can_go_by_the_round_trip_without_a_ping() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        first, near, far = await world.start(3)
        for source, destination in ((first, far), (far, first), (near, far), (far, near)):
            cluster.set_latency(source, destination, 0.05, 0.05)
        await trio.sleep(90)
        assert first.node.rtt("n1") == pytest.approx(0.002, rel=0.5)
        assert first.node.rtt("n2") == pytest.approx(0.1, rel=0.5)
        assert first.node.rtt("n0") == 0
        with pytest.raises(rpcnet.NotFound, match="no node 'n9'"):
            first.node.rtt("n9")
        client = rpcnet.ClusterClient(first.node, balancing=Nearest())
        workers = [node for node in first.node.workers.workers() if node.name != "n0"]
        view = rpcnet.WorkerView(tuple(workers), {}, random.Random(1), first.node.membership.rtt)
        assert Nearest().select(view).name == "n1"
        assert client.workers.select_worker().name == "n0"

    run(scenario)
