"""A handler that blocks the event loop is named in the log; the clock is one that only handlers advance."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from _pool import Pool, open_pool, quick, slow
from trio.testing import MockClock

from rpcnet._tasks.loop_watch import LoopWatch


class Clock:
    """Time that passes only while somebody blocks."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def watched(clock: Clock) -> AsyncIterator[Pool]:
    async with open_pool(watch=LoopWatch(limit=1.0, clock=clock)) as pool:
        yield pool


@pytest.fixture
def clock(caplog: pytest.LogCaptureFixture) -> Clock:
    caplog.set_level(logging.WARNING, "rpcnet.rpc")
    return Clock()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged, without the advice."""
    return [record.getMessage().partition(";")[0] for record in caplog.records]


async def test_a_handler_that_blocks_the_loop_is_named_with_its_duration(
    clock: Clock, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async def block() -> None:
        clock.now += 2.25

    async with watched(clock) as pool:
        await pool.outcomes(quick)
        assert warnings(caplog) == []
        await pool.outcomes(block)
    assert warnings(caplog) == ["service.block blocked the event loop for 2.25 s"]


async def test_a_handler_is_named_that_blocks_before_or_after_it_waits_for_something(
    clock: Clock, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async def before() -> None:
        clock.now += 3
        await trio.sleep(1)

    async def after() -> None:
        await trio.sleep(1)
        await trio.sleep(1)
        clock.now += 4

    async def fail_after() -> None:
        await trio.sleep(1)
        clock.now += 5
        raise KeyError

    async with watched(clock) as pool:
        for work in (before, after, fail_after):
            await pool.outcomes(work)
    assert [line for line in warnings(caplog) if "blocked" in line] == [
        "service.before blocked the event loop for 3.00 s",
        "service.after blocked the event loop for 4.00 s",
        "service.fail_after blocked the event loop for 5.00 s",
    ]


async def test_a_handler_that_waits_for_long_blocks_nobody(
    clock: Clock, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async def wait() -> None:
        await trio.sleep(100)

    async def patient() -> None:
        for _ in range(50):
            await trio.sleep(2)

    async with watched(clock) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.outcomes, wait, slow, patient)
        for _ in range(100):
            await trio.sleep(1)
            clock.now += 1
    assert warnings(caplog) == []


async def test_one_of_several_handlers_in_a_row_is_named_the_next_time(
    clock: Clock, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async def block() -> None:
        clock.now += 2

    async with watched(clock) as pool:
        await pool.outcomes(quick, block, quick)
        await pool.outcomes(quick, block, slow)
    assert warnings(caplog) == [
        "one of several handlers, each of which is measured from now on, blocked the event loop for 2.00 s",
        "service.block blocked the event loop for 2.00 s",
    ]


async def test_many_handlers_that_are_slow_together_are_blamed_for_nothing_once_each_is_measured(
    clock: Clock, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async def slowish() -> None:
        clock.now += 0.5

    async with watched(clock) as pool:
        for _ in range(10):
            await pool.outcomes(*[slowish] * 4)
    assert len(warnings(caplog)) == 1


async def test_a_handler_that_blocks_again_and_again_is_logged_once_a_minute(
    clock: Clock, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async def block() -> None:
        clock.now += 2

    async with watched(clock) as pool:
        for _ in range(20):
            await pool.outcomes(block)
        assert len(warnings(caplog)) == 1
        clock.now += 60
        await pool.outcomes(block)
    assert warnings(caplog)[1] == (
        "service.block blocked the event loop for 2.00 s, and 19 times more since the last warning"
    )


async def test_who_wants_to_know_is_told_each_time_and_by_whom_when_that_is_known(
    clock: Clock, autojump_clock: MockClock
) -> None:
    told: list[tuple[float, str | None]] = []

    async def block() -> None:
        clock.now += 2

    watch = LoopWatch(limit=1.0, clock=clock, on_blocked=lambda seconds, who: told.append((seconds, who)))
    async with open_pool(watch=watch) as pool:
        await pool.outcomes(quick, block)
        await pool.outcomes(block)
        await pool.outcomes(block)
    assert told == [(2.0, None), (2.0, "service.block"), (2.0, "service.block")]
