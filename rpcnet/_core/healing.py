"""Finding back: whom a node tries to reach again, for ever, while nodes are missing.

The rules of this file:

* Every ``heal_interval``, jittered, a seed and a node that failed are tried with an exchange. The more nodes failed,
  compared with those present, the likelier; a node that is alone, cut off, or sees less than half of the most it ever
  saw, always tries. One success is enough: the exchange tells both sides everything.
* A seed at whose address no member is present may be the door to another part of the cluster that this one has never
  seen. All nodes together try such seeds about once per interval.
* Seeds are what was given at the start and by ``join``, and what seed sources say now; they are bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .roster import Roster

if TYPE_CHECKING:
    import random

__all__ = ["Healing"]

_MAX_SEEDS = 64
_JITTER = 0.2


class Healing:
    """Decides whom to try again, and when.

    Args:
        seeds: addresses that were given.
        interval: seconds between tries.
        rng: where chance comes from.
        now: Trio time.
    """

    def __init__(self, seeds: Sequence[str], interval: float, rng: random.Random, now: float) -> None:
        self._given = list(dict.fromkeys(seeds))[:_MAX_SEEDS]
        self._resolved: list[str] = []
        self._interval = interval
        self._rng = rng
        self.at = now
        """When the next try is due."""
        self.is_urgent = False
        """Whether the next try is made whatever the numbers say."""
        self.postpone(now)

    def remember(self, addresses: Sequence[str]) -> None:
        """Add addresses that were joined by hand, in front."""
        self._given = list(dict.fromkeys((*addresses, *self._given)))[:_MAX_SEEDS]

    def resolve(self, addresses: Sequence[str]) -> None:
        """Replace what the seed sources said before."""
        self._resolved = list(dict.fromkeys(addresses))[:_MAX_SEEDS]

    def postpone(self, now: float) -> None:
        """Let one interval pass from now on."""
        self.at = now + self._interval * self._rng.uniform(1 - _JITTER, 1 + _JITTER)

    def hasten(self, now: float) -> None:
        """Try now."""
        self.at = now
        self.is_urgent = True

    def choose(self, roster: Roster, now: float) -> list[str]:
        """Return the addresses to try now, if any."""
        self.postpone(now)
        own = roster.local.address
        seeds = [seed for seed in dict.fromkeys((*self._given, *self._resolved)) if seed != own]
        must = self.is_urgent or roster.n_present == 1 or roster.n_present * 2 < roster.high_water
        self.is_urgent = False
        if must or self._rng.random() < roster.n_failed / roster.n_present:
            groups = [seeds, [record.address for record in roster.failed()]]
        elif seeds and self._rng.random() < 1 / roster.n_present:
            present = {member.record.address for member in roster.members() if member.record.is_present}
            groups = [[seed for seed in seeds if seed not in present]]
        else:
            return []
        return [self._rng.choice(group) for group in groups if group]
