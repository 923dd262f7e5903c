"""A node for tests with real processes: ``python _peer.py NAME [SEED ...]`` serves until its standard input ends.

The secret comes by environment, or from the user's file. It says its address on one line when it has joined.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import attrs
import trio

import rpcnet

PATIENCE = 60
"""Seconds after which a test gives up; nothing waits that long when things are well."""


def config() -> rpcnet.NodeConfig:
    """Return the profile for one machine, patient at the start and brief at the end."""
    return attrs.evolve(rpcnet.NodeConfig.local(), join_timeout=30.0, drain_timeout=1.0, leave_timeout=0.2)


def pattern(size: int) -> bytes:
    """Return bytes in which a piece that is lost, doubled or out of order shows."""
    return b"".join(number.to_bytes(4, "big") for number in range(size // 4 + 1))[:size]


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until something is true of which no event tells: a counter has moved, a number of calls has arrived."""
    while not condition():  # noqa: ASYNC110 - see above
        await trio.sleep(0.005)


@rpcnet.service
class Peer:
    """What the tests ask of a node; counts what it ran."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.node: rpcnet.Node | None = None
        self.failed: list[str] = []
        self.ran = 0
        self.held = 0
        self.released = trio.Event()

    @rpcnet.rpc(idempotent=True)
    async def who(self) -> str:
        self.ran += 1
        return self.name

    @rpcnet.rpc
    async def echo(self, data: bytes) -> bytes:
        self.ran += 1
        return data

    @rpcnet.rpc
    @rpcnet.rpc
    async def give(self, size: int) -> bytes:
        self.ran += 1
        return pattern(size)

    @rpcnet.rpc(idempotent=True)
    async def square(self, number: int) -> int:
        self.ran += 1
        await trio.sleep(0.01)  # so that calls are under way when a process is killed
        return number * number

    @rpcnet.rpc
    async def hold(self, data: bytes) -> int:
        self.ran += 1
        self.held += 1
        await self.released.wait()
        return len(data)

    @rpcnet.rpc
    async def release(self) -> int:
        self.released.set()
        return self.held

    @rpcnet.rpc
    async def ask(self, node: str) -> str:
        return await self._stub(node).who()

    @rpcnet.rpc
    async def send(self, node: str, size: int) -> bool:
        data = pattern(size)
        return await self._stub(node).echo(data) == data

    @rpcnet.rpc
    async def seen_failing(self) -> list[str]:
        return self.failed

    def _stub(self, node: str) -> Peer:
        assert self.node is not None
        return self.node.stub(Peer, node=node)

    async def watch(self, node: rpcnet.Node) -> None:
        """Write down who fails, for as long as the node runs."""
        async with node.events(rpcnet.NodeFailed) as events:
            async for event in events:
                if isinstance(event, rpcnet.NodeFailed):
                    self.failed.append(event.node.name)


async def _serve(name: str, seeds: Sequence[str]) -> None:
    peer = Peer(name)
    with trio.fail_after(PATIENCE) as entering:
        async with (
            rpcnet.Node(name, seeds=seeds, services=[peer], config=config()) as node,
            trio.open_nursery() as tasks,
        ):
            entering.deadline = float("inf")
            peer.node = node
            tasks.start_soon(peer.watch, node)
            print(node.address, flush=True)
            async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
                while await stdin.receive_some(1):
                    pass
            tasks.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_serve, sys.argv[1], sys.argv[2:])
