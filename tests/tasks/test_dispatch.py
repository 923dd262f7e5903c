"""Handlers run eagerly inside workers, and behave there as in a task of their own."""

from __future__ import annotations

import contextvars

import trio
import trio.testing
from _pool import open_pool, quick, slow
from trio.testing import MockClock

from rpcnet._context import inherited_deadline
from rpcnet._net.server_session import IncomingCall
from rpcnet.errors import (
    Internal,
)

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="untouched")


# --- tasks


async def test_handlers_that_never_suspend_share_one_worker(autojump_clock: MockClock) -> None:
    async with open_pool() as pool:
        tasks = set()

        async def which() -> int:
            tasks.add(id(trio.lowlevel.current_task()))
            return 1

        for _ in range(10):
            assert await pool.outcomes(*[which] * 50) == [1] * 50
        assert len(tasks) == 1
        assert pool.dispatcher.statistics().workers == 1


async def test_a_handler_that_suspends_stops_no_other(autojump_clock: MockClock) -> None:
    async with open_pool() as pool:
        calls = pool.submit(slow, quick, quick)
        await trio.sleep(0.5)
        assert [pool.session.answers.get(call.call_id) for call in calls] == [None, "quick", "quick"]
        await pool.queue.wait_idle()
        assert pool.session.answers[calls[0].call_id] == "slow"


async def test_a_burst_of_handlers_that_suspend_runs_at_the_same_time(autojump_clock: MockClock) -> None:
    async with open_pool() as pool:
        begun = trio.current_time()
        assert await pool.outcomes(*[slow] * 80) == ["slow"] * 80
        assert trio.current_time() == begun + 1


async def test_no_more_handlers_than_allowed_are_suspended_and_the_rest_wait(autojump_clock: MockClock) -> None:
    async with open_pool(max_running=5) as pool:
        begun = trio.current_time()
        pool.submit(*[slow] * 12)
        await trio.sleep(0.5)
        assert pool.dispatcher.statistics().running == 5
        assert len(pool.queue.waiting) == 7
        await pool.queue.wait_idle()
        assert trio.current_time() == begun + 3
        assert pool.dispatcher.statistics().workers <= 5
        assert await pool.outcomes(quick) == ["quick"]


async def test_idle_workers_are_few_however_many_calls_there_were(autojump_clock: MockClock) -> None:
    async with open_pool(max_running=1000) as pool:
        await pool.outcomes(*[slow] * 500)
        await trio.testing.wait_all_tasks_blocked()
        assert pool.dispatcher.statistics().workers == 64


async def test_a_worker_that_is_free_again_takes_what_waits(autojump_clock: MockClock) -> None:
    async with open_pool(max_running=1) as pool:
        pool.submit(slow)
        await trio.sleep(0.1)
        assert await pool.outcomes(quick, slow, quick) == ["quick", "slow", "quick"]


async def test_handlers_of_a_long_queue_let_other_tasks_run(autojump_clock: MockClock) -> None:
    async with open_pool() as pool:
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_turns)
            await pool.outcomes(*[quick] * 3000)
            nursery.cancel_scope.cancel()
        assert turns >= 8


async def test_calls_may_arrive_from_inside_a_handler(autojump_clock: MockClock) -> None:
    async with open_pool() as pool:
        inner: list[IncomingCall] = []

        async def nested() -> str:
            inner.extend(pool.submit(quick, slow))
            await trio.sleep(2)
            inner.extend(pool.submit(quick))
            return "nested"

        assert await pool.outcomes(nested) == ["nested"]
        assert [pool.session.answers[call.call_id] for call in inner] == ["quick", "slow", "quick"]


# --- contexts


async def test_handlers_share_no_context_variables(autojump_clock: MockClock) -> None:
    VARIABLE.set("the caller's")

    async def change() -> str:
        before = VARIABLE.get()
        VARIABLE.set("changed")
        return before

    async def change_and_wait() -> str:
        before = VARIABLE.get()
        VARIABLE.set("changed while suspended")
        await trio.sleep(0.1)
        assert VARIABLE.get() == "changed while suspended"
        return before

    async with open_pool() as pool:
        for _ in range(3):
            works = [change, change_and_wait] * 5
            assert await pool.outcomes(*works) == ["untouched"] * 10


async def test_tasks_of_a_handler_inherit_its_context(autojump_clock: MockClock) -> None:
    async def spawn() -> list[str]:
        VARIABLE.set("the handler's")
        seen = []

        async def child() -> None:
            seen.append(VARIABLE.get())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
        seen.append(VARIABLE.get())
        return seen

    async with open_pool() as pool:
        assert await pool.outcomes(spawn) == [["the handler's"] * 2]


async def test_a_handler_knows_its_deadline_and_the_next_one_does_not(autojump_clock: MockClock) -> None:
    async def left() -> float:
        return min(inherited_deadline() - trio.current_time(), 1e9)

    async with open_pool() as pool:
        assert await pool.outcomes(left, timeout_ms=1500) == [1.5]
        assert await pool.outcomes(left) == [1e9]


# --- what handlers may do


async def test_scopes_nurseries_locks_and_threads_work_inside_handlers(autojump_clock: MockClock) -> None:
    lock = trio.Lock()
    order: list[int] = []

    async def scope() -> bool:
        with trio.move_on_after(0.1) as inner:
            await trio.sleep_forever()
        return inner.cancelled_caught

    async def too_slow() -> str:
        try:
            with trio.fail_after(0.1):
                await trio.sleep_forever()
        except trio.TooSlowError:
            return "too slow"

    async def nursery() -> list[int]:
        done = []

        async def child(number: int) -> None:
            await trio.sleep(number / 10)
            done.append(number)

        async with trio.open_nursery() as inner:
            for number in (3, 1, 2):
                inner.start_soon(child, number)
        return done

    async def critical() -> str:
        async with lock:
            order.append(1)
            await trio.sleep(0.01)
            order.append(-1)
        return "critical"

    async with open_pool() as pool:
        assert await pool.outcomes(scope, too_slow, nursery) == [True, "too slow", [1, 2, 3]]
        assert await pool.outcomes(*[critical] * 20) == ["critical"] * 20
        assert order == [1, -1] * 20


async def test_a_handler_may_wait_for_a_thread() -> None:
    async def thread() -> int:
        return await trio.to_thread.run_sync(lambda: 5)

    async with open_pool() as pool:
        assert await pool.outcomes(thread, quick) == [5, "quick"]


async def test_an_error_that_a_nursery_of_a_handler_collects_stays_in_its_call(autojump_clock: MockClock) -> None:
    async def failing() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep(0.1)
            raise KeyError

    async with open_pool() as pool:
        failed, fine = await pool.outcomes(failing, slow)
        assert isinstance(failed, Internal)
        assert "KeyError" in str(failed)
        assert fine == "slow"
