"""What a handler's context carries: the deadline of the call that it serves."""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ["call_deadline"]

call_deadline: ContextVar[float] = ContextVar("rpcnet call deadline", default=float("inf"))
"""When the caller gives up, in Trio time; calls made by the handler inherit it."""
