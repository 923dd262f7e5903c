"""Which user events and questions to tell next.

The rules of this file:

* One string is sent by one node as often as one update is (``gossip.py``), and is then dropped.
* What was sent least goes first, the older before the newer; what does not fit leaves its place to what does.
* When there are too many, the one sent most often goes, of those the oldest, and is counted. What this node itself has
  to say is bounded before it gets here, by waiting.
* What has a deadline leaves with what is left of its time, and not at all when nothing is.
"""

from __future__ import annotations

from typing import Literal

import attrs

from .gossip import transmit_limit
from .user_messages import Identity, with_remaining

__all__ = ["STRING_OVERHEAD", "Key", "UserQueue", "Waiting"]

Key = tuple[Literal["event", "question"], Identity]
"""What a string is; events and questions are numbered apart."""

STRING_OVERHEAD = 2
"""The length in front of a string in a datagram."""

_MAX_STRINGS = 255  # their number travels in one byte


@attrs.frozen
class Waiting:
    """One string that waits to be told."""

    data: bytes
    deadline: float | None = None
    """Trio time after which telling it is of no use; in the string it is what is left of its time."""
    is_own: bool = False
    """Whether this node is its source."""


class UserQueue:
    """Strings that wait to be told to others.

    Args:
        multiplier: factor of the transmit limit.
        size: how many strings may wait.
    """

    def __init__(self, *, multiplier: int, size: int) -> None:
        self._multiplier = multiplier
        self._size = size
        self._sent: dict[Key, int] = {}
        self._levels: list[dict[Key, Waiting]] = [{}]
        self._own: tuple[tuple[Key, Waiting], ...] | None = ()
        self.dropped = 0
        """Strings that were dropped because there were too many."""
        self.n_own = 0
        """Strings of this node that wait."""

    def __len__(self) -> int:
        return len(self._sent)

    def __contains__(self, key: object) -> bool:
        return key in self._sent

    def own(self) -> tuple[tuple[Key, Waiting], ...]:
        """Return what this node itself has to say; the same object until that changes."""
        if self._own is None:
            self._own = tuple((key, text) for level in self._levels for key, text in level.items() if text.is_own)
        return self._own

    @property
    def next_bytes(self) -> int:
        """How much room the string that is next takes in a datagram; 0 when none waits."""
        first = next((waiting for level in self._levels for waiting in level.values()), None)
        return 0 if first is None else len(first.data) + STRING_OVERHEAD

    def put(self, key: Key, waiting: Waiting) -> None:
        """Queue a string."""
        self.discard(key)
        if len(self._sent) >= self._size:
            self._drop_most_sent()
        self._sent[key] = 0
        self._levels[0][key] = waiting
        if waiting.is_own:
            self.n_own, self._own = self.n_own + 1, None

    def discard(self, key: Key) -> None:
        """Forget a string, if it waits."""
        level = self._sent.pop(key, None)
        if level is not None and self._levels[level].pop(key).is_own:
            self.n_own, self._own = self.n_own - 1, None

    def discard_own(self) -> None:
        """Forget what this node itself has to say."""
        for key, _ in self.own():
            self.discard(key)

    def take(self, budget_bytes: int, n_members: int, now: float) -> list[bytes]:
        """Return strings that take at most ``budget_bytes`` with the length of each, and count each as sent once."""
        if not self._sent:
            return []
        limit = transmit_limit(self._multiplier, n_members)
        chosen: list[Key] = []
        gone: list[Key] = []
        taken: list[bytes] = []
        for sent, level in enumerate(self._levels):
            for key, waiting in level.items():
                if sent >= limit or (waiting.deadline is not None and waiting.deadline <= now):
                    gone.append(key)
                elif len(waiting.data) + STRING_OVERHEAD <= budget_bytes and len(taken) < _MAX_STRINGS:
                    budget_bytes -= len(waiting.data) + STRING_OVERHEAD
                    chosen.append(key)
                    taken.append(_leaving(waiting, now))
        for key in gone:
            self.discard(key)
        for key in chosen:
            self._count(key, limit)
        return taken

    def _count(self, key: Key, limit: int) -> None:
        sent = self._sent[key] + 1
        if sent >= limit:
            self.discard(key)
            return
        if sent == len(self._levels):
            self._levels.append({})
        self._levels[sent][key] = self._levels[sent - 1].pop(key)
        self._sent[key] = sent

    def _drop_most_sent(self) -> None:
        for level in reversed(self._levels):
            if level:
                self.dropped += 1
                self.discard(next(iter(level)))
                return


def _leaving(waiting: Waiting, now: float) -> bytes:
    return waiting.data if waiting.deadline is None else with_remaining(waiting.data, waiting.deadline - now)
