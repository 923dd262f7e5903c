"""Queries: questions to all, and what comes back; both sides of it.

The rules of this file:

* The side that asks is ``asking.py``, the side that answers ``answering.py``. A node that matches its own question
  answers it like any other; what it sends itself does not leave it.
* Whoever gets a reply that is for somebody else, and is asked to, passes it on once.
* The application hears of a question as ``QueryReceived``, and of what became of its own in the snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from rpcnet._signals import Ask, Collected, OrderTaken, Respond
from rpcnet.config import GossipConfig
from rpcnet.events import NodeInfo, QueryReceived

from .answering import Answerer, Standing
from .asking import Asked, Asker
from .event_order import Window
from .user_messages import Emit, Question, Reply, Send, Thanks, UserEffect, decode_user, encode_reply
from .user_queue import UserQueue, Waiting

if TYPE_CHECKING:
    import random

__all__ = ["QueryMachine", "QueryState"]


@attrs.frozen
class QueryState:
    """All questions, as they are now."""

    asked: tuple[Asked, ...] = ()
    """Those of this node whose answers were not collected."""
    window: Window = attrs.field(factory=lambda: Window(0))
    """Which orders to ask were taken."""
    standing: tuple[Standing, ...] = ()
    """Those that this node should answer."""
    windows: Mapping[str, Window] = attrs.field(factory=dict)
    """Which questions have come, by who asked."""


class QueryMachine:
    """Asks, answers, and passes on.

    Args:
        local: this node as it is now.
        members: every node that is known, this one included.
        boot_id: under which it asks.
        config: how news spreads.
        rng: where chance comes from.
        queue: what is told to others.
        known: the state of an earlier machine of this process.
        now: Trio time.
    """

    def __init__(
        self,
        *,
        local: Callable[[], NodeInfo],
        members: Callable[[], Sequence[NodeInfo]],
        boot_id: int,
        config: GossipConfig,
        rng: random.Random,
        queue: UserQueue,
        known: QueryState,
        now: float,
    ) -> None:
        self._local = local
        self._queue = queue
        self._asker = Asker(
            local=local,
            members=members,
            boot_id=boot_id,
            config=config,
            queue=queue,
            known=known.asked,
            window=known.window,
            now=now,
        )
        self._answerer = Answerer(
            local=local, members=members, config=config, rng=rng, known=known.standing, windows=known.windows
        )

    @property
    def late(self) -> int:
        """Answers that came too late, or were too many."""
        return self._asker.late

    @property
    def refused(self) -> int:
        """Questions that came when too many stood."""
        return self._answerer.refused

    def state(self) -> QueryState:
        """Return all questions as they are now."""
        asker, answerer = self._asker, self._answerer
        return QueryState(asker.asked(), asker.window, answerer.standing(), answerer.windows())

    # --- what the application wants

    def is_taken(self, order: Ask) -> bool:
        """Whether an order to ask has been taken."""
        return self._asker.is_taken(order.number)

    def ask(self, order: Ask, now: float) -> list[UserEffect]:
        """Ask all; the order was not taken before."""
        question = self._asker.ask(order, now)
        effects: list[UserEffect] = [Emit(OrderTaken(at=now))]
        if question is not None and self._answerer.is_new(question.identity):
            effects += self._take(question, now)
        return effects

    def collected(self, order: Collected) -> None:
        """Forget a question of this node."""
        self._asker.collected(order.number)

    def respond(self, order: Respond, now: float) -> list[UserEffect]:
        """Answer a question."""
        return [*self._route(self._answerer.respond(order, now), now), Emit(OrderTaken(at=now))]

    # --- what comes in

    def question(self, question: Question, data: bytes, now: float) -> list[UserEffect]:
        """Take in a question: pass it on, and answer it if it is for this node."""
        if question.identity.sender == self._local().id or question.remaining <= 0:
            return []
        if not self._answerer.is_new(question.identity):
            return []
        self._queue.put(("question", question.identity), Waiting(data, now + question.remaining))
        return self._take(question, now)

    def _take(self, question: Question, now: float) -> list[UserEffect]:
        sends = self._answerer.take(question, now)
        if sends is None:
            return []
        received = QueryReceived(
            sender=question.identity.sender,
            name=question.name,
            payload=question.payload,
            number=question.identity.number,
            deadline=now + question.remaining,
            boot_id=question.identity.boot_id,
            at=now,
        )
        return [*self._route(sends, now), Emit(received)]

    def reply(self, reply: Reply, source: str, now: float) -> list[UserEffect]:
        """Take in a receipt or an answer, or pass it on."""
        asker = reply.identity.sender
        if asker != self._local().id:
            passed_on = encode_reply(attrs.evolve(reply, is_relayed=False))
            return [Send(asker, None, passed_on)] if reply.is_relayed else []
        sends, has_ended = self._asker.reply(reply, source)
        effects = self._route(sends, now)
        return [*effects, Emit(OrderTaken(at=now))] if has_ended else effects

    def thanks(self, thanks: Thanks) -> None:
        """Take in that a reply has come."""
        self._answerer.thanked(thanks)

    def _route(self, sends: Sequence[Send], now: float) -> list[UserEffect]:
        """Return what is to be sent; what is for this node itself is taken in at once."""
        effects: list[UserEffect] = []
        for send in sends:
            if send.node_id != self._local().id:
                effects.append(send)
                continue
            match decode_user(send.data):
                case Reply() as reply:
                    effects += self.reply(reply, self._local().address, now)
                case Thanks() as thanks:
                    self.thanks(thanks)
        return effects

    # --- timers

    def next_timer(self) -> float | None:
        """Return the Trio time at which :meth:`on_timer` has something to do."""
        times = [time for time in (self._asker.next_timer(), self._answerer.next_timer()) if time is not None]
        return min(times) if times else None

    def on_timer(self, now: float) -> list[UserEffect]:
        """Do what is due."""
        sends, has_ended = self._asker.due(now)
        effects = self._route([*sends, *self._answerer.due(now)], now)
        return [*effects, Emit(OrderTaken(at=now))] if has_ended else effects
