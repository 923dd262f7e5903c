"""Cuts through a whole cluster: what each side says of itself, what it may do, and how it ends."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest
import trio

import rpcnet
from rpcnet._tasks.partition_watch import PartitionWatch
from rpcnet.testing import SimulatedCluster, SimulatedNode, run

WHOLE, MAJORITY = rpcnet.PartitionStatus.WHOLE, rpcnet.PartitionStatus.MAJORITY
MINORITY, ISOLATED = rpcnet.PartitionStatus.MINORITY, rpcnet.PartitionStatus.ISOLATED
STABLE = 10.0
"""Seconds after which a cluster of a few nodes has come to a stable point."""
PARTED = 30.0
"""Seconds after which all nodes of a few know that the cluster has been cut."""


def config(strategy: rpcnet.QuorumStrategy | None) -> rpcnet.NodeConfig:
    return attrs.evolve(rpcnet.NodeConfig.lan(), partition=rpcnet.PartitionConfig(strategy=strategy))


async def started(
    cluster: SimulatedCluster, count: int, settings: rpcnet.NodeConfig | None = None
) -> list[SimulatedNode]:
    """Start nodes in zones of two, and wait for a stable point."""
    nodes = await cluster.start(count, config=settings, tags=lambda name: {"zone": str(int(name[1:]) // 2)})
    await cluster.converged()
    await trio.sleep(STABLE)
    return nodes


def statuses(nodes: list[SimulatedNode]) -> set[rpcnet.PartitionStatus]:
    return {node.node.membership.partition.status for node in nodes}


def writable(nodes: list[SimulatedNode]) -> list[bool]:
    return [node.node.membership.writable for node in nodes]


def test_a_cut_gives_a_majority_and_a_minority_and_heals_everywhere() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await started(cluster, 5)
        many, few = nodes[:3], nodes[3:]
        cluster.partition(many, few)
        await trio.sleep(PARTED)
        assert (statuses(many), statuses(few)) == ({MAJORITY}, {MINORITY})
        assert (writable(many), writable(few)) == ([True] * 3, [False] * 2)
        view = few[0].node.membership.partition
        assert {node.name for node in view.reachable} == {"n3", "n4"}
        assert {node.name for node in view.unreachable} == {"n0", "n1", "n2"}
        assert few[0].node.membership.health.failed == 3
        cluster.repair()
        await cluster.converged()
        await trio.sleep(1)
        assert statuses(nodes) == {WHOLE}
        assert all(writable(nodes))
        assert not many[0].node.membership.partition.unreachable

    run(scenario, seed=1)


def test_the_events_tell_the_course_of_a_cut() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await started(cluster, 5)
        kinds = (rpcnet.PartitionSuspected, rpcnet.PartitionDetected, rpcnet.PartitionHealed)
        heard = nodes[0].node.membership._bus.mailbox("the test", *kinds)
        cluster.partition(nodes[:2], nodes[2:])
        with trio.fail_after(PARTED):
            suspected = await heard.get()
            assert nodes[0].node.membership.partition.is_suspected
            detected = await heard.get()
            assert writable(nodes[:1]) + writable(nodes[2:]) == [False, True, True, True]
        cluster.repair()
        with trio.fail_after(PARTED):
            healed = await heard.get()
        assert isinstance(suspected, rpcnet.PartitionSuspected)
        assert isinstance(detected, rpcnet.PartitionDetected)
        assert isinstance(healed, rpcnet.PartitionHealed)
        assert (detected.zones, detected.status) == (("1", "2"), MINORITY)
        assert {node.name for node in detected.unreachable} == {node.name for node in healed.merged}

    run(scenario, seed=3)


def test_a_node_that_is_cut_off_alone_stops_writing_before_the_others_give_it_up() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await started(cluster, 5)
        cluster.partition(nodes[:1], nodes[1:])
        async with nodes[1].node.events(rpcnet.NodeFailed) as events:
            with trio.fail_after(PARTED):
                await anext(events)
        assert writable(nodes) == [False, True, True, True, True]
        await trio.sleep(2 * PARTED)
        assert (statuses(nodes[:1]), statuses(nodes[1:])) == ({ISOLATED}, {WHOLE})
        assert writable(nodes) == [False, True, True, True, True]

    run(scenario, seed=2)


def test_crashes_restarts_and_goodbyes_one_by_one_are_no_partition() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await started(cluster, 5)
        await cluster.crash(nodes[4])
        await trio.sleep(PARTED)
        await cluster.stop(nodes[3])
        await cluster.bounce(nodes[2])
        await cluster.converged()
        await trio.sleep(STABLE)
        assert statuses(nodes[:3]) == {WHOLE}
        assert all(writable(nodes[:3]))
        assert not nodes[3].node.membership.writable

    run(scenario, seed=4)


def test_of_two_nodes_one_is_isolated_and_the_other_goes_on() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        low, high = sorted(await started(cluster, 2), key=lambda handle: handle.node.id)
        cluster.partition([low], [high])
        await trio.sleep(PARTED)
        assert [statuses([low]), statuses([high])] == [{WHOLE}, {ISOLATED}]
        assert writable([low, high]) == [True, False]
        cluster.repair()
        await cluster.converged()
        await trio.sleep(1)
        assert (statuses([low, high]), writable([low, high])) == ({WHOLE}, [True, True])

    run(scenario, seed=5)


def test_a_node_that_joins_the_smaller_side_does_not_make_it_writable() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await started(cluster, 4)
        low, *others = sorted(nodes, key=lambda handle: handle.node.id)
        many, few = [low, others[0]], others[1:]
        cluster.partition(many, few)
        await trio.sleep(PARTED)
        async with rpcnet.Node("late", seeds=[few[0].address], security=cluster.security) as late:
            cluster.partition(many, [SimulatedNode("late", late.address, late)])
            await trio.sleep(PARTED)
            assert len(few[0].node.membership.partition.reachable) == 3
            assert (writable(many), writable(few)) == ([True, True], [False, False])

    run(scenario, seed=6)


def test_a_failed_membership_task_does_not_forget_the_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    armed: list[object] = []
    take = PartitionWatch.take

    def fail(watch: PartitionWatch, events: Sequence[rpcnet.ClusterEvent], now: float) -> list[rpcnet.ClusterEvent]:
        if armed and watch._bus is armed[0]:
            armed.clear()
            raise RuntimeError("as if the watch had a defect")
        return take(watch, events, now)

    monkeypatch.setattr(PartitionWatch, "take", fail)

    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await started(cluster, 5)
        few = nodes[3:]
        cluster.partition(nodes[:3], few)
        await trio.sleep(PARTED)
        before = few[0].node.membership.partition
        armed.append(few[0].node.membership._bus)
        await trio.sleep(STABLE)
        assert not armed
        after = few[0].node.membership.partition
        assert (after.status, after.since, after.writable) == (MINORITY, before.since, False)
        assert {node.id for node in after.unreachable} == {node.id for node in before.unreachable}
        cluster.repair()
        await cluster.converged()
        await trio.sleep(1)
        assert (statuses(nodes), all(writable(nodes))) == ({WHOLE}, True)

    run(scenario, seed=7)


def test_a_node_that_does_not_run_yet_is_not_writable() -> None:
    membership = rpcnet.Node("idle").membership
    assert (membership.writable, membership.has_quorum) == (False, False)
    with pytest.raises(RuntimeError, match="not running"):
        _ = membership.partition


class Lease:
    """A lease in a third place that all nodes reach: who asked first has it until nobody prolongs it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.owner = ""
        self.until = 0.0
        self.asked = 0

    def take(self, owner: str) -> bool:
        now = trio.current_time()
        self.asked += 1
        if now >= self.until or self.owner == owner:
            self.owner, self.until = owner, now + self.seconds
        return self.owner == owner


def test_a_lease_decides_and_is_prolonged_until_the_cut_has_healed() -> None:
    lease = Lease(30.0)

    async def scenario(cluster: SimulatedCluster) -> None:
        nodes: list[SimulatedNode] = []

        def settings(number: int) -> rpcnet.NodeConfig:
            async def acquire() -> bool:
                await trio.sleep(0.05)
                return lease.take(min(node.id for node in nodes[number].node.membership.partition.reachable))

            return config(rpcnet.LeaseQuorum(acquire, renew_interval=5.0, timeout=1.0))

        for number in range(5):
            nodes += await cluster.start(1, config=settings(number))
        await cluster.converged()
        await trio.sleep(STABLE)
        assert all(writable(nodes))
        assert lease.asked == 0
        cluster.partition(nodes[:2], nodes[2:])
        await trio.sleep(PARTED + 10)
        sides = {tuple(writable(nodes[:2])), tuple(writable(nodes[2:]))}
        assert sides in ({(True, True), (False, False, False)}, {(False, False), (True, True, True)})
        cluster.repair()
        await cluster.converged()
        await trio.sleep(1)
        assert all(writable(nodes))
        asked = lease.asked
        await trio.sleep(PARTED)
        assert lease.asked == asked

    run(scenario, seed=8)


def test_a_lease_that_cannot_be_asked_for_means_no() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        async def fails() -> bool:
            raise OSError("the database is gone")

        async def hangs() -> bool:
            await trio.sleep(1000.0)
            return True

        nodes = await cluster.start(1, config=config(rpcnet.LeaseQuorum(fails)))
        nodes += await cluster.start(1, config=config(rpcnet.LeaseQuorum(hangs, timeout=0.5)))
        await cluster.converged()
        await trio.sleep(STABLE)
        cluster.partition(nodes[:1], nodes[1:])
        await trio.sleep(PARTED)
        assert writable(nodes) == [False, False]
        assert statuses(nodes) == {ISOLATED}
        cluster.repair()
        await cluster.converged()
        assert all(writable(nodes))

    run(scenario, seed=9)
