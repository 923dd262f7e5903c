"""Filling datagrams: what rides on a head that is sent anyway, and in which shares.

The rules of this file:

* First comes what the datagram is for, then news, then refreshes (on probes and answers only), never above
  ``MAX_PAYLOAD_BYTES`` in all.
* User data that waits has a claim to a quarter of every datagram. A string that is larger than that saves its claims
  up, so it goes with one of the next datagrams; when there is no news, it may have all the room.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .effects import SendDatagram
from .gossip import GossipQueue, RefreshQueue
from .messages import (
    MAX_PAYLOAD_BYTES,
    Ack,
    Head,
    Ping,
    Update,
    encode_age,
    encode_datagram,
    encode_head,
    encode_update,
)
from .roster import Roster

__all__ = ["Composer", "UserData"]

_USER_SHARE = 4
_COUNTS = 3


class UserData(Protocol):
    """Strings of user data that wait to be told."""

    def __len__(self) -> int:
        """Return how many strings wait."""
        ...

    @property
    def next_bytes(self) -> int:
        """How much room the string that is next takes; 0 when none waits."""
        ...

    def take(self, budget_bytes: int, n_members: int, now: float) -> list[bytes]:
        """Return strings of at most ``budget_bytes`` together, two bytes more for each, and count them as sent."""
        ...


class Composer:
    """Makes the datagrams of one node.

    Args:
        roster: for the cluster's size.
        queue: the news.
        refreshes: the signs of life.
        user: the user data, if there may be some.
    """

    def __init__(self, roster: Roster, queue: GossipQueue, refreshes: RefreshQueue, user: UserData | None) -> None:
        self._roster = roster
        self._queue = queue
        self._refreshes = refreshes
        self._user = user
        self._claim = 0

    def send(
        self,
        address: str,
        head: Head | None,
        now: float,
        *,
        about: str | None = None,
        first: Sequence[Update] = (),
        private: Sequence[bytes] = (),
    ) -> SendDatagram:
        """Make a datagram.

        Args:
            address: to whom.
            head: what it asks or answers.
            now: Trio time.
            about: the receiver's id: news about it goes first, so that it can refute.
            first: updates that must be in it.
            private: strings of user data for this receiver alone, which must be in it.
        """
        start = encode_head(head)
        updates = [encode_age(update.age) + encode_update(update.record, update.accusations) for update in first]
        room = MAX_PAYLOAD_BYTES - len(start) - _COUNTS - sum(map(len, updates)) - sum(len(s) + 2 for s in private)
        user, used = self._take_user(room, now)
        room -= used
        said = [update.record.id for update in first]
        news = self._queue.take(room, self._roster.n_present, about, now=now, without=said)
        room -= sum(map(len, news))
        refreshes = self._refreshes.take(room, now) if isinstance(head, Ping | Ack) else []
        return SendDatagram(address, encode_datagram(start, updates + news, refreshes, [*private, *user]))

    def _take_user(self, room: int, now: float) -> tuple[list[bytes], int]:
        if self._user is None or not len(self._user):
            self._claim = 0
            return [], 0
        self._claim = min(self._claim + room // _USER_SHARE, MAX_PAYLOAD_BYTES)
        budget = min(self._claim, room) if len(self._queue) else room
        if self._user.next_bytes > budget:
            return [], 0
        strings = self._user.take(budget, self._roster.n_present, now)
        used = sum(len(text) + 2 for text in strings)
        self._claim = max(self._claim - used, 0)
        return strings, used
