"""Handlers that block the event loop: noticed, named and logged.

The rules of this file:

* Whoever runs handlers measures. Handlers that run one after the other are measured together, which costs two looks at
  the clock however many they are. Only when that took too long, each is measured by itself, for ``_ARMED_FOR`` seconds.
* A step of a handler that had suspended is measured by itself: a turn of the scheduler costs far more.
* One line of log per method and minute at most; who asked for it is told each time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import attrs

__all__ = ["LoopWatch"]

log = logging.getLogger("rpcnet.rpc")
_ARMED_FOR = 60.0
_QUIET_FOR = 60.0
_SOMEBODY = "one of several handlers, each of which is measured from now on,"
_NEVER = -float("inf")


@attrs.define(eq=False)
class LoopWatch:
    """Notices handlers that keep the event loop busy."""

    limit: float
    """Seconds above which a step is too long."""
    clock: Callable[[], float] = time.perf_counter
    """A clock that is cheap to read."""
    on_blocked: Callable[[float, str | None], None] | None = None
    """Told each time for how many seconds, and by which method when that is known."""
    _armed_until: float = _NEVER
    _reported: dict[str, float] = attrs.field(factory=dict)
    _unreported: dict[str, int] = attrs.field(factory=dict)

    def is_armed(self, now: float) -> bool:
        """Return whether each handler is to be measured by itself."""
        return now < self._armed_until

    def on_burst(self, count: int, last: str, begun: float) -> None:
        """Take note that handlers have run one after the other; they were measured together.

        Args:
            count: how many.
            last: the name of the last one's method.
            begun: when the first one began.
        """
        now = self.clock()
        if now - begun <= self.limit:
            return
        if not self.is_armed(begun):
            self._report(last if count == 1 else _SOMEBODY, now - begun, now)
        self._armed_until = now + _ARMED_FOR

    def on_step(self, name: str, begun: float) -> None:
        """Take note that one handler has run for a while."""
        now = self.clock()
        if now - begun > self.limit:
            self._report(name, now - begun, now)

    def _report(self, who: str, seconds: float, now: float) -> None:
        if self.on_blocked is not None:
            self.on_blocked(seconds, None if who is _SOMEBODY else who)
        if now - self._reported.get(who, _NEVER) < _QUIET_FOR:
            self._unreported[who] = self._unreported.get(who, 0) + 1
            return
        self._reported[who] = now
        more = self._unreported.pop(who, 0)
        again = f", and {more} times more since the last warning" if more else ""
        log.warning("%s blocked the event loop for %.2f s%s; a plain def runs in a thread", who, seconds, again)
