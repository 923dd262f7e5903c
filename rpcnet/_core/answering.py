"""Questions of other nodes: what this node owes them.

The rules of this file:

* A question is taken once, whichever way and however often it comes. Whose selector does not match stays silent.
* Who has got a question says so at once, and the application's answer follows when there is one; only the first counts.
* A reply is repeated until it is thanked for, at growing intervals up to a second, as long as the question stands. From
  the second time on, and at once when time is short, it travels through some other nodes as well.
* The questions that stand are bounded; one that comes beyond that is not answered, and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

from rpcnet._signals import Respond
from rpcnet.config import GossipConfig
from rpcnet.events import NodeInfo, NodeState

from .event_order import Window
from .user_messages import Identity, Question, Reply, Send, Thanks, encode_reply

if TYPE_CHECKING:
    import random

__all__ = ["Answerer", "Standing"]

_MAX_INTERVAL = 1.0
_JITTER = 0.2
_SHORT_OF_TIME = 4  # attempts
_NEVER = float("inf")


@attrs.frozen
class Standing:
    """A question that this node should answer."""

    identity: Identity
    address: str
    """Where who asks is."""
    deadline: float
    answer: bytes | None = attrs.field(default=None, repr=False)
    """What the application answered; None as long as it has not."""
    attempts: int = 0
    """How often the receipt, or the answer if there is one, was sent."""
    next_at: float = _NEVER
    """When it is sent again; never once it was thanked for."""


class Answerer:
    """The questions of other nodes.

    Args:
        local: this node as it is now.
        members: every node that is known, this one included.
        config: how news spreads.
        rng: where chance comes from.
        known: the questions that stood in an earlier object of this process.
        windows: which questions of each node have come.
    """

    def __init__(
        self,
        *,
        local: Callable[[], NodeInfo],
        members: Callable[[], Sequence[NodeInfo]],
        config: GossipConfig,
        rng: random.Random,
        known: Sequence[Standing],
        windows: Mapping[str, Window],
    ) -> None:
        self._local = local
        self._members = members
        self._config = config
        self._rng = rng
        self._standing = {standing.identity: standing for standing in known}
        self._windows = dict(windows)
        self._frozen_windows: Mapping[str, Window] | None = None
        self.refused = 0
        """Questions that came when too many stood."""

    def standing(self) -> tuple[Standing, ...]:
        """Return the questions that stand."""
        return tuple(self._standing.values())

    def windows(self) -> Mapping[str, Window]:
        """Return which questions have come; the same object until one more does."""
        if self._frozen_windows is None:
            self._frozen_windows = MappingProxyType(dict(self._windows))
        return self._frozen_windows

    def is_new(self, identity: Identity) -> bool:
        """Whether a question comes for the first time; from then on it does not."""
        old = self._windows.pop(identity.sender, None) or Window(identity.boot_id)
        new = old.add(identity.boot_id, identity.number)
        self._windows[identity.sender] = new or old
        self._frozen_windows = None
        if len(self._windows) > self._config.max_event_senders:
            del self._windows[next(iter(self._windows))]
        return new is not None

    def take(self, question: Question, now: float) -> list[Send] | None:
        """Take a new question; None if it is not for this node to answer."""
        if not question.where.matches(self._local().tags):
            return None
        if len(self._standing) >= self._config.max_queued_events:
            self.refused += 1
            return None
        deadline = now + question.remaining
        return self._attempt(Standing(question.identity, question.address, deadline), now)

    def respond(self, order: Respond, now: float) -> list[Send]:
        """Answer a question, if it stands and has no answer yet."""
        standing = self._standing.get(Identity(order.sender, order.boot_id, order.number))
        if standing is None or standing.answer is not None or standing.deadline <= now:
            return []
        return self._attempt(attrs.evolve(standing, answer=order.payload, attempts=0), now)

    def thanked(self, thanks: Thanks) -> None:
        """Stop repeating what has come."""
        standing = self._standing.get(thanks.identity)
        if standing is None or thanks.node != self._local().id:
            return
        if thanks.for_answer is (standing.answer is not None):
            self._standing[thanks.identity] = attrs.evolve(standing, next_at=_NEVER)

    def _attempt(self, standing: Standing, now: float) -> list[Send]:
        interval = min(self._config.gossip_interval * 2**standing.attempts, _MAX_INTERVAL)
        left = standing.deadline - now
        reply = Reply(standing.identity, self._local().id, standing.answer)
        sends = [Send(standing.identity.sender, standing.address, encode_reply(reply))]
        if standing.attempts > 0 or left < _SHORT_OF_TIME * self._config.gossip_interval:
            relayed = encode_reply(attrs.evolve(reply, is_relayed=True))
            sends += [Send(node.id, node.address, relayed) for node in self._relays(standing.identity.sender)]
        next_at = now + interval * self._rng.uniform(1 - _JITTER, 1 + _JITTER)
        self._standing[standing.identity] = attrs.evolve(standing, attempts=standing.attempts + 1, next_at=next_at)
        return sends

    def _relays(self, asker: str) -> list[NodeInfo]:
        excluded = (asker, self._local().id)
        if asker == self._local().id:
            return []
        others = [node for node in self._members() if node.state is NodeState.ALIVE and node.id not in excluded]
        return self._rng.sample(others, min(self._config.query_relays, len(others)))

    def next_timer(self) -> float | None:
        """Return the Trio time at which :meth:`due` has something to do."""
        times = [min(standing.deadline, standing.next_at) for standing in self._standing.values()]
        return min(times) if times else None

    def due(self, now: float) -> list[Send]:
        """Repeat what nobody thanked for; forget what has had its time."""
        sends: list[Send] = []
        for standing in tuple(self._standing.values()):
            if standing.deadline <= now:
                del self._standing[standing.identity]
            elif standing.next_at <= now:
                sends += self._attempt(standing, now)
        return sends
