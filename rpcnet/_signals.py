"""Cluster events between the tasks of one node: the ones no user needs, so they never reach a subscription.

Who says and who hears what is the table in ``docs/architecture.md``; the bus routes by class.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from .events import ClusterEvent

__all__ = [
    "Accused",
    "Ask",
    "Collected",
    "Coordinates",
    "Draining",
    "LeaseExpired",
    "Leaving",
    "NewsAged",
    "OrderTaken",
    "OwnVitals",
    "PeerHeard",
    "PeerUnreachable",
    "ProbeAnswered",
    "ProbeDue",
    "ProbeNacked",
    "ProbeRefused",
    "Publish",
    "Respond",
    "SeedsResolved",
    "Signal",
    "Stalled",
    "Suspicion",
    "TagsChanged",
    "Verdict",
    "VitalsHeard",
]

Coordinates = tuple[float, float, float, float]
"""A Vivaldi coordinate in seconds: x, y, height, and the relative error of the estimate (1 at first)."""


@attrs.frozen
class Signal(ClusterEvent):
    """An event that stays inside the node."""


# --- the failure detector says, membership hears


@attrs.frozen
class ProbeDue(Signal):
    """Send a PING to ``node_id`` now, and, if ``helpers`` is not empty, ask each of them to ping it too."""

    node_id: str
    boot_id: int
    seq: int
    """Comes back in :class:`ProbeAnswered`; one number per attempt."""
    helpers: tuple[str, ...] = ()
    """Ids of the nodes that are asked to ping it on our behalf (SWIM, section 3.1)."""
    remaining: float = 0.0
    """Seconds until the probe cycle ends, for the helpers."""
    direct: bool = True
    """False when only the helpers are to ping."""
    fallback: bool = False
    """Whether to ask over a QUIC connection too, which may be opened for that; an answer is a :class:`PeerHeard`."""


@attrs.frozen
class Suspicion(Signal):
    """This node's own probe cycles say that ``node_id`` does not answer; also its own confirmation as a juror."""

    node_id: str
    boot_id: int
    incarnation: int
    phi: float
    refused: bool = False
    """Whether its host said that nobody has its port: a process that is merely stopped keeps it."""


@attrs.frozen
class Verdict(Signal):
    """The suspicion of ``node_id`` was not refuted in time: declare it failed."""

    node_id: str
    boot_id: int
    incarnation: int
    reason: str
    is_local: bool = False
    """Whether the others are not to hear of it, because this node itself is cut off."""


@attrs.frozen
class OwnVitals(Signal):
    """How this node is: where it stands in the network, how long its loop stops at times, what gets lost on the way."""

    coordinates: Coordinates
    stall: float
    loss: float = 0.0
    """The measured probability that a datagram is lost; not told to others, it decides how often news is repeated."""


# --- membership says, the failure detector hears


@attrs.frozen
class ProbeAnswered(Signal):
    """An ACK arrived for probe ``seq``."""

    node_id: str
    seq: int
    via: str | None = None
    """The id of the helper that relayed it; None for a direct answer."""
    coordinates: Coordinates | None = None
    """Where the node that answered says it stands; None when it does not know or a helper relayed the answer."""


@attrs.frozen
class ProbeNacked(Signal):
    """A helper did not get an answer either; the helper itself so is alive and reachable."""

    node_id: str
    seq: int
    helper: str
    refused: bool
    """Whether the helper was told that nobody has the port."""


@attrs.frozen
class ProbeRefused(Signal):
    """The host of ``node_id`` says that nobody has its port (ICMP port unreachable)."""

    node_id: str


@attrs.frozen
class NewsAged(Signal):
    """An urgent update was news to this node when it was ``age`` seconds old: a sample of how fast news spreads."""

    age: float


@attrs.frozen
class VitalsHeard(Signal):
    """What a node says of itself reached this one through others."""

    node_id: str
    coordinates: Coordinates | None
    stall: float


@attrs.frozen
class LeaseExpired(Signal):
    """Nothing was heard of a member for so long that it should be probed now."""

    node_id: str


@attrs.frozen
class Accused(Signal):
    """Somebody (``accuser``, perhaps this node itself) suspects ``node_id``; said once per accuser and accusation."""

    node_id: str
    boot_id: int
    incarnation: int
    accuser: str
    phi: float
    refused: bool = False
    """Whether the accuser was told that nobody has the port."""


# --- the RPC server says


@attrs.frozen
class PeerHeard(Signal):
    """An authenticated packet of ``node_id`` arrived on a connection: it is alive, first-hand."""

    node_id: str


@attrs.frozen
class PeerUnreachable(Signal):
    """Calls to ``node_id`` fail for want of a connection, whatever its datagrams do."""

    node_id: str
    reason: str


@attrs.frozen
class Stalled(Signal):
    """The event loop stood still for ``seconds``; ``handler`` names who held it when that is known."""

    seconds: float
    handler: str | None = None


# --- the node says


@attrs.frozen
class SeedsResolved(Signal):
    """The addresses behind the seeds are these now; tried again for ever while nodes are missing."""

    addresses: tuple[str, ...]


@attrs.frozen
class TagsChanged(Signal):
    """The node's own tags are these from now on."""

    tags: Mapping[str, str]


@attrs.frozen
class Draining(Signal):
    """Take no new calls."""


@attrs.frozen
class Leaving(Signal):
    """Tell the cluster goodbye."""


# --- the node says for the application; see ``_core/user_events.py``


@attrs.frozen
class Publish(Signal):
    """Tell every node an event of the application."""

    ticket: int
    """Grows with every such order of this node, so that one that comes twice is taken once."""
    name: str
    payload: bytes


@attrs.frozen
class Ask(Signal):
    """Put a question of the application to every node whose tags match."""

    number: int
    """Which question of this node it is, from 1; an order that comes twice is taken once."""
    name: str
    payload: bytes
    where: str
    """A selector over tags, as text."""
    deadline: float
    """Trio time after which no answer counts."""


@attrs.frozen
class Respond(Signal):
    """Answer a question of another node, or of this one."""

    sender: str
    """The id of the node that asks."""
    boot_id: int
    number: int
    payload: bytes


@attrs.frozen
class Collected(Signal):
    """Forget question ``number`` of this node: the application has its answers, or wants them no more."""

    number: int


# --- membership says, the node hears


@attrs.frozen
class OrderTaken(Signal):
    """An order to publish, ask or respond was taken, or a question has ended: the snapshot says which."""

    has_room: bool = False
    """Whether an order to publish or ask that found no room should come again now."""
