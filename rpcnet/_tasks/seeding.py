"""Seeds for ever: the sources are asked again and again, so that membership can heal through where nodes are by then.

The rules of this file:

* Membership is told of addresses only, and only after somebody was asked; it decides when it tries one. What was said
  last is posted too, for a membership task that is started again.
* All is asked and told every ``heal_interval``, give or take a fifth; plain addresses too, which costs nothing, because
  a membership task that was restarted has not heard of them.
"""

from __future__ import annotations

from random import Random

import trio
from trio.lowlevel import enable_ki_protection

from rpcnet._net.seeds import SeedBook
from rpcnet._signals import SeedsResolved
from rpcnet.config import GossipConfig

from .bus import Bus

__all__ = ["SeedTask"]

_JITTER = 0.2


class SeedTask:
    """Asks the seeds of a node for addresses, and publishes ``SeedsResolved``.

    Args:
        bus: where membership hears it.
        seeds: the seeds.
        config: how often they are asked.
        rng: for the intervals.
    """

    def __init__(self, *, bus: Bus, seeds: SeedBook, config: GossipConfig, rng: Random) -> None:
        self._bus = bus
        self._seeds = seeds
        self._config = config
        self._rng = rng

    @enable_ki_protection
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ask and publish until cancelled."""
        task_status.started()
        while True:
            resolved = SeedsResolved(tuple(await self._seeds.addresses()), at=trio.current_time())
            self._bus.post(resolved)
            self._bus.publish(resolved)
            await trio.sleep(self._config.heal_interval * self._rng.uniform(1 - _JITTER, 1 + _JITTER))
