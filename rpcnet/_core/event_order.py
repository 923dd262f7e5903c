"""In which order user events are delivered, and what has come already.

The rules of this file:

* Of one boot of a sender events are delivered in the order of their numbers, none twice.
* What comes early waits for what is missing, for a bounded time and in a bounded number. Then the missing is skipped
  and counted, and will not be delivered should it still come.
* Of what is missing when it should have come by gossip the sender is asked, again and again until it is skipped.
* Of a sender that is not known the first event says from where on to count: from the oldest that may not have reached
  everybody then. So a joiner neither waits for what is over nor takes up what was long before its time.
* A higher boot id begins anew, after what still waits of the lower one. A lower one is past.
* Of the senders heard least lately nothing is remembered when there are too many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import attrs

from .user_messages import MAX_MISSING, Event, Identity

__all__ = ["EventOrder", "Heard", "Window"]

_WINDOW = 256


@attrs.frozen
class Heard:
    """How far the events of one sender were delivered."""

    boot_id: int
    next: int
    """The number that is delivered next."""


@attrs.frozen
class Window:
    """Which numbers of one boot have come, where their order does not matter."""

    boot_id: int
    highest: int = 0
    mask: int = 0
    """Bit n says whether ``highest - n`` has come; what lies further back counts as come."""

    def add(self, boot_id: int, number: int) -> Window | None:
        """Return the window with one number more; None if it has come before."""
        if boot_id > self.boot_id:
            return Window(boot_id, number, 1)
        if boot_id < self.boot_id:
            return None
        if number > self.highest:
            shift = min(number - self.highest, _WINDOW)
            return Window(boot_id, number, (self.mask << shift | 1) & ((1 << _WINDOW) - 1))
        behind = self.highest - number
        if behind >= _WINDOW or self.mask >> behind & 1:
            return None
        return Window(boot_id, self.highest, self.mask | 1 << behind)


class EventOrder:
    """Puts the events of each sender in order.

    Args:
        gap_timeout: seconds that an event waits for an earlier one.
        max_senders: senders that are remembered.
        max_held: events of all senders that wait.
        known: how far an earlier object of this process was.
        patience: in how many seconds gossip should bring what is missing.
        interval: seconds between two wishes for it.
    """

    def __init__(
        self,
        *,
        gap_timeout: float,
        max_senders: int,
        max_held: int,
        known: Mapping[str, Heard],
        patience: Callable[[], float],
        interval: float,
    ) -> None:
        self._gap_timeout = gap_timeout
        self._patience = patience
        self._interval = interval
        self._ask_at: dict[str, float] = {}
        self._max_senders = max_senders
        self._max_held = max_held
        self._heard = dict(known)
        self._held: dict[str, dict[int, tuple[Event, float]]] = {}
        self._n_held = 0
        self._state: Mapping[str, Heard] | None = None
        self.skipped = 0
        """Events that did not come in time."""
        self.repeated = 0
        """Events that had come before, or whose turn was over."""

    def heard(self) -> Mapping[str, Heard]:
        """Return how far each sender is; the same object until something changes."""
        if self._state is None:
            self._state = MappingProxyType(dict(self._heard))
        return self._state

    def accept(self, event: Event, now: float) -> list[Event] | None:
        """Take an event in.

        Returns:
            What is to be delivered now; None if the event had come before.
        """
        sender, boot_id, number = event.identity.sender, event.identity.boot_id, event.identity.number
        heard, delivered = self._heard.get(sender), list[Event]()
        if heard is None or boot_id > heard.boot_id:
            delivered = self._release(sender, float("inf"))
            heard = Heard(boot_id, max(1, number - event.behind))
        elif boot_id < heard.boot_id or number < heard.next or number in self._held.get(sender, ()):
            self.repeated += 1
            return None
        self._heard.pop(sender, None)
        self._heard[sender] = heard
        self._state = None
        self._hold(sender, number, event, now)
        delivered += self._in_turn(sender) + self._within_bounds()
        if sender in self._held and sender not in self._ask_at:
            self._ask_at[sender] = now + self._patience()
        return delivered

    def _hold(self, sender: str, number: int, event: Event, now: float) -> None:
        self._held.setdefault(sender, {})[number] = (event, now)
        self._n_held += 1

    def _in_turn(self, sender: str) -> list[Event]:
        """Deliver what nothing is missing before."""
        held, delivered = self._held.get(sender, {}), list[Event]()
        heard = self._heard[sender]
        number = heard.next
        while number in held:
            delivered.append(held.pop(number)[0])
            number += 1
        if delivered:
            self._n_held -= len(delivered)
            self._heard[sender] = Heard(heard.boot_id, number)
            self._state = None
        if not held:
            self._held.pop(sender, None)
            self._ask_at.pop(sender, None)
        return delivered

    def _release(self, sender: str, until: float) -> list[Event]:
        """Deliver what came no later than ``until``, and what is before that, past whatever is missing."""
        delivered: list[Event] = []
        while (held := self._held.get(sender)) and _oldest(held) <= until:
            heard, first = self._heard[sender], min(held)
            self.skipped += first - heard.next
            self._heard[sender] = Heard(heard.boot_id, first)
            self._state = None
            delivered += self._in_turn(sender)
        return delivered

    def _within_bounds(self) -> list[Event]:
        delivered: list[Event] = []
        while self._n_held > self._max_held:
            sender = min(self._held, key=lambda sender: _oldest(self._held[sender]))
            delivered += self._release(sender, _oldest(self._held[sender]))
        while len(self._heard) > self._max_senders:
            sender = next(iter(self._heard))
            delivered += self._release(sender, float("inf"))
            del self._heard[sender]
        return delivered

    def next_timer(self) -> float | None:
        """Return the Trio time at which an event has waited long enough, or what it waits for is asked for."""
        if not self._held:
            return None
        oldest = min(_oldest(held) for held in self._held.values())
        return min(oldest + self._gap_timeout, *self._ask_at.values())

    def due(self, now: float) -> list[Event]:
        """Deliver what has waited long enough."""
        delivered: list[Event] = []
        for sender in tuple(self._held):
            held = self._held[sender]
            if _oldest(held) + self._gap_timeout <= now:
                delivered += self._release(sender, now - self._gap_timeout + _ROUNDING)
        return delivered

    def missing(self, now: float) -> list[tuple[Identity, int]]:
        """Return what to ask for now: the first of a row of missing events, and how many they are."""
        rows: list[tuple[Identity, int]] = []
        for sender, at in self._ask_at.items():
            if at <= now:
                heard = self._heard[sender]
                self._ask_at[sender] = now + self._interval
                count = min(min(self._held[sender]) - heard.next, MAX_MISSING)
                rows.append((Identity(sender, heard.boot_id, heard.next), count))
        return rows


_ROUNDING = 1e-6
"""Seconds by which a sum and a difference of the same times may differ."""


def _oldest(held: Mapping[int, tuple[Event, float]]) -> float:
    return next(iter(held.values()))[1]
