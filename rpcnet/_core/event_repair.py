"""Own events that somebody may have missed: kept for a while, and sent to who asks for them.

The rules of this file:

* The last events of this process are kept, in a bounded number. Older ones are lost to whoever missed them.
* Whoever has a gap asks the sender. What is sent for that is bounded in each gossip interval, however many ask.
"""

from __future__ import annotations

from collections.abc import Sequence

from .user_messages import Missing, Send

__all__ = ["EventRepair"]

_KEPT = 256
_PER_INTERVAL = 64


class EventRepair:
    """The last events of this node.

    Args:
        interval: seconds for which the bound of what is sent holds.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._kept: dict[int, bytes] = {}
        self._began = 0.0
        self._n_sent = 0

    def keep(self, number: int, data: bytes) -> None:
        """Keep an event that was published; the oldest goes when there are too many."""
        self._kept[number] = data
        if len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]

    def repair(self, missing: Missing, source: str, now: float) -> Sequence[Send]:
        """Send what somebody misses, as far as it is kept."""
        if now >= self._began + self._interval:
            self._began, self._n_sent = now, 0
        first = missing.identity.number
        found = [self._kept[number] for number in range(first, first + missing.count) if number in self._kept]
        found = found[: _PER_INTERVAL - self._n_sent]
        self._n_sent += len(found)
        return [Send(missing.node, source, data) for data in found]
