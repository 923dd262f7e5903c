"""The failure detector: when to probe whom, and what silence means (SWIM, Lifeguard, phi accrual).

The rules of this file:

* One node is probed per period, and a few besides that there is a reason to probe (``turns.py``, ``prober.py``);
  suspicions are checked at once by their jury.
* A failed cycle is evidence (``evidence.py``). At ``suspicion_phi``, or when the host said that nobody has the port, it
  starts a suspicion; against a node already suspected it counts whatever it is worth. A cycle that failed for mere loss
  is repeated in the next period, twice at most, and the silences multiply.
* A verdict takes the evidence of several accusers and time enough for the suspect to refute (``suspicion.py``).
* Who is cut off itself accuses nobody (``isolation.py``).
* Who is late itself judges nobody. When this node's own timer comes more than T/4 late, the cycles under way are void
  and start again, and the clocks of all suspicions stand still for as long as the node did; after more than
  ``pause_tolerance`` they start again. Nothing is judged by a timer that comes late: first there is time to read what
  waits in the socket.
* A refusal counts only in a cycle. It starts none: where helpers were refused too, each would ask helpers of its own.
* It hears and says events only. What it believes of the members is what membership last said of them; after lost
  events, :meth:`DetectorMachine.reset` takes in the whole again.
* No event, timer or snapshot costs anything proportional to the number of members.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs

from rpcnet._signals import (
    Accused,
    LeaseExpired,
    NewsAged,
    OwnVitals,
    PeerHeard,
    PeerUnreachable,
    ProbeAnswered,
    ProbeNacked,
    ProbeRefused,
    Stalled,
    Suspicion,
    Verdict,
    VitalsHeard,
)
from rpcnet.config import DetectorConfig, GossipConfig
from rpcnet.events import (
    ClusterEvent,
    NodeFailed,
    NodeInfo,
    NodeJoined,
    NodeLeft,
    NodeReaped,
    NodeRecovered,
    NodeReplaced,
    NodeState,
    NodeSuspected,
    NodeUpdated,
)

from .beliefs import DetectorSnapshot
from .coordinates import is_sane
from .evidence import REPEATED_FAILURE, Evidence
from .links import LinkWatch
from .peers import Peers
from .prober import Answer, Prober
from .probing import Cycle
from .spreading import Spreading
from .stalls import StallWatch, longest_of_class
from .suspicion import Case, Docket, is_juror, open_case
from .turns import Turns

if TYPE_CHECKING:
    import random

__all__ = ["DetectorMachine", "DetectorSnapshot"]

_LOSS_STEP = 0.03
_FRESH_PERIODS = 2.0
_RECHECK_LEAD = 0.75
_LET_GO_FIRST = 3.0
_MAX_REPEATS = 2
_LONGEST_PAUSE = 60.0
_PATIENCES = 4.0


class DetectorMachine:
    """One node's judgement of the others.

    Args:
        local_id: this node's id; events about it are ignored.
        config: how a silent node is told from a slow one.
        gossip: how fast a refutation spreads.
        rng: where chance comes from.
        now: Trio time.
    """

    def __init__(
        self, *, local_id: str, config: DetectorConfig, gossip: GossipConfig, rng: random.Random, now: float
    ) -> None:
        self._local_id = local_id
        self._told_loss = 0.0
        self._config = config
        self._rng = rng
        self._period = config.probe_interval
        self._period_at = now
        self._judge_from = now
        self._tick_at = math.inf
        self._peers = Peers()
        self._docket = Docket(_RECHECK_LEAD * config.probe_interval)
        self._prober = Prober(config=config, peers=self._peers, docket=self._docket, rng=rng, now=now)
        self._turns = Turns(self._peers, config.probe_interval, rng)
        self._evidence = Evidence(local_id, self._peers, self._docket)
        self._isolation = self._evidence.isolation
        self._links = LinkWatch(local_id, config.probe_interval)
        self._spreading = Spreading(gossip.gossip_interval, gossip.gossip_fanout)
        self._stalls = StallWatch(now)
        self._snapshot = DetectorSnapshot(local_id, self._peers, self._docket, self._evidence, self._prober)

    # --- reading

    def snapshot(self) -> DetectorSnapshot:
        """Return what is believed; always the same object."""
        return self._snapshot

    @property
    def _n_members(self) -> int:
        return len(self._peers) + 1

    @property
    def _spread(self) -> float:
        return self._spreading.time(self._n_members, self._prober.loss.one_way)

    # --- what membership says

    def reset(self, nodes: Iterable[NodeInfo], now: float) -> None:
        """Take in a whole snapshot of the members; suspicions that still hold go on where they were."""
        present = {
            node.id: node
            for node in nodes
            if node.id != self._local_id and node.state in (NodeState.ALIVE, NodeState.SUSPECT)
        }
        for node_id in [node_id for node_id in self._peers if node_id not in present]:
            self._remove(node_id)
        if present and not len(self._peers):
            self._period_at = now + self._period * self._rng.random()
            self._peers.fill(list(present.values()))
        else:
            for node in present.values():
                self._keep(node, now)
        for node_id in [node_id for node_id in self._docket if present[node_id].state is not NodeState.SUSPECT]:
            self._docket.close(node_id)
        for node in [node for node in present.values() if node.state is NodeState.SUSPECT]:
            if self._open_case(node, now):
                self._prober.begin(node.id, now)

    def handle(self, event: ClusterEvent, now: float) -> list[ClusterEvent]:
        """Take in one event; events of no interest change nothing."""
        self._notice_lag(now)
        match event:
            case ProbeAnswered():
                return self._hear_answer(event, now)
            case NodeSuspected(node=node) if node.id != self._local_id:
                self._keep(node, now)
                return self._summon(event, now)
            case NodeJoined(node=node) | NodeReplaced(node=node) | NodeRecovered(node=node) if (
                node.id != self._local_id
            ):
                self._keep(node, now)
                self._docket.close(node.id)
                self._evidence.acquit(node.id)
            case NodeUpdated(node=node) if node.id in self._peers:
                self._keep(node, now)
            case NodeFailed(node=node) | NodeLeft(node=node) | NodeReaped(node=node):
                self._remove(node.id)
            case Accused():
                self._hear_accusation(event, now)
            case PeerHeard(node_id=node_id) if node_id in self._peers:
                self._turns.heard(node_id, now)
                self._links.heard(node_id)
                self._links.answered_directly(node_id)
                self._prober.end(node_id)
                self._succeed(node_id, now)
            case _:
                return self._handle_signal(event, now)
        return []

    def _handle_signal(self, event: ClusterEvent, now: float) -> list[ClusterEvent]:
        match event:
            case ProbeNacked() if self._prober.hear_nack(event) and event.helper in self._peers:
                self._evidence.answered(event.helper)
            case ProbeRefused(node_id=node_id) if node_id in self._peers:
                self._prober.refuse(node_id)
            case LeaseExpired(node_id=node_id) if node_id in self._peers:
                return self._probe_soon(node_id, now)
            case PeerUnreachable(node_id=node_id) if (node := self._peers.get(node_id)) is not None:
                is_answering = node_id not in self._docket and not self._evidence.latest(node_id)
                said = self._links.call_failed(node, event.reason, now, is_answering=is_answering)
                return said or self._probe_soon(node_id, now)
            case NewsAged(age=age):
                self._spreading.observe(age, self._n_members, self._prober.loss.one_way)
            case VitalsHeard(node_id=node_id) if (known := self._peers.get(node_id)) is not None:
                if event.coordinates is not None and is_sane(event.coordinates):
                    self._peers.place(node_id, event.coordinates)
                if event.stall != known.stall:
                    self._peers.put(attrs.evolve(known, stall=event.stall), self._rng)
            case Stalled():
                self._stalls.blame(event.handler, now)
        return []

    def _keep(self, node: NodeInfo, now: float) -> None:
        old = self._peers.get(node.id)
        if old is not None and old.boot_id != node.boot_id:
            self._remove(node.id)
        if not len(self._peers):
            self._period_at = now + self._period * self._rng.random()
        self._peers.put(node, self._rng)

    def _remove(self, node_id: str) -> None:
        if node_id not in self._peers:
            return
        self._peers.remove(node_id)
        self._docket.close(node_id)
        for part in (self._prober, self._evidence, self._links, self._turns):
            part.forget(node_id)
        if not len(self._peers):
            self._isolation.end()

    # --- suspicions

    def _open_case(self, node: NodeInfo, now: float, age: float = 0.0) -> bool:
        """Start a suspicion of this incarnation; False when it is under way already.

        Its clock starts when the first accuser spoke, so that all nodes come to their verdicts at the same time.
        """
        case = self._docket.get(node.id)
        if case is not None and (case.boot_id, case.incarnation) == (node.boot_id, node.incarnation):
            return False
        pause = min(max(self._config.pause_tolerance, longest_of_class(node.stall)), _LONGEST_PAUSE)
        case = open_case(
            boot_id=node.boot_id,
            incarnation=node.incarnation,
            phi=self._config.conviction_phi,
            n_members=self._n_members,
            pause=max(pause, self._config.pause_tolerance),
            spread=self._spread,
            now=now - min(age, self._spread),
        )
        self._docket.open(node.id, case)
        return True

    def _summon(self, event: NodeSuspected, now: float) -> list[ClusterEvent]:
        node = event.node
        if not self._open_case(node, now, event.age) or self._local_id in event.accusers:
            return []
        chosen = is_juror(node.id, node.boot_id, node.incarnation, juror_id=self._local_id, n_members=self._n_members)
        return [] if event.accusers and not chosen else self._probe(node.id, now)

    def _hear_accusation(self, event: Accused, now: float) -> None:
        case = self._docket.get(event.node_id)
        if case is None or (case.boot_id, case.incarnation) != (event.boot_id, event.incarnation):
            return
        at = max(now, self._judge_from)
        self._docket.accuse(event.node_id, event.accuser, event.phi, at, refused=event.refused)
        if self._isolation.is_on:
            self._reconsider(now)

    def _reconsider(self, now: float) -> list[ClusterEvent]:
        """Begin or end an episode of being cut off."""
        return self._evidence.reconsider(_PATIENCES * (self._config.pause_tolerance + self._spread), now)

    # --- answers

    def _hear_answer(self, event: ProbeAnswered, now: float) -> list[ClusterEvent]:
        match self._prober.hear_answer(event, now):
            case Answer.DIRECT:
                self._links.answered_directly(event.node_id)
            case Answer.NOTHING:
                return []
        self._succeed(event.node_id, now)
        position, lost = self._prober.position, self._prober.loss.one_way
        is_lossier = abs(lost - self._told_loss) > _LOSS_STEP
        if not is_lossier and not position.is_news(self._prober.round_trips.typical, now):
            return []
        return [self._own_vitals(now)]

    def _own_vitals(self, now: float) -> ClusterEvent:
        self._told_loss = self._prober.loss.one_way
        coordinates = self._prober.position.tell(now)
        return OwnVitals(coordinates=coordinates, stall=self._stalls.stall, loss=self._told_loss, at=now)

    def _succeed(self, node_id: str, now: float) -> None:
        self._evidence.answered(node_id)
        if self._isolation.is_on:
            self._reconsider(now)

    # --- the ends of cycles

    def _end(self, cycle: Cycle, now: float) -> list[ClusterEvent]:
        """End a cycle that got no direct answer."""
        self._prober.end(cycle.node_id)
        node = self._peers.get(cycle.node_id)
        if node is None:
            return []
        return self._end_helped(cycle, node, now) if cycle.is_helped else self._fail(cycle, node, now)

    def _end_helped(self, cycle: Cycle, node: NodeInfo, now: float) -> list[ClusterEvent]:
        events = self._links.answered_through_others(node, cycle.started_at, now)
        if self._links.is_to_be_tried_again(node.id):
            self._prober.begin(node.id, cycle.started_at + self._period)
        return events

    def _fail(self, cycle: Cycle, node: NodeInfo, now: float) -> list[ClusterEvent]:
        silence = self._prober.silence(cycle, now)
        phi = self._evidence.failed(cycle, silence)
        events = self._reconsider(now)
        if self._isolation.is_on:
            return events
        case = self._docket.get(node.id)
        if case is not None:
            case.missed_at = now
        own = None if case is None else case.accusers.get(self._local_id)
        if own is not None:
            phi = max(phi, own + REPEATED_FAILURE)
        elif case is None and phi < self._config.suspicion_phi and not cycle.is_refused:
            if silence > 10.0**-self._config.suspicion_phi / 2 and cycle.repeats < _MAX_REPEATS:
                self._prober.begin(node.id, cycle.started_at + self._period, after=cycle, silence=silence)
            return []
        return [
            Suspicion(
                node_id=node.id,
                boot_id=node.boot_id,
                incarnation=node.incarnation,
                phi=phi,
                refused=cycle.is_refused,
                at=now,
            )
        ]

    def _verdict(self, node_id: str, of: NodeInfo | Case, reason: str, now: float) -> ClusterEvent:
        return Verdict(
            node_id=node_id,
            boot_id=of.boot_id,
            incarnation=of.incarnation,
            reason=reason,
            is_local=self._isolation.is_on,
            at=now,
        )

    # --- timers

    def next_timer(self) -> float | None:
        """Return the Trio time at which :meth:`on_timer` has something to do; None while there is nobody else."""
        if not len(self._peers):
            return None
        first = self._period_at
        for timer in (self._prober.timers.next(), self._docket.next_timer(), self._isolation.gives_up_at):
            if timer is not None and timer < first:
                first = timer
        return first

    def on_timer(self, now: float) -> list[ClusterEvent]:
        """Do what is due: the next ping of each cycle, the next cycle, the ends of cycles, verdicts."""
        self._notice_lag(now)
        events: list[ClusterEvent] = []
        while (due := self._prober.timers.pop(now)) is not None:
            events += self._advance(*due, now)
        if now >= self._period_at and len(self._peers):
            events += self._next_period(now)
        while (judged := self._docket.pop(now)) is not None:
            events += self._judge(*judged, now)
        if now >= self._isolation.gives_up_at:
            reason = "no answer, and this node is cut off"
            events += [self._verdict(node.id, node, reason, now) for node in self._evidence.given_up(now)]
        return events

    def _advance(self, node_id: str, at: float, now: float) -> list[ClusterEvent]:
        cycle = self._prober.cycles[node_id]
        if not cycle.is_exhausted and not (cycle.is_helped and now >= cycle.ends_at):
            return [self._prober.attempt(cycle, now)]
        if self._is_late(at, now) and not cycle.is_postponed:
            cycle.is_postponed = True
            self._prober.timers.set(node_id, now + self._grace)
            return []
        return self._end(cycle, now)

    def _judge(self, node_id: str, case: Case, at: float, now: float) -> list[ClusterEvent]:
        if self._is_late(at, now) and not case.is_postponed:
            case.is_postponed = True
            self._docket.again(node_id, now + self._grace)
            return []
        case.is_postponed = False
        if not case.is_rechecked and now < case.verdict_at:
            case.is_rechecked = True
            self._docket.again(node_id, case.verdict_at)
            return self._probe(node_id, now) if self._local_id in case.accusers else []
        if now - case.missed_at > _FRESH_PERIODS * self._period:
            return self._check_first(node_id, case, now)
        self._docket.again(node_id, now + self._period)
        reason = (
            f"no answer to {len(case.accusers)} accusers (evidence {case.evidence:.1f} of {case.need:.1f}), "
            f"and no refutation for {now - case.started_at:.1f} s"
        )
        return [self._verdict(node_id, case, reason, now)]

    def _check_first(self, node_id: str, case: Case, now: float) -> list[ClusterEvent]:
        """Put a verdict off until this node itself has failed to reach the suspect."""
        if not case.has_waited and self._local_id not in case.accusers:
            case.has_waited = True
            self._docket.again(node_id, now + _LET_GO_FIRST * case.spread)
            return []
        self._docket.again(node_id, now + self._period)
        return self._probe(node_id, now)

    def _next_period(self, now: float) -> list[ClusterEvent]:
        self._period_at = max(self._period_at + self._period, now)
        self._prober.forget_old_pings(now)
        self._turns.begin_period(now)
        node_id = self._turns.next()
        events = [] if node_id is None else self._probe(node_id, now)
        for waiting in self._turns.waiting():
            events += self._probe(waiting, now)
        return events

    def _probe(self, node_id: str, now: float) -> list[ClusterEvent]:
        """Begin a cycle now, also one that was to begin later, unless one is under way."""
        cycle = self._prober.begin(node_id, now)
        if cycle.seqs:
            return []
        cycle.started_at = now
        return [self._prober.attempt(cycle, now)]

    def _probe_soon(self, node_id: str, now: float) -> list[ClusterEvent]:
        """Probe a node out of its turn, now or, when there were many, in one of the next periods."""
        return self._probe(node_id, now) if self._turns.may_probe(node_id) else []

    # --- this node's own lateness

    def on_tick(self, lateness: float, now: float) -> list[ClusterEvent]:
        """Take in by how many seconds a regular tick of this node's own was late."""
        self._notice_lag(now)
        self._tick_at = now + self._config.tick_interval
        degraded = self._stalls.observe(lateness, now)
        if degraded is None:
            return []
        return [self._own_vitals(now), *degraded]

    @property
    def _grace(self) -> float:
        return self._period / 8

    def _is_late(self, due: float, now: float) -> bool:
        """Tell whether what is due, or the tick, comes so late that something may wait in the socket."""
        return now - min(due, self._tick_at) > self._period / 20

    def _notice_lag(self, now: float) -> None:
        """Void what was measured across a stall of this node itself."""
        due = self.next_timer()
        lag = now - (self._tick_at if due is None else min(due, self._tick_at))
        if lag > self._period / 4:
            self._void(lag, now)

    def _void(self, lag: float, now: float) -> None:
        is_long = lag > self._config.pause_tolerance
        self._judge_from = now + self._period / 4
        self._tick_at = math.inf
        self._prober.void(now)
        self._period_at = max(self._period_at, now)
        self._docket.delay(lag, now, judge_from=self._judge_from, is_long=is_long)
        self._isolation.delay(lag, now, is_long=is_long)
        self._links.delay(lag)
