"""Many timers of one machine, of which only the earliest matters.

Setting, cancelling and asking cost a heap's logarithm at most, however many there are. A timer that was set again or
cancelled leaves its old entry in the heap, where it is passed over when its time comes; the heap is built anew when
most of it is of that kind.
"""

from __future__ import annotations

import heapq

__all__ = ["Timers"]

_SMALL_HEAP = 64


class Timers:
    """When what is due, by key; one timer per key."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._due)

    def set(self, key: str, at: float) -> None:
        """Let ``key`` be due at ``at``, and at no other time."""
        self._due[key] = at
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, key))
        if len(self._heap) > _SMALL_HEAP + 2 * len(self._due):
            self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)

    def cancel(self, key: str) -> None:
        """Let ``key`` not be due any more."""
        self._due.pop(key, None)

    def next(self) -> float | None:
        """Return when the first is due; None while there is none."""
        heap, due = self._heap, self._due
        while heap:
            at, _, key = heap[0]
            if due.get(key) == at:
                return at
            heapq.heappop(heap)
        return None

    def pop(self, now: float) -> tuple[str, float] | None:
        """Take out the first that is due by ``now``, with when it was; None when nothing is."""
        at = self.next()
        if at is None or at > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._due[key]
        return key, at
