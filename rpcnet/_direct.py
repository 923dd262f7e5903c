"""Calling the methods of a service object where it lives, without a network.

The rules of this file:

* Decorated methods look the same on a stub and on the service object: a plain ``def`` is awaited, and runs in a worker
  thread; a method that answers with a stream is entered with ``async with``.
* A stream's generator runs in a task of its own, one step for each item that is asked for. So it may hold scopes and
  nurseries over its yields, and a reader that gives up waiting for an item can ask again.
* Leaving the block ends the generator: a step under way is cancelled, then the generator is closed, within
  ``CLOSE_TIMEOUT``. Errors come out bare, at the item that they took the place of.
* The function as its author wrote it stays on the wrapper, for the server to run.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import trio

from ._annotations import is_stream

__all__ = ["CLOSE_TIMEOUT", "answers_with_stream", "direct", "is_covered", "written"]

CLOSE_TIMEOUT = 5.0
"""Seconds that an abandoned generator has for its ``finally`` blocks."""

_WRITTEN = "__rpcnet_written__"


def direct(function: Callable[..., Any], *, streams: bool | None = None) -> Callable[..., Any]:
    """Return what callers of the service object see of a marked function: itself if it is awaited as it is.

    Args:
        function: the function as written.
        streams: whether its result is a stream; None to look, once its annotation can be read.
    """
    if streams is None:
        streams = answers_with_stream(function)
    if inspect.iscoroutinefunction(function) and not streams:
        return function

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal streams
        if streams is None:
            streams = answers_with_stream(function)
        start = functools.partial(function, *args, **kwargs)
        return _open(start) if streams else trio.to_thread.run_sync(start)

    setattr(call, _WRITTEN, (call, function))
    return call


def written(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function as its author wrote it, given what stands on the class."""
    wrapper, inner = getattr(function, _WRITTEN, (None, None))
    return inner if inner is not None and wrapper is function else function


def is_covered(function: Callable[..., Any]) -> bool:
    """Return whether another decorator was put on top of the wrapper, and hides it."""
    return getattr(function, _WRITTEN, (function,))[0] is not function


def answers_with_stream(function: Callable[..., Any]) -> bool | None:
    """Return whether a function's result is a stream; None if its annotation names what is not defined yet."""
    if inspect.isasyncgenfunction(function):
        return True
    holder = SimpleNamespace(__annotations__={"return": function.__annotations__.get("return", Any)})
    try:
        return is_stream(typing.get_type_hints(holder, globalns=getattr(function, "__globals__", {}))["return"])
    except NameError:
        return None
    except (TypeError, SyntaxError):
        return False  # the class decorator says what is wrong with it


@asynccontextmanager
async def _open(start: Callable[[], Any]) -> AsyncIterator[AsyncIterator[Any]]:
    values = _Values()
    failure: BaseException | None = None
    ending: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(values.run, start)
            try:
                yield values
            except BaseException as error:  # noqa: BLE001 - raised again below, outside of the nursery
                failure = error
            values.leave()
            nursery.cancel_scope.cancel("the stream was left")
    except BaseExceptionGroup as group:
        ending = group.exceptions[0]  # the one child's, from its beginning or its end
    except trio.Cancelled as cancelled:
        failure = failure or cancelled
    try:
        if failure is not None:
            raise failure
    finally:
        if ending is not None:
            raise ending


class _Values(AsyncIterator[Any]):
    """The values of one stream: a task runs the generator, and a reader asks it for one value after the other."""

    def __init__(self) -> None:
        self._ask, self._asked = trio.open_memory_channel[None](1)
        self._give, self._given = trio.open_memory_channel[tuple[Any, Exception | None]](1)
        self._is_asked = self._is_read = self._is_over = False

    def leave(self) -> None:
        """Give nothing more to readers."""
        self._is_over = True

    async def __anext__(self) -> Any:
        """Return the next value. A checkpoint; cancelling it loses no value."""
        if self._is_read:
            raise trio.BusyResourceError("another task reads this stream")
        if self._is_over:
            await trio.lowlevel.checkpoint()
            raise StopAsyncIteration
        if not self._is_asked:
            self._ask.send_nowait(None)
            self._is_asked = True
        self._is_read = True
        try:
            value, error = await self._given.receive()
        finally:
            self._is_read = False
        self._is_asked = False
        if error is not None:
            self._is_over = True
            raise error
        return value

    async def run(self, start: Callable[[], Any], *, task_status: trio.TaskStatus[None]) -> None:
        """Run the generator, one step whenever the reader asks, until it has ended or the stream is left."""
        # The scope encloses those of the generator, which may stay open over its yields and must be left first.
        with trio.CancelScope() as scope:
            iterator = await _begin(start)
            try:
                task_status.started()
                async for _ in self._asked:
                    self._give.send_nowait((await anext(iterator), None))
            except Exception as error:  # the reader gets it, StopAsyncIteration as any other
                if self._is_over:
                    raise
                self._give.send_nowait((None, error))
            finally:
                close = getattr(iterator, "aclose", None)
                if close is not None:
                    scope.deadline = trio.current_time() + CLOSE_TIMEOUT
                    scope.shield = True
                    await close()


async def _begin(start: Callable[[], Any]) -> AsyncIterator[Any]:
    found = start()
    if inspect.isawaitable(found):
        found = await found
    if not isinstance(found, AsyncIterable):
        raise TypeError(f"expected an async iterator, got {type(found).__name__}")
    return aiter(found)
