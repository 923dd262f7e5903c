"""What a serving command says on standard output: lines, as text or as JSON.

The rules of this file:

* A reader that stalls delays nobody but himself: lines are written by a thread, straight to the descriptor, so that
  neither the node's loop nor the end of the process ever waits for him.
* A reader that has gone is no reason to stop serving: what would be said is dropped.
"""

from __future__ import annotations

import json
import math
import os
import select
from collections.abc import Mapping
from typing import Any

import trio

__all__ = ["Output", "write_all"]

_WAITING = 64
"""Lines of :meth:`Output.tell` that may wait to be written."""
_FLUSH_SECONDS = 1.0
"""How long the end waits for a reader."""


class Output:
    """Lines on their way to a descriptor.

    Args:
        as_json: print a JSON object per line instead of text.
        descriptor: where to; standard output by default.
    """

    def __init__(self, *, as_json: bool, descriptor: int = 1) -> None:
        self._as_json = as_json
        self._descriptor = descriptor
        self._send, self._receive = trio.open_memory_channel[tuple[bytes, bool]](math.inf)
        self._room = trio.Semaphore(_WAITING)
        self._written = trio.Event()

    def say(self, text: str, data: Mapping[str, Any]) -> None:
        """Say something that must not wait; for the few things that a process says of itself."""
        self._send.send_nowait((self._line(text, data), False))

    async def tell(self, text: str, data: Mapping[str, Any]) -> None:
        """Say something when there is room for it. A checkpoint; cancelling says nothing."""
        await self._room.acquire()
        self._send.send_nowait((self._line(text, data), True))

    def _line(self, text: str, data: Mapping[str, Any]) -> bytes:
        return (json.dumps(data) if self._as_json else text).encode("utf-8", "backslashreplace") + b"\n"

    async def run(self) -> None:
        """Write until cancelled, or until everything said before :meth:`finish` is written."""
        is_heard = True
        async for line, took_room in self._receive:
            if is_heard:
                try:
                    await trio.to_thread.run_sync(write_all, self._descriptor, line, abandon_on_cancel=True)
                except OSError:
                    is_heard = False
            if took_room:
                self._room.release()
        self._written.set()

    async def finish(self) -> None:
        """Take no more lines, and wait a bounded time until the reader has the others. A checkpoint."""
        self._send.close()
        with trio.move_on_after(_FLUSH_SECONDS):
            await self._written.wait()


def write_all(descriptor: int, line: bytes) -> None:
    """Write all of it; blocks. A descriptor that was made non-blocking is waited for."""
    while line:
        try:
            line = line[os.write(descriptor, line) :]
        except BlockingIOError:  # whoever started this process may have made the descriptor so
            select.select([], [descriptor], [])
