"""The mathematics of accrual failure detection: from late answers to evidence, from evidence to a verdict.

All phi are ``-log10`` of a probability: 2 is one chance in a hundred.

* **Round trips.** ``F`` is the distribution of how long an answer that is not lost takes (``round_trips.py``).
* **Loss.** ``l`` is the probability that a ping or its answer is lost, pooled over all probes, with a Beta prior of
  one in twenty and exponential forgetting. One way it is ``p = 1 - sqrt(1 - l)``.
* **Evidence** of one probe cycle with attempts at times ``t_e``, each with its own loss ``l_e``
  (Hayashibara et al. 2004, with retransmission)::

      m(t)  = prod over e of [ l_e + (1 - l_e) (1 - F(ln((t - t_e) / predicted))) ]
      phi_i = -log10( m(t) + q_i )
      q_i   = max(1e-3, f_i^2),   f_i = failed / (tested + 10) over the latest cycles to 20 distinct targets

  ``q_i`` is the probability that the observer itself is the cause (Lifeguard's local health as a probability), so no
  observer claims more than 3, and one whose probes fail everywhere hardly anything. Targets that somebody else
  accuses too are left out of ``f_i``.
* **Helpers** say when they got no answer either (Lifeguard's nack). Such a helper is alive and was reached, so what is
  left of its factor in ``m`` is that all its pings were lost, and it counts as a target that answered in ``f_i``. When
  none of the helpers of a cycle says anything, they count in ``f_i`` as half a target that failed.
* **Conviction** after suspicion at ``t_s``, with ``E_j`` the sum of the accusers' evidence::

      Phi      = conviction_phi + max(0, log10(N / 40))
      need     = min(Phi, 2 ceil((N - 1) / 2))
      T_s      = P_j + D                    D: news has reached 99 %, as measured (``spreading.py``)
      P_j      = max(pause_tolerance, the longest stall of the class that j tells of itself), at most 60 s
      phi_j(t) = -log10( [10^(-Phi E_j / need) + 10^(-Phi (t - t_s) / T_s)] / 2 )

  a smooth minimum: it takes evidence *and* time. A node that stops for up to ``P_j`` and comes back has
  ``D`` left to refute, at every N. Failed at ``phi_j >= Phi``, and after ``4 T_s`` whatever the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable

import attrs

from .round_trips import RoundTripModel

__all__ = [
    "Credibility",
    "LossModel",
    "Trial",
    "conviction_phi",
    "conviction_time",
    "joint_phi",
    "needed_evidence",
    "silence_probability",
]

_FORGET = 0.99
_WINDOW = 20
_MIN_DOUBT = 1e-3
_RECENT = 10
_SILENT_HELPERS = 0.5


class LossModel:
    """How often a ping or its answer is lost, pooled over all probes."""

    def __init__(self) -> None:
        self._lost = 0.0
        self._arrived = 0.0

    def observe(self, *, lost: int) -> None:
        """Take in one answered probe, ``lost`` of whose pings were not answered."""
        self._lost = self._lost * _FORGET + lost
        self._arrived = self._arrived * _FORGET + 1.0

    @property
    def round_trip(self) -> float:
        """The probability that one ping gets no answer though its target is alive."""
        return (self._lost + 1.0) / (self._lost + self._arrived + 20.0)

    @property
    def one_way(self) -> float:
        """The probability that one datagram is lost."""
        return 1.0 - math.sqrt(1.0 - self.round_trip)

    def through_helper(self, pings: int) -> float:
        """Return the probability that a request to a helper, which pings ``pings`` times, gets no answer."""
        arrives = (1.0 - self.one_way) ** 2
        return 1.0 - arrives * (1.0 - self.in_vain(pings))

    def in_vain(self, pings: int) -> float:
        """Return the probability that none of ``pings`` pings is answered though the target is alive."""
        return self.round_trip**pings


@attrs.frozen
class Trial:
    """One way in which an answer could have come."""

    at: float
    """When it was tried."""
    loss: float
    """The probability that no answer comes though the target is alive."""
    hops: int = 1
    """Round trips it takes: 2 through a helper; 0 when it is over, so that the answer cannot be late any more."""


def silence_probability(model: RoundTripModel, peer: str, trials: Iterable[Trial], now: float) -> float:
    """Return m(t): how probable it is that a living ``peer`` has answered none of the trials by ``now``."""
    product = 1.0
    for trial in trials:
        late = 1.0 - model.probability_answered(peer, now - trial.at, trial.hops) if trial.hops else 0.0
        product *= trial.loss + (1.0 - trial.loss) * late
    return product


class Credibility:
    """How far this node's own probes can be believed: q, from the latest cycles to 20 distinct targets."""

    def __init__(self) -> None:
        self._outcomes: dict[str, float] = {}

    def observe(self, target: str, *, failed: bool, were_helpers_silent: bool = False) -> None:
        """Take in the outcome of the latest cycle to ``target``, or that it answered otherwise."""
        self._outcomes.pop(target, None)
        self._outcomes[target] = failed * (1.0 + _SILENT_HELPERS * were_helpers_silent)
        if len(self._outcomes) > _WINDOW:
            del self._outcomes[next(iter(self._outcomes))]

    def forget(self, target: str) -> None:
        """Leave out a target that is no member any more."""
        self._outcomes.pop(target, None)

    def failed(self) -> list[str]:
        """Return the targets whose latest cycle failed."""
        return [target for target, count in self._outcomes.items() if count]

    def recent(self) -> list[tuple[str, bool]]:
        """Return the latest outcomes, the newest last: target, and whether it did not answer."""
        return [(target, count > 0) for target, count in list(self._outcomes.items())[-_RECENT:]]

    def doubt(self, accused_by_others: Container[str]) -> float:
        """Return q, the probability that this node itself is why its probes fail.

        Args:
            accused_by_others: targets whose silence somebody else has met too; they say nothing about this node.
        """
        own = [count for target, count in self._outcomes.items() if target not in accused_by_others]
        tested = len(own) + sum(max(count - 1.0, 0.0) for count in own)
        share = sum(own) / (tested + 10)
        return max(_MIN_DOUBT, share * share)


def conviction_phi(base: float, n_members: int) -> float:
    """Return Phi: what it takes to declare a node failed in a cluster of ``n_members``."""
    return base + max(0.0, math.log10(max(n_members, 1) / 40))


def needed_evidence(phi: float, n_members: int) -> float:
    """Return the evidence that makes Phi: less in clusters too small to have many accusers."""
    return min(phi, 2.0 * math.ceil(max(n_members - 1, 1) / 2))


def joint_phi(phi: float, evidence: float, need: float, elapsed: float, patience: float) -> float:
    """Return phi_j(t), the smooth minimum of evidence and time; ``patience`` is T_s."""
    by_evidence = 10.0 ** (-phi * evidence / need)
    by_time = 10.0 ** (-phi * max(elapsed, 0.0) / patience)
    return -math.log10((by_evidence + by_time) / 2) + 0.0


def conviction_time(phi: float, evidence: float, need: float, patience: float) -> float:
    """Return how many seconds after its start a suspicion becomes a verdict if no more evidence comes."""
    latest = 4.0 * patience
    rest = 2.0 * 10.0**-phi - 10.0 ** (-phi * evidence / need)
    if rest <= 0.0:
        return latest
    return min(latest, -math.log10(rest) * patience / phi)
