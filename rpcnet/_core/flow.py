"""Credit: how much of a stream of values may be on its way, counted alike at both ends.

The rules of this file:

* A sender may send while it has credit; each value costs its length and a fixed amount for what every object takes. So
  the receiver holds at most its window and one value more, however small the values are.
* The receiver grants anew what the application has read, once half the window has been.
* Both ends count the same. A value that arrives without credit breaks the protocol.
"""

from __future__ import annotations

from collections import deque

from rpcnet.errors import ProtocolError

__all__ = ["ITEM_OVERHEAD", "ReceiveWindow", "SendCredit", "cost"]

ITEM_OVERHEAD = 64
"""What a value costs besides its encoded length, in bytes: the headers of an object and a frame, a place in a queue."""


def cost(size: int) -> int:
    """Return what a value of ``size`` encoded bytes costs."""
    return size + ITEM_OVERHEAD


class SendCredit:
    """What one end may still send.

    Args:
        credit: bytes to begin with.
    """

    __slots__ = ("_credit",)

    def __init__(self, credit: int) -> None:
        self._credit = credit

    @property
    def is_spent(self) -> bool:
        """Whether nothing may be sent before more is granted."""
        return self._credit <= 0

    def spend(self, size: int) -> None:
        """Count a value of ``size`` encoded bytes."""
        self._credit -= size + ITEM_OVERHEAD

    def grant(self, credit: int) -> None:
        """Take what the other end grants."""
        self._credit += credit


class ReceiveWindow:
    """The values that arrived and were not read, and what the other end may still send.

    Args:
        window: bytes that may wait.
    """

    __slots__ = ("_allowed", "_freed", "_half", "_unread", "_waiting")

    def __init__(self, window: int) -> None:
        self._allowed = window
        self._half = window // 2
        self._freed = 0
        self._unread = 0
        self._waiting: deque[bytes] = deque()

    def __len__(self) -> int:
        """Return how many values wait."""
        return len(self._waiting)

    @property
    def unread_bytes(self) -> int:
        """What the values that wait cost."""
        return self._unread

    def put(self, body: bytes) -> None:
        """Take a value that arrived.

        Raises:
            ProtocolError: the other end had no credit left.
        """
        if self._allowed <= 0:
            raise ProtocolError("ITEM frame without credit")
        price = len(body) + ITEM_OVERHEAD
        self._allowed -= price
        self._unread += price
        self._waiting.append(body)

    def pop(self) -> bytes | None:
        """Return the oldest value; None if none waits."""
        if not self._waiting:
            return None
        body = self._waiting.popleft()
        price = len(body) + ITEM_OVERHEAD
        self._unread -= price
        self._freed += price
        return body

    def take_grant(self) -> int:
        """Return the bytes to grant the other end now, 0 while less than half the window was read."""
        if self._freed < self._half:
            return 0
        freed, self._freed = self._freed, 0
        self._allowed += freed
        return freed

    def clear(self) -> None:
        """Forget what waits, because nobody will read it."""
        self._waiting.clear()
        self._unread = 0
