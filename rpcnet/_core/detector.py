"""The failure detector: when to probe whom, and what silence means (SWIM, Lifeguard, phi accrual).

The rules of this file:

* One node is probed per period (``peers.py``, ``prober.py``). Who was heard on a connection in the last period needs no
  probe, so its turn passes to the next one; now and then somebody is probed nevertheless, to keep on measuring.
  Besides, suspicions are checked at once by their jury, and a few nodes per period that there is a reason to probe.
* A failed cycle is evidence (``phi.py``). At ``suspicion_phi``, or when the host said that nobody has the port, it
  starts a suspicion; against a node already suspected it counts whatever it is worth. A cycle that failed for mere loss
  is repeated in the next period, twice at most, and the silences multiply. Each further cycle to the same node that
  fails without one in between that does not adds half a point.
* A verdict takes the evidence of several accusers and time enough for the suspect to refute (``suspicion.py``).
* Who is cut off itself accuses nobody (``isolation.py``).
* Who is late itself judges nobody. When this node's own timer comes more than T/4 late, the cycles under way are void
  and start again, and the clocks of all suspicions stand still for as long as the node did; after more than
  ``pause_tolerance`` they start again. Nothing is judged by a timer that comes late: first there is time to read what
  waits in the socket.
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
    LinkDegraded,
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
    SelfIsolated,
)

from .coordinates import is_sane
from .isolation import Isolation, looks_isolated
from .links import LinkWatch
from .peers import Peers
from .phi import Credibility
from .prober import Answer, Prober
from .probing import Cycle
from .spreading import Spreading
from .stalls import StallWatch, longest_of_class
from .suspicion import Case, Docket, is_juror, open_case

if TYPE_CHECKING:
    import random

__all__ = ["DetectorMachine", "DetectorSnapshot"]

_REPEATED_FAILURE = 0.5
_MAX_REPEATS = 2
_REFUSED_PHI = 3.0
_MAX_EXTRA_PROBES = 8
_MAX_ASKED = 4096
_MAX_PASSED_OVER = 8
_PROBE_ANYWAY_EVERY = 10
_LONGEST_PAUSE = 60.0
_PATIENCES = 4.0


class DetectorSnapshot:
    """What the detector believes; it is read where it is kept, so it is always as of now."""

    __slots__ = ("_machine",)

    def __init__(self, machine: DetectorMachine) -> None:
        self._machine = machine

    def phi(self, node_id: str, now: float) -> float:
        """Return how improbable the node's silence is if it is alive, as -log10 of the probability.

        Up to 3 from this node's own latest probe while nobody suspects it, the joint evidence while somebody does,
        infinite for a node that failed, left or is unknown.
        """
        return self._machine.phi(node_id, now)

    def rtt(self, node_id: str) -> float | None:
        """Return the round trip to a member in seconds: measured lately, or foretold from coordinates; else None."""
        return self._machine.rtt(node_id)


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
        self._rng = rng
        self._period = config.probe_interval
        self._period_at = now
        self._judge_from = now
        self._peers = Peers()
        self._docket = Docket()
        self._prober = Prober(config=config, peers=self._peers, docket=self._docket, rng=rng, now=now)
        self._credibility = Credibility()
        self._isolation = Isolation()
        self._links = LinkWatch(config.probe_interval)
        self._spreading = Spreading(gossip.gossip_interval, gossip.gossip_fanout)
        self._stalls = StallWatch(now)
        self._streaks: dict[str, int] = {}
        self._latest: dict[str, float] = {}
        self._heard: dict[str, float] = {}
        self._asked: dict[str, None] = {}
        self._extra_probes = _MAX_EXTRA_PROBES
        self._passed_over = 0
        self._snapshot = DetectorSnapshot(self)

    # --- reading

    def snapshot(self) -> DetectorSnapshot:
        """Return what is believed; always the same object."""
        return self._snapshot

    def phi(self, node_id: str, now: float) -> float:
        """Return what :meth:`DetectorSnapshot.phi` says."""
        case = self._docket.get(node_id)
        if case is not None:
            return case.phi(now)
        is_known = node_id in self._peers or node_id == self._local_id
        return self._latest.get(node_id, 0.0) if is_known else math.inf

    def rtt(self, node_id: str) -> float | None:
        """Return what :meth:`DetectorSnapshot.rtt` says."""
        return self._prober.rtt(node_id)

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
        for node in present.values():
            self._keep(node, now)
        for node in present.values():
            if node.state is not NodeState.SUSPECT:
                self._docket.close(node.id)
            elif self._open_case(node, now):
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
                self._latest.pop(node.id, None)
            case NodeUpdated(node=node) if node.id in self._peers:
                self._keep(node, now)
            case NodeFailed(node=node) | NodeLeft(node=node) | NodeReaped(node=node):
                self._remove(node.id)
            case Accused():
                self._hear_accusation(event, now)
            case PeerHeard(node_id=node_id) if node_id in self._peers:
                self._heard.pop(node_id, None)
                self._heard[node_id] = now
                self._links.heard(node_id)
                self._prober.end(node_id)
                self._succeed(node_id, now)
            case _:
                return self._handle_signal(event, now)
        return []

    def _handle_signal(self, event: ClusterEvent, now: float) -> list[ClusterEvent]:
        match event:
            case ProbeNacked() if self._prober.hear_nack(event) and event.helper in self._peers:
                self._credibility.observe(event.helper, failed=False)
            case ProbeRefused(node_id=node_id) if node_id in self._peers:
                cycle = self._prober.cycles.get(node_id)
                if cycle is None:
                    return self._probe_soon(node_id, now)
                cycle.is_refused = True
            case LeaseExpired(node_id=node_id) if node_id in self._peers:
                return self._probe_soon(node_id, now)
            case PeerUnreachable(node_id=node_id) if node_id in self._peers:
                return self._hear_of_failed_call(event, now)
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
        for forget in (self._prober.forget, self._credibility.forget, self._isolation.forget, self._links.forget):
            forget(node_id)
        for table in (self._streaks, self._latest, self._heard, self._asked):
            table.pop(node_id, None)
        if not len(self._peers):
            self._isolation.end()

    # --- suspicions

    def _open_case(self, node: NodeInfo, now: float) -> bool:
        """Start a suspicion of this incarnation; False when it is under way already."""
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
            now=now,
        )
        self._docket.open(node.id, case)
        return True

    def _summon(self, event: NodeSuspected, now: float) -> list[ClusterEvent]:
        node = event.node
        if not self._open_case(node, now) or self._local_id in event.accusers:
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
            self._reconsider_isolation(now)

    def _supported(self, targets: Iterable[str]) -> list[str]:
        """Return those whose silence somebody else has met too."""
        return [target for target in targets if self._docket.is_supported(target, self._local_id)]

    # --- answers

    def _hear_answer(self, event: ProbeAnswered, now: float) -> list[ClusterEvent]:
        match self._prober.hear_answer(event, now):
            case Answer.DIRECT:
                self._links.answered_directly(event.node_id)
            case Answer.NOTHING:
                return []
        self._succeed(event.node_id, now)
        position = self._prober.position
        if not position.is_news(self._prober.round_trips.typical, now):
            return []
        return [self._own_vitals(now)]

    def _own_vitals(self, now: float) -> ClusterEvent:
        return OwnVitals(coordinates=self._prober.position.tell(now), stall=self._stalls.stall, at=now)

    def _succeed(self, node_id: str, now: float) -> None:
        self._streaks.pop(node_id, None)
        self._latest.pop(node_id, None)
        self._credibility.observe(node_id, failed=False)
        if self._isolation.is_on:
            self._isolation.note(node_id, failed=False)
            self._reconsider_isolation(now)

    def _hear_of_failed_call(self, event: PeerUnreachable, now: float) -> list[ClusterEvent]:
        node = self._peers.get(event.node_id)
        is_too_often = self._links.call_failed(event.node_id, now)
        if node is None or node.id in self._docket or self._latest.get(node.id):
            return []  # its datagrams do not pass either
        if not is_too_often:
            return self._probe_soon(node.id, now)
        self._links.say_of_calls(node.id)
        return [self._link_degraded(node, f"calls fail, though pings are answered: {event.reason}", now)]

    def _link_degraded(self, node: NodeInfo, reason: str, now: float) -> ClusterEvent:
        return LinkDegraded(node=node, observer=self._local_id, reason=reason, at=now)

    # --- the ends of cycles

    def _end(self, cycle: Cycle, now: float) -> list[ClusterEvent]:
        """End a cycle that got no direct answer."""
        self._prober.end(cycle.node_id)
        node = self._peers.get(cycle.node_id)
        if node is None:
            return []
        return self._end_helped(cycle, node, now) if cycle.is_helped else self._fail(cycle, node, now)

    def _end_helped(self, cycle: Cycle, node: NodeInfo, now: float) -> list[ClusterEvent]:
        is_degraded = self._links.answered_through_others(node.id, cycle.started_at, now)
        if self._links.is_suspicious(node.id):
            self._prober.begin(node.id, cycle.started_at + self._period)
        if not is_degraded:
            return []
        return [self._link_degraded(node, "answers others, but not this node", now)]

    def _fail(self, cycle: Cycle, node: NodeInfo, now: float) -> list[ClusterEvent]:
        self._credibility.observe(node.id, failed=True, were_helpers_silent=cycle.were_helpers_silent)
        self._isolation.note(node.id, failed=True)
        silence = self._prober.silence(cycle, now)
        streak = self._streaks.get(node.id, 0)
        self._streaks[node.id] = streak + 1
        phi = -math.log10(silence + self._credibility.doubt(self._supported(self._credibility.failed())))
        if cycle.is_refused:
            phi = max(phi, _REFUSED_PHI)
        self._latest[node.id] = max(phi, 0.0)
        events = self._reconsider_isolation(now)
        if self._isolation.is_on:
            return events
        phi += streak * _REPEATED_FAILURE
        case = self._docket.get(node.id)
        own = None if case is None else case.accusers.get(self._local_id)
        if own is not None:
            phi = max(phi, own + _REPEATED_FAILURE)
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

    # --- being cut off

    def _reconsider_isolation(self, now: float) -> list[ClusterEvent]:
        """Begin or end an episode of being cut off."""
        outcomes = self._credibility.recent()
        failed = [target for target, has_failed in outcomes if has_failed]
        is_isolated = looks_isolated(outcomes, self._supported(failed), len(self._peers))
        if is_isolated == self._isolation.is_on:
            return []
        if not is_isolated:
            self._isolation.end()
            self._docket.delay(0.0, now, judge_from=now, is_long=True)
            return []
        patience = self._config.pause_tolerance + self._spread
        self._isolation.begin(failed, _PATIENCES * patience, now)
        return [SelfIsolated(failed=tuple(failed), at=now)]

    def _give_up(self, now: float) -> list[ClusterEvent]:
        """Declare those failed that do not answer, to this node alone."""
        given_up = [self._peers.get(node_id) for node_id in self._isolation.give_up(list(self._peers), now)]
        reason = "no answer, and this node is cut off"
        return [self._verdict(node, reason, now) for node in given_up if node is not None]

    def _verdict(self, node: NodeInfo | Case, reason: str, now: float, *, node_id: str = "") -> ClusterEvent:
        return Verdict(
            node_id=node.id if isinstance(node, NodeInfo) else node_id,
            boot_id=node.boot_id,
            incarnation=node.incarnation,
            reason=reason,
            is_local=self._isolation.is_on,
            at=now,
        )

    # --- timers

    def next_timer(self) -> float | None:
        """Return the Trio time at which :meth:`on_timer` has something to do; None while there is nobody else."""
        if not len(self._peers):
            return None
        first = min(self._period_at, self._isolation.gives_up_at)
        for timer in (self._prober.timers.next(), self._docket.next_timer()):
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
            events += self._give_up(now)
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
        self._docket.again(node_id, now + self._period)
        reason = (
            f"no answer to {len(case.accusers)} accusers (evidence {case.evidence:.1f} of {case.need:.1f}), "
            f"and no refutation for {now - case.started_at:.1f} s"
        )
        return [self._verdict(case, reason, now, node_id=node_id)]

    def _next_period(self, now: float) -> list[ClusterEvent]:
        self._period_at = max(self._period_at + self._period, now)
        self._extra_probes = _MAX_EXTRA_PROBES
        self._prober.forget_old_pings(now)
        self._forget_heard(now)
        node_id = self._whose_turn()
        events = [] if node_id is None or node_id in self._prober.cycles else self._probe(node_id, now)
        while self._asked and self._extra_probes:
            asked = next(iter(self._asked))
            del self._asked[asked]
            events += self._probe_soon(asked, now)
        return events

    def _whose_turn(self) -> str | None:
        """Return who is to be probed: the next one that was not heard lately; now and then the next one anyway."""
        for _ in range(min(len(self._peers), _MAX_PASSED_OVER)):
            node = self._peers.next(self._rng)
            if node is None or node.id not in self._heard:
                break
        else:
            self._passed_over += 1
            if self._passed_over < _PROBE_ANYWAY_EVERY:
                return None
        self._passed_over = 0
        return None if node is None else node.id

    def _forget_heard(self, now: float) -> None:
        """Forget who was heard before the last period; the dict is in the order of hearing."""
        while self._heard:
            node_id = next(iter(self._heard))
            if self._heard[node_id] > now - 1.25 * self._period:
                break
            del self._heard[node_id]

    def _probe(self, node_id: str, now: float) -> list[ClusterEvent]:
        """Begin a cycle, unless one is under way."""
        cycle = self._prober.begin(node_id, now)
        return [] if cycle.seqs else [self._prober.attempt(cycle, now)]

    def _probe_soon(self, node_id: str, now: float) -> list[ClusterEvent]:
        """Probe a node out of its turn, now or, when there were many, in one of the next periods."""
        if self._extra_probes > 0:
            self._extra_probes -= 1
            return self._probe(node_id, now)
        if len(self._asked) < _MAX_ASKED:
            self._asked[node_id] = None
        return []

    # --- this node's own lateness

    def on_tick(self, lateness: float, now: float) -> list[ClusterEvent]:
        """Take in by how many seconds a regular tick of this node's own was late."""
        if lateness > self._period / 4:
            self._void(0.0, now)
        degraded = self._stalls.observe(lateness, now)
        if degraded is None:
            return []
        return [self._own_vitals(now), *degraded]

    @property
    def _grace(self) -> float:
        return self._period / 8

    def _is_late(self, due: float, now: float) -> bool:
        return now - due > self._period / 20

    def _notice_lag(self, now: float) -> None:
        """Void what was measured across a stall that this node's own timer met."""
        due = self.next_timer()
        if due is not None and now - due > self._period / 4:
            self._void(now - due, now)

    def _void(self, lag: float, now: float) -> None:
        is_long = lag > self._config.pause_tolerance
        self._judge_from = now + self._period / 4
        self._prober.void(now)
        self._period_at = max(self._period_at, now)
        self._docket.delay(lag, now, judge_from=self._judge_from, is_long=is_long)
        self._isolation.delay(lag, now, is_long=is_long)
        self._links.delay(lag)
