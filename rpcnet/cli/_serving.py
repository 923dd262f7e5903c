"""Serving until a signal: enter, say so, wait, drain, leave.

The rules of this file:

* What is asked to end while it is still entering is cancelled; nothing was served yet.
* Once it serves, nothing cancels it but its own crash. The first signal drains: new calls are refused, which sends them
  elsewhere, and the running ones get ``drain_timeout`` seconds. Then the block is left.
* Errors come out bare.
* The log goes to standard error with the time of day, unless the application has set up a log of its own.
"""

from __future__ import annotations

import datetime as dt
import logging
import signal
from collections.abc import AsyncIterator
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self

import attrs
import trio

import rpcnet

from ._beside import beside
from ._ending import ending_signals
from ._events import as_data, as_line
from ._output import Output

__all__ = ["Server", "serve"]

_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Server(Protocol):
    """What can be served: a block that takes calls at an address, and can be drained before it is left."""

    @property
    def address(self) -> str:
        """Where it is reached, once it has been entered."""
        ...

    async def drain(self) -> None:
        """Refuse new calls and wait for the running ones."""
        ...

    async def __aenter__(self) -> Self:
        """Begin to serve."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None:
        """End, whatever still runs."""
        ...


async def serve(server: Server, *, drain_timeout: float, output: Output, shows_events: bool) -> int:
    """Serve until SIGTERM or SIGINT, and drain then.

    Args:
        server: what to serve, not yet entered.
        drain_timeout: seconds that the running calls get to finish.
        output: where to say that it is ready, drains and has stopped.
        shows_events: say every event of the cluster too; the server is a node then.

    Returns:
        the exit code of the process.

    Raises:
        RpcNetError: the server could not be entered, or crashed.
    """
    logging.basicConfig(format=_LOG_FORMAT, level=logging.WARNING)
    serving = _Serving(server, drain_timeout, output, shows_events)
    with ending_signals() as signals:
        async with beside(output.run), beside(partial(serving.listen, signals)):
            try:
                await serving.run()
                serving.say_stopped()
            finally:
                await output.finish()
    return serving.exit_code


@attrs.define(eq=False)
class _Serving:
    """One server on its way from the start to the end."""

    server: Server
    drain_timeout: float
    output: Output
    shows_events: bool
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _asked: trio.Event = attrs.field(factory=trio.Event, init=False)
    _signal: signal.Signals = attrs.field(default=signal.SIGTERM, init=False)
    _has_entered: bool = attrs.field(default=False, init=False)
    _is_drained: bool = attrs.field(default=True, init=False)

    @property
    def exit_code(self) -> int:
        """0 after a SIGTERM that ended no call, 1 if it did; 128 + n after another signal, as shells expect."""
        if self._signal != signal.SIGTERM:
            return 128 + self._signal
        return 0 if self._is_drained else 1

    async def listen(self, signals: AsyncIterator[int] | None) -> None:
        """Wait for the first signal, and ask to end; there is none to wait for if all are ignored."""
        if signals is None:
            return
        self._signal = signal.Signals(await anext(signals))
        self._asked.set()
        if not self._has_entered:
            self._scope.cancel()

    async def run(self) -> None:
        """Enter, serve until asked to end, drain and leave."""
        with self._scope:
            async with self.server:
                self._has_entered = True
                self._say_ready()
                async with beside(self._tell_events):
                    await self._asked.wait()
                    await self._drain()

    async def _drain(self) -> None:
        name, timeout = self._signal.name, self.drain_timeout
        text = f"draining after {name}, for at most {timeout:g} s; a second signal ends this process at once"
        self._say(text, "draining", signal=name, timeout=timeout)
        self._is_drained = False
        with trio.move_on_after(timeout):
            await self.server.drain()
            self._is_drained = True

    async def _tell_events(self) -> None:
        if self.shows_events and isinstance(self.server, rpcnet.Node):
            async with self.server.events() as events:
                async for event in events:
                    age = trio.current_time() - event.at
                    await self.output.tell(as_line(event), as_data(event, age=age, now=dt.datetime.now(dt.UTC)))

    def _say_ready(self) -> None:
        address, name = self.server.address, getattr(self.server, "name", None)
        if name is None:
            self._say(f"ready at {address}", "ready", address=address)
        else:
            self._say(f"ready: {name} at {address}", "ready", name=name, address=address)

    def say_stopped(self) -> None:
        """Say how it ended."""
        text = (
            "stopped" if self._is_drained else f"stopped; calls that took longer than {self.drain_timeout:g} s were cut"
        )
        self._say(text, "stopped", drained=self._is_drained)

    def _say(self, text: str, event: str, **data: Any) -> None:
        time = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
        self.output.say(text, {"event": event, "time": time, **data})
