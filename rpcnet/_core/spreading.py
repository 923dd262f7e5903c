"""How long news takes to reach everybody: D, a measured quantile.

The rules of this file:

* The age at which news reaches a random node is a place and a tail. In an epidemic the number of nodes that know grows
  exponentially with a time constant ``tau``, so the place is ``tau ln(N + 1)``; then the number of those that do not
  know shrinks by the same constant, so the tail is exponential, and one node in 10^4 hears ``tau ln(10^4)`` later, one
  in 100 half of that::

      tau = gossip_interval / ((fanout / 2)(1 - p))
      D = tau(ln(N + 1) + 4.61)

* D is what a refutation is waited for, and one in 100 is enough for that: whoever convicts asks the suspect itself
  shortly before, so one that the refutation did not reach hears it then. What is fresh gossip is judged by the longer
  time, after which all but one in 10^4 know.
* Samples are divided by ``tau`` before they are learnt from, so that they stay of use when the cluster grows or the
  loss changes. Mean and spread start as the formula has them, which counts as much as ten samples: in a quiet cluster
  there are two a minute. Old samples fade, half in about half an hour then.
* ``tail`` follows from the spread: the standard deviation of such an age is ``tau pi / sqrt(3)``.
* One sample cannot say anything: it is cut to what one in a hundred is by what was measured so far, since a node that
  was away for an hour hears news that is an hour old. And D is never below half the formula nor above six times it.
"""

from __future__ import annotations

import math

__all__ = ["Spreading", "dissemination_time", "time_constant"]

_NEARLY_ALL = 9.21
_MOST = 4.61
_MAX_SURPRISE = math.log(100.0)
_DEVIATIONS = math.pi / math.sqrt(3.0)
_PRIOR_WEIGHT = 10.0
_FORGET = 0.99
_LEAST_PART = 0.5
_MOST_PART = 6.0


def time_constant(interval: float, fanout: int, one_way_loss: float) -> float:
    """Return tau: seconds in which the number of nodes that know grows by the factor e."""
    return interval / ((fanout / 2) * (1.0 - one_way_loss))


def dissemination_time(interval: float, fanout: int, n_members: int, one_way_loss: float) -> float:
    """Return by the formula alone how many seconds it takes until news has reached 99.99 % of the cluster."""
    return time_constant(interval, fanout, one_way_loss) * (math.log(n_members + 1) + _NEARLY_ALL)


class Spreading:
    """What this node has measured of it.

    Args:
        interval: seconds between rounds of gossip.
        fanout: nodes that each round goes to.
    """

    def __init__(self, interval: float, fanout: int) -> None:
        self._interval = interval
        self._fanout = fanout
        self._weight = _PRIOR_WEIGHT
        self._place = 0.0
        self._variance = _DEVIATIONS * _DEVIATIONS

    def observe(self, age: float, n_members: int, one_way_loss: float) -> None:
        """Take in that news was ``age`` seconds old when it reached this node."""
        if not 0.0 <= age < math.inf:
            return
        tau = time_constant(self._interval, self._fanout, one_way_loss)
        surprise = age / tau - math.log(n_members + 1) - self._place
        surprise = min(surprise, _MAX_SURPRISE * math.sqrt(self._variance) / _DEVIATIONS)
        self._weight = max(self._weight * _FORGET, _PRIOR_WEIGHT) + 1.0
        gain = 1.0 / self._weight
        self._place += gain * surprise
        self._variance = (1.0 - gain) * (self._variance + gain * surprise * surprise)

    def time(self, n_members: int, one_way_loss: float) -> float:
        """Return D: seconds after which all but one node in 100 have heard of something."""
        tau = time_constant(self._interval, self._fanout, one_way_loss)
        formula = tau * (math.log(n_members + 1) + _MOST)
        tail = math.sqrt(self._variance) / _DEVIATIONS
        measured = tau * (math.log(n_members + 1) + self._place + tail * _MOST)
        return min(max(measured, _LEAST_PART * formula), _MOST_PART * formula)
