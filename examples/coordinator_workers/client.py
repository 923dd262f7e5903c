"""A client: gives the director one job and prints the answer."""

from __future__ import annotations

import argparse

import trio
from director import Director, Job

import rpcnet


async def main() -> None:
    """Join, ask, print, leave."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", default="127.0.0.1:7946", help="the director's address (%(default)s)")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for the answer (%(default)s)")
    parser.add_argument("below", nargs="?", type=int, default=300_000, help="count the primes below (%(default)s)")
    options = parser.parse_args()
    async with rpcnet.Node(seeds=[options.seed], config=rpcnet.NodeConfig.local()) as node:
        with trio.fail_after(options.timeout):
            outcome = await node.stub(Director).submit(Job(options.below))
    print(f"{outcome.primes} primes below {options.below}")
    for worker, pieces in outcome.pieces.items():
        print(f"{pieces:4} pieces by {worker}")


if __name__ == "__main__":
    trio.run(main)
