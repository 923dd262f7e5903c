"""Tickets: what lets two nodes meet again without showing their certificates.

The rules of this file:

* A ticket stands for what a certificate proved when it was last shown, and is worth nothing once that certificate has
  expired, however often it was exchanged for a new one.
* A ticket is taken once. So what was sent along with it, before the handshake was complete, is heard at most once per
  ticket (RFC 8446, 8.1), and nobody can tell two connections of one node by it (RFC 8446, C.4).
* A store is bounded: the oldest ticket goes first. It is emptied when keys or authorities change.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

import attrs

from .quic_engine import SessionTicket

__all__ = ["Memory", "Proof", "Ticket", "TicketStore"]

K = TypeVar("K", bound=Hashable)


@attrs.frozen
class Proof:
    """What the certificates of a peer proved."""

    name: str
    """The peer's name."""
    expires_at: float
    """Seconds since 1970 until which that holds without seeing them again."""


@attrs.define(eq=False)
class Memory:
    """What the owner of a connection wants to find again on the next one to the same peer."""

    value: object = None


@attrs.frozen
class Ticket:
    """A ticket with what it stands for."""

    session: SessionTicket = attrs.field(repr=False)
    """The engine's part: secret, and how the other side calls it."""
    proof: Proof
    """Whom it was obtained from, or given to."""
    expires_at: float
    """The time of the endpoint's clock at which it is too old."""
    memory: Memory = attrs.field(factory=Memory, repr=False)
    """What the owner remembers of the connection it was obtained on."""


class TicketStore(Generic[K]):
    """Tickets by whom they are for, or by what they are called.

    Args:
        size: how many are kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._tickets: OrderedDict[K, Ticket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tickets)

    def put(self, key: K, ticket: Ticket) -> None:
        """Keep a ticket, in the place of another one with that key."""
        self._tickets.pop(key, None)
        self._tickets[key] = ticket
        if len(self._tickets) > self._size:
            self._tickets.popitem(last=False)

    def take(self, key: K, now: float, wall_now: float) -> Ticket | None:
        """Take a ticket out; None if there is none that is still good.

        Args:
            key: as it was put.
            now: the time of the endpoint's clock.
            wall_now: seconds since 1970.
        """
        ticket = self._tickets.pop(key, None)
        if ticket is None or now >= ticket.expires_at or wall_now >= ticket.proof.expires_at:
            return None
        return ticket if ticket.session.is_valid else None

    def clear(self) -> None:
        """Forget all."""
        self._tickets.clear()
