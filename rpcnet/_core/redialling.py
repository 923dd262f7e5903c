"""Redialling: when an address that could not be reached is dialled again.

The rules of this file:

* An address is unreachable from the dial that failed to the dial that works. After each failure it is left alone for a
  while, which doubles from ``reconnect_min`` to ``reconnect_max``. A random part of up to half is taken off, so that
  those who lost the same server do not all come back at once.
* Only failed dials count. A connection that worked and was lost is dialled again at once.
* What is remembered is bounded; the address that failed longest ago is forgotten first, and may then be dialled.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import attrs

from rpcnet.errors import RpcNetError

if TYPE_CHECKING:
    from random import Random

__all__ = ["DialKey", "Redialling"]

DialKey = tuple[str, str | None]
"""An address and the name of who must answer there; None for anybody."""

_MAX_REMEMBERED = 4096
_MAX_DOUBLINGS = 32


@attrs.define(eq=False)
class _Failure:
    """What is known of an address that could not be reached."""

    count: int
    again_at: float
    error: RpcNetError


class Redialling:
    """Remembers which addresses could not be reached.

    Args:
        shortest: seconds for which an address is left alone after its first failure, at most.
        longest: the seconds that this grows to.
        rng: where the jitter comes from.
    """

    def __init__(self, shortest: float, longest: float, rng: Random) -> None:
        self._shortest = shortest
        self._longest = longest
        self._rng = rng
        self._failures: dict[DialKey, _Failure] = {}
        self.unreachable: Collection[DialKey] = self._failures
        """The addresses whose last dial failed, as they are at any time; most of the time there is none."""

    def pause(self, key: DialKey, now: float) -> float:
        """Return for how many seconds more an address is left alone; 0 if it may be dialled."""
        failure = self._failures.get(key)
        return 0.0 if failure is None else max(0.0, failure.again_at - now)

    def failures(self, key: DialKey) -> int:
        """Return how many dials of an address have failed in a row."""
        failure = self._failures.get(key)
        return 0 if failure is None else failure.count

    def error(self, key: DialKey) -> RpcNetError | None:
        """Return why the last dial of an address failed; None if it did not."""
        failure = self._failures.get(key)
        return None if failure is None else failure.error

    def failed(self, key: DialKey, error: RpcNetError, now: float) -> None:
        """Note that a dial failed, and why."""
        before = self._failures.pop(key, None)
        count = 1 if before is None else before.count + 1
        longest = min(self._longest, self._shortest * 2.0 ** min(count - 1, _MAX_DOUBLINGS))
        pause = longest * (0.5 + self._rng.random() / 2)
        self._failures[key] = _Failure(count, now + pause, error)
        if len(self._failures) > _MAX_REMEMBERED:
            del self._failures[next(iter(self._failures))]

    def succeeded(self, key: DialKey) -> None:
        """Note that a dial worked."""
        self._failures.pop(key, None)

    def forget(self, name: str) -> None:
        """Forget every failure to reach whoever has this name, because another one may have it from now on."""
        for key in [key for key in self._failures if key[1] == name]:
            del self._failures[key]
