"""Two live nodes of one name: who keeps it, and how the other one learns that.

The rules of this file:

* Ids follow from names, so both have one id. Either notices when news about its own id names another address.
* It asks there, with a claim; only a live node answers, so what a node left behind at its last start does no harm.
* Whoever started earlier keeps the name; of two that started in the same millisecond, the one with the lower address.
  A claim says when its sender started, whatever boot ids the two have outbid each other to since.
* The loser answers with its own claim, so that the other one knows of it too, and says nothing more, not even goodbye:
  that would be said in the other's name.
* An address is asked at most once a second and eight times in all, and as often a conflict with it is reported; only so
  many addresses are remembered.
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
        self._reported: dict[str, tuple[int, float]] = {}

    def may_ask(self, address: str, now: float) -> bool:
        """Tell whether to send a claim to an address, and count it."""
        return _may(self._asked, address, now)

    def may_report(self, address: str, now: float) -> bool:
        """Tell whether to report a conflict with an address, and count it."""
        return _may(self._reported, address, now)

    def is_lost_to(self, claim: Claim, address: str) -> bool:
        """Tell whether the sender of a claim keeps the name that this node, at ``address``, has too."""
        return (claim.started, claim.address) < (self.started, address)


def _may(table: dict[str, tuple[int, float]], address: str, now: float) -> bool:
    count, at = table.pop(address, (0, -_INTERVAL))
    may = count < _MAX_CLAIMS and now >= at + _INTERVAL
    table[address] = (count + 1, now) if may else (count, at)
    if len(table) > _MAX_ADDRESSES:
        del table[next(iter(table))]
    return may
