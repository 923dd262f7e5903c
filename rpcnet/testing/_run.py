"""Running a scenario: virtual time, a seeded scheduler, a bound.

The rules of this file:

* Trio orders a batch of runnable tasks at random. For the length of a run the order is made to follow from the seed:
  the batch is sorted by age and shuffled by Trio's own generator, which is seeded here and put back afterwards. Both
  are private names of Trio; a test of ours fails loudly when they change.
* A scenario that waits for what never happens is ended at ``limit`` virtual seconds, with an error that says so.
"""

# ruff: noqa: SLF001 - the two private names of Trio, see above

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import trio
import trio._core._run as trio_scheduler
from trio.testing import MockClock

from rpcnet._net.environment import set_environment
from rpcnet._net.memory import MemoryNetwork, SimulatedEnvironment
from rpcnet.errors import NodeCrashed

from ._cluster import SimulatedCluster, TraceEntry

__all__ = ["run"]


@contextmanager
def _deterministic_scheduling(seed: int) -> Iterator[None]:
    scheduler: Any = trio_scheduler
    before, state = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(seed)
    try:
        yield
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before
        scheduler._r.setstate(state)


def run(
    scenario: Callable[[SimulatedCluster], Awaitable[object]], *, seed: int = 0, limit: float = 3600.0
) -> tuple[TraceEntry, ...]:
    """Run a scenario in virtual time and return its trace. Synchronous: call it from a plain test function.

    Args:
        scenario: an async function of the cluster; nodes that are left when it returns are ended without a goodbye.
        seed: decides everything that is left to chance.
        limit: virtual seconds after which the run is ended.

    Raises:
        TimeoutError: the scenario took longer than ``limit`` virtual seconds.
        NodeCrashed: a node of the cluster failed inside.
    """

    async def main() -> tuple[TraceEntry, ...]:
        network = MemoryNetwork(Random(seed))
        environment = SimulatedEnvironment(network, seed)
        set_environment(environment)
        result: list[BaseException] = []
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(network.run)
                cluster = SimulatedCluster(nursery, network)
                try:
                    with trio.move_on_after(limit) as scope:
                        await scenario(cluster)
                    if scope.cancelled_caught:
                        message = f"the scenario is not done after {limit} virtual seconds (seed {seed})"
                        result.append(TimeoutError(message))
                except Exception as error:  # noqa: BLE001 - raised again below, bare
                    result.append(error)
                await cluster.end()
                nursery.cancel_scope.cancel(reason="the scenario is over")
        except ExceptionGroup as group:
            crashes = [error for error in group.exceptions if isinstance(error, NodeCrashed)]
            if not crashes:
                raise
            raise crashes[0] from crashes[0].__cause__
        if result:
            raise result[0]
        return cluster.trace

    with _deterministic_scheduling(seed):
        return trio.run(main, clock=MockClock(autojump_threshold=0))
