"""What ``Node.publish``, ``Node.query`` and ``Node.respond`` do.

The rules of this file:

* What the application wants is an order to the membership task. One can be lost if the task fails with it in hand, so
  it is given again until the snapshot shows that it was taken; whoever takes it knows an order that comes twice.
* The snapshot says what became of an order. That it has changed is heard over a mailbox, which whoever waits reads, one
  of them at a time; all look at the snapshot then.
* Orders that need room are given one after the other, so those that wait for it keep their order.
* Who gives up a query tells membership to forget it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import attrs
import trio

from rpcnet._core.asking import Asked
from rpcnet._core.user_events import UserState
from rpcnet._core.user_messages import Identity, check_answer, check_event, check_where
from rpcnet._signals import Ask, Collected, OrderTaken, Publish, Respond
from rpcnet._tasks.bus import Bus
from rpcnet._tasks.snapshots import nodes_of
from rpcnet.config import GossipConfig
from rpcnet.errors import ConfigError, DeadlineExceeded, FailedPrecondition
from rpcnet.events import ClusterEvent, QueryReceived
from rpcnet.selectors import Selector

from .serving import ORDER_TIMEOUT

__all__ = ["Asking", "QueryAnswers"]


@attrs.frozen(eq=False)
class QueryAnswers(Mapping[str, bytes]):
    """What came back of a query: a mapping from the name of each node that answered to its answer.

    A node's id finds its answer, too. Iterating gives the names, in the order in which the answers came.
    """

    _answers: Mapping[str, bytes]
    _names: Mapping[str, str]
    silent: tuple[str, ...]
    """The names of the nodes that have got the question and have not answered."""
    unreached: tuple[str, ...]
    """The names of the nodes that should have answered and have not even confirmed the question."""

    def __getitem__(self, name_or_id: str) -> bytes:
        """Return the answer of a node, by its name or id."""
        return self._answers[self._names.get(name_or_id, name_or_id)]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the nodes that answered."""
        return iter(self._answers)

    def __len__(self) -> int:
        """Return how many nodes answered."""
        return len(self._answers)

    @property
    def received(self) -> tuple[str, ...]:
        """The names of all nodes that have got the question, whether they answered or not."""
        return (*self._answers, *self.silent)

    def __repr__(self) -> str:
        """Return who answered and who did not."""
        return f"QueryAnswers({dict(self._answers)}, silent={self.silent}, unreached={self.unreached})"


class Asking:
    """The orders of one node's application.

    Args:
        bus: where the orders go, and where the snapshot is.
        config: the bounds of what may be said.
    """

    def __init__(self, bus: Bus, config: GossipConfig) -> None:
        self._bus = bus
        self._config = config
        self._mailbox = bus.mailbox("asking", OrderTaken)
        self._turn = trio.Lock()
        self._changed = trio.Event()
        self._is_read = False
        self._n_rooms = 0
        self._ticket = 0
        self._number = 0
        self._answering: dict[Identity, None] = {}

    def close(self) -> None:
        """End the waiting of whoever still waits with ``RuntimeError``."""
        self._mailbox.close()

    @property
    def _state(self) -> UserState | None:
        return self._bus.latest(UserState)

    async def publish(self, name: str, payload: bytes) -> None:
        """Publish an event; see ``Node.publish``."""
        check_event(name, payload, self._config.max_event_bytes)
        await trio.lowlevel.checkpoint_if_cancelled()
        async with self._turn:
            self._ticket = ticket = self._ticket + 1
            await self._order(
                lambda: Publish(ticket, name, payload, at=trio.current_time()),
                lambda: self._state is not None and self._state.ticket >= ticket,
            )
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def query(
        self,
        name: str,
        payload: bytes,
        where: str | Selector,
        timeout: float | None,  # noqa: ASYNC109 - it travels with the question
    ) -> QueryAnswers:
        """Ask all; see ``Node.query``."""
        check_event(name, payload, self._config.max_event_bytes)
        selector = Selector.parse(where)
        check_where(selector)
        deadline = trio.current_time() + self._timeout(timeout)
        await trio.lowlevel.checkpoint_if_cancelled()
        number = 0
        try:
            with trio.move_on_at(deadline + ORDER_TIMEOUT):
                async with self._turn:
                    self._number = number = self._number + 1
                    await self._order(
                        lambda: Ask(number, name, payload, str(selector), deadline, at=trio.current_time()),
                        lambda: self._asked(number) is not None,
                    )
                await self._until(lambda: (asked := self._asked(number)) is None or asked.is_ended)
            answers = self._answers(self._asked(number), selector)
        finally:
            self._bus.publish(Collected(number, at=trio.current_time()))
        await trio.lowlevel.cancel_shielded_checkpoint()
        return answers

    def _timeout(self, timeout: object) -> float:
        most = self._config.max_query_timeout
        if timeout is None:
            n_members = sum(node.is_usable for node in nodes_of(self._bus))
            factor = self._config.query_timeout_factor * self._config.gossip_interval
            return min(factor * math.ceil(math.log10(max(n_members, 1) + 1)), most)
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= most:
            raise ConfigError(f"timeout = {timeout!r}: must be a number above 0 and at most max_query_timeout = {most}")
        return timeout

    def _asked(self, number: int) -> Asked | None:
        if self._state is None:
            return None
        return next((a for a in reversed(self._state.queries.asked) if a.identity.number == number), None)

    def _answers(self, asked: Asked | None, selector: Selector) -> QueryAnswers:
        nodes = nodes_of(self._bus)
        if asked is None:
            unasked = tuple(node.name for node in nodes if node.is_usable and selector.matches(node.tags))
            return QueryAnswers({}, {}, (), unasked)
        if asked.problem:
            raise ConfigError(asked.problem)
        names = {node.id: node.name for node in nodes}
        answers = {names.get(node_id, node_id): answer for node_id, answer in asked.answers.items()}
        reached = dict.fromkeys(asked.receipts)
        silent = tuple(names.get(node_id, node_id) for node_id in reached if node_id not in asked.answers)
        unreached = tuple(names.get(node_id, node_id) for node_id in asked.expected if node_id not in reached)
        return QueryAnswers(answers, names, silent, unreached)

    async def respond(self, query: QueryReceived, payload: bytes) -> None:
        """Answer a question; see ``Node.respond``."""
        if not isinstance(query, QueryReceived):
            raise ConfigError(f"query = {query!r:.60}: must be a QueryReceived event of this node")
        check_answer(payload, self._config.max_answer_bytes)
        await trio.lowlevel.checkpoint_if_cancelled()
        identity = Identity(query.sender, query.boot_id, query.number)
        if trio.current_time() >= query.deadline:
            raise DeadlineExceeded(f"the query {query.name!r} takes no answers any more")
        if identity in self._answering or self._is_answered(identity):
            raise FailedPrecondition(f"the query {query.name!r} has been answered; only the first answer counts")
        if not self._stands(identity):
            raise FailedPrecondition(f"the query {query.name!r} was not put to this node")
        self._answering[identity] = None
        try:
            await self._order(
                lambda: Respond(query.sender, query.boot_id, query.number, payload, at=trio.current_time()),
                lambda: self._is_answered(identity) or not self._stands(identity),
            )
        finally:
            del self._answering[identity]
        if not self._is_answered(identity):
            raise DeadlineExceeded(f"the query {query.name!r} takes no answers any more")
        await trio.lowlevel.cancel_shielded_checkpoint()

    def _stands(self, identity: Identity) -> bool:
        return self._state is not None and any(s.identity == identity for s in self._state.queries.standing)

    def _is_answered(self, identity: Identity) -> bool:
        standing = () if self._state is None else self._state.queries.standing
        return any(s.identity == identity and s.answer is not None for s in standing)

    # --- waiting

    async def _order(self, make: Callable[[], ClusterEvent], is_done: Callable[[], bool]) -> None:
        """Give an order until it is taken: again when there is room for it, and in case it was lost."""
        while not is_done():
            await self._give(make(), is_done)

    async def _give(self, order: ClusterEvent, is_done: Callable[[], bool]) -> None:
        seen = self._n_rooms
        self._bus.publish(order)
        with trio.move_on_after(ORDER_TIMEOUT):
            await self._until(lambda: is_done() or self._n_rooms != seen)

    async def _until(self, is_done: Callable[[], bool]) -> None:
        """Wait until the snapshot shows something. Cancelling loses nothing."""
        while not is_done():
            if self._is_read:
                await self._changed.wait()
                continue
            self._is_read = True
            try:
                event = await self._mailbox.get()
                self._n_rooms += isinstance(event, OrderTaken) and event.has_room
            except trio.EndOfChannel:
                raise RuntimeError("the node has stopped") from None
            finally:
                self._is_read = False
                self._changed.set()
                self._changed = trio.Event()
