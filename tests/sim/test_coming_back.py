"""Nodes that come back: by what their snapshot files say, and not by what others remember of the dead."""

from __future__ import annotations

import logging

import attrs
import pytest
import trio
from _followers import until
from _witness import moments, one_cluster, subjects

import rpcnet
from rpcnet._net.environment import current_environment
from rpcnet._net.memory import SimulatedEnvironment
from rpcnet.testing import SimulatedCluster, SimulatedNode, run


def path(name: str) -> str:
    return f"/var/{name}.snapshot"


def disk() -> dict[str, bytes]:
    """Return the files of the simulation."""
    environment = current_environment()
    assert isinstance(environment, SimulatedEnvironment)
    return environment.files


async def started(cluster: SimulatedCluster, count: int) -> list[SimulatedNode]:
    nodes = await cluster.start(count, snapshot=path)
    await cluster.converged()
    await trio.sleep(15)
    return nodes


@pytest.mark.parametrize("seed", range(1))
def test_a_node_that_was_killed_rejoins_without_seeds(seed: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await started(cluster, 4)
        before = nodes[2].node.membership.local.boot_id
        await cluster.kill(nodes[2])
        await trio.sleep(2)
        await cluster.bounce(nodes[2], seeds=())
        assert nodes[2].node.membership.local.boot_id > before
        await one_cluster([node.node for node in nodes], within=20)
        await cluster.crash(nodes[2])
        await trio.sleep(60)
        await cluster.bounce(nodes[2], seeds=())
        await one_cluster([node.node for node in nodes], within=20)

    run(scenario, seed=seed)


@pytest.mark.parametrize("seed", range(1))
def test_a_cluster_that_was_down_as_a_whole_finds_itself_without_seeds(seed: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await started(cluster, 5)
        boots = {node.name: node.node.membership.local.boot_id for node in nodes}
        for node in nodes:
            await cluster.crash(node)
        await trio.sleep(600)
        for node in nodes:
            await cluster.bounce(node, seeds=())
            await trio.sleep(1)
        await one_cluster([node.node for node in nodes], within=60)
        for node in nodes:
            assert {i.name for i in nodes[0].node.registry.alive() if i.boot_id > boots[i.name]} == boots.keys()
            assert set(node.node.statistics().restarts.values()) == {0}

    trace = run(scenario, seed=seed)
    assert subjects(trace, "NodeFailed") == set()


def test_a_clock_that_has_gone_back_brings_no_former_boot_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await started(cluster, 3)
        before = nodes[1].node.membership.local.boot_id
        await cluster.crash(nodes[1])
        monkeypatch.setattr(SimulatedEnvironment, "wall_clock", lambda _: 1_000_000.0 + trio.current_time())
        for start in range(1, 4):
            await cluster.bounce(nodes[1], seeds=())
            assert nodes[1].node.membership.local.boot_id == before + start
            await one_cluster([node.node for node in nodes], within=20)
            assert {i.boot_id for i in nodes[0].node.registry.alive() if i.name == "n1"} == {before + start}
            await trio.sleep(10)

    run(scenario)


def test_even_without_a_file_a_node_whose_clock_has_gone_back_outbids_its_past(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(3)
        await cluster.converged()
        before = nodes[1].node.membership.local.boot_id
        await cluster.crash(nodes[1])
        monkeypatch.setattr(SimulatedEnvironment, "wall_clock", lambda _: 1_000_000.0 + trio.current_time())
        await cluster.bounce(nodes[1])
        await one_cluster([node.node for node in nodes], within=20)
        assert nodes[1].node.membership.local.boot_id > before
        await trio.sleep(20)
        await one_cluster([node.node for node in nodes], within=1)

    run(scenario)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        pytest.param(lambda data: data[:-1] + bytes([data[-1] ^ 1]), "is damaged", id="changed"),
        pytest.param(lambda data: data[:-5], "is damaged", id="cut off"),
        pytest.param(lambda _: b"", "is damaged", id="empty"),
        pytest.param(lambda _: b"[Unit]\nDescription=mine\n", "is no snapshot of a node", id="something else"),
    ],
)
def test_a_file_that_is_damaged_or_something_else_is_logged_and_the_node_starts(
    harm: object, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert callable(harm)

    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await started(cluster, 3)
        await cluster.crash(nodes[1])
        disk()[path("n1")] = harm(disk()[path("n1")])
        with caplog.at_level(logging.WARNING, "rpcnet"):
            await cluster.bounce(nodes[1])
        assert [path("n1") in record.getMessage() and said in record.getMessage() for record in caplog.records] == [
            True
        ]
        await one_cluster([node.node for node in nodes], within=20)

    run(scenario)


def test_a_file_of_another_node_is_logged_and_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await started(cluster, 3)
        await cluster.crash(nodes[1])
        foreign = disk()[path("n1")] = disk()[path("n2")]
        with caplog.at_level(logging.WARNING, "rpcnet"):
            await cluster.bounce(nodes[1])
            await one_cluster([node.node for node in nodes], within=20)
            await cluster.stop(nodes[1])
        assert disk()[path("n1")] == foreign
        assert "is of node 'n2'" in caplog.text

    run(scenario)


# --- the dead stay dead


FORGETFUL = rpcnet.GossipConfig(
    refresh_interval=4.0, refresh_per_member=0.01, dead_reap_after=16.0, sync_interval=5.0, heal_interval=2.0
)
"""Leases are 12 seconds long, and the dead are remembered for four refreshes."""


def forgetful() -> rpcnet.NodeConfig:
    return attrs.evolve(rpcnet.NodeConfig.lan(), gossip=FORGETFUL)


@pytest.mark.parametrize("seed", range(1))
@pytest.mark.parametrize("fault", ["stands still", "is cut off"])
def test_who_was_away_brings_the_forgotten_dead_back_for_no_longer_than_a_suspicion_takes(
    fault: str, seed: int
) -> None:
    back: list[float] = []

    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(5, config=forgetful())
        await cluster.converged()
        await trio.sleep(5)
        *others, away, dead = nodes
        if fault == "stands still":
            cluster.pause(away)
        else:
            cluster.partition([away], others)
        await trio.sleep(0.5)
        await cluster.crash(dead)
        await until(lambda: all(node.node.registry.get("n4") is None for node in others), within=60)
        cluster.repair()
        cluster.resume(away)
        back.append(trio.current_time())
        await trio.sleep(60)
        await one_cluster([node.node for node in nodes[:4]], within=1)
        assert all(node.node.registry.get("n4") is None for node in nodes[:4])

    trace = run(scenario, seed=seed)
    assert not moments(trace, "NodeRecovered", "n4")
    listed, failed = (moments(trace, kind, "n4", back[0]) for kind in ("NodeJoined", "NodeFailed"))
    assert all(at < failed[name] < at + 10 for name, at in listed.items())


def test_a_node_that_was_forgotten_is_taken_in_again_when_it_answers_itself() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(4, config=forgetful())
        await cluster.converged()
        *others, away = nodes
        cluster.pause(away)
        await until(lambda: all(node.node.registry.get("n3") is None for node in others), within=60)
        await trio.sleep(20)
        cluster.resume(away)
        await one_cluster([node.node for node in nodes], within=30)

    run(scenario)
