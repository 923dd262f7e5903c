"""Many nodes with nothing but user events and queries, over a network that loses, delays, repeats and reorders."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Sequence

import attrs

from rpcnet._core.asking import Asked
from rpcnet._core.user_events import Emit, Send, UserEffect, UserEventMachine, UserState
from rpcnet._core.user_queue import STRING_OVERHEAD
from rpcnet._signals import Ask, Publish, Respond
from rpcnet.config import GossipConfig
from rpcnet.events import ClusterEvent, NodeInfo, NodeState, QueryReceived, UserEvent

BUDGET = 1100
NEVER = float("inf")


def info(index: int, **changes: object) -> NodeInfo:
    """Return node number ``index``."""
    base = NodeInfo(
        id=f"{index:032x}",
        name=f"n{index}",
        address=f"n{index}:1",
        boot_id=1,
        incarnation=0,
        state=NodeState.ALIVE,
    )
    return attrs.evolve(base, **changes)  # type: ignore[arg-type]


class Peer:
    """One node of the world."""

    def __init__(self, world: UserWorld, node: NodeInfo) -> None:
        self.world = world
        self.info = node
        self.is_up = True
        self.heard: list[ClusterEvent] = []
        self.armed_at = NEVER
        self.machine = self.fresh(None)

    def fresh(self, known: UserState | None) -> UserEventMachine:
        """Return a new machine for this node."""
        self.machine = UserEventMachine(
            local=lambda: self.info,
            members=lambda: self.world.members,
            config=self.world.config,
            rng=random.Random(self.world.rng.random()),
            now=self.world.now,
            known=known,
        )
        return self.machine

    def crash_task(self) -> None:
        """Replace the machine, as after a failure of the task that holds it."""
        self.fresh(self.machine.state())
        self.armed_at = NEVER
        self.world.perform(self, [])

    def restart(self) -> None:
        """Start the process again."""
        self.info = attrs.evolve(self.info, boot_id=self.info.boot_id + 1)
        self.fresh(None)

    @property
    def user_events(self) -> list[tuple[str, int]]:
        """Sender (its last digits) and number of each event that was delivered."""
        return [(event.sender.lstrip("0"), event.number) for event in self.heard if isinstance(event, UserEvent)]

    @property
    def numbers(self) -> list[int]:
        """The numbers of the events that were delivered."""
        return [number for _, number in self.user_events]

    @property
    def questions(self) -> list[QueryReceived]:
        """The questions that the application heard."""
        return [event for event in self.heard if isinstance(event, QueryReceived)]

    def publish(self, ticket: int, name: str = "e", payload: bytes = b"") -> None:
        """Give the order to publish."""
        order = Publish(ticket, name, payload, at=self.world.now)
        self.world.perform(self, self.machine.publish(order, self.world.now))

    def ask(self, number: int, timeout: float, *, where: str = "", name: str = "q", payload: bytes = b"") -> None:
        """Give the order to ask."""
        now = self.world.now
        order = Ask(number, name, payload, where, now + timeout, at=now)
        self.world.perform(self, self.machine.ask(order, now))

    def respond(self, query: QueryReceived, payload: bytes) -> None:
        """Give the order to answer."""
        now = self.world.now
        order = Respond(query.sender, query.boot_id, query.number, payload, at=now)
        self.world.perform(self, self.machine.respond(order, now))

    def asked(self, number: int) -> Asked:
        """Return what became of a question."""
        return next(asked for asked in self.machine.state().queries.asked if asked.identity.number == number)


class UserWorld:
    """Nodes that gossip every ``gossip_interval`` while they have something to tell.

    Args:
        n: how many nodes.
        seed: of all chance.
        loss: the share of datagrams that get lost.
        repeat: the share that arrive twice.
        latency: seconds; each datagram takes half to one and a half of it, so they overtake each other.
        answer: what the application of a node answers, and after how long; None for silence.
        tags: the tags of each node.
        config: the settings of all.
    """

    def __init__(
        self,
        n: int,
        *,
        seed: int = 1,
        loss: float = 0.0,
        repeat: float = 0.0,
        latency: float = 0.005,
        answer: Callable[[Peer, QueryReceived], tuple[bytes, float] | None] = lambda _peer, _query: None,
        tags: Callable[[int], dict[str, str]] = lambda _index: {},
        config: GossipConfig | None = None,
    ) -> None:
        self.now = 0.0
        self.config = config or GossipConfig()
        self.rng = random.Random(seed)
        self.loss, self.repeat, self.latency, self.answer = loss, repeat, latency, answer
        self.datagrams = 0
        self._order = itertools.count()
        self._pending: list[tuple[float, int, Callable[[], None]]] = []
        self.members: tuple[NodeInfo, ...] = tuple(info(index, tags=tags(index)) for index in range(n))
        self.peers: list[Peer] = []
        for node in self.members:
            self.add(node)

    def add(self, node: NodeInfo) -> Peer:
        """Start a node."""
        peer = Peer(self, node)
        self.peers.append(peer)
        self._gossip(peer)
        return peer

    def join(self) -> Peer:
        """Start one more node, known to all at once."""
        node = info(len(self.peers))
        self.members = (*self.members, node)
        return self.add(node)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._pending and self._pending[0][0] <= end:
            at, _, what = heapq.heappop(self._pending)
            self.now = max(self.now, at)
            what()
        self.now = end

    def _arm(self, peer: Peer) -> None:
        timer = peer.machine.next_timer()
        if timer is not None and timer < peer.armed_at:
            peer.armed_at = timer
            self.later(timer - self.now, lambda: self._fire(peer))

    def _fire(self, peer: Peer) -> None:
        peer.armed_at = NEVER
        if peer.is_up:
            self.perform(peer, peer.machine.on_timer(self.now))

    def later(self, after: float, what: Callable[[], None]) -> None:
        """Do something at a later time."""
        heapq.heappush(self._pending, (self.now + after, next(self._order), what))

    def _gossip(self, peer: Peer) -> None:
        self.later(self.config.gossip_interval * self.rng.uniform(0.99, 1.01), lambda: self._gossip(peer))
        if not peer.is_up or not len(peer.machine):
            return
        others = [other for other in self.peers if other is not peer]
        for other in self.rng.sample(others, min(self.config.gossip_fanout, len(others))):
            taken = peer.machine.take(BUDGET, len(self.members), self.now)
            assert sum(len(data) + STRING_OVERHEAD for data in taken) <= BUDGET
            self._send(peer, other, taken)
        self._arm(peer)

    def _send(self, sender: Peer, receiver: Peer, strings: Sequence[bytes]) -> None:
        copies = 0 if self.rng.random() < self.loss else 2 if self.rng.random() < self.repeat else 1
        self.datagrams += bool(strings)
        for _ in range(copies if strings else 0):
            self.later(
                self.latency * self.rng.uniform(0.5, 1.5), lambda: self._arrive(receiver, strings, sender.info.address)
            )

    def _arrive(self, peer: Peer, strings: Sequence[bytes], source: str) -> None:
        for data in strings if peer.is_up else ():
            self.perform(peer, peer.machine.handle(data, source, self.now))

    def perform(self, peer: Peer, effects: Sequence[UserEffect]) -> None:
        """Do what a machine wants done."""
        for effect in effects:
            match effect:
                case Send():
                    self._send(peer, self.peers[int(effect.node_id, 16)], [effect.data])
                case Emit():
                    peer.heard.append(effect.event)
                    if isinstance(effect.event, QueryReceived):
                        self._answer(peer, effect.event)
        self._arm(peer)

    def _answer(self, peer: Peer, query: QueryReceived) -> None:
        answer = self.answer(peer, query)
        if answer is not None:
            payload, after = answer
            self.later(after, lambda: peer.respond(query, payload))
