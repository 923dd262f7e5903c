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
* Timers wait in one heap with a few entries per link; a link is asked for its timer only when no earlier one is due
  within a millisecond.
"""

from __future__ import annotations

import heapq
import ipaddress
import itertools
import logging
import time
from collections.abc import Callable

import attrs
import trio

from rpcnet.config import RpcConfig

from .addresses import Address, format_address
from .identity import Credentials, Security
from .ports import SAFE_DATAGRAM_BYTES, DatagramPort
from .quic_close import (
    CLOSE_HANDSHAKE_TIMEOUT,
    CLOSE_UNAUTHENTICATED,
    CloseKind,
    LinkClosed,
    clip_message,
    describe_end,
)
from .quic_engine import (
    CID_BYTES,
    VERSION,
    Configuration,
    ConnectionIdRetired,
    Ended,
    Engine,
    HandshakeCompleted,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
    configure,
    version_negotiation,
)
from .quic_link import NEVER, LinkHandler, LinkStatistics, QuicLink, StreamsExhausted

__all__ = [
    "CLOSE_HANDSHAKE_TIMEOUT",
    "CLOSE_UNAUTHENTICATED",
    "CloseKind",
    "EndpointStatistics",
    "LinkClosed",
    "LinkHandler",
    "LinkStatistics",
    "QuicEndpoint",
    "QuicLink",
    "StreamsExhausted",
]

_WINDOW_BYTES = 8 << 20
_SOON = 0.001
_SHORTEST_SLEEP = 0.0001
_GOODBYES = 8
_LOG_INTERVAL = 10.0
_FIRST_CID_BYTES = range(8, 21)  # RFC 9000, 7.2 and 17.2
_MAX_CID_BYTES = 20
_INTERNAL_ERROR = 0x01

log = logging.getLogger("rpcnet.quic")


@attrs.frozen
class EndpointStatistics:
    """Counters of an endpoint, and how many links it has now."""

    links: int
    """Links of both kinds, those in mid-handshake included."""
    accepted: int
    """Links that others opened."""
    handshaking: int
    """Links that others opened and that are not verified yet."""
    established: int
    """Handshakes that ended with a verified peer, so far."""
    unauthenticated: int
    """Peers that were refused because they could not be verified."""
    handshakes_failed: int
    """Handshakes that ended in any other way."""
    datagrams: int
    """Datagrams that belonged to a link."""
    garbage: int
    """Datagrams dropped because they are no QUIC packets of ours, or too small for what they claim to be."""
    unknown_connection: int
    """Datagrams dropped because their connection does not exist (any more)."""
    unknown_version: int
    """Datagrams answered with the QUIC version that we speak."""
    refused: int
    """First packets dropped because a limit on connections was reached."""
    engine_errors: int
    """Links lost to an error of the engine itself."""


class QuicEndpoint:
    """Everything QUIC of one port.

    Args:
        port: sends the datagrams, and knows how large they may be.
        security: issues this node's certificate and verifies those of others.
        name: this node's name.
        config: limits and timeouts.
        accept: gives the handler of a connection that another node opened, when it is verified.
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
        clock: Callable[[], float] = trio.current_time,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.on_dirty: Callable[[], None] | None = None
        """Called when the first link has something to send, so that somebody flushes."""
        self._port = port
        self._security = security
        self._name = name
        self._config = config
        self._accept = accept
        self._clock = clock
        self._wall_clock = wall_clock
        self._credentials: Credentials | None = None
        self._configurations: dict[tuple[bool, int], Configuration] = {}
        self._links: dict[QuicLink, None] = {}
        self._routes: dict[bytes, QuicLink] = {}
        self._touched: list[QuicLink] = []
        self._dirty: list[QuicLink] = []
        self._timers: list[tuple[float, int, QuicLink]] = []
        self._timer_count = itertools.count()
        self._is_closed = False
        self._log_at = -NEVER
        self._accepted = self._handshaking = self._established = self._unauthenticated = self._failed = 0
        self._datagrams = self._garbage = self._unknown_connection = self._unknown_version = self._refused = 0
        self._engine_errors = 0

    # --- verbs

    def dial(self, address: Address, handler: LinkHandler, *, expected_name: str | None, now: float) -> QuicLink:
        """Open a connection; ``link_ready`` or ``link_closed`` follows, within ``connect_timeout`` at the latest.

        Args:
            address: IP address and port.
            handler: hears of the connection.
            expected_name: whom the peer must prove to be; None if any node of the cluster will do.
            now: the current time.
        """
        host = str(ipaddress.ip_address(address[0]))
        configuration = self._configuration(is_client=True, max_datagram_bytes=self._port.max_datagram_bytes(host))
        link = QuicLink(
            lambda link: Engine(configuration, self._route_to(link)),
            handler,
            self._mark_dirty,
            deadline=now + self._config.connect_timeout,
            expected_name=expected_name,
        )
        self._links[link] = None
        link.engine.connect((host, address[1]), now)
        self._mark_dirty(link)
        return link

    def receive(self, data: bytes, source: Address, now: float) -> None:
        """Take one datagram; its events wait for :meth:`settle`. What belongs to no connection is dropped."""
        first = data[0] & 0xC0 if data else 0
        if first == 0x40:  # short header
            link = self._routes.get(data[1 : 1 + CID_BYTES])
            if link is None:
                self._unknown_connection += 1
                return
        elif first == 0xC0 and len(data) > 6:  # long header
            link = self._routes.get(data[6 : 6 + data[5]])
            if link is None:
                self._admit(data, source, now)
                return
        else:
            self._garbage += 1
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
        timers = self._timers
        while timers and timers[0][0] != timers[0][2].wake_at:
            heapq.heappop(timers)
        return timers[0][0] if timers else None

    def on_timer(self, now: float) -> None:
        """Do what is due; links that have to send are left for :meth:`flush`."""
        timers = self._timers
        while timers and timers[0][0] <= now:
            at, _, link = heapq.heappop(timers)
            if at == link.wake_at:
                link.wake_at = NEVER
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
        return EndpointStatistics(
            links=len(self._links),
            accepted=self._accepted,
            handshaking=self._handshaking,
            established=self._established,
            unauthenticated=self._unauthenticated,
            handshakes_failed=self._failed,
            datagrams=self._datagrams,
            garbage=self._garbage,
            unknown_connection=self._unknown_connection,
            unknown_version=self._unknown_version,
            refused=self._refused,
            engine_errors=self._engine_errors,
        )

    # --- input

    def _feed(self, link: QuicLink, data: bytes, source: Address, now: float) -> None:
        self._datagrams += 1
        if link.closed is not None:
            self._repeat_goodbye(link)
            return
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
            self._garbage += 1
        elif version != VERSION:
            self._answer_version(data, cid, source)
        elif data[0] & 0x30:  # not an Initial packet
            self._unknown_connection += 1
        elif (
            self._is_closed
            or self._accepted >= self._config.max_connections
            or self._handshaking >= self._config.max_unauthenticated
        ):
            self._refused += 1
        else:
            self._begin(cid, data, source, now)

    def _begin(self, cid: bytes, data: bytes, source: Address, now: float) -> None:
        max_bytes = self._port.max_datagram_bytes(source[0])
        configuration = self._configuration(is_client=False, max_datagram_bytes=max_bytes)
        link = QuicLink(
            lambda link: Engine(configuration, self._route_to(link), original_destination=cid),
            None,
            self._mark_dirty,
            deadline=now + self._config.connect_timeout,
        )
        self._route_to(link)(cid)
        self._links[link] = None
        self._accepted += 1
        self._handshaking += 1
        self._feed(link, data, source, now)
        if link.engine.heard_nothing and link.engine.ended is None:  # nothing in it was authentic
            self._garbage += 1
            self._datagrams -= 1
            self._drop(link, LinkClosed(0, "no authentic packet", by_peer=False, kind=CloseKind.HANDSHAKE_FAILED))
            self._forget(link)

    def _answer_version(self, data: bytes, cid: bytes, source: Address) -> None:
        end = 7 + len(cid)
        size = data[end - 1]
        if size > _MAX_CID_BYTES:
            self._garbage += 1
            return
        self._unknown_version += 1
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
            if isinstance(event, HandshakeCompleted):
                self._authenticate(link)
            elif isinstance(event, ConnectionIdRetired):
                self._unroute(link, event.connection_id)
            elif link.handler is None or not link.is_ready:
                continue
            elif isinstance(event, StreamDataReceived):
                link.handler.link_data(link, event.stream_id, event.data, event.end_stream)
            elif isinstance(event, StreamReset):
                link.handler.link_reset(link, event.stream_id, event.error_code)
            elif isinstance(event, StopSendingReceived):
                engine.free(event.stream_id)
                link.handler.link_stopped(link, event.stream_id, event.error_code)
        if engine.ended is not None:
            self._finish(link, engine.ended)
        elif link.count_progress() and link.is_ready and link.handler is not None:
            link.handler.link_progress(link)

    def _authenticate(self, link: QuicLink) -> None:
        certificate, chain = link.engine.peer_certificates
        try:
            name = self._security.verify(certificate, chain)
        except Exception as error:  # noqa: BLE001 - what cannot be verified, for whatever reason, is refused
            self._refuse(link, str(error))
            return
        if link.expected_name is not None and link.expected_name != name:
            self._refuse(link, f"{format_address(link.address)} is node {name!r}, not {link.expected_name!r}")
            return
        link.peer_name = name
        self._established += 1
        if link.handler is None:
            self._handshaking -= 1
            link.handler = self._accept(link)
        link.handler.link_ready(link)

    def _refuse(self, link: QuicLink, why: str) -> None:
        link.reason = LinkClosed(CLOSE_UNAUTHENTICATED, why, by_peer=False, kind=CloseKind.UNAUTHENTICATED)
        link.closing = (CLOSE_UNAUTHENTICATED, why)
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
        if link.peer_name is None:
            at = min(at, link.deadline)
        at = max(at, now + _SHORTEST_SLEEP)
        if at < link.wake_at:
            self._set_timer(link, at)

    def _set_timer(self, link: QuicLink, at: float) -> None:
        link.wake_at = at
        heapq.heappush(self._timers, (at, next(self._timer_count), link))
        if len(self._timers) > 64 + 4 * len(self._links):
            self._timers = [timer for timer in self._timers if timer[0] == timer[2].wake_at]
            heapq.heapify(self._timers)

    def _wake(self, link: QuicLink, now: float) -> None:
        engine = link.engine
        if link.peer_name is None and link.closing is None and now >= link.deadline:
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
        self._engine_errors += 1
        self._warn("the QUIC engine failed on a connection with %s", format_address(link.address), with_traceback=True)
        if link.engine.ended is None:
            message = "the QUIC engine failed on this connection"
            link.engine.ended = Ended(
                _INTERNAL_ERROR, is_application=False, message=message, by_peer=False, is_silent=True
            )

    def _finish(self, link: QuicLink, ended: Ended) -> None:
        was_verified = link.peer_name is not None
        reason = link.reason or describe_end(
            ended,
            format_address(link.address),
            was_ready=was_verified or link.closing is not None,
            had_backlog=link.buffered_bytes > 0,
        )
        self._drop(link, reason)
        if not was_verified:
            if reason.kind is CloseKind.UNAUTHENTICATED:
                self._unauthenticated += 1
            else:
                self._failed += 1
        if link.goodbye:
            link.goodbyes_left = _GOODBYES
            self._set_timer(link, link.engine.get_timer() or link.deadline)
        else:
            link.wake_at = NEVER
            self._forget(link)
        if link.handler is not None:
            link.handler.link_closed(link, reason)

    def _drop(self, link: QuicLink, reason: LinkClosed) -> None:
        link.closed = reason
        del self._links[link]
        if not link.is_client:
            self._accepted -= 1
            self._handshaking -= link.peer_name is None

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

    # --- identity, and the log

    def _configuration(self, *, is_client: bool, max_datagram_bytes: int) -> Configuration:
        credentials = self._credentials
        if credentials is None or self._wall_clock() >= credentials.renew_after:
            credentials = self._credentials = self._security.issue(self._name)
            self._configurations.clear()
        key = (is_client, max_datagram_bytes)
        configuration = self._configurations.get(key)
        if configuration is None:
            configuration = self._configurations[key] = configure(
                credentials,
                is_client=is_client,
                max_datagram_bytes=max_datagram_bytes,
                window_bytes=max(_WINDOW_BYTES, 2 * self._config.send_watermark_bytes),
                idle_timeout=self._config.idle_timeout,
            )
        return configuration

    def _warn(self, message: str, *args: object, with_traceback: bool = False) -> None:
        now = self._clock()
        if now >= self._log_at:
            self._log_at = now + _LOG_INTERVAL
            log.warning(message, *args, exc_info=with_traceback)
