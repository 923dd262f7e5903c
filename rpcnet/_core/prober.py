"""The probe cycles under way, and what their answers teach: round trips, losses, where this node stands.

The rules of this file:

* One cycle per member at a time (``probing.py``). Who asks for another one gets the one that is under way.
* A number belongs to one ping of one cycle, and is remembered for four periods, so that late answers teach something
  and tell that the member lives. An answer that was waiting while this node stood still says nothing about the path.
* A helper that got no answer is a helper that lives; only helpers that were asked may say so.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from rpcnet._signals import Coordinates, ProbeAnswered, ProbeDue, ProbeNacked
from rpcnet.config import DetectorConfig

from .coordinates import ORIGIN, Position, distance, is_sane
from .peers import Peers
from .phi import LossModel, Trial, silence_probability
from .probing import ASKING_AFTER, HELPER_PINGS, Cycle, schedule
from .relays import FIRST_RELAY_SEQ
from .round_trips import RoundTripModel
from .suspicion import Docket
from .timers import Timers

if TYPE_CHECKING:
    import random

__all__ = ["Answer", "Prober"]

_LATE_ANSWERS = 4.0
_SURE = 0.5
_ZONE = "zone"


class Answer(enum.Enum):
    """What an answer says."""

    DIRECT = "direct"
    """The member lives, and the path to it works."""
    INDIRECT = "indirect"
    """The member lives."""
    NOTHING = "nothing"
    """It belongs to no ping that is remembered."""


class Prober:
    """Sends pings and takes in the answers.

    Args:
        config: how often, and with how many helpers.
        peers: the members.
        docket: those who are suspected do not help.
        rng: where chance comes from.
        now: Trio time.
    """

    def __init__(self, *, config: DetectorConfig, peers: Peers, docket: Docket, rng: random.Random, now: float) -> None:
        self._config = config
        self._period = config.probe_interval
        self._peers = peers
        self._docket = docket
        self._rng = rng
        self._sent: dict[int, tuple[str, float]] = {}
        self._seq = rng.randrange(FIRST_RELAY_SEQ)
        self._measured_from = now
        self.cycles: dict[str, Cycle] = {}
        """By member."""
        self.timers = Timers()
        """When each cycle goes on."""
        self.loss = LossModel()
        """How much is lost."""
        self.position = Position()
        """Where this node stands."""
        self.round_trips = RoundTripModel(config.probe_interval / 50, self._foretell)
        """How long answers take."""

    # --- what is expected

    def _foretell(self, node_id: str) -> float | None:
        """Return the round trip that coordinates foretell, when both are sure enough."""
        own = self.position.coordinates
        if own[3] > _SURE:
            return None
        other = self._peers.coordinates(node_id)
        return None if other is None or other[3] > _SURE else distance(own, other)

    def rtt(self, node_id: str) -> float | None:
        """Return the round trip to a member in seconds: measured lately, or foretold if both have measured anything."""
        measured = self.round_trips.measured(node_id)
        if measured is not None or not self.position.is_known:
            return measured
        other = self._peers.coordinates(node_id)
        return None if other is None or other[3] >= ORIGIN[3] else distance(self.position.coordinates, other)

    def silence(self, cycle: Cycle, now: float) -> float:
        """Return how improbable the silence of a cycle, and of those it repeats, is if the member lives."""
        return cycle.silence * silence_probability(self.round_trips, cycle.node_id, cycle.trials, now)

    # --- cycles

    def begin(self, node_id: str, at: float, *, after: Cycle | None = None, silence: float = 1.0) -> Cycle:
        """Return the cycle under way to a member, a new one from ``at`` on if there is none."""
        cycle = self.cycles.get(node_id)
        node = self._peers.get(node_id)
        if cycle is None and node is not None:
            offsets, length = schedule(self.round_trips.q90(node_id), self._period)
            repeats = 0 if after is None else after.repeats + 1
            asks_from = ASKING_AFTER * self._period
            cycle = Cycle(node_id, node.boot_id, at, offsets, length, asks_from, silence, repeats)
            self.cycles[node_id] = cycle
            self.timers.set(node_id, at)
        if cycle is None:
            raise ValueError(f"{node_id} is no member")
        return cycle

    def attempt(self, cycle: Cycle, now: float) -> ProbeDue:
        """Send the next ping of a cycle, and requests to helpers when it is time for them."""
        self._seq = seq = (self._seq + 1) % FIRST_RELAY_SEQ
        helpers = self._choose_helpers(cycle) if cycle.asks_helpers else ()
        fallback = cycle.asks_connection
        cycle.seqs.append(seq)
        cycle.trials.append(Trial(now, self.loss.round_trip))
        if helpers:
            asked = cycle.helpers = cycle.helpers or {}
            through_helper = Trial(now, self.loss.through_helper(HELPER_PINGS), hops=2)
            for helper in helpers:
                asked[seq, helper] = len(cycle.trials)
                cycle.trials.append(through_helper)
        self._sent[seq] = (cycle.node_id, now)
        self.timers.set(cycle.node_id, cycle.next_at)
        return ProbeDue(
            node_id=cycle.node_id,
            boot_id=cycle.boot_id,
            seq=seq,
            helpers=helpers,
            remaining=cycle.ends_at - now,
            fallback=fallback,
            at=now,
        )

    def end(self, node_id: str) -> None:
        """End the cycle to a member, if there is one."""
        if self.cycles.pop(node_id, None) is not None:
            self.timers.cancel(node_id)

    def forget(self, node_id: str) -> None:
        """Forget a node that is no member any more."""
        self.end(node_id)
        self.round_trips.forget(node_id)

    def void(self, now: float) -> None:
        """Begin all cycles again, and measure nothing by what was sent before: this node stood still."""
        self._measured_from = now
        for node_id in list(self.cycles):
            self.end(node_id)
            self.begin(node_id, now)

    def forget_old_pings(self, now: float) -> None:
        """Forget pings so old that an answer teaches nothing; the dict is in the order of sending."""
        while self._sent:
            seq = next(iter(self._sent))
            if self._sent[seq][1] > now - _LATE_ANSWERS * self._period:
                break
            del self._sent[seq]

    def _choose_helpers(self, cycle: Cycle) -> tuple[str, ...]:
        """Choose members at random that nobody suspects, those not asked before and of different zones first."""
        target, count = cycle.node_id, self._config.indirect_probes
        asked = {helper: None for _, helper in cycle.helpers or ()}
        docket = self._docket
        able = self._peers.sample(2 * count, self._rng, lambda node_id: node_id != target and node_id not in docket)
        zones: dict[str | None, int] = {}
        ranked: list[tuple[bool, int, int, str]] = []
        for order, node in enumerate(able):
            zone = node.tags.get(_ZONE)
            nth = zones[zone] = zones.get(zone, 0) + 1
            ranked.append((node.id in asked, 0 if zone is None else nth, order, node.id))
        return tuple(node_id for *_, node_id in sorted(ranked)[:count])

    # --- answers

    def hear_answer(self, event: ProbeAnswered, now: float) -> Answer:
        """Take in an answer, which ends the cycle it belongs to if it came directly."""
        node_id, seq = event.node_id, event.seq
        sent = self._sent.get(seq)
        if sent is None or sent[0] != node_id or node_id not in self._peers:
            return Answer.NOTHING
        cycle = self.cycles.get(node_id)
        if event.via is not None:
            if cycle is not None and seq in cycle.seqs:
                cycle.is_helped = True
            return Answer.INDIRECT
        del self._sent[seq]
        if sent[1] >= self._measured_from:
            self._measure(node_id, event.coordinates, now - sent[1])
            if cycle is not None and seq in cycle.seqs:
                self.loss.observe(lost=cycle.seqs.index(seq))
        self.end(node_id)
        return Answer.DIRECT

    def _measure(self, node_id: str, coordinates: Coordinates | None, rtt: float) -> None:
        if coordinates is not None and is_sane(coordinates):
            self._peers.place(node_id, coordinates)
            self.position.measured(coordinates, rtt, self._rng)
        self.round_trips.observe(node_id, rtt)

    def refuse(self, node_id: str) -> None:
        """Take in that a member's host said that nobody has its port; without a cycle that means nothing."""
        cycle = self.cycles.get(node_id)
        if cycle is not None:
            cycle.is_refused = True

    def hear_nack(self, event: ProbeNacked) -> bool:
        """Take in that a helper got no answer; return whether it was asked."""
        cycle = self.cycles.get(event.node_id)
        if cycle is None or not cycle.nack(event.seq, event.helper, self.loss.in_vain(HELPER_PINGS)):
            return False
        cycle.is_refused = cycle.is_refused or event.refused
        return True
