"""The timers of all links of an endpoint, in one heap.

The rules of this file:

* A link has one moment at which it wants to be woken, ``wake_at``. Setting an earlier one leaves the later entry in the
  heap; it is known for stale because it does not say the same.
* Stale entries are swept out when they outnumber the links.
"""

from __future__ import annotations

import heapq
import itertools

from .quic_link import NEVER, QuicLink

__all__ = ["LinkTimers"]

_SLACK = 64


class LinkTimers:
    """Which link is to be woken when."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, QuicLink]] = []
        self._count = itertools.count()

    def __len__(self) -> int:
        """Return the number of entries, stale ones included."""
        return len(self._heap)

    def set(self, link: QuicLink, at: float, links: int) -> None:
        """Wake a link at a moment, and at no other one that was set before.

        Args:
            link: the link.
            at: the moment.
            links: how many links there are.
        """
        link.wake_at = at
        heapq.heappush(self._heap, (at, next(self._count), link))
        if len(self._heap) > _SLACK + 4 * links:
            self._heap = [timer for timer in self._heap if timer[0] == timer[2].wake_at]
            heapq.heapify(self._heap)

    def next(self) -> float | None:
        """Return the earliest moment; None if there is none."""
        heap = self._heap
        while heap and heap[0][0] != heap[0][2].wake_at:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def pop(self, now: float) -> QuicLink | None:
        """Take a link that is to be woken by now; None if there is no more."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, _, link = heapq.heappop(heap)
            if at == link.wake_at:
                link.wake_at = NEVER
                return link
        return None
