"""The phi accrual failure detector for regular streams (Hayashibara, Defago, Yared, Katayama 2004).

It is for what sends regularly: a lease, a heartbeat on a connection. Members of a cluster are judged otherwise
(``detector.py``), since no two of them meet regularly.

The rules of this file:

* Intervals are taken to be normal; ``phi(t)`` is ``-log10`` of the probability that a heartbeat is still to come after
  ``t`` seconds of silence. The tail is exact, also where it is too small for a float.
* Before there are two intervals to measure, the expected one stands in for them, as two samples a quarter below and
  above it (Akka's bootstrap).
* The interval that ends a silence so long that the source counted as unavailable is not learnt from: it would make
  the detector patient with the very thing it is to notice.
* A clock that goes back makes phi zero and teaches nothing.
"""

from __future__ import annotations

import math
from collections import deque

from rpcnet.errors import ConfigError

__all__ = ["PhiAccrualDetector", "normal_phi"]

_EXACT_UNTIL = 25.0
_SQRT_2 = math.sqrt(2.0)
_LOG_SQRT_2_PI = 0.5 * math.log(2.0 * math.pi)


def normal_phi(z: float) -> float:
    """Return ``-log10`` of the probability that a standard normal variable is above ``z``."""
    if z < _EXACT_UNTIL:
        return -math.log10(0.5 * math.erfc(z / _SQRT_2)) + 0.0
    series = math.log1p(-1.0 / (z * z) * (1.0 - 3.0 / (z * z)))  # Abramowitz and Stegun, 26.2.12
    return (0.5 * z * z + math.log(z) + _LOG_SQRT_2_PI - series) / math.log(10.0)


class PhiAccrualDetector:
    """Judges one source of heartbeats; it has no clock, the caller tells the time.

    Args:
        threshold: phi from which on the source is not available; 8 is one chance in a hundred million.
        expected_interval: seconds between heartbeats, as long as none were measured.
        min_std_deviation: seconds below which the spread of intervals is not believed to be.
        acceptable_pause: seconds by which a heartbeat may be late without being suspicious at all.
        window: how many intervals are remembered.

    Raises:
        ConfigError: an argument is not positive, or ``acceptable_pause`` is negative.
    """

    def __init__(
        self,
        *,
        threshold: float = 8.0,
        expected_interval: float = 1.0,
        min_std_deviation: float = 0.1,
        acceptable_pause: float = 0.0,
        window: int = 1000,
    ) -> None:
        positive = {
            "threshold": threshold,
            "expected_interval": expected_interval,
            "min_std_deviation": min_std_deviation,
            "window": window,
        }
        for name, value in positive.items():
            if not 0 < value < math.inf:
                raise ConfigError(f"PhiAccrualDetector({name}={value!r}): must be a positive number")
        if not 0 <= acceptable_pause < math.inf:
            raise ConfigError(f"PhiAccrualDetector(acceptable_pause={acceptable_pause!r}): must not be negative")
        self._threshold = threshold
        self._expected = expected_interval
        self._min_std = min_std_deviation
        self._pause = acceptable_pause
        self._window = window
        self.clear()

    def clear(self) -> None:
        """Forget everything, as if no heartbeat had come."""
        quarter = self._expected / 4
        self._intervals: deque[float] = deque()
        self._sum = self._squares = 0.0
        self._since_exact = 0
        self._last: float | None = None
        self._n_measured = 0
        for guess in (self._expected - quarter, self._expected + quarter):
            self._learn(guess)

    @property
    def sample_count(self) -> int:
        """How many measured intervals it judges by."""
        return min(self._n_measured, self._window)

    def heartbeat(self, now: float) -> None:
        """Take note of a heartbeat at ``now``, in seconds of any clock that does not jump."""
        if self._last is not None and now >= self._last and self.is_available(now):
            self._learn(now - self._last)
            self._n_measured += 1
        self._last = now

    def phi(self, now: float) -> float:
        """Return how improbable the present silence is; 0 before the first heartbeat."""
        if self._last is None or now <= self._last:
            return 0.0
        size = len(self._intervals)
        mean = self._sum / size
        deviation = max(math.sqrt(max(self._squares / size - mean * mean, 0.0)), self._min_std)
        return normal_phi((now - self._last - mean - self._pause) / deviation)

    def is_available(self, now: float) -> bool:
        """Return whether phi is below the threshold; a source that was never heard is available."""
        return self.phi(now) < self._threshold

    def _learn(self, interval: float) -> None:
        self._intervals.append(interval)
        self._sum += interval
        self._squares += interval * interval
        if len(self._intervals) > max(self._window, 2):
            gone = self._intervals.popleft()
            self._sum -= gone
            self._squares -= gone * gone
        self._since_exact += 1
        if self._since_exact >= self._window:  # running sums drift; this is cheap when it is done once per window
            self._since_exact = 0
            self._sum = math.fsum(self._intervals)
            self._squares = math.fsum(interval * interval for interval in self._intervals)
