"""What membership promises, held by ten whole nodes: tasks, sealed datagrams, QUIC, virtual time.

The scenarios of the simulator of the core that are shipped, at a size at which everything runs.
"""

from __future__ import annotations

import gc

import pytest
import trio
from _followers import until
from _witness import all_know, moments, one_cluster, subjects
from _world import World, seen, stub

import rpcnet
from rpcnet.testing import SimulatedCluster, SimulatedNode, run

N = 10


async def ten(cluster: SimulatedCluster, loss: float = 0.0) -> list[SimulatedNode]:
    """Start ten nodes, then lose some of what they send."""
    nodes = await cluster.start(N)
    await cluster.converged()
    await trio.sleep(12)
    set_loss(cluster, nodes, loss)
    return nodes


def set_loss(cluster: SimulatedCluster, nodes: list[SimulatedNode], loss: float) -> None:
    for one in nodes:
        for other in nodes:
            cluster.set_loss(one, other, loss)


@pytest.mark.parametrize(("loss", "within"), [(0.0, 12.0), (0.3, 12.5)])
def test_one_host_gone_is_known_to_all_and_nobody_else_is_declared_failed(loss: float, within: float) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await ten(cluster, loss)
        await cluster.crash(nodes[5])
        await all_know(cluster, "NodeFailed", "n5", within=within)
        await trio.sleep(20)

    trace = run(scenario, seed=1)
    assert subjects(trace, "NodeFailed") == {"n5"}


def test_thirty_percent_of_loss_kills_nobody() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        await ten(cluster, 0.3)
        await trio.sleep(180)

    trace = run(scenario, seed=2)
    assert subjects(trace, "NodeFailed") == set()
    assert len(seen(trace, "NodeSuspected")) <= 2 * N


@pytest.mark.parametrize(("loss", "within"), [(0.0, 2.0), (0.3, 2.8)])
def test_news_reaches_everybody(loss: float, within: float) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await ten(cluster, loss)
        for number in range(6):
            await nodes[number].node.update_tags({"number": str(number)})
            await all_know(cluster, "NodeUpdated", f"n{number}", within=within)

    run(scenario, seed=3)


def test_a_goodbye_is_never_taken_for_a_failure_though_a_tenth_is_lost() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await ten(cluster, 0.1)
        for node in nodes[4:8]:
            begun, others = trio.current_time(), {each.name for each in cluster.running} - {node.name}
            await cluster.stop(node)
            await until(
                lambda: others <= moments(cluster.trace, "NodeLeft", node.name, begun).keys(),  # noqa: B023
                within=begun + 3.0 - trio.current_time(),
            )
        await trio.sleep(30)

    for seed in range(2):
        trace = run(scenario, seed=seed)
        assert subjects(trace, "NodeFailed") == set()
        assert subjects(trace, "NodeLeft") == {"n4", "n5", "n6", "n7"}


def test_a_split_separates_says_so_and_heals_without_an_operator() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await ten(cluster)
        many, few = nodes[:6], nodes[6:]
        cluster.partition(many, few)
        begun = trio.current_time()
        for side in (many, few):
            await one_cluster([node.node for node in side], within=35)
        await until(
            lambda: {node.node.membership.partition.status for node in few} == {rpcnet.PartitionStatus.MINORITY},
            within=begun + 60 - trio.current_time(),
        )
        await trio.sleep_until(begun + 60)
        cluster.repair()
        await one_cluster([node.node for node in nodes], within=15)
        await trio.sleep(20)
        assert {node.node.membership.partition.status for node in nodes} == {rpcnet.PartitionStatus.WHOLE}

    trace = run(scenario, seed=4)
    for side in ({f"n{i}" for i in range(6)}, {f"n{i}" for i in range(6, N)}):
        for name in side:
            assert not subjects(trace, "NodeFailed", by=name) & side


@pytest.mark.parametrize("seed", range(1))
def test_twenty_nodes_that_are_all_restarted_within_five_seconds_find_each_other(seed: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(20)
        await cluster.converged()
        await trio.sleep(10)
        boots = {node.node.id: node.node.membership.local.boot_id for node in nodes}
        for node in nodes:
            await cluster.bounce(node)
            await trio.sleep(0.2)
        await one_cluster([node.node for node in nodes], within=30)
        views = [node.node.registry for node in nodes]
        await until(lambda: all(info.boot_id > boots[info.id] for view in views for info in view.alive()), within=30)
        await trio.sleep(20)
        await one_cluster([node.node for node in nodes], within=1)

    trace = run(scenario, seed=seed)
    assert subjects(trace, "NodeFailed") == set()


def test_ten_idle_nodes_send_little() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await ten(cluster)
        await trio.sleep(30)
        before = [node.node.statistics().port.bytes_sent for node in nodes]
        await trio.sleep(120)
        after = [node.node.statistics().port.bytes_sent for node in nodes]
        assert 60 < sum(after) - sum(before) < 600 * 120 * N
        assert max(late - early for early, late in zip(before, after, strict=True)) < 900 * 120

    trace = run(scenario, seed=6)
    assert seen(trace, "NodeSuspected") == []


def test_after_all_that_nothing_is_left_behind() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(6)
        await trio.sleep(30)
        tasks = trio.lowlevel.current_statistics().tasks_living
        for node in nodes[1:4]:
            cluster.pause(node)
            await trio.sleep(7)
            cluster.resume(node)
        cluster.partition(nodes[:3], nodes[3:])
        await trio.sleep(40)
        cluster.repair()
        await one_cluster([node.node for node in nodes], within=20)
        await cluster.kill(nodes[4])
        await trio.sleep(15)
        await world.bounce(nodes[4])
        await nodes[5].node.update_tags({"map": "x" * 20_000})
        set_loss(cluster, nodes, 0.2)
        await trio.sleep(30)
        set_loss(cluster, nodes, 0.0)
        for node in nodes:
            assert await stub(nodes[0], node).who() == node.name
        await trio.sleep(120)
        await one_cluster([node.node for node in nodes], within=1)
        assert trio.lowlevel.current_statistics().tasks_living <= tasks + len(nodes)
        for node in nodes:
            statistics = node.node.statistics()
            assert set(statistics.restarts.values()) == {0}
            assert statistics.active_calls == 0
            assert statistics.quic.engine_errors == 0
            assert statistics.quic.handshaking == 0
            assert statistics.quic.links <= 2 * len(nodes)
            assert statistics.membership.malformed == 0
            assert statistics.membership.dropped == 0
        gc.collect()

    trace = run(scenario, seed=7)
    assert moments(trace, "NodeFailed", "n4")
