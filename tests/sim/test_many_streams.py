"""As many streams at once on one connection as a server takes calls, and what is left for other calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import attrs
import pytest
import trio

import rpcnet
from rpcnet.testing import SimulatedCluster, run


@rpcnet.service(name="crowd")
class Crowd:
    """Streams that stay open until somebody lets them go."""

    def __init__(self) -> None:
        self.gate = trio.Event()
        self.most = 0
        self.now = 0

    @rpcnet.rpc
    async def wait(self, number: int) -> AsyncIterator[int]:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            yield number
            await self.gate.wait()
            yield -number
        finally:
            self.now -= 1

    @rpcnet.rpc
    async def measure(self, data: bytes) -> int:
        return len(data)

    @rpcnet.rpc
    async def produce(self, size: int, seconds: float) -> bytes:
        await trio.sleep(seconds)
        return bytes(size)


@attrs.define(eq=False)
class Pair:
    """A caller, a server, and what became of the calls."""

    crowd: Crowd
    stub: Crowd
    server: rpcnet.Node
    caller: rpcnet.Node
    first: list[int] = attrs.field(factory=list)
    last: list[int] = attrs.field(factory=list)

    async def read(self, number: int) -> None:
        async with self.stub.wait(number) as values:
            async for value in values:
                (self.first if value >= 0 else self.last).append(value)

    @property
    def streams(self) -> int:
        """The QUIC streams that the server holds of the connection with most."""
        sessions = self.server._running.endpoint._accepted
        return max(each.link.statistics().open_streams for each in sessions if each.peer_name == self.caller.name)


def play(
    scenario: Callable[[Pair], Awaitable[None]],
    *,
    caller: rpcnet.RpcConfig | None = None,
    server: rpcnet.RpcConfig | None = None,
    loss: float = 0.0,
) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        crowd = Crowd()
        [one] = await cluster.start(1, services=lambda _: [crowd], config=config_of(server))
        [other] = await cluster.start(1, config=config_of(caller))
        await cluster.converged()
        cluster.set_loss(one, other, loss)
        cluster.set_loss(other, one, loss)
        pair = Pair(crowd, other.node.stub(Crowd), one.node, other.node)
        await scenario(pair)
        await trio.sleep(5)
        assert pair.streams == 5  # the control stream and the lanes
        for node in (pair.server, pair.caller):
            assert set(node.statistics().restarts.values()) == {0}
            assert node.statistics().active_calls == 0
        assert pair.caller.statistics().client.retries == 0

    run(main, limit=600)


def config_of(rpc: rpcnet.RpcConfig | None) -> rpcnet.NodeConfig | None:
    return None if rpc is None else rpcnet.NodeConfig(rpc=rpc)


def test_a_thousand_streams_at_once_leave_room_for_a_large_call_and_for_others_after_them() -> None:
    async def scenario(pair: Pair) -> None:
        for _ in range(2):
            pair.crowd.gate = trio.Event()
            pair.first, pair.last = [], []
            with trio.fail_after(15):
                async with trio.open_nursery() as nursery:
                    for number in range(1, 1001):
                        nursery.start_soon(pair.read, number)
                    await trio.sleep(10)
                    assert len(pair.first) == pair.crowd.now == 1000
                    assert pair.streams == 1005
                    assert await pair.stub.measure(bytes(100_000)) == 100_000
                    assert len(await pair.stub.produce(100_000, 0.0)) == 100_000
                    pair.crowd.gate.set()
            assert sorted(pair.first) == list(range(1, 1001))
            assert sorted(pair.last) == list(range(-1000, 0))

    play(scenario)


def test_streams_beyond_what_the_server_takes_at_once_wait_at_the_caller() -> None:
    async def scenario(pair: Pair) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(1, 301):
                nursery.start_soon(pair.read, number)
            await trio.sleep(5)
            assert len(pair.first) == pair.crowd.now == 200
            pair.crowd.gate.set()
        assert sorted(pair.last) == list(range(-300, 0))
        assert pair.crowd.most == 200

    play(scenario, server=rpcnet.RpcConfig(max_calls_per_connection=200))


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_more_large_results_at_once_than_the_caller_allows_streams_all_arrive(loss: float) -> None:
    async def scenario(pair: Pair) -> None:
        sizes: list[int] = []

        async def produce(size: int) -> None:
            sizes.append(len(await pair.stub.produce(size, 0.5)))

        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(produce, 20_000 + number)
        assert sorted(sizes) == list(range(20_000, 20_300))

    play(scenario, caller=rpcnet.RpcConfig(max_calls_per_connection=1), loss=loss)


def test_large_results_that_wait_for_a_stream_of_a_small_caller_can_be_cancelled() -> None:
    async def scenario(pair: Pair) -> None:
        with trio.move_on_after(0.502):
            async with trio.open_nursery() as nursery:
                for _ in range(300):
                    nursery.start_soon(pair.stub.produce, 20_000, 0.5)
        await trio.sleep(5)
        assert pair.server.statistics().port.bytes_sent < 150 * 20_000, "answers that nobody waits for were sent"
        assert len(await pair.stub.produce(20_000, 0.0)) == 20_000

    play(scenario, caller=rpcnet.RpcConfig(max_calls_per_connection=1))
