"""Who may open a connection: limits per address and in total, and what strangers may cost.

The rules of this file:

* An address counts as proved when a token that was sent there came back (Retry, RFC 9000, 8.1.2), or when the peer
  behind it was verified. Nothing that an unproved address does is held against that address, because anybody can write
  it on a datagram.
* Unproved addresses share a quarter of the places for handshakes, and may all together begin as many in a second as
  one proved address may. Beyond that a token is asked for, which costs no memory and a tenth of the work. So a flood
  from addresses that are not the sender's leaves the rest of the places, and of the time, to those who answer.
* One proved address may have a quarter of the places as well.
* What a handshake makes this side hold is bounded by counting the bytes of its datagrams: each has an equal share.
* Addresses of IPv6 count by the 64 bits that a site has of its own.
"""

from __future__ import annotations

import enum
import ipaddress
from collections import OrderedDict

import attrs

from rpcnet.config import RpcConfig

from .addresses import Address

__all__ = ["Admission", "Place", "Verdict"]

_SHARE = 4
_MAX_ORIGINS = 4096
_LONG_HEADER, _TYPE_MASK, _EARLY_TYPE = 0x80, 0x30, 0x10


class Verdict(enum.Enum):
    """What is to be done with the first packet of a connection."""

    ADMIT = enum.auto()
    """Begin a handshake."""
    RETRY = enum.auto()
    """Answer with a token and forget it."""
    REFUSE = enum.auto()
    """Drop it."""


@attrs.define(eq=False)
class _Allowance:
    """How many handshakes may begin: as many in a burst as in a second, and no more than that on average."""

    rate: float
    left: float
    at: float

    def has_room(self, now: float) -> bool:
        self.left = min(self.rate, self.left + max(0.0, now - self.at) * self.rate)
        self.at = now
        return self.left >= 1.0


@attrs.define(eq=False)
class _Origin:
    """What one address has here."""

    proved: _Allowance
    verified: int = 0
    """Connections of verified peers."""
    handshakes: int = 0
    """Connections in mid-handshake from there that had proved to be."""
    places: int = 0
    """Everything that began there and has not ended."""


@attrs.define(eq=False)
class Place:
    """One accepted connection, as it counts."""

    origin: _Origin
    is_proved: bool
    """Whether its address was proved before it began."""
    is_handshaking: bool = True
    """Whether it is in mid-handshake."""
    is_verified: bool = False
    """Whether the peer is verified, and its address may have the connection."""
    bytes_left: int = 0
    """Bytes of datagrams that are taken of it before that."""


class Admission:
    """Decides who may open a connection, and keeps count of who has.

    Args:
        config: the limits.
    """

    def __init__(self, config: RpcConfig) -> None:
        self._config = config
        self._share = max(1, config.max_unauthenticated // _SHARE)
        self._bytes = config.max_unauthenticated_bytes // config.max_unauthenticated
        self._origins: OrderedDict[str, _Origin] = OrderedDict()
        rate = config.max_handshakes_per_second
        self._unproved = 0
        self._unproved_rate = _Allowance(rate, rate, 0.0)
        self.accepted = 0
        """Connections that others opened."""
        self.handshaking = 0
        """Those of them in mid-handshake."""

    def judge(self, source: Address, now: float, *, is_proved: bool) -> Verdict:
        """Say what is to be done with the first packet of a connection.

        Args:
            source: where it says it comes from.
            now: the current time.
            is_proved: whether it carries a token that was sent there.
        """
        config = self._config
        if self.accepted >= config.max_connections or self.handshaking >= config.max_unauthenticated:
            return Verdict.REFUSE
        origin = self._origins.get(_block(source[0]))
        if is_proved:
            if origin is None:
                return Verdict.ADMIT
            mine = origin.verified + origin.handshakes
            is_full = mine >= config.max_connections_per_address or origin.handshakes >= self._share
            return Verdict.REFUSE if is_full or not origin.proved.has_room(now) else Verdict.ADMIT
        if self._unproved >= self._share or not self._unproved_rate.has_room(now):
            return Verdict.RETRY
        is_full = origin is not None and origin.places >= config.max_connections_per_address
        return Verdict.RETRY if is_full else Verdict.ADMIT

    def begin(self, source: Address, now: float, *, is_proved: bool) -> Place:
        """Count a connection that was admitted."""
        origin = self._origin(_block(source[0]), now)
        origin.places += 1
        if is_proved:
            origin.proved.left -= 1.0
            origin.handshakes += 1
        else:
            self._unproved_rate.left -= 1.0
            self._unproved += 1
        self.accepted += 1
        self.handshaking += 1
        return Place(origin, is_proved, bytes_left=self._bytes)

    def take(self, place: Place, data: bytes) -> bool:
        """Count a datagram of a connection in mid-handshake; say whether it may be looked at.

        What is sent before the handshake is complete may use half of the share, so that the rest of the handshake
        always has room.
        """
        size = len(data)
        is_early = bool(data[0] & _LONG_HEADER) and data[0] & _TYPE_MASK == _EARLY_TYPE
        if size > place.bytes_left - (self._bytes // 2 if is_early else 0):
            return False
        place.bytes_left -= size
        return True

    def verify(self, place: Place) -> bool:
        """Note that the peer of a connection is verified; say whether its address may have one more."""
        self._end_handshake(place)
        place.is_verified = place.origin.verified < self._config.max_connections_per_address
        place.origin.verified += place.is_verified
        return place.is_verified

    def end(self, place: Place) -> None:
        """Note that a connection has ended."""
        if place.is_handshaking:
            self._end_handshake(place)
        place.origin.places -= 1
        place.origin.verified -= place.is_verified
        self.accepted -= 1

    def _end_handshake(self, place: Place) -> None:
        place.is_handshaking = False
        self.handshaking -= 1
        if place.is_proved:
            place.origin.handshakes -= 1
        else:
            self._unproved -= 1

    def _origin(self, block: str, now: float) -> _Origin:
        origin = self._origins.get(block)
        if origin is None:
            rate = self._config.max_handshakes_per_second
            origin = self._origins[block] = _Origin(_Allowance(rate, rate, now))
            if len(self._origins) > _MAX_ORIGINS:
                self._forget_idle()
        else:
            self._origins.move_to_end(block)
        return origin

    def _forget_idle(self) -> None:
        """Forget the half of the addresses that was heard of least recently, but for those that have something here."""
        for block in list(self._origins)[: _MAX_ORIGINS // 2]:
            if not self._origins[block].places:
                del self._origins[block]


def _block(host: str) -> str:
    if ":" not in host:
        return host
    return str(ipaddress.ip_address(int(ipaddress.IPv6Address(host.partition("%")[0])) >> 64 << 64))
