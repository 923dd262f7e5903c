"""Which news to tell next: the queue behind SWIM's piggybacked dissemination (SWIM, section 4.1).

The rules of this file:

* At most one update per subject is queued, the newest; a newer one starts counting from zero.
* An update is sent at most ``max(8, multiplier * ceil(log10(N + 1)))`` times by one node and is then dropped
  (memberlist's formula, with a floor, because at N < 10 its 4 leave tails of seconds at 30 % loss).
* What was sent least goes first, the older before the newer; what is about the receiver goes before everything.
"""

from __future__ import annotations

import math
from collections.abc import Container

__all__ = ["GossipQueue"]

_MIN_TRANSMISSIONS = 8
_SMALLEST_UPDATE = 40


class GossipQueue:
    """Encoded updates that wait to be told to others.

    Args:
        multiplier: factor of the transmit limit.
        max_subjects: updates held at most; beyond that the one sent most often goes.
    """

    def __init__(self, *, multiplier: int, max_subjects: int) -> None:
        self._multiplier = multiplier
        self._max_subjects = max_subjects
        self._sent: dict[str, int] = {}
        self._levels: list[dict[str, bytes]] = [{}]

    def __len__(self) -> int:
        return len(self._sent)

    def __contains__(self, subject: object) -> bool:
        return subject in self._sent

    def transmit_limit(self, n_members: int) -> int:
        """Return how often one update is sent in a cluster of ``n_members``."""
        return max(_MIN_TRANSMISSIONS, self._multiplier * math.ceil(math.log10(n_members + 1)))

    def put(self, subject: str, update: bytes) -> None:
        """Queue the newest update about ``subject``; an older one about it is forgotten."""
        self.discard(subject)
        if len(self._sent) >= self._max_subjects:
            self._drop_most_sent()
        self._sent[subject] = 0
        self._levels[0][subject] = update

    def discard(self, subject: str) -> None:
        """Forget what is queued about ``subject``, if anything."""
        level = self._sent.pop(subject, None)
        if level is not None:
            del self._levels[level][subject]

    def take(
        self, budget_bytes: int, n_members: int, first_about: str | None = None, *, without: Container[str] = ()
    ) -> list[bytes]:
        """Return updates of at most ``budget_bytes`` together, and count each as sent once.

        Args:
            budget_bytes: room in the datagram.
            n_members: the cluster's size, for the transmit limit.
            first_about: id of the receiver: an update about it goes first, so that it can refute.
            without: subjects to leave out, because the datagram says it already.
        """
        limit = self.transmit_limit(n_members)
        self._drop_spent(limit)
        chosen: list[str] = []
        taken: list[bytes] = []
        if first_about is not None and first_about in self._sent and first_about not in without:
            budget_bytes = self._pick(first_about, budget_bytes, chosen, taken)
        for level in self._levels:
            for subject in level:
                if budget_bytes < _SMALLEST_UPDATE:
                    break
                if subject != first_about and subject not in without:
                    budget_bytes = self._pick(subject, budget_bytes, chosen, taken)
        for subject in chosen:
            self._count(subject, limit)
        return taken

    def _pick(self, subject: str, budget_bytes: int, chosen: list[str], taken: list[bytes]) -> int:
        update = self._levels[self._sent[subject]][subject]
        if len(update) > budget_bytes:
            return budget_bytes
        chosen.append(subject)
        taken.append(update)
        return budget_bytes - len(update)

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
