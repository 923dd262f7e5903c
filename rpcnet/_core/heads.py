"""The membership messages as values: what a datagram can say. Their bytes are in ``messages.py``.

The rules of this file:

* A datagram has one head, which asks or answers something, or none; updates about members, refreshes and strings of
  user data ride on it.
* An *update* is news about one node and sets off rounds of gossip. A *refresh* is a sign that a node lives on and how
  it is; it is short, rides only where a probe or an answer travels anyway, and sets off nothing.
* Both carry their age: the seconds that they spent in nodes since their owner, or the first who noticed, said them.
"""

from __future__ import annotations

import attrs

from rpcnet._signals import Coordinates
from rpcnet.errors import ProtocolError
from rpcnet.events import NodeState

from .members import MemberRecord

__all__ = [
    "Accusation",
    "Ack",
    "Claim",
    "Datagram",
    "Head",
    "MessageError",
    "Nack",
    "Ping",
    "PingReq",
    "Refresh",
    "Status",
    "Update",
]


class MessageError(ProtocolError):
    """A membership message is malformed; the text says how. It was dropped and nothing changed."""


@attrs.frozen
class Status:
    """Where a node stands in the order of records, without who it is."""

    boot_id: int
    incarnation: int
    state: NodeState
    meta_version: int

    @classmethod
    def of(cls, record: MemberRecord) -> Status:
        """Return the status of a record."""
        return cls(record.boot_id, record.incarnation, record.state, record.meta_version)


@attrs.frozen
class Accusation:
    """One observer's evidence against a suspect."""

    accuser: str
    """The id of the observer."""
    phi: float
    """How improbable the silence it met is, in steps of 1/16 up to 15.9375."""
    refused: bool = False
    """Whether it was told that nobody has the suspect's port."""


@attrs.frozen
class Update:
    """News about one node."""

    record: MemberRecord
    accusations: tuple[Accusation, ...] = ()
    """Who suspects it; empty unless the state is suspect."""
    age: float = 0.0
    """Seconds since it was first said, in steps of a millisecond up to 65.535."""


@attrs.frozen
class Refresh:
    """A node lives on, and this is how it is."""

    key: str
    """The first 16 hexadecimal digits of its id."""
    boot: int
    """The lowest 16 bits of its boot id: of another boot, it means nothing."""
    epoch: int
    """Which of its statements this is; 32 bits."""
    stall: float
    """Seconds that its event loop stops for at times, in classes."""
    coordinates: Coordinates | None
    """Its place in the network; the error is not told and taken for middling."""
    age: float = 0.0
    """Seconds since it was said, in steps of a millisecond up to 65.535."""
    is_halted: bool = False
    """Whether it is on a side of a partition that may not go on."""
    is_following: bool = False
    """Whether it is halted only because others are."""


@attrs.frozen
class Ping:
    """Are you there? ``known`` is what the sender believes of the target, so that it can refute in its answer."""

    seq: int
    sender: str
    target: str
    known: Status


@attrs.frozen
class Ack:
    """The answer to a ping, from the node itself or passed on by a helper."""

    seq: int
    sender: str
    """The id of who sends this datagram: the node itself, or the helper that passes its answer on."""
    node: str
    """The id of who answered the ping."""
    status: Status
    """The answering node's own record, in short."""
    you: Status | None = None
    """What the answering node believes of the asker, when that is not what it would like to hear."""
    is_stranger: bool = False
    """True when the answering node has never heard of the asker."""
    asked: str | None = None
    """The id that the ping was for, when the node that answers has another one: that node's port is this one's now."""
    stall: float = 0.0
    """Seconds that the answering node's event loop stops for at times, in classes."""
    coordinates: Coordinates | None = None
    """The answering node's place in the network."""


@attrs.frozen
class PingReq:
    """Please ping ``target`` for me; an answer within ``remaining`` seconds is of use."""

    seq: int
    sender: str
    target: str
    known: Status
    remaining: float
    address: str


@attrs.frozen
class Nack:
    """A helper's answer: I am here and have pinged ``target``, and it has not answered me either (Lifeguard, 3.1)."""

    seq: int
    sender: str
    """The id of the helper."""
    target: str
    refused: bool = False
    """Whether the helper was told that nobody has the port."""


@attrs.frozen
class Claim:
    """Your name, and so your id, is mine as well: whoever started later gives it up."""

    sender: str
    """The id of both."""
    status: Status
    """The sender's own record, in short."""
    started: int
    """The boot id that the sender started with, before it outbid anybody."""
    address: str
    """Where the sender is."""


Head = Ping | Ack | PingReq | Nack | Claim


@attrs.frozen
class Datagram:
    """A decoded membership datagram."""

    head: Head | None
    """None for a datagram that asks and answers nothing."""
    updates: tuple[Update, ...] = ()
    refreshes: tuple[Refresh, ...] = ()
    user: tuple[bytes, ...] = ()
    """Strings of user events and queries; see ``user_events.py``."""
