"""A worker: counts primes for the director. Start as many as you like, whenever you like."""

from __future__ import annotations

import argparse
import math
import signal

import attrs
import trio

import rpcnet


@attrs.frozen
class Part:
    """What a worker found in one piece of a job."""

    primes: int
    """How many primes there are in the piece."""
    worker: str
    """Who counted them."""


@rpcnet.service
class Primes:
    """Counts primes."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._turns = trio.CapacityLimiter(1)

    @rpcnet.rpc(idempotent=True)
    async def count(self, start: int, stop: int) -> Part:
        """Count the primes from ``start`` up to, not including, ``stop``; in a thread, so that the node stays awake."""
        found = await trio.to_thread.run_sync(count_primes, start, stop, limiter=self._turns)
        return Part(found, self._name)


def count_primes(start: int, stop: int) -> int:
    """Count primes the slow way: there should be something to share."""
    return sum(all(n % d for d in range(2, math.isqrt(n) + 1)) for n in range(max(start, 2), stop))


async def main() -> None:
    """Join the cluster and serve until a signal says to end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="a name that no other node of the cluster has")
    parser.add_argument("--seed", default="127.0.0.1:7946", help="the director's address (%(default)s)")
    options = parser.parse_args()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with rpcnet.Node(
            options.name,
            seeds=[options.seed],
            tags={"role": "worker"},
            services=[Primes(options.name)],
            config=rpcnet.NodeConfig.local(),
        ) as node:
            print(f"{node.name} serves at {node.address}", flush=True)
            await anext(signals)


if __name__ == "__main__":
    trio.run(main)
