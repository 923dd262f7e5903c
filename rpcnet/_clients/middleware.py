"""Middleware at the caller: one kind for calls of every shape.

The rules of this file:

* What a middleware leaves in ``call.metadata`` when it proceeds goes along with the call. A call that is repeated on
  another node is one call: middleware runs around all attempts.
* Around a stream, a middleware runs in the task of the block: ``proceed`` returns when the block ends, and raises what
  ended it. So its cancel scopes and nurseries enclose the block as if they were written there.
* A group that holds one error comes out as that error: see ``rpcnet/_middleware.py``.
"""

from __future__ import annotations

import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

import attrs
import trio
from trio.lowlevel import current_task

from rpcnet._core.bodies import decode_metadata, encode_metadata
from rpcnet._middleware import Call, chained, sole_error
from rpcnet.config import RpcConfig

from .caller import Caller, Target

__all__ = ["ClientCall", "GuardedStream", "guarded", "guarded_stream"]

_BLOCK = object()
"""What a middleware's coroutine yields, instead of a trap of Trio, when it is the block's turn."""


class ClientCall(Call):
    """A call that is about to be made, as middleware of clients sees it."""

    def __init__(
        self,
        method: str,
        arguments: Mapping[str, object],
        metadata: dict[str, str],
        deadline: float,
    ) -> None:
        self._method = method
        self._arguments = arguments
        self._metadata = metadata
        self._deadline = deadline

    @property
    def method(self) -> str:
        """What is called, ``"service.method"``."""
        return self._method

    @property
    def arguments(self) -> Mapping[str, object]:
        """The arguments by name, without those that were left out and without a stream."""
        return self._arguments

    @property
    def metadata(self) -> dict[str, str]:
        """Text by name that goes along with the call; add to it before proceeding."""
        return self._metadata

    @property
    def deadline(self) -> float:
        """When the caller gives up, in Trio time; infinity if it does not."""
        return self._deadline


@attrs.frozen(eq=False)
class _Around:
    """What makes the calls of one method through middleware."""

    caller: Caller[Any]
    target: Target
    config: RpcConfig

    def call_of(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> ClientCall:
        target, limit = self.target, self.config.max_metadata_bytes
        args, kwargs, _ = target.codec.split_requests(args, kwargs)
        names = [parameter.name for parameter in target.codec.definition.parameters]
        arguments = {**dict(zip(names, args, strict=False)), **kwargs}
        metadata = decode_metadata(target.metadata, limit) if target.metadata else {}
        return ClientCall(target.full_name, arguments, metadata, self.caller.deadline())

    def target_of(self, call: ClientCall) -> Target:
        metadata = encode_metadata(call.metadata, self.config.max_metadata_bytes)
        return self.target if metadata == self.target.metadata else attrs.evolve(self.target, metadata=metadata)


def guarded(
    caller: Caller[Any], target: Target, config: RpcConfig, step: Callable[..., Coroutine[Any, Any, object]]
) -> Callable[..., Coroutine[Any, Any, object]]:
    """Return the function that makes a call with one result through the caller's middleware.

    Args:
        caller: who finds a peer.
        target: what to call.
        config: limits.
        step: makes the call, given the target and the arguments.
    """
    around = _Around(caller, target, config)

    async def call(*args: object, **kwargs: object) -> object:
        seen = around.call_of(args, kwargs)

        async def innermost() -> object:
            return await step(around.target_of(seen), *args, **kwargs)

        try:
            return await chained(caller.middleware, seen, innermost)()
        except BaseExceptionGroup as group:
            error = sole_error(group)
            if error is group:
                raise
        raise error

    return call


def guarded_stream(
    caller: Caller[Any],
    target: Target,
    config: RpcConfig,
    make: Callable[..., AbstractAsyncContextManager[AsyncIterator[object]]],
) -> Callable[..., GuardedStream]:
    """Return the function that makes a call with a stream of results through the caller's middleware.

    Args:
        caller: who finds a peer.
        target: what to call.
        config: limits.
        make: makes the call, given the target, the positional arguments and those by name.
    """
    around = _Around(caller, target, config)

    def call(*args: object, **kwargs: object) -> GuardedStream:
        return GuardedStream(around, make, args, kwargs)

    return call


class GuardedStream(AbstractAsyncContextManager[AsyncIterator[object]]):
    """One call whose results are a stream, through the caller's middleware."""

    def __init__(
        self,
        around: _Around,
        make: Callable[..., AbstractAsyncContextManager[AsyncIterator[object]]],
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
    ) -> None:
        self._around = around
        self._make = make
        self._args, self._kwargs = args, kwargs
        self._running: Coroutine[Any, Any, object] | None = None
        self._values: AsyncIterator[object] | None = None
        self._task: trio.lowlevel.Task | None = None

    def __repr__(self) -> str:
        """Return what is called."""
        return f"<rpcnet stream of {self._around.target.full_name}>"

    async def __aenter__(self) -> AsyncIterator[object]:
        """Run the middleware until it has proceeded, and return the results as they come. A checkpoint."""
        if self._running is not None:
            raise RuntimeError("a stream can be entered once; call the method again")
        self._task = current_task()
        self._running = self._run()
        try:
            await _drive(self._running, self._running.send, None)
        except BaseExceptionGroup as group:
            error = sole_error(group)
            if error is group:
                raise
        else:
            if self._values is not None:
                return self._values
            error = RuntimeError(
                f"{self._around.target.full_name}: a middleware answered where the results are a stream"
            )
        raise error

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Let the middleware go on behind the block; what it makes of the block's error holds."""
        running = self._running
        if running is None:
            raise RuntimeError("the stream was not entered")
        raised: BaseException | None = None
        try:
            if error is None:
                await _drive(running, running.send, None)
            else:
                await _drive(running, running.throw, error)
        except BaseException as outcome:  # noqa: BLE001 - raised again below
            raised = sole_error(outcome)
        if raised is None:
            return error is not None
        if raised is error or (isinstance(error, StopIteration) and raised.__cause__ is error):
            return False
        raise raised

    async def _run(self) -> object:
        around = self._around
        seen = around.call_of(self._args, self._kwargs)

        async def innermost() -> None:
            if current_task() is not self._task:
                raise RuntimeError("a middleware has to proceed in its own task")
            async with self._make(around.target_of(seen), self._args, self._kwargs) as self._values:
                await _let_the_block_run()

        return await chained(around.caller.middleware, seen, innermost)()


@types.coroutine
def _let_the_block_run() -> Generator[Any, Any, None]:
    yield _BLOCK


@types.coroutine
def _drive(
    coroutine: Coroutine[Any, Any, object], step: Callable[[Any], Any], argument: Any
) -> Generator[Any, Any, None]:
    """Run a coroutine inside the current task until it is the block's turn, or until it has ended."""
    while True:
        try:
            trap = step(argument)
        except StopIteration:
            return
        if trap is _BLOCK:
            return
        try:
            argument = yield trap
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the coroutine
            step, argument = coroutine.throw, error
        else:
            step = coroutine.send
