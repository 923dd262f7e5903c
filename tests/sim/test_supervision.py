"""A task of a node fails inside: it is started again, nobody else notices. It fails again and again: the node ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
import trio
from _world import World, seen, stub

import rpcnet
from rpcnet._core.detector import DetectorMachine
from rpcnet._core.exchanges import Hearsay
from rpcnet._core.swim import SwimMachine
from rpcnet._signals import Draining, Leaving
from rpcnet._tasks.membership import MembershipTask
from rpcnet._tasks.registry import RegistryTask
from rpcnet._tasks.rpc_server import RpcServerTask
from rpcnet.events import NodeInfo, NodeLeft, NodeState
from rpcnet.testing import SimulatedCluster, run

FAILED = rpcnet.NodeState.FAILED
GHOST = NodeInfo("0" * 32, "ghost", "10.9.9.9:7946", 1, 0, NodeState.LEFT)


class Injected(Exception):
    """What is raised inside."""


@attrs.define
class Fault:
    """Makes one method of one node's task raise, as often as it is told to."""

    kind: type
    method: str
    is_of: Callable[[Any, rpcnet.Node], bool]
    victim: rpcnet.Node | None = None
    left: int = 0

    def install(self, patch: pytest.MonkeyPatch) -> None:
        original = getattr(self.kind, self.method)

        def fail(owner: Any, *args: object) -> object:
            if self.left and self.victim is not None and self.is_of(owner, self.victim):
                self.left -= 1
                raise Injected(f"in {self.method}")
            return original(owner, *args)

        patch.setattr(self.kind, self.method, fail)

    async def strike(self, node: rpcnet.Node, times: int = 1) -> None:
        """Let it fail that often, one restart after the other."""
        self.victim = node
        for _ in range(times):
            self.left = 1
            with trio.move_on_after(20):
                while self.left:
                    node._bus.publish(NodeLeft(GHOST, at=trio.current_time()))
                    await trio.sleep(0.05)
            assert not self.left, "nothing called the method"


def faults() -> dict[str, Fault]:
    def has_bus(task: Any, node: rpcnet.Node) -> bool:
        return task._bus is node._bus

    return {
        "membership": Fault(SwimMachine, "on_timer", lambda machine, node: machine.local.name == node._name),
        "failure detector": Fault(DetectorMachine, "on_timer", lambda it, node: it._local_id == node.id),
        "registry": Fault(RegistryTask, "_take", has_bus),
        "RPC server": Fault(RpcServerTask, "_take", has_bus),
    }


@pytest.fixture(params=list(faults()))
def fault(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Fault]:
    found = faults()[request.param]
    found.install(monkeypatch)
    return request.param, found


def test_a_task_that_fails_is_started_again_and_nobody_else_notices(fault: tuple[str, Fault]) -> None:
    task, injected = fault

    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(4, tags=lambda name: {"name": name})
        victim = nodes[1]
        await trio.sleep(5)
        results: list[str] = []

        async def call() -> None:
            results.append(await stub(nodes[0], nodes[2]).once("elsewhere", 5.0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await trio.sleep(1)
            noticed = len(cluster.trace)
            await injected.strike(victim.node)
        restarts = dict(victim.node.statistics().restarts)
        assert restarts.pop(task) == 1
        assert set(restarts.values()) == {0}
        await trio.sleep(60)
        others = [entry for entry in cluster.trace[noticed:] if entry.node != "n1"]
        assert others == []
        assert {entry.what.split()[0] for entry in cluster.trace[noticed:]} <= {"EventsDropped", "NodeLeft"}
        assert results == ["n2"]
        for node in nodes:
            assert await stub(nodes[0], node).who() == node.name
            assert await stub(victim, node).who() == node.name
        await cluster.converged()

    run(scenario, seed=3)


def test_a_node_whose_task_has_failed_goes_on_as_a_member(fault: tuple[str, Fault]) -> None:
    """It still notices a crash, tells its tags, drains, and says goodbye."""
    _, injected = fault

    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(4)
        victim = nodes[1]
        await injected.strike(victim.node)
        await victim.node.update_tags({"new": "yes"})
        await nodes[0].node.registry.wait_for(1, where="new=yes")
        await cluster.crash(nodes[3])
        with trio.fail_after(20):
            await victim.node.registry.wait_for(1, state=FAILED)
        (late,) = await cluster.start(1)
        await cluster.converged()
        assert victim.node.registry.get(late.name) is not None
        await cluster.stop(victim)
        await nodes[0].node.registry.wait_for(1, state=rpcnet.NodeState.LEFT)
        assert not seen(cluster.trace, "NodeFailed", "n1")

    run(scenario, seed=3)


def test_a_subscription_stays_true_across_a_restart(fault: tuple[str, Fault]) -> None:
    """Whatever fails at whatever moment, what a subscriber has read ends in what the registry says."""
    _, injected = fault

    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(3)
        victim = nodes[1].node
        believed: dict[str, NodeInfo] = {}

        async def follow() -> None:
            async with victim.events() as events:
                async for event in events:
                    if isinstance(event, rpcnet.EventsDropped):
                        believed.clear()
                        believed.update({node.name: node for node in victim.registry.nodes()})
                    elif isinstance(event, rpcnet.NodeEvent):
                        believed[event.node.name] = event.node

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await trio.sleep(1)
            nursery.start_soon(injected.strike, victim, 2)
            for number in range(10):
                await nodes[0].node.update_tags({"number": str(number)})
                await trio.sleep(0.03)
            await cluster.start(2)
            await cluster.crash(nodes[2])
            await trio.sleep(30)
            truth = {node.name: node for node in victim.registry.nodes()}
            assert {**believed, "ghost": None} == {**truth, "ghost": None}
            info = victim.registry.get("n0")
            assert info is not None
            assert info.tags == {"number": "9"}
            nursery.cancel_scope.cancel()

    run(scenario, seed=5)


def test_tags_are_told_although_membership_fails_with_the_order_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    original = SwimMachine.update_local
    left = 0

    def fail(owner: SwimMachine, *args: Any, **kwargs: Any) -> Any:
        nonlocal left
        if left:
            left -= 1
            raise Injected("with the order in hand")
        return original(owner, *args, **kwargs)

    monkeypatch.setattr(SwimMachine, "update_local", fail)

    async def scenario(cluster: SimulatedCluster) -> None:
        nonlocal left
        nodes = await cluster.start(2)
        await cluster.converged()
        left = 1
        with trio.fail_after(5):
            await nodes[0].node.update_tags({"new": "yes"})
        await nodes[1].node.registry.wait_for(1, where="new=yes")
        assert nodes[0].node.statistics().restarts["membership"] == 1

    run(scenario)


LOST: list[tuple[type, str, type]] = [
    (MembershipTask, "_decide", Leaving),
    (MembershipTask, "_decide", Draining),
    (RpcServerTask, "_take", Draining),
]


@pytest.mark.parametrize(("task", "method", "order"), LOST)
def test_a_goodbye_is_said_although_a_task_fails_with_the_order_in_hand(
    task: type, method: str, order: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(task, method)
    left = 1

    def fail(owner: Any, event: object, *args: object) -> Any:
        nonlocal left
        if left and isinstance(event, order):
            left -= 1
            raise Injected("with the order in hand")
        return original(owner, event, *args)

    monkeypatch.setattr(task, method, fail)

    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(3)
        await nodes[1].node.drain()
        await trio.sleep(1)
        assert nodes[0].node.workers.worker_count() == 2
        with pytest.raises(rpcnet.StatusError) as caught:
            await stub(nodes[0], nodes[1]).who()
        assert caught.value.never_ran
        begun = trio.current_time()
        await cluster.stop(nodes[1])
        assert trio.current_time() - begun < 2
        assert not left
        await nodes[0].node.registry.wait_for(1, state=rpcnet.NodeState.LEFT)
        assert not seen(cluster.trace, "NodeFailed")

    run(scenario)


def test_a_join_survives_that_membership_fails_with_the_state_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    original = SwimMachine.joined
    left = 1

    def fail(owner: SwimMachine, heard: Sequence[Hearsay], address: str, now: float) -> Any:
        nonlocal left
        if left:
            left -= 1
            raise Injected("with the state in hand")
        return original(owner, heard, address, now)

    monkeypatch.setattr(SwimMachine, "joined", fail)

    async def scenario(cluster: SimulatedCluster) -> None:
        (first,) = await cluster.start(1)
        async with rpcnet.Node("late", seeds=[first.address], security=cluster.security) as late:
            assert left == 0
            await late.registry.wait_for(2)

    run(scenario)


def test_four_failures_within_the_window_end_the_node(fault: tuple[str, Fault]) -> None:
    task, injected = fault

    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(3)
        body = "not ended"
        node = rpcnet.Node("doomed", seeds=[nodes[0].address], security=cluster.security)

        async def live() -> None:
            nonlocal body
            async with node:
                await nodes[0].node.registry.wait_for(4)
                try:
                    await injected.strike(node, 4)
                    await trio.sleep_forever()
                except trio.Cancelled:
                    body = "cancelled"
                    raise

        with pytest.raises(rpcnet.NodeCrashed, match=f"the {task} task failed 4 times") as caught:
            await live()
        cause = caught.value.__cause__
        assert isinstance(cause, ExceptionGroup)
        assert len(cause.exceptions) == 4
        assert cause.subgroup(Injected) is not None
        assert body == "cancelled"
        await trio.sleep(30)
        info = nodes[0].node.registry.get("doomed")
        assert info is not None
        assert not info.is_usable
        for other in nodes:
            assert await stub(nodes[0], other).who() == other.name

    run(scenario, seed=2)


def test_failures_further_apart_do_not(fault: tuple[str, Fault]) -> None:
    task, injected = fault

    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(3)
        for _ in range(8):
            await injected.strike(nodes[1].node)
            await trio.sleep(25)
        assert nodes[1].node.statistics().restarts[task] == 8
        assert not seen(cluster.trace, "NodeSuspected")
        assert not seen(cluster.trace, "NodeFailed")
        assert not seen(cluster.trace, "NodeReplaced")

    run(scenario, seed=2)


def test_calls_that_the_server_task_had_in_hand_end_and_those_that_waited_run(monkeypatch: pytest.MonkeyPatch) -> None:
    injected = faults()["RPC server"]
    injected.install(monkeypatch)

    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        config = rpcnet.NodeConfig(rpc=rpcnet.RpcConfig(max_running_handlers=2))
        one, other = await world.start(2, config=config)
        outcomes: list[object] = []

        async def call(number: int) -> None:
            try:
                outcomes.append(await stub(one, other).once(f"{number}", 1.0))
            except rpcnet.Unavailable as error:
                outcomes.append(error.never_ran)

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(call, number)
            await trio.sleep(0.5)
            await injected.strike(other.node)
        assert sorted(map(str, outcomes)) == ["False", "False", "n1", "n1", "n1", "n1"]
        assert [world.ran(f"{number}") for number in range(6)] == [1] * 6
        assert other.node.statistics().active_calls == 0

    run(scenario)


def test_a_crashed_node_of_a_simulation_is_an_error_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    injected = faults()["registry"]
    injected.install(monkeypatch)

    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(2)
        await injected.strike(nodes[1].node, 4)
        await trio.sleep(60)

    with pytest.raises(rpcnet.NodeCrashed, match="registry"):
        run(scenario)
