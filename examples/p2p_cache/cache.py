"""A cache without a head: every node serves it and calls it, and the registry is all they need to agree.

The rules of this file:

* A key lives on the ``replicas`` nodes that come first in its ranking (rendezvous hashing): every node ranks the same
  nodes in the same order, and when a node comes or goes only the keys it has a part in move.
* What is written carries a version: a counter above any the writer has seen, then the writer's id. The higher version
  wins wherever two meet; deleting writes a tombstone, which is a version like any other.
* A read asks the replicas and believes the highest version; if none of them has the key it asks everybody else. So a
  read finds what was written although a replica died or a node joined a moment ago.
* After every change of membership each node hands its entries to the nodes that should have them now.
* Memory is bounded: beyond ``max_entries`` the entry that was used least recently goes. It is a cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections import OrderedDict
from collections.abc import Iterable

import attrs
import trio

import rpcnet

SERVICE = "p2p_cache"
"""The name under which nodes advertise the cache."""


@attrs.frozen(order=True)
class Version:
    """Which of two writes is the later one."""

    counter: int
    """Above every counter that the writer had seen."""
    writer: str
    """The writer's node id: decides between writes that did not know of each other."""


@attrs.frozen
class Entry:
    """What is known of one key, as it travels."""

    version: Version
    """Which write this is."""
    value: bytes | None
    """What was written; None is a tombstone: it was deleted."""
    seconds_left: float | None
    """How long it is still good for; None for ever. A duration, because nodes do not share a clock."""


@attrs.frozen
class _Stored:
    version: Version
    value: bytes | None
    expires_at: float


def ranking(key: str, node_ids: Iterable[str]) -> list[str]:
    """Rank nodes for a key by rendezvous hashing, the best first (Thaler and Ravishankar, 1998)."""

    def weight(node_id: str) -> bytes:
        return hashlib.blake2b(f"{node_id}/{key}".encode(), digest_size=8).digest()

    return sorted(node_ids, key=lambda node_id: (weight(node_id), node_id), reverse=True)


@rpcnet.service(name=SERVICE)
class Cache:
    """One node's part of the cache, and the way to all of it.

    ``get``, ``put`` and ``delete`` may be called on any node, locally or through a stub. ``fetch`` and ``store`` are
    what the nodes ask each other.

    Args:
        replicas: on how many nodes a key lives.
        max_entries: how many entries one node keeps, tombstones included.
        call_timeout: seconds after which a silent node is left out of one operation.
        tombstone_seconds: how long a deletion is remembered; longer than a node may be away and come back.
        settle_seconds: how long to wait after a change of membership for the next one, before entries are moved.
    """

    def __init__(
        self,
        *,
        replicas: int = 2,
        max_entries: int = 10_000,
        call_timeout: float = 2.0,
        tombstone_seconds: float = 600.0,
        settle_seconds: float = 0.2,
    ) -> None:
        self._replicas = replicas
        self._max_entries = max_entries
        self._call_timeout = call_timeout
        self._tombstone_seconds = tombstone_seconds
        self._settle_seconds = settle_seconds
        self._entries: OrderedDict[str, _Stored] = OrderedDict()
        self._counter = 0
        self._placement: tuple[str, ...] = ()
        self._node: rpcnet.Node | None = None

    def attach(self, node: rpcnet.Node) -> None:
        """Take the node this object is served by, right after entering its block; calls are refused until then."""
        self._node = node

    def __len__(self) -> int:
        """Return how many entries this node holds, tombstones and what expired unnoticed included."""
        return len(self._entries)

    # --- what an application calls, on any node

    @rpcnet.rpc(idempotent=True)
    async def get(self, key: str) -> bytes | None:
        """Return the value of a key, or None if there is none (any more)."""
        first, others = self._replicas_and_others(key)
        answers = await self._ask_all(first, key)
        newest = _newest(answers.values())
        if newest is None:
            newest = _newest((await self._ask_all(others, key)).values())
        if newest is None:
            return None
        stale = [node_id for node_id in first if (had := answers.get(node_id)) is None or had.version < newest.version]
        await self._store_all(stale, key, newest)
        return newest.value

    @rpcnet.rpc(idempotent=True)
    async def put(self, key: str, value: bytes, ttl: float | None = None) -> None:
        """Write a value; it is on all replicas that answer when this returns.

        Args:
            key: the key.
            value: the value.
            ttl: seconds after which it is gone; None for ever.

        Raises:
            InvalidArgument: ``ttl`` is not above zero.
            Unavailable: no replica took it.
        """
        if ttl is not None and not 0 < ttl < math.inf:
            raise rpcnet.InvalidArgument(f"ttl = {ttl}: must be above 0 and finite, or None")
        await self._write(key, value, ttl)

    @rpcnet.rpc(idempotent=True)
    async def delete(self, key: str) -> None:
        """Delete a key; deleting what is not there is no error.

        Raises:
            Unavailable: no replica took the deletion.
        """
        await self._write(key, None, self._tombstone_seconds)

    # --- what the nodes ask each other

    @rpcnet.rpc(idempotent=True)
    async def fetch(self, key: str) -> Entry | None:
        """Return what this node has under a key, a tombstone included."""
        return self._look_up(key)

    @rpcnet.rpc(idempotent=True)
    async def store(self, key: str, entry: Entry) -> None:
        """Keep an entry here, unless a later one is here already."""
        self._keep(key, entry)

    # --- following the cluster

    async def follow(self) -> None:
        """Hand entries on whenever nodes come or go. Runs until it is cancelled: for as long as the node is up.

        Raises:
            Unavailable: no node is attached yet.
        """
        changes = (rpcnet.NodeJoined, rpcnet.NodeFailed, rpcnet.NodeLeft, rpcnet.NodeRecovered, rpcnet.NodeReplaced)
        async with self._attached().events(*changes, rpcnet.EventsDropped) as events:
            async for _ in events:
                await trio.sleep(self._settle_seconds)
                await self._rebalance()

    async def _rebalance(self) -> None:
        """Give every entry to the nodes that should have it now, and drop what has its full number elsewhere."""
        placement = self._peers()
        if placement == self._placement:
            return
        everything_stored = True
        for key in list(self._entries):
            entry = self._look_up(key)
            if entry is None:
                continue
            first, _ = self._replicas_and_others(key)
            targets = [node_id for node_id in first if node_id != self._attached().id]
            stored = await self._store_all(targets, key, entry)
            everything_stored &= stored == len(targets)
            if stored == len(first):
                self._drop(key, entry.version)
        self._placement = placement if everything_stored else ()

    # --- the other nodes

    def _attached(self) -> rpcnet.Node:
        if self._node is None:
            raise rpcnet.Unavailable("this cache is not attached to its node yet", never_ran=True)
        return self._node

    def _peers(self) -> tuple[str, ...]:
        """Return the ids of the nodes that hold the cache, this one included, in order."""
        node = self._attached()
        return tuple(sorted({node.id, *(peer.id for peer in node.registry.alive() if SERVICE in peer.services)}))

    def _replicas_and_others(self, key: str) -> tuple[list[str], list[str]]:
        """Return the nodes a key should be on, and everybody else who may still have it, suspects included."""
        ranked = ranking(key, self._peers())
        first = ranked[: self._replicas]
        suspects = [
            peer.id
            for peer in self._attached().registry.nodes()
            if peer.is_usable and SERVICE in peer.services and peer.id not in ranked
        ]
        return first, ranked[self._replicas :] + sorted(suspects)

    async def _write(self, key: str, value: bytes | None, seconds: float | None) -> None:
        first, others = self._replicas_and_others(key)
        newest = _newest((await self._ask_all(first, key)).values())
        counter = max(self._counter, newest.version.counter if newest else 0) + 1
        entry = Entry(Version(counter, self._attached().id), value, seconds)
        stored = await self._store_all(first, key, entry)
        while stored < self._replicas and others:
            stored += await self._store_all([others.pop(0)], key, entry)
        if not stored:
            raise rpcnet.Unavailable(f"no replica of {key!r} took the write")

    async def _ask_all(self, node_ids: Iterable[str], key: str) -> dict[str, Entry | None]:
        """Ask nodes for a key, all at once; those that do not answer are missing from the result."""
        answers: dict[str, Entry | None] = {}

        async def ask(node_id: str) -> None:
            with trio.move_on_after(self._call_timeout), contextlib.suppress(rpcnet.RpcNetError):
                answers[node_id] = await self._at(node_id).fetch(key)

        async with trio.open_nursery() as nursery:
            for node_id in node_ids:
                nursery.start_soon(ask, node_id)
        return answers

    async def _store_all(self, node_ids: Iterable[str], key: str, entry: Entry) -> int:
        """Store an entry on nodes, all at once; return how many took it."""
        took: list[str] = []

        async def store(node_id: str) -> None:
            with trio.move_on_after(self._call_timeout), contextlib.suppress(rpcnet.RpcNetError):
                await self._at(node_id).store(key, entry)
                took.append(node_id)

        async with trio.open_nursery() as nursery:
            for node_id in node_ids:
                nursery.start_soon(store, node_id)
        return len(took)

    def _at(self, node_id: str) -> Cache:
        node = self._attached()
        return self if node_id == node.id else node.stub(Cache, node=node_id)

    # --- this node's own entries

    def _look_up(self, key: str) -> Entry | None:
        now = trio.current_time()
        stored = self._entries.get(key)
        if stored is not None and stored.value is not None and stored.expires_at <= now:
            # What expired is remembered as deleted, or an older value that survived elsewhere would come back.
            stored = _Stored(stored.version, None, stored.expires_at + self._tombstone_seconds)
            self._entries[key] = stored
        if stored is None or stored.expires_at <= now:
            self._entries.pop(key, None)
            return None
        self._entries.move_to_end(key)
        seconds_left = None if stored.expires_at == math.inf else stored.expires_at - now
        return Entry(stored.version, stored.value, seconds_left)

    def _keep(self, key: str, entry: Entry) -> None:
        self._counter = max(self._counter, entry.version.counter)
        had = self._look_up(key)
        if had is not None and had.version >= entry.version:
            return
        expires_at = math.inf if entry.seconds_left is None else trio.current_time() + entry.seconds_left
        self._entries[key] = _Stored(entry.version, entry.value, expires_at)
        self._entries.move_to_end(key)
        while len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def _drop(self, key: str, version: Version) -> None:
        if key in self._entries and self._entries[key].version == version:
            del self._entries[key]


def _newest(entries: Iterable[Entry | None]) -> Entry | None:
    return max((entry for entry in entries if entry is not None), key=lambda entry: entry.version, default=None)
