"""The key ring of a whole cluster: rotated under load, with nodes that lack it, with two operators, in any order."""

from __future__ import annotations

from random import Random

import attrs
import pytest
import trio
from _world import World, seen, stub

import rpcnet
from rpcnet._core.keyring import GossipKey
from rpcnet.testing import SimulatedCluster, SimulatedNode, run


def secret(number: int) -> bytes:
    """Return the secret of a key; those of small numbers have ids of their own."""
    return Random(number).randbytes(32)


def id_of(number: int) -> int:
    return GossipKey.of(secret(number)).key_id


@attrs.define
class Traffic:
    """Calls and events that go on while something else happens."""

    world: World
    calls: int = 0
    problems: list[str] = attrs.field(factory=list)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for handle in self.world.handles:
                nursery.start_soon(self._call, handle)
                nursery.start_soon(self._publish, handle)

    async def _call(self, handle: SimulatedNode) -> None:
        while True:
            for other in self.world.handles:
                try:
                    with trio.fail_after(10):
                        assert await stub(handle, other).again("load", 0.01) == other.name
                except (rpcnet.RpcNetError, trio.TooSlowError) as error:
                    self.problems.append(f"{handle.name} to {other.name}: {error!r}")
                self.calls += 1
            await trio.sleep(0.1)

    async def _publish(self, handle: SimulatedNode) -> None:
        while True:
            await handle.node.publish("load", b"x" * 100)
            await trio.sleep(0.5)


def lose(cluster: SimulatedCluster, handles: list[SimulatedNode], probability: float) -> None:
    for one in handles:
        for other in handles:
            if one is not other:
                cluster.set_loss(one, other, probability)


def sealing(handle: SimulatedNode) -> dict[str, int]:
    return attrs.asdict(handle.node.statistics().sealing)


def rings(handles: list[SimulatedNode]) -> set[tuple[int, ...]]:
    """Return the different rings that nodes have, as ids."""
    desks = [handle.node._running.endpoint.keys.desk for handle in handles]
    return {(desk.ring.in_use.key_id, *sorted(key.key_id for key in desk.ring.keys[1:])) for desk in desks}


async def rotated(handle: SimulatedNode, number: int) -> rpcnet.KeyReport:
    """Change the key of the whole cluster in three steps."""
    (old,) = (key for key in (await handle.node.keys.list()).keys if key.use)
    assert (await handle.node.keys.install(secret(number))).is_complete
    assert (await handle.node.keys.use(id_of(number))).is_complete
    return await handle.node.keys.remove(old.key_id)


@pytest.mark.parametrize("seed", range(2))
def test_keys_are_rotated_under_load_and_loss_and_nobody_notices(seed: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        handles = await world.start(6)
        lose(cluster, handles, 0.1)
        traffic = Traffic(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(traffic.run)
            await trio.sleep(5)
            before = {handle.name: sealing(handle)["unknown_key"] for handle in handles}
            report = await rotated(handles[2], 1)
            await trio.sleep(10)
            nursery.cancel_scope.cancel()
        assert report.is_complete
        assert list(report.nodes) == ["n2", "n0", "n1", "n3", "n4", "n5"]
        assert [(key.key_id, key.have, key.use) for key in report.keys] == [(id_of(1), 6, 6)]
        assert rings(handles) == {(id_of(1),)}
        assert traffic.calls > 500
        assert traffic.problems == []
        assert [entry for entry in cluster.trace if entry.what.startswith(("NodeSuspected", "NodeFailed"))] == []
        after = {handle.name: sealing(handle)["unknown_key"] for handle in handles}
        assert all(after[name] - before[name] <= 5 for name in after)

    run(scenario, seed=seed)
