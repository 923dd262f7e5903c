"""What the strategies decide: whether the side that one node sees may go on.

The rules of this file:

* Who votes are the members of the last stable point. Two nodes that had the same members then cannot both be told yes
  by ``KeepMajority`` or ``KeepOldest`` for sides that have no node in common: each yes needs more than half of the
  members, or the one half with the lowest id, or the oldest member in company, or all but the oldest.
* A member that said goodbye is taken from the count by those who heard it. That cannot give both sides a majority:
  who goes away takes a vote from its own side and half a vote from what is needed.
* ``StaticQuorum`` counts whoever is there, members of the last stable point or not: its number is the safeguard.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import attrs

from rpcnet.quorum import KeepMajority, KeepOldest, LeaseQuorum, QuorumStrategy, StaticQuorum

__all__ = ["Side", "decide"]


@attrs.frozen
class Side:
    """What a strategy decides on."""

    voters: Mapping[str, int]
    """The boot ids of the members of the last stable point, by node id."""
    lost: Collection[str]
    """Which of them are not on this side."""
    n_matching: int
    """How many nodes on this side a static quorum counts, those that joined since included."""
    has_lease: bool | None = None
    """What the lease says; None while that is not known."""

    @property
    def n_kept(self) -> int:
        """How many voters are on this side."""
        return len(self.voters) - len(self.lost)


def decide(strategy: QuorumStrategy | None, side: Side) -> bool | None:
    """Return whether this side may go on; None when the strategy cannot tell."""
    match strategy:
        case KeepMajority():
            return _has_majority(side)
        case StaticQuorum():
            return side.n_matching >= strategy.n
        case KeepOldest():
            return _has_oldest(strategy, side)
        case LeaseQuorum():
            return side.has_lease if side.lost else True
        case _:
            return None if side.n_kept * 2 == len(side.voters) else side.n_kept * 2 > len(side.voters)


def _has_majority(side: Side) -> bool:
    if side.n_kept * 2 == len(side.voters):
        return min(side.voters) not in side.lost
    return side.n_kept * 2 > len(side.voters)


def _has_oldest(strategy: KeepOldest, side: Side) -> bool:
    if not side.lost:
        return True
    oldest = min(side.voters, key=lambda node_id: (side.voters[node_id], node_id))
    may_give_way = strategy.down_if_alone and len(side.voters) > 2
    if oldest in side.lost:
        return may_give_way and len(side.lost) == 1
    return side.n_kept > 1 or not may_give_way
