"""An alarm: one timer for one machine."""

from __future__ import annotations

from collections.abc import Callable

import trio
from trio.lowlevel import enable_ki_protection

__all__ = ["Alarm"]

_NEVER = float("inf")
_SLACK = 0.0005


class Alarm:
    """Calls ``fire(now)`` whenever ``due()`` says so, without polling.

    Args:
        due: when the machine wants to be called, in Trio time; None for not at all.
        fire: what to call then; it must not await.
    """

    def __init__(self, due: Callable[[], float | None], fire: Callable[[float], None]) -> None:
        self._due = due
        self._fire = fire
        self._scope: trio.CancelScope | None = None
        self._at = _NEVER

    def rearm(self) -> None:
        """Look again when the machine is due; to be called after everything that may have made that earlier.

        An alarm that is set to within half a millisecond of the new time stays as it is.
        """
        at = self._due()
        if at is not None and at < self._at - _SLACK:
            self._at = at
            if self._scope is not None:
                self._scope.deadline = at

    @enable_ki_protection
    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            at = self._due()
            self._at = _NEVER if at is None else at
            with trio.CancelScope(deadline=self._at) as self._scope:
                await trio.sleep_forever()
            self._scope = None
            self._at = _NEVER
            self._fire(trio.current_time())
