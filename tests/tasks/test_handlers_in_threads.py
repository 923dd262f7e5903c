"""Plain functions run in worker threads: real threads, so real time, and nothing here waits for time to pass."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

import rpcnet

SECURITY = rpcnet.Security.shared_secret(bytes(range(32)))


class Jammed(rpcnet.ApplicationError):
    """What a press says when it is stuck."""

    sheet: int


@rpcnet.service
class Press:
    """A service of plain functions."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.entered: list[str] = []
        self.left: list[str] = []

    @rpcnet.rpc
    def where(self) -> list[int]:
        return [threading.get_ident(), len(self.entered)]

    @rpcnet.rpc
    def hold(self, key: str) -> str:
        self.entered.append(key)
        assert self.go.wait(30)
        self.left.append(key)
        return key

    @rpcnet.rpc
    def hold_until_cancelled(self) -> None:
        self.entered.append("watchful")
        try:
            while not self.go.wait(0.001):
                trio.from_thread.check_cancelled()
        except trio.Cancelled:
            self.left.append("cancelled")
            raise

    @rpcnet.rpc(idempotent=True)
    async def release(self) -> None:
        self.go.set()

    @rpcnet.rpc(raises=[Jammed])
    def fail(self, how: str) -> None:
        raise Jammed(7) if how == "declared" else KeyError(how)

    @rpcnet.rpc
    def look(self) -> list[str]:
        call = rpcnet.current_call()
        left = call.deadline - trio.from_thread.run_sync(trio.current_time)
        return [call.method, call.peer.name, call.metadata.get("trace", ""), "soon" if left < 60 else "never"]

    @rpcnet.rpc
    def ask(self) -> list[str]:
        """Call the node from the thread."""
        stub = rpcnet.current_call().node.stub(Press)
        return trio.from_thread.run(stub.look)

    @rpcnet.rpc
    def return_nonsense(self) -> int:
        return "seven"  # type: ignore[return-value]


@asynccontextmanager
async def serving(
    max_threads: int = 40, drain_timeout: float = 20.0
) -> AsyncIterator[tuple[rpcnet.Node, Press, Press]]:
    """Serve a press on a node; yield the node, the press and a stub of it."""
    press = Press()
    rpc = rpcnet.RpcConfig(max_threads=max_threads)
    config = rpcnet.NodeConfig(rpc=rpc, drain_timeout=drain_timeout)
    with trio.fail_after(30):
        async with rpcnet.Node("press", services=[press], security=SECURITY, config=config) as node:
            yield node, press, node.stub(Press)
            press.go.set()


async def until(condition: Callable[[], object]) -> None:
    """Let other tasks run until something is so."""
    while not condition():  # noqa: ASYNC110 - threads do not set Trio's events
        await trio.sleep(0.001)


async def test_a_plain_function_runs_in_a_thread_and_stops_no_other_handler() -> None:
    async with serving() as (_, press, stub), trio.open_nursery() as nursery:
        assert (await stub.where())[0] != threading.get_ident()
        nursery.start_soon(stub.hold, "a")
        await until(lambda: press.entered)
        assert (await stub.where())[1] == 1
        assert press.left == []
        await stub.release()
    assert press.left == ["a"]


async def test_no_more_threads_than_allowed_run_at_once_and_further_calls_wait() -> None:
    async with serving(max_threads=2) as (node, press, stub), trio.open_nursery() as nursery:
        for key in "abc":
            nursery.start_soon(stub.hold, key)
        limiter = node._table._limiter
        await until(lambda: limiter.statistics().tasks_waiting == 1 and len(press.entered) == 2)
        assert limiter.statistics().borrowed_tokens == 2
        await stub.release()
    assert sorted(press.left) == ["a", "b", "c"]


async def test_a_cancelled_caller_goes_on_at_once_and_its_thread_until_it_returns() -> None:
    async with serving() as (node, press, stub):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stub.hold, "a")
                await until(lambda: press.entered)
                scope.cancel()
        assert scope.cancelled_caught
        assert press.left == []
        assert node.statistics().active_calls == 1
        press.go.set()
        await until(lambda: node.statistics().active_calls == 0)
        assert press.left == ["a"]


async def test_a_function_can_look_whether_its_call_was_cancelled() -> None:
    async with serving() as (node, press, stub):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stub.hold_until_cancelled)
                await until(lambda: press.entered)
                scope.cancel()
        await until(lambda: node.statistics().active_calls == 0)
        assert press.left == ["cancelled"]


async def test_a_call_that_is_cancelled_while_it_waits_for_a_thread_never_runs() -> None:
    async with serving(max_threads=1) as (node, press, stub), trio.open_nursery() as nursery:
        nursery.start_soon(stub.hold, "a")
        await until(lambda: press.entered)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(stub.hold, "b")
                await until(lambda: node._table._limiter.statistics().tasks_waiting == 1)
                scope.cancel()
        await until(lambda: node.statistics().active_calls == 1)
        await stub.release()
    assert press.entered == ["a"]


async def test_a_function_in_a_thread_knows_its_call_and_can_make_calls() -> None:
    async with serving() as (node, *_):
        traced = node.client.stub(Press, metadata={"trace": "abc"})
        assert await traced.look() == ["Press.look", "press", "abc", "soon"]
        with trio.fail_after(20):
            assert await traced.ask() == ["Press.look", "press", "", "soon"]


async def test_what_a_function_in_a_thread_raises_arrives_as_from_any_handler(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as (_, _press, stub):
        with pytest.raises(Jammed) as jammed:
            await stub.fail("declared")
        assert jammed.value.sheet == 7
        for call in (stub.fail("otherwise"), stub.return_nonsense()):
            with pytest.raises(rpcnet.Internal) as failed:
                await call
            assert failed.value.call_id
            assert failed.value.call_id in caplog.text


async def test_a_node_that_drains_waits_for_its_threads() -> None:
    async with serving() as (node, press, stub), trio.open_nursery() as nursery:
        nursery.start_soon(stub.hold, "a")
        await until(lambda: press.entered)
        drained = trio.Event()

        @nursery.start_soon
        async def drain() -> None:
            await node.drain()
            drained.set()

        await until(node._running.endpoint.draining.is_set)
        assert not drained.is_set()
        press.go.set()
        await drained.wait()
        assert press.left == ["a"]
