"""Middleware runs around calls of every shape, at both sides, for as long as they last."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import attrs
import pytest
import trio
from _shapes import SHAPES, STREAMED, OutOfPaper, Pair, Printer, collect, each, simulate

import rpcnet
from rpcnet.testing import SimulatedCluster, run

sides = pytest.mark.parametrize("side", ["client", "server"])


@attrs.define(eq=False)
class Recorder:
    """A middleware that writes down what it sees; the same for both sides."""

    name: str = "recorder"
    log: list[str] = attrs.field(factory=list)
    results: list[object] = attrs.field(factory=list)
    errors: list[BaseException] = attrs.field(factory=list)

    def clear(self) -> None:
        for seen in (self.log, self.results, self.errors):
            seen.clear()

    async def __call__(self, call: rpcnet.Call, proceed: rpcnet.Proceed) -> object:
        self.log.append(f"{self.name} begins {call.method}")
        try:
            result = await proceed()
        except BaseException as error:
            self.errors.append(error)
            self.log.append(f"{self.name} fails")
            raise
        self.results.append(result)
        self.log.append(f"{self.name} ends")
        return result


Scenario = Callable[[Pair, Printer, str], Awaitable[None]]
"""What happens with a pair, a stub whose calls go through the middleware, and the name of a shape."""


def simulate_with(scenario: Scenario, side: str, *middleware: Any, shapes: Iterable[str] = SHAPES) -> None:
    """Run a scenario for each shape, with middleware at one side."""

    async def main(pair: Pair) -> None:
        for shape in shapes:
            pair.printer.printed.clear()
            pair.printer.cancelled = 0
            for each_one in middleware:
                if isinstance(each_one, Recorder):
                    each_one.clear()
            await scenario(pair, pair.stub(*middleware) if side == "client" else pair.stub(), shape)
            await trio.sleep(1)

    simulate(main, middleware=middleware if side == "server" else ())


# --- when it runs


@sides
def test_a_middleware_runs_around_a_call_and_sees_its_result(side: str) -> None:
    recorder = Recorder()

    async def scenario(pair: Pair, stub: Printer, shape: str) -> None:
        assert await SHAPES[shape](stub, ["a"], []) == ["A"]
        await trio.sleep(0.1)
        assert recorder.log == [f"recorder begins Printer.{shape}", "recorder ends"]
        assert recorder.results == {"one": ["A"], "requests": [["A"]]}.get(shape, [None])

    simulate_with(scenario, side, recorder)


@sides
def test_the_first_middleware_is_outermost(side: str) -> None:
    log: list[str] = []

    async def scenario(pair: Pair, stub: Printer, shape: str) -> None:
        await SHAPES[shape](stub, ["a"], [])
        await trio.sleep(0.1)
        method = f"Printer.{shape}"
        assert log == [f"outer begins {method}", f"inner begins {method}", "inner ends", "outer ends"]

    simulate_with(scenario, side, Recorder("outer", log), Recorder("inner", log))


@sides
def test_a_middleware_lasts_as_long_as_the_stream(side: str) -> None:
    recorder = Recorder()

    async def slowly(shape: str) -> AsyncIterator[str]:
        for word in ("a", "b", "c"):
            await trio.sleep(1)
            assert recorder.log == [f"recorder begins Printer.{shape}"]
            yield word

    async def scenario(pair: Pair, stub: Printer, shape: str) -> None:
        stream = stub.results(["a", "b", "c"]) if shape == "results" else stub.both(slowly(shape))
        async with stream as values:
            found = [value async for value in values]
            if side == "client":
                assert recorder.log == [f"recorder begins Printer.{shape}"]
        assert found == ["A", "B", "C"]
        await trio.sleep(0.1)
        assert recorder.log == [f"recorder begins Printer.{shape}", "recorder ends"]

    simulate_with(scenario, side, recorder, shapes=STREAMED)


def test_a_call_by_name_goes_through_middleware_too() -> None:
    recorder = Recorder()

    async def scenario(pair: Pair) -> None:
        client = pair.client(recorder)
        assert await client.call_worker("Printer.one", "a") == "A"
        (result,) = (await client.call_all_workers("Printer.one", "b")).values()
        assert result == "B"
        assert recorder.log == ["recorder begins Printer.one", "recorder ends"] * 2

    simulate(scenario)


# --- what it sees


def test_a_middleware_sees_the_arguments_by_name() -> None:
    found: list[tuple[str, object]] = []

    async def look(call: rpcnet.Call, proceed: rpcnet.Proceed) -> object:
        found.append((call.method, dict(call.arguments)))
        return await proceed()

    async def scenario(pair: Pair) -> None:
        stub = pair.stub(look)
        await stub.one("a")
        await stub.one(word="a")
        await stub.requests(each(["a"]))
        async with stub.results(["a"]) as values:
            assert [value async for value in values] == ["A"]
        expected: list[tuple[str, object]] = [
            *[("Printer.one", {"word": "a"})] * 4,
            *[("Printer.requests", {})] * 2,
            *[("Printer.results", {"words": ["a"]})] * 2,
        ]
        assert found == expected

    simulate(scenario, middleware=[look])


def test_what_a_client_middleware_adds_to_the_metadata_reaches_the_one_at_the_server() -> None:
    found: list[dict[str, str]] = []

    async def add(call: rpcnet.ClientCall, proceed: rpcnet.Proceed) -> object:
        call.metadata["trace"] = call.metadata.get("trace", "") + "x"
        return await proceed()

    async def look(call: rpcnet.ServerCall, proceed: rpcnet.Proceed) -> object:
        found.append(dict(call.metadata))
        assert rpcnet.current_call() is call
        return await proceed()

    async def scenario(pair: Pair) -> None:
        for shape in SHAPES.values():
            twice, once = pair.stub(add, add), pair.stub(add, user="ann")
            for stub in (twice, twice, once, once):
                await shape(stub, ["a"], [])
            assert found == [{"trace": "xx"}] * 2 + [{"trace": "x", "user": "ann"}] * 2
            found.clear()

    simulate(scenario, middleware=[look])


def test_metadata_above_the_limit_fails_the_call_and_sends_nothing() -> None:
    async def add(call: rpcnet.ClientCall, proceed: rpcnet.Proceed) -> object:
        call.metadata["large"] = "x" * 10_000
        return await proceed()

    async def scenario(pair: Pair) -> None:
        for shape in SHAPES.values():
            with pytest.raises(rpcnet.ResourceExhausted, match="limit of 8192"):
                await shape(pair.stub(add), ["a"], [])
        assert pair.printer.printed == []

    simulate(scenario)


@sides
def test_a_middleware_knows_the_deadline(side: str) -> None:
    left: list[float] = []

    async def look(call: rpcnet.Call, proceed: rpcnet.Proceed) -> object:
        left.append(call.deadline - trio.current_time())
        return await proceed()

    async def scenario(pair: Pair, stub: Printer, shape: str) -> None:
        with trio.fail_after(5):
            await stub.one("a")
        assert 4.9 < left[0] <= 5

    simulate_with(scenario, side, look, shapes=["one"])


# --- what it can do


@sides
def test_what_a_middleware_returns_is_the_result_with_or_without_proceeding(side: str) -> None:
    async def change(call: rpcnet.Call, proceed: rpcnet.Proceed) -> object:
        result = await proceed()
        return [*result, "more"] if isinstance(result, list) else result + "!"

    async def answer(call: rpcnet.Call, proceed: rpcnet.Proceed) -> object:
        return ["cached"] if call.method == "Printer.requests" else "cached"

    async def changed(pair: Pair, stub: Printer, shape: str) -> None:
        assert await SHAPES[shape](stub, ["a"], []) == (["A!"] if shape == "one" else ["A", "more"])

    async def cached(pair: Pair, stub: Printer, shape: str) -> None:
        assert await SHAPES[shape](stub, ["a"], []) == ["cached"]
        assert pair.printer.printed == []

    simulate_with(changed, side, change, shapes=["one", "requests"])
    simulate_with(cached, side, answer, shapes=["one", "requests"])


def test_a_middleware_that_answers_where_the_results_are_a_stream_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    async def answer(call: rpcnet.Call, proceed: rpcnet.Proceed) -> object:
        return None

    async def at_the_client(pair: Pair, stub: Printer, shape: str) -> None:
        with pytest.raises(RuntimeError, match="a middleware answered where the results are a stream"):
            await SHAPES[shape](stub, ["a"], [])

    async def at_the_server(pair: Pair, stub: Printer, shape: str) -> None:
        with pytest.raises(rpcnet.Internal):
            await SHAPES[shape](stub, ["a"], [])
        assert "a middleware answered where the results are a stream" in caplog.text

    simulate_with(at_the_client, "client", answer, shapes=STREAMED)
    simulate_with(at_the_server, "server", answer, shapes=STREAMED)


@sides
def test_a_middleware_that_raises_refuses_the_call(side: str) -> None:
    async def refuse(call: rpcnet.Call, proceed: rpcnet.Proceed) -> object:
        await trio.sleep(0.1)
        raise rpcnet.PermissionDenied("not on Sundays")

    async def scenario(pair: Pair, stub: Printer, shape: str) -> None:
        with pytest.raises(rpcnet.PermissionDenied, match="not on Sundays"):
            await SHAPES[shape](stub, ["a"], [])
        assert pair.printer.printed == []

    simulate_with(scenario, side, refuse)


@sides
def test_a_middleware_sees_the_error_of_a_call_and_can_replace_it(side: str) -> None:
    recorder = Recorder()

    async def replace(call: rpcnet.Call, proceed: rpcnet.Proceed) -> object:
        try:
            return await proceed()
        except OutOfPaper as error:
            raise rpcnet.Unavailable(f"tray {error.tray} is empty") from None

    async def scenario(pair: Pair, stub: Printer, shape: str) -> None:
        with pytest.raises(rpcnet.Unavailable, match="tray 3 is empty"):
            await SHAPES[shape](stub, ["a", "empty"], [])
        await trio.sleep(0.1)
        assert [type(error) for error in recorder.errors] == [OutOfPaper]

    simulate_with(scenario, side, replace, recorder)


def test_what_a_handler_raises_reaches_the_servers_middleware_as_it_is() -> None:
    recorder = Recorder()

    async def scenario(pair: Pair, stub: Printer, shape: str) -> None:
        with pytest.raises(rpcnet.Internal):
            await SHAPES[shape](stub, ["a", "fail"], [])
        assert [type(error) for error in recorder.errors] == [KeyError]

    simulate_with(scenario, "server", recorder)


@sides
def test_errors_come_out_bare_through_a_middleware_with_a_nursery(side: str) -> None:
    async def watch(call: rpcnet.Call, proceed: rpcnet.Proceed) -> object:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            result = await proceed()
            nursery.cancel_scope.cancel()
        return result

    async def scenario(pair: Pair, stub: Printer, shape: str) -> None:
        assert await SHAPES[shape](stub, ["a"], []) == ["A"]
        with pytest.raises(OutOfPaper) as caught:
            await SHAPES[shape](stub, ["a", "empty"], [])
        assert caught.value.tray == 3
        with pytest.raises(rpcnet.NotFound, match="no such tray"):
            await SHAPES[shape](stub, ["missing"], [])

    simulate_with(scenario, side, watch)


@sides
def test_a_cancel_scope_of_a_middleware_holds_the_call(side: str) -> None:
    async def hurry(call: rpcnet.Call, proceed: rpcnet.Proceed) -> object:
        try:
            with trio.fail_after(2):
                return await proceed()
        except trio.TooSlowError:
            raise rpcnet.ResourceExhausted("too slow") from None

    async def scenario(pair: Pair, stub: Printer, shape: str) -> None:
        begun = trio.current_time()
        with pytest.raises(rpcnet.ResourceExhausted, match="too slow"):
            await SHAPES[shape](stub, ["a", "wait"], [])
        assert 1.9 < trio.current_time() - begun < 2.5
        await trio.sleep(0.1)
        assert pair.printer.cancelled == 1

    simulate_with(scenario, side, hurry)


@sides
def test_a_cancelled_caller_cancels_through_middleware(side: str) -> None:
    recorder = Recorder()

    async def scenario(pair: Pair, stub: Printer, shape: str) -> None:
        with trio.move_on_after(2) as scope:
            await SHAPES[shape](stub, ["wait"], [])
        assert scope.cancelled_caught
        await trio.sleep(0.1)
        assert [type(error) for error in recorder.errors] == [trio.Cancelled]
        assert pair.printer.cancelled == 1

    simulate_with(scenario, side, recorder)


@sides
def test_a_middleware_proceeds_once(side: str) -> None:
    async def repeat(call: rpcnet.Call, proceed: rpcnet.Proceed) -> object:
        await proceed()
        with pytest.raises(RuntimeError, match="can proceed once"):
            await proceed()
        raise rpcnet.Aborted("as expected")

    async def scenario(pair: Pair, stub: Printer, shape: str) -> None:
        with pytest.raises(rpcnet.Aborted):
            await SHAPES[shape](stub, ["a"], [])

    simulate_with(scenario, side, repeat)


# --- around a block


def test_the_block_of_a_stream_runs_inside_of_the_middleware() -> None:
    """What ends the block, and whatever the middleware makes of it, is as if it were written around the block."""
    recorder = Recorder()

    async def scenario(pair: Pair) -> None:
        for error in (ValueError("of the block"), StopIteration("of the block"), StopAsyncIteration()):
            with pytest.raises(type(error)) as caught:
                async with pair.stub(recorder).results(["a", "b"]):
                    raise error
            assert caught.value is error
        assert [type(error) for error in recorder.errors] == [ValueError, RuntimeError, StopAsyncIteration]

    simulate(scenario)


def test_a_middleware_may_swallow_what_ends_the_block() -> None:
    async def forgive(call: rpcnet.Call, proceed: rpcnet.Proceed) -> object:
        with contextlib.suppress(rpcnet.NotFound):
            await proceed()
        return None

    async def scenario(pair: Pair) -> None:
        found: list[str] = []
        is_over = False
        async with pair.stub(forgive).results(["a", "missing"]) as values:
            await collect(values, found)
            is_over = True
        assert found == ["A"]
        assert not is_over

    simulate(scenario)


def test_a_task_of_a_middleware_that_fails_ends_the_block_with_its_error() -> None:
    async def fail() -> None:
        await trio.sleep(2)
        raise LookupError("lost")

    async def watch(call: rpcnet.Call, proceed: rpcnet.Proceed) -> object:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            await proceed()
            pytest.fail("the block has ended by itself")

    async def scenario(pair: Pair) -> None:
        begun = trio.current_time()
        with pytest.raises(LookupError, match="lost"):
            async with pair.stub(watch).results(["a", "wait"]) as values:
                await collect(values, [])
        assert trio.current_time() < begun + 2.5
        await trio.sleep(0.1)
        assert pair.printer.cancelled == 1

    simulate(scenario)


def test_without_middleware_a_handler_is_called_as_it_is() -> None:
    def plain(middleware: list[rpcnet.Middleware[rpcnet.ServerCall]]) -> list[str]:
        table = rpcnet.Node(services=[Printer()], middleware=middleware)._table
        handlers = [handler for handler in map(table.get, range(len(table))) if handler is not None]
        return [handler.definition.name for handler in handlers if handler.method is not None]

    assert "one" in plain([])
    assert "one" not in plain([Recorder()])


def test_a_middleware_that_proceeds_in_another_task_is_told_so() -> None:
    async def stray(call: rpcnet.Call, proceed: rpcnet.Proceed) -> object:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(proceed)
        return None

    async def scenario(pair: Pair) -> None:
        with pytest.raises(RuntimeError, match="has to proceed in its own task"):
            async with pair.stub(stray).results(["a"]):
                pytest.fail("the block was entered")

    simulate(scenario)


def test_a_stream_through_middleware_can_be_entered_once() -> None:
    async def scenario(pair: Pair) -> None:
        stream = pair.stub(Recorder()).results(["a"])
        async with stream:
            pass
        with pytest.raises(RuntimeError, match="entered once"):
            async with stream:
                pytest.fail("it was entered again")

    simulate(scenario)


# --- what it costs, and what is refused


def test_a_call_that_is_repeated_elsewhere_is_one_call_for_middleware() -> None:
    recorder = Recorder()

    async def main(cluster: SimulatedCluster) -> None:
        one, *others = await cluster.start(3, services=lambda name: [Printer()])
        await cluster.converged()
        client = rpcnet.ClusterClient(one.node, balancing=rpcnet.RoundRobin(), middleware=[recorder])
        cluster.partition([one], others)
        for _ in range(3):
            await client.stub(Printer).one("a")
        assert client.statistics().retries > 0
        assert recorder.log == ["recorder begins Printer.one", "recorder ends"] * 3

    run(main)


@pytest.mark.parametrize("middleware", [Recorder(), ["not a function"], [None], 7])
def test_what_is_no_middleware_is_refused(middleware: Any) -> None:
    with pytest.raises(rpcnet.ConfigError, match="middleware"):
        rpcnet.Node(middleware=middleware)


def test_a_middleware_that_fails_is_the_servers_fault_and_in_its_log(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(call: rpcnet.Call, proceed: rpcnet.Proceed) -> object:
        raise LookupError(call.method)

    async def scenario(pair: Pair, stub: Printer, shape: str) -> None:
        with pytest.raises(rpcnet.Internal) as caught:
            await stub.one("a")
        assert caught.value.call_id
        assert caught.value.call_id in caplog.text
        assert "LookupError" in caplog.text

    with caplog.at_level(logging.ERROR, "rpcnet.rpc"):
        simulate_with(scenario, "server", fail, shapes=["one"])
