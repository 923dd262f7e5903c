"""One QUIC connection as its owner sees it: streams, a verified peer, and exactly one end.

The rules of this file:

* A link belongs to an endpoint, which drives it; the owner writes, resets and closes, and hears the rest from
  callbacks.
* Writing never waits and is not bounded here: the owner looks at ``buffered_bytes`` and holds back.
* After the end every verb does nothing, so that an owner need not ask first.
* Before the handshake is complete, a link carries data only if a ticket stands for the peer and its owner knows what
  that means: what arrives may be a recording that somebody plays back, what is sent may be lost altogether.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

import attrs

from rpcnet.errors import RpcNetError

from .addresses import Address, format_address
from .quic_admission import Place
from .quic_close import LinkClosed
from .quic_engine import Engine, SessionTicket
from .quic_identity import DialKey
from .quic_tickets import Memory, Proof, Ticket

__all__ = ["NEVER", "EarlyLinkHandler", "LinkHandler", "LinkStatistics", "QuicLink", "StreamsExhausted"]

NEVER = float("inf")
"""The moment of a timer that is not set."""


class StreamsExhausted(RpcNetError):
    """The peer allows no further stream at the moment; open one when another has ended. Nothing was sent."""


@attrs.frozen
class LinkStatistics:
    """The state of one link."""

    rtt: float
    """Seconds to the peer and back, smoothed; 0.0 before the first measurement."""
    congestion_window: int
    """Bytes that may be on their way."""
    bytes_in_flight: int
    """Bytes that are on their way."""
    buffered_bytes: int
    """Bytes of streams that were not acknowledged, whether sent or not."""
    open_streams: int
    """Streams of both sides that have not ended."""


class LinkHandler(Protocol):
    """What the owner of a link does with it. The callbacks are synchronous and must not raise."""

    def link_ready(self, link: QuicLink) -> None:
        """Begin: the handshake is complete and the peer verified."""
        ...

    def link_data(self, link: QuicLink, stream_id: int, data: bytes, end: bool) -> None:  # noqa: FBT001
        """Take bytes of a stream, in order; with ``end``, these are its last."""
        ...

    def link_reset(self, link: QuicLink, stream_id: int, code: int) -> None:
        """Notice that the peer gave up sending on a stream: its end will not come."""
        ...

    def link_stopped(self, link: QuicLink, stream_id: int, code: int) -> None:
        """Notice that the peer wants no more of a stream: what is sent on it from now on is dropped."""
        ...

    def link_progress(self, link: QuicLink) -> None:
        """Notice that ``buffered_bytes`` has shrunk."""
        ...

    def link_closed(self, link: QuicLink, reason: LinkClosed) -> None:
        """Notice the end; nothing follows. For a dialled link it may come without ``link_ready``."""
        ...


class EarlyLinkHandler(LinkHandler, Protocol):
    """A handler that can begin before the handshake is complete."""

    def link_early(self, link: QuicLink) -> None:
        """Begin early; ``link_ready`` or ``link_closed`` follows when the handshake is over.

        On a dialled link, what is written now goes out with the first packets; ``link.remembered`` is what the
        last connection left. On an accepted link, ``peer_name`` is the one of the ticket. As long as ``is_early``
        holds, whatever arrives may be a recording of what that peer sent, played back by somebody else; at
        ``link_ready`` it is known that it was not.
        """
        ...

    def link_early_lost(self, link: QuicLink) -> None:
        """Notice, on a dialled link, that nothing of what was sent early has been or will be looked at.

        Its streams are gone and their numbers begin anew; ``link_ready`` follows at once.
        """
        ...


class QuicLink:
    """One connection, made by ``QuicEndpoint.dial`` or given to the endpoint's ``accept``.

    Args:
        make_engine: makes the connection underneath.
        handler: hears of it; None for an accepted link until its peer is verified.
        wants_flush: called when there is something to send, once until the endpoint has flushed it.
        deadline: the moment by which the handshake must be complete.
        expected_name: whom the peer must prove to be; None if anybody of the cluster will do.
    """

    __slots__ = (
        "_buffered",
        "_wants_flush",
        "acked",
        "cids",
        "closed",
        "closing",
        "deadline",
        "dial_key",
        "dirty",
        "early_handler",
        "engine",
        "expected_name",
        "goodbye",
        "goodbyes_left",
        "handler",
        "held",
        "is_client",
        "is_early",
        "memory",
        "new_ticket",
        "peer_name",
        "place",
        "proof",
        "reason",
        "ticket",
        "touched",
        "wake_at",
    )

    def __init__(
        self,
        make_engine: Callable[[QuicLink], Engine],
        handler: LinkHandler | None,
        wants_flush: Callable[[QuicLink], None],
        deadline: float,
        expected_name: str | None = None,
    ) -> None:
        self._wants_flush = wants_flush
        self._buffered = 0
        self.is_client = handler is not None
        """Whether this side dialled."""
        self.peer_name: str | None = None
        """The verified name of the peer; None until the link is ready, or early with a ticket that says it."""
        self.is_early = False
        """Whether it carries data although the handshake is not complete; what arrives may have been played back."""
        self.closed: LinkClosed | None = None
        """How it ended; None while it has not."""

        # What follows is the endpoint's.
        self.handler = handler
        self.deadline = deadline
        self.expected_name = expected_name
        self.cids: dict[bytes, None] = {}
        """The connection ids that lead datagrams to it."""
        self.closing: tuple[int, str] | None = None
        """Code and message of a close that is still to be sent."""
        self.reason: LinkClosed | None = None
        """Why this side closes it, where that says more than what goes over the wire."""
        self.goodbye: list[tuple[bytes, Address]] = []
        """The datagrams of our close, to be repeated."""
        self.goodbyes_left = 0
        self.dirty = False
        """Whether it waits for a flush."""
        self.touched = False
        """Whether it waits to be settled."""
        self.acked = False
        """Whether ``buffered_bytes`` must be counted afresh."""
        self.wake_at = NEVER
        """The earliest timer that the endpoint holds for it."""
        self.dial_key: DialKey | None = None
        """Whom it was dialled for."""
        self.ticket: Ticket | None = None
        """The ticket that one side showed the other."""
        self.new_ticket: SessionTicket | None = None
        """The ticket that was sent to the peer and is not good yet."""
        self.proof: Proof | None = None
        """What the peer proved; None in mid-handshake."""
        self.place: Place | None = None
        """How it counts among the connections that others opened; None if it was dialled."""
        self.memory = Memory()
        """What goes with the tickets that arrive on it."""
        self.early_handler: EarlyLinkHandler | None = None
        """The handler of a dialled link, if it can begin early."""
        self.held: list[object] = []
        """The engine's events that have to wait until the handshake is complete."""
        self.engine = make_engine(self)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "ready" if self.is_ready else "in handshake"
        peer = self.peer_name or format_address(self.address)
        return f"<QuicLink {'to' if self.is_client else 'from'} {peer}, {state}>"

    @property
    def address(self) -> Address:
        """Where the peer is now; it may move while the link lasts."""
        return cast(Address, self.engine.get_peer_address())

    @property
    def is_ready(self) -> bool:
        """Whether the handshake is complete, the peer verified and the link not closed."""
        return self.proof is not None and self.closing is None and self.closed is None

    @property
    def carries_data(self) -> bool:
        """Whether it is ready, or early, and not closed."""
        return (self.is_early or self.proof is not None) and self.closing is None and self.closed is None

    @property
    def remembered(self) -> object:
        """What :meth:`remember` was given on an earlier connection to this peer; None without a ticket of it."""
        return None if self.ticket is None else self.ticket.memory.value

    def remember(self, value: object) -> None:
        """Keep something for the next connection to this peer, as long as the tickets of this one last."""
        self.memory.value = value

    @property
    def buffered_bytes(self) -> int:
        """Bytes passed to :meth:`send` that the peer has not acknowledged; those of reset streams do not count."""
        if self.acked:
            self.acked = False
            self._buffered = self.engine.unacknowledged_bytes
        return self._buffered

    @property
    def buffered_at_most(self) -> int:
        """What :attr:`buffered_bytes` was when it was last counted, and what was sent since."""
        return self._buffered

    def count_progress(self) -> bool:
        """Say whether the peer acknowledged something that counts, or allowed more streams, since the last time."""
        before = self._buffered
        if self.engine.allows_streams:
            self.engine.allows_streams = False
            return True
        return before > 0 and self.acked and self.buffered_bytes < before

    def open_stream(self, *, unidirectional: bool = False) -> int:
        """Open a stream and return its id.

        Raises:
            StreamsExhausted: if the peer allows no more at the moment, or the link is neither ready nor early.
        """
        stream_id = self.engine.open_stream(unidirectional=unidirectional) if self.carries_data else None
        if stream_id is None:
            raise StreamsExhausted(f"{self!r} takes no further stream at the moment")
        return stream_id

    def send(self, stream_id: int, data: bytes, end: bool = False) -> None:  # noqa: FBT001, FBT002 - as link_data
        """Write to a stream; ``end`` says that nothing follows. Goes out with the next flush, never waits.

        What is written to a closed link, or to a stream that was reset, stopped or finished, is dropped.
        """
        if self.closed is None and self.engine.write(stream_id, data, end=end):
            self._buffered += len(data)
            if not self.dirty:
                self._wants_flush(self)

    def reset(self, stream_id: int, code: int) -> None:
        """Give up sending on a stream; the peer hears ``link_reset``. What was not delivered is lost."""
        if self.closed is None:
            self.engine.abandon(stream_id, code)
            self.acked = True
            self._want_flush()

    def stop(self, stream_id: int, code: int) -> None:
        """Ask the peer to send no more on a stream; it hears ``link_stopped``. What is on its way still arrives."""
        if self.closed is None:
            self.engine.refuse(stream_id, code)
            self._want_flush()

    def ping(self) -> None:
        """Have the peer acknowledge something, which keeps the link from being idle."""
        if self.is_ready:
            self.engine.send_ping(0)
            self._want_flush()

    def close(self, code: int, message: str) -> None:
        """Close the link; what was written is sent once before, ``link_closed`` comes with the next flush."""
        if self.closed is None and self.closing is None:
            self.closing = (code, message)
            self._want_flush()

    def statistics(self) -> LinkStatistics:
        """Return the state of the link."""
        engine = self.engine
        return LinkStatistics(
            rtt=engine.smoothed_rtt,
            congestion_window=engine.congestion_window,
            bytes_in_flight=engine.bytes_in_flight,
            buffered_bytes=self.buffered_bytes,
            open_streams=engine.open_streams,
        )

    def _want_flush(self) -> None:
        if not self.dirty:
            self._wants_flush(self)
