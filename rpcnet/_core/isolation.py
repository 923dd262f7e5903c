"""Whether it is this node that is cut off, and not the others that are gone.

The rules of this file:

* A node is cut off when more than half of its latest cycles to distinct targets failed, of five at least (of all when
  there are fewer, of two in any case), and nobody else accuses a quarter of those.
* From then on it accuses nobody. After four times the patience that a suspicion takes, it gives up those that do not
  answer, for itself alone: all of them if not one answered in the meantime, else those that it tried in vain.
* It ends when enough probes succeed again, or when others turn out to miss the same nodes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["Isolation", "looks_isolated"]

_LEAST_TARGETS = 5
_FEWEST_TARGETS = 2


def looks_isolated(outcomes: Sequence[tuple[str, bool]], accused_by_others: Sequence[str], n_others: int) -> bool:
    """Tell whether a node with these outcomes is cut off itself.

    Args:
        outcomes: target, and whether the latest cycle to it failed.
        accused_by_others: those of the targets that somebody else accuses too.
        n_others: how many other members there are.
    """
    if len(outcomes) < max(_FEWEST_TARGETS, min(_LEAST_TARGETS, n_others)):
        return False
    failed = [target for target, has_failed in outcomes if has_failed]
    supported = [target for target in failed if target in accused_by_others]
    return 2 * len(failed) > len(outcomes) and 4 * len(supported) < len(failed)


class Isolation:
    """The episode of being cut off, if there is one."""

    def __init__(self) -> None:
        self._gives_up_at = math.inf
        self._interval = 0.0
        self._has_answered = False
        self._unreached: dict[str, None] = {}

    @property
    def is_on(self) -> bool:
        """Whether this node is cut off."""
        return self._gives_up_at < math.inf

    @property
    def gives_up_at(self) -> float:
        """When those that do not answer are given up; never while it is not cut off."""
        return self._gives_up_at

    def begin(self, failed: Sequence[str], give_up_after: float, now: float) -> None:
        """Begin an episode."""
        self._interval = give_up_after
        self._gives_up_at = now + give_up_after
        self._has_answered = False
        self._unreached = dict.fromkeys(failed)

    def end(self) -> None:
        """End the episode."""
        self._gives_up_at = math.inf
        self._unreached = {}

    def delay(self, lag: float, now: float, *, is_long: bool) -> None:
        """Let its clock stand still for as long as this node did; start again after a long stop."""
        if self.is_on:
            self._gives_up_at = now + self._interval if is_long else self._gives_up_at + lag

    def note(self, target: str, *, failed: bool) -> None:
        """Take note of how a cycle ended."""
        if not self.is_on:
            return
        if failed:
            self._unreached[target] = None
        else:
            self._has_answered = True
            self._unreached.pop(target, None)

    def forget(self, target: str) -> None:
        """Leave out a target that is no member any more."""
        self._unreached.pop(target, None)

    def give_up(self, members: Sequence[str], now: float) -> list[str]:
        """Return whom to give up now; the next ones after as long again."""
        self._gives_up_at = now + self._interval
        return list(self._unreached) if self._has_answered else list(members)
