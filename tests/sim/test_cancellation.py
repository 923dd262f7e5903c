"""Deadlines and cancellation over the wire: who gives up takes his handlers with him, and nobody else's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio
from _world import World, stub

import rpcnet
from rpcnet.testing import SimulatedCluster, run

LARGE = b"x" * 200_000
WIRE = 0.05
"""Virtual seconds that a message and its acknowledgement take at most."""


async def two(cluster: SimulatedCluster, **rpc: Any) -> tuple[World, rpcnet.Node, rpcnet.Node]:
    world = World(cluster)
    config = rpcnet.NodeConfig(rpc=attrs.evolve(rpcnet.RpcConfig(), **rpc))
    first, second = await world.start(2, config=config)
    return world, first.node, second.node


def test_the_callers_deadline_strikes_at_both_ends() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world, *_ = await two(cluster)
        caller, called = world.handles
        begun = trio.current_time()
        with pytest.raises(trio.TooSlowError), trio.fail_after(2.0):
            await stub(caller, called).once("slow", 10.0)
        assert trio.current_time() == begun + 2.0
        await trio.sleep(WIRE)
        ((at, key),) = world.works["n1"].cancelled
        assert key == "slow"
        assert begun + 2.0 <= at <= begun + 2.0 + WIRE
        assert caller.node.workers.active_calls(called.node.id) == 0

    run(scenario)


def test_a_handler_is_cancelled_at_its_deadline_even_if_the_caller_is_cut_off() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world, *_ = await two(cluster)
        caller, called = world.handles
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def cut_off() -> None:
                await trio.sleep(1.0)
                cluster.partition([caller], [called])

            with pytest.raises(trio.TooSlowError), trio.fail_after(2.0):
                await stub(caller, called).once("slow", 10.0)
        await trio.sleep(WIRE)
        ((at, _),) = world.works["n1"].cancelled
        assert begun + 2.0 <= at <= begun + 2.0 + WIRE

    run(scenario)


def test_nested_calls_inherit_what_is_left() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(4)
        begun = trio.current_time()
        with pytest.raises(trio.TooSlowError), trio.fail_after(2.0):
            await stub(nodes[0], nodes[1]).through(["n2", "n3"], 10.0)
        assert trio.current_time() == begun + 2.0
        await trio.sleep(WIRE)
        for name in ("n1", "n2", "n3"):
            ((at, _),) = world.works[name].cancelled
            assert begun + 2.0 <= at <= begun + 2.0 + WIRE

    run(scenario)


def test_a_handlers_own_deadline_does_not_end_its_callers_call() -> None:
    @rpcnet.service
    class Patient:
        node: rpcnet.Node

        @rpcnet.rpc
        async def ask(self) -> str:
            with trio.move_on_after(1.0):
                await self.node.client.call_worker("work.once", "inner", 10.0)
            return "asked"

    async def scenario(cluster: SimulatedCluster) -> None:
        world, first, _ = await two(cluster)
        patient = Patient()
        async with rpcnet.Node(
            "p", seeds=[first.address], services=[patient], security=cluster.security
        ) as patient.node:
            await first.registry.wait_for(3)
            begun = trio.current_time()
            with trio.fail_after(5):
                assert await first.stub(Patient).ask() == "asked"
            assert begun + 1 <= trio.current_time() <= begun + 1 + WIRE
        await trio.sleep(WIRE)
        assert sum(len(work.cancelled) for work in world.works.values()) == 1

    run(scenario)


CALLS: dict[str, Callable[[World], Awaitable[object]]] = {
    "on a lane": lambda world: stub(*world.handles[:2]).once("key", 1.0),
    "with a large argument": lambda world: stub(*world.handles[:2]).measure(LARGE, 1.0),
    "with a large result": lambda world: stub(*world.handles[:2]).produce(len(LARGE), 1.0),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_cancelling_the_caller_cancels_the_handler(call: Callable[[World], Awaitable[object]]) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world, *_ = await two(cluster)
        await stub(*world.handles).who()
        await trio.sleep(5)
        connection = world.handles[0].node._running.endpoint.session(world.handles[1].node.address, "n1")
        assert connection is not None
        with trio.move_on_after(0.5):
            await call(world)
        await trio.sleep(WIRE)
        assert len(world.works["n1"].cancelled) == 1
        await trio.sleep(5)
        assert not world.works["n1"].ended
        assert world.handles[1].node.statistics().active_calls == 0
        assert await stub(*world.handles).who() == "n1"
        again = world.handles[0].node._running.endpoint.session(world.handles[1].node.address, "n1")
        assert again is connection

    run(scenario)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("seed", range(2))
def test_a_cancellation_at_any_moment_leaves_the_connection_in_order(
    call: Callable[[World], Awaitable[object]], seed: int
) -> None:
    """Cancel and result cross for the moments just after the handler has ended, one second after the call."""

    async def scenario(cluster: SimulatedCluster) -> None:
        world, *_ = await two(cluster)
        one, other = world.handles
        cluster.set_latency(one, other, 0.005, 0.005)
        cluster.set_latency(other, one, 0.005, 0.005)
        await stub(one, other).who()
        await trio.sleep(5)
        connection = one.node._running.endpoint.session(other.node.address, "n1")
        assert connection is not None
        outcomes = []
        for step in range(80):
            with trio.move_on_after(step * 0.003 if step < 20 else 0.996 + (step - 20) * 0.005) as scope:
                await call(world)
            outcomes.append(scope.cancelled_caught)
        assert outcomes[0]
        assert not outcomes[-1]
        await trio.sleep(2)
        assert other.node.statistics().active_calls == 0
        assert one.node._running.endpoint.session(other.node.address, "n1") is connection, "the connection was lost"
        assert one.node.workers.active_calls(other.node.id) == 0
        assert await stub(one, other).who() == "n1"

    run(scenario, seed=seed)


@pytest.mark.parametrize("seed", range(4))
def test_cancellations_over_a_network_that_loses_and_reorders_reach_every_handler(seed: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world, *_ = await two(cluster)
        one, other = world.handles
        for source, destination in ((one, other), (other, one)):
            cluster.set_latency(source, destination, 0.001, 0.05)
            cluster.set_loss(source, destination, 0.2)
        async with trio.open_nursery() as nursery:
            for number in range(60):

                async def call(number: int = number) -> None:
                    with trio.move_on_after(number * 0.003):
                        await stub(one, other).once(f"key {number}", 1000.0)

                nursery.start_soon(call)
        await trio.sleep(10)
        assert other.node.statistics().active_calls == 0
        work = world.works["n1"]
        assert len(work.cancelled) == sum(work.runs.values())
        assert not work.ended

    run(scenario, seed=seed)


def test_a_call_in_a_scope_that_is_cancelled_already_is_not_sent() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world, *_ = await two(cluster)
        await stub(*world.handles).who()
        with trio.CancelScope() as scope:
            scope.cancel()
            await stub(*world.handles).once("never", 0.0)
        assert scope.cancelled_caught
        await trio.sleep(1)
        assert world.ran("never") == 0

    run(scenario)


def test_a_call_that_waits_for_its_turn_can_be_cancelled_and_does_not_run() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world, *_ = await two(cluster, max_calls_per_connection=2)
        one, other = world.handles
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(stub(one, other).once, "first", 2.0)
            await trio.sleep(0.1)
            with trio.move_on_after(0.5):
                await stub(one, other).once("cancelled", 1.0)
            begun = trio.current_time()
            assert await stub(one, other).once("third", 1.0) == "n1"
            assert 2.4 <= trio.current_time() - begun + 0.6 <= 3.2
        await trio.sleep(1)
        assert world.ran("cancelled") == 0
        assert (world.ran("first"), world.ran("third")) == (2, 1)

    run(scenario)


def test_a_call_that_waits_for_a_handler_to_end_is_cancelled_before_it_is_started() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world, *_ = await two(cluster, max_running_handlers=2)
        one, other = world.handles
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(stub(one, other).once, "first", 2.0)
            await trio.sleep(0.1)
            with trio.move_on_after(0.5):
                await stub(one, other).once("cancelled", 1.0)
            with pytest.raises(trio.TooSlowError), trio.fail_after(0.5):
                await stub(one, other).once("too late", 1.0)
            assert other.node.statistics().active_calls == 4
            assert await stub(one, other).once("third", 0.1) == "n1"
        await trio.sleep(WIRE)
        assert world.ran("cancelled") == world.ran("too late") == 0
        assert other.node.statistics().active_calls == 0

    run(scenario)


def test_waiting_for_a_turn_survives_any_cancellation() -> None:
    """However places and cancellations meet, the place that is free is taken by somebody."""

    async def scenario(cluster: SimulatedCluster) -> None:
        world, *_ = await two(cluster, max_calls_per_connection=3)
        one, other = world.handles
        ended = 0

        async def call(number: int) -> None:
            nonlocal ended
            with trio.move_on_after(0.05 + (number * 7919 % 97) / 40):
                await stub(one, other).again("key", 0.1 + number % 3 / 10)
            ended += 1

        async with trio.open_nursery() as nursery:
            for number in range(80):
                nursery.start_soon(call, number)
        assert ended == 80
        assert await stub(one, other).who() == "n1"
        assert other.node.statistics().active_calls == 0

    run(scenario)


def test_cancelling_one_caller_disturbs_no_other() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world, *_ = await two(cluster)
        one, other = world.handles
        results: list[str] = []

        async def call(number: int) -> None:
            with trio.move_on_after(0.5 if number % 2 else 60):
                results.append(await stub(one, other).once(f"{number}", 1.0))

        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(call, number)
        assert results == ["n1"] * 20
        work = world.works["n1"]
        assert sorted(int(key) for _, key in work.cancelled) == list(range(1, 40, 2))

    run(scenario)


def test_a_node_that_is_cut_off_from_its_caller_cancels_the_handlers() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world, *_ = await two(cluster)
        one, other = world.handles
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stub(one, other).once, "key", 1000.0)
            await trio.sleep(1)
            await cluster.crash(one)
            await other.node.registry.wait_for(1, state=rpcnet.NodeState.FAILED)
            await trio.sleep(WIRE)
            assert len(world.works["n1"].cancelled) == 1
            nursery.cancel_scope.cancel()

    run(scenario)
