"""Clients of simulated clusters, and what is asked of them and of the nodes that they follow."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import trio
from _world import World

import rpcnet
from rpcnet.testing import SimulatedCluster, SimulatedNode


def follow(
    cluster: SimulatedCluster, *nodes: SimulatedNode, **settings: object
) -> AbstractAsyncContextManager[rpcnet.ClusterClient]:
    seeds = [node.address for node in nodes]
    return rpcnet.connect_cluster(seeds, security=cluster.security, **settings)  # type: ignore[arg-type]


def names(client: rpcnet.ClusterClient, state: rpcnet.NodeState = rpcnet.NodeState.ALIVE) -> list[str]:
    return [node.name for node in client.registry.nodes() if node.state is state]


def followers(node: SimulatedNode) -> int:
    return len(node.node._cluster._followers)


def followed(world: World) -> list[str]:
    """Return the names of the running nodes that somebody follows."""
    return [node.name for node in world.cluster.running if followers(node)]


async def until(condition: Callable[[], bool], within: float = 60.0) -> None:
    """Wait until something is true of which no event tells, in virtual time."""
    with trio.fail_after(within):
        while not condition():  # noqa: ASYNC110 - see above
            await trio.sleep(0.01)


async def event_of(
    events: AsyncIterator[rpcnet.ClusterEvent], kind: type[rpcnet.NodeEvent], name: str
) -> rpcnet.NodeEvent:
    """Return the next event of that kind about that node."""
    async for event in events:
        if isinstance(event, kind) and event.node.name == name:
            return event
    raise AssertionError("the events have ended")
