"""How one probe cycle goes (SWIM, section 4.1, with retransmission instead of one fixed timeout).

The rules of this file:

* A cycle of period T pings at ``0, r, 3r, 7r, 15r, 31r``, ``r`` being the time within which nine answers in ten
  arrive (T/100 to T/8), but not after T/2.
* With the first ping from the third on that comes after T/10, and with the next one, other nodes are asked to ping too.
  With the last ping, if no helper has had an answer by then, the target is asked over a QUIC connection as well.
  Earlier it would mostly be answers that are a little late, and where a machine has too much to do, helping with those
  would be what keeps it busy.
* When the target's host has said that nobody has the port, the same is asked of helpers once, so that a mere filter on
  one path is found out, and no connection is tried.
* It fails when the answer to the last ping is overdue by as much again, not before 0.4 T and not after T.
* The answer to a helper is as good as any to tell that the target lives. But the pings go on, without helpers, so that
  at the end it is known whether the direct path works.
"""

from __future__ import annotations

import attrs

from .phi import Trial

__all__ = ["ASKING_AFTER", "HELPER_PINGS", "Cycle", "schedule"]

HELPER_PINGS = 3
"""How often a helper pings the target."""

ASKING_AFTER = 0.1
"""The part of a period after which others are asked."""

_SLOTS = (0, 1, 3, 7, 15, 31)
_SHORTEST_STEP = 0.01
_EARLIEST_END = 0.4
_FIRST_ASKING = 2


def schedule(q90: float, period: float) -> tuple[tuple[float, ...], float]:
    """Return the offsets of a cycle's pings and of its end, in seconds."""
    step = min(max(q90, _SHORTEST_STEP * period), period / 8)
    offsets = tuple([step * slot for slot in _SLOTS if step * slot <= period / 2])
    overdue = step * (2 ** len(offsets) - 1)
    return offsets, min(max(overdue, _EARLIEST_END * period), period)


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
    asks_from: float = 0.0
    """From when on others are asked, from the start."""
    silence: float = 1.0
    """How probable the silence of the cycles just before this one is."""
    repeats: int = 0
    """How many cycles just before this one failed without saying enough."""
    seqs: list[int] = attrs.field(factory=list)
    """The numbers of the pings sent."""
    trials: list[Trial] = attrs.field(factory=list)
    """The ways in which an answer could have come."""
    helpers: dict[tuple[int, str], int] | None = None
    """The requests to helpers by number and helper, and which of the trials is theirs; None when nobody was asked."""
    nacks: int = 0
    """How many of them said that they got no answer either."""
    is_refused: bool = False
    """Whether its host said that nobody has its port."""
    is_helped: bool = False
    """Whether a helper got an answer."""
    is_postponed: bool = False
    """Whether its end was put off because this node was late."""

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
    def _first_asking(self) -> int:
        """Which of the pings is the first that goes with questions to others."""
        late = [i for i, offset in enumerate(self.offsets) if i >= _FIRST_ASKING and offset >= self.asks_from]
        return late[0] if late else len(self.offsets) - 1

    @property
    def asks_helpers(self) -> bool:
        """Whether the next ping goes with requests to helpers."""
        turn = len(self.seqs) - self._first_asking
        return (turn == 0 or (turn == 1 and not self.is_refused)) and not self.is_helped

    @property
    def asks_connection(self) -> bool:
        """Whether the next ping goes with a question over a connection."""
        return len(self.seqs) == len(self.offsets) - 1 and not (self.is_refused or self.is_helped)

    @property
    def were_helpers_silent(self) -> bool:
        """Whether nodes were asked to help and none of them said anything."""
        return self.helpers is not None and self.nacks == 0

    def nack(self, seq: int, helper: str, in_vain: float) -> bool:
        """Take in that a helper got no answer; False when it was not asked or has said so before."""
        index = None if self.helpers is None else self.helpers.get((seq, helper))
        if index is None or self.trials[index].hops == 0:
            return False
        self.trials[index] = attrs.evolve(self.trials[index], loss=in_vain, hops=0)
        self.nacks += 1
        return True
