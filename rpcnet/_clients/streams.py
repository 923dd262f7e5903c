"""Streams of results at the caller: an ``async with`` over an async iterator.

The rules of this file:

* Entering returns when a server has accepted the call. Leaving ends the call: what has not ended is cancelled.
* Requests of a bidirectional call are sent by a task of their own, which never outlives the block. Its error ends the
  block and comes out bare, as does the block's own.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, TypeVar, cast

import trio

from rpcnet._net.stream_values import ReceivedValues
from rpcnet.errors import StatusError

from .caller import Caller, OpenCall, Target

__all__ = ["StreamCall"]

T = TypeVar("T")


class StreamCall(AbstractAsyncContextManager[AsyncIterator[T]]):
    """One call whose results are a stream.

    Args:
        caller: who finds a peer.
        target: what to call.
        args: the arguments.
        kwargs: the arguments passed by name.
    """

    def __init__(
        self, caller: Caller[Any], target: Target, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> None:
        self._caller = caller
        self._target = target
        self._args, self._kwargs = args, kwargs
        self._call: OpenCall[Any] | None = None
        self._manager: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._nursery: trio.Nursery | None = None
        self._failure: Exception | None = None

    def __repr__(self) -> str:
        """Return what is called."""
        return f"<rpcnet stream of {self._target.full_name}>"

    async def __aenter__(self) -> AsyncIterator[T]:
        """Call, and return the results as they come. A checkpoint.

        Raises:
            StatusError: no server accepted the call.
        """
        if self._call is not None:
            raise RuntimeError("a stream can be entered once; call the method again")
        codec, requests = self._target.codec, None
        args, kwargs = self._args, self._kwargs
        if self._target.shape.streams_requests:
            args, kwargs, requests = codec.split_requests(args, kwargs)
        self._call = call = await self._caller.open(self._target, codec.encode_arguments(args, kwargs))
        if requests is not None:
            self._manager = trio.open_nursery()
            self._nursery = await self._manager.__aenter__()
            self._nursery.start_soon(self._send, call, requests, name=f"requests of {self._target.full_name}")
        return ReceivedValues(call.stream, cast("Callable[[bytes], T]", codec.decode_result), self._explain)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """End the call. A checkpoint if requests have to be stopped."""
        if self._call is None:
            raise RuntimeError("the stream was not entered")
        self._caller.close(self._call, done=error is None)
        if self._nursery is None or self._manager is None:
            return False
        self._nursery.cancel_scope.cancel()
        await self._manager.__aexit__(None, None, None)
        if not isinstance(error, trio.Cancelled):
            if error is None and self._failure is not None:
                raise self._failure
            return False
        await trio.lowlevel.checkpoint_if_cancelled()  # if it was not the failing requests that cancelled the block
        if self._failure is None:
            return False
        raise self._failure

    async def _send(self, call: OpenCall[Any], requests: AsyncIterable[object]) -> None:
        try:
            await self._caller.send_requests(self._target, call, requests)
        except Exception as error:  # noqa: BLE001 - it belongs to the block, which raises it bare
            self._failure = error
            if self._nursery is not None:
                self._nursery.cancel_scope.cancel()

    def _explain(self, error: Exception) -> Exception:
        if isinstance(error, StatusError) and self._call is not None:
            return self._caller.explain(error, self._target, self._call.peer)
        return error
