"""Servers of a simulation that serve the ``Work`` of the other simulations, and that can be killed."""

from __future__ import annotations

import attrs
import trio
from _world import Work

import rpcnet
from rpcnet._net.addresses import parse_address
from rpcnet.testing import SimulatedCluster


@attrs.define(eq=False)
class Served:
    """A running server."""

    cluster: SimulatedCluster
    server: rpcnet.Server
    work: Work
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ended: trio.Event = attrs.field(factory=trio.Event)
    address: str = ""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            with self.scope:
                async with self.server:
                    self.address = self.server.address
                    task_status.started()
                    await trio.sleep_forever()
        finally:
            self.ended.set()

    async def kill(self) -> None:
        """End it as ``kill -9`` does."""
        self.cluster._network.crash(parse_address(self.address)[0])
        self.server._kill()
        await self.stop()

    async def stop(self) -> None:
        """End it in good order."""
        self.scope.cancel()
        await self.ended.wait()


async def serve(
    nursery: trio.Nursery,
    cluster: SimulatedCluster,
    *,
    name: str = "server",
    bind: str = "127.0.0.1:0",
    config: rpcnet.RpcConfig | None = None,
    drain_timeout: float = 10.0,
) -> Served:
    """Start a server that is ended with the nursery."""
    work = Work(name)
    server = rpcnet.Server(
        [work], name=name, bind=bind, security=cluster.security, config=config, drain_timeout=drain_timeout
    )
    served = Served(cluster, server, work)
    await nursery.start(served.run)
    return served
