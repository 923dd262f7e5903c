"""The life of one node: entering, draining, leaving; and a cancellation at every moment of it."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

import attrs
import pytest
import trio
from _world import Work, World, seen, stub

import rpcnet
from rpcnet.testing import SimulatedCluster, run

LEFT = rpcnet.NodeState.LEFT
WHOSE: ContextVar[str] = ContextVar("whose", default="nobody's")


# --- leaving


def test_the_end_of_a_node_waits_for_its_handlers() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        one, other = await world.start(2)
        results: list[str] = []

        async def call() -> None:
            results.append(await stub(one, other).once("running", 3.0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await trio.sleep(1)
            begun = trio.current_time()
            await cluster.stop(other)
            assert 2 <= trio.current_time() - begun <= 4.5
        assert results == ["n1"]

    run(scenario)


def test_the_end_of_a_node_waits_no_longer_than_allowed() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        one, other = await world.start(2, config=rpcnet.NodeConfig(drain_timeout=2.0))
        errors: list[rpcnet.Unavailable] = []

        async def call() -> None:
            with pytest.raises(rpcnet.Unavailable) as caught:
                await stub(one, other).once("running", 1000.0)
            errors.append(caught.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await trio.sleep(1)
            begun = trio.current_time()
            await cluster.stop(other)
            assert 2 <= trio.current_time() - begun <= 4.5
        assert not errors[0].never_ran
        assert len(world.works["n1"].cancelled) == 1
        assert seen(cluster.trace, "NodeLeft", "n1") == ["n0"]

    run(scenario)


def test_a_draining_node_takes_no_new_calls_and_others_take_them() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(3)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stub(nodes[0], nodes[1]).once, "old", 5.0)
            await trio.sleep(1)
            drained_at = 0.0

            @nursery.start_soon
            async def drain() -> None:
                nonlocal drained_at
                await nodes[1].node.drain()
                drained_at = trio.current_time()

            await trio.lowlevel.checkpoint()
            answers = [await stub(nodes[0]).once(f"new {number}", 0.01) for number in range(40)]
            assert set(answers) == {"n0", "n2"}
            with pytest.raises((rpcnet.Unavailable, rpcnet.NoWorkers, rpcnet.Unimplemented)) as caught:
                await stub(nodes[0], nodes[1]).who()
            assert getattr(caught.value, "never_ran", True)
            assert drained_at == 0
        assert 5 <= drained_at <= 5.5
        assert world.works["n1"].ended
        assert [world.ran(f"new {number}") for number in range(40)] == [1] * 40
        await trio.sleep(20)
        info = nodes[0].node.registry.get("n1")
        assert info is not None
        assert info.state is rpcnet.NodeState.ALIVE, "membership goes on"
        assert nodes[0].node.workers.worker_count() == 2

    run(scenario)


@pytest.mark.parametrize("seed", range(3))
def test_the_answers_of_a_node_that_ends_arrive_whatever_the_network_does(seed: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        one, other = await world.start(2)
        for source, destination in ((one, other), (other, one)):
            cluster.set_latency(source, destination, 0.001, 0.02)
            cluster.set_loss(source, destination, 0.05)
        answers: list[str | bytes] = []

        async def call(number: int) -> None:
            if number % 2:
                answers.append(await stub(one, other).once(f"{number}", 3 + number / 10))
            else:
                answers.append(await stub(one, other).produce(30_000, 3 + number / 10))

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(call, number)
            await trio.sleep(3)
            assert sum(world.works["n1"].runs.values()) == 20
            await cluster.stop(other)
        assert len(answers) == 20

    run(scenario, seed=seed)


def test_leaving_alone_takes_no_time() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        async with rpcnet.Node("alone", security=cluster.security):
            begun = trio.current_time()
        assert trio.current_time() == begun

    run(scenario)


def test_leaving_others_that_are_all_gone_is_bounded() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(4)
        cluster.partition(nodes[:1], nodes[1:])
        await trio.sleep(0.5)
        begun = trio.current_time()
        await cluster.stop(nodes[0])
        assert trio.current_time() - begun <= 2.5

    run(scenario)


def test_a_caller_that_is_gone_is_not_waited_for_long() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(3)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stub(nodes[0], nodes[1]).produce, 100_000, 1.0)
            await trio.sleep(0.99)
            await cluster.crash(nodes[0])
            begun = trio.current_time()
            await cluster.stop(nodes[1])
            assert trio.current_time() - begun <= 5
            nursery.cancel_scope.cancel()

    run(scenario)


def test_a_cancelled_node_says_goodbye_in_bounded_time() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        (first,) = await world.start(1)
        with trio.move_on_after(5) as scope:
            async with rpcnet.Node("late", seeds=[first.address], security=cluster.security):
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert trio.current_time() <= 5 + 2.5
        await first.node.registry.wait_for(1, state=LEFT)
        assert not seen(cluster.trace, "NodeFailed")

    run(scenario)


def test_errors_of_the_body_come_out_bare_and_groups_untouched() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        for error in (KeyError("mine"), ExceptionGroup("mine", [ValueError()])):

            async def fail(error: Exception = error) -> None:
                async with rpcnet.Node("a", security=cluster.security):
                    raise error

            with pytest.raises(type(error)) as caught:
                await fail()
            assert caught.value is error

    run(scenario)


def test_nothing_works_before_the_block_or_after_it() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        (first,) = await world.start(1)
        node = rpcnet.Node("late", seeds=[first.address], security=cluster.security)
        with pytest.raises(RuntimeError, match="not running"):
            node.stub(Work)
        with pytest.raises(RuntimeError, match="not running"):
            node.registry.nodes()
        with pytest.raises(RuntimeError, match="not entered"):
            await node.__aexit__(None, None, None)
        async with node:
            called = node.stub(Work)
            assert await called.who() == "n0"
        begun = trio.current_time()
        with pytest.raises((RuntimeError, rpcnet.RpcNetError)):
            await called.who()
        assert trio.current_time() - begun <= 6
        with pytest.raises(RuntimeError, match="once"):
            await node.__aenter__()

    run(scenario)


def test_a_node_cannot_be_entered_twice() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        node = rpcnet.Node("a", security=cluster.security)
        errors: list[RuntimeError] = []

        async def enter() -> None:
            try:
                async with node:
                    await trio.sleep(1)
            except RuntimeError as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(enter)
            nursery.start_soon(enter)
        assert len(errors) == 1

    run(scenario)


# --- starting


def test_a_start_that_fails_leaves_nothing_behind() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        living = trio.lowlevel.current_statistics().tasks_living
        bind = "10.1.1.1:7946"
        failing = rpcnet.Node("a", bind=bind, seeds=["10.9.9.9:7946"], security=cluster.security)
        with pytest.raises(rpcnet.JoinError):
            await failing.__aenter__()
        assert trio.lowlevel.current_statistics().tasks_living == living
        async with rpcnet.Node("b", bind=bind, security=cluster.security):
            with pytest.raises(rpcnet.ConfigError, match="in use"):
                await rpcnet.Node("c", bind=bind, security=cluster.security).__aenter__()
        async with rpcnet.Node("d", bind=bind, security=cluster.security) as node:
            assert node.address == bind
        assert trio.lowlevel.current_statistics().tasks_living == living

    run(scenario)


def test_a_node_refused_for_its_name_leaves_nothing_behind() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        (first,) = await cluster.start(1)
        living = trio.lowlevel.current_statistics().tasks_living
        bind = "10.1.1.1:7946"
        with pytest.raises(rpcnet.NameConflict):
            await rpcnet.Node("n0", bind=bind, seeds=[first.address], security=cluster.security).__aenter__()
        assert trio.lowlevel.current_statistics().tasks_living == living
        async with rpcnet.Node("n1", bind=bind, seeds=[first.address], security=cluster.security) as node:
            assert len(node.registry.alive()) == 2

    run(scenario)


# --- contexts


def test_handlers_inherit_nothing_from_whoever_opened_the_node() -> None:
    @rpcnet.service
    class Curious:
        @rpcnet.rpc
        async def whose(self) -> str:
            before = WHOSE.get()
            WHOSE.set("a handler's")
            await trio.lowlevel.checkpoint()
            return before

    async def scenario(cluster: SimulatedCluster) -> None:
        WHOSE.set("the opener's")
        async with rpcnet.Node("a", services=[Curious()], security=cluster.security) as node:
            for _ in range(5):
                assert await node.stub(Curious).whose() == "nobody's"
            assert WHOSE.get() == "the opener's"

    run(scenario)


# --- a cancellation at every moment


@attrs.define(eq=False)
class AtStep(trio.abc.Instrument):
    """Cancels a scope just before one task takes its n-th step."""

    task: trio.lowlevel.Task
    scope: trio.CancelScope
    step: int

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.step -= 1
            if self.step == 0:
                self.scope.cancel()


async def join_call_and_leave(cluster: SimulatedCluster, first: str) -> None:
    node = rpcnet.Node(
        "guest", bind="10.1.1.1:7946", seeds=[first], services=[Work("guest")], security=cluster.security
    )
    async with node:
        await node.stub(Work, node="n0").measure(b"x" * 50_000, 0.1)
        await node.stub(Work, node="n1").again("key", 0.1)
        await node.update_tags({"a": "b"})
        async with node.events() as events:
            await anext(events)
        await node.registry.wait_for(3)
        await node.drain()
        await node.leave()


def cancelled(arm: Callable[[trio.CancelScope], None], seed: int) -> bool:
    """Cancel a guest of a cluster; check that it is gone in bounded time; return whether it was cancelled at all."""
    was_cancelled = False

    async def scenario(cluster: SimulatedCluster) -> None:
        nonlocal was_cancelled
        world = World(cluster)
        one, other = await world.start(2)
        begun = trio.current_time()
        with trio.CancelScope() as scope:
            arm(scope)
            await join_call_and_leave(cluster, one.address)
        was_cancelled = scope.cancelled_caught
        assert trio.current_time() - begun < 10
        assert not cluster._network.is_bound(("10.1.1.1", 7946))
        await trio.sleep(3)
        assert one.node.statistics().active_calls == other.node.statistics().active_calls == 0
        info = one.node.registry.get("guest")
        assert info is None or info.state is LEFT
        assert await stub(one, other).who() == "n1"
        for node in (one, other):
            assert set(node.node.statistics().restarts.values()) == {0}

    run(scenario, seed=seed)
    return was_cancelled


@pytest.mark.parametrize("first", range(1, 41, 8))
def test_a_node_cancelled_at_any_step_of_its_body_is_gone_in_bounded_time(first: int) -> None:
    for step in range(first, first + 8):

        def arm(scope: trio.CancelScope, step: int = step) -> None:
            trio.lowlevel.add_instrument(AtStep(trio.lowlevel.current_task(), scope, step))

        cancelled(arm, seed=step)


def test_a_node_cancelled_at_any_time_is_gone_in_bounded_time() -> None:
    outcomes = []
    for number in range(40):

        def arm(scope: trio.CancelScope, number: int = number) -> None:
            scope.deadline = trio.current_time() + number * 0.02

        outcomes.append(cancelled(arm, seed=number))
    assert outcomes[0]
    assert not outcomes[-1]
