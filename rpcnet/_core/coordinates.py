"""Network coordinates: a round trip is foretold from where two nodes stand (Vivaldi; Dabek et al. 2004).

The rules of this file:

* A node stands in a plane, and above it by a height, which is the time that its packets need to the network and back,
  wherever they go (section 5.4). The distance of two nodes is that in the plane plus both heights; all are seconds.
* Each measured round trip moves this node towards or away from the other one, by a part of what the distance was
  wrong by. The part is the greater the less sure this node is and the surer the other one is (adaptive timestep,
  section 3.5; both constants are 1/4).
* Two nodes at the same point are driven apart in a direction left to chance.
* What others say is checked before it is believed. Numbers that are none, or larger than any network, count for
  nothing; nobody is believed to be surer than ``_SUREST``, so a liar with an error of zero moves nobody by more than
  others do.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rpcnet._signals import Coordinates

if TYPE_CHECKING:
    import random

__all__ = ["ORIGIN", "Position", "distance", "is_sane", "updated"]

ORIGIN: Coordinates = (0.0, 0.0, 1e-4, 1.0)
"""Where a node stands before it has measured anything."""

_MAX_SECONDS = 10.0
_MAX_ERROR = 1.5
_SUREST = 0.02
_LEAST_HEIGHT = 1e-5
_GAIN = 0.25
_POINT = 1e-9
_MOVED_PART = 0.2
_MOVED_SECONDS = 0.0002
_MOVED_ERROR = 0.1
_SAY_INTERVAL = 1.0


def is_sane(coordinates: Coordinates) -> bool:
    """Tell whether these can be the coordinates of a node in a network."""
    x, y, height, error = coordinates
    is_near = abs(x) <= _MAX_SECONDS and abs(y) <= _MAX_SECONDS  # false for what is not a number
    return is_near and 0.0 <= height <= _MAX_SECONDS and 0.0 <= error <= _MAX_SECONDS


def distance(a: Coordinates, b: Coordinates) -> float:
    """Return the round trip between two nodes in seconds, as foretold."""
    return math.hypot(a[0] - b[0], a[1] - b[1]) + a[2] + b[2]


def updated(own: Coordinates, other: Coordinates, rtt: float, rng: random.Random) -> Coordinates:
    """Return where a node stands after it measured a round trip of ``rtt`` seconds to another one.

    Nothing changes when the other one's coordinates or the round trip cannot be.
    """
    if not is_sane(other) or not 0.0 < rtt <= _MAX_SECONDS:
        return own
    x, y, height, error = own
    far = distance(own, other)
    weight = error / (error + min(max(other[3], _SUREST), _MAX_ERROR))
    sample_error = min(abs(far - rtt) / rtt, _MAX_ERROR)
    gain = _GAIN * weight
    error = min(max(sample_error * gain + error * (1.0 - gain), _SUREST), _MAX_ERROR)
    force = gain * (rtt - far)
    flat = math.hypot(x - other[0], y - other[1])
    if flat > _POINT:
        x += force * (x - other[0]) / far
        y += force * (y - other[1]) / far
    elif force > 0.0:
        angle = rng.uniform(0.0, 2.0 * math.pi)
        x += force * math.cos(angle)
        y += force * math.sin(angle)
    height = max(height + force * (height + other[2]) / far, _LEAST_HEIGHT)
    moved = (x, y, height, error)
    return moved if is_sane(moved) else ORIGIN


class Position:
    """Where this node stands, and what of that it has told."""

    def __init__(self) -> None:
        self.coordinates = ORIGIN
        """Where it stands."""
        self.is_known = False
        """Whether anything was measured yet."""
        self._told: Coordinates | None = None
        self._told_at = -math.inf

    def measured(self, other: Coordinates, rtt: float, rng: random.Random) -> None:
        """Take in a round trip to a node that stands at ``other``."""
        moved = updated(self.coordinates, other, rtt, rng)
        if moved is not self.coordinates:
            self.coordinates = moved
            self.is_known = True

    def is_news(self, typical: float, now: float) -> bool:
        """Tell whether others should hear of a change, given a typical round trip; at most once a second."""
        if not self.is_known or 0.0 <= now - self._told_at < _SAY_INTERVAL:
            return False
        told = self._told
        if told is None:
            return True
        x, y, height, error = self.coordinates
        moved = math.hypot(x - told[0], y - told[1]) + abs(height - told[2])
        return moved > max(_MOVED_SECONDS, _MOVED_PART * typical) or abs(error - told[3]) > _MOVED_ERROR

    def tell(self, now: float) -> Coordinates:
        """Return the coordinates, which others are told now."""
        self._told, self._told_at = self.coordinates, now
        return self.coordinates
