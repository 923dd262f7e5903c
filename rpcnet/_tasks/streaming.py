"""Handlers whose requests, results or both are streams.

The rules of this file:

* A streaming call is accepted first: until then its caller sends no request, so that a refused call has taken nothing
  from anybody's stream.
* Requests arrive as an async iterator; results are driven, and closed, in the call's own task.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Callable
from typing import Any, cast

from rpcnet._core.values import MethodCodec
from rpcnet._net.server_session import IncomingCall
from rpcnet._net.stream_values import ReceivedValues, send_values
from rpcnet.errors import InvalidArgument
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
        if not call.own_stream:
            raise InvalidArgument(f"{definition.full_name}: is {definition.shape.value}", never_ran=True)
        stream = call.open_channel(window if place is not None else 0)
        if place is not None:
            arguments.insert(place, ReceivedValues(stream, codec.decode_request))
        outcome = method(*arguments)
        if inspect.isawaitable(outcome):
            outcome = await outcome
        if not streams_results:
            return outcome
        await send_values(stream, cast("AsyncIterable[object]", outcome), codec.encode_result)
        return END_OF_RESULTS

    return invoke
