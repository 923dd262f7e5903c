"""What a handler's context carries: the call that it serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

__all__ = ["ServedCall", "call_maker", "detached", "inherited_deadline", "served_call"]

_NEVER = float("inf")


class ServedCall(Protocol):
    """What every floor may know of the call that a handler serves."""

    deadline: float
    """When the caller gives up, in Trio time; infinity if it does not."""
    context: Any
    """What ``rpcnet.current_call()`` returns, made when it is asked for."""


served_call: ContextVar[ServedCall | None] = ContextVar("rpcnet served call", default=None)
"""The call that the current handler serves; calls that it makes inherit its deadline."""

call_maker: ContextVar[Callable[[Any], Any] | None] = ContextVar("rpcnet call maker", default=None)
"""Makes what ``rpcnet.current_call()`` returns of a served call; the same for all calls of a node."""


def inherited_deadline() -> float:
    """Return the deadline of the call that is being served, in Trio time; infinity if there is none."""
    call = served_call.get()
    return _NEVER if call is None else call.deadline


@contextmanager
def detached() -> Iterator[None]:
    """Let what is done inside not belong to the call that is being served.

    Calls made inside do not inherit its deadline, and neither do tasks that are started inside, in a nursery that
    outlives the handler: ``with rpcnet.detached(): nursery.start_soon(audit, entry)``. The handler itself still ends
    with its call: what it awaits directly is cancelled with it.
    """
    token = served_call.set(None)
    try:
        yield
    finally:
        served_call.reset(token)
