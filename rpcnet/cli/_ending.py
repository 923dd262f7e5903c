"""Signals that end a serving command: the first one in good order, the second one at once.

The rules of this file:

* SIGTERM and SIGINT mean the same to a node. A signal that was ignored when the process began stays ignored, as for
  every process that is started with ``nohup`` or in the background.
* The second one ends the process in the handler itself, so that it works even while the loop is blocked, for instance
  by the very handler that keeps the drain waiting.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

import trio

__all__ = ["ending_signals"]

_ENDING = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def ending_signals() -> Iterator[AsyncIterator[int] | None]:
    """Yield the first signal that asks this process to end; a second one ends it, with 128 + its number.

    Yields:
        an iterator of which only the first element ever comes; None if all such signals are ignored.
    """
    obeyed = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    with trio.open_signal_receiver(*obeyed) if obeyed else nullcontext() as signals:
        receivers: dict[int, Any] = {number: signal.getsignal(number) for number in obeyed}
        has_come = False

        def on_signal(number: int, frame: FrameType | None) -> None:
            nonlocal has_come
            if has_come:
                os._exit(128 + number)
            has_come = True
            receivers[number](number, frame)

        for number in obeyed:
            signal.signal(number, on_signal)
        yield signals
