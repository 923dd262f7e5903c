"""The watch for partitions: a part of the membership task, which feeds it with every event that membership publishes.

It drives the partition machine, posts what it knows, and asks for the lease where the strategy is one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import trio
from trio.lowlevel import enable_ki_protection

from rpcnet._core.partition import PartitionMachine, PartitionSnapshot
from rpcnet.config import NodeConfig
from rpcnet.events import ClusterEvent, NodeInfo, PartitionDetected, PartitionHealed, PartitionSuspected
from rpcnet.quorum import LeaseQuorum

from .bus import Bus
from .snapshots import nodes_of

__all__ = ["PartitionWatch"]

log = logging.getLogger("rpcnet.partition")


class PartitionWatch:
    """Looks on what membership learns, and says what that means for the cluster as a whole.

    After a restart of the task it goes on from its last snapshot on the bus and from membership's.

    Args:
        bus: where it posts a ``PartitionSnapshot``, and publishes what an answer about the lease leads to.
        local: this node.
        config: all settings of the node.
        rearm: called when :meth:`next_timer` may have changed outside :meth:`take` and :meth:`on_timer`.
    """

    def __init__(self, *, bus: Bus, local: NodeInfo, config: NodeConfig, rearm: Callable[[], None]) -> None:
        self._bus = bus
        self._rearm = rearm
        self._strategy = config.partition.strategy
        self._lease_wanted = trio.Event()
        now, last = trio.current_time(), bus.latest(PartitionSnapshot)
        self._machine = PartitionMachine(
            local=local, config=config.partition, detector=config.detector, gossip=config.gossip, now=now, last=last
        )
        self._left_over = self._machine.reset(nodes_of(bus), now) if last is not None else []
        self._post([])

    def take(self, events: Sequence[ClusterEvent], now: float) -> list[ClusterEvent]:
        """Take in what membership is about to publish, and return what is to be published after it."""
        if not events and not self._left_over:
            return []
        said, self._left_over = self._left_over, []
        for event in events:
            said += self._machine.handle(event, now)
        return self._post(said)

    def next_timer(self) -> float | None:
        """Return the Trio time at which :meth:`on_timer` has something to do."""
        return self._machine.next_timer()

    def on_timer(self, now: float) -> list[ClusterEvent]:
        """Do what is due, and return what is to be published."""
        said, self._left_over = self._left_over, []
        return self._post(said + self._machine.on_timer(now))

    @enable_ki_protection
    async def run(self) -> None:
        """Ask for the lease while it is wanted, until cancelled; returns at once if the strategy is another one."""
        if not isinstance(self._strategy, LeaseQuorum):
            return
        while True:
            await self._lease_wanted.wait()
            has_lease = await self._acquire(self._strategy)
            self._bus.publish(*self._post(self._machine.lease(trio.current_time(), has_lease=has_lease)))
            self._rearm()
            await trio.sleep(self._strategy.renew_interval)

    async def _acquire(self, strategy: LeaseQuorum) -> bool:
        with trio.move_on_after(strategy.timeout):
            try:
                return await strategy.acquire() is True
            except Exception:
                log.exception("the lease was not acquired")
                return False
        log.warning("the lease was not acquired within %s s", strategy.timeout)
        return False

    def _post(self, said: list[ClusterEvent]) -> list[ClusterEvent]:
        machine = self._machine
        snapshot = machine.snapshot()
        if snapshot != self._bus.latest(PartitionSnapshot):
            self._bus.post(snapshot)
        if machine.wants_lease:
            self._lease_wanted.set()
        elif self._lease_wanted.is_set():
            self._lease_wanted = trio.Event()
        for event in said:
            level = logging.INFO if isinstance(event, PartitionHealed) else logging.WARNING
            log.log(level, "%s", _describe(event))
        return said


def _describe(event: ClusterEvent) -> str:
    match event:
        case PartitionSuspected(lost=lost, kept=kept, zones=zones):
            return (
                f"lost {len(lost)} nodes at once and kept {len(kept)}; zones lost whole: {', '.join(zones) or 'none'}"
            )
        case PartitionDetected(reachable=reachable, unreachable=unreachable, status=status):
            return f"the cluster has fallen apart: {len(reachable)} nodes here, {len(unreachable)} not; {status.value}"
        case PartitionHealed(merged=merged):
            return f"the cluster has come together again: {len(merged)} nodes came back"
        case _:
            return type(event).__name__
