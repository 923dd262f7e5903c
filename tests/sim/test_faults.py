"""Random faults, calls in between: every call ends, nothing runs twice that may not, and in the end all views agree."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
import trio
from _world import Work, World

import rpcnet
from rpcnet.testing import SimulatedCluster, SimulatedNode, run

NODES = 6
SECONDS = 30.0
CALLS = 80
EXPECTED = (rpcnet.Unavailable, rpcnet.NoWorkers, rpcnet.DeadlineExceeded, trio.TooSlowError)
"""What a call may end with when nodes and networks fail, besides a result."""


class Chaos:
    """Breaks and mends a cluster at random, and counts what its calls end with."""

    def __init__(self, world: World, rng: Random) -> None:
        self.world = world
        self.cluster = world.cluster
        self.rng = rng
        self.outcomes: Counter[str] = Counter()
        self.works: list[Work] = []
        self.pending = 0

    def make(self, name: str) -> list[object]:
        work = Work(name)
        self.works.append(work)
        return [work]

    async def break_things(self) -> None:
        faults = [self.crash, self.bounce, self.stop, self.split, self.mend, self.slow, self.tag]
        with trio.move_on_after(SECONDS):
            while True:
                await trio.sleep(self.rng.random() * 6)
                await self.rng.choice(faults)()

    def a_node(self) -> SimulatedNode:
        return self.rng.choice(self.world.handles)

    async def crash(self) -> None:
        node = self.a_node()
        if len(self.cluster.running) > 2 and node.is_running:
            await self.cluster.crash(node)

    async def bounce(self) -> None:
        try:
            await self.cluster.bounce(self.a_node())
        except (rpcnet.JoinError, rpcnet.NameConflict):
            self.outcomes["could not join"] += 1

    async def stop(self) -> None:
        node = self.a_node()
        if len(self.cluster.running) > 3 and node.is_running:
            await self.cluster.stop(node)

    async def split(self) -> None:
        mixed = self.rng.sample(self.world.handles, NODES)
        cut = self.rng.randrange(1, NODES)
        self.cluster.partition(mixed[:cut], mixed[cut:])

    async def mend(self) -> None:
        self.cluster.repair()

    async def slow(self) -> None:
        one, other = self.rng.sample(self.world.handles, 2)
        self.cluster.set_latency(one, other, 0.001, self.rng.choice([0.001, 0.02, 0.2]))
        self.cluster.set_loss(one, other, self.rng.choice([0, 0, 0.1, 0.4]))

    async def tag(self) -> None:
        node = self.a_node()
        if node.is_running:
            with trio.move_on_after(2):
                await node.node.update_tags({"number": str(self.rng.random())})

    async def call(self, number: int) -> None:
        rng = self.rng
        await trio.sleep(rng.random() * SECONDS)
        caller = self.a_node()
        if not caller.is_running:
            return
        stub = caller.node.stub(Work, wait_for_worker=rng.choice([0.0, 2.0]))
        seconds = rng.choice([0.0, 0.01, 1.0, 5.0])
        self.pending += 1
        try:
            with trio.fail_after(rng.choice([0.5, 5.0, 40.0])):
                match number % 4:
                    case 0:
                        assert (await stub.once(f"once {number}", seconds)).startswith("n")
                    case 1:
                        assert (await stub.again("again", seconds)).startswith("n")
                    case 2:
                        assert await stub.measure(b"x" * 60_000, seconds) == 60_000
                    case 3:
                        assert len(await stub.produce(60_000, seconds)) == 60_000
        except (rpcnet.RpcNetError, trio.TooSlowError, RuntimeError) as error:
            self.outcomes[type(error).__name__] += 1
            is_of_a_stopped_node = isinstance(error, RuntimeError) and not caller.is_running
            if not is_of_a_stopped_node and not isinstance(error, EXPECTED):
                raise
        else:
            self.outcomes["result"] += 1
        finally:
            self.pending -= 1


def survive(seed: int) -> Counter[str]:
    """Run one such scenario and check what must hold; return how often calls ended in which way."""
    outcomes: Counter[str] = Counter()

    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        chaos = Chaos(world, Random(seed))
        world.handles += await cluster.start(NODES, services=chaos.make)
        await cluster.converged()
        async with trio.open_nursery() as nursery:
            for number in range(CALLS):
                nursery.start_soon(chaos.call, number)
            await chaos.break_things()
            cluster.repair()
            for one in world.handles:
                for other in world.handles:
                    cluster.set_latency(one, other, 0.001, 0.001)
                    cluster.set_loss(one, other, 0.0)
            for node in world.handles:
                if node.scope.cancel_called:  # it may still be saying goodbye
                    await node.ended.wait()
                if not node.is_running:
                    await cluster.bounce(node)
        assert chaos.pending == 0
        await cluster.converged(within=30)
        runs: Counter[str] = Counter()
        for work in chaos.works:
            runs.update({key: count for key, count in work.runs.items() if key.startswith("once")})
        assert max(runs.values()) == 1, "a call ran twice that must not"
        await trio.sleep(10)
        for node in world.handles:
            statistics = node.node.statistics()
            assert set(statistics.restarts.values()) == {0}
            assert statistics.active_calls == 0
            assert statistics.quic.engine_errors == 0
            assert {node.active for node in statistics.client.per_node.values()} <= {0}
            assert {info.name for info in node.node.registry.alive()} == {handle.name for handle in world.handles}
        outcomes.update(chaos.outcomes)

    run(scenario, seed=seed)
    return outcomes


@pytest.mark.parametrize("seed", range(8))
def test_a_cluster_survives_random_faults(seed: int) -> None:
    outcomes = survive(seed)
    assert outcomes["result"] > CALLS / 4
