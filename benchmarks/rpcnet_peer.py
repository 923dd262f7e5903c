"""rpcnet, through its public API: a typed method, deadlines and authentication as they come."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

import trio
from measure import Usage, usage
from peering import Event, Gate, Loop, Settings, check, messages
from program import announce, main

import rpcnet

T = TypeVar("T")


class TrioLoop:
    """Trio as a :class:`Loop`."""

    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run it to its end."""
        return trio.run(function)

    def event(self) -> Event:
        """Return a new event."""
        return trio.Event()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await trio.sleep(seconds)

    async def together(self, functions: Sequence[Callable[[], Awaitable[None]]]) -> None:
        """Run all at the same time, until all have ended."""
        async with trio.open_nursery() as nursery:
            for function in functions:
                nursery.start_soon(function)


@rpcnet.service
class Echo:
    """Gives back what it gets."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    @rpcnet.rpc(idempotent=True)
    async def echo(self, data: bytes) -> bytes:
        """Return ``data``."""
        return data

    @rpcnet.rpc(idempotent=True)
    async def usage(self) -> Usage:
        """Return what the server's process has used so far."""
        return usage()

    @rpcnet.rpc
    async def hold(self, number: int, everybody: int) -> int:
        """Return the number, once everybody is there."""
        await self._gate.pass_through(everybody)
        return number

    @rpcnet.rpc
    async def count(self, count: int, size: int) -> AsyncIterator[bytes]:
        """Yield messages."""
        async for chunk in messages(count, size):
            yield chunk

    @rpcnet.rpc
    async def total(self, chunks: AsyncIterator[bytes]) -> int:
        """Return how many messages came."""
        number = 0
        async for chunk in chunks:
            check(number, chunk)
            number += 1
        return number

    @rpcnet.rpc
    async def echo_all(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield what comes."""
        async for chunk in chunks:
            yield chunk


class RpcnetPeer:
    """rpcnet on both sides.

    The variant says what a call goes through: ``client`` is a ``ClusterClient`` with least connections, ``pinned`` a
    stub of the server's node.
    """

    def __init__(self, settings: Settings, loop: Loop) -> None:
        self._settings = settings
        self._gate = Gate(loop.event)
        self._security = rpcnet.Security.shared_secret(os.environ["RPCNET_SECRET"], cluster="benchmark")
        in_flight = max(settings.in_flight, 1024)
        limits = rpcnet.RpcConfig(max_calls_per_connection=in_flight, max_running_handlers=max(in_flight, 10_000))
        self._config = rpcnet.NodeConfig(rpc=limits)

    async def serve(self) -> None:
        """Serve until killed."""
        services = [Echo(self._gate)]
        async with rpcnet.Node("server", services=services, security=self._security, config=self._config) as node:
            announce(node.address)
            await trio.sleep_forever()

    def connect(self, *, resume: bool = False) -> AbstractAsyncContextManager[Echo]:
        """Open a connection."""
        return self._connect()

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[Echo]:
        seeds = [self._settings.address]
        async with rpcnet.Node("client", seeds=seeds, security=self._security, config=self._config) as node:
            await node.registry.wait_for(2)
            if self._settings.variant == "client":
                yield rpcnet.ClusterClient(node, balancing=rpcnet.LeastConnections()).stub(Echo)
            else:
                yield node.stub(Echo, node="server")


if __name__ == "__main__":
    main(RpcnetPeer, TrioLoop(), __doc__)
