"""How a call can go wrong, and what the caller is told."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
from _world import Work, World, stub

import rpcnet
from rpcnet.testing import SimulatedCluster, run

STATUSES = [
    kind
    for kind in vars(rpcnet).values()
    if isinstance(kind, type)
    and issubclass(kind, rpcnet.StatusError)
    and kind not in (rpcnet.StatusError, rpcnet.ApplicationError)
]


class Strange(BaseException):
    """Something that is no Exception."""


@rpcnet.service
class Faulty:
    def __init__(self) -> None:
        self.runs = 0
        self.node: rpcnet.Node | None = None
        self.stale: trio.Cancelled | None = None

    @rpcnet.rpc(idempotent=True)
    async def refuse(self, status: int) -> None:
        self.runs += 1
        (kind,) = (kind for kind in STATUSES if kind.status == status)
        raise kind("no paper in tray 2", never_ran=True)

    @rpcnet.rpc(idempotent=True)
    async def refuse_later(self, status: int) -> None:
        await trio.sleep(0.1)
        await self.refuse(status)

    @rpcnet.rpc
    async def fail(self, secret: str) -> None:
        raise KeyError(secret)

    @rpcnet.rpc
    async def fail_later(self, secret: str) -> None:
        await trio.sleep(0.1)
        raise KeyError(secret)

    @rpcnet.rpc
    async def fail_in_nursery(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(self.fail_later, "in a nursery")

    @rpcnet.rpc
    async def fail_with_a_group(self) -> None:
        raise BaseExceptionGroup("strange", [Strange(), ValueError()])

    @rpcnet.rpc
    async def fail_later_with_a_group(self) -> None:
        await trio.sleep(0.1)
        raise BaseExceptionGroup("strange", [Strange(), ValueError()])

    @rpcnet.rpc
    async def fail_strangely(self) -> None:
        raise Strange

    @rpcnet.rpc
    async def fail_with_an_old_cancellation(self) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as error:
                self.stale = error
                raise
        assert self.stale is not None
        raise self.stale

    @rpcnet.rpc
    async def exhaust_an_iterator(self) -> None:
        raise StopAsyncIteration

    @rpcnet.rpc
    async def swallow_cancellation(self) -> str:
        with contextlib.suppress(trio.Cancelled):
            await trio.sleep_forever()
        return "swallowed"

    @rpcnet.rpc
    async def fail_in_cleanup(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("in cleanup")

    @rpcnet.rpc
    async def return_nonsense(self) -> int:
        return "seven"  # type: ignore[return-value]

    @rpcnet.rpc
    async def return_the_unspeakable(self) -> list[Any]:
        return [object()]

    @rpcnet.rpc
    async def square(self, x: int) -> int:
        return x * x

    @rpcnet.rpc
    async def ask(self, node: str) -> str:
        assert self.node is not None
        return await self.node.stub(Work, node=node).who()


@attrs.define(eq=False)
class Pair:
    cluster: SimulatedCluster
    caller: rpcnet.Node
    called: rpcnet.Node
    faulty: Faulty
    world: World

    @property
    def stub(self) -> Faulty:
        return self.caller.stub(Faulty)


def simulate(scenario: Callable[[Pair], object], *, seed: int = 0, **rpc: Any) -> None:
    """Run a scenario with a caller, a node that serves ``Faulty``, and one that serves ``Work``."""

    async def main(cluster: SimulatedCluster) -> None:
        faulty = Faulty()
        config = rpcnet.NodeConfig(rpc=attrs.evolve(rpcnet.RpcConfig(), **rpc))
        world = World(cluster)
        (worker,) = await world.start(1, config=config)
        (called,) = await cluster.start(1, services=lambda name: [faulty], config=config)
        (caller,) = await cluster.start(1, config=config)
        faulty.node = called.node
        await cluster.converged()
        await scenario(Pair(cluster, caller.node, called.node, faulty, world))  # type: ignore[misc]
        for node in (worker.node, called.node, caller.node):
            assert set(node.statistics().restarts.values()) == {0}
            assert node.statistics().active_calls == 0
        assert await caller.node.stub(Work).who() == "n0"

    run(main, seed=seed)


@pytest.mark.parametrize("kind", STATUSES, ids=lambda kind: kind.__name__)
def test_a_status_that_a_handler_raises_arrives_as_the_same_class(kind: type[rpcnet.StatusError]) -> None:
    async def scenario(pair: Pair) -> None:
        for method in (pair.stub.refuse, pair.stub.refuse_later):
            with pytest.raises(rpcnet.StatusError) as caught:
                await method(kind.status)
            assert type(caught.value) is kind
            assert caught.value.message == "no paper in tray 2"
            assert not caught.value.never_ran, "a handler cannot promise that nothing ran"

    simulate(scenario)


def test_a_status_that_a_handler_raises_is_not_taken_for_one_of_the_transport() -> None:
    """Otherwise a handler that says Unavailable for a reason of its own would be run again although it ran."""

    async def scenario(pair: Pair) -> None:
        with pytest.raises(rpcnet.ResourceExhausted):
            await pair.stub.refuse(rpcnet.ResourceExhausted.status)
        assert pair.faulty.runs == 1

    simulate(scenario)


@pytest.mark.parametrize("method", ["fail", "fail_later"])
def test_an_undeclared_exception_is_internal_with_a_call_id_that_is_in_the_servers_log(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(pair: Pair) -> None:
        with pytest.raises(rpcnet.Internal) as caught:
            await getattr(pair.stub, method)("the secret")
        error = caught.value
        assert error.call_id
        assert error.call_id in str(error)
        assert "the secret" not in str(error)
        assert "Traceback" not in str(error)
        assert error.__cause__ is None
        records = [record for record in caplog.records if error.call_id in record.getMessage()]
        assert len(records) == 1
        assert records[0].levelno == logging.ERROR
        assert records[0].exc_info
        assert isinstance(records[0].exc_info[1], KeyError)
        assert "n2" in records[0].getMessage()

    simulate(scenario)


BADLY = [
    "fail_in_nursery",
    "fail_with_a_group",
    "fail_later_with_a_group",
    "fail_strangely",
    "fail_with_an_old_cancellation",
    "exhaust_an_iterator",
]


@pytest.mark.parametrize("method", BADLY)
def test_whatever_a_handler_raises_ends_its_call_and_nothing_else(method: str) -> None:
    async def scenario(pair: Pair) -> None:
        for _ in range(10):
            with pytest.raises(rpcnet.Internal) as caught:
                await getattr(pair.stub, method)()
            assert caught.value.call_id
        assert await pair.stub.square(7) == 49

    simulate(scenario)


@pytest.mark.parametrize("method", ["swallow_cancellation", "fail_in_cleanup"])
def test_a_handler_that_handles_its_cancellation_badly_harms_nobody_else(method: str) -> None:
    async def scenario(pair: Pair) -> None:
        for _ in range(10):
            with trio.move_on_after(0.5) as scope:
                await getattr(pair.stub, method)()
            assert scope.cancelled_caught
            assert await pair.stub.square(7) == 49
        await trio.sleep(1)

    simulate(scenario)


@pytest.mark.parametrize("method", ["return_nonsense", "return_the_unspeakable"])
def test_a_result_of_the_wrong_type_is_the_servers_fault(method: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(pair: Pair) -> None:
        with pytest.raises(rpcnet.Internal) as caught:
            await getattr(pair.stub, method)()
        assert caught.value.call_id
        assert any(caught.value.call_id in record.getMessage() for record in caplog.records)

    simulate(scenario)


def test_arguments_that_do_not_fit_are_refused_before_anything_is_sent() -> None:
    async def scenario(pair: Pair) -> None:
        stub = pair.stub
        with pytest.raises((rpcnet.InvalidArgument, TypeError)):
            await stub.square("seven")  # type: ignore[arg-type]
        with pytest.raises((rpcnet.InvalidArgument, TypeError)):
            await stub.square()  # type: ignore[call-arg]
        with pytest.raises((rpcnet.InvalidArgument, TypeError)):
            await stub.square(1, 2)  # type: ignore[call-arg]
        assert pair.caller.statistics().client.per_node == {}

    simulate(scenario)


@pytest.mark.parametrize(("args", "names"), [(("seven",), "x"), ((), "x"), ((1, 2), "2"), ((None,), "x")])
def test_arguments_that_do_not_fit_are_refused_by_the_server_by_name(args: tuple[object, ...], names: str) -> None:
    async def scenario(pair: Pair) -> None:
        with pytest.raises(rpcnet.InvalidArgument, match=names) as caught:
            await pair.caller.client.call_worker("Faulty.square", *args)
        assert caught.value.never_ran
        assert await pair.caller.client.call_worker("Faulty.square", 7) == 49

    simulate(scenario)


def test_an_unknown_method_is_unimplemented() -> None:
    async def scenario(pair: Pair) -> None:
        with pytest.raises(rpcnet.Unimplemented, match=r"Faulty\.cube") as caught:
            await pair.caller.client.call_worker("Faulty.cube", 7)
        assert caught.value.never_ran

    simulate(scenario)


def test_a_call_that_could_not_be_made_inside_a_handler_does_not_say_that_the_handler_did_not_run() -> None:
    async def scenario(pair: Pair) -> None:
        pair.cluster.partition(pair.cluster.nodes[:1], pair.cluster.nodes[1:])
        with pytest.raises(rpcnet.Unavailable) as caught:
            await pair.stub.ask("n0")
        assert not caught.value.never_ran
        assert pair.caller.statistics().client.retries == 0
        pair.cluster.repair()
        await pair.cluster.converged()

    simulate(scenario)


def test_an_error_of_ours_inside_a_handler_is_internal() -> None:
    async def scenario(pair: Pair) -> None:
        with pytest.raises(rpcnet.Internal, match="NoWorkers"):
            await pair.stub.ask("nobody")

    simulate(scenario)


def test_a_request_above_the_limit_names_both_sizes_and_is_not_sent() -> None:
    async def scenario(pair: Pair) -> None:
        with pytest.raises(rpcnet.ResourceExhausted, match=r"200\d\d\d .*100000") as caught:
            await pair.caller.stub(Work).measure(b"x" * 200_000, 0.0)
        assert caught.value.never_ran
        assert pair.caller.statistics().client.retries == 0
        assert pair.world.ran("measure") == 0

    simulate(scenario, max_message_bytes=100_000)


def test_a_result_above_the_limit_names_both_sizes() -> None:
    async def scenario(pair: Pair) -> None:
        with pytest.raises(rpcnet.ResourceExhausted, match=r"200\d\d\d .*100000") as caught:
            await pair.caller.stub(Work).produce(200_000, 0.0)
        assert not caught.value.never_ran
        assert pair.world.ran("produce") == 1

    simulate(scenario, max_message_bytes=100_000)


def test_nodes_with_different_limits_understand_each_other() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        small = rpcnet.RpcConfig(max_message_bytes=20_000, lane_limit_bytes=1000)
        large = rpcnet.RpcConfig(lane_limit_bytes=500_000)
        (frugal,) = await world.start(1, config=rpcnet.NodeConfig(rpc=small))
        (lavish,) = await world.start(1, config=rpcnet.NodeConfig(rpc=large))
        for one, other in ((frugal, lavish), (lavish, frugal)):
            with trio.fail_after(5):
                assert await stub(one, other).measure(b"x" * 10_000, 0.0) == 10_000
                assert len(await stub(one, other).produce(10_000, 0.0)) == 10_000
            with pytest.raises(rpcnet.ResourceExhausted, match="20000"):
                await stub(one, other).measure(b"x" * 50_000, 0.0)
            with pytest.raises(rpcnet.ResourceExhausted, match="20000"):
                await stub(one, other).produce(50_000, 0.0)
            assert await stub(one, other).who() == other.name

    run(scenario)


def test_a_long_error_message_arrives_under_small_limits_too() -> None:
    @rpcnet.service
    class Verbose:
        @rpcnet.rpc
        async def complain(self) -> None:
            raise rpcnet.NotFound("\u00e4" * 20_000)

    async def scenario(cluster: SimulatedCluster) -> None:
        config = rpcnet.NodeConfig(rpc=rpcnet.RpcConfig(max_message_bytes=1024, lane_limit_bytes=256))
        nodes = await cluster.start(2, services=lambda name: [Verbose()], config=config)
        await cluster.converged()
        for _ in range(2):
            with pytest.raises(rpcnet.NotFound) as caught:
                await nodes[0].node.stub(Verbose, node="n1").complain()
            assert len(caught.value.message) >= 100

    run(scenario)


def test_nobody_to_call_is_said_at_once() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        (node,) = await cluster.start(1)
        begun = trio.current_time()
        with pytest.raises(rpcnet.NoWorkers, match=r"no live node serves work where 'gpu'"):
            await node.node.stub(Work, where="gpu").who()
        with pytest.raises(rpcnet.NoWorkers, match=r"'nobody'.*is not known"):
            await node.node.stub(Work, node="nobody").who()
        assert trio.current_time() == begun

    run(scenario)


def test_nobody_to_call_can_be_waited_for() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        (node,) = await cluster.start(1)
        begun = trio.current_time()
        with pytest.raises(rpcnet.NoWorkers):
            await node.node.stub(Work, wait_for_worker=3.0).who()
        assert trio.current_time() == begun + 3.0
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def start_later() -> None:
                await trio.sleep(1.0)
                await world.start(1)

            begun = trio.current_time()
            assert await node.node.stub(Work, wait_for_worker=30.0).who() == "n1"
            assert begun + 1 <= trio.current_time() <= begun + 1.5

    run(scenario)


def test_a_stub_pinned_to_a_node_calls_no_other() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(3)
        by_name, by_id = (nodes[0].node.stub(Work, node=key) for key in ("n1", nodes[1].node.id))
        assert {await by_name.who() for _ in range(9)} | {await by_id.who() for _ in range(9)} == {"n1"}
        await cluster.crash(nodes[1])
        with pytest.raises(rpcnet.Unavailable):
            with trio.fail_after(60):
                await by_name.who()
        await nodes[0].node.registry.wait_for(1, state=rpcnet.NodeState.FAILED)
        with pytest.raises(rpcnet.NoWorkers, match=r"'n1'.*is failed"):
            await by_name.who()
        assert world.works["n2"].runs["who"] == 0

    run(scenario)


def test_calling_all_workers_collects_results_and_errors() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(4, tags=lambda name: {"name": name})
        client = nodes[0].node.client
        results = await client.call_all_workers("work.who")
        assert {info.name: value for info, value in results.items()} == {name: name for name in world.works}
        assert len(await client.call_all_workers("work.who", where="name!=n2")) == 3
        assert await client.call_all_workers("work.who", where="name=nobody") == {}
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def crash_later() -> None:
                await trio.sleep(0.5)
                await cluster.crash(nodes[3])

            results = await client.call_all_workers("work.once", "key", 1.0)
        by_name = {info.name: value for info, value in results.items()}
        lost = by_name.pop("n3")
        assert isinstance(lost, rpcnet.Unavailable)
        assert by_name == {"n0": "n0", "n1": "n1", "n2": "n2"}

    run(scenario)


def test_calling_all_workers_wrongly_raises_no_group() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        (node,) = await world.start(1)
        with pytest.raises(rpcnet.ConfigError, match=r"service\.method"):
            await node.node.client.call_all_workers("who")
        with pytest.raises(rpcnet.ConfigError, match="column"):
            await node.node.client.call_all_workers("work.who", where="a=")
        (result,) = (await node.node.client.call_all_workers("work.once", object())).values()
        assert isinstance(result, rpcnet.InvalidArgument)

    run(scenario)
