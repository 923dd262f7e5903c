"""Handlers under trio-asyncio, with a library that knows nothing but asyncio; and what they share with all handlers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import aiosqlite
import pytest
import trio
import trio.lowlevel
import trio_asyncio

import rpcnet
from rpcnet.testing import SimulatedCluster, run

SECURITY = rpcnet.Security.shared_secret(bytes(range(32)))


@rpcnet.service
class Memory:
    """A service on a library that needs asyncio, with a handler for Trio beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @rpcnet.rpc(asyncio=True)
    async def remember(self, key: str, value: str) -> None:
        async with aiosqlite.connect(self.path) as database:
            await database.execute("create table if not exists facts (key text primary key, value text)")
            await database.execute("insert or replace into facts values (?, ?)", (key, value))
            await database.commit()

    @rpcnet.rpc(asyncio=True)
    async def recall(self, key: str) -> str | None:
        async with (
            aiosqlite.connect(self.path) as database,
            database.execute("select value from facts where key = ?", (key,)) as cursor,
        ):
            row = await cursor.fetchone()
        return None if row is None else str(row[0])

    @rpcnet.rpc
    async def path_name(self) -> str:
        await trio.lowlevel.checkpoint()
        return self.path.name


async def test_a_handler_can_use_a_library_that_needs_asyncio(tmp_path: Path) -> None:
    service = Memory(tmp_path / "facts")
    async with rpcnet.Node("memory", services=[service], security=SECURITY) as node:
        stub = node.stub(Memory)
        with trio.fail_after(30):
            await stub.remember("ann", "tall")
            async with trio.open_nursery() as nursery:
                for name in ("bob", "cid"):
                    nursery.start_soon(stub.remember, name, "short")
            assert [await stub.recall(name) for name in ("ann", "bob", "dan")] == ["tall", "short", None]
            assert await stub.path_name() == "facts"


class Tangled(rpcnet.ApplicationError):
    """What the knot says."""

    knots: int


@rpcnet.service
class Knot:
    """Handlers under asyncio and under Trio, in virtual time."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.loops: list[object] = []

    async def __aenter__(self) -> Self:
        self.log.append("entered")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.log.append("left")

    @rpcnet.rpc(asyncio=True)
    async def sleep(self, seconds: float) -> str:
        self.loops.append(asyncio.get_running_loop())
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise
        return "slept"

    @rpcnet.rpc(asyncio=True, raises=[Tangled])
    async def fail(self, how: str) -> None:
        await asyncio.sleep(0.1)
        raise Tangled(3) if how == "declared" else KeyError(how)

    @rpcnet.rpc(asyncio=True)
    async def ignore_cancellation(self) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
        return "ignored"

    @rpcnet.rpc(asyncio=True)
    async def gather(self) -> list[int]:
        async def one(number: int) -> int:
            await asyncio.sleep(1)
            return number

        return list(await asyncio.gather(*map(one, range(5))))

    @rpcnet.rpc(asyncio=True)
    async def ask(self) -> float:
        """Call the node from asyncio."""
        call = rpcnet.current_call()
        await asyncio.sleep(1)
        stub = call.node.stub(Knot)
        left: float = await trio_asyncio.trio_as_aio(stub.left)()
        return left

    @rpcnet.rpc
    async def left(self) -> float:
        return rpcnet.current_call().deadline - trio.current_time()


def simulate(scenario: Callable[[Knot, Knot], Any]) -> None:
    """Run a scenario with the service of a node, and the stub of another node."""

    async def main(cluster: SimulatedCluster) -> None:
        knot = Knot()
        async with (
            rpcnet.Node("knot", services=[knot], security=cluster.security) as node,
            rpcnet.Node("other", seeds=[node.address], security=cluster.security) as other,
        ):
            await scenario(knot, other.stub(Knot))
            await trio.sleep(1)
            assert node.statistics().active_calls == 0
        assert knot.log[0] == "entered"
        assert knot.log[-1] == "left"

    run(main)


def test_handlers_under_asyncio_run_side_by_side_in_one_loop() -> None:
    async def scenario(knot: Knot, stub: Knot) -> None:
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(stub.sleep, 2.0)
        assert trio.current_time() < begun + 2.5
        assert len(set(map(id, knot.loops))) == 1
        assert await stub.gather() == [0, 1, 2, 3, 4]

    simulate(scenario)


def test_cancelling_a_caller_cancels_the_asyncio_task() -> None:
    async def scenario(knot: Knot, stub: Knot) -> None:
        with trio.move_on_after(1) as scope:
            await stub.sleep(60)
        assert scope.cancelled_caught
        await trio.sleep(0.1)
        assert knot.log == ["entered", "cancelled"]
        assert await stub.sleep(0.1) == "slept"

    simulate(scenario)


def test_an_asyncio_handler_that_ignores_its_cancellation_delays_nobody_else() -> None:
    async def scenario(_: Knot, stub: Knot) -> None:
        begun = trio.current_time()
        with trio.move_on_after(1):
            await stub.ignore_cancellation()
        assert trio.current_time() < begun + 1.1
        assert await stub.sleep(0.1) == "slept"

    simulate(scenario)


def test_what_a_handler_under_asyncio_raises_arrives_as_from_any_handler(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(_: Knot, stub: Knot) -> None:
        with pytest.raises(Tangled) as tangled:
            await stub.fail("declared")
        assert tangled.value.knots == 3
        with pytest.raises(rpcnet.Internal) as failed:
            await stub.fail("otherwise")
        assert failed.value.call_id
        assert failed.value.call_id in caplog.text

    simulate(scenario)


def test_a_handler_under_asyncio_knows_its_call_and_what_it_calls_inherits_the_deadline() -> None:
    async def scenario(_: Knot, stub: Knot) -> None:
        with trio.fail_after(5):
            assert 3.5 < await stub.ask() < 4

    simulate(scenario)


def test_without_the_extra_the_node_says_which_one_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio_asyncio", None)
    with pytest.raises(
        rpcnet.ConfigError, match=r"Knot\.\w+ runs under asyncio, for which rpcnet\[asyncio\] has to be"
    ):
        rpcnet.Node(services=[Knot()])
