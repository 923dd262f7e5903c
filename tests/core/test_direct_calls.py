"""A service object is called as its stub is, without a network: streams are driven and closed for the caller."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from rpcnet._direct import CLOSE_TIMEOUT
from rpcnet.errors import NotFound
from rpcnet.service import rpc, service


class Printing:
    def __init__(self) -> None:
        self.log: list[str] = []

    @rpc
    async def count(self, until: int) -> AsyncIterator[int]:
        try:
            with trio.fail_after(1000):  # open over the yields, as a nursery would be
                for number in range(until):
                    yield number
                    await trio.sleep(1)
            raise NotFound("no more paper")
        finally:
            await trio.sleep(1)
            self.log.append("closed")

    @rpc
    async def nursery(self) -> AsyncIterator[int]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            yield 1
            yield 2
            nursery.cancel_scope.cancel()

    @rpc
    async def stubborn(self) -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            try:
                await trio.sleep_forever()
            finally:
                self.log.append("cut short")

    @rpc
    async def fails_at_the_end(self) -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            raise NotFound("at the end")

    @rpc
    def channel(self) -> AsyncIterator[str]:
        send, receive = trio.open_memory_channel[str](2)
        send.send_nowait("a")
        send.send_nowait("b")
        send.close()
        self.receive = receive
        return receive

    @rpc
    async def awaited(self, words: list[str]) -> AsyncIterator[str]:
        return _each(words)

    @rpc
    async def no_stream(self) -> AsyncIterator[str]:
        return 7  # type: ignore[return-value]

    @rpc
    async def chat(self, lines: AsyncIterator[str]) -> AsyncIterator[int]:
        async for line in lines:
            yield len(line)

    @rpc
    def thread(self, document: str) -> str:
        self.log.append(threading.current_thread().name)
        return document.upper()

    @rpc
    def later(self) -> Later:
        return Later()


@attrs.frozen
class Later:
    """Defined below its use, so that the annotation cannot be read when the method is marked."""

    words: tuple[str, ...] = ()


service(Printing)


async def _each(words: list[str]) -> AsyncIterator[str]:
    for word in words:
        yield word


async def test_a_stream_is_entered_and_read(autojump_clock: trio.testing.MockClock) -> None:
    printing = Printing()
    read = []
    with pytest.raises(NotFound, match="no more paper"):  # noqa: PT012
        async with printing.count(3) as values:
            async for value in values:
                read.append(value)  # noqa: PERF401 - the end is an error
    assert read == [0, 1, 2]
    assert printing.log == ["closed"]


async def test_an_error_comes_at_the_value_that_it_took_the_place_of(autojump_clock: trio.testing.MockClock) -> None:
    async with Printing().count(1) as values:
        assert await anext(values) == 0
        with pytest.raises(NotFound):
            await anext(values)
        with pytest.raises(StopAsyncIteration):
            await anext(values)


async def test_leaving_early_closes_the_generator(autojump_clock: trio.testing.MockClock) -> None:
    printing = Printing()
    async with printing.count(3) as values:
        assert await anext(values) == 0
    assert printing.log == ["closed"]
    with pytest.raises(StopAsyncIteration):
        await anext(values)


async def test_leaving_in_mid_step_cancels_the_step(autojump_clock: trio.testing.MockClock) -> None:
    printing = Printing()
    async with printing.count(3) as values:
        await anext(values)
        with trio.move_on_after(0.5):
            await anext(values)
        before = trio.current_time()
    assert trio.current_time() == before  # the generator was in a sleep, and the one at its end was cancelled, too
    assert printing.log == []


async def test_a_reader_that_gives_up_waiting_loses_no_value(autojump_clock: trio.testing.MockClock) -> None:
    async with Printing().count(2) as values:
        assert await anext(values) == 0
        with trio.move_on_after(0.5) as scope:
            await anext(values)
        assert scope.cancelled_caught
        assert await anext(values) == 1


async def test_scopes_of_reader_and_generator_do_not_meet(autojump_clock: trio.testing.MockClock) -> None:
    async with Printing().nursery() as values:
        with trio.move_on_after(10):
            assert await anext(values) == 1
        assert [value async for value in values] == [2]


async def test_the_body_s_error_comes_out_as_it_was_raised(autojump_clock: trio.testing.MockClock) -> None:
    printing = Printing()
    error = KeyError("x")
    with pytest.raises(KeyError) as caught:  # noqa: PT012
        async with printing.count(3) as values:
            async for _ in values:
                raise error
    assert caught.value is error
    assert printing.log == ["closed"]
    with pytest.RaisesGroup(ValueError):
        async with printing.count(3) as values:
            raise ExceptionGroup("of the user", [ValueError()])


async def test_a_cancelled_reader_ends_the_generator(autojump_clock: trio.testing.MockClock) -> None:
    printing = Printing()
    with trio.move_on_after(0.5) as scope:
        async with printing.count(3) as values:
            await anext(values)
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert printing.log == ["closed"]
    assert trio.current_time() == 1.5  # its last second of work is shielded


async def test_a_generator_that_does_not_end_is_cut_short(autojump_clock: trio.testing.MockClock) -> None:
    printing = Printing()
    async with printing.stubborn() as values:
        await anext(values)
    assert printing.log == ["cut short"]
    assert trio.current_time() == CLOSE_TIMEOUT


async def test_an_error_while_closing_comes_out_bare(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(NotFound, match="at the end") as caught:
        async with Printing().fails_at_the_end() as values:
            await anext(values)
    assert not isinstance(caught.value.__context__, BaseExceptionGroup)
    with pytest.raises(NotFound, match="at the end") as caught:  # noqa: PT012
        async with Printing().fails_at_the_end() as values:
            await anext(values)
            raise KeyError("x")
    assert isinstance(caught.value.__context__, KeyError)


async def test_a_function_that_returns_an_iterator_is_a_stream_too() -> None:
    printing = Printing()
    async with printing.channel() as letters, printing.awaited(["c", "d"]) as more:
        assert [letter async for letter in letters] + [letter async for letter in more] == ["a", "b", "c", "d"]
    with pytest.raises(trio.ClosedResourceError):
        printing.receive.receive_nowait()


async def test_what_is_no_stream_is_refused_when_it_is_entered() -> None:
    with pytest.raises(TypeError, match="expected an async iterator, got int"):
        async with Printing().no_stream():
            pass
    with pytest.raises(TypeError, match=r"count\(\) missing 1 required positional argument: 'until'"):
        async with Printing().count():  # type: ignore[call-arg]
            pass


async def test_a_request_stream_is_handed_on() -> None:
    async with Printing().chat(_each(["a", "bcd"])) as lengths:
        assert [length async for length in lengths] == [1, 3]


async def test_two_tasks_cannot_read_one_stream(autojump_clock: trio.testing.MockClock) -> None:
    async with Printing().count(3) as values, trio.open_nursery() as nursery:
        await anext(values)
        nursery.start_soon(anext, values)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await anext(values)


async def test_a_plain_function_is_awaited_and_runs_in_a_thread() -> None:
    printing = Printing()
    assert await printing.thread("a") == "A"
    assert printing.log != [threading.current_thread().name]
    assert isinstance(await printing.later(), Later)


@pytest.mark.parametrize("name", ["count", "thread", "chat"])
def test_a_wrapped_method_keeps_its_name_and_its_words(name: str) -> None:
    method: Callable[..., Any] = getattr(Printing, name)
    assert (method.__name__, method.__qualname__) == (name, f"Printing.{name}")
