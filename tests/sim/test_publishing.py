"""User events through the whole stack: published on one node, heard on all."""

from __future__ import annotations

import pytest
import trio
from _talk import listeners

import rpcnet
from rpcnet._core.user_events import UserEventMachine
from rpcnet.testing import SimulatedCluster, SimulatedNode, run


def set_loss(cluster: SimulatedCluster, nodes: list[SimulatedNode], loss: float) -> None:
    for source in nodes:
        for destination in nodes:
            if source is not destination:
                cluster.set_loss(source, destination, loss)


@pytest.mark.parametrize("loss", [0.0, 0.15])
def test_every_node_hears_what_each_publishes_in_its_order_and_none_twice(loss: float) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        async with trio.open_nursery() as nursery:
            nodes, found = await listeners(cluster, nursery, 5)
            set_loss(cluster, nodes, loss)

            async def publish(node: rpcnet.Node) -> None:
                for number in range(20):
                    await node.publish("count", b"%d" % number)
                    await trio.sleep(0.05)

            async with trio.open_nursery() as publishers:
                for handle in nodes[:3]:
                    publishers.start_soon(publish, handle.node)
            await trio.sleep(8)
            for listener in found:
                for handle in nodes[:3]:
                    mine = [event for event in listener.events if event.sender == handle.node.id]
                    numbers = [event.number for event in mine]
                    assert numbers == sorted(set(numbers))
                    assert [event.payload for event in mine] == [b"%d" % (number - 1) for number in numbers]
                    assert len(numbers) == 20 if loss == 0.0 else len(numbers) >= 18
            nursery.cancel_scope.cancel()

    run(scenario, seed=3)


def test_the_sender_itself_hears_an_event_before_publish_returns() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        (handle,) = await cluster.start(1)
        async with handle.node.events(rpcnet.UserEvent) as events:
            await handle.node.publish("hello", b"world")
            with trio.fail_after(0.1):
                event = await anext(events)
        assert isinstance(event, rpcnet.UserEvent)
        assert (event.sender, event.name, event.payload, event.number) == (handle.node.id, "hello", b"world", 1)

    run(scenario)


def test_a_node_that_joins_later_hears_only_what_comes_then() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        async with trio.open_nursery() as nursery:
            nodes, _ = await listeners(cluster, nursery, 3)
            await nodes[0].node.publish("before")
            await trio.sleep(5)
            _, (late,) = await listeners(cluster, nursery, 1)
            await nodes[0].node.publish("after")
            await trio.sleep(5)
            assert late.heard == [("after", b"")]
            nursery.cancel_scope.cancel()

    run(scenario)


def test_a_restarted_node_is_heard_and_hears() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        async with trio.open_nursery() as nursery:
            nodes, found = await listeners(cluster, nursery, 3)
            for _ in range(3):
                await nodes[1].node.publish("old")
            await trio.sleep(3)
            await cluster.bounce(nodes[1])
            await cluster.converged()
            await nodes[1].node.publish("new")
            await trio.sleep(4)
            heard = [(event.name, event.number) for event in found[0].events]
            assert heard == [("old", 1), ("old", 2), ("old", 3), ("new", 1)]
            nursery.cancel_scope.cancel()

    run(scenario)


def test_who_publishes_faster_than_the_cluster_can_tell_waits() -> None:
    config = rpcnet.NodeConfig(gossip=rpcnet.GossipConfig(max_waiting_events=4))

    async def scenario(cluster: SimulatedCluster) -> None:
        async with trio.open_nursery() as nursery:
            nodes, found = await listeners(cluster, nursery, 3, config)
            began = trio.current_time()
            for number in range(30):
                await nodes[0].node.publish("large", bytes([number]) * 400)
            assert trio.current_time() - began > 2.0
            await trio.sleep(8)
            for listener in found:
                assert [event.payload[0] for event in listener.events] == list(range(30))
            nursery.cancel_scope.cancel()

    run(scenario)


def test_what_is_too_large_is_refused_with_both_sizes_and_nobody_hears_it() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        async with trio.open_nursery() as nursery:
            nodes, found = await listeners(cluster, nursery, 2)
            with pytest.raises(rpcnet.ConfigError, match="take 513 bytes, at most 512 are allowed"):
                await nodes[0].node.publish("large", b"x" * 508)
            await nodes[0].node.publish("large", b"x" * 507)
            await trio.sleep(3)
            assert [len(listener.events) for listener in found] == [1, 1]
            nursery.cancel_scope.cancel()

    run(scenario)


def test_events_are_neither_lost_nor_doubled_when_the_task_that_tells_them_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original, left = UserEventMachine.publish, {"failures": 2}

    def fail_first(self: UserEventMachine, *args: object) -> object:
        if left["failures"]:
            left["failures"] -= 1
            raise ZeroDivisionError
        return original(self, *args)  # type: ignore[arg-type]

    async def scenario(cluster: SimulatedCluster) -> None:
        async with trio.open_nursery() as nursery:
            nodes, found = await listeners(cluster, nursery, 3)
            await nodes[0].node.publish("a")
            monkeypatch.setattr(UserEventMachine, "publish", fail_first)
            await nodes[0].node.publish("b")
            await nodes[0].node.publish("c")
            await trio.sleep(5)
            assert nodes[0].node.statistics().restarts["membership"] == 2
            for listener in found:
                assert [(event.name, event.number) for event in listener.events] == [("a", 1), ("b", 2), ("c", 3)]
            nursery.cancel_scope.cancel()

    run(scenario)


def test_a_cancelled_publish_delays_no_other() -> None:
    config = rpcnet.NodeConfig(gossip=rpcnet.GossipConfig(max_waiting_events=1))

    async def scenario(cluster: SimulatedCluster) -> None:
        async with trio.open_nursery() as nursery:
            nodes, found = await listeners(cluster, nursery, 3, config)
            await nodes[0].node.publish("first")
            with trio.move_on_after(0.01) as scope:
                await nodes[0].node.publish("given up")
            assert scope.cancelled_caught
            await nodes[0].node.publish("second")
            await trio.sleep(5)
            for listener in found:
                assert [name for name, _ in listener.heard if name != "given up"] == ["first", "second"]
            nursery.cancel_scope.cancel()

    run(scenario)


def test_a_node_that_has_left_publishes_nothing() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(2)
        await cluster.converged()
        await nodes[1].node.leave()
        with pytest.raises(RuntimeError, match="has left"):
            await nodes[1].node.publish("bye")

    run(scenario)


def test_the_same_seed_gives_the_same_run() -> None:
    def heard(seed: int) -> list[tuple[float, str, int]]:
        seen: list[tuple[float, str, int]] = []

        async def scenario(cluster: SimulatedCluster) -> None:
            async with trio.open_nursery() as nursery:
                nodes, found = await listeners(cluster, nursery, 4)
                set_loss(cluster, nodes, 0.2)
                for number in range(10):
                    await nodes[number % 3].node.publish("e", b"%d" % number)
                await nodes[0].node.query("q")
                for listener in found:
                    seen.extend((event.at, event.sender, event.number) for event in listener.events)
                nursery.cancel_scope.cancel()

        run(scenario, seed=seed)
        return seen

    assert heard(1) == heard(1) != heard(2)
