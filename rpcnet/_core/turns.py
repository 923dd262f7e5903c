"""Who is probed in a period: whose turn it is, and those that there is a reason to probe besides.

The rules of this file:

* Who was heard on a connection in the last period needs no probe: that was its turn, and the next one is probed. At
  most eight are passed over at once; then nobody is probed, but after ten such periods somebody is nevertheless, so
  that round trips, losses and coordinates stay as of now.
* Out of turn a few nodes are probed per period, and as many wait as can be worth it. The reasons come from others or
  from the network, which may say what it likes as often as it likes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .peers import Peers

if TYPE_CHECKING:
    import random

__all__ = ["Turns"]

_MAX_EXTRA_PROBES = 8
_MAX_WAITING = 4096
_MAX_PASSED_OVER = 8
_PROBE_ANYWAY_AFTER = 10
_HEARD_LATELY = 1.25  # periods: who reports what was heard does so once a period, and may be a little late


class Turns:
    """Whom to probe.

    Args:
        peers: the members.
        period: seconds between probes.
        rng: where chance comes from.
    """

    def __init__(self, peers: Peers, period: float, rng: random.Random) -> None:
        self._peers = peers
        self._period = period
        self._rng = rng
        self._heard: dict[str, float] = {}
        self._waiting: dict[str, None] = {}
        self._extra = _MAX_EXTRA_PROBES
        self._idle_periods = 0

    def heard(self, node_id: str, now: float) -> None:
        """Take note that a member was heard on a connection."""
        self._heard.pop(node_id, None)
        self._heard[node_id] = now

    def forget(self, node_id: str) -> None:
        """Forget a node that is no member any more."""
        self._heard.pop(node_id, None)
        self._waiting.pop(node_id, None)

    def may_probe(self, node_id: str) -> bool:
        """Ask to probe a member out of its turn; when that is too much now, it is remembered for a later period."""
        if self._extra > 0:
            self._extra -= 1
            return True
        if len(self._waiting) < _MAX_WAITING:
            self._waiting[node_id] = None
        return False

    def begin_period(self, now: float) -> None:
        """Forget who was heard before the last period; the dict is in the order of hearing."""
        self._extra = _MAX_EXTRA_PROBES
        while self._heard:
            node_id = next(iter(self._heard))
            if now - _HEARD_LATELY * self._period < self._heard[node_id] <= now:
                break
            del self._heard[node_id]

    def next(self) -> str | None:
        """Return whose turn it is; None when all that came up were heard lately."""
        node = None
        for _ in range(min(len(self._peers), _MAX_PASSED_OVER)):
            node = self._peers.next(self._rng)
            if node is None or node.id not in self._heard:
                break
        else:
            self._idle_periods += 1
            if self._idle_periods < _PROBE_ANYWAY_AFTER:
                return None
        self._idle_periods = 0
        return None if node is None else node.id

    def waiting(self) -> Iterator[str]:
        """Take out those that were to be probed out of turn, as many as may be probed now."""
        while self._waiting and self._extra > 0:
            self._extra -= 1
            node_id = next(iter(self._waiting))
            del self._waiting[node_id]
            yield node_id
