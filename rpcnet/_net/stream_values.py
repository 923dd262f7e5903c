"""Values of a stream as an application reads and writes them; both ends use the same.

The rules of this file:

* Reading and writing are checkpoints at least once every ``BATCH`` values, so that a fast stream does not starve others
  and one value does not cost a turn of the scheduler.
* Whoever is given values to send closes their iterator, in the same task, however sending ended; for that an iterator
  has ``CLOSE_TIMEOUT`` seconds, also when it is cancelled.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable
from typing import Generic, Self, TypeVar

import trio

from .call_stream import CallStream

__all__ = ["BATCH", "CLOSE_TIMEOUT", "ReceivedValues", "send_values"]

T = TypeVar("T")

BATCH = 64
"""Values that may be read or written between two checkpoints."""
CLOSE_TIMEOUT = 5.0
"""Seconds that an iterator has to close itself."""


class ReceivedValues(Generic[T]):
    """The values that arrive on a stream: an async iterator.

    Args:
        stream: where they arrive.
        decode: turns bytes into a value.
        explain: turns the error that ended the stream into the one that is raised.
    """

    __slots__ = ("_decode", "_explain", "_left", "_stream")

    def __init__(
        self,
        stream: CallStream,
        decode: Callable[[bytes], T],
        explain: Callable[[Exception], Exception] | None = None,
    ) -> None:
        self._stream = stream
        self._decode = decode
        self._explain = explain
        self._left = BATCH

    def __aiter__(self) -> Self:
        """Return the iterator itself."""
        return self

    async def __anext__(self) -> T:
        """Return the next value; raise what ended the stream.

        A checkpoint at least every 64 values. Cancelling loses no value.
        """
        if self._left:
            self._left -= 1
            body = self._stream.receive_nowait()
            if body is not None:
                return self._decode(body)
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()  # before a value is taken, which would be lost with a cancellation
        self._left = BATCH
        return await self._receive()

    async def _receive(self) -> T:
        try:
            body = await self._stream.receive()
        except Exception as error:
            if self._explain is None:
                raise
            raise self._explain(error) from None
        if body is None:
            raise StopAsyncIteration
        return self._decode(body)


async def send_values(stream: CallStream, values: AsyncIterable[T], encode: Callable[[T], bytes]) -> None:
    """Send every value, as far as the other side takes them, and close their iterator. A checkpoint every 64 values.

    Args:
        stream: where they go.
        values: what to send.
        encode: turns a value into bytes.

    Raises:
        ResourceExhausted: a value is longer than what the other side takes.
    """
    iterator = values.__aiter__()
    count = 0
    # The scope is opened before the first step: a generator may hold scopes of its own open over its yields, and one
    # opened only to close it would lie within those.
    with trio.CancelScope() as scope:
        try:
            async for value in iterator:
                body = encode(value)
                if not stream.send_nowait(body) and not await stream.send(body):
                    return
                count += 1
                if count % BATCH == 0:
                    await trio.lowlevel.checkpoint()
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                scope.shield = True
                scope.deadline = trio.current_time() + CLOSE_TIMEOUT
                await close()
