"""The lifetime of a node: the body, the services, the goodbye, and whatever goes wrong in which of them."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

import attrs
import pytest
import trio
from trio.testing import MockClock

from rpcnet._tasks.lifetime import serving
from rpcnet.errors import NodeCrashed, RpcNetError

WHOSE: ContextVar[str] = ContextVar("whose", default="nobody")


@attrs.define(eq=False)
class Recorded:
    """Services that write down what happens, and fail as told."""

    log: list[str] = attrs.field(factory=list)
    goodbye_seconds: float = 1.0
    fails_at_start: Exception | None = None
    crashes_after: float | None = None
    fails_at_end: Exception | None = None
    raises_after: float | None = None
    context: str = ""

    async def run(self, on_crash: Callable[[Exception], None], *, task_status: trio.TaskStatus[None]) -> None:
        self.context = WHOSE.get()
        await trio.lowlevel.checkpoint()
        if self.fails_at_start is not None:
            raise self.fails_at_start
        task_status.started()
        self.log.append("started")
        try:
            if self.crashes_after is not None:
                await trio.sleep(self.crashes_after)
                on_crash(ValueError("crashed"))
            if self.raises_after is not None:
                await trio.sleep(self.raises_after)
                raise KeyError("raised")
            await trio.sleep_forever()
        finally:
            self.log.append(f"ended at {trio.current_time():g}")
            if self.fails_at_end is not None:
                raise self.fails_at_end

    async def goodbye(self) -> None:
        self.log.append("goodbye")
        await trio.sleep(self.goodbye_seconds)
        self.log.append(f"said at {trio.current_time():g}")

    async def enter(self) -> None:
        await trio.lowlevel.checkpoint()


async def fail(error: BaseException) -> None:
    await trio.sleep(1)
    raise error


async def fail_in_cleanup() -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise KeyError("in cleanup")


ORDER = ["started", "goodbye", "said at 2", "ended at 2"]


async def test_services_outlive_the_body_until_the_goodbye_is_said(autojump_clock: MockClock) -> None:
    services = Recorded()
    async with serving(services, services.enter):
        await trio.sleep(1)
    assert services.log == ORDER


async def test_an_error_of_the_body_comes_out_bare_after_the_goodbye(autojump_clock: MockClock) -> None:
    services = Recorded()
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        async with serving(services, services.enter):
            await fail(error)
    assert caught.value is error
    assert services.log == ORDER


async def test_a_group_that_the_body_raises_comes_out_as_it_is(autojump_clock: MockClock) -> None:
    services = Recorded()
    group = ExceptionGroup("mine", [ValueError(1), KeyError(2)])
    with pytest.raises(ExceptionGroup) as caught:
        async with serving(services, services.enter):
            await fail(group)
    assert caught.value is group
    assert services.log == ORDER


async def test_a_base_exception_of_the_body_comes_out_bare_after_the_goodbye(autojump_clock: MockClock) -> None:
    services = Recorded()
    with pytest.raises(KeyboardInterrupt):
        async with serving(services, services.enter):
            await fail(KeyboardInterrupt())
    assert services.log == ORDER


async def test_a_cancelled_body_says_goodbye_too(autojump_clock: MockClock) -> None:
    services = Recorded()
    with trio.move_on_after(1) as scope:
        async with serving(services, services.enter):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert services.log == ORDER


async def test_an_error_in_the_cleanup_of_a_cancelled_body_is_not_lost(autojump_clock: MockClock) -> None:
    services = Recorded()
    with pytest.raises(KeyError), trio.move_on_after(1):
        async with serving(services, services.enter):
            await fail_in_cleanup()
    assert services.log == ORDER


async def test_a_body_that_ends_by_itself_though_cancelled_is_no_error(autojump_clock: MockClock) -> None:
    services = Recorded()
    with trio.CancelScope() as scope:
        async with serving(services, services.enter):
            await trio.sleep(1)
            scope.cancel()
    assert services.log == ORDER


async def test_a_cancellation_during_the_goodbye_does_not_cut_it_short(autojump_clock: MockClock) -> None:
    services = Recorded()
    with trio.move_on_after(1.5):
        async with serving(services, services.enter):
            await trio.sleep(1)
    assert services.log == ORDER


async def test_services_that_cannot_start_leave_nothing_behind(autojump_clock: MockClock) -> None:
    services = Recorded()
    services.fails_at_start = OSError("port taken")
    with pytest.raises(OSError, match="port taken"):
        async with serving(services, services.enter):
            services.log.append("body")
    assert services.log == []


async def test_entering_that_fails_says_goodbye_and_raises_bare(autojump_clock: MockClock) -> None:
    services = Recorded()

    async def enter() -> None:
        await trio.sleep(1)
        raise RpcNetError("no seed")

    with pytest.raises(RpcNetError, match="no seed"):
        async with serving(services, enter):
            services.log.append("body")
    assert services.log == ORDER


async def test_a_crash_cancels_the_body_and_comes_out_as_node_crashed(autojump_clock: MockClock) -> None:
    services = Recorded()
    services.crashes_after = 1
    with pytest.raises(NodeCrashed, match="crashed") as caught:
        async with serving(services, services.enter):
            await trio.sleep_forever()
    assert isinstance(caught.value.__cause__, ValueError)
    assert services.log == ORDER


async def test_a_crash_keeps_the_error_of_the_body_as_its_context(autojump_clock: MockClock) -> None:
    services = Recorded()
    services.crashes_after = 1
    with pytest.raises(NodeCrashed) as caught:
        async with serving(services, services.enter):
            await fail_in_cleanup()
    assert isinstance(caught.value.__context__, KeyError)
    assert isinstance(caught.value.__cause__, ValueError)


async def test_a_crash_while_entering_comes_out_as_node_crashed(autojump_clock: MockClock) -> None:
    services = Recorded()
    services.crashes_after = 1
    with pytest.raises(NodeCrashed):
        async with serving(services, trio.sleep_forever):
            services.log.append("body")
    assert services.log == ORDER


async def test_services_that_raise_crash_the_node(autojump_clock: MockClock) -> None:
    services = Recorded()
    services.raises_after = 1
    with pytest.raises(NodeCrashed) as caught:
        async with serving(services, services.enter):
            await trio.sleep_forever()
    assert isinstance(caught.value.__cause__, KeyError)


async def test_services_that_fail_while_they_end_come_out_as_one_error(autojump_clock: MockClock) -> None:
    services = Recorded()
    services.fails_at_end = OSError("cannot close")
    with pytest.raises(NodeCrashed) as caught:
        async with serving(services, services.enter):
            await trio.sleep(1)
    assert isinstance(caught.value.__cause__, OSError)


async def test_services_run_in_a_clean_context(autojump_clock: MockClock) -> None:
    services = Recorded()
    WHOSE.set("the opener's")
    async with serving(services, services.enter):
        assert WHOSE.get() == "the opener's"
    assert services.context == "nobody"
