"""What nodes exchange over streams, and how a run plays it: opening, requests, answers, time-outs.

The rules of this file:

* As in the membership task, a node has a bounded number of streams under way, one of a kind per peer, and gives each
  up after a while. What was done until then stays done.
* A node that starts asks all its seeds at once, listens first, takes over what the first that answers says, and then
  shows itself; seeds that do not answer are asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING
from zlib import crc32

import attrs

from rpcnet._core.antientropy import BucketHashes
from rpcnet._core.exchanges import AskerExchange, Hearsay, encode_fetch
from rpcnet._core.members import MemberRecord
from rpcnet._core.metadata import Body
from rpcnet._core.swim import AskOverStream, FetchMetadata, OpenSync
from rpcnet._signals import PeerHeard

if TYPE_CHECKING:
    from .world import Host, World

__all__ = ["Streams"]

_MAX_STREAMS = 8
_TIMEOUT = 10.0
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0

Take = Callable[[bytes, float], bytes | None]
"""Takes in an answer; returns the next request, or None when there is nothing more to ask."""


@attrs.define(eq=False)
class _Talk:
    """One stream under way."""

    host: Host
    other: Host
    key: Hashable
    take: Take
    fail: Callable[[], None]
    ends_at: float
    is_over: bool = False


class _Newcomer:
    """What an exchange sees of a node that shows nothing but what it is asked to."""

    hashes = BucketHashes()

    def records(self) -> tuple[MemberRecord, ...]:
        return ()

    def heard_age(self, node_id: str, now: float) -> float:
        return 0.0

    def body(self, digest: bytes) -> Body | None:
        return None


def _nothing() -> None:
    """Do nothing about a stream that failed."""


class Streams:
    """All streams of a world."""

    def __init__(self, world: World) -> None:
        self._world = world

    # --- what membership asks for

    def open(self, host: Host, effect: OpenSync | FetchMetadata | AskOverStream) -> None:
        """Do what a membership machine wants done over a stream, if it may have one more."""
        world, swim = self._world, host.machines.swim
        match effect:
            case OpenSync(address=address):
                self._sync(host, address)
            case FetchMetadata(address=address, fetch=fetch):

                def fetched(reply: bytes | None) -> None:
                    world.perform(host, swim.fetched(fetch, reply, world.now))

                request = encode_fetch(fetch.digests)
                took = self._talk(
                    host,
                    address,
                    ("fetch", address),
                    request,
                    take=lambda reply, _: fetched(reply),
                    fail=lambda: fetched(None),
                )
                if not took:
                    fetched(None)
            case AskOverStream(node_id=node_id, address=address):
                request = AskerExchange.show(swim, ()).start(world.now)

                def heard(_reply: bytes, now: float) -> None:
                    world.perform(host, [PeerHeard(node_id, at=now)])

                self._talk(host, address, ("ask", node_id), request, take=heard)

    def _sync(self, host: Host, address: str) -> None:
        swim = host.machines.swim
        exchange = swim.exchange()

        def take(reply: bytes, now: float) -> bytes | None:
            request = exchange.handle(reply, now)
            self._world.perform(host, swim.hear(exchange.records, now))
            return request

        self._talk(host, address, ("sync", address), exchange.start(self._world.now), take=take)

    # --- joining

    def join(self, host: Host, addresses: Iterable[str]) -> None:
        """Let a node join through the first of its seeds that answers."""
        for address in addresses:
            self._listen(host, address, _FIRST_PAUSE)

    def _listen(self, host: Host, address: str, pause: float) -> None:
        if host.is_joined or not host.is_up:
            return
        world, swim = self._world, host.machines.swim
        listing = AskerExchange.listen(_Newcomer(), max_records=host.machines.config.gossip.max_members)
        heard: list[Hearsay] = []

        def take(reply: bytes, now: float) -> bytes | None:
            request = listing.handle(reply, now)
            heard.extend(listing.records)
            if request is not None or host.is_joined:
                return request
            host.is_joined = True
            world.perform(host, swim.joined(heard, address, now))
            shown = AskerExchange.show(_Newcomer(), [host.local])
            self._talk(host, address, ("show", address), shown.start(now), take=lambda _reply, _now: None)
            return None

        def fail() -> None:
            again = min(2 * pause, _LONGEST_PAUSE)
            world.at(world.now + pause * (0.5 + world.rng.random() / 2), lambda: self._listen(host, address, again))

        self._talk(host, address, ("join", address), listing.start(world.now), take=take, fail=fail)

    # --- the conversation

    def _talk(
        self,
        host: Host,
        address: str,
        key: Hashable,
        request: bytes,
        *,
        take: Take,
        fail: Callable[[], None] = _nothing,
    ) -> bool:
        world = self._world
        other = world.host_at(address)
        if other is None or key in host.streams or len(host.streams) >= _MAX_STREAMS:
            return False
        talk = _Talk(host, other, key, take, fail, world.now + _TIMEOUT)
        host.streams[key] = None
        world.at(talk.ends_at, lambda: self._give_up(talk))
        self._ask(talk, request, world.network.opening(host.number, other.number, world.now))
        return True

    def _ask(self, talk: _Talk, request: bytes, opening: float) -> None:
        world, host, other = self._world, talk.host, talk.other

        def answer() -> None:
            world.mark(other.number, crc32(request))
            reply, effects = other.machines.swim.answer_exchange(request, world.now)
            world.perform(other, effects)
            world.deliver(other, host, world.network.transfer(len(reply)), lambda: hear(reply))

        def hear(reply: bytes) -> None:
            if talk.is_over:
                return
            world.mark(host.number, crc32(reply))
            following = talk.take(reply, world.now)
            if following is None:
                self._end(talk)
            else:
                self._ask(talk, following, 0.0)

        if other.refuses:
            world.at(world.now + 2 * world.network.delay(), lambda: self._give_up(talk))
        else:
            world.deliver(host, other, opening + world.network.transfer(len(request)), answer)

    def _end(self, talk: _Talk) -> None:
        talk.is_over = True
        talk.host.streams.pop(talk.key, None)

    def _give_up(self, talk: _Talk) -> None:
        if not talk.is_over:
            self._end(talk)
            if talk.host.is_up:
                talk.fail()
