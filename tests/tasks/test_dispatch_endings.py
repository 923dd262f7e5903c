"""How calls in the pool of workers end: deadlines, cancellations, refusals, errors; each of them once."""

from __future__ import annotations

import contextlib
from random import Random

import pytest
import trio
import trio.testing
from _pool import Pool, Pump, Session, Table, Work, open_pool, quick, slow
from trio.testing import MockClock

from rpcnet._core.framing import Frame, FrameKind
from rpcnet._net.endpoint import CallQueue
from rpcnet._net.server_session import IncomingCall
from rpcnet._tasks.dispatch import Dispatcher
from rpcnet.errors import (
    CallCancelled,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    Unavailable,
    Unimplemented,
)

# --- deadlines and cancellation


async def test_a_handler_is_cancelled_at_its_deadline_and_its_worker_goes_on(autojump_clock: MockClock) -> None:
    async with open_pool() as pool:
        begun = trio.current_time()
        late, fine = await pool.outcomes(slow, quick, timeout_ms=500)
        assert isinstance(late, DeadlineExceeded)
        assert not late.never_ran
        assert fine == "quick"
        assert trio.current_time() == begun + 0.5
        assert await pool.outcomes(slow, slow) == ["slow"] * 2


async def test_a_deadline_does_not_stay_with_the_worker(autojump_clock: MockClock) -> None:
    async with open_pool(max_running=1) as pool:
        assert await pool.outcomes(slow, timeout_ms=1500) == ["slow"]
        assert await pool.outcomes(slow) == ["slow"]


async def test_a_call_whose_deadline_has_passed_in_the_queue_is_not_started(autojump_clock: MockClock) -> None:
    async with open_pool(max_running=1) as pool:
        pool.submit(slow)
        (late,) = await pool.outcomes(quick, timeout_ms=500)
        assert isinstance(late, DeadlineExceeded)
        assert late.never_ran


async def test_a_cancelled_handler_cleans_up_and_its_worker_goes_on(autojump_clock: MockClock) -> None:
    cleaned = []

    async def tidy() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.5)
                cleaned.append(trio.current_time())

    async with open_pool() as pool:
        begun = trio.current_time()
        call, other = pool.submit(tidy, slow)
        await trio.sleep(0.25)
        call.cancel()
        await trio.sleep(0.25)
        assert pool.queue.active == 2
        await pool.queue.wait_idle()
        assert cleaned == [begun + 0.75]
        assert isinstance(pool.session.answers[call.call_id], CallCancelled)
        assert pool.session.answers[other.call_id] == "slow"
        assert await pool.outcomes(*[slow] * 3) == ["slow"] * 3


async def test_a_call_cancelled_in_the_queue_is_not_started(autojump_clock: MockClock) -> None:
    ran = []

    async def never() -> None:
        ran.append(1)

    async with open_pool(max_running=1) as pool:
        pool.submit(slow)
        (call,) = pool.submit(never)
        call.cancel()
        await pool.queue.wait_idle()
        assert isinstance(pool.session.answers[call.call_id], CallCancelled)
        assert ran == []


async def test_a_cancellation_that_comes_when_the_handler_is_about_to_end_hits_no_other(
    autojump_clock: MockClock,
) -> None:
    async with open_pool(max_running=1) as pool:
        event = trio.Event()

        async def wait() -> str:
            await event.wait()
            return "woken"

        (call,) = pool.submit(wait)
        await trio.sleep(0.1)
        event.set()
        call.cancel()
        assert await pool.outcomes(slow, quick) == ["slow", "quick"]


async def test_errors_in_the_cleanup_of_cancelled_handlers_stay_in_their_calls(autojump_clock: MockClock) -> None:
    async def bad() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("in cleanup")

    async def mixed() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bad)
            nursery.start_soon(trio.sleep_forever)

    async with open_pool() as pool:
        calls = pool.submit(bad, mixed)
        await trio.sleep(0.1)
        for call in calls:
            call.cancel()
        await pool.queue.wait_idle()
        assert [type(pool.session.answers[call.call_id]) for call in calls] == [Internal] * 2
        (late, mixed_late) = await pool.outcomes(bad, mixed, timeout_ms=100)
        assert isinstance(late, Internal)
        assert isinstance(mixed_late, Internal)


async def test_what_runs_when_the_pool_ends_is_cancelled_and_answered() -> None:
    table, queue, session = Table(), CallQueue(), Session()
    cleaned = []

    async def tidy() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cleaned.append(1)

    async with trio.open_nursery() as nursery:
        pool = Pool(
            Dispatcher(nursery, pump=Pump(), queue=queue, table=table, max_running=9, rng=Random(1)),  # type: ignore[arg-type]
            table,
            queue,
            Pump(),
            session,
        )
        (call,) = pool.submit(tidy)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    error = session.answers[call.call_id]
    assert isinstance(error, Unavailable)
    assert not error.never_ran
    assert cleaned == [1]
    assert queue.active == 0


# --- refusals


async def test_what_cannot_be_run_is_refused_before_anything_runs(autojump_clock: MockClock) -> None:
    async with open_pool() as pool:
        frame = Frame(FrameKind.CALL, 900, 60_000, 0, b"\x80")
        call = IncomingCall(pool.session, 0, frame, own_stream=False)  # type: ignore[arg-type]
        pool.queue.accept(call)
        number = pool.table.add(quick)
        garbled = IncomingCall(pool.session, 0, Frame(FrameKind.CALL, 901, number, 0, b"\xff\xff"), own_stream=False)  # type: ignore[arg-type]
        pool.queue.accept(garbled)
        pool.dispatcher.on_calls()
        await pool.queue.wait_idle()
        first, second = pool.session.answers[900], pool.session.answers[901]
        assert isinstance(first, Unimplemented)
        assert isinstance(second, InvalidArgument)
        assert first.never_ran
        assert second.never_ran


async def test_a_draining_pool_refuses_new_calls_and_finishes_the_old(autojump_clock: MockClock) -> None:
    async with open_pool() as pool:
        (old,) = pool.submit(slow)
        await trio.sleep(0.5)
        pool.dispatcher.is_draining = True
        (new,) = await pool.outcomes(quick)
        assert isinstance(new, Unavailable)
        assert new.never_ran
        assert pool.session.answers[old.call_id] == "slow"


# --- everything at once


@pytest.mark.parametrize("seed", range(8))
async def test_every_call_ends_exactly_once_whatever_happens(autojump_clock: MockClock, seed: int) -> None:
    rng = Random(seed)

    def some_work() -> Work:
        seconds = rng.random()
        kind = rng.randrange(5)

        async def work() -> str:
            if kind == 0:
                return "at once"
            if kind == 1:
                raise ValueError
            if kind == 2:
                with contextlib.suppress(trio.Cancelled):
                    await trio.sleep(seconds)
            await trio.sleep(seconds)
            if kind == 3:
                raise KeyError
            return "later"

        return work

    async with open_pool(max_running=rng.choice([1, 3, 50])) as pool:
        for _ in range(60):
            calls = pool.submit(
                *[some_work() for _ in range(rng.randrange(4))], timeout_ms=rng.choice([0, 0, 200, 900])
            )
            for call in calls:
                if rng.random() < 0.2:
                    call.cancel()
            await trio.sleep(rng.choice([0, 0.01, 0.2]))
        with trio.fail_after(200):
            await pool.queue.wait_idle()
        assert len(pool.session.answers) == pool.count
        assert pool.dispatcher.statistics().finished == pool.count
