"""Which news to tell next: the queue behind SWIM's piggybacked dissemination (SWIM, section 4.1).

The rules of this file:

* At most one update per subject is queued, the newest; a newer one starts counting from zero.
* An update is sent at most ``max(8, multiplier * ceil(log10(N + 1)))`` times by one node and is then dropped
  (memberlist's formula, with a floor, because at N < 10 its 4 leave tails of seconds at 30 % loss). What is lost on the
  way is sent again: the limit is divided by the share of datagrams that arrive, as measured. Of N nodes ``exp(-limit)``
  miss an update, so at 30 % loss it would otherwise be one in five thousand.
* What was sent least goes first, the older before the newer; what is about the receiver goes before everything.
* An update leaves with its age: how long ago it was first said, as far as nodes have held it.
* A refresh is no news: it waits for a probe or an answer to ride on, and one node passes it on six times at most. So
  all of them together cost a bounded share of what travels anyway.
"""

from __future__ import annotations

import math
from collections.abc import Container

from .messages import AGE_BYTES, REFRESH_BYTES, SMALLEST_UPDATE_BYTES, encode_age

__all__ = ["GossipQueue", "RefreshQueue", "transmit_limit"]

_MIN_TRANSMISSIONS = 8
_REFRESH_TRANSMISSIONS = 6
_MAX_REFRESHES = 512
_REFRESHES_PER_DATAGRAM = 16


def transmit_limit(multiplier: int, n_members: int) -> int:
    """Return how often one node sends one update in a cluster of ``n_members``."""
    return max(_MIN_TRANSMISSIONS, multiplier * math.ceil(math.log10(n_members + 1)))


class GossipQueue:
    """Encoded updates that wait to be told to others.

    Args:
        multiplier: factor of the transmit limit.
        max_subjects: updates held at most; beyond that the one sent most often goes.
    """

    def __init__(self, *, multiplier: int, max_subjects: int) -> None:
        self._multiplier = multiplier
        self._max_subjects = max_subjects
        self.loss = 0.0
        """The probability that a datagram is lost, 0.5 at most."""
        self._sent: dict[str, int] = {}
        self._levels: list[dict[str, tuple[bytes, float]]] = [{}]

    def __len__(self) -> int:
        return len(self._sent)

    def __contains__(self, subject: object) -> bool:
        return subject in self._sent

    def transmit_limit(self, n_members: int) -> int:
        """Return how often one update is sent in a cluster of ``n_members``."""
        return round(transmit_limit(self._multiplier, n_members) / (1.0 - self.loss))

    def put(self, subject: str, update: bytes, born: float) -> None:
        """Queue the newest update about ``subject``, first said at ``born``; an older one about it is forgotten."""
        self.discard(subject)
        if len(self._sent) >= self._max_subjects:
            self._drop_most_sent()
        self._sent[subject] = 0
        self._levels[0][subject] = (update, born)

    def discard(self, subject: str) -> None:
        """Forget what is queued about ``subject``, if anything."""
        level = self._sent.pop(subject, None)
        if level is not None:
            del self._levels[level][subject]

    def take(
        self,
        budget_bytes: int,
        n_members: int,
        first_about: str | None = None,
        *,
        now: float,
        without: Container[str] = (),
    ) -> list[bytes]:
        """Return updates with their ages, of at most ``budget_bytes`` together, and count each as sent once.

        Args:
            budget_bytes: room in the datagram.
            n_members: the cluster's size, for the transmit limit.
            first_about: id of the receiver: an update about it goes first, so that it can refute.
            now: Trio time, for the ages.
            without: subjects to leave out, because the datagram says it already.
        """
        if not self._sent:
            return []
        limit = self.transmit_limit(n_members)
        self._drop_spent(limit)
        chosen: list[str] = []
        taken: list[bytes] = []
        if first_about is not None and first_about in self._sent and first_about not in without:
            budget_bytes = self._pick(first_about, budget_bytes, chosen, taken, now)
        for level in self._levels:
            for subject in level:
                if budget_bytes < SMALLEST_UPDATE_BYTES:
                    break
                if subject != first_about and subject not in without:
                    budget_bytes = self._pick(subject, budget_bytes, chosen, taken, now)
        for subject in chosen:
            self._count(subject, limit)
        return taken

    def _pick(self, subject: str, budget_bytes: int, chosen: list[str], taken: list[bytes], now: float) -> int:
        update, born = self._levels[self._sent[subject]][subject]
        size = AGE_BYTES + len(update)
        if size > budget_bytes:
            return budget_bytes
        chosen.append(subject)
        taken.append(encode_age(now - born) + update)
        return budget_bytes - size

    def _count(self, subject: str, limit: int) -> None:
        sent = self._sent[subject]
        update = self._levels[sent].pop(subject)
        if sent + 1 >= limit:
            del self._sent[subject]
            return
        if sent + 1 == len(self._levels):
            self._levels.append({})
        self._levels[sent + 1][subject] = update
        self._sent[subject] = sent + 1

    def _drop_spent(self, limit: int) -> None:
        for level in self._levels[limit:]:
            for subject in tuple(level):
                self.discard(subject)

    def _drop_most_sent(self) -> None:
        for level in reversed(self._levels):
            if level:
                self.discard(next(iter(level)))
                return


class RefreshQueue:
    """Encoded refreshes that wait for a ride; of each node the newest."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[bytes, float, int]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, subject: str, refresh: bytes, born: float) -> None:
        """Queue a node's newest refresh, first said at ``born``; the oldest goes when there are too many."""
        self._waiting.pop(subject, None)
        self._waiting[subject] = (refresh, born, 0)
        if len(self._waiting) > _MAX_REFRESHES:
            del self._waiting[next(iter(self._waiting))]

    def take(self, budget_bytes: int, now: float) -> list[bytes]:
        """Return refreshes with their ages, the least sent first, and count each as sent once."""
        if not self._waiting or budget_bytes < REFRESH_BYTES:
            return []
        fitting = min(budget_bytes // REFRESH_BYTES, _REFRESHES_PER_DATAGRAM)
        chosen = sorted(self._waiting.items(), key=lambda item: item[1][2])[:fitting]
        for subject, (refresh, born, sent) in chosen:
            if sent + 1 < _REFRESH_TRANSMISSIONS:
                self._waiting[subject] = (refresh, born, sent + 1)
            else:
                del self._waiting[subject]
        return [encode_age(now - born) + refresh for _, (refresh, born, _) in chosen]
