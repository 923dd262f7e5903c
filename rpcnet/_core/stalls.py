"""How long this node's event loop stops at times, in a few classes that others can be told.

The rules of this file:

* Measured is how late a regular tick comes: everything that stops the loop counts, be it a handler, the garbage
  collector, a stopped process or a busy machine. A node so knows its own stalls from ten samples a second, where the
  others together would need minutes to find out.
* A class is a lower bound that doubles: 0 below a quarter of a second, then 0.25, 0.5, 1 ... 64.
* It rises at once. It falls at the end of a minute to the longest stall of that minute and the one before, so that
  stalls that come once a minute do not make it swing, and others hear of a fall at most once a minute.
* The application hears once when the class becomes one that others avoid, until it is none again.
"""

from __future__ import annotations

from rpcnet.events import DEGRADED_STALL, ClusterEvent, LocalDegraded

__all__ = ["StallMeter", "StallWatch", "longest_of_class", "stall_class"]

_LEAST = 0.25
_MOST = 64.0
_MINUTE = 60.0
_BLAME_AGE = 1.0


def stall_class(seconds: float) -> float:
    """Return the class of a stall: the largest of 0.25, 0.5, 1 ... 64 that is not above it; 0 for a shorter one."""
    if not seconds >= _LEAST:
        return 0.0
    found = _LEAST
    while found < _MOST and found * 2.0 <= seconds:
        found *= 2.0
    return found


def longest_of_class(stall: float) -> float:
    """Return how long a stall of this class may be: up to where the next class begins."""
    return 2.0 * stall


class StallMeter:
    """The class of this node.

    Args:
        now: Trio time.
    """

    def __init__(self, now: float) -> None:
        self.stall = 0.0
        """The class that others are told."""
        self._longest = 0.0
        self._longest_before = 0.0
        self._minute_at = now + _MINUTE

    def observe(self, lateness: float, now: float) -> bool:
        """Take in by how many seconds a tick was late; return whether the class has changed."""
        if now >= self._minute_at:
            is_next = now < self._minute_at + _MINUTE
            self._longest_before, self._longest = self._longest if is_next else 0.0, 0.0
            self._minute_at = now + _MINUTE
            self._longest = max(lateness, 0.0)
            return self._set(stall_class(max(self._longest, self._longest_before)))
        self._longest = max(self._longest, lateness)
        return self._set(max(self.stall, stall_class(lateness)))

    def _set(self, stall: float) -> bool:
        has_changed = stall != self.stall
        self.stall = stall
        return has_changed


class StallWatch:
    """The class of this node, and what its application is to hear of it.

    Args:
        now: Trio time.
    """

    def __init__(self, now: float) -> None:
        self._meter = StallMeter(now)
        self._is_degraded = False
        self._handler: str | None = None
        self._blamed_at = now

    @property
    def stall(self) -> float:
        """The class that others are told."""
        return self._meter.stall

    def blame(self, handler: str | None, now: float) -> None:
        """Take note of who held the loop just now."""
        self._handler, self._blamed_at = handler, now

    def observe(self, lateness: float, now: float) -> list[ClusterEvent] | None:
        """Take in by how much a tick was late; return what to say besides the new class, None if it is the old one."""
        if not self._meter.observe(lateness, now):
            return None
        was_degraded, self._is_degraded = self._is_degraded, self.stall >= DEGRADED_STALL
        if was_degraded or not self._is_degraded:
            return []
        is_recent = 0.0 <= now - self._blamed_at <= _BLAME_AGE
        return [LocalDegraded(stall=self.stall, handler=self._handler if is_recent else None, at=now)]
