"""The failure detector: when to probe whom, and what silence means (SWIM, Lifeguard, phi accrual).

The rules of this file:

* One node is probed per period (``probing.py``); suspicions are checked besides, at once, by their jury. A cycle that
  failed for mere loss is repeated in the next period, twice at most, and the silences multiply.
* A failed cycle is evidence (``phi.py``). At ``suspicion_phi`` it starts a suspicion; against a node already suspected
  it counts whatever it is worth. Each further cycle to the same node that fails without one in between that does not
  adds half a point, so that even a node whose every probe fails, and that therefore hardly believes itself, ends up
  seeing the others as failed.
* A verdict takes the evidence of several accusers and time enough for the suspect to refute (``suspicion.py``).
* Who is late itself judges nobody: when this node's own timer comes more than T/4 late, the cycles under way are
  void and start again, and the clocks of all suspicions stand still for as long as the node did; after more than
  ``pause_tolerance`` they start again.
* It hears and says events only. What it believes of the members is what membership last said of them; after lost
  events, :meth:`DetectorMachine.reset` takes in the whole again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import attrs

from rpcnet._signals import Accused, PeerHeard, ProbeAnswered, ProbeDue, Suspicion, Verdict
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

from .phi import Credibility, LossModel, RoundTripModel, Trial, silence_probability
from .probing import HELPER_PINGS, Cycle, ProbeRing, schedule
from .relays import FIRST_RELAY_SEQ
from .suspicion import Case, Standing, is_juror, open_case

if TYPE_CHECKING:
    import random

__all__ = ["DetectorMachine", "DetectorSnapshot"]

_REPEATED_FAILURE = 0.5
_MAX_REPEATS = 2
_LATE_ANSWERS = 4.0


@attrs.frozen
class DetectorSnapshot:
    """What the detector believes, as of one moment; it does not change."""

    latest: Mapping[str, float]
    """For each member, phi of this node's latest probe cycle to it: 0 when it answered."""
    standings: Mapping[str, Standing]
    """The suspicions under way, by node id."""

    def phi(self, node_id: str, now: float) -> float:
        """Return how improbable the node's silence is if it is alive, as -log10 of the probability.

        Up to 3 from this node's own latest probe while nobody suspects it, the joint evidence while somebody does,
        infinite for a node that failed, left or is unknown.
        """
        standing = self.standings.get(node_id)
        return self.latest.get(node_id, math.inf) if standing is None else standing.phi(now)


@attrs.frozen
class _Sent:
    node_id: str
    at: float


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
        self._config = config
        self._gossip = gossip
        self._rng = rng
        self._period = config.probe_interval
        self._period_at = now
        self._ring = ProbeRing()
        self._nodes: dict[str, NodeInfo] = {}
        self._cycles: dict[str, Cycle] = {}
        self._cases: dict[str, Case] = {}
        self._streaks: dict[str, int] = {}
        self._latest: dict[str, float] = {local_id: 0.0}
        self._sent: dict[int, _Sent] = {}
        self._seq = rng.randrange(FIRST_RELAY_SEQ)
        self._round_trips = RoundTripModel(config.probe_interval / 50)
        self._loss = LossModel()
        self._credibility = Credibility()
        self._snapshot: DetectorSnapshot | None = None

    # --- reading

    def snapshot(self) -> DetectorSnapshot:
        """Return what is believed now; the same object until something changes."""
        if self._snapshot is None:
            standings = {node_id: case.standing for node_id, case in self._cases.items()}
            self._snapshot = DetectorSnapshot(dict(self._latest), standings)
        return self._snapshot

    @property
    def _n_members(self) -> int:
        return len(self._ring) + 1

    # --- what membership says

    def reset(self, nodes: Iterable[NodeInfo], now: float) -> None:
        """Take in a whole snapshot of the members; suspicions that still hold go on where they were."""
        present = {
            node.id: node
            for node in nodes
            if node.id != self._local_id and node.state in (NodeState.ALIVE, NodeState.SUSPECT)
        }
        for node_id in [node_id for node_id in self._nodes if node_id not in present]:
            self._remove(node_id)
        for node in present.values():
            self._keep(node, now)
        for node in present.values():
            if node.state is not NodeState.SUSPECT:
                self._cases.pop(node.id, None)
            elif self._open_case(node, now):
                self._begin(node.id, now)

    def handle(self, event: ClusterEvent, now: float) -> list[ClusterEvent]:
        """Take in one event; events of no interest change nothing."""
        self._notice_lag(now)
        match event:
            case NodeSuspected(node=node) if node.id != self._local_id:
                self._keep(node, now)
                return self._summon(event, now)
            case NodeJoined(node=node) | NodeReplaced(node=node) | NodeRecovered(node=node) if (
                node.id != self._local_id
            ):
                self._keep(node, now)
                self._acquit(node.id)
            case NodeUpdated(node=node) if node.id in self._nodes:
                self._keep(node, now)
            case NodeFailed(node=node) | NodeLeft(node=node) | NodeReaped(node=node):
                self._remove(node.id)
            case Accused():
                self._hear_accusation(event, now)
            case ProbeAnswered():
                self._hear_answer(event, now)
            case PeerHeard(node_id=node_id) if node_id in self._nodes:
                self._succeed(node_id)
        return []

    def _keep(self, node: NodeInfo, now: float) -> None:
        old = self._nodes.get(node.id)
        if old is not None and old.boot_id != node.boot_id:
            self._remove(node.id)
        if not len(self._ring):
            self._period_at = now + self._period * self._rng.random()
        self._nodes[node.id] = node
        self._ring.insert(node.id, self._rng)
        self._latest.setdefault(node.id, 0.0)
        self._snapshot = None

    def _remove(self, node_id: str) -> None:
        if self._nodes.pop(node_id, None) is None:
            return
        self._ring.remove(node_id)
        self._cycles.pop(node_id, None)
        self._cases.pop(node_id, None)
        self._streaks.pop(node_id, None)
        self._latest.pop(node_id, None)
        self._credibility.forget(node_id)
        self._round_trips.forget(node_id)
        self._snapshot = None

    # --- suspicions

    def _open_case(self, node: NodeInfo, now: float) -> bool:
        """Start a suspicion of this incarnation; False when it is under way already."""
        case = self._cases.get(node.id)
        if case is not None and (case.boot_id, case.incarnation) == (node.boot_id, node.incarnation):
            return False
        self._cases[node.id] = open_case(
            boot_id=node.boot_id,
            incarnation=node.incarnation,
            config=self._config,
            gossip=self._gossip,
            n_members=self._n_members,
            one_way_loss=self._loss.one_way,
            now=now,
        )
        self._snapshot = None
        return True

    def _summon(self, event: NodeSuspected, now: float) -> list[ClusterEvent]:
        node = event.node
        if not self._open_case(node, now) or self._local_id in event.accusers:
            return []
        chosen = is_juror(node.id, node.boot_id, node.incarnation, juror_id=self._local_id, n_members=self._n_members)
        if event.accusers and not chosen:
            return []
        cycle = self._begin(node.id, now)
        return [] if cycle.seqs else self._attempt(cycle, now)

    def _acquit(self, node_id: str) -> None:
        self._cases.pop(node_id, None)
        self._latest[node_id] = 0.0
        self._snapshot = None

    def _hear_accusation(self, event: Accused, now: float) -> None:
        case = self._cases.get(event.node_id)
        if case is not None and (case.boot_id, case.incarnation) == (event.boot_id, event.incarnation):
            case.accuse(event.accuser, event.phi, now)
            self._snapshot = None

    def _supported(self) -> list[str]:
        """Return the suspects whose silence somebody else has met too."""
        own = self._local_id
        return [node_id for node_id, case in self._cases.items() if any(accuser != own for accuser in case.accusers)]

    # --- probing

    def _begin(self, node_id: str, at: float, *, after: Cycle | None = None, silence: float = 1.0) -> Cycle:
        """Return the cycle under way to a node, a new one from ``at`` on if there is none."""
        cycle = self._cycles.get(node_id)
        if cycle is None:
            offsets, length = schedule(self._round_trips.q90(node_id), self._period)
            repeats = 0 if after is None else after.repeats + 1
            cycle = Cycle(node_id, self._nodes[node_id].boot_id, at, offsets, length, silence, repeats)
            self._cycles[node_id] = cycle
        return cycle

    def _attempt(self, cycle: Cycle, now: float) -> list[ClusterEvent]:
        """Send the next ping of a cycle, and requests to helpers when it is time for them."""
        self._seq = (self._seq + 1) % FIRST_RELAY_SEQ
        helpers = self._choose_helpers(cycle.node_id) if cycle.asks_helpers else ()
        cycle.seqs.append(self._seq)
        cycle.trials.append(Trial(now, self._loss.round_trip))
        through_helper = Trial(now, self._loss.through_helper(HELPER_PINGS), hops=2)
        cycle.trials.extend(through_helper for _ in helpers)
        self._sent[self._seq] = _Sent(cycle.node_id, now)
        due = ProbeDue(
            node_id=cycle.node_id,
            boot_id=cycle.boot_id,
            seq=self._seq,
            helpers=helpers,
            remaining=cycle.ends_at - now,
            at=now,
        )
        return [due]

    def _choose_helpers(self, target: str) -> tuple[str, ...]:
        able = [node_id for node_id in self._ring if node_id != target and node_id not in self._cases]
        return tuple(self._rng.sample(able, min(self._config.indirect_probes, len(able))))

    def _hear_answer(self, event: ProbeAnswered, now: float) -> None:
        sent = self._sent.get(event.seq)
        if sent is None or sent.node_id != event.node_id or event.node_id not in self._nodes:
            return
        if event.via is None:
            del self._sent[event.seq]
            self._round_trips.observe(event.node_id, now - sent.at)
        cycle = self._cycles.get(event.node_id)
        if cycle is not None and event.seq not in cycle.seqs:
            return
        if cycle is not None:
            self._loss.observe(lost=len(cycle.seqs) if event.via else cycle.seqs.index(event.seq))
        self._succeed(event.node_id)

    def _succeed(self, node_id: str) -> None:
        self._cycles.pop(node_id, None)
        self._streaks.pop(node_id, None)
        self._credibility.observe(node_id, failed=False)
        if self._latest.get(node_id) != 0.0:
            self._latest[node_id] = 0.0
            self._snapshot = None

    def _fail(self, cycle: Cycle, now: float) -> list[ClusterEvent]:
        node = self._nodes[cycle.node_id]
        del self._cycles[node.id]
        self._credibility.observe(node.id, failed=True)
        silence = cycle.silence * silence_probability(self._round_trips, node.id, cycle.trials, now)
        streak = self._streaks.get(node.id, 0)
        self._streaks[node.id] = streak + 1
        phi = -math.log10(silence + self._credibility.doubt(self._supported()))
        self._latest[node.id] = max(phi, 0.0)
        phi += streak * _REPEATED_FAILURE
        self._snapshot = None
        case = self._cases.get(node.id)
        own = None if case is None else case.accusers.get(self._local_id)
        if own is not None:
            phi = max(phi, own + _REPEATED_FAILURE)
        elif case is None and phi < self._config.suspicion_phi:
            if silence > 10.0**-self._config.suspicion_phi / 2 and cycle.repeats < _MAX_REPEATS:
                self._begin(node.id, cycle.started_at + self._period, after=cycle, silence=silence)
            return []
        return [Suspicion(node_id=node.id, boot_id=node.boot_id, incarnation=node.incarnation, phi=phi, at=now)]

    # --- timers

    def next_timer(self) -> float | None:
        """Return the Trio time at which :meth:`on_timer` has something to do; None while there is nobody else."""
        if not len(self._ring):
            return None
        times = [self._period_at]
        times.extend(cycle.next_at for cycle in self._cycles.values())
        times.extend(case.verdict_at for case in self._cases.values())
        return min(times)

    def on_timer(self, now: float) -> list[ClusterEvent]:
        """Do what is due: the next ping of each cycle, the next cycle, the ends of cycles, verdicts."""
        self._notice_lag(now)
        events: list[ClusterEvent] = []
        for cycle in list(self._cycles.values()):
            events += self._advance(cycle, now)
        if now >= self._period_at and len(self._ring):
            events += self._next_period(now)
        for node_id, case in self._cases.items():
            if now >= case.verdict_at:
                case.verdict_at = now + self._period
                events.append(self._convict(node_id, case, now))
        return events

    def _advance(self, cycle: Cycle, now: float) -> list[ClusterEvent]:
        if now < cycle.next_at:
            return []
        return self._fail(cycle, now) if cycle.is_exhausted else self._attempt(cycle, now)

    def _next_period(self, now: float) -> list[ClusterEvent]:
        self._period_at = max(self._period_at + self._period, now)
        self._forget_old_pings(now)
        node_id = self._ring.next(self._rng)
        if node_id is None or node_id in self._cycles:
            return []
        return self._attempt(self._begin(node_id, now), now)

    def _forget_old_pings(self, now: float) -> None:
        """Forget pings so old that an answer teaches nothing; the dict is in the order of sending."""
        while self._sent:
            seq, sent = next(iter(self._sent.items()))
            if sent.at > now - _LATE_ANSWERS * self._period:
                break
            del self._sent[seq]

    def _convict(self, node_id: str, case: Case, now: float) -> ClusterEvent:
        standing = case.standing
        reason = (
            f"no answer to {len(case.accusers)} accusers (evidence {standing.evidence:.1f} of {standing.need:.1f}), "
            f"and no refutation for {now - standing.started_at:.1f} s"
        )
        return Verdict(node_id=node_id, boot_id=case.boot_id, incarnation=case.incarnation, reason=reason, at=now)

    def _notice_lag(self, now: float) -> None:
        """Void what was measured across a stall of this node itself."""
        due = self.next_timer()
        if due is None or now - due <= self._period / 4:
            return
        for cycle in list(self._cycles.values()):
            del self._cycles[cycle.node_id]
            self._begin(cycle.node_id, now)
        self._period_at = max(self._period_at, now)
        for case in self._cases.values():
            is_long = now - due > self._config.pause_tolerance
            case.delay(now if is_long else min(case.standing.started_at + now - due, now), now)
        self._snapshot = None
