"""How a handler of each kind is run, and who may call it.

The rules of this file:

* An ``async def`` that takes and returns values is called as it is: nothing of this file is in its way.
* A plain ``def`` runs in a worker thread, at most ``max_threads`` of them at a time on one node. A thread cannot be
  ended from outside. When its call is cancelled, the caller has its answer at once, and the handler is still running
  until its function returns: its place is taken, and a node that drains waits for it. ``trio.from_thread`` works in it;
  ``trio.from_thread.check_cancelled()`` is how a long function notices.
* Whether a caller may call is decided before its arguments are decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import trio

from rpcnet._middleware import Call, Middleware, chained
from rpcnet._net.server_session import IncomingCall
from rpcnet.errors import InvalidArgument, PermissionDenied
from rpcnet.service import MethodDefinition, Shape

from .handlers import END_OF_RESULTS, Guard, Handler, Host, Invoke

__all__ = ["direct", "guard_of", "threaded", "with_middleware"]


def direct(function: Callable[..., Any]) -> Invoke:
    """Return what runs an ``async def``."""

    async def invoke(_: IncomingCall, arguments: list[object]) -> object:
        return await function(*arguments)

    return invoke


def threaded(function: Callable[..., Any], limiter: trio.CapacityLimiter) -> Invoke:
    """Return what runs a plain ``def`` in a worker thread."""

    async def invoke(_: IncomingCall, arguments: list[object]) -> object:
        return await trio.to_thread.run_sync(function, *arguments, limiter=limiter)

    return invoke


def guard_of(definition: MethodDefinition, host: Host) -> Guard | None:
    """Return what refuses the calls that are not allowed; None if there are none."""
    name, allow, shape = definition.full_name, definition.allow, definition.shape

    def check_stream(call: IncomingCall) -> None:
        if not call.own_stream:
            raise InvalidArgument(f"{name}: is {shape.value}", never_ran=True)

    def check_caller(call: IncomingCall) -> None:
        if shape is not Shape.UNARY:
            check_stream(call)
        if allow is not None and not allow.matches(host.tags_of(call)):
            raise PermissionDenied(
                f"{name} may be called where {str(allow)!r}, and the tags of {call.session.peer_name} do not match",
                never_ran=True,
            )

    if allow is not None:
        return check_caller
    return None if shape is Shape.UNARY else check_stream


def with_middleware(
    handler: Handler, middleware: Sequence[Middleware[Any]], call_of: Callable[[IncomingCall], Call]
) -> Handler:
    """Return a handler that is run through middleware, the first of which is outermost.

    Args:
        handler: the handler.
        middleware: what it is run through.
        call_of: returns what middleware sees of a call.
    """
    run = handler.invoke
    streams_results = handler.definition.shape.streams_results

    async def invoke(call: IncomingCall, arguments: list[object]) -> object:
        has_proceeded = False

        async def innermost() -> object:
            nonlocal has_proceeded
            has_proceeded = True
            result = await run(call, arguments)
            return None if result is END_OF_RESULTS else result

        seen = call_of(call)
        result = await chained(middleware, seen, innermost)()
        if not streams_results:
            return result
        if not has_proceeded:
            raise RuntimeError(f"{seen.method}: a middleware answered where the results are a stream")
        return END_OF_RESULTS

    return attrs.evolve(handler, method=None, invoke=invoke)
