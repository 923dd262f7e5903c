"""Calls of all four shapes over the whole stack, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import attrs
import pytest
import trio

import rpcnet
from rpcnet.testing import SimulatedCluster, SimulatedNode, run


@rpcnet.service(name="flow")
class Flow:
    """A service of streams that remembers what became of them."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.closed: list[str] = []
        self.taken = 0
        self.ended = trio.Event()

    @rpcnet.rpc
    async def count(self, upto: int, pause: float = 0.0, fail_at: int = -1) -> AsyncIterator[int]:
        try:
            for number in range(upto):
                if number == fail_at:
                    raise rpcnet.NotFound(f"no number {number}")
                if pause:
                    await trio.sleep(pause)
                yield number
        finally:
            self.closed.append("count")
            self.ended.set()

    @rpcnet.rpc
    async def blobs(self, size: int) -> AsyncIterator[bytes]:
        try:
            while True:
                self.taken += 1
                yield bytes(size)
        finally:
            self.closed.append("blobs")
            self.ended.set()

    @rpcnet.rpc
    async def guarded(self, upto: int) -> AsyncIterator[int]:
        with trio.move_on_after(60):
            try:
                for number in range(upto):
                    yield number
                await trio.sleep_forever()
            finally:
                with trio.move_on_after(1, shield=True):
                    await trio.sleep(0.1)
                self.closed.append("guarded")
                self.ended.set()

    @rpcnet.rpc
    async def total(self, numbers: AsyncIterator[int], stop_after: int = -1) -> int:
        result = 0
        try:
            async for number in numbers:
                result += number
                self.taken += 1
                if self.taken == stop_after:
                    break
        except rpcnet.StatusError as error:
            self.closed.append(f"{type(error).__name__}: {error.message}")
            raise
        finally:
            self.closed.append("total")
            self.ended.set()
        return result

    @rpcnet.rpc
    async def hold(self, blobs: AsyncIterator[bytes], pause: float) -> int:
        async for _ in blobs:
            self.taken += 1
            await trio.sleep(pause)
        return self.taken

    @rpcnet.rpc
    async def double(self, numbers: AsyncIterator[int]) -> AsyncIterator[int]:
        try:
            async for number in numbers:
                yield 2 * number
            yield -1
        finally:
            self.closed.append("double")
            self.ended.set()


@attrs.define(eq=False)
class Pair:
    """A caller and a node that serves streams."""

    cluster: SimulatedCluster
    caller: SimulatedNode
    server: SimulatedNode
    flow: Flow

    @property
    def stub(self) -> Flow:
        return self.caller.node.stub(Flow)

    async def no_call_is_left(self) -> None:
        """Wait until the server has no call in hand; nothing else ends the scenario."""
        await self.server.node._running.endpoint.calls.wait_idle()
        assert [node.active for node in self.caller.node.client.statistics().per_node.values()] == [0]


def scenario(
    body: Callable[[Pair], Awaitable[None]], *, seed: int = 0, config: rpcnet.NodeConfig | None = None
) -> None:
    async def play(cluster: SimulatedCluster) -> None:
        flow = Flow()
        [server] = await cluster.start(1, services=lambda _: [flow], config=config)
        [caller] = await cluster.start(1, config=config)
        await cluster.converged()
        pair = Pair(cluster, caller, server, flow)
        await body(pair)
        await pair.no_call_is_left()

    run(play, seed=seed, limit=600)


async def numbers(upto: int, pause: float = 0.0) -> AsyncIterator[int]:
    for number in range(upto):
        if pause:
            await trio.sleep(pause)
        yield number


async def read(stream: AbstractAsyncContextManager[AsyncIterator[int]], into: list[int]) -> None:
    """Read a stream to its end."""
    async with stream as values:
        async for value in values:
            into.append(value)  # noqa: PERF401 - what came before an error counts


# --- the four shapes


def test_results_stream_to_the_caller_in_order() -> None:
    async def body(pair: Pair) -> None:
        async with pair.stub.count(1000) as values:
            assert [value async for value in values] == list(range(1000))
        assert pair.flow.closed == ["count"]

    scenario(body)


def test_requests_stream_to_the_server_from_an_async_generator() -> None:
    async def body(pair: Pair) -> None:
        assert await pair.stub.total(numbers(1000)) == sum(range(1000))

    scenario(body)


def test_requests_stream_from_a_memory_channel() -> None:
    async def body(pair: Pair) -> None:
        send, receive = trio.open_memory_channel[int](0)

        async def produce() -> None:
            async with send:
                for number in range(100):
                    await send.send(number)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce)
            assert await pair.stub.total(receive) == sum(range(100))

    scenario(body)


def test_both_sides_stream_at_once() -> None:
    async def body(pair: Pair) -> None:
        async with pair.stub.double(numbers(500, pause=0.001)) as doubled:
            assert [value async for value in doubled] == [2 * number for number in range(500)] + [-1]

    scenario(body)


def test_a_caller_may_close_its_half_and_go_on_reading() -> None:
    async def body(pair: Pair) -> None:
        async with pair.stub.double(numbers(3)) as doubled:
            await trio.sleep(5)
            assert [value async for value in doubled] == [0, 2, 4, -1]

    scenario(body)


def test_an_empty_stream_is_a_stream() -> None:
    async def body(pair: Pair) -> None:
        async with pair.stub.count(0) as values:
            assert [value async for value in values] == []
        assert await pair.stub.total(numbers(0)) == 0
        async with pair.stub.double(numbers(0)) as values:
            assert [value async for value in values] == [-1]

    scenario(body)


# --- ends


def test_an_error_in_mid_stream_arrives_after_the_values_before_it() -> None:
    async def body(pair: Pair) -> None:
        seen: list[int] = []
        with pytest.raises(rpcnet.NotFound, match="no number 70"):
            await read(pair.stub.count(100, 0.0, 70), seen)
        assert seen == list(range(70))

    scenario(body)


def test_an_error_of_the_requests_arrives_at_the_handler_with_its_status_and_here_as_it_is() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise rpcnet.OutOfRange("past the end")

    async def body(pair: Pair) -> None:
        with pytest.raises(rpcnet.OutOfRange, match=r"^past the end$"):
            await pair.stub.total(broken())
        await pair.flow.ended.wait()
        assert pair.flow.closed == ["OutOfRange: past the end", "total"]

    scenario(body)


def test_an_undeclared_error_of_the_requests_is_internal_at_the_handler_and_bare_here() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise ZeroDivisionError("here")

    async def body(pair: Pair) -> None:
        with pytest.raises(ZeroDivisionError, match="here"):
            await pair.stub.total(broken())
        await pair.flow.ended.wait()
        assert pair.flow.closed == ["Internal: the stream of requests failed with ZeroDivisionError", "total"]
        with pytest.raises(ZeroDivisionError, match="here"):
            await read(pair.stub.double(broken()), [])

    scenario(body)


def test_a_block_that_is_left_early_ends_the_generator_at_the_server() -> None:
    async def body(pair: Pair) -> None:
        async with pair.stub.count(1_000_000) as values:
            async for value in values:
                if value == 10:
                    break
        await pair.flow.ended.wait()
        assert pair.flow.closed == ["count"]

    scenario(body)


def test_a_generator_that_holds_a_scope_open_over_its_yields_is_closed_in_order() -> None:
    async def body(pair: Pair) -> None:
        async with pair.stub.guarded(1_000_000) as values:
            assert await anext(values) == 0
        await pair.flow.ended.wait()
        with trio.move_on_after(1):
            async with pair.stub.guarded(3) as values:
                assert [value async for value in values] == []
        await pair.no_call_is_left()
        assert pair.flow.closed == ["guarded", "guarded"]

    scenario(body)


def test_an_error_of_the_block_comes_out_bare_and_ends_the_call() -> None:
    async def body(pair: Pair) -> None:
        async def fail() -> None:
            async with pair.stub.double(numbers(10, pause=1)) as doubled:
                async for _ in doubled:
                    raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        await pair.flow.ended.wait()

    scenario(body)


def test_a_handler_may_answer_before_it_has_read_everything() -> None:
    closed = []

    async def endless() -> AsyncIterator[int]:
        try:
            while True:
                await trio.sleep(0.01)
                yield 1
        finally:
            closed.append("requests")

    async def body(pair: Pair) -> None:
        assert await pair.stub.total(endless(), 5) == 5
        assert closed == ["requests"]

    scenario(body)


def test_cancelling_the_caller_cancels_the_handler_of_a_stream() -> None:
    async def body(pair: Pair) -> None:
        with trio.move_on_after(1) as scope:
            async with pair.stub.count(1000, 0.1) as values:
                async for _ in values:
                    pass
        assert scope.cancelled_caught
        await pair.flow.ended.wait()
        assert pair.flow.closed == ["count"]

    scenario(body)


def test_a_deadline_travels_with_a_stream() -> None:
    async def body(pair: Pair) -> None:
        with pytest.raises(trio.TooSlowError), trio.fail_after(1):
            await pair.stub.total(numbers(1000, pause=0.1))
        with trio.fail_after(0.5):
            await pair.flow.ended.wait()

    scenario(body)


async def crash_soon(cluster: SimulatedCluster, node: SimulatedNode) -> None:
    await trio.sleep(1)
    await cluster.crash(node)


def test_a_server_that_dies_in_mid_stream_ends_it_with_unavailable() -> None:
    async def play(cluster: SimulatedCluster) -> None:
        [server] = await cluster.start(1, services=lambda _: [Flow()])
        [caller] = await cluster.start(1)
        await cluster.converged()
        seen: list[int] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash_soon, cluster, server)
            with pytest.raises(rpcnet.Unavailable):
                await read(caller.node.stub(Flow).count(1_000, 0.1), seen)
        assert seen[:5] == [0, 1, 2, 3, 4]

    run(play, limit=600)


def test_a_caller_that_dies_in_mid_stream_ends_the_generator() -> None:
    async def play(cluster: SimulatedCluster) -> None:
        flow = Flow()
        [server] = await cluster.start(1, services=lambda _: [flow])
        [caller] = await cluster.start(1)
        await cluster.converged()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, caller.node.stub(Flow).count(1_000_000, 0.1), [])
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
            await cluster.crash(caller)
        await flow.ended.wait()
        assert server.node.statistics().active_calls == 0

    run(play, limit=600)


# --- back-pressure


SMALL = rpcnet.NodeConfig(rpc=rpcnet.RpcConfig(stream_window_bytes=64 << 10))


def test_a_consumer_that_reads_slowly_holds_its_window_and_one_value() -> None:
    """Measured where the values wait to be read, for a producer that never stops."""
    most = 0

    async def body(pair: Pair) -> None:
        nonlocal most
        async with pair.stub.blobs(1000) as values:
            for _ in range(30):
                await trio.sleep(1)
                most = max(most, values._stream.unread_bytes)  # type: ignore[attr-defined]
                await anext(values)
            waiting = values._stream.unread_bytes  # type: ignore[attr-defined]
            produced = pair.flow.taken
        assert 32 << 10 < waiting <= most <= (64 << 10) + 1000 + 3 + 64
        assert produced <= 30 + 2 * (64 << 10) / 1067 + 2
        await pair.flow.ended.wait()

    scenario(body, config=SMALL)


def test_a_handler_that_reads_slowly_holds_its_window_and_makes_the_caller_wait() -> None:
    async def body(pair: Pair) -> None:
        produced = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal produced
            while True:
                produced += 1
                yield bytes(1000)

        with trio.move_on_after(20):
            await pair.stub.hold(endless(), 1.0)
        assert 50 < produced <= pair.flow.taken + 2 * (64 << 10) / 1067 + 2

    scenario(body, config=SMALL)


def test_a_stream_of_empty_values_is_bounded_as_well() -> None:
    async def body(pair: Pair) -> None:
        async with pair.stub.blobs(0) as values:
            await trio.sleep(10)
            assert values._stream.unread_bytes <= (64 << 10) + 1 + 64  # type: ignore[attr-defined]
        assert pair.flow.taken <= (64 << 10) / 65 + 2
        await pair.flow.ended.wait()

    scenario(body, config=SMALL)


def test_a_value_above_the_limit_fails_at_the_sender_with_both_sizes() -> None:
    config = rpcnet.NodeConfig(rpc=rpcnet.RpcConfig(max_message_bytes=20_000))

    async def body(pair: Pair) -> None:
        with pytest.raises(rpcnet.ResourceExhausted, match=r"30003.*20000"):
            async with pair.stub.blobs(30_000) as values:
                await anext(values)
        await pair.flow.ended.wait()

    scenario(body, config=config)


# --- who is called, and when again


def test_a_stream_that_nobody_accepted_is_tried_elsewhere_and_takes_no_request() -> None:
    async def play(cluster: SimulatedCluster) -> None:
        flows: dict[str, Flow] = {}

        def services(name: str) -> list[object]:
            flows[name] = Flow(name)
            return [flows[name]]

        servers = await cluster.start(2, services=services)
        [caller] = await cluster.start(1)
        await cluster.converged()
        for _ in range(4):  # connections to both
            assert await caller.node.stub(Flow).total(numbers(2)) == 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(servers[0].node.drain)
            for _ in range(10):
                assert await caller.node.stub(Flow).total(numbers(10)) == 45
        assert flows[servers[1].name].taken > 100

    run(play, limit=600)


def test_a_stream_is_refused_with_the_reason_when_the_contract_is_of_another_shape() -> None:
    @rpcnet.service(name="flow")
    class Other:
        @rpcnet.rpc
        async def count(self, upto: int) -> int:
            raise NotImplementedError

    async def body(pair: Pair) -> None:
        with pytest.raises(rpcnet.Unimplemented, match=r"flow\.count is server streaming .*, but unary here"):
            await pair.caller.node.stub(Other).count(3)
        with pytest.raises(rpcnet.Unimplemented, match="server streaming"):
            await pair.caller.node.client.call_worker("flow.count", 3)

    scenario(body)


def test_a_long_stream_survives_loss_and_reordering() -> None:
    async def body(pair: Pair) -> None:
        for one, other in ((pair.caller, pair.server), (pair.server, pair.caller)):
            pair.cluster.set_loss(one, other, 0.05)
            pair.cluster.set_latency(one, other, 0.001, 0.02)
        async with pair.stub.double(numbers(3000)) as doubled:
            assert [value async for value in doubled] == [2 * number for number in range(3000)] + [-1]

    for seed in range(3):
        scenario(body, seed=seed)
