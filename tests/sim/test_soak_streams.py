"""Calls of all shapes while the network loses, splits and heals and nodes crash, drain and come back: content is exact.

What a caller is told has happened, has happened: a stream that ended normally has all its values, in order, each once;
a stream that failed has a beginning of them; a result is that of the requests that were sent. ``SOAK_SEEDS=200 make
test ARGS=tests/sim/test_soak_streams.py`` plays two hundred seeds instead of a few.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator
from random import Random

import attrs
import pytest
import trio

import rpcnet
from rpcnet.testing import SimulatedCluster, SimulatedNode, run

SEEDS = int(os.environ.get("SOAK_SEEDS", "2"))
NODES = 4
SECONDS = 7.0
EXPECTED = (rpcnet.Unavailable, rpcnet.DeadlineExceeded, rpcnet.CallCancelled, rpcnet.NoWorkers, rpcnet.Unimplemented)
"""What a call may fail with when nodes come and go; a fresh node's services are not known everywhere at once."""
CONFIG = rpcnet.NodeConfig(
    rpc=rpcnet.RpcConfig(stream_window_bytes=4096, lane_limit_bytes=1024, max_calls_per_connection=8, idle_timeout=5.0)
)


@rpcnet.service(name="mixer")
class Mixer:
    """Calls of every shape; remembers what it began and ended."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()

    @rpcnet.rpc
    async def once(self, key: str, data: bytes, pause: float) -> tuple[str, int]:
        async with _Noted(self, key):
            await trio.sleep(pause)
        return key, sum(data)

    @rpcnet.rpc
    async def count(self, key: str, upto: int, pause: float) -> AsyncIterator[int]:
        async with _Noted(self, key):
            for number in range(upto):
                await _sometimes(number, pause)
                yield number

    @rpcnet.rpc
    async def total(self, key: str, numbers: AsyncIterator[int], pause: float) -> tuple[int, int]:
        async with _Noted(self, key):
            result = seen = 0
            async for number in numbers:
                await _sometimes(number, pause)
                assert number == seen, "a request is missing, doubled or out of order"
                result, seen = result + number, seen + 1
        return seen, result

    @rpcnet.rpc
    async def double(self, key: str, numbers: AsyncIterator[int], size: int) -> AsyncIterator[tuple[int, bytes]]:
        async with _Noted(self, key):
            seen = 0
            async for number in numbers:
                assert number == seen, "a request is missing, doubled or out of order"
                seen += 1
                yield 2 * number, bytes([number % 256]) * size


async def _sometimes(number: int, pause: float) -> None:
    if number % 16 == 5:
        await trio.sleep(pause)


@attrs.frozen
class _Noted:
    mixer: Mixer
    key: str

    async def __aenter__(self) -> None:
        self.mixer.begun[self.key] += 1

    async def __aexit__(self, *_: object) -> None:
        self.mixer.ended[self.key] += 1


@attrs.define(eq=False)
class Soak:
    """The cluster, and what became of the calls."""

    cluster: SimulatedCluster
    rng: Random
    handles: list[SimulatedNode] = attrs.field(factory=list)
    mixers: list[Mixer] = attrs.field(factory=list)
    outcomes: Counter[str] = attrs.field(factory=Counter)
    is_over: bool = False

    def make(self, _: str) -> list[object]:
        self.mixers.append(Mixer())
        return [self.mixers[-1]]

    async def start(self) -> None:
        self.handles += await self.cluster.start(NODES, services=self.make, config=CONFIG)
        await self.cluster.converged()

    # --- calls

    async def keep_calling(self, number: int) -> None:
        rng = Random(f"{number} of {self.rng.random()}")
        turn = 0
        while not self.is_over:
            turn += 1
            caller = rng.choice(self.handles)
            if not caller.is_running:
                await trio.sleep(0.2)
                continue
            with trio.move_on_after(rng.choice([0.05, 1.0, 5.0, 20.0])):
                shape = rng.choice(["once", "count", "total", "double"])
                try:
                    await getattr(self, shape)(caller.node.stub(Mixer), f"{number}.{turn}", rng)
                    self.outcomes[shape] += 1
                except EXPECTED as error:
                    self.outcomes[type(error).__name__] += 1
                except RuntimeError:
                    if caller.is_running:  # else the node was ended under the call
                        raise
            await trio.sleep(rng.random() * 0.1)

    async def once(self, stub: Mixer, key: str, rng: Random) -> None:
        data = bytes([number % 256 for number in range(rng.choice([0, 10, 3000]))])
        assert await stub.once(key, data, rng.choice([0.0, 0.3])) == (key, sum(data))

    async def count(self, stub: Mixer, key: str, rng: Random) -> None:
        upto, got = rng.choice([0, 5, 100]), list[int]()
        try:
            async with stub.count(key, upto, rng.choice([0.0, 0.05])) as values:
                async for value in values:
                    got.append(value)
                    if rng.random() < 0.004:
                        return
            assert len(got) == upto
        finally:
            assert got == list(range(len(got)))

    async def total(self, stub: Mixer, key: str, rng: Random) -> None:
        upto = rng.choice([0, 5, 100])
        result = await stub.total(key, _numbers(upto, rng), rng.choice([0.0, 0.05]))
        assert result == (upto, sum(range(upto)))

    async def double(self, stub: Mixer, key: str, rng: Random) -> None:
        upto, size, got = rng.choice([0, 5, 60]), rng.choice([0, 200, 3000]), list[tuple[int, bytes]]()
        try:
            async with stub.double(key, _numbers(upto, rng), size) as values:
                async for value in values:
                    got.append(value)
                    if value[0] % 10 == 0:
                        await trio.sleep(rng.choice([0.0, 0.05]))
            assert len(got) == upto
        finally:
            assert got == [(2 * number, bytes([number % 256]) * size) for number in range(len(got))]

    # --- faults

    async def keep_breaking(self) -> None:
        rng = self.rng
        while not self.is_over:
            await trio.sleep(rng.uniform(0.5, 3.0))
            one, other = rng.sample(self.handles, 2)
            match rng.randrange(6):
                case 0:
                    self.cluster.set_loss(one, other, rng.choice([0.0, 0.05, 0.2]))
                case 1:
                    self.cluster.set_latency(one, other, 0.001, rng.choice([0.001, 0.02, 0.1]))
                case 2:
                    self.cluster.partition([one], [other])
                    await trio.sleep(rng.choice([0.2, 2.0, 8.0]))
                    self.cluster.repair()
                case 3:
                    await self.cluster.bounce(one)
                case 4:
                    await one.node.drain()
                    await self.cluster.bounce(one)
                case _:
                    self.cluster.repair()

    async def come_to_rest(self) -> None:
        """End the faults, and check that nothing is left of any call."""
        self.cluster.repair()
        for one in self.handles:
            for other in self.handles:
                self.cluster.set_loss(one, other, 0.0)
        await trio.sleep(15)
        for handle in self.handles:
            assert handle.node.statistics().active_calls == 0
            assert set(handle.node.statistics().restarts.values()) == {0}
            for session in handle.node._running.endpoint.sessions():
                assert not [stream for stream in session._streams.values() if stream.channel is not None]
        begun, ended = Counter[str](), Counter[str]()
        for mixer in self.mixers:
            begun += mixer.begun
            ended += mixer.ended
        assert begun == ended
        assert max(begun.values()) == 1, "a call that may not run twice did"


async def _numbers(upto: int, rng: Random) -> AsyncIterator[int]:
    pause = rng.choice([0.0, 0.02])
    for number in range(upto):
        await _sometimes(number, pause)
        yield number


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_breaks_the_content_of_calls_is_exact_and_nothing_is_left_of_them(seed: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        soak = Soak(cluster, Random(seed))
        await soak.start()
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(soak.keep_calling, number)
            with trio.move_on_after(SECONDS):
                await soak.keep_breaking()
            soak.is_over = True
            for handle in soak.handles:
                if not handle.is_running:
                    await cluster.bounce(handle)
            cluster.repair()
        await soak.come_to_rest()
        assert sum(soak.outcomes[shape] for shape in ("once", "count", "total", "double")) > 20, soak.outcomes

    run(scenario, seed=seed, limit=600)
