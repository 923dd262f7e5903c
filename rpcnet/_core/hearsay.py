"""News about unknown nodes that may be old: what is believed, and how the rest is checked.

The rules of this file:

* That a node lives is news for whoever does not list it. It is believed when it is fresh: gossip while it spreads, what
  is said in an exchange as long as whoever says so has known the node to live lately. Old news about a node that
  has gone would bring it back; an old record in one node's memory would bring it back again and again.
* What is not believed waits, is listed nowhere and passed on to nobody. The node itself is asked: three pings, further
  and further apart. Its answer settles it; silence lets the record be forgotten.
* The table is bounded: beyond that, what is old is ignored. A later exchange will bring it up again.
"""

from __future__ import annotations

import attrs

from .members import MemberRecord, supersedes
from .relays import FIRST_CHECK_SEQ

__all__ = ["Check", "CheckTable"]

_MAX_CHECKS = 1024
_PAUSES = (1.0, 5.0, 25.0)
_PER_TURN = 8


@attrs.define(eq=False)
class Check:
    """One record that waits for its owner's word."""

    record: MemberRecord
    seq: int
    due_at: float
    """When to ask again, or to forget it."""
    asked: int = 0
    """How many pings have been sent."""


class CheckTable:
    """The records that are not believed yet."""

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._checks)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._checks

    def add(self, record: MemberRecord, now: float) -> None:
        """Take in a record; of two about one node the newer one stays."""
        known = self._checks.get(record.id)
        if known is not None:
            if supersedes(record, known.record):
                known.record = record
        elif len(self._checks) < _MAX_CHECKS:
            seq = FIRST_CHECK_SEQ | (self._count & 0x3FFF_FFFF)
            self._count += 1
            self._checks[record.id] = Check(record, seq, now)

    def settle(self, node_id: str) -> MemberRecord | None:
        """Take out the record of a node that has spoken for itself."""
        check = self._checks.pop(node_id, None)
        return None if check is None else check.record

    def next_timer(self) -> float | None:
        """Return when :meth:`due` has something to do."""
        return min(check.due_at for check in self._checks.values()) if self._checks else None

    def due(self, now: float) -> list[Check]:
        """Return what is to be asked about now, a few at a time, and forget what was asked about often enough."""
        asking: list[Check] = []
        for check in list(self._checks.values()):
            if check.due_at > now or len(asking) == _PER_TURN:
                continue
            if check.asked == len(_PAUSES):
                del self._checks[check.record.id]
                continue
            check.due_at = now + _PAUSES[check.asked]
            check.asked += 1
            asking.append(check)
        return asking
