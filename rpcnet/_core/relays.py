"""Pings sent on behalf of others (SWIM's indirect probes, section 3.1; Lifeguard's negative answers, section 3.1).

The rules of this file:

* A helper pings the target under a number of its own and passes the answer on under the asker's number.
* It repeats the ping twice, after a quarter and a half of the time the asker has left. After four fifths it tells the
  asker that nothing has come, so that the asker learns that at least the helper is there. It forgets the request when
  the time is over.
* The table is bounded: beyond that, requests are ignored, as if they were lost.
"""

from __future__ import annotations

import attrs

from .messages import Status

__all__ = ["FIRST_CHECK_SEQ", "FIRST_RELAY_SEQ", "Relay", "RelayTable"]

FIRST_RELAY_SEQ = 0x8000_0000
"""Numbers from here on belong to relayed pings, the ones below to this node's own probes."""

FIRST_CHECK_SEQ = 0xC000_0000
"""Numbers from here on belong to pings that check hearsay; see ``hearsay.py``."""

_MAX_RELAYS = 1024
_LONGEST = 60.0
_STEPS = (0.25, 0.5, 0.8)


@attrs.define(eq=False)
class Relay:
    """One ping on behalf of somebody else."""

    seq: int
    """The number of the helper's ping."""
    asker: str
    """Address to send the answer to."""
    asker_seq: int
    """The number the asker knows it by."""
    target: str
    """Id of who is pinged."""
    address: str
    """Where the target is."""
    known: Status
    """What the asker believes of the target."""
    expires_at: float
    """After this the answer is of no use."""
    steps: list[float]
    """When to ping again, twice, and when to say that nothing came; the next one last."""
    is_denied: bool = False
    """Whether the asker has been told that nothing came."""

    @property
    def due_at(self) -> float:
        """When something is to be done next."""
        return self.steps[-1] if self.steps else self.expires_at

    @property
    def is_spent(self) -> bool:
        """Whether all pings have been sent and the asker is to be told that nothing came."""
        return not self.steps


class RelayTable:
    """The relayed pings under way."""

    def __init__(self) -> None:
        self._relays: dict[int, Relay] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._relays)

    def open(
        self, *, asker: str, asker_seq: int, target: str, address: str, known: Status, remaining: float, now: float
    ) -> Relay | None:
        """Take on a request; None when there are too many or it comes too late."""
        remaining = min(remaining, _LONGEST)
        if len(self._relays) >= _MAX_RELAYS or remaining <= 0:
            return None
        seq = FIRST_RELAY_SEQ | (self._count & 0x3FFF_FFFF)
        self._count += 1
        steps = [now + part * remaining for part in reversed(_STEPS)]
        relay = Relay(seq, asker, asker_seq, target, address, known, now + remaining, steps)
        self._relays[seq] = relay
        return relay

    def close(self, seq: int, target: str) -> Relay | None:
        """Take out the request that this answer belongs to, if there is one."""
        relay = self._relays.get(seq)
        if relay is None or relay.target != target:
            return None
        return self._relays.pop(seq)

    def next_timer(self) -> float | None:
        """Return when :meth:`due` has something to do."""
        return min(relay.due_at for relay in self._relays.values()) if self._relays else None

    def get(self, seq: int) -> Relay | None:
        """Return the request with this number of a ping."""
        return self._relays.get(seq)

    def towards(self, address: str) -> list[Relay]:
        """Return the requests whose target is at ``address``."""
        return [relay for relay in self._relays.values() if relay.address == address]

    def due(self, now: float) -> list[Relay]:
        """Return the requests with something to do, and forget those whose time is over.

        The target is to be pinged again, or, when that has been done often enough, the asker told; see ``is_spent``.
        """
        again = []
        for relay in list(self._relays.values()):
            if relay.expires_at <= now:
                del self._relays[relay.seq]
            elif relay.due_at <= now:
                while relay.steps and relay.steps[-1] <= now:
                    relay.steps.pop()
                again.append(relay)
        return again
