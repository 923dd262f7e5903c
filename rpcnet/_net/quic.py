"""All QUIC connections of one UDP port: dialled and accepted, verified on both sides, driven without waiting.

The rules of this file:

* ``receive`` feeds datagrams, ``settle`` hands their events to the handlers, ``flush`` sends. Between them nothing
  happens: whoever drives the endpoint decides when a turn is over.
* A handler hears nothing of a connection whose peer is not verified, except, if it dialled, that it was closed. An
  accepted connection gets its handler at the moment of verification.
* Garbage is dropped and counted. It costs no memory: a connection is kept only once its first packet was authentic. An
  error of the engine ends the one link it happened to.
* Every link ends with exactly one ``link_closed``. After a close of our own, the last datagram is repeated for a while
  to a peer that goes on sending (RFC 9000, 10.2.1), because it may be lost like any other.
* A peer may open 128 streams of each direction, which do for what does not end, and one for each call it may have in
  flight. It is allowed the latter when it is verified: one frame can open all of them, and each costs more than a KiB.
* A link is asked for its timer only when no earlier one is due within a millisecond.
* What arrives before a handshake is complete, with a ticket, goes to handlers that know what that means. For others it
  waits until the handshake is complete, which nobody can achieve by playing back what he recorded.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Callable

import trio

from rpcnet.config import RpcConfig

from .addresses import Address, format_address
from .identity import Security
from .ports import SAFE_DATAGRAM_BYTES, DatagramPort
from .quic_admission import Admission, Verdict
from .quic_close import (
    CLOSE_HANDSHAKE_TIMEOUT,
    CLOSE_TOO_MANY,
    CLOSE_UNAUTHENTICATED,
    CloseKind,
    LinkClosed,
    clip_message,
    describe_end,
)
from .quic_engine import (
    CID_BYTES,
    VERSION,
    ConnectionIdRetired,
    Ended,
    Engine,
    HandshakeCompleted,
    RetryTokens,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
    version_negotiation,
    with_ticket,
)
from .quic_identity import DialKey, EndpointIdentity
from .quic_link import NEVER, EarlyLinkHandler, LinkHandler, LinkStatistics, QuicLink, StreamsExhausted
from .quic_statistics import EndpointCounters, EndpointStatistics
from .quic_timers import LinkTimers

__all__ = [
    "CLOSE_HANDSHAKE_TIMEOUT",
    "CLOSE_TOO_MANY",
    "CLOSE_UNAUTHENTICATED",
    "CloseKind",
    "EarlyLinkHandler",
    "EndpointStatistics",
    "LinkClosed",
    "LinkHandler",
    "LinkStatistics",
    "QuicEndpoint",
    "QuicLink",
    "StreamsExhausted",
]

_SOON = 0.001
_SHORTEST_SLEEP = 0.0001
_GOODBYES = 8
_LOG_INTERVAL = 10.0
_FIRST_CID_BYTES = range(8, 21)  # RFC 9000, 7.2 and 17.2
_MAX_CID_BYTES = 20
_INTERNAL_ERROR = 0x01

log = logging.getLogger("rpcnet.quic")


class QuicEndpoint:
    """Everything QUIC of one port.

    Args:
        port: sends the datagrams, and knows how large they may be.
        security: issues this node's certificate and verifies those of others.
        name: this node's name.
        config: limits and timeouts.
        accept: gives the handler of a connection that another node opened, when it is verified.
        accept_early: the same for one whose peer sends before the handshake is complete, with a ticket that says who
            it is; None if nobody here can begin early.
        clock: the time that ``now`` arguments are taken from, for what is sent in several bursts.
        wall_clock: seconds since 1970, for the renewal of the certificate.
    """

    def __init__(
        self,
        port: DatagramPort,
        security: Security,
        name: str,
        config: RpcConfig,
        accept: Callable[[QuicLink], LinkHandler],
        *,
        accept_early: Callable[[QuicLink], EarlyLinkHandler] | None = None,
        clock: Callable[[], float] = trio.current_time,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.on_dirty: Callable[[], None] | None = None
        """Called when the first link has something to send, so that somebody flushes."""
        self._port = port
        self._config = config
        self._accept = accept
        self._accept_early = accept_early
        self._clock = clock
        self._identity = EndpointIdentity(security, name, config, clock, wall_clock)
        self._admission = Admission(config)
        self._tokens = RetryTokens()
        self._links: dict[QuicLink, None] = {}
        self._routes: dict[bytes, QuicLink] = {}
        self._touched: list[QuicLink] = []
        self._dirty: list[QuicLink] = []
        self._timers = LinkTimers()
        self._is_closed = False
        self._log_at = -NEVER
        self._count = EndpointCounters()

    # --- verbs

    def dial(
        self,
        address: Address,
        handler: LinkHandler,
        *,
        expected_name: str | None,
        now: float,
        early: EarlyLinkHandler | None = None,
    ) -> QuicLink:
        """Open a connection; ``link_ready`` or ``link_closed`` follows, within ``connect_timeout`` at the latest.

        Args:
            address: IP address and port.
            handler: hears of the connection.
            expected_name: whom the peer must prove to be; None if any node of the cluster will do.
            now: the current time.
            early: the handler once more, if it can begin before the handshake is complete. It then hears
                ``link_early`` before this returns, where there is a ticket of that peer that allows it.
        """
        host = str(ipaddress.ip_address(address[0]))
        key: DialKey = (host, address[1], expected_name)
        max_bytes = self._port.max_datagram_bytes(host)
        configuration = self._identity.configuration(is_client=True, max_datagram_bytes=max_bytes)
        ticket = self._identity.ticket_for(key)
        if ticket is not None:
            wants_early = early is not None and self._config.early_data
            configuration = with_ticket(configuration, ticket.session, early=wants_early)
        link = QuicLink(
            lambda link: Engine(configuration, self._route_to(link), keep_ticket=self._identity.keeper(link)),
            handler,
            self._mark_dirty,
            deadline=now + self._config.connect_timeout,
            expected_name=expected_name,
        )
        link.dial_key, link.ticket, link.early_handler = key, ticket, early
        self._links[link] = None
        link.engine.connect((host, address[1]), now)
        self._mark_dirty(link)
        if early is not None and link.engine.can_send_early:
            link.is_early = True
            self._count.early += 1
            early.link_early(link)
        return link

    def receive(self, data: bytes, source: Address, now: float) -> None:
        """Take one datagram; its events wait for :meth:`settle`. What belongs to no connection is dropped."""
        first = data[0] & 0xC0 if data else 0
        if first == 0x40:  # short header
            link = self._routes.get(data[1 : 1 + CID_BYTES])
            if link is None:
                self._count.unknown_connection += 1
                return
        elif first == 0xC0 and len(data) > 6:  # long header
            link = self._routes.get(data[6 : 6 + data[5]])
            if link is None:
                self._admit(data, source, now)
                return
        else:
            self._count.garbage += 1
            return
        self._feed(link, data, source, now)

    def settle(self, now: float) -> None:
        """Hand the events of all links that were touched since the last time to their handlers."""
        touched = self._touched
        if not touched:
            return
        self._touched = []
        for link in touched:
            link.touched = False
            if link.closed is None:
                self._settle(link, now)

    def flush(self, now: float) -> int:
        """Send what waits to be sent; return how many datagrams the port took."""
        dirty = self._dirty
        if not dirty:
            return 0
        self._dirty = []
        sent = 0
        for link in dirty:
            link.dirty = False
            if link.closed is None:
                sent += self._flush(link, now)
        return sent

    def next_timer(self) -> float | None:
        """Return when :meth:`on_timer` is due; None if no link waits for anything."""
        return self._timers.next()

    def on_timer(self, now: float) -> None:
        """Do what is due; links that have to send are left for :meth:`flush`."""
        while (link := self._timers.pop(now)) is not None:
            if link.closed is None:
                self._wake(link, now)
            else:
                self._forget(link)
        self.settle(now)

    def close(self, now: float, code: int, message: str) -> None:
        """Close every link and take no new ones."""
        self._is_closed = True
        for link in list(self._links):
            link.close(code, message)
        self.flush(now)

    def statistics(self) -> EndpointStatistics:
        """Return the counters."""
        admission = self._admission
        return self._count.snapshot(
            links=len(self._links), accepted=admission.accepted, handshaking=admission.handshaking
        )

    # --- input

    def _feed(self, link: QuicLink, data: bytes, source: Address, now: float) -> None:
        if link.closed is not None:
            self._count.datagrams += 1
            self._repeat_goodbye(link)
            return
        if link.proof is None and link.place is not None and not self._admission.take(link.place, data):
            self._count.refused += 1
            return
        self._count.datagrams += 1
        try:
            link.engine.receive_datagram(data, source, now)
        except Exception:  # noqa: BLE001 - whatever a peer makes the engine raise concerns its own link only
            self._break(link)
        link.acked = True
        self._touch(link)

    def _touch(self, link: QuicLink) -> None:
        if not link.touched:
            link.touched = True
            self._touched.append(link)

    def _admit(self, data: bytes, source: Address, now: float) -> None:
        """Take the first packet of a connection that another node opens."""
        cid = data[6 : 6 + data[5]]
        version = int.from_bytes(data[1:5], "big")
        if len(data) < SAFE_DATAGRAM_BYTES or version == 0 or len(cid) not in _FIRST_CID_BYTES:
            self._count.garbage += 1
        elif version != VERSION:
            self._answer_version(data, cid, source)
        elif data[0] & 0x30:  # not an Initial packet
            self._count.unknown_connection += 1
        elif self._is_closed:
            self._count.refused += 1
        else:
            self._judge(cid, data, source, now)

    def _judge(self, cid: bytes, data: bytes, source: Address, now: float) -> None:
        original = self._tokens.original_destination(data, source, now)
        is_proved = original is not None
        verdict = self._admission.judge(source, now, is_proved=is_proved)
        if verdict is Verdict.ADMIT:
            self._begin(cid, data, source, now, original)
        elif verdict is Verdict.RETRY:
            answer = self._tokens.retry(data, source, now)
            if answer is None:
                self._count.garbage += 1
            else:
                self._count.retried += 1
                self._port.send([(answer, source)])
        else:
            self._count.refused += 1

    def _begin(self, cid: bytes, data: bytes, source: Address, now: float, original: bytes | None) -> None:
        max_bytes = self._port.max_datagram_bytes(source[0])
        configuration = self._identity.configuration(is_client=False, max_datagram_bytes=max_bytes)
        link = QuicLink(
            lambda link: Engine(
                configuration,
                self._route_to(link),
                original_destination=original or cid,
                retry_source=None if original is None else cid,
                find_ticket=lambda name: self._identity.find(link, name),
                keep_ticket=self._identity.keeper(link),
                takes_early=self._config.early_data,
            ),
            None,
            self._mark_dirty,
            deadline=now + self._config.connect_timeout,
        )
        self._route_to(link)(cid)
        self._links[link] = None
        link.place = self._admission.begin(source, now, is_proved=original is not None)
        self._feed(link, data, source, now)
        if link.engine.heard_nothing and link.engine.ended is None:  # nothing in it was authentic
            self._count.garbage += 1
            self._count.datagrams -= 1
            self._drop(link, LinkClosed(0, "no authentic packet", by_peer=False, kind=CloseKind.HANDSHAKE_FAILED))
            self._forget(link)

    def _answer_version(self, data: bytes, cid: bytes, source: Address) -> None:
        end = 7 + len(cid)
        size = data[end - 1]
        if size > _MAX_CID_BYTES:
            self._count.garbage += 1
            return
        self._count.unknown_version += 1
        self._port.send([(version_negotiation(cid, data[end : end + size]), source)])

    # --- events

    def _settle(self, link: QuicLink, now: float) -> None:
        self._hand_on_events(link)
        if link.closed is not None or link.dirty:
            return
        if link.closing is not None or link.engine.has_output or link.engine.owes_acknowledgement(now):
            self._mark_dirty(link)
        elif link.wake_at > now + _SOON:
            # At most an acknowledgement is due; it rides with what is written next, or goes out by the timer.
            self._arm(link, now)

    def _hand_on_events(self, link: QuicLink) -> None:
        engine = link.engine
        next_event = engine.next_event
        while (event := next_event()) is not None:
            if isinstance(event, StreamDataReceived) and link.handler is not None and link.carries_data:
                link.handler.link_data(link, event.stream_id, event.data, event.end_stream)
            elif isinstance(event, HandshakeCompleted):
                if link.closing is None:  # it may have been given up just before
                    self._authenticate(link)
            elif isinstance(event, ConnectionIdRetired):
                self._unroute(link, event.connection_id)
            elif link.handler is not None and link.carries_data:
                self._hand_on(link, link.handler, event)
            elif link.handler is None and engine.takes_early and link.closing is None:
                self._begin_early(link, event)
        if engine.ended is not None:
            self._finish(link, engine.ended)
        elif link.count_progress() and link.carries_data and link.handler is not None:
            link.handler.link_progress(link)

    def _hand_on(self, link: QuicLink, handler: LinkHandler, event: object) -> None:
        if isinstance(event, StreamDataReceived):
            handler.link_data(link, event.stream_id, event.data, event.end_stream)
        elif isinstance(event, StreamReset):
            handler.link_reset(link, event.stream_id, event.error_code)
        elif isinstance(event, StopSendingReceived):
            handler.link_stopped(link, event.stream_id, event.error_code)

    def _begin_early(self, link: QuicLink, event: object) -> None:
        """Take the first event of a link whose peer sends before the handshake is complete."""
        if self._accept_early is None or link.ticket is None:
            link.held.append(event)
            return
        link.peer_name, link.is_early = link.ticket.proof.name, True
        self._count.early += 1
        link.handler = handler = self._accept_early(link)
        handler.link_early(link)
        self._hand_on(link, handler, event)

    def _authenticate(self, link: QuicLink) -> None:
        try:
            proof = self._identity.prove(link)
        except Exception as error:  # noqa: BLE001 - what cannot be verified, for whatever reason, is refused
            self._refuse(link, str(error))
            return
        if link.expected_name is not None and link.expected_name != proof.name:
            self._refuse(link, f"{format_address(link.address)} is node {proof.name!r}, not {link.expected_name!r}")
            return
        link.proof, link.peer_name, link.is_early = proof, proof.name, False
        if link.place is not None and not self._admission.verify(link.place):
            self._refuse(link, "too many connections from this address", CLOSE_TOO_MANY, CloseKind.CLOSED)
            return
        self._count.established += 1
        self._count.resumed += link.engine.is_resumed
        link.engine.allow_more_streams(self._config.max_calls_per_connection)
        if link.new_ticket is not None:
            self._identity.give(link.new_ticket, proof)
        self._let_begin(link)

    def _let_begin(self, link: QuicLink) -> None:
        if link.early_handler is not None and link.engine.lost_early:
            self._count.early_lost += 1
            link.early_handler.link_early_lost(link)
        if link.handler is None:
            link.handler = self._accept(link)
        link.handler.link_ready(link)
        held, link.held = link.held, []
        for event in held:
            if link.is_ready:
                self._hand_on(link, link.handler, event)

    def _refuse(
        self,
        link: QuicLink,
        why: str,
        code: int = CLOSE_UNAUTHENTICATED,
        kind: CloseKind = CloseKind.UNAUTHENTICATED,
    ) -> None:
        link.reason = LinkClosed(code, why, by_peer=False, kind=kind)
        link.closing = (code, why)
        self._warn("refused %s: %s", format_address(link.address), why)

    # --- output

    def _mark_dirty(self, link: QuicLink) -> None:
        link.dirty = True
        self._dirty.append(link)
        if len(self._dirty) == 1 and self.on_dirty is not None:
            self.on_dirty()

    def _flush(self, link: QuicLink, now: float) -> int:
        engine = link.engine
        sent = 0
        try:
            if engine.ended is None:
                if link.reason is None:
                    sent = self._send_paced(engine, now)
                if link.closing is not None and engine.ended is None:
                    code, message = link.closing
                    engine.close(code, None, clip_message(message))
                    link.goodbye = engine.datagrams_to_send(now)
                    sent += self._port.send(link.goodbye)
        except Exception:  # noqa: BLE001 - an error of the engine concerns this link only
            self._break(link)
        if engine.ended is not None:
            self._finish(link, engine.ended)
        elif link.wake_at > now + _SOON:
            self._arm(link, now)
        return sent

    def _send_paced(self, engine: Engine, now: float) -> int:
        send = self._port.send
        datagrams = engine.datagrams_to_send(now)
        sent = 0
        while datagrams:
            sent += send(datagrams)
            paced_until = engine.paced_until
            if paced_until is None or engine.ended is not None:
                break
            now = self._clock()
            if paced_until > now:
                break
            datagrams = engine.datagrams_to_send(now)
        return sent

    def _repeat_goodbye(self, link: QuicLink) -> None:
        if link.goodbye and link.goodbyes_left:
            link.goodbyes_left -= 1
            self._port.send(link.goodbye)

    # --- timers

    def _arm(self, link: QuicLink, now: float) -> None:
        at = link.engine.get_timer()
        if at is None:
            return
        if link.proof is None:
            at = min(at, link.deadline)
        at = max(at, now + _SHORTEST_SLEEP)
        if at < link.wake_at:
            self._timers.set(link, at, len(self._links))

    def _wake(self, link: QuicLink, now: float) -> None:
        engine = link.engine
        if link.proof is None and link.closing is None and now >= link.deadline:
            self._time_out(link)
        else:
            at = engine.get_timer()
            if at is None or at > now:  # it moved while it waited
                self._arm(link, now)
                return
            try:
                engine.handle_timer(now)
            except Exception:  # noqa: BLE001 - an error of the engine concerns this link only
                self._break(link)
            self._touch(link)
        if not link.dirty:
            self._mark_dirty(link)

    def _time_out(self, link: QuicLink) -> None:
        message = f"no handshake with {format_address(link.address)} within {self._config.connect_timeout:g} s"
        link.reason = LinkClosed(CLOSE_HANDSHAKE_TIMEOUT, message, by_peer=False, kind=CloseKind.HANDSHAKE_FAILED)
        link.closing = (CLOSE_HANDSHAKE_TIMEOUT, message)

    # --- the end

    def _break(self, link: QuicLink) -> None:
        self._count.engine_errors += 1
        self._warn("the QUIC engine failed on a connection with %s", format_address(link.address), with_traceback=True)
        if link.engine.ended is None:
            message = "the QUIC engine failed on this connection"
            link.engine.ended = Ended(
                _INTERNAL_ERROR, is_application=False, message=message, by_peer=False, is_silent=True
            )

    def _finish(self, link: QuicLink, ended: Ended) -> None:
        was_verified = link.proof is not None
        reason = link.reason or describe_end(
            ended,
            format_address(link.address),
            was_ready=was_verified or link.closing is not None,
            had_backlog=link.buffered_bytes > 0,
        )
        self._drop(link, reason)
        if not was_verified:
            if reason.kind is CloseKind.UNAUTHENTICATED:
                self._count.unauthenticated += 1
            else:
                self._count.handshakes_failed += 1
        if link.goodbye:
            link.goodbyes_left = _GOODBYES
            self._timers.set(link, link.engine.get_timer() or link.deadline, len(self._links))
        else:
            link.wake_at = NEVER
            self._forget(link)
        if link.handler is not None:
            link.handler.link_closed(link, reason)

    def _drop(self, link: QuicLink, reason: LinkClosed) -> None:
        link.closed = reason
        del self._links[link]
        if link.place is not None:
            self._admission.end(link.place)

    def _forget(self, link: QuicLink) -> None:
        for cid in list(link.cids):
            self._unroute(link, cid)

    def _route_to(self, link: QuicLink) -> Callable[[bytes], None]:
        def route(cid: bytes) -> None:
            if cid not in self._routes:
                self._routes[cid] = link
                link.cids[cid] = None

        return route

    def _unroute(self, link: QuicLink, cid: bytes) -> None:
        if link.cids.pop(cid, link) is None:
            del self._routes[cid]

    def _warn(self, message: str, *args: object, with_traceback: bool = False) -> None:
        now = self._clock()
        if now >= self._log_at:
            self._log_at = now + _LOG_INTERVAL
            log.warning(message, *args, exc_info=with_traceback)
