"""The rpcnet side of the benchmark: an echo server, and a load on it. Started by ``unary.py``.

Each prints JSON lines: the server its address once it is ready, the load what it measured.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time

import attrs
import trio
from measure import PAYLOAD_BYTES, Load, Meter, Usage, usage

import rpcnet

WARM_UP_SECONDS = 1.0


@rpcnet.service
class Echo:
    """Gives back what it gets."""

    @rpcnet.rpc(idempotent=True)
    async def echo(self, data: bytes) -> bytes:
        """Return ``data``."""
        return data

    @rpcnet.rpc(idempotent=True)
    async def usage(self) -> Usage:
        """Return what the server's process has used so far."""
        return usage()


def security() -> rpcnet.Security:
    """Return the security of the session; the secret is made anew by ``unary.py``."""
    return rpcnet.Security.shared_secret(os.environ["RPCNET_SECRET"], cluster="benchmark")


async def serve() -> None:
    """Serve until killed."""
    async with rpcnet.Node("server", services=[Echo()], security=security()) as node:
        print(json.dumps({"address": node.address}), flush=True)
        await trio.sleep_forever()


async def load(address: str, in_flight: int, seconds: float, through: str) -> Load:
    """Keep calls in flight for some time, after a warm-up, and measure.

    Args:
        address: the server's.
        in_flight: how many calls at a time.
        seconds: how long to measure.
        through: "client" for a ``ClusterClient`` with least connections, "pinned" for a stub of the one node.
    """
    async with rpcnet.Node("client", seeds=[address], security=security()) as node:
        await node.registry.wait_for(2)
        if through == "client":
            echo = rpcnet.ClusterClient(node, balancing=rpcnet.LeastConnections()).stub(Echo)
        else:
            echo = node.stub(Echo, node="server")
        return await _measure(echo, in_flight, seconds)


async def _measure(echo: Echo, in_flight: int, seconds: float) -> Load:
    meter = Meter()
    end = math.inf

    async def caller(number: int) -> None:
        filler = number.to_bytes(PAYLOAD_BYTES - 8, "big")
        count = 0
        while (began := time.perf_counter()) < end:
            count += 1
            data = count.to_bytes(8, "big") + filler
            if await echo.echo(data) != data:
                raise AssertionError("the answer is not what was sent")
            meter.durations.append(time.perf_counter() - began)

    async with trio.open_nursery() as nursery:
        for number in range(in_flight):
            nursery.start_soon(caller, number)
        await trio.sleep(WARM_UP_SECONDS)
        meter.start(await echo.usage())
        await trio.sleep(seconds)
        meter.stop()
        measured = meter.load(in_flight, await echo.usage())
        end = 0.0
    return measured


def main() -> None:
    """Serve or load, as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["serve", "load"])
    parser.add_argument("--address", default="")
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--through", choices=["client", "pinned"], default="client")
    options = parser.parse_args()
    if options.role == "serve":
        trio.run(serve)
    else:
        measured = trio.run(load, options.address, options.in_flight, options.seconds, options.through)
        print(json.dumps(attrs.asdict(measured)), flush=True)


if __name__ == "__main__":
    main()
