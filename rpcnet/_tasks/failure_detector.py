"""The failure-detector task: owns probe order and timing, suspicion and its verdicts, and the measure of own stalls.

The rules of this file:

* Its view is posted once and read where it is kept, so that an answer costs no copy of what is believed of everybody.
* Three things run: the inbox, the machine's timer, and a tick. The tick comes at the multiples of its interval, so that
  in virtual time all nodes tick at the same moments. What stops the loop makes it late, and that is what is measured.
* When a tick is late, whoever held the loop has said so on the bus already; that is read first, so that he is named.
"""

from __future__ import annotations

import random

import trio
from trio.lowlevel import enable_ki_protection

from rpcnet._core.detector import DetectorMachine
from rpcnet._net.alarm import Alarm
from rpcnet._signals import (
    Accused,
    LeaseExpired,
    NewsAged,
    PeerHeard,
    PeerUnreachable,
    ProbeAnswered,
    ProbeNacked,
    ProbeRefused,
    Stalled,
    VitalsHeard,
)
from rpcnet.config import DetectorConfig, GossipConfig
from rpcnet.events import ClusterEvent, EventsDropped, NodeEvent

from .bus import Bus
from .snapshots import nodes_of

__all__ = ["FailureDetectorTask"]

_HEARS = (
    NodeEvent,
    ProbeAnswered,
    ProbeNacked,
    ProbeRefused,
    Accused,
    NewsAged,
    VitalsHeard,
    LeaseExpired,
    PeerHeard,
    PeerUnreachable,
    Stalled,
)


class FailureDetectorTask:
    """Hears what membership learns, decides whom to probe and whom to convict.

    Args:
        bus: where it hears ``Node*``, what membership learns of probes, accusations, news and vitals, and what the
            RPC server learns of peers and stalls; and where it says ``ProbeDue``, ``Suspicion``, ``Verdict``,
            ``OwnVitals``, ``SelfIsolated``, ``LinkDegraded`` and ``LocalDegraded``.
        local_id: this node's id, which is never probed.
        config: detector settings.
        gossip: gossip settings, from which the time of dissemination follows.
        rng: the node's source of chance.
    """

    def __init__(
        self,
        *,
        bus: Bus,
        local_id: str,
        config: DetectorConfig,
        gossip: GossipConfig,
        rng: random.Random,
    ) -> None:
        self._bus = bus
        self._tick_interval = config.tick_interval
        self._mailbox = bus.mailbox("failure detector", *_HEARS)
        now = trio.current_time()
        self._machine = DetectorMachine(local_id=local_id, config=config, gossip=gossip, rng=rng, now=now)
        self._machine.reset(nodes_of(bus), now)
        self._alarm = Alarm(self._machine.next_timer, self._on_timer)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            self._bus.post(self._machine.snapshot())
            nursery.start_soon(self._hear_bus, name="rpcnet detector inbox")
            nursery.start_soon(self._alarm.run, name="rpcnet detector timer")
            nursery.start_soon(self._tick, name="rpcnet detector tick")
            task_status.started()

    @enable_ki_protection
    async def _hear_bus(self) -> None:
        while True:
            event = await self._mailbox.get()
            now = trio.current_time()
            if isinstance(event, EventsDropped):
                self._machine.reset(nodes_of(self._bus), now)
                self._alarm.rearm()
            else:
                self._say(self._machine.handle(event, now))

    @enable_ki_protection
    async def _tick(self) -> None:
        interval = self._tick_interval
        count = 0
        while True:
            now = trio.current_time()
            count = max(count + 1, int(now / interval))
            due = count * interval
            if due <= now:
                continue
            await trio.sleep_until(due)
            lateness = trio.current_time() - due
            if lateness > interval:  # whoever held the loop may be named in this turn, and heard in the next one
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
            self._say(self._machine.on_tick(lateness, trio.current_time()))

    def _on_timer(self, now: float) -> None:
        self._say(self._machine.on_timer(now))

    def _say(self, events: list[ClusterEvent]) -> None:
        self._bus.publish(*events)
        self._alarm.rearm()
