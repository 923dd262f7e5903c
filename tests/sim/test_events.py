"""Subscriptions of a running node: they begin with what is known, have no gap, and delay nobody."""

from __future__ import annotations

from random import Random

import attrs
import pytest
import trio
from _world import World, seen, stub

import rpcnet
from rpcnet.testing import SimulatedCluster, run


@attrs.define(eq=False)
class Follower:
    """Believes of every node what the events of one subscription said last."""

    node: rpcnet.Node
    pause: float
    believed: dict[str, rpcnet.NodeInfo] = attrs.field(factory=dict)
    at_start: dict[str, rpcnet.NodeInfo] = attrs.field(factory=dict)
    dropped: int = 0

    async def follow(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with self.node.events() as events:
            self.at_start = usable(self.node)
            task_status.started()
            async for event in events:
                if isinstance(event, rpcnet.EventsDropped):
                    self.dropped += event.count
                elif isinstance(event, rpcnet.NodeEvent):
                    self._believe(event)
                if self.pause:
                    await trio.sleep(self.pause)

    def _believe(self, event: rpcnet.NodeEvent) -> None:
        new, old = event.node, self.believed.get(event.node.name)
        if not self.dropped:
            assert old is not None or isinstance(event, rpcnet.NodeJoined), f"{event} came before NodeJoined"
        if old is not None:
            assert (old.boot_id, old.incarnation) <= (new.boot_id, new.incarnation), f"{event} is older than {old}"
        self.believed[new.name] = new


def usable(node: rpcnet.Node) -> dict[str, rpcnet.NodeInfo]:
    return {info.name: info for info in node.registry.nodes() if info.is_usable}


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("seed", range(2))
def test_whoever_subscribes_whenever_ends_in_the_true_state(seed: int, size: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        rng = Random(seed)
        supervision = rpcnet.SupervisionConfig(subscription_size=size)
        world = World(cluster)
        nodes = await world.start(6, config=rpcnet.NodeConfig(supervision=supervision))
        watched = nodes[0].node
        followers: list[Follower] = []
        async with trio.open_nursery() as nursery:
            for step in range(30):
                await trio.sleep(rng.random())
                follower = Follower(watched, rng.choice([0.0, 0.0, 2.0]))
                await nursery.start(follower.follow)
                followers.append(follower)
                node = rng.choice(nodes[1:])
                if node.is_running and rng.random() < 0.6:
                    with trio.move_on_after(1):
                        await node.node.update_tags({"step": str(step)})
                elif node.is_running:
                    await rng.choice([cluster.crash, cluster.stop])(node)
                else:
                    await world.bounce(node)
            await trio.sleep(80)
            truth = {info.name: info for info in watched.registry.nodes()}
            for follower in followers:
                late = {name: info for name, info in truth.items() if name in follower.believed}
                assert follower.believed == late
                assert set(follower.at_start) <= set(follower.believed)
                assert size < 1000 or not follower.dropped
            assert size == 1000 or any(follower.dropped for follower in followers)
            nursery.cancel_scope.cancel()

    run(scenario, seed=seed)


def test_a_subscription_begins_with_one_event_per_member_known() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(4)
        await cluster.converged()
        await cluster.crash(nodes[3])
        await nodes[0].node.registry.wait_for(1, state=rpcnet.NodeState.FAILED)
        async with nodes[0].node.events() as events:
            first = [await anext(events) for _ in range(3)]
            assert [event.node.name for event in first if isinstance(event, rpcnet.NodeJoined)] == ["n0", "n1", "n2"]
            with trio.move_on_after(0.5) as scope:
                await anext(events)
            assert scope.cancelled_caught

    run(scenario)


def test_a_subscription_gets_the_kinds_it_asked_for_and_their_subclasses() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(3)
        await cluster.converged()
        async with nodes[0].node.events(rpcnet.NodeFailed, rpcnet.NodeLeft) as events:
            await nodes[1].node.update_tags({"a": "b"})
            await cluster.stop(nodes[1])
            await cluster.crash(nodes[2])
            left, failed = await anext(events), await anext(events)
        assert isinstance(left, rpcnet.NodeLeft)
        assert isinstance(failed, rpcnet.NodeFailed)
        assert (left.node.name, failed.node.name) == ("n1", "n2")
        assert failed.reason
        assert failed.at >= left.at

    run(scenario)


def test_a_change_of_tags_carries_the_difference() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(2, tags=lambda name: {"a": "old", "b": "same"})
        await cluster.converged()
        async with nodes[0].node.events(rpcnet.NodeUpdated) as events:
            await nodes[1].node.update_tags({"a": "new"})
            event = await anext(events)
        assert isinstance(event, rpcnet.NodeUpdated)
        assert dict(event.previous.tags) == {"a": "old", "b": "same"}
        assert dict(event.node.tags) == {"a": "new", "b": "same"}

    run(scenario)


def test_a_subscriber_that_never_reads_delays_nobody() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        supervision = rpcnet.SupervisionConfig(subscription_size=2)
        nodes = await world.start(3, config=rpcnet.NodeConfig(supervision=supervision))
        async with nodes[0].node.events() as stuck:
            for number in range(50):
                await nodes[1].node.update_tags({"number": str(number)})
                await trio.sleep(0.5)
            await nodes[0].node.registry.wait_for(1, where="number=49")
            assert await stub(nodes[0], nodes[1]).who() == "n1"
            assert not seen(cluster.trace, "NodeSuspected")
            read: list[rpcnet.ClusterEvent] = []
            with trio.move_on_after(1):
                while True:
                    read.append(await anext(stuck))
        assert len(read) <= 6
        (dropped,) = (event for event in read if isinstance(event, rpcnet.EventsDropped))
        assert dropped.count >= 48
        (last,) = (event for event in read if isinstance(event, rpcnet.NodeUpdated))
        assert dict(last.node.tags) == {"number": "49"}

    run(scenario)


def test_an_iteration_ends_with_its_node() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        heard: list[rpcnet.ClusterEvent] = []

        async def follow(node: rpcnet.Node) -> None:
            async with node.events() as events:
                heard.extend([event async for event in events])

        async with trio.open_nursery() as nursery, rpcnet.Node("a", security=cluster.security) as node:
            nursery.start_soon(follow, node)
            await trio.sleep(1)
        assert isinstance(heard[0], rpcnet.NodeJoined)
        assert isinstance(heard[-1], rpcnet.NodeLeft)

    run(scenario)
