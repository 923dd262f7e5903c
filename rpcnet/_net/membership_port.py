"""Membership's side of the UDP port: sealed datagrams in and out, and full-state exchanges over streams.

The rules of this file:

* What arrives waits in one bounded inbox; when it is full the newest is dropped and counted, as the network would.
* Sending never waits. An exchange of state does, and whoever asks for it bounds it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import attrs
import trio

from rpcnet._core.exchanges import Hearsay

from .addresses import format_address, parse_address
from .ports import Address
from .server_session import StateRequest

__all__ = [
    "Inbound",
    "MembershipPort",
    "MembershipPortStatistics",
    "ReceivedDatagram",
    "ReceivedRecords",
    "ReceivedRefusal",
]

_INBOX_SIZE = 8192


@attrs.frozen
class ReceivedDatagram:
    """An opened membership datagram."""

    payload: bytes
    """What was sealed in it."""
    source: str
    """The address it came from."""
    at: float
    """When it was read, in Trio time."""


@attrs.frozen
class ReceivedRecords:
    """What a node listed when this one joined through it."""

    records: tuple[Hearsay, ...]
    """Its members, itself included."""
    address: str
    """Where it is."""
    taken: trio.Event = attrs.field(eq=False)
    """Set when membership has merged them."""


@attrs.frozen
class ReceivedRefusal:
    """The network's word that nobody listens at an address that something was sent to; a hint, easily made up."""

    address: str
    """Where nobody listens: the address that a datagram was last sent to there, which may have a name as its host."""
    at: float
    """When it was read, in Trio time."""


Inbound: TypeAlias = "ReceivedDatagram | ReceivedRefusal | ReceivedRecords | StateRequest"


@attrs.frozen
class MembershipPortStatistics:
    """Counters of membership's side of the port."""

    sent: int
    """Datagrams handed to the port."""
    sent_bytes: int
    """Their bytes before sealing."""
    dropped: int
    """Inbound items dropped because the inbox was full."""
    malformed: int
    """Inbound items of members that membership could not read."""


class MembershipPort:
    """What the membership task reads from and writes to.

    Args:
        send: seals and sends a payload to an address.
        exchange: sends a request to an address, and perhaps a name, over a stream and returns the answer.
        is_connected: whether there is an open connection to an address, with that name.
    """

    def __init__(
        self,
        send: Callable[[bytes, Address], None],
        exchange: Callable[[str, bytes, str | None], Awaitable[bytes]],
        is_connected: Callable[[str, str], bool],
    ) -> None:
        self.is_connected = is_connected
        """Whether there is an open connection to an address, with that name."""
        self._send = send
        self._exchange = exchange
        self._put, self._get = trio.open_memory_channel["Inbound"](_INBOX_SIZE)
        self._sent = self._sent_bytes = self._dropped = self._malformed = 0
        self.left = trio.Event()
        """Set when this node's goodbye has been told as often as it needs to be."""

    def statistics(self) -> MembershipPortStatistics:
        """Return the counters."""
        return MembershipPortStatistics(self._sent, self._sent_bytes, self._dropped, self._malformed)

    def deliver(self, item: Inbound) -> bool:
        """Put something into the inbox; return False if it was full."""
        try:
            self._put.send_nowait(item)
        except trio.WouldBlock:
            self._dropped += 1
            return False
        return True

    def deliver_datagram(self, payload: bytes, source: Address, at: float) -> None:
        """Put an opened datagram into the inbox."""
        self.deliver(ReceivedDatagram(payload, format_address(source), at))

    def deliver_refused(self, address: Address, at: float) -> None:
        """Put into the inbox that nobody listens at an address."""
        self.deliver(ReceivedRefusal(format_address(address), at))

    def deliver_request(self, request: StateRequest) -> None:
        """Put a peer's request for an exchange of state into the inbox."""
        self.deliver(request)

    def count_malformed(self) -> None:
        """Note that an item could not be read."""
        self._malformed += 1

    async def receive(self) -> Inbound:
        """Return the next item. A checkpoint; cancelling loses nothing."""
        return await self._get.receive()

    def receive_nowait(self) -> Inbound | None:
        """Return the next item if there is one."""
        try:
            return self._get.receive_nowait()
        except trio.WouldBlock:
            return None

    def send(self, address: str, payload: bytes) -> None:
        """Seal a payload and send it; what the network does with it nobody knows."""
        self._sent += 1
        self._sent_bytes += len(payload)
        self._send(payload, parse_address(address))

    async def exchange(self, address: str, request: bytes, name: str | None = None) -> bytes:
        """Send a request to a node over a stream and return its answer. A checkpoint; cancelling gives it up.

        Args:
            address: where the node is.
            request: what to ask.
            name: who must answer there; None for any node of the cluster.

        Raises:
            RpcNetError: the node cannot be reached or refuses us.
        """
        return await self._exchange(address, request, name)
