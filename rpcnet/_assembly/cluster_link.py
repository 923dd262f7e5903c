"""The link of a program that is no member to a cluster: it follows one node's registry, and moves on when that ends.

The rules of this file:

* One node is followed at a time. When it drains, dies or cannot be reached, another one is: any that is known to be
  alive, in random order, then the seeds.
* What is known stays as it was until another node tells its own account of it, so calls go on meanwhile.
* Connections with a node that is reported to have failed, left or been restarted are cut, as a member would.
* The link never gives up once it has been made. After a round in which nobody could be followed, or not for long, there
  is a pause.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from random import Random
from typing import cast

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from rpcnet._builtin.cluster import Cluster
from rpcnet._clients.caller import Target
from rpcnet._clients.one_peer import OnePeer, OnePeerCaller
from rpcnet._clients.stubs import make_stub
from rpcnet._core.following import ClusterNews, Followed, NewsKind
from rpcnet._core.redialling import DialKey, Redialling
from rpcnet._core.resilience import RetryPolicy
from rpcnet._tasks.bus import Bus
from rpcnet._tasks.subscriptions import SubscriptionHub
from rpcnet.client import ClientHost
from rpcnet.config import RpcConfig, SupervisionConfig
from rpcnet.errors import JoinError, RpcNetError, Unavailable
from rpcnet.events import ClusterEvent, NodeFailed, NodeLeft, NodeReplaced
from rpcnet.selectors import Selector
from rpcnet.views import NodeRegistry

from .client_port import ClientParts, Route, first_to_answer
from .common import child

__all__ = ["ClusterLink"]

log = logging.getLogger("rpcnet.client")
_ONCE = RetryPolicy(max_attempts=1)
_LONG = 1.0
"""Seconds for which a node must have been followed, for another round to begin at once."""
_ROUNDS: DialKey = ("", None)
_NOBODY = Unavailable("nobody could be followed")


@attrs.define(eq=False, kw_only=True)
class ClusterLink(ClientParts):
    """What a running client of a cluster is made of."""

    seeds: Sequence[Route]
    answers: dict[str, str]
    """What each seed answered, as far as that was no success."""
    config: RpcConfig
    rng: Random
    bus: Bus
    hub: SubscriptionHub
    registry: NodeRegistry
    _followed: Followed = attrs.field(factory=Followed)
    _rounds: Redialling = attrs.field(init=False)
    _settled: trio.Event = attrs.field(factory=trio.Event)
    _has_begun: bool = False
    _begun_at: float = 0.0

    @classmethod
    def make(cls, seeds: Sequence[Route], answers: dict[str, str], config: RpcConfig, rng: Random) -> ClusterLink:
        """Return a link that goes through some seeds.

        Args:
            seeds: the ways to reach them.
            answers: why others cannot be reached.
            config: limits.
            rng: the client's source of chance.
        """
        supervision = SupervisionConfig()
        bus, hub = Bus(supervision.inbox_size), SubscriptionHub(supervision.subscription_size)
        link = cls(
            endpoints=list(dict.fromkeys(route.endpoint for route in seeds)),
            seeds=seeds,
            answers=answers,
            config=config,
            rng=rng,
            bus=bus,
            hub=hub,
            registry=NodeRegistry(bus, hub),
        )
        bus.post(link._followed.snapshot())
        return link

    def __attrs_post_init__(self) -> None:
        """Prepare the pauses between rounds."""
        self._rounds = Redialling(self.config.reconnect_min, self.config.reconnect_max, child(self.rng))

    def _client_host(self) -> ClientHost:
        return ClientHost(self.registry, self.endpoint, self.config, child(self.rng))

    def start_more(self, nursery: trio.Nursery) -> None:
        """Begin to follow."""
        nursery.start_soon(self._follow_for_ever, name="rpcnet cluster link")

    async def enter(self) -> None:
        """Wait until a seed is followed. A checkpoint.

        Raises:
            JoinError: none could be; the message names each with what it answered.
        """
        await self._settled.wait()
        if not self._has_begun:
            listed = "; ".join(f"{seed}: {answer}" for seed, answer in self.answers.items())
            raise JoinError(f"no node of the cluster could be reached: {listed}", self.answers)

    def close(self) -> None:
        """Close the ports and end all subscriptions."""
        super().close()
        self.hub.close()

    # --- following

    @enable_ki_protection
    async def _follow_for_ever(self) -> None:
        while True:
            has_followed = await self._round(self._routes())
            if not self._has_begun:
                self._settled.set()
                return
            now = trio.current_time()
            if has_followed and now - self._begun_at >= _LONG:
                self._rounds.succeeded(_ROUNDS)
            else:
                self._rounds.failed(_ROUNDS, _NOBODY, now)
                await trio.sleep(self._rounds.pause(_ROUNDS, now))

    def _routes(self) -> list[Route]:
        """Return whom to follow next, the best first."""
        nodes = list(self._followed.snapshot().alive())
        self.rng.shuffle(nodes)
        known = {node.address: Route(self.endpoint, node.address, node.name) for node in nodes}
        return [*known.values(), *[seed for seed in self.seeds if seed.address not in known]]

    async def _round(self, routes: Sequence[Route]) -> bool:
        """Follow the first of some nodes that can be followed, until that ends; return whether there was one."""
        left = list(routes)
        while left:
            winner, failures = await first_to_answer(left)
            for route, error in failures.items():
                self._note(route, str(error))
            if winner is None:
                return False
            if await self._follow(winner):
                return True
            left = [route for route in left if route is not winner and route not in failures]
        return False

    async def _follow(self, route: Route) -> bool:
        """Follow a node until that ends; return whether it ever told all that it knows."""
        has_told = trio.Event()
        async with trio.open_nursery() as nursery:

            @enable_ki_protection
            async def limit() -> None:
                with trio.move_on_after(self.config.connect_timeout):
                    await has_told.wait()
                    return
                self._note(route, f"told nothing within {self.config.connect_timeout:g} s")
                nursery.cancel_scope.cancel()

            nursery.start_soon(limit)
            try:
                await self._listen(route, has_told)
                self._note(route, "takes no followers, because it is draining")
            except RpcNetError as error:
                self._note(route, str(error))
            nursery.cancel_scope.cancel()
        return has_told.is_set()

    async def _listen(self, route: Route, has_told: trio.Event) -> None:
        caller = OnePeerCaller(route.endpoint, OnePeer(route.address, route.name), _ONCE, child(self.rng))
        target = functools.partial(Target, where=Selector())
        stub = cast("Cluster", make_stub(caller, Cluster, self.config, target))
        self._followed.begin()
        async with stub.watch() as watched:
            async for news in watched:
                self._take(news, route.name or route.address)
                if news.kind is NewsKind.LAST_PIECE:
                    self._begin(route)
                    has_told.set()

    def _begin(self, route: Route) -> None:
        """Note that a node is followed."""
        self._begun_at = trio.current_time()
        if not self._has_begun:
            self._has_begun = True
            self.keep_only(route.endpoint)
            self.seeds = [seed for seed in self.seeds if seed.endpoint is route.endpoint]
            self._settled.set()

    def _note(self, route: Route, answer: str) -> None:
        if not self._has_begun:
            self.answers[route.address] = answer
        log.info("the cluster is not followed through %s: %s", route.name or route.address, answer)

    def _take(self, news: ClusterNews, source: str) -> None:
        events = self._followed.take(news, source, trio.current_time())
        self.bus.post(self._followed.snapshot())
        for event in events:
            self.hub.publish(event)
            self._cut(event)

    def _cut(self, event: ClusterEvent) -> None:
        """Close the connections with a node that is gone; one that was merely forgotten may well be there."""
        match event:
            case NodeFailed(node=node) if self._followed.knows(node.id):
                self.endpoint.cut(node.name, node.boot_id, f"{node.name} was declared failed")
            case NodeLeft(node=node):
                self.endpoint.cut(node.name, node.boot_id, f"{node.name} has left")
            case NodeReplaced(node=node):
                self.endpoint.cut(node.name, node.boot_id - 1, f"{node.name} was restarted")
