"""Streaming calls that are cancelled at every step that the scheduler takes: nothing is left of them at either end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import attrs
import pytest
import trio
from _taps import Taps

import rpcnet
from rpcnet._core.framing import StreamKind
from rpcnet.testing import SimulatedCluster, SimulatedNode, run

Call = Callable[[Taps], Awaitable[object]]


@attrs.define(eq=False)
class CancelAfter(trio.abc.Instrument):
    """Cancels a scope when the scheduler has taken a number of steps."""

    scope: trio.CancelScope
    steps: int

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps -= 1
        if self.steps == 0:
            self.scope.cancel()


async def numbers(closed: list[str]) -> AsyncIterator[int]:
    """Send some values, in bursts."""
    try:
        for number in range(6):
            if number % 3 == 0:
                await trio.sleep(0.002)
            yield number
    finally:
        closed.append("requests")


async def blobs(closed: list[str]) -> AsyncIterator[bytes]:
    """Send more than there is credit for."""
    try:
        for _ in range(8):
            yield bytes(900)
    finally:
        closed.append("requests")


async def double(taps: Taps, closed: list[str]) -> None:
    async with taps.double(numbers(closed)) as doubled:
        assert [number async for number in doubled] == [0, 2, 4, 6, 8, 10]


async def pour(taps: Taps, closed: list[str]) -> None:
    async with taps.pour(700) as values:
        closed.append("requests")  # there are none
        for _ in range(6):
            assert await anext(values) == bytes(700)


async def drink(taps: Taps, closed: list[str]) -> None:
    assert await taps.drink(blobs(closed), 0.001) > 0


CALLS = {"both ways": double, "results": pour, "requests": drink}
CONFIG = rpcnet.NodeConfig(rpc=rpcnet.RpcConfig(stream_window_bytes=2048, max_calls_per_connection=1))


@attrs.define(eq=False)
class Pair:
    """A caller and a node that serves streams."""

    caller: SimulatedNode
    node: SimulatedNode
    taps: Taps
    closed: list[str] = attrs.field(factory=list)

    async def nothing_is_left(self) -> None:
        """Wait until the node has no call in hand, and look at both ends of the connection."""
        with trio.fail_after(1):
            await self.node.node._running.endpoint.calls.wait_idle()
        await trio.sleep(0.05)
        assert sorted(self.taps.begun) == sorted(self.taps.ended)
        for each in (self.caller, self.node):
            for session in each.node._running.endpoint.sessions():
                assert not [stream for stream in session._streams.values() if stream.kind is StreamKind.CALL]
                assert not session._output
                assert not getattr(session, "_slots", ())
                assert not getattr(session, "_own_streams", ())
        assert self.node.node.statistics().active_calls == 0
        assert [node.active for node in self.caller.node.client.statistics().per_node.values()] == [0]


def play(scenario: Callable[[Pair], Awaitable[None]], *, seed: int) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        taps = Taps()
        [node] = await cluster.start(1, services=lambda _: [taps], config=CONFIG)
        [caller] = await cluster.start(1, config=CONFIG)
        await cluster.converged()
        pair = Pair(caller, node, taps)
        await caller.node.stub(Taps).who()
        await trio.sleep(2)
        sessions = list(caller.node._running.endpoint.sessions())
        await scenario(pair)
        assert not [session for session in sessions if session.is_closed], "the connection was lost"
        await trio.sleep(2)
        for each in (node, caller):
            assert not [session for session in each.node._running.endpoint.sessions() if session.link.buffered_bytes]
        assert set(node.node.statistics().restarts.values()) == {0}

    run(main, seed=seed)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("seed", range(4))
def test_a_call_that_is_cancelled_at_any_step_leaves_nothing_behind(
    call: Callable[[Taps, list[str]], Awaitable[None]], seed: int
) -> None:
    async def scenario(pair: Pair) -> None:
        stub, steps, survived = pair.caller.node.stub(Taps), 0, 0
        while survived < 3:  # in a row: the last steps may come too late for a cancellation
            steps += 1
            with trio.CancelScope() as scope:
                instrument = CancelAfter(scope, steps)
                trio.lowlevel.add_instrument(instrument)
                try:
                    await call(stub, pair.closed)
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            survived = 0 if scope.cancelled_caught else survived + 1
            await pair.nothing_is_left()
            if steps % 8 == 0:
                with trio.fail_after(1):
                    assert await stub.who() == "taps"
        assert steps > 20

    play(scenario, seed=seed)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_whose_deadline_strikes_at_any_moment_leaves_nothing_behind(
    call: Callable[[Taps, list[str]], Awaitable[None]],
) -> None:
    """The handler's own deadline and the caller's cancellation then strike at the same moment."""

    async def scenario(pair: Pair) -> None:
        stub = pair.caller.node.stub(Taps)
        for step in range(1, 40):
            with trio.move_on_after(step * 0.0005):
                await call(stub, pair.closed)
            await pair.nothing_is_left()
        with trio.fail_after(5):
            await call(stub, pair.closed)

    play(scenario, seed=7)
