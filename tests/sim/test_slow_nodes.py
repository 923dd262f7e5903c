"""Slow is not dead: whole nodes whose process stops for a while, in virtual time.

All nodes of a simulation live in one process, so they stop together when the clock jumps: every timer is late at once,
and what was on its way waits in the sockets.
"""

from __future__ import annotations

import itertools

import pytest
import trio
from _world import seen
from trio.testing import MockClock

from rpcnet._signals import OwnVitals
from rpcnet.events import LocalDegraded, SelfIsolated
from rpcnet.testing import SimulatedCluster, SimulatedNode, run


def stop_for(seconds: float) -> None:
    """Let the process stand still."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    clock.jump(seconds)


@pytest.mark.parametrize("seconds", [0.15, 0.6, 8.0, 600.0])
def test_a_process_that_stops_suspects_nobody_when_it_goes_on(seconds: float) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start(5)
        await cluster.converged()
        for pause in range(4):
            await trio.sleep(3.0 + 0.23 * pause)
            stop_for(seconds)
        await trio.sleep(30)
        await cluster.converged()

    trace = run(scenario)
    assert seen(trace, "NodeSuspected") == []
    assert seen(trace, "NodeFailed") == []


async def lose_one(cluster: SimulatedCluster) -> tuple[list[SimulatedNode], SimulatedNode]:
    """Cut off the last of five nodes; what it sends takes a while."""
    *others, lost = await cluster.start(5)
    await cluster.converged()
    for other in others:
        cluster.set_latency(lost, other, 0.2, 0.2)
    await trio.sleep(10)
    cluster.partition(others, [lost])
    return others, lost


@pytest.fixture(scope="module")
def verdict_at() -> float:
    """When the lost node is declared failed if nothing happens; the same run as in the tests so far."""

    async def scenario(cluster: SimulatedCluster) -> None:
        await lose_one(cluster)
        await trio.sleep(20)

    return next(entry.at for entry in run(scenario) if entry.what.startswith("NodeFailed n4"))


@pytest.mark.parametrize(("before", "seconds"), [(0.6, 0.3), (0.8, 0.3), (0.8, 0.8), (1.0, 4.0)])
def test_a_refutation_that_is_in_the_socket_is_read_before_a_verdict_that_fell_due_meanwhile(
    before: float, seconds: float, verdict_at: float
) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        _, lost = await lose_one(cluster)
        await trio.sleep_until(verdict_at - before)
        cluster.repair()
        was = lost.node.membership.local.incarnation
        for _ in range(1000):
            if lost.node.membership.local.incarnation > was:
                break
            await trio.sleep(0.002)
        assert trio.current_time() < verdict_at < trio.current_time() + max(seconds, before)
        stop_for(seconds)
        await trio.sleep(8)
        await cluster.converged()

    trace = run(scenario)
    assert "n4" not in {entry.what.split()[1] for entry in trace if entry.what.startswith("NodeFailed")}
    assert len(set(seen(trace, "NodeRecovered", "n4"))) == 4


def test_a_node_that_stopped_tells_its_application_and_the_others_for_a_minute_or_two() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(3)
        await cluster.converged()
        await trio.sleep(5)
        heard = nodes[0].node._bus.mailbox("the test", OwnVitals, LocalDegraded)
        stop_for(3.0)
        await trio.sleep(150)
        vitals: list[OwnVitals] = []
        degraded: list[LocalDegraded] = []
        with trio.move_on_after(0):
            while True:
                event = await heard.get()
                if isinstance(event, OwnVitals):
                    vitals.append(event)
                elif isinstance(event, LocalDegraded):
                    degraded.append(event)
        stalls = [stall for stall, _ in itertools.groupby(event.stall for event in vitals)]
        assert stalls == [2.0, 0.0]
        assert [event.stall for event in degraded] == [2.0]

    run(scenario)


def test_a_node_that_is_cut_off_says_so_gives_the_others_up_and_convicts_nobody_in_their_eyes() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        *others, alone = await cluster.start(6)
        await cluster.converged()
        await trio.sleep(10)
        heard = alone.node._bus.mailbox("the test", SelfIsolated)
        cluster.partition(others, [alone])
        with trio.fail_after(20):
            event = await heard.get()
        assert isinstance(event, SelfIsolated)
        assert len(event.failed) >= 3
        await trio.sleep(45)
        assert [info.name for info in alone.node.registry.alive()] == [alone.name]
        cluster.repair()
        await trio.sleep(20)
        await cluster.converged()

    trace = run(scenario)
    failed = {(entry.node, entry.what.split()[1]) for entry in trace if entry.what.startswith("NodeFailed")}
    assert {about for node, about in failed if node != "n5"} <= {"n5"}
    assert {about for node, about in failed if node == "n5"} == {f"n{i}" for i in range(5)}
