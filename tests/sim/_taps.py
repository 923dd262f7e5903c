"""A node that serves streams, a friend who goes on calling it, and whoever is hostile: for tests of bad peers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import attrs
import trio
from _raw_peer import Connection, RawPeer, open_raw_peer

import rpcnet
from rpcnet._core.framing import FrameKind, StreamKind, encode_frame
from rpcnet._core.values import compile_service
from rpcnet._net.quic import QuicLink
from rpcnet._net.server_session import ServerSession
from rpcnet.service import definition_of
from rpcnet.testing import SimulatedCluster, SimulatedNode, run


@rpcnet.service(name="taps")
class Taps:
    """Streams of every shape; remembers what was made, what was taken and what has ended."""

    def __init__(self) -> None:
        self.made = 0
        self.taken = 0
        self.begun: list[str] = []
        self.ended: list[str] = []

    @rpcnet.rpc(idempotent=True)
    async def who(self) -> str:
        return "taps"

    @rpcnet.rpc
    async def hold(self, data: bytes, seconds: float) -> int:
        async with self._noted("hold"):
            await trio.sleep(seconds)
        return len(data)

    @rpcnet.rpc
    async def pour(self, size: int) -> AsyncIterator[bytes]:
        """Make values for ever."""
        async with self._noted("pour"):
            while True:
                self.made += 1
                yield bytes(size)

    @rpcnet.rpc
    async def drink(self, blobs: AsyncIterator[bytes], pause: float) -> int:
        """Take values, one in a while."""
        async with self._noted("drink"):
            async for _ in blobs:
                self.taken += 1
                await trio.sleep(pause)
        return self.taken

    @rpcnet.rpc
    async def first(self, numbers: AsyncIterator[int]) -> int:
        """Answer after the first value."""
        async with self._noted("first"):
            async for number in numbers:
                return number
        return -1

    @rpcnet.rpc
    async def double(self, numbers: AsyncIterator[int]) -> AsyncIterator[int]:
        async with self._noted("double"):
            async for number in numbers:
                yield 2 * number

    def _noted(self, name: str) -> _Noted:
        return _Noted(self, name)


@attrs.frozen
class _Noted:
    taps: Taps
    name: str

    async def __aenter__(self) -> None:
        self.taps.begun.append(self.name)

    async def __aexit__(self, *_: object) -> None:
        self.taps.ended.append(self.name)


CODECS = compile_service(definition_of(Taps), max_depth=64, max_bytes=1 << 24)
NUMBERS = {name: number for number, name in enumerate(CODECS)}
CONTROL, LANE, CALL, RESULT, STATE = (bytes([kind]) for kind in StreamKind)


def call(call_id: int, method: str = "who", *args: object, timeout_ms: int = 0) -> bytes:
    """Return a CALL frame."""
    body = CODECS[method].encode_arguments(args, {})
    return encode_frame(FrameKind.CALL, call_id, NUMBERS[method], timeout_ms, body)


def item(value: object = 7, call_id: int = 1) -> bytes:
    """Return an ITEM frame."""
    body = CODECS["drink" if isinstance(value, bytes) else "double"].encode_request(value)
    return encode_frame(FrameKind.ITEM, call_id, body=body)


def credit(amount: int, call_id: int = 1) -> bytes:
    """Return a CREDIT frame."""
    return encode_frame(FrameKind.CREDIT, call_id, 0, amount)


def engine_of(link: QuicLink | None) -> Any:
    """Return the QUIC engine, to make it do what it would not."""
    assert link is not None
    return link.engine


@attrs.define(eq=False)
class Scene:
    """Who is there."""

    cluster: SimulatedCluster
    taps: Taps
    node: SimulatedNode
    friend: SimulatedNode
    peer: RawPeer

    async def connect(self, **changes: object) -> Connection:
        """Return a connection of the raw peer to the node, after HELLO."""
        connection = await self.peer.dial(self.node.address)
        await connection.greet(**changes)
        return connection

    def sessions(self) -> list[ServerSession]:
        """Return the node's connections with the raw peer."""
        endpoint = self.node.node._running.endpoint
        return [session for session in endpoint._accepted if session.peer_name == "raw"]

    @property
    def session(self) -> ServerSession:
        """The node's only connection with the raw peer."""
        (session,) = self.sessions()
        return session

    async def told(self, connection: Connection) -> str:
        """Wait for the end of a connection and return why."""
        with trio.fail_after(90):
            await connection.ended.wait()
        assert connection.closed is not None
        assert connection.closed.by_peer
        return connection.closed.message


def play(scenario: Callable[[Scene], Awaitable[None]], *, rpc: rpcnet.RpcConfig | None = None, seed: int = 0) -> None:
    """Play a scenario; check that the friend is served all the time, and that nothing is left of the hostile peer."""

    async def main(cluster: SimulatedCluster) -> None:
        taps = Taps()
        config = None if rpc is None else rpcnet.NodeConfig(rpc=rpc)
        [node] = await cluster.start(1, services=lambda _: [taps], config=config)
        [friend] = await cluster.start(1, config=config)
        await cluster.converged()
        noticed = len(cluster.trace)
        answers: list[str] = []
        async with open_raw_peer(cluster.security) as peer, trio.open_nursery() as nursery:

            async def go_on_calling() -> None:
                while True:
                    with trio.fail_after(0.5):
                        answers.append(await friend.node.stub(Taps).who())
                    await trio.sleep(0.5)

            nursery.start_soon(go_on_calling)
            scene = Scene(cluster, taps, node, friend, peer)
            await scenario(scene)
            await trio.sleep(1)
            for session in scene.sessions():
                session.close(0x100, "the scenario is over")
            await trio.sleep(1)
            before = len(answers)
            await trio.sleep(5)
            assert len(answers) > before + 5
            nursery.cancel_scope.cancel()
        await trio.sleep(1)
        assert cluster.trace[noticed:] == ()
        assert sorted(taps.begun) == sorted(taps.ended)
        assert node.node.statistics().active_calls == 0
        assert scene.sessions() == []
        for each in (node, friend):
            assert set(each.node.statistics().restarts.values()) == {0}
            assert each.node.statistics().quic.engine_errors == 0
        assert friend.node.statistics().client.retries == 0

    run(main, seed=seed, limit=1200)
