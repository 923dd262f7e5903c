"""How the machines of one node are put together: what each of them hears, as the tasks' bus delivers it.

The rules of this file:

* Who says and who hears what is the table in ``docs/architecture.md``. Here an event goes to its hearers at once, in
  the order in which it was said; nothing is merged or lost.
* The tick by which a node measures its own stalls comes ten times a second; here only the late ones come, and after
  one a few that are in time, so that what was measured can fade.
* This is the one place of the simulator that knows the verbs of the machines.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import attrs

from rpcnet._core.detector import DetectorMachine
from rpcnet._core.members import MemberRecord
from rpcnet._core.partition import PartitionMachine
from rpcnet._core.swim import Effect, SwimMachine
from rpcnet._signals import (
    Accused,
    LeaseExpired,
    NewsAged,
    OwnVitals,
    PeerHeard,
    PeerUnreachable,
    ProbeAnswered,
    ProbeDue,
    ProbeNacked,
    ProbeRefused,
    Stalled,
    Suspicion,
    Verdict,
    VitalsHeard,
)
from rpcnet.config import NodeConfig
from rpcnet.events import ClusterEvent, NodeEvent, NodeInfo, SelfIsolated

__all__ = ["Machines", "Outcome"]

Outcome = Effect | ClusterEvent
Hearer = Callable[..., Sequence[Outcome]]

_DETECTOR_HEARS = (
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
_TICKS_AFTER_STALL = 300.0
_TICK = 5.0


def _sync_scale(swim: SwimMachine) -> int:
    """Return how many times longer the pause between exchanges gets in a large cluster."""
    return max(1, (len(swim.records()) - 1).bit_length() - 4)


class Machines:
    """The membership machine, the failure detector and the partition watch of one node.

    Args:
        local: the node's record.
        config: its settings.
        rng: where its chance comes from.
        now: the time.
        seeds: addresses that it tries again for ever.
        known: records of all nodes, when it is to know them already and they know it.
        nodes: the same as users see them.
    """

    def __init__(
        self,
        *,
        local: MemberRecord,
        config: NodeConfig,
        rng: random.Random,
        now: float,
        seeds: Sequence[str] = (),
        known: Sequence[MemberRecord] = (),
        nodes: Sequence[NodeInfo] = (),
    ) -> None:
        self.config = config
        self._rng = rng
        self.swim = SwimMachine(local=local, config=config.gossip, rng=rng, now=now, seeds=seeds, known=known)
        self.detector = DetectorMachine(
            local_id=local.id, config=config.detector, gossip=config.gossip, rng=rng, now=now
        )
        self.detector.reset(nodes, now)
        self.partition = PartitionMachine(
            local=local.info(), config=config.partition, detector=config.detector, gossip=config.gossip, now=now
        )
        if nodes:
            self.partition.reset(nodes, now)
        self._routes: dict[type[ClusterEvent], tuple[Hearer, ...]] = {}
        self._tick_at = self._ticks_until = math.inf
        self._swim_at = self._detector_at = self._partition_at = math.inf
        if nodes:
            self._be_anywhere(now)

    def _be_anywhere(self, now: float) -> None:
        """Put what is periodic somewhere in its period, as in a cluster that has been running for long."""
        swim, random = self.swim, self._rng.random
        swim._sync_at = now + (swim._sync_at - now) * _sync_scale(swim) * random()  # noqa: SLF001
        swim._own.refresh_at = now + swim._own.refresh_interval * random()  # noqa: SLF001

    # --- what comes from outside

    def receive(self, payload: bytes, source: str, now: float) -> Sequence[Outcome]:
        """Take in an opened datagram."""
        return self.swim.handle_datagram(payload, source, now)

    def refused(self, address: str, now: float) -> Sequence[Outcome]:
        """Take in that nobody has the port at an address."""
        return self.swim.refused(address, now)

    def route(self, event: ClusterEvent, now: float) -> list[Outcome]:
        """Give an event to the machines that listen for it; return what they say to that."""
        hearers = self._routes.get(type(event))
        if hearers is None:
            hearers = self._routes[type(event)] = tuple(self._hearers(event))
        outcomes: list[Outcome] = []
        for hear in hearers:
            outcomes += hear(event, now)
        return outcomes

    def _hearers(self, event: ClusterEvent) -> list[Hearer]:
        orders: dict[type[ClusterEvent], Hearer] = {
            ProbeDue: self.swim.probe_due,
            Suspicion: self.swim.suspicion,
            Verdict: self.swim.verdict,
            OwnVitals: self.swim.own_vitals,
            PeerHeard: self.swim.peer_heard,
            SelfIsolated: self._isolated,
        }
        found = [orders[type(event)]] if type(event) in orders else []
        if isinstance(event, _DETECTOR_HEARS):
            found.append(self.detector.handle)
        if isinstance(event, NodeEvent):
            found.append(self.partition.handle)
        return found

    def _isolated(self, _event: ClusterEvent, now: float) -> Sequence[Outcome]:
        self.swim.isolated(now)
        return ()

    # --- time

    def next_timer(self) -> float:
        """Return when :meth:`on_timer` has something to do."""
        at = self.swim.next_timer()
        self._swim_at = first = math.inf if at is None else at
        at = self.detector.next_timer()
        self._detector_at = at = math.inf if at is None else at
        first = min(first, at)
        at = self.partition.next_timer()
        self._partition_at = at = math.inf if at is None else at
        return min(first, at, self._tick_at)

    def on_timer(self, now: float) -> list[Outcome]:
        """Do what is due by what :meth:`next_timer` said last; it is asked after everything that happens."""
        outcomes: list[Outcome] = []
        if now >= self._swim_at:
            outcomes += self.swim.on_timer(now)
        if now >= self._detector_at:
            outcomes += self.detector.on_timer(now)
        if now >= self._partition_at:
            outcomes += self.partition.on_timer(now)
        if now >= self._tick_at:
            self._tick_at = now + _TICK if now < self._ticks_until else math.inf
            outcomes += self.detector.on_tick(0.0, now)
        return outcomes

    def stalled(self, seconds: float, now: float, handler: str | None) -> list[Outcome]:
        """Take in that the node stood still; ``handler`` held its loop, if it was one."""
        self._tick_at, self._ticks_until = now + _TICK, now + _TICKS_AFTER_STALL
        outcomes: list[Outcome] = []
        if handler is not None:
            outcomes += self.route(Stalled(seconds, handler, at=now), now)
        return outcomes + list(self.detector.on_tick(seconds, now))

    def restart_membership(self, now: float) -> None:
        """Replace the membership machine, as its supervisor does after its task has failed."""
        old, rng = self.swim, random.Random(self._rng.random())
        local = attrs.evolve(old.local, incarnation=old.local.incarnation + 1)
        self.swim = SwimMachine(local=local, config=self.config.gossip, rng=rng, now=now, known=old.records())
        self.detector.reset(self.swim.members(), now)
        self._routes.clear()
