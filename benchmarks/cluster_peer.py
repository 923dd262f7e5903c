"""What a cluster costs while nothing is called: one idle node among fifty, and choosing among a thousand workers.

``serve`` runs all nodes but one in one process; ``load`` is the one, or only chooses.
"""

from __future__ import annotations

import os
import time
from contextlib import AsyncExitStack
from random import Random

import trio
from measure import Load, Meter, Usage
from peering import Gate, Settings
from program import announce, arguments, report
from rpcnet_peer import SERVER, Echo, TrioLoop

import rpcnet

NODES = 50
WORKERS = 1_000
BUSY_WORKERS = 64
CHOICES_PER_TURN = 100
SETTLE_SECONDS = 5.0
"""After the last join, what is left to be said of it is said within this time."""


def security() -> rpcnet.Security:
    """Return the security of the session."""
    return rpcnet.Security.shared_secret(os.environ["RPCNET_SECRET"], cluster="benchmark")


async def serve(settings: Settings) -> None:
    """Run all nodes but one until killed; for the choice among workers none is needed."""
    async with AsyncExitStack() as stack:
        services = [Echo(Gate(TrioLoop().event))]
        first = await stack.enter_async_context(rpcnet.Node(SERVER, services=services, security=security()))
        if settings.workload == "quiet":
            for number in range(NODES - 2):
                node = rpcnet.Node(f"node-{number}", seeds=[first.address], security=security())
                await stack.enter_async_context(node)
        announce(first.address)
        await trio.sleep_forever()


async def quiet(settings: Settings) -> Load:
    """Do nothing in a cluster; one second is what is counted."""
    meter = Meter()
    async with rpcnet.Node("quiet", seeds=[settings.address], security=security()) as node:
        await node.registry.wait_for(NODES)
        await trio.sleep(SETTLE_SECONDS)
        stub = node.stub(Echo, node=SERVER)
        meter.start(await stub.usage())
        await trio.sleep(settings.seconds)
        meter.count = round(settings.seconds)
        meter.stop()
        return meter.load(await stub.usage())


def choose(settings: Settings) -> Load:
    """Choose with ``LeastConnections`` while a few workers are busy."""
    nodes = tuple(_worker(number) for number in range(WORKERS))
    active = {node.id: 1 + index % 3 for index, node in enumerate(nodes[:BUSY_WORKERS])}
    view = rpcnet.WorkerView(nodes, active, Random(1))
    strategy = rpcnet.LeastConnections()
    meter = Meter()
    meter.start(Usage(0.0, 0, 0))
    while meter.elapsed < settings.seconds:
        began = time.perf_counter()
        for _ in range(CHOICES_PER_TURN):
            chosen = strategy.select(view)
        meter.durations.append((time.perf_counter() - began) / CHOICES_PER_TURN)
        if chosen.id in active:
            raise AssertionError("a busy worker was chosen although others are idle")
    meter.stop()
    meter.count = len(meter.durations) * (CHOICES_PER_TURN - 1)
    return meter.load(Usage(0.0, 0, 0))


def _worker(number: int) -> rpcnet.NodeInfo:
    return rpcnet.NodeInfo(
        id=f"{number:032x}",
        name=f"worker-{number}",
        address=f"127.0.0.1:{number + 1}",
        boot_id=1,
        incarnation=0,
        state=rpcnet.NodeState.ALIVE,
    )


def main() -> None:
    """Serve or load, as the arguments say."""
    role, settings = arguments(__doc__)
    if role == "serve":
        trio.run(serve, settings)
    elif settings.workload == "quiet":
        report(trio.run(quiet, settings))
    else:
        report(choose(settings))


if __name__ == "__main__":
    main()
