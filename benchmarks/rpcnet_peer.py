"""rpcnet, through its public API: a typed method, deadlines and authentication as they come."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import attrs
import trio
from measure import Usage, usage
from peering import Dial, Event, Gate, Loop, Settings, check, messages
from program import announce, main

import rpcnet
from rpcnet._net.client_session import ClientSession
from rpcnet._net.endpoint import Endpoint
from rpcnet._net.session import CLOSE_NORMAL

SERVER = "server"
MANY = 1_000_000
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


class Again:
    """A connection of a node that dials one peer again and again.

    A node has one connection with each peer. So once the first call is answered, the node is made to forget the
    connection, and the next call dials.
    """

    def __init__(self, endpoint: Endpoint, address: str, stub: Echo) -> None:
        self._endpoint = endpoint
        self._key = (address, SERVER)
        self._stub = stub
        self._session: ClientSession | None = None

    async def echo(self, data: bytes) -> bytes:
        """Return what the server gave back."""
        answer = await self._stub.echo(data)
        self._session = self._endpoint._dialler._current.pop(self._key)  # noqa: SLF001 - no public way to forget
        return answer

    def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            self._session.close(CLOSE_NORMAL, "done")


class RpcnetPeer:
    """rpcnet on both sides.

    The variant says what a call goes through: ``client`` is a ``ClusterClient`` with least connections, ``pinned`` a
    stub of the server's node.
    """

    def __init__(self, settings: Settings, loop: Loop) -> None:
        self._settings = settings
        self._gate = Gate(loop.event)
        self._security = rpcnet.Security.shared_secret(os.environ["RPCNET_SECRET"], cluster="benchmark")
        self._limits = rpcnet.RpcConfig(
            max_calls_per_connection=max(settings.in_flight, 1024),
            max_running_handlers=max(settings.in_flight, 10_000),
            max_connections_per_address=MANY,
            max_handshakes_per_second=MANY,
        )

    def _node(self, name: str, *, resumption: bool = True, services: Sequence[object] = ()) -> rpcnet.Node:
        address = self._settings.address
        # A connection that is closed within its first round trip has no new ticket yet, so nothing is sent early here.
        config = rpcnet.NodeConfig(rpc=attrs.evolve(self._limits, resumption=resumption, early_data=False))
        seeds = [address] if address else []
        return rpcnet.Node(name, seeds=seeds, services=services, security=self._security, config=config)

    async def serve(self) -> None:
        """Serve until killed."""
        async with self._node(SERVER, services=[Echo(self._gate)]) as node:
            announce(node.address)
            await trio.sleep_forever()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Echo]:
        """Open a connection."""
        async with self._node("client") as node:
            await node.registry.wait_for(2)
            if self._settings.variant == "client":
                yield rpcnet.ClusterClient(node, balancing=rpcnet.LeastConnections()).stub(Echo)
            else:
                yield node.stub(Echo, node=SERVER)

    @asynccontextmanager
    async def dialling(self, *, resume: bool = False) -> AsyncIterator[Dial]:
        """Get ready to open many connections, all of one node."""
        async with self._node("dialler", resumption=resume) as node:
            await node.registry.wait_for(2)
            endpoint, stub = node._client_host().endpoint, node.stub(Echo, node=SERVER)  # noqa: SLF001 - as above

            @asynccontextmanager
            async def dial() -> AsyncIterator[Again]:
                again = Again(endpoint, self._settings.address, stub)
                try:
                    yield again
                finally:
                    again.close()

            yield dial
            statistics = endpoint.quic_statistics()
            if resume and statistics.resumed < statistics.established // 2:
                raise AssertionError(f"connections were not resumed: {statistics}")


if __name__ == "__main__":
    main(RpcnetPeer, TrioLoop(), __doc__)
