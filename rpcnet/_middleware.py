"""Middleware: what runs around a call, at the caller and at the server alike.

The rules of this file:

* A middleware is given the call and ``proceed``, which runs the rest. It lasts as long as the call does.
* It proceeds once or not at all. Without proceeding it answers by itself or, where the results are a stream, raises.
* Nothing here adds to an exception or takes from it. But a group that holds one error is that error: it is that of a
  middleware's nursery, and nobody raised it.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from .errors import ConfigError

__all__ = ["Call", "Middleware", "Proceed", "chained", "check_middleware", "sole_error"]


class Proceed(Protocol):
    """What a middleware is given beside the call: ``await proceed()`` runs the rest of it, once."""

    async def __call__(self) -> Any:
        """Run the rest and return its result; None where the results are a stream, after the last of them."""


class Call(ABC):
    """One call, as middleware sees it at either side."""

    @property
    @abstractmethod
    def method(self) -> str:
        """What is called, ``"service.method"``."""

    @property
    @abstractmethod
    def arguments(self) -> Mapping[str, object]:
        """The arguments by name, without those that were left out and without a stream."""

    @property
    @abstractmethod
    def metadata(self) -> Mapping[str, str]:
        """Text by name that goes along with the call."""

    @property
    @abstractmethod
    def deadline(self) -> float:
        """When the caller gives up, in Trio time; infinity if it does not."""

    def __repr__(self) -> str:
        """Return what is called."""
        return f"<rpcnet.{type(self).__name__} of {self.method}>"


C = TypeVar("C", bound=Call)
_C_contra = TypeVar("_C_contra", bound=Call, contravariant=True)


class Middleware(Protocol[_C_contra]):
    """An async function that runs around calls.

    ``result = await proceed()`` runs the rest: the next middleware, at last the handler or, at the caller, the call
    itself. It returns the result; None where the results are a stream, after the last of them. What the middleware
    returns is the result of the call; what it raises is its error. It proceeds once, in its own task, or not at all.
    """

    async def __call__(self, call: _C_contra, proceed: Proceed, /) -> Any:
        """Run around one call and return its result."""


def chained(middleware: Sequence[Middleware[C]], call: C, innermost: Proceed) -> Proceed:
    """Return what runs a call through middleware, the first of which is outermost."""
    proceed = _once(innermost)
    for each in reversed(middleware):
        proceed = _once(functools.partial(each, call, proceed))
    return proceed


def _once(step: Proceed) -> Proceed:
    is_used = False

    async def proceed() -> Any:
        nonlocal is_used
        if is_used:
            raise RuntimeError("a middleware can proceed once")
        is_used = True
        return await step()

    return proceed


def check_middleware(middleware: Iterable[Middleware[C]]) -> tuple[Middleware[C], ...]:
    """Return middleware as it is used.

    Raises:
        ConfigError: it is no sequence of functions.
    """
    if callable(middleware) or not isinstance(middleware, Iterable):
        raise ConfigError(f"middleware = {middleware!r}: must be a list of async functions (call, proceed)")
    found = tuple(middleware)
    for index, each in enumerate(found):
        if not callable(each):
            raise ConfigError(f"middleware[{index}] = {each!r}: must be an async function (call, proceed)")
    return found


def sole_error(error: BaseException) -> BaseException:
    """Return the one error that a group holds, however deep; an error that is no group, or of several, is itself."""
    inner = error
    while isinstance(inner, BaseExceptionGroup) and len(inner.exceptions) == 1:
        inner = inner.exceptions[0]
    return error if isinstance(inner, BaseExceptionGroup) else inner
