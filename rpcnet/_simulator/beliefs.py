"""Who believed what of whom, and since when: the record of a run, and questions to it.

The rules of this file:

* Only changes are recorded, as numbers in arrays: a run of a thousand nodes has a few million of them at most.
* A node that starts anew forgets what it believed; so does the record.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator

import attrs

from rpcnet.events import NodeState

__all__ = ["ALIVE", "CODES", "FAILED", "LEFT", "SUSPECT", "UNKNOWN", "BeliefLog", "Change"]

UNKNOWN, ALIVE, SUSPECT, FAILED, LEFT = range(5)
_FORGETS = 255

CODES = {NodeState.ALIVE: ALIVE, NodeState.SUSPECT: SUSPECT, NodeState.FAILED: FAILED, NodeState.LEFT: LEFT}


@attrs.frozen
class Change:
    """One change of mind."""

    at: float
    observer: int
    subject: int
    state: int
    boot_id: int

    @property
    def forgets(self) -> bool:
        """Whether the observer starts anew, knowing nobody."""
        return self.state == _FORGETS


class BeliefLog:
    """All changes of a run, in order.

    Args:
        n_nodes: how many nodes there are.
        converged: whether they all believe each other alive at the beginning.
    """

    def __init__(self, n_nodes: int, *, converged: bool) -> None:
        self.n_nodes = n_nodes
        self.converged = converged
        self._at = array("d")
        self._observers = array("l")
        self._subjects = array("l")
        self._states = array("B")
        self._boots = array("q")

    def __len__(self) -> int:
        return len(self._at)

    def add(self, at: float, observer: int, subject: int, state: int, boot_id: int) -> None:
        """Record that an observer believes something else of a subject now."""
        self._at.append(at)
        self._observers.append(observer)
        self._subjects.append(subject)
        self._states.append(state)
        self._boots.append(boot_id)

    def forget(self, at: float, observer: int) -> None:
        """Record that an observer starts anew."""
        self.add(at, observer, observer, _FORGETS, 0)

    def changes(self) -> Iterator[Change]:
        """Return all changes, in order."""
        return map(Change, self._at, self._observers, self._subjects, self._states, self._boots)

    def since(self, subject: int, states: tuple[int, ...], *, after: float) -> dict[int, float]:
        """Return since when each observer believes, at the end, that ``subject`` is in one of ``states``."""
        found: dict[int, float] = {}
        for change in self.changes():
            if change.forgets:
                found.pop(change.observer, None)
            elif change.subject == subject and change.at >= after:
                if change.state in states:
                    found.setdefault(change.observer, change.at)
                else:
                    found.pop(change.observer, None)
        return found

    def first_moment(
        self,
        wanted: Callable[[int, int], bool],
        holds: Callable[[Change], bool],
        *,
        after: float,
        initially: bool,
    ) -> float | None:
        """Return the first moment from ``after`` on at which something holds of all wanted pairs; None if never.

        Args:
            wanted: tells of an observer and a subject whether the pair counts.
            holds: tells of a change whether it holds of its pair from then on.
            after: seconds.
            initially: whether it holds of all pairs at the beginning.
        """
        n = self.n_nodes
        relevant = bytearray(o != s and wanted(o, s) for o in range(n) for s in range(n))
        holding = bytearray(relevant) if initially else bytearray(n * n)
        missing = 0 if initially else sum(relevant)
        for change in self.changes():
            if change.at > after and not missing:
                return after
            if change.forgets:
                missing += sum(holding[change.observer * n : (change.observer + 1) * n])
                holding[change.observer * n : (change.observer + 1) * n] = bytes(n)
                continue
            pair = change.observer * n + change.subject
            if relevant[pair]:
                now_holds = holds(change)
                missing += holding[pair] - now_holds
                holding[pair] = now_holds
                if not missing and change.at >= after:
                    return change.at
        return after if not missing else None
