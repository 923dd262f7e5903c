"""What the server knows of one method that it serves: how to run it, and for whom."""

from __future__ import annotations

import enum
from collections.abc import Callable, Coroutine
from typing import Any

import attrs

from rpcnet._core.values import MethodCodec
from rpcnet._net.server_session import IncomingCall
from rpcnet.service import MethodDefinition

__all__ = ["END_OF_RESULTS", "Guard", "Handler", "Invoke"]


class _EndOfResults(enum.Enum):
    END = "the results of a streaming call have all been sent"


END_OF_RESULTS = _EndOfResults.END
"""What :attr:`Handler.invoke` returns when the results went out one by one."""

Invoke = Callable[[IncomingCall, list[object]], Coroutine[Any, Any, object]]
"""Runs a handler for a call, given its decoded arguments, and returns its result or ``END_OF_RESULTS``."""
Guard = Callable[[IncomingCall], None]
"""Raises a status if the caller may not make a call; its handler is not run then."""


@attrs.frozen
class Handler:
    """One method of one service object."""

    definition: MethodDefinition
    """The method as declared."""
    codec: MethodCodec
    """Its compiled conversion."""
    method: Callable[..., Coroutine[Any, Any, object]] | None
    """The bound method, if calling it with the arguments is all there is to do."""
    invoke: Invoke
    """Runs it otherwise."""
    guard: Guard | None = None
    """Who may call it, if not everybody may."""
