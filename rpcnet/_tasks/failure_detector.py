"""The failure-detector task: owns probe order and timing, suspicion and its verdicts."""

from __future__ import annotations

import random

import trio
from trio.lowlevel import enable_ki_protection

from rpcnet._core.detector import DetectorMachine
from rpcnet._net.alarm import Alarm
from rpcnet._signals import Accused, PeerHeard, ProbeAnswered
from rpcnet.config import DetectorConfig, GossipConfig
from rpcnet.events import ClusterEvent, EventsDropped, NodeEvent

from .bus import Bus
from .snapshots import nodes_of

__all__ = ["FailureDetectorTask"]


class FailureDetectorTask:
    """Hears what membership learns, decides whom to probe and whom to convict.

    Args:
        bus: where it hears ``Node*``, ``ProbeAnswered``, ``Accused`` and ``PeerHeard``, and says ``ProbeDue``,
            ``Suspicion`` and ``Verdict``.
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
        self._mailbox = bus.mailbox("failure detector", NodeEvent, ProbeAnswered, Accused, PeerHeard)
        now = trio.current_time()
        self._machine = DetectorMachine(local_id=local_id, config=config, gossip=gossip, rng=rng, now=now)
        self._machine.reset(nodes_of(bus), now)
        self._alarm = Alarm(self._machine.next_timer, self._on_timer)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear_bus, name="rpcnet detector inbox")
            nursery.start_soon(self._alarm.run, name="rpcnet detector timer")
            self._say([])
            task_status.started()

    @enable_ki_protection
    async def _hear_bus(self) -> None:
        while True:
            event = await self._mailbox.get()
            now = trio.current_time()
            if isinstance(event, EventsDropped):
                self._machine.reset(nodes_of(self._bus), now)
            else:
                self._say(self._machine.handle(event, now))

    def _on_timer(self, now: float) -> None:
        self._say(self._machine.on_timer(now))

    def _say(self, events: list[ClusterEvent]) -> None:
        self._bus.post(self._machine.snapshot())
        self._bus.publish(*events)
        self._alarm.rearm()
