"""Own events that somebody may have missed: kept for a while, and sent to who asks for them.

The rules of this file:

* The last events of this process are kept, in a bounded number. Older ones are lost to whoever missed them.
* Whoever has a gap asks the sender. What is sent for that is bounded in each gossip interval, however many ask.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from .user_messages import MAX_BEHIND, Missing, Send

__all__ = ["EventRepair", "Kept"]

_MAX_KEPT = 256
_PER_INTERVAL = 64


@attrs.frozen
class Kept:
    """An event that was published."""

    number: int
    at: float
    """When, in Trio time."""
    data: bytes = attrs.field(repr=False)


class EventRepair:
    """The last events of this node.

    Args:
        spread_after: seconds after which an event should have reached everybody.
        interval: seconds for which the bound of what is sent holds.
        known: the last events of an earlier object of this process.
    """

    def __init__(self, *, spread_after: float, interval: float, known: Sequence[Kept]) -> None:
        self._spread_after = spread_after
        self._interval = interval
        self._kept = {kept.number: kept for kept in known}
        self._frozen: tuple[Kept, ...] | None = None
        self._began = 0.0
        self._n_sent = 0

    def kept(self) -> tuple[Kept, ...]:
        """Return the last events, the oldest first; the same object until there is another one."""
        if self._frozen is None:
            self._frozen = tuple(self._kept.values())
        return self._frozen

    def keep(self, kept: Kept) -> None:
        """Keep an event that was published; the oldest goes when there are too many."""
        self._kept[kept.number] = kept
        self._frozen = None
        if len(self._kept) > _MAX_KEPT:
            del self._kept[next(iter(self._kept))]

    def behind(self, number: int, now: float) -> int:
        """Return how far back of ``number`` the oldest event lies that may not have reached everybody."""
        oldest = number
        for kept in reversed(self._kept.values()):
            if kept.at < now - self._spread_after or number - kept.number > MAX_BEHIND:
                break
            oldest = kept.number
        return number - oldest

    def repair(self, missing: Missing, source: str, now: float) -> Sequence[Send]:
        """Send what somebody misses, as far as it is kept."""
        if now >= self._began + self._interval:
            self._began, self._n_sent = now, 0
        first = missing.identity.number
        found = [self._kept[number].data for number in range(first, first + missing.count) if number in self._kept]
        found = found[: _PER_INTERVAL - self._n_sent]
        self._n_sent += len(found)
        return [Send(missing.node, source, data) for data in found]
