"""The cache of the examples under simulation: nodes crash and join in virtual time."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import rpcnet
from rpcnet.testing import SimulatedCluster, SimulatedNode, run

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "examples" / "p2p_cache"))

from cache import Cache, Entry, Version, ranking

KEYS = [f"key{number}" for number in range(8)]
CONVERGED = 30.0
"""Seconds of virtual time within which a change of membership is known everywhere."""


@attrs.define(eq=False)
class Member:
    """One node of the simulated cache."""

    handle: SimulatedNode
    cache: Cache
    following: trio.CancelScope


class Caches:
    """The caches of a simulated cluster."""

    def __init__(self, cluster: SimulatedCluster, nursery: trio.Nursery, settle_seconds: float) -> None:
        self.cluster = cluster
        self._settle_seconds = settle_seconds
        self._nursery = nursery
        self._made: dict[str, Cache] = {}
        self.members: list[Member] = []

    async def start(self, count: int) -> None:
        for handle in await self.cluster.start(count, services=self._make):
            member = Member(handle, self._made[handle.name], trio.CancelScope())
            member.cache.attach(handle.node)
            self._nursery.start_soon(self._follow, member)
            self.members.append(member)
        await self.cluster.converged(within=CONVERGED)

    async def crash(self, member: Member) -> None:
        self.members.remove(member)
        member.following.cancel()
        await self.cluster.crash(member.handle)

    async def noticed(self, crashes: int) -> None:
        """Wait until all members know of so many crashes and have moved their entries."""
        for member in self.members:
            await member.handle.node.registry.wait_for(crashes, state=rpcnet.NodeState.FAILED)
        await trio.sleep(5)

    def holders(self, key: str) -> list[Member]:
        """Return the members that a key belongs on, the first of its ranking first."""
        by_id = {member.handle.node.id: member for member in self.members}
        return [by_id[node_id] for node_id in ranking(key, by_id)[:2]]

    async def read_everywhere(self, key: str) -> set[bytes | None]:
        return {await member.cache.get(key) for member in self.members}

    def _make(self, name: str) -> list[object]:
        self._made[name] = Cache(max_entries=100, settle_seconds=self._settle_seconds)
        return [self._made[name]]

    async def _follow(self, member: Member) -> None:
        with member.following:
            await member.cache.follow()


def simulate(scenario: Callable[[Caches], Awaitable[None]], *, nodes: int = 5, settle: float = 0.2) -> None:
    """Run a scenario on a cluster of caches that has converged."""

    @asynccontextmanager
    async def caches(cluster: SimulatedCluster) -> AsyncIterator[Caches]:
        async with trio.open_nursery() as nursery:
            opened = Caches(cluster, nursery, settle)
            await opened.start(nodes)
            yield opened
            nursery.cancel_scope.cancel()

    async def whole(cluster: SimulatedCluster) -> None:
        async with caches(cluster) as opened:
            await scenario(opened)

    run(whole, seed=7)


def test_what_one_node_writes_every_node_reads() -> None:
    async def scenario(caches: Caches) -> None:
        for key in KEYS:
            await caches.members[0].cache.put(key, key.encode())
        for key in KEYS:
            assert await caches.read_everywhere(key) == {key.encode()}

    simulate(scenario)


def test_a_key_lives_on_two_nodes_and_these_are_the_first_of_its_ranking() -> None:
    async def scenario(caches: Caches) -> None:
        for key in KEYS:
            await caches.members[0].cache.put(key, b"x")
        for key in KEYS:
            having = [member for member in caches.members if await member.cache.fetch(key) is not None]
            assert sorted(map(id, having)) == sorted(map(id, caches.holders(key)))

    simulate(scenario)


def test_reads_find_what_was_written_right_after_a_replica_crashed() -> None:
    async def scenario(caches: Caches) -> None:
        for key in KEYS:
            await caches.members[0].cache.put(key, key.encode())
        await caches.crash(caches.holders(KEYS[0])[0])
        for key in KEYS:
            assert await caches.read_everywhere(key) == {key.encode()}

    simulate(scenario)


def test_after_a_crash_the_entries_are_on_two_nodes_again_so_another_may_crash() -> None:
    async def scenario(caches: Caches) -> None:
        for key in KEYS:
            await caches.members[0].cache.put(key, key.encode())
        for crashes in (1, 2):
            await caches.crash(caches.holders(KEYS[0])[0])
            await caches.noticed(crashes)
            for key in KEYS:
                for holder in caches.holders(key):
                    assert await holder.cache.fetch(key) is not None
        for key in KEYS:
            assert await caches.read_everywhere(key) == {key.encode()}

    simulate(scenario)


def test_reads_find_what_was_written_when_a_node_has_joined() -> None:
    async def scenario(caches: Caches) -> None:
        for key in KEYS:
            await caches.members[0].cache.put(key, key.encode())
        await caches.start(2)
        for key in KEYS:
            assert await caches.read_everywhere(key) == {key.encode()}
        await trio.sleep(5)
        for key in KEYS:
            having = [member for member in caches.members if await member.cache.fetch(key) is not None]
            assert set(map(id, caches.holders(key))) <= set(map(id, having))

    simulate(scenario, nodes=3)


def test_reads_find_and_repair_what_has_not_been_moved_yet() -> None:
    async def scenario(caches: Caches) -> None:
        for key in KEYS:
            await caches.members[0].cache.put(key, key.encode())
        await caches.start(5)
        unmoved = [key for key in KEYS if [await at.cache.fetch(key) for at in caches.holders(key)] == [None, None]]
        assert unmoved
        for key in unmoved:
            assert await caches.members[-1].cache.get(key) == key.encode()
            assert None not in [await at.cache.fetch(key) for at in caches.holders(key)]

    simulate(scenario, nodes=3, settle=100_000.0)


def test_an_entry_is_gone_when_its_time_is_over() -> None:
    async def scenario(caches: Caches) -> None:
        writer = caches.members[0].cache
        await writer.put("short", b"x", 10.0)
        await writer.put("long", b"x", 1000.0)
        await trio.sleep(8)
        assert await caches.read_everywhere("short") == {b"x"}
        await trio.sleep(4)
        assert await caches.read_everywhere("short") == {None}
        assert await caches.read_everywhere("long") == {b"x"}

    simulate(scenario, nodes=3)


def test_an_older_value_does_not_come_back_when_a_newer_one_expires() -> None:
    async def scenario(caches: Caches) -> None:
        await caches.members[0].cache.put("key", b"old")
        old = await caches.holders("key")[0].cache.fetch("key")
        assert old is not None
        for member in caches.members:
            await member.cache.store("key", old)
        await caches.members[1].cache.put("key", b"new", 5.0)
        await trio.sleep(6)
        assert await caches.read_everywhere("key") == {None}

    simulate(scenario)


def test_a_deletion_outlives_the_crash_of_a_replica() -> None:
    async def scenario(caches: Caches) -> None:
        await caches.members[0].cache.put("key", b"x")
        await caches.members[1].cache.delete("key")
        await caches.crash(caches.holders("key")[0])
        assert await caches.read_everywhere("key") == {None}
        await caches.members[0].cache.put("key", b"again")
        assert await caches.read_everywhere("key") == {b"again"}

    simulate(scenario)


def test_two_sides_of_a_partition_agree_once_it_is_over() -> None:
    async def scenario(caches: Caches) -> None:
        left, right = caches.members[:2], caches.members[2:]
        caches.cluster.partition([member.handle for member in left], [member.handle for member in right])
        await trio.sleep(60)
        await left[0].cache.put("key", b"left")
        await right[0].cache.put("key", b"right")
        assert await left[1].cache.get("key") == b"left"
        assert await right[1].cache.get("key") == b"right"
        caches.cluster.repair()
        await caches.cluster.converged(within=60)
        await trio.sleep(5)
        found = await caches.read_everywhere("key")
        assert found in ({b"left"}, {b"right"})

    simulate(scenario)


def test_a_node_keeps_a_bounded_number_of_entries_and_drops_what_was_not_used() -> None:
    async def scenario() -> None:
        cache = Cache(max_entries=3)
        for number in range(3):
            await cache.store(f"key{number}", Entry(Version(1, "w"), b"x", None))
        await cache.fetch("key0")
        await cache.store("key3", Entry(Version(1, "w"), b"x", None))
        assert len(cache) == 3
        assert [await cache.fetch(f"key{number}") is None for number in range(4)] == [False, True, False, False]

    trio.run(scenario)


def test_the_later_version_wins_whatever_the_order_of_arrival() -> None:
    async def scenario() -> None:
        early, late = Entry(Version(1, "z"), b"early", None), Entry(Version(2, "a"), b"late", None)
        for order in ([early, late], [late, early]):
            cache = Cache()
            for entry in order:
                await cache.store("key", entry)
            assert await cache.fetch("key") == late

    trio.run(scenario)


async def test_a_cache_without_its_node_refuses_what_needs_the_others() -> None:
    with pytest.raises(rpcnet.Unavailable, match="not attached"):
        await Cache().get("key")


@pytest.mark.parametrize("ttl", [0.0, -1.0, float("inf"), float("nan")])
async def test_a_time_to_live_that_makes_no_sense_is_refused(ttl: float) -> None:
    with pytest.raises(rpcnet.InvalidArgument, match="ttl"):
        await Cache().put("key", b"x", ttl)


@given(st.sets(st.text(max_size=4), min_size=2, max_size=8), st.text(max_size=8))
def test_a_node_that_goes_moves_only_the_keys_it_held(node_ids: set[str], key: str) -> None:
    ranked = ranking(key, node_ids)
    assert sorted(ranked) == sorted(node_ids)
    for gone in ranked:
        assert ranking(key, node_ids - {gone}) == [node_id for node_id in ranked if node_id != gone]
