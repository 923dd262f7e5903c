"""Two live nodes of one name: who keeps it, and how the other one learns that.

The rules of this file:

* Ids follow from names, so both have one id. Either notices when news about its own id names another address.
* It asks there, with a claim; only a live node answers, so what a node left behind at its last start does no harm.
* Whoever started earlier keeps the name; of two that started in the same millisecond, the one with the lower address.
  A claim says when its sender started, whatever boot ids the two have outbid each other to since.
* The loser says nothing more, not even goodbye: that would be said in the other's name.
* An address is asked at most once a second and eight times in all; only so many addresses are remembered.
"""

from __future__ import annotations

from .messages import Claim

__all__ = ["Claims"]

_INTERVAL = 1.0
_MAX_CLAIMS = 8
_MAX_ADDRESSES = 16


class Claims:
    """The other nodes that may have this one's name.

    Args:
        started: the boot id that this node started with.
    """

    def __init__(self, started: int) -> None:
        self.started = started
        """The boot id that this node started with."""
        self._asked: dict[str, tuple[int, float]] = {}

    def may_ask(self, address: str, now: float) -> bool:
        """Tell whether to send a claim to an address, and count it."""
        count, at = self._asked.pop(address, (0, -_INTERVAL))
        may = count < _MAX_CLAIMS and now >= at + _INTERVAL
        self._asked[address] = (count + 1, now) if may else (count, at)
        if len(self._asked) > _MAX_ADDRESSES:
            del self._asked[next(iter(self._asked))]
        return may

    def is_lost_to(self, claim: Claim, address: str) -> bool:
        """Tell whether the sender of a claim keeps the name that this node, at ``address``, has too."""
        return (claim.started, claim.address) < (self.started, address)
