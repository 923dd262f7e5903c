"""Connections that are made again with a ticket, under nodes that call, fall silent and start anew."""

from __future__ import annotations

import trio
from _world import World, stub

from rpcnet.config import NodeConfig, RpcConfig
from rpcnet.testing import SimulatedCluster, SimulatedNode, TraceEntry, run

CONFIG = NodeConfig(rpc=RpcConfig(idle_timeout=2.0))
PAUSE = 7.0


def handshakes(node: SimulatedNode) -> tuple[int, int]:
    quic = node.node.statistics().quic
    return quic.established, quic.resumed


async def scenario(cluster: SimulatedCluster) -> tuple[TraceEntry, ...]:
    world = World(cluster)
    one, other = await world.start(2, config=CONFIG)
    assert await stub(one, other).who() == "n1"
    first_established, first_resumed = handshakes(one)
    for count in range(1, 4):
        await trio.sleep(PAUSE)
        established, resumed = handshakes(one)
        assert await stub(one, other).who() == "n1"
        assert handshakes(one) == (established + 1, resumed + 1)
        assert resumed >= first_resumed + count - 1
    assert handshakes(other)[1] > 0
    assert handshakes(one)[0] > first_established

    await cluster.bounce(other)
    await trio.sleep(PAUSE)
    established, resumed = handshakes(one)
    assert await stub(one, other).who() == "n1"
    assert handshakes(one)[0] > established
    await trio.sleep(PAUSE)
    assert await stub(one, other).who() == "n1"
    assert handshakes(one)[1] > resumed
    return cluster.trace


def test_a_node_that_calls_again_after_a_pause_needs_no_certificates_unless_the_other_was_started_anew() -> None:
    run(scenario)


def test_resumed_connections_change_nothing_about_the_same_seed_giving_the_same_run() -> None:
    assert run(scenario, seed=7) == run(scenario, seed=7)
