"""Handlers that need asyncio: one loop for all of a node, inside Trio.

The rules of this file:

* No other file imports trio-asyncio, and this one only when a service needs it: it is an extra, and importing it
  changes asyncio for the whole process.
* The loop is open while calls are served, in a task of its own. A handler is one asyncio task; cancelling the call
  cancels it, and its deadline is the call's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from rpcnet._net.server_session import IncomingCall
from rpcnet.errors import ConfigError, Unavailable

from .handlers import Invoke

__all__ = ["AsyncioLoop"]


class AsyncioLoop:
    """The asyncio loop of a node.

    Args:
        method: the method that needs it, for the error.

    Raises:
        ConfigError: trio-asyncio is not installed.
    """

    def __init__(self, method: str) -> None:
        try:
            import trio_asyncio  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise ConfigError(f"{method} runs under asyncio, for which rpcnet[asyncio] has to be installed") from error
        self._open: Callable[[], Any] = trio_asyncio.open_loop
        self._current: Any = trio_asyncio.current_loop
        self._loop: Any = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None, None]:
        """Run the loop for the length of a block, in the current task. What still runs in it then is cancelled."""
        async with self._open() as loop:
            self._loop = loop
            try:
                yield
            finally:
                self._loop = None

    def invoking(self, function: Callable[..., Any]) -> Invoke:
        """Return what runs an asyncio function."""

        async def invoke(_: IncomingCall, arguments: list[object]) -> object:
            loop = self._loop
            if loop is None:
                raise Unavailable("the asyncio loop of the node is not open")
            self._current.set(loop)  # in the context of this one call
            return await loop.run_aio_coroutine(function(*arguments))

        return invoke
