"""A number of bytes that several tasks share, first come, first served."""

from __future__ import annotations

from collections import deque

import trio

__all__ = ["Allowance"]


class Allowance:
    """Bytes to be taken and given back.

    Args:
        size: how many there are; more than that is given only to one who asks while nothing is taken.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._waiting: deque[tuple[int, trio.Event]] = deque()
        self._is_open = True

    async def take(self, amount: int) -> None:
        """Take bytes, waiting in turn until there are enough. A checkpoint only if it waits."""
        if not self._waiting and self._fits(amount):
            self._taken += amount
            return
        entry = (amount, trio.Event())
        self._waiting.append(entry)
        try:
            await entry[1].wait()
        except BaseException:
            if entry[1].is_set():
                self.give_back(amount)
            else:
                self._waiting.remove(entry)
                self._serve()
            raise

    def give_back(self, amount: int) -> None:
        """Give bytes back."""
        self._taken -= amount
        self._serve()

    def open_up(self) -> None:
        """Let everybody through from now on, because there is nothing left to protect."""
        self._is_open = False
        self._serve()

    def _fits(self, amount: int) -> bool:
        return not self._is_open or self._taken == 0 or self._taken + amount <= self._size

    def _serve(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            amount, event = self._waiting.popleft()
            self._taken += amount
            event.set()
