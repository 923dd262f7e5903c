"""The mathematics of accrual failure detection: from late answers to evidence, from evidence to a verdict.

All phi are ``-log10`` of a probability: 2 is one chance in a hundred.

* **Round trips.** ``ln(rtt / predicted)`` is pooled over all peers as one normal distribution, ``predicted`` being the
  peer's own typical round trip, or the typical one of all peers while it has no history. Every node so has one
  sample per second whatever the cluster's size, where one peer alone would give one in N seconds. ``F`` is its
  distribution function.
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
* **Conviction** after suspicion at ``t_s``, with ``E_j`` the sum of the accusers' evidence::

      Phi      = conviction_phi + max(0, log10(N / 40))
      need     = min(Phi, 2 ceil((N - 1) / 2))
      D        = gossip_interval (ln(N + 1) + 9.21) / ((fanout / 2) (1 - p))        news has reached 99.99 %
      T_s      = pause_tolerance + D
      phi_j(t) = -log10( [10^(-Phi E_j / need) + 10^(-Phi (t - t_s) / T_s)] / 2 )

  a smooth minimum: it takes evidence *and* time. A node that stops for up to ``pause_tolerance`` and comes back has
  ``D`` left to refute, at every N. Failed at ``phi_j >= Phi``, and after ``4 T_s`` whatever the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import attrs

__all__ = [
    "Credibility",
    "LossModel",
    "RoundTripModel",
    "Trial",
    "conviction_phi",
    "conviction_time",
    "dissemination_time",
    "joint_phi",
    "needed_evidence",
    "silence_probability",
]

_Z90 = 1.2815515655446004
_FORGET = 0.99
_MIN_SIGMA = 0.1
_PRIOR_WEIGHT = 4.0
_OWN_HISTORY_GAIN = 0.25


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


class RoundTripModel:
    """Round-trip times of all peers, pooled as one lognormal distribution around each peer's own typical time.

    Args:
        prior: seconds a round trip is taken to last before any was measured, within a factor of three or so.
    """

    def __init__(self, prior: float) -> None:
        self._typical: dict[str, float] = {}
        self._all = math.log(prior)
        self._mean = 0.0
        self._variance = 1.0
        self._weight = _PRIOR_WEIGHT

    def observe(self, peer: str, rtt: float) -> None:
        """Take in one measured round trip of ``rtt`` seconds."""
        value = math.log(max(rtt, 1e-6))
        own = self._typical.get(peer)
        residual = value - (self._all if own is None else own)
        self._weight = self._weight * _FORGET + 1.0
        gain = 1.0 / self._weight
        surprise = residual - self._mean
        self._mean += gain * surprise
        self._variance = (1.0 - gain) * (self._variance + gain * surprise * surprise)
        self._all += max(gain, 1.0 - _FORGET) * (value - self._all)
        self._typical[peer] = value if own is None else own + _OWN_HISTORY_GAIN * (value - own)

    def forget(self, peer: str) -> None:
        """Drop what is known of one peer."""
        self._typical.pop(peer, None)

    def predicted(self, peer: str) -> float:
        """Return the round trip that is typical for ``peer``, in seconds."""
        return math.exp(self._typical.get(peer, self._all))

    def probability_answered(self, peer: str, elapsed: float, hops: int = 1) -> float:
        """Return F: how probable it is that an answer not lost has arrived after ``elapsed`` seconds."""
        if elapsed <= 0:
            return 0.0
        residual = math.log(elapsed / (hops * self.predicted(peer)))
        return _normal_cdf((residual - self._mean) / self._sigma)

    def q90(self, peer: str) -> float:
        """Return the time within which nine answers in ten arrive, in seconds."""
        return self.predicted(peer) * math.exp(self._mean + _Z90 * self._sigma)

    @property
    def _sigma(self) -> float:
        return max(math.sqrt(self._variance), _MIN_SIGMA)


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
        return 1.0 - arrives * (1.0 - self.round_trip**pings)


@attrs.frozen
class Trial:
    """One way in which an answer could have come."""

    at: float
    """When it was tried."""
    loss: float
    """The probability that no answer comes though the target is alive."""
    hops: int = 1
    """Round trips it takes: 2 through a helper."""


def silence_probability(model: RoundTripModel, peer: str, trials: Iterable[Trial], now: float) -> float:
    """Return m(t): how probable it is that a living ``peer`` has answered none of the trials by ``now``."""
    product = 1.0
    for trial in trials:
        late = 1.0 - model.probability_answered(peer, now - trial.at, trial.hops)
        product *= trial.loss + (1.0 - trial.loss) * late
    return product


class Credibility:
    """How far this node's own probes can be believed: q, from the latest cycles to 20 distinct targets."""

    def __init__(self) -> None:
        self._failed: dict[str, bool] = {}

    def observe(self, target: str, *, failed: bool) -> None:
        """Take in the outcome of the latest cycle to ``target``."""
        self._failed.pop(target, None)
        self._failed[target] = failed
        if len(self._failed) > _WINDOW:
            del self._failed[next(iter(self._failed))]

    def forget(self, target: str) -> None:
        """Leave out a target that is no member any more."""
        self._failed.pop(target, None)

    def doubt(self, accused_by_others: Iterable[str]) -> float:
        """Return q, the probability that this node itself is why its probes fail.

        Args:
            accused_by_others: targets whose silence somebody else has met too; they say nothing about this node.
        """
        supported = frozenset(accused_by_others)
        own = [failed for target, failed in self._failed.items() if target not in supported]
        share = sum(own) / (len(own) + 10)
        return max(_MIN_DOUBT, share * share)


_WINDOW = 20
_MIN_DOUBT = 1e-3


def conviction_phi(base: float, n_members: int) -> float:
    """Return Phi: what it takes to declare a node failed in a cluster of ``n_members``."""
    return base + max(0.0, math.log10(max(n_members, 1) / 40))


def needed_evidence(phi: float, n_members: int) -> float:
    """Return the evidence that makes Phi: less in clusters too small to have many accusers."""
    return min(phi, 2.0 * math.ceil(max(n_members - 1, 1) / 2))


def dissemination_time(interval: float, fanout: int, n_members: int, one_way_loss: float) -> float:
    """Return D: seconds until news has reached 99.99 % of the cluster."""
    return interval * (math.log(n_members + 1) + 9.21) / ((fanout / 2) * (1.0 - one_way_loss))


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
