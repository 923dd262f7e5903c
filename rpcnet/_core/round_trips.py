"""How long an answer may take: round trips, pooled over all peers.

The rules of this file:

* ``ln(rtt / predicted)`` is taken to be normal, the same for all peers. Every node so has one sample per second
  whatever the cluster's size, where one peer alone would give one in N seconds. ``F`` is its distribution function.
* ``predicted`` is the peer's own typical round trip if it was measured lately; else what the coordinates of the two
  nodes foretell (``coordinates.py``), if both are sure enough; else the typical round trip of all peers.
* The own history is bounded to the peers that were measured last. What coordinates foretell is bounded as well: a peer
  that claims to stand far away is not given for ever to answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["RoundTripModel"]

_Z90 = 1.2815515655446004
_FORGET = 0.99
_MIN_SIGMA = 0.1
_PRIOR_WEIGHT = 4.0
_OWN_HISTORY_GAIN = 0.25
_MAX_PEERS = 1024
_LEAST = 1e-6


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def _nobody_knows(_: str) -> float | None:
    return None


class RoundTripModel:
    """How long an answer takes when nothing is lost.

    Args:
        prior: seconds a round trip is taken to last before any was measured, within a factor of three or so.
        foretell: what coordinates foretell for a peer, in seconds; None when they foretell nothing.
    """

    def __init__(self, prior: float, foretell: Callable[[str], float | None] = _nobody_knows) -> None:
        self._foretell = foretell
        self._typical: dict[str, float] = {}
        self._all = math.log(prior)
        self._most = math.log(12.5 * prior)
        self._mean = 0.0
        self._variance = 1.0
        self._weight = _PRIOR_WEIGHT

    def observe(self, peer: str, rtt: float) -> None:
        """Take in one measured round trip of ``rtt`` seconds."""
        value = math.log(max(rtt, _LEAST))
        residual = value - self._expected(peer)
        self._weight = self._weight * _FORGET + 1.0
        gain = 1.0 / self._weight
        surprise = residual - self._mean
        self._mean += gain * surprise
        self._variance = (1.0 - gain) * (self._variance + gain * surprise * surprise)
        self._all += max(gain, 1.0 - _FORGET) * (value - self._all)
        own = self._typical.pop(peer, None)
        self._typical[peer] = value if own is None else own + _OWN_HISTORY_GAIN * (value - own)
        if len(self._typical) > _MAX_PEERS:
            del self._typical[next(iter(self._typical))]

    def forget(self, peer: str) -> None:
        """Drop what is known of one peer."""
        self._typical.pop(peer, None)

    def measured(self, peer: str) -> float | None:
        """Return the round trip that was lately measured to ``peer``, in seconds; None if none was."""
        own = self._typical.get(peer)
        return None if own is None else math.exp(own)

    @property
    def typical(self) -> float:
        """The typical round trip of all peers, in seconds."""
        return math.exp(self._all)

    def predicted(self, peer: str) -> float:
        """Return the round trip that is typical for ``peer``, in seconds."""
        return math.exp(self._expected(peer))

    def probability_answered(self, peer: str, elapsed: float, hops: int = 1) -> float:
        """Return F: how probable it is that an answer not lost has arrived after ``elapsed`` seconds."""
        if elapsed <= 0:
            return 0.0
        residual = math.log(elapsed / hops) - self._expected(peer)
        return _normal_cdf((residual - self._mean) / self._sigma)

    def q90(self, peer: str) -> float:
        """Return the time within which nine answers in ten arrive, in seconds."""
        return math.exp(self._expected(peer) + self._mean + _Z90 * self._sigma)

    def _expected(self, peer: str) -> float:
        """Return the logarithm of what is predicted."""
        own = self._typical.get(peer)
        if own is not None:
            return own
        foretold = self._foretell(peer)
        return self._all if foretold is None else min(math.log(max(foretold, _LEAST)), max(self._most, self._all))

    @property
    def _sigma(self) -> float:
        return max(math.sqrt(self._variance), _MIN_SIGMA)
