"""Supervision: what fails is started again, what keeps failing is given up, what is cancelled is neither."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock

from rpcnet._tasks.bus import Bus
from rpcnet._tasks.supervisor import NodeTask, Supervisor
from rpcnet.config import SupervisionConfig
from rpcnet.events import NodeEvent


class Scripted:
    """A task that fails at the times it is told to."""

    def __init__(self, bus: Bus, lives: list[float], *, fails_before_start: bool = False) -> None:
        bus.mailbox("scripted", NodeEvent)
        self._lives = lives
        self._fails_before_start = fails_before_start

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        if self._fails_before_start and self._lives:
            raise ValueError(f"failed at the start, {len(self._lives)} to go: {self._lives.pop()}")
        task_status.started()
        if not self._lives:
            await trio.sleep_forever()
        await trio.sleep(self._lives.pop(0))
        raise ValueError("failed")


class World:
    def __init__(self, lives: list[float], *, fails_before_start: bool = False) -> None:
        self.bus = Bus(16)
        self.supervisor = Supervisor(SupervisionConfig(), self.bus)
        self.lives = lives
        self.fails_before_start = fails_before_start
        self.made: list[bool] = []

    def make(self, is_restart: bool) -> NodeTask:
        self.made.append(is_restart)
        return Scripted(self.bus, self.lives, fails_before_start=self.fails_before_start)

    async def supervise(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self.supervisor.supervise("scripted", self.make, task_status=task_status)


async def test_a_task_that_fails_is_started_again_and_counted(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = World([1.0, 1.0])
    with trio.move_on_after(10):
        await world.supervise()
    assert world.supervisor.restarts == {"scripted": 2}
    assert world.made == [False, True, True]
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(failures) == 2
    assert all(record.exc_info for record in failures)


async def test_the_fourth_failure_within_the_window_is_the_last(autojump_clock: MockClock) -> None:
    world = World([1.0] * 9)
    with pytest.raises(ExceptionGroup, match="failed 4 times") as caught:
        await world.supervise()
    assert [type(each) for each in caught.value.exceptions] == [ValueError] * 4
    assert trio.current_time() == 4.0
    assert world.supervisor.restarts == {"scripted": 3}


async def test_failures_further_apart_than_the_window_are_forgiven(autojump_clock: MockClock) -> None:
    world = World([20.1] * 30)
    with trio.move_on_after(500):
        await world.supervise()
    assert world.supervisor.restarts["scripted"] == 24


async def test_three_failures_within_the_window_are_forgiven_again_and_again(autojump_clock: MockClock) -> None:
    world = World([0.1, 0.1, 61.0] * 10)
    with trio.move_on_after(1000):
        await world.supervise()
    assert world.supervisor.restarts["scripted"] == 30


async def test_a_task_that_fails_before_it_has_started_is_waited_for(autojump_clock: MockClock) -> None:
    world = World([1.0, 1.0], fails_before_start=True)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(world.supervise)
            nursery.cancel_scope.cancel()
    assert world.supervisor.restarts == {"scripted": 2}


async def test_a_task_that_never_starts_is_given_up(autojump_clock: MockClock) -> None:
    world = World([1.0] * 9, fails_before_start=True)
    with pytest.RaisesGroup(pytest.RaisesGroup(*[ValueError] * 4)):
        async with trio.open_nursery() as nursery:
            await nursery.start(world.supervise)


async def test_cancellation_is_no_failure(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    world = World([])
    with trio.move_on_after(1) as scope:
        await world.supervise()
    assert scope.cancelled_caught
    assert world.supervisor.restarts == {"scripted": 0}
    assert not caplog.records


async def test_a_task_that_returns_is_a_mistake_that_shows(autojump_clock: MockClock) -> None:
    class Short:
        async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            task_status.started()

    world = World([])
    world.bus.mailbox("short", NodeEvent)
    with pytest.raises(RuntimeError, match="the short task returned"):
        await world.supervisor.supervise("short", lambda _: Short())
