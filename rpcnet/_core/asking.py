"""Questions that this node asks all: who has got them, who has answered.

The rules of this file:

* A question spreads as events do. Who should answer and has not confirmed the question when it should have spread is
  asked directly, again and again, so that no loss leaves anybody out.
* Who should answer is what this node believes when it asks. Who fails or leaves meanwhile is not waited for.
* A question ends when all who should answer have, when the application gives it up, or at its deadline. What comes
  later is thanked for, so that it is not repeated, and counted.
* Every reply is thanked for: whoever replies repeats that until then.
* Answers are bounded by the number of members, and by the configuration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import attrs

from rpcnet._signals import Ask
from rpcnet.config import GossipConfig
from rpcnet.errors import ConfigError
from rpcnet.events import NodeInfo
from rpcnet.selectors import Selector

from .event_order import Window
from .user_messages import Identity, Question, Reply, Send, Thanks, encode_question, encode_thanks, with_remaining
from .user_queue import UserQueue, Waiting

__all__ = ["Asked", "Asker", "spread_time"]

_ASKED_AGAIN = 32
"""Nodes that are asked directly in one round."""

_STRANGERS = 64
"""Replies of nodes that are no known members; a joiner may hear a question before this node hears of it."""

_MAX_ENDED = 1024
"""Ended questions whose answers the application has not collected."""


def spread_time(config: GossipConfig, n_members: int) -> float:
    """Return the seconds in which gossip without losses reaches nearly everybody."""
    return config.gossip_interval * (math.log(n_members + 1) + 3) / (config.gossip_fanout / 2)


@attrs.frozen
class Asked:
    """A question of this node, and what has come back."""

    identity: Identity
    data: bytes = attrs.field(repr=False)
    """The question as it is sent."""
    deadline: float
    expected: tuple[str, ...]
    """The ids of the nodes that should answer."""
    receipts: tuple[str, ...] = ()
    """The ids of the nodes that have got it."""
    answers: Mapping[str, bytes] = attrs.field(factory=dict)
    """What each node answered, by id."""
    is_ended: bool = False
    """Whether no more answers are taken."""
    problem: str = ""
    """Why it could not be asked."""


@attrs.define(eq=False)
class _Open:
    """A question whose answers are taken."""

    asked: Asked
    missing: dict[str, None]
    """Who should answer and has not."""
    receipts: dict[str, None]
    answers: dict[str, bytes]
    again_at: float
    _frozen: Asked | None = None

    def changed(self) -> None:
        self._frozen = None

    def frozen(self, *, is_ended: bool = False) -> Asked:
        if self._frozen is None or is_ended:
            self._frozen = attrs.evolve(
                self.asked,
                receipts=tuple(self.receipts),
                answers=MappingProxyType(dict(self.answers)),
                is_ended=is_ended,
            )
        return self._frozen


class Asker:
    """The questions of this node.

    Args:
        local: this node as it is now.
        members: every node that is known, this one included.
        boot_id: under which it asks.
        config: how news spreads.
        queue: what is told to others.
        known: the questions of an earlier object of this process.
        window: which of their numbers were taken.
        now: Trio time.
    """

    def __init__(
        self,
        *,
        local: Callable[[], NodeInfo],
        members: Callable[[], Sequence[NodeInfo]],
        boot_id: int,
        config: GossipConfig,
        queue: UserQueue,
        known: Sequence[Asked],
        window: Window,
        now: float,
    ) -> None:
        self._local = local
        self._members = members
        self._boot_id = boot_id
        self._config = config
        self._queue = queue
        self.window = window
        self._ended = {asked.identity.number: asked for asked in known if asked.is_ended}
        self._open = {asked.identity.number: _reopened(asked, now) for asked in known if not asked.is_ended}
        self.late = 0
        """Answers that came after the end of their question, or that were too many."""

    def asked(self) -> tuple[Asked, ...]:
        """Return the questions whose answers the application has not collected."""
        return (*self._ended.values(), *(entry.frozen() for entry in self._open.values()))

    def is_taken(self, number: int) -> bool:
        """Whether an order with this number has been taken."""
        return self.window.add(self.window.boot_id, number) is None

    def ask(self, order: Ask, now: float) -> Question | None:
        """Take an order that was not taken before.

        Returns:
            The question, for this node itself to answer; None if there is nobody or no way to ask.
        """
        self.window = self.window.add(self.window.boot_id, order.number) or self.window
        local = self._local()
        identity, where = Identity(local.id, self._boot_id, order.number), Selector.parse(order.where)
        question = Question(identity, order.deadline - now, local.address, where, order.name, order.payload)
        expected = tuple(node.id for node in self._members() if node.is_usable and where.matches(node.tags))
        try:
            asked = Asked(identity, encode_question(question), order.deadline, expected)
        except ConfigError as error:
            self._end(Asked(identity, b"", order.deadline, (), problem=str(error), is_ended=True))
            return None
        if not expected or order.deadline <= now:
            self._end(attrs.evolve(asked, is_ended=True))
            return None
        again_at = now + spread_time(self._config, len(self._members()))
        self._open[order.number] = _Open(asked, dict.fromkeys(expected), {}, {}, again_at)
        if expected != (local.id,):
            self._queue.put(("question", identity), Waiting(asked.data, order.deadline, is_own=True))
        return question

    def collected(self, number: int) -> None:
        """Forget a question."""
        self._ended.pop(number, None)
        entry = self._open.pop(number, None)
        if entry is not None:
            self._queue.discard(("question", entry.asked.identity))

    def reply(self, reply: Reply, source: str) -> tuple[list[Send], bool]:
        """Take in a receipt or an answer.

        Returns:
            The thanks, and whether the question has ended with it.
        """
        identity, node = reply.identity, reply.node
        if identity.boot_id != self._boot_id:
            return [], False
        entry, is_answer = self._open.get(identity.number), reply.payload is not None
        thanks = [Send(node, source, encode_thanks(Thanks(identity, node, for_answer=is_answer)))]
        if entry is None or (node not in entry.receipts and len(entry.receipts) >= self._most_replies()):
            ended = self._ended.get(identity.number)
            self.late += is_answer and (ended is None or node not in ended.answers)
            return thanks, False
        if node not in entry.receipts:
            entry.receipts[node] = None
            entry.changed()
        if reply.payload is not None and node not in entry.answers:
            entry.answers[node] = reply.payload
            entry.missing.pop(node, None)
            entry.changed()
        return thanks, self._end_if_complete(entry)

    def _most_replies(self) -> int:
        return min(self._config.max_query_answers, len(self._members()) + _STRANGERS)

    def _end_if_complete(self, entry: _Open) -> bool:
        if entry.missing:
            return False
        del self._open[entry.asked.identity.number]
        self._queue.discard(("question", entry.asked.identity))
        self._end(entry.frozen(is_ended=True))
        return True

    def _end(self, asked: Asked) -> None:
        self._ended[asked.identity.number] = asked
        if len(self._ended) > _MAX_ENDED:
            del self._ended[next(iter(self._ended))]

    def next_timer(self) -> float | None:
        """Return the Trio time at which :meth:`due` has something to do."""
        times = [min(entry.asked.deadline, entry.again_at) for entry in self._open.values()]
        return min(times) if times else None

    def due(self, now: float) -> tuple[list[Send], bool]:
        """Ask those again who have not got a question; end what has had its time.

        Returns:
            What to send, and whether a question has ended.
        """
        sends, has_ended = list[Send](), False
        for entry in tuple(self._open.values()):
            if entry.asked.deadline <= now:
                entry.missing.clear()
            elif entry.again_at <= now:
                entry.again_at = now + 2 * self._config.gossip_interval
                sends += self._ask_again(entry, now)
            has_ended = self._end_if_complete(entry) or has_ended
        return sends, has_ended

    def _ask_again(self, entry: _Open, now: float) -> list[Send]:
        usable = {node.id: node.address for node in self._members() if node.is_usable}
        for node_id in [node_id for node_id in entry.missing if node_id not in usable]:
            del entry.missing[node_id]
        unreached = [node_id for node_id in entry.missing if node_id not in entry.receipts][:_ASKED_AGAIN]
        for node_id in unreached:  # those that were asked now come last the next time
            entry.missing[node_id] = entry.missing.pop(node_id)
        data = with_remaining(entry.asked.data, entry.asked.deadline - now)
        return [Send(node_id, usable[node_id], data) for node_id in unreached]


def _reopened(asked: Asked, now: float) -> _Open:
    missing = {node_id: None for node_id in asked.expected if node_id not in asked.answers}
    return _Open(asked, missing, dict.fromkeys(asked.receipts), dict(asked.answers), now)
