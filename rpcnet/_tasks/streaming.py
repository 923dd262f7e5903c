"""Handlers whose requests, results or both are streams.

The rules of this file:

* A streaming call is accepted first: until then its caller sends no request, so that a refused call has taken nothing
  from anybody's stream.
* Requests arrive as an async iterator; results are driven, and closed, in the call's own task.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Callable
from typing import Any

from rpcnet._core.values import MethodCodec
from rpcnet._net.server_session import IncomingCall
from rpcnet._net.stream_values import ReceivedValues, send_values
from rpcnet.service import MethodDefinition

from .handlers import END_OF_RESULTS, Invoke

__all__ = ["streaming"]


def streaming(definition: MethodDefinition, codec: MethodCodec, method: Callable[..., Any], window: int) -> Invoke:
    """Return what runs a streaming handler.

    Args:
        definition: the method.
        codec: its compiled conversion.
        method: the bound method, as its author wrote it.
        window: bytes of requests that may wait to be read.
    """
    place = definition.requests_index
    streams_results = definition.shape.streams_results

    async def invoke(call: IncomingCall, arguments: list[object]) -> object:
        stream = call.open_channel(window if place is not None else 0)
        if place is not None:
            arguments.insert(place, ReceivedValues(stream, codec.decode_request))
        outcome = method(*arguments)
        if inspect.isawaitable(outcome):
            outcome = await outcome
        if not streams_results:
            return outcome
        if not isinstance(outcome, AsyncIterable):
            kind = type(outcome).__name__
            raise TypeError(f"{definition.full_name}: returned the wrong type: expected an async iterator, got {kind}")
        await send_values(stream, outcome, codec.encode_result)
        return END_OF_RESULTS

    return invoke
