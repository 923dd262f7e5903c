"""The director: takes jobs from clients and spreads them over the nodes tagged role=worker."""

from __future__ import annotations

import argparse
import itertools
import signal
from collections import Counter

import attrs
import trio
from worker import Part, Primes

import rpcnet


@attrs.frozen
class Job:
    """How many primes are there below ``below``?"""

    below: int
    """The question."""
    pieces: int = 16
    """Into how many calls the job is cut."""


@attrs.frozen
class Outcome:
    """The answer to a job."""

    primes: int
    """How many primes there are."""
    pieces: dict[str, int]
    """How many pieces each worker did."""


@rpcnet.service
class Director:
    """Accepts jobs. Clients know this service only; who does the work is not their business."""

    MAX_PIECES = 1000

    def __init__(self) -> None:
        self._primes: Primes | None = None

    def attach(self, node: rpcnet.Node) -> None:
        """Take the node whose cluster does the work; jobs are refused until then."""
        self._primes = rpcnet.ClusterClient(node, balancing=rpcnet.LeastConnections()).stub(Primes, where="role=worker")

    @rpcnet.rpc(idempotent=True)
    async def submit(self, job: Job) -> Outcome:
        """Do one job on all workers there are, and return when it is done.

        A worker that dies takes nothing with it: ``Primes.count`` is idempotent, so its pieces are done by others.

        Raises:
            InvalidArgument: the job makes no sense.
            Unavailable: there is no worker, or one piece failed on every worker that was tried.
        """
        if job.below < 0 or not 0 < job.pieces <= self.MAX_PIECES:
            raise rpcnet.InvalidArgument(f"job = {job}: below must be 0 or more, pieces 1 to {self.MAX_PIECES}")
        if self._primes is None:
            raise rpcnet.Unavailable("the director is not up yet", never_ran=True)
        parts: list[Part] = []
        failures: list[rpcnet.RpcNetError] = []

        async def do(primes: Primes, start: int, stop: int) -> None:
            try:
                parts.append(await primes.count(start, stop))
            except rpcnet.RpcNetError as error:
                failures.append(error)
                nursery.cancel_scope.cancel()

        edges = [job.below * piece // job.pieces for piece in range(job.pieces + 1)]
        async with trio.open_nursery() as nursery:
            for start, stop in itertools.pairwise(edges):
                nursery.start_soon(do, self._primes, start, stop)
        if failures:
            raise rpcnet.Unavailable(f"a piece could not be done: {failures[0]}")
        return Outcome(sum(part.primes for part in parts), dict(sorted(Counter(part.worker for part in parts).items())))


async def main() -> None:
    """Start the cluster and serve until a signal says to end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bind", default="127.0.0.1:7946", help="address and UDP port (%(default)s)")
    options = parser.parse_args()
    director = Director()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with rpcnet.Node(
            "director", bind=options.bind, services=[director], config=rpcnet.NodeConfig.local()
        ) as node:
            director.attach(node)
            print(f"director serves at {node.address}", flush=True)
            await anext(signals)


if __name__ == "__main__":
    trio.run(main)
