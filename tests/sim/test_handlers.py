"""What callers get of handlers that fail, in every shape, and of the errors that services declare."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, cast

import pytest
import trio
from _shapes import SHAPES, OnFire, OutOfPaper, Pair, Printer, collect, each, simulate

import rpcnet
from rpcnet.testing import SimulatedCluster, run

TRACEBACKS = rpcnet.RpcConfig(tracebacks=True)


def got_before(shape: str) -> list[str]:
    """Return what a caller has of the word ``a`` when the next word fails."""
    return [] if shape == "requests" else ["A"]


# --- errors in every shape, before the first value and in mid-stream


@pytest.mark.parametrize("shape", SHAPES)
def test_a_declared_error_arrives_as_itself_behind_what_came_before_it(shape: str) -> None:
    async def scenario(pair: Pair) -> None:
        for words in (["empty"], ["a", "empty"]):
            got: list[str] = []
            with pytest.raises(OutOfPaper) as caught:
                await SHAPES[shape](pair.stub(), words, got)
            assert caught.value == OutOfPaper(3, sizes=["A4", "A5"])
            assert (caught.value.tray, caught.value.sizes) == (3, ["A4", "A5"])
            assert caught.value.hops == (rpcnet.Hop("called", f"Printer.{shape}"),)
            assert not caught.value.never_ran
            assert caught.value.call_id is None
            assert got == (got_before(shape) if len(words) == 2 else [])

    simulate(scenario)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_undeclared_error_is_internal_and_in_the_log_under_its_call_id(
    shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(pair: Pair) -> None:
        for words, kind in ((["fail"], KeyError), (["a", "fail"], KeyError), (["fire"], OnFire)):
            caplog.clear()
            got: list[str] = []
            with pytest.raises(rpcnet.Internal) as caught:
                await SHAPES[shape](pair.stub(), words, got)
            error = caught.value
            assert error.message == f"Printer.{shape} failed with {kind.__name__}"
            assert error.call_id
            assert error.hops == (rpcnet.Hop("called", f"Printer.{shape}", error.call_id),)
            assert error.remote_traceback is None
            assert got == (got_before(shape) if len(words) == 2 else [])
            (record,) = caplog.records
            assert error.call_id in record.getMessage()
            assert record.exc_info is not None
            assert isinstance(record.exc_info[1], kind)

    with caplog.at_level(logging.ERROR, "rpcnet.rpc"):
        simulate(scenario)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_status_arrives_as_its_class(shape: str) -> None:
    async def scenario(pair: Pair) -> None:
        for words in (["missing"], ["a", "missing"]):
            with pytest.raises(rpcnet.NotFound, match="no such tray"):
                await SHAPES[shape](pair.stub(), words, [])

    simulate(scenario)


@pytest.mark.parametrize("shape", ["requests", "both"])
def test_an_error_of_the_requests_is_the_callers_own_and_ends_the_call(shape: str) -> None:
    async def send(stub: Printer, words: AsyncIterator[str], got: list[str]) -> None:
        if shape == "requests":
            await stub.requests(words)
        else:
            async with stub.both(words) as values:
                await collect(values, got)

    async def scenario(pair: Pair) -> None:
        for error in (ValueError("torn"), rpcnet.OutOfRange("no more")):

            async def torn(error: Exception = error) -> AsyncIterator[str]:
                yield "a"
                await trio.sleep(1)
                raise error

            got: list[str] = []
            with pytest.raises(type(error)) as caught:
                await send(pair.stub(), torn(), got)
            assert caught.value is error
            assert got == got_before(shape)
            assert getattr(error, "hops", ()) == ()
            await trio.sleep(0.1)
            assert pair.called.statistics().active_calls == 0

    simulate(scenario)


# --- handlers that do not keep to what they declare


@rpcnet.service
class Careless:
    """Handlers that break their own declarations, each in its way."""

    def __init__(self) -> None:
        self.seen: list[BaseException] = []
        self.closed = 0

    @rpcnet.rpc
    async def no_stream(self) -> AsyncIterator[int]:
        return cast("AsyncIterator[int]", 7)

    @rpcnet.rpc
    async def wrong_in_mid_stream(self) -> AsyncIterator[int]:
        try:
            yield 1
            yield "two"  # type: ignore[misc]
            yield 3
        finally:
            self.closed += 1

    @rpcnet.rpc
    async def wrong_after_requests(self, numbers: AsyncIterator[int]) -> int:
        return [number async for number in numbers]  # type: ignore[return-value]

    @rpcnet.rpc(raises=[OutOfPaper])
    async def wrong_field(self) -> None:
        raise OutOfPaper("three")  # type: ignore[arg-type]

    @rpcnet.rpc
    async def never_ending(self, first: bool) -> AsyncIterator[int]:
        if not first:
            yield 1
        try:
            await trio.sleep_forever()
        except trio.Cancelled as error:
            self.seen.append(error)
            raise

    @rpcnet.rpc
    async def deaf(self) -> AsyncIterator[int]:
        yield 1
        with trio.move_on_after(5, shield=True):
            await trio.sleep_forever()
        yield 2

    @rpcnet.rpc(raises=[OutOfPaper])
    async def in_a_nursery(self, errors: int) -> None:
        async def fail(tray: int) -> None:
            try:
                await trio.sleep(1 + tray)
            except trio.Cancelled:
                raise OutOfPaper(tray) from None
            raise OutOfPaper(tray)

        async with trio.open_nursery() as nursery:
            for tray in range(errors):
                nursery.start_soon(fail, tray)
            await trio.sleep_forever()


def careless(scenario: Callable[[Careless, Careless], Any]) -> None:
    """Run a scenario with the service and a stub of it."""

    async def main(cluster: SimulatedCluster) -> None:
        service = Careless()
        async with (
            rpcnet.Node("called", services=[service], security=cluster.security) as called,
            rpcnet.Node("caller", seeds=[called.address], security=cluster.security) as caller,
        ):
            await scenario(service, caller.stub(Careless))
            await trio.sleep(6)
            assert called.statistics().active_calls == 0

    run(main)


async def read(stream: AbstractAsyncContextManager[AsyncIterator[int]], got: list[int]) -> None:
    async with stream as values:
        async for value in values:
            got += [value]


def test_a_handler_that_gives_no_stream_where_it_declares_one_is_internal(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(_: Careless, stub: Careless) -> None:
        with pytest.raises(rpcnet.Internal) as caught:
            await read(stub.no_stream(), [])
        assert caught.value.call_id
        assert "expected an async iterator, got int" in caplog.text

    careless(scenario)


def test_a_value_of_the_wrong_type_in_mid_stream_ends_the_stream_behind_the_right_ones() -> None:
    async def scenario(service: Careless, stub: Careless) -> None:
        got: list[int] = []
        with pytest.raises(rpcnet.Internal) as caught:
            await read(stub.wrong_in_mid_stream(), got)
        assert caught.value.call_id
        assert got == [1]
        assert service.closed == 1

    careless(scenario)


def test_a_result_of_the_wrong_type_after_a_stream_of_requests_is_internal(caplog: pytest.LogCaptureFixture) -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1

    async def scenario(_: Careless, stub: Careless) -> None:
        with pytest.raises(rpcnet.Internal):
            await stub.wrong_after_requests(numbers())
        assert "returned the wrong type" in caplog.text

    careless(scenario)


def test_a_declared_error_with_a_field_of_the_wrong_type_is_internal_and_says_so_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(_: Careless, stub: Careless) -> None:
        with pytest.raises(rpcnet.Internal) as caught:
            await stub.wrong_field()
        assert caught.value.call_id
        assert "raised what cannot be sent: OutOfPaper.tray" in caplog.text

    careless(scenario)


@pytest.mark.parametrize("first", [True, False])
def test_a_stream_that_hangs_is_cancelled_at_the_deadline(first: bool) -> None:
    async def scenario(service: Careless, stub: Careless) -> None:
        begun = trio.current_time()
        with trio.move_on_after(2) as scope:
            await read(stub.never_ending(first), [])
        assert scope.cancelled_caught
        assert trio.current_time() < begun + 2.1
        await trio.sleep(0.1)
        assert [type(error) for error in service.seen] == [trio.Cancelled]

    careless(scenario)


def test_a_handler_that_ignores_its_cancellation_delays_only_itself() -> None:
    async def scenario(_: Careless, stub: Careless) -> None:
        begun = trio.current_time()
        with trio.move_on_after(2) as scope:
            await read(stub.deaf(), [])
        assert scope.cancelled_caught
        assert trio.current_time() < begun + 2.1
        with pytest.raises(rpcnet.Internal):
            await stub.wrong_field()

    careless(scenario)


def test_the_one_error_of_a_handlers_nursery_is_its_error_and_several_are_internal() -> None:
    async def scenario(_: Careless, stub: Careless) -> None:
        with pytest.raises(OutOfPaper) as caught:
            await stub.in_a_nursery(1)
        assert caught.value.tray == 0
        with pytest.raises(rpcnet.Internal) as several:
            await stub.in_a_nursery(2)
        assert several.value.message == "Careless.in_a_nursery failed with ExceptionGroup"

    careless(scenario)


# --- callers that know less, or more


@rpcnet.service(name="Printer")
class Old(Protocol):
    """What a client knows that has never heard of the declared error."""

    @rpcnet.rpc
    async def one(self, word: str) -> str: ...


def test_a_caller_that_does_not_know_a_declared_error_gets_the_class_of_its_status() -> None:
    async def scenario(pair: Pair) -> None:
        calls = [pair.caller.stub(Old).one("empty"), pair.caller.client.call_worker("Printer.one", "empty")]
        for call in calls:
            with pytest.raises(rpcnet.FailedPrecondition) as caught:
                await call
            assert type(caught.value) is rpcnet.FailedPrecondition
            assert caught.value.message == "OutOfPaper(tray=3, sizes=['A4', 'A5'])"

    simulate(scenario)


def test_tracebacks_travel_when_both_sides_want_them() -> None:
    async def scenario(pair: Pair) -> None:
        for word, line in (("fail", 'raise KeyError("no such word")'), ("empty", "raise OutOfPaper(3")):
            with pytest.raises(rpcnet.StatusError) as caught:
                await pair.stub().one(word)
            assert caught.value.remote_traceback is not None
            assert line in caught.value.remote_traceback
            assert any("Traceback on called" in note and line in note for note in caught.value.__notes__)

    simulate(scenario, rpc=TRACEBACKS)


@pytest.mark.parametrize("wanting", ["called", "caller"])
def test_tracebacks_stay_at_home_when_one_side_does_not_want_them(wanting: str) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        def config(name: str) -> rpcnet.NodeConfig:
            return rpcnet.NodeConfig(rpc=TRACEBACKS if name == wanting else rpcnet.RpcConfig())

        security = cluster.security
        async with (
            rpcnet.Node("called", services=[Printer()], security=security, config=config("called")) as called,
            rpcnet.Node("caller", seeds=[called.address], security=security, config=config("caller")) as caller,
        ):
            with pytest.raises(rpcnet.Internal) as caught:
                await caller.stub(Printer).one("fail")
            assert caught.value.remote_traceback is None

    run(main)


# --- errors through several nodes


@rpcnet.service
class Relay:
    """Calls the next of a list of nodes; the last one prints a word."""

    @rpcnet.rpc(raises=[OutOfPaper])
    async def relay(self, nodes: list[str], word: str) -> str:
        if not nodes:
            return await Printer().print(word)
        return await rpcnet.current_call().node.stub(Relay, node=nodes[0]).relay(nodes[1:], word)

    @rpcnet.rpc
    async def wrap(self, node: str, word: str, how: str) -> str:
        """Call a node, and raise something else because of what that raises."""
        try:
            return await rpcnet.current_call().node.stub(Relay, node=node).relay([], word)
        except rpcnet.StatusError as error:
            if how == "cause":
                raise LookupError("elsewhere") from error
            if how == "context":
                raise LookupError("elsewhere")  # noqa: B904 - the context is what is tested
            if how == "group":
                raise ExceptionGroup("several", [ValueError(), error]) from None
            raise rpcnet.DataLoss("elsewhere") from error

    @rpcnet.rpc
    async def fan_out(self, nodes: list[str], word: str) -> None:
        """Call nodes at the same time, in a nursery."""
        stubs = [rpcnet.current_call().node.stub(Relay, node=node) for node in nodes]
        async with trio.open_nursery() as nursery:
            for stub in stubs:
                nursery.start_soon(stub.relay, [], word)


def relayed(scenario: Callable[[Relay], Any]) -> None:
    """Run a scenario with a stub of ``n1``, one of three nodes that relay."""

    async def main(cluster: SimulatedCluster) -> None:
        handles = await cluster.start(3, services=lambda name: [Relay()])
        await cluster.converged()
        await scenario(handles[0].node.stub(Relay, node="n1"))

    run(main)


def test_an_error_names_the_nodes_it_came_through_and_the_one_that_logged_it() -> None:
    async def scenario(stub: Relay) -> None:
        with pytest.raises(rpcnet.Internal) as caught:
            await stub.relay(["n2"], "fail")
        error = caught.value
        assert error.call_id
        assert error.hops == (rpcnet.Hop("n1", "Relay.relay"), rpcnet.Hop("n2", "Relay.relay", error.call_id))
        assert str(error).endswith("(through n1: Relay.relay, n2: Relay.relay)")

    relayed(scenario)


def test_a_declared_error_that_a_handler_passes_on_is_itself_with_its_chain() -> None:
    async def scenario(stub: Relay) -> None:
        with pytest.raises(OutOfPaper) as caught:
            await stub.relay(["n2", "n0", "n2"], "empty")
        assert caught.value.sizes == ["A4", "A5"]
        assert [hop.node for hop in caught.value.hops] == ["n1", "n2", "n0", "n2"]

    relayed(scenario)


@pytest.mark.parametrize("how", ["cause", "context", "group"])
def test_a_handler_that_fails_because_of_a_call_of_its_own_keeps_the_chain(how: str) -> None:
    async def scenario(stub: Relay) -> None:
        with pytest.raises(rpcnet.Internal) as caught:
            await stub.wrap("n2", "fail", how)
        near, far = caught.value.hops
        assert (near.node, near.method, far.node, far.method) == ("n1", "Relay.wrap", "n2", "Relay.relay")
        assert near.call_id == caught.value.call_id
        assert far.call_id
        assert far.call_id != near.call_id

    relayed(scenario)


def test_a_status_that_a_handler_raises_because_of_a_call_of_its_own_keeps_the_chain() -> None:
    async def scenario(stub: Relay) -> None:
        with pytest.raises(rpcnet.DataLoss) as caught:
            await stub.wrap("n2", "fail", "status")
        assert [hop.node for hop in caught.value.hops] == ["n1", "n2"]

    relayed(scenario)


def test_the_one_call_that_fails_in_a_handlers_nursery_is_its_error() -> None:
    async def scenario(stub: Relay) -> None:
        with pytest.raises(rpcnet.NotFound) as caught:
            await stub.fan_out(["n2"], "missing")
        assert [hop.node for hop in caught.value.hops] == ["n1", "n2"]

    relayed(scenario)


def test_the_requests_of_a_stream_may_come_from_a_call(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(pair: Pair) -> None:
        stub = pair.stub()
        async with stub.results(["a", "b"]) as values, stub.both(values) as again:
            assert [value async for value in again] == ["A", "B"]
        async with stub.results(["a", "missing"]) as values:
            with pytest.raises(rpcnet.NotFound):
                await stub.requests(values)
        assert await stub.requests(each(["c"])) == ["C"]

    simulate(scenario)
