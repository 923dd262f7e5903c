"""Lines of JSON on standard input and output, for commands that end by themselves.

The rules of this file:

* Reading and writing are done by threads that nobody waits for when the command is cancelled, straight on the
  descriptors: no lock of Python's own streams can keep the process from ending.
* A reader that stalls holds the command up, and through it the stream of the node. One that has gone ends it.
* No control character of what a node sends reaches a terminal.
"""

from __future__ import annotations

import json
import os
import select
from typing import Any, Self

import trio

from ._output import write_all

__all__ = ["InputLines", "print_json", "print_text", "printable", "to_line"]

_CHUNK = 65536
_CONTROLS = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}
"""What JSON lets stand in a text, and a terminal obeys."""


def to_line(data: Any) -> str:
    """Return data as JSON, on one line."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False).translate(_CONTROLS)


async def print_json(data: Any) -> None:
    """Print data as one line of JSON. A checkpoint; when it is cancelled, part of the line may have been printed."""
    await _print(to_line(data))


async def print_text(text: str) -> None:
    """Print text, with an escape for each control character in it. A checkpoint."""
    await _print(printable(text))


def printable(text: str) -> str:
    """Return text with an escape in place of each control character but the ends of lines."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode()
        for letter in text
    )


async def _print(text: str) -> None:
    line = text.encode("utf-8", "backslashreplace") + b"\n"
    await trio.to_thread.run_sync(write_all, 1, line, abandon_on_cancel=True)


class InputLines:
    """The lines of standard input: an async iterator."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._rest = b""
        self._has_ended = False

    def __aiter__(self) -> Self:
        """Return the iterator itself."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next line. A checkpoint if it has to be waited for."""
        while not self._lines:
            if self._has_ended:
                raise StopAsyncIteration
            chunk = await trio.to_thread.run_sync(_read, abandon_on_cancel=True)
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            self._has_ended = not chunk
            if self._has_ended and self._rest:
                lines.append(self._rest)
            self._lines = lines[::-1]
        return self._lines.pop()


def _read() -> bytes:
    while True:
        try:
            return os.read(0, _CHUNK)
        except BlockingIOError:  # whoever started this process may have made the descriptor so
            select.select([0], [], [])
