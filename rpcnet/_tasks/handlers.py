"""What the server knows of one method that it serves: how to run it, and for whom."""

from __future__ import annotations

import enum
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

import attrs

from rpcnet._core.values import MethodCodec
from rpcnet._middleware import Call
from rpcnet._net.server_session import IncomingCall
from rpcnet.service import BUILTIN_PREFIX, MethodDefinition

__all__ = ["END_OF_RESULTS", "Guard", "Handler", "Host", "Invoke"]


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

    @property
    def is_builtin(self) -> bool:
        """Whether every node has it, also while it drains."""
        return self.definition.service_name.startswith(BUILTIN_PREFIX)


class Host(Protocol):
    """Who serves: what handlers may know of their calls."""

    def call_of(self, call: IncomingCall, handler: Handler) -> Call:
        """Return what a handler and middleware see of a call.

        Raises:
            InvalidArgument: its metadata is malformed.
            ResourceExhausted: its metadata is too large.
        """

    def tags_of(self, call: IncomingCall) -> Mapping[str, str]:
        """Return the tags of the verified peer; none if it is no member of the cluster."""
