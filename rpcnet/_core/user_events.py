"""What applications say to each other through gossip: events to all, and queries.

The rules of this file:

* Whoever drives the machine asks it for strings when there is room in a datagram (:meth:`UserEventMachine.take`), hands
  it those that come in, and performs the effects in order. As long as something waits (``len``), gossip goes on.
* An event goes to every node, the one that published it included, and to each once: of a sender in the order of its
  numbers (``event_order.py``). Everybody for whom it is new passes it on. A node that joins
  more than ``event_gap_timeout`` seconds later does not get it.
* An event is told by gossip, and nobody confirms it. Who hears a later one asks the sender for what is missing; only
  the last before a silence may be lost to somebody, by bad luck. What has to be sure is a query, or a call.
* An order of the node is taken once, however often it comes. One that finds too many own strings waiting is not taken:
  it comes again, and the node hears when there is room. Alone in its cluster, a node keeps nothing to tell.
* The state is a snapshot. A machine made from the last one of its process goes on: it repeats no number, delivers
  nothing twice, and still tells what waited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from rpcnet._signals import Ask, Collected, OrderTaken, Publish, Respond
from rpcnet.config import GossipConfig
from rpcnet.events import NodeInfo, UserEvent

from .asking import spread_time
from .event_order import EventOrder, Heard
from .event_repair import EventRepair, Kept
from .queries import QueryMachine, QueryState
from .user_messages import (
    Emit,
    Event,
    Identity,
    Missing,
    Question,
    Reply,
    Send,
    Thanks,
    UserEffect,
    decode_user,
    encode_event,
    encode_missing,
)
from .user_queue import Key, UserQueue, Waiting

if TYPE_CHECKING:
    import random

__all__ = ["Emit", "Send", "UserEffect", "UserEventMachine", "UserState", "UserStatistics"]


@attrs.frozen
class UserStatistics:
    """Counters of user events and queries."""

    published: int = 0
    """Events of this node."""
    delivered: int = 0
    """Events of all nodes that the application could hear."""
    repeated: int = 0
    """Events that came again, or when their turn was over."""
    skipped: int = 0
    """Events that did not come in time."""
    dropped: int = 0
    """Events and questions that were not passed on any more because there were too many."""
    late_answers: int = 0
    """Answers that came after the end of their query, or that were too many."""
    refused_questions: int = 0
    """Questions that came when too many stood unanswered."""
    waiting: int = 0
    """Events and questions that wait to be told to others."""


@attrs.frozen
class UserState:
    """All that outlives the machine; what the node reads of it."""

    boot_id: int
    """Under which this process publishes and asks, whatever its record says later."""
    ticket: int = 0
    """The last order to publish that was taken."""
    number: int = 0
    """The number of the last event published."""
    waiting: tuple[tuple[Key, Waiting], ...] = ()
    """Own strings that wait to be told."""
    recent: tuple[Kept, ...] = ()
    """The last own events, for whoever missed one."""
    heard: Mapping[str, Heard] = attrs.field(factory=dict)
    """How far the events of each sender were delivered."""
    queries: QueryState = attrs.field(factory=QueryState)
    """The questions."""
    statistics: UserStatistics = attrs.field(factory=UserStatistics)
    """The counters, as they were when anything else last changed."""


class UserEventMachine:
    """User events and queries of one node.

    Args:
        local: this node as it is now.
        members: every node that is known, this one included.
        config: how news spreads.
        rng: where chance comes from.
        now: Trio time.
        known: the state of an earlier machine of this process; None at its start.
    """

    def __init__(
        self,
        *,
        local: Callable[[], NodeInfo],
        members: Callable[[], Sequence[NodeInfo]],
        config: GossipConfig,
        rng: random.Random,
        now: float,
        known: UserState | None = None,
    ) -> None:
        self._local = local
        self._members = members
        self._config = config
        known = UserState(local().boot_id) if known is None else known
        self._boot_id, self._ticket, self._number = known.boot_id, known.ticket, known.number
        self._before = known.statistics
        self._delivered = 0
        self._queue = UserQueue(multiplier=config.transmit_multiplier, size=config.max_queued_events)
        for key, waiting in known.waiting:
            self._queue.put(key, waiting)
        self._order = EventOrder(
            gap_timeout=config.event_gap_timeout,
            max_senders=config.max_event_senders,
            max_held=config.max_queued_events,
            known=known.heard,
            patience=lambda: spread_time(config, len(members())),
            interval=2 * config.gossip_interval,
        )
        self._repair = EventRepair(
            spread_after=config.event_gap_timeout, interval=config.gossip_interval, known=known.recent
        )
        self._queries = QueryMachine(
            local=local,
            members=members,
            boot_id=known.boot_id,
            config=config,
            rng=rng,
            queue=self._queue,
            known=known.queries,
            now=now,
        )
        self._is_order_waiting = False
        self._room_at: float | None = None
        self._state: UserState | None = None

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def next_bytes(self) -> int:
        """How much room the string that is next takes in a datagram, its length included; 0 when none waits."""
        return self._queue.next_bytes

    def state(self) -> UserState:
        """Return what the next machine goes on from; the same object until something changes."""
        if self._state is None:
            self._state = UserState(
                boot_id=self._boot_id,
                ticket=self._ticket,
                number=self._number,
                waiting=self._queue.own(),
                recent=self._repair.kept(),
                heard=self._order.heard(),
                queries=self._queries.state(),
                statistics=self.statistics(),
            )
        return self._state

    def statistics(self) -> UserStatistics:
        """Return the counters of this process."""
        before = self._before
        return UserStatistics(
            published=self._number,
            delivered=before.delivered + self._delivered,
            repeated=before.repeated + self._order.repeated,
            skipped=before.skipped + self._order.skipped,
            dropped=before.dropped + self._queue.dropped,
            late_answers=before.late_answers + self._queries.late,
            refused_questions=before.refused_questions + self._queries.refused,
            waiting=len(self._queue),
        )

    # --- gossip

    def take(self, budget_bytes: int, n_members: int, now: float) -> list[bytes]:
        """Return strings for a datagram, and count each as sent once.

        Args:
            budget_bytes: room for them, each with ``STRING_OVERHEAD`` bytes for its length.
            n_members: the cluster's size, for the transmit limit.
            now: Trio time.
        """
        n_own = self._queue.n_own
        taken = self._queue.take(budget_bytes, n_members, now)
        if self._queue.n_own != n_own:
            self._state = None
        if self._is_order_waiting and self._has_room():
            self._is_order_waiting, self._room_at = False, now
        return taken

    def handle(self, data: bytes, source: str, now: float) -> list[UserEffect]:
        """Take in a string of the user section of a datagram.

        Raises:
            MessageError: it is malformed. Nothing changed.
        """
        message = decode_user(data)
        if isinstance(message, Event):
            return self._hear(message, data, now)
        if isinstance(message, Missing):
            return self._send_again(message, source, now)
        self._state = None
        match message:
            case Question():
                return self._queries.question(message, data, now)
            case Reply():
                return self._queries.reply(message, source, now)
            case Thanks():
                self._queries.thanks(message)
        return []

    def _hear(self, event: Event, data: bytes, now: float) -> list[UserEffect]:
        if event.identity.sender == self._local().id:
            return []
        delivered = self._order.accept(event, now)
        if delivered is None:
            return []
        self._state = None
        self._queue.put(("event", event.identity), Waiting(data))
        return self._deliver(delivered, now)

    def _send_again(self, missing: Missing, source: str, now: float) -> list[UserEffect]:
        is_own = missing.identity.sender == self._local().id and missing.identity.boot_id == self._boot_id
        return [*self._repair.repair(missing, source, now)] if is_own else []

    def _deliver(self, events: Sequence[Event], now: float) -> list[UserEffect]:
        self._delivered += len(events)
        return [Emit(_user_event(event, now)) for event in events]

    # --- what the node wants

    def publish(self, order: Publish, now: float) -> list[UserEffect]:
        """Tell an event to all; the name and the payload were checked."""
        if order.ticket <= self._ticket:
            return [Emit(OrderTaken(at=now))]
        if not self._make_room():
            return []
        self._ticket, self._number = order.ticket, self._number + 1
        self._state = None
        identity = Identity(self._local().id, self._boot_id, self._number)
        event = Event(identity, self._repair.behind(self._number, now), order.name, order.payload)
        data = encode_event(event)
        self._repair.keep(Kept(identity.number, now, data))
        if self._has_peers():
            self._queue.put(("event", identity), Waiting(data, is_own=True))
        return [*self._deliver([event], now), Emit(OrderTaken(at=now))]

    def ask(self, order: Ask, now: float) -> list[UserEffect]:
        """Put a question to all; name, payload and selector were checked."""
        if self._queries.is_taken(order):
            return [Emit(OrderTaken(at=now))]
        if not self._make_room():
            return []
        self._state = None
        return self._queries.ask(order, now)

    def respond(self, order: Respond, now: float) -> list[UserEffect]:
        """Answer a question, unless it has an answer or its time is over."""
        self._state = None
        return self._queries.respond(order, now)

    def collected(self, order: Collected) -> list[UserEffect]:
        """Forget a question of this node."""
        self._state = None
        self._queries.collected(order)
        return []

    def _has_room(self) -> bool:
        return self._queue.n_own < self._config.max_waiting_events

    def _make_room(self) -> bool:
        if not self._has_room() and not self._has_peers():
            self._queue.discard_own()
        self._is_order_waiting = not self._has_room()
        return not self._is_order_waiting

    def _has_peers(self) -> bool:
        local_id = self._local().id
        return any(node.is_usable and node.id != local_id for node in self._members())

    # --- timers

    def next_timer(self) -> float | None:
        """Return the Trio time at which :meth:`on_timer` has something to do."""
        times = (self._room_at, self._order.next_timer(), self._queries.next_timer())
        return min((time for time in times if time is not None), default=None)

    def on_timer(self, now: float) -> list[UserEffect]:
        """Do what is due: deliver what waited too long for what is missing, repeat, end questions."""
        timer = self.next_timer()
        if timer is None or timer > now:
            return []
        self._state = None
        effects = self._deliver(self._order.due(now), now) + self._queries.on_timer(now)
        for first, count in self._order.missing(now):
            effects.append(Send(first.sender, None, encode_missing(Missing(first, self._local().id, count))))
        if self._room_at is not None:
            self._room_at = None
            effects.append(Emit(OrderTaken(has_room=True, at=now)))
        return effects


def _user_event(event: Event, now: float) -> UserEvent:
    identity = event.identity
    return UserEvent(
        sender=identity.sender,
        name=event.name,
        payload=event.payload,
        number=identity.number,
        boot_id=identity.boot_id,
        at=now,
    )
