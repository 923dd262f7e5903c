"""Whom to probe next, and how one probe cycle goes (SWIM, section 4.3; retransmission instead of one fixed timeout).

The rules of this file:

* Probing is round robin over a shuffled list that is shuffled again after each pass; who is new is put in at a random
  place. So no node waits longer than ``2N - 1`` periods, and who is probed when cannot be foreseen.
* A cycle of period T pings at ``0, r, 3r, 7r, 15r, 31r``, ``r`` being the time within which nine answers in ten
  arrive (5 ms to T/8), but not after T/2. With the third and the fifth ping other nodes are asked to ping too.
* It fails when the answer to the last ping is overdue by as much again, not before 0.4 T and not after T.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs

from .phi import Trial

if TYPE_CHECKING:
    import random

__all__ = ["HELPER_PINGS", "Cycle", "ProbeRing", "schedule"]

HELPER_PINGS = 3
"""How often a helper pings the target."""

_MAX_ATTEMPTS = 6
_SHORTEST_STEP = 0.005
_EARLIEST_END = 0.4
_ASK_HELPERS_AT = (2, 4)


class ProbeRing:
    """The nodes to probe, in an order that nobody can foresee and that leaves nobody out."""

    def __init__(self) -> None:
        self._order: list[str] = []
        self._members: dict[str, None] = {}
        self._cursor = 0

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def insert(self, node_id: str, rng: random.Random) -> None:
        """Put in a node at a random place; one that is there already stays where it is."""
        if node_id in self._members:
            return
        position = rng.randint(0, len(self._order))
        self._order.insert(position, node_id)
        self._members[node_id] = None
        if position < self._cursor:
            self._cursor += 1

    def remove(self, node_id: str) -> None:
        """Take out a node, if it is there."""
        if node_id not in self._members:
            return
        position = self._order.index(node_id)
        del self._order[position]
        del self._members[node_id]
        if position < self._cursor:
            self._cursor -= 1

    def next(self, rng: random.Random) -> str | None:
        """Return the node whose turn it is; None when there is none."""
        if self._cursor >= len(self._order):
            rng.shuffle(self._order)
            self._cursor = 0
        if not self._order:
            return None
        self._cursor += 1
        return self._order[self._cursor - 1]


def schedule(q90: float, period: float) -> tuple[tuple[float, ...], float]:
    """Return the offsets of a cycle's pings and of its end, in seconds."""
    step = min(max(q90, _SHORTEST_STEP), period / 8)
    slots = [step * (2**k - 1) for k in range(_MAX_ATTEMPTS + 1)]
    offsets = tuple(slot for slot in slots[:_MAX_ATTEMPTS] if slot <= period / 2)
    return offsets, min(max(slots[len(offsets)], _EARLIEST_END * period), period)


@attrs.define(eq=False)
class Cycle:
    """One attempt to hear from one node, with all its pings."""

    node_id: str
    boot_id: int
    started_at: float
    """When the first ping is due."""
    offsets: tuple[float, ...]
    """When the pings are due, from the start."""
    length: float
    """When it fails, from the start."""
    silence: float = 1.0
    """How probable the silence of the cycles just before this one is."""
    repeats: int = 0
    """How many cycles just before this one failed without saying enough."""
    seqs: list[int] = attrs.field(factory=list)
    """The numbers of the pings sent."""
    trials: list[Trial] = attrs.field(factory=list)
    """The ways in which an answer could have come."""

    @property
    def next_at(self) -> float:
        """When the next ping, or the end, is due."""
        sent = len(self.seqs)
        return self.started_at + (self.offsets[sent] if sent < len(self.offsets) else self.length)

    @property
    def ends_at(self) -> float:
        """When it fails."""
        return self.started_at + self.length

    @property
    def is_exhausted(self) -> bool:
        """Whether all pings have been sent."""
        return len(self.seqs) == len(self.offsets)

    @property
    def asks_helpers(self) -> bool:
        """Whether the next ping goes with requests to helpers."""
        return len(self.seqs) in _ASK_HELPERS_AT
