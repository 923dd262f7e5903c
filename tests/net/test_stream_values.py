"""Values of a stream as an application reads them: in order, none lost, and others get their turn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio
import trio.testing
from _quic_pair import Pair

from rpcnet._net.call_stream import LARGE_BYTES, CallStream
from rpcnet._net.quic import QuicLink
from rpcnet._net.stream_values import BATCH, ReceivedValues
from rpcnet.errors import NotFound

WINDOW = 1 << 20


@attrs.define(eq=False)
class Host:
    """The least that a stream needs: a connection, and what was handed to it."""

    link: QuicLink = attrs.field(factory=lambda: Pair().connect()[0])
    message_limit: int = 1 << 20
    queued: list[bytes] = attrs.field(factory=list)
    written: list[bytes] = attrs.field(factory=list)

    def write(self, stream_id: int, data: bytes) -> None:
        self.queued.append(data)

    def write_out(self) -> None:
        self.written += self.queued
        self.queued.clear()

    async def wait_for_room(self) -> None:
        raise AssertionError("there is room")


def open_stream(host: Host | None = None) -> tuple[CallStream, ReceivedValues[int]]:
    stream = CallStream(host or Host(), 0, 1, credit=WINDOW, window=WINDOW, watermark=WINDOW)
    return stream, ReceivedValues(stream, int)


def put(stream: CallStream, numbers: range) -> None:
    for number in numbers:
        stream.put(str(number).encode())


async def run_beside(read: Callable[[], Awaitable[object]]) -> int:
    """Run something and return how many turns another task got meanwhile."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await read()
        nursery.cancel_scope.cancel()
    return turns


async def test_cancelling_a_read_loses_no_value() -> None:
    stream, values = open_stream()
    put(stream, range(500))
    stream.end()
    read: list[int] = []
    cancelled = 0
    while len(read) < 500:
        with trio.CancelScope() as scope:
            scope.cancel()
            while len(read) < 500:
                read.append(await anext(values))
        if scope.cancelled_caught:
            cancelled += 1
            read.append(await anext(values))
    assert read == list(range(500))
    assert cancelled == 500 // (BATCH + 1)


async def test_cancelling_a_read_that_waits_loses_no_value() -> None:
    stream, values = open_stream()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def read() -> None:
                await anext(values)

            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    put(stream, range(3))
    stream.end()
    assert [value async for value in values] == [0, 1, 2]


async def test_a_fast_stream_lets_others_have_a_turn_every_64_values() -> None:
    stream, values = open_stream()
    put(stream, range(10 * BATCH))
    stream.end()

    async def read() -> None:
        assert [value async for value in values] == list(range(10 * BATCH))

    assert 7 <= await run_beside(read) <= 11


async def test_a_stream_that_is_waited_for_costs_one_turn_per_value() -> None:
    stream, values = open_stream()
    read: list[int] = []
    note = read.append

    async def consume() -> None:
        async for value in values:
            note(value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume)
        for number in range(3 * BATCH):
            await trio.testing.wait_all_tasks_blocked()
            put(stream, range(number, number + 1))
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()  # the other task may have come second in the same turn
            assert read == list(range(number + 1))
        stream.end()


async def test_the_error_that_ends_a_stream_comes_after_its_values_and_every_time() -> None:
    stream, _ = open_stream()
    values = ReceivedValues(stream, int, lambda error: LookupError(str(error)))
    put(stream, range(2))
    stream.end(NotFound("no more"))
    assert [await anext(values), await anext(values)] == [0, 1]
    for _ in range(2):
        with pytest.raises(LookupError, match="no more"):
            await anext(values)


async def test_what_is_large_is_handed_to_quic_at_once_and_is_not_copied() -> None:
    host = Host()
    stream, _ = open_stream(host)
    small, large = bytes(LARGE_BYTES), bytes(LARGE_BYTES + 1)
    assert stream.send_nowait(small)
    assert ([len(part) for part in host.queued], host.written) == ([15 + LARGE_BYTES], [])
    assert stream.send_nowait(large)
    assert host.queued == []
    assert host.written[-1] is large


async def test_a_stream_that_is_over_sends_nothing_and_says_so() -> None:
    host = Host()
    stream, _ = open_stream(host)
    stream.finish()
    assert not await stream.send(b"late")
    assert (host.queued, host.written) == ([], [])
