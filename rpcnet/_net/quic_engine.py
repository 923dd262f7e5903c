"""The QUIC engine: aioquic, and the little that we need of it beyond its public interface.

The rules of this file:

* aioquic is imported here and in the files of the short ways (``quic_fast*.py``) and nowhere else, and so are its
  private names used. The tests of these files fail loudly when one of them changes its meaning.
* Client certificates are asked for by a private switch, and the engine checks of them only that the peer holds the key
  (RFC 8446, 4.4.3). It checks nothing of the server's either (``CERT_NONE``). So nothing that a connection receives may
  be looked at before :attr:`Engine.peer_certificates` has been verified.
* A peer that has proved nothing can make a connection hold 32 KiB of handshake per direction, not the engine's 512.
* With a ticket the peer shows no certificate: whoever knows the ticket's secret is whom it was given to. A server that
  does not know a ticket asks for the certificate as ever.
* What a client sent before the handshake was complete, and the server did not take, is gone with its streams, as if
  nothing had been sent (RFC 9001, 4.6.2). It is not sent again here: it may have been meant for the server before.
"""

# ruff: noqa: SLF001 - this is the one file that knows the private names of the engine

from __future__ import annotations

import dataclasses
import logging
import os
import ssl
from collections.abc import Callable

import attrs
from aioquic import tls
from aioquic.buffer import Buffer, BufferReadError  # type: ignore[attr-defined]
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.events import (
    ConnectionIdRetired,
    HandshakeCompleted,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicProtocolVersion,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.retry import QuicRetryTokenHandler
from aioquic.tls import SessionTicket
from cryptography import x509

from .certificates import Credentials
from .quic_fast import FastConnection

__all__ = [
    "ALPN",
    "CID_BYTES",
    "IDLE_MESSAGE",
    "VERSION",
    "Configuration",
    "ConnectionIdRetired",
    "Ended",
    "Engine",
    "HandshakeCompleted",
    "RetryTokens",
    "SessionTicket",
    "StopSendingReceived",
    "StreamDataReceived",
    "StreamReset",
    "configure",
    "tls_alert_name",
    "version_negotiation",
    "with_ticket",
]

ALPN = "rpcnet/1"
CID_BYTES = 8
IDLE_MESSAGE = "Idle timeout"
"""What the engine says when nothing was heard for the idle timeout."""
VERSION: int = QuicProtocolVersion.VERSION_1

Configuration = QuicConfiguration
"""The engine's settings, from :func:`configure`."""

_MAX_HANDSHAKE_BYTES = 32 << 10
_CIPHERS = [
    tls.CipherSuite.AES_128_GCM_SHA256,  # half the cost of AES-256 where the CPU has AES
    tls.CipherSuite.AES_256_GCM_SHA384,
    tls.CipherSuite.CHACHA20_POLY1305_SHA256,
]
_CRYPTO_ERRORS = range(QuicErrorCode.CRYPTO_ERROR, QuicErrorCode.CRYPTO_ERROR + 0x100)

_engine_log = logging.getLogger("quic")
if _engine_log.level == logging.NOTSET:
    _engine_log.setLevel(logging.ERROR)  # below that it logs a line for every packet that anybody sends it


@attrs.frozen
class Ended:
    """How a connection ended, in the engine's terms."""

    code: int
    """A QUIC error code, or the application's own."""
    is_application: bool
    """Whether the code is the application's own."""
    message: str
    """The reason phrase."""
    by_peer: bool
    """Whether the peer closed it."""
    is_silent: bool
    """Whether it ended without a word to the peer: nothing was heard for too long, or there is no way to it."""


class Engine(FastConnection):
    """One QUIC connection, sans-IO: aioquic's five verbs, and what the rest of rpcnet asks besides.

    Args:
        configuration: from :func:`configure`.
        route: called with every connection id that datagrams to this connection may carry.
        original_destination: on a server, the connection id that the client chose for its first packet.
        retry_source: on a server, the connection id that it gave the client together with a token; None if it did not.
        find_ticket: on a server, returns the other half of a ticket that the client shows, if there is one.
        keep_ticket: called with the tickets that arrive, or with the one that is sent; None if there are to be none.
        takes_early: on a server, whether the tickets that are sent allow to send before the handshake is complete.
    """

    def __init__(
        self,
        configuration: QuicConfiguration,
        route: Callable[[bytes], None],
        *,
        original_destination: bytes | None = None,
        retry_source: bytes | None = None,
        find_ticket: Callable[[bytes], SessionTicket | None] | None = None,
        keep_ticket: Callable[[SessionTicket], None] | None = None,
        takes_early: bool = False,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination,
            retry_source_connection_id=retry_source,
            session_ticket_fetcher=None if find_ticket is None else self._fetch_ticket,
            session_ticket_handler=keep_ticket,
        )
        self._find_ticket = find_ticket
        self._takes_early = takes_early
        self.ended: Ended | None = None
        """Set once, at the moment when nothing more can be sent or received."""
        self.allows_streams = False
        """Set whenever the peer allows more streams; whoever looks puts it back."""
        self.lost_early = False
        """Set when the peer did not take what was sent before the handshake was complete."""
        self._route = route
        route(self.host_cid)

    # --- what the rest of rpcnet asks

    @property
    def heard_nothing(self) -> bool:
        """Whether no packet has been authentic so far."""
        return self._state is QuicConnectionState.FIRSTFLIGHT

    @property
    def peer_certificates(self) -> tuple[x509.Certificate | None, list[x509.Certificate]]:
        """What the peer proved to hold the key of, and what it sent besides; unverified."""
        return self.tls._peer_certificate, self.tls._peer_certificate_chain

    @property
    def is_resumed(self) -> bool:
        """Whether a ticket stood in for the certificates."""
        return self.tls.session_resumed

    @property
    def can_send_early(self) -> bool:
        """Whether a client may send before the handshake is complete."""
        return self._cryptos[tls.Epoch.ZERO_RTT].send.is_valid()

    @property
    def takes_early(self) -> bool:
        """Whether a server takes what the client sends before the handshake is complete."""
        return self._state is not QuicConnectionState.FIRSTFLIGHT and self.tls.early_data_accepted

    @property
    def connection_ids(self) -> list[bytes]:
        """Every connection id that datagrams to this connection may carry now, but for the client's first."""
        return [issued.cid for issued in self._host_cids]

    @property
    def paced_until(self) -> float | None:
        """When the pacer lets more out; None if it holds nothing back."""
        return self._pacing_at

    @property
    def smoothed_rtt(self) -> float:
        """Seconds to the peer and back; 0.0 before the first measurement."""
        return self._loss._rtt_smoothed

    @property
    def congestion_window(self) -> int:
        """Bytes that may be on their way."""
        return self._loss.congestion_window

    @property
    def bytes_in_flight(self) -> int:
        """Bytes that are on their way."""
        return self._loss.bytes_in_flight

    @property
    def unacknowledged_bytes(self) -> int:
        """What was written to streams and not acknowledged, whether sent or not."""
        return self._table.unacknowledged

    @property
    def open_streams(self) -> int:
        """Streams of both sides that have not ended in both directions."""
        return len(self._streams)

    def open_stream(self, *, unidirectional: bool) -> int | None:
        """Open a stream; None when the peer allows no more at the moment."""
        stream_id = self.get_next_available_stream_id(is_unidirectional=unidirectional)
        limit = self._remote_max_streams_uni if unidirectional else self._remote_max_streams_bidi
        if stream_id // 4 >= limit:
            return None
        self.send_stream_data(stream_id, b"")
        return stream_id

    def allow_more_streams(self, count: int) -> None:
        """Let the peer have that many more streams open at once, of each direction, than the 128 it begins with.

        As streams end the engine goes on to allow others in their place (RFC 9000, 4.6).
        """
        for limit in (self._local_max_streams_bidi, self._local_max_streams_uni):
            limit.value += count

    def write(self, stream_id: int, data: bytes, *, end: bool) -> bool:
        """Write to a stream; False, and nothing happens, if it was reset or stopped, or its end was written."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.sender._reset_error_code is not None or stream.sender._buffer_fin is not None:
            return False
        stream.sender.write(data, end)
        return True

    def abandon(self, stream_id: int, code: int) -> None:
        """Reset the sending half of a stream, if it has one that is open, which frees what it holds."""
        stream = self._streams.get(stream_id)
        if stream is not None and self._stream_can_send(stream_id):
            stream.sender.reset(code)

    def refuse(self, stream_id: int, code: int) -> None:
        """Ask the peer to send no more on a stream, if it still may."""
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.receiver.is_finished and self._stream_can_receive(stream_id):
            stream.receiver.stop(code)

    @property
    def has_output(self) -> bool:
        """Whether a flush could send more than an acknowledgement."""
        return self._table.has_data or self.has_other_output

    # --- where the engine is made to behave

    def _initialize(self, peer_cid: bytes) -> None:
        for space in self._spaces.values():  # of a client that is told to begin anew, with a token
            self._lose(space)
        super()._initialize(peer_cid)
        self.tls._request_client_certificate = not self._is_client
        self.tls._supported_groups = [tls.Group.X25519]  # else every dial makes four key pairs
        if not self._takes_early:
            self.tls._max_early_data = None

    def _lose(self, space: QuicPacketSpace) -> None:
        sent = tuple(space.sent_packets.values())
        self._loss._on_packets_lost(congestion_event=False, now=0.0, packets=sent, space=space)

    def _fetch_ticket(self, name: bytes) -> SessionTicket | None:
        ticket = None if self._find_ticket is None else self._find_ticket(name)
        if ticket is not None:
            self.tls._request_client_certificate = False  # in a resumed handshake there is no place for one
        return ticket

    def _update_traffic_key(
        self, direction: tls.Direction, epoch: tls.Epoch, cipher_suite: tls.CipherSuite, secret: bytes
    ) -> None:
        if self._is_client and direction is tls.Direction.ENCRYPT and epoch is tls.Epoch.ONE_RTT:
            self.lost_early = self.can_send_early and not self.tls.early_data_accepted
            if self.lost_early:
                self._forget_streams()
        super()._update_traffic_key(direction, epoch, cipher_suite, secret)

    def _forget_streams(self) -> None:
        self._lose(self._spaces[tls.Epoch.ONE_RTT])
        self._renew_streams()
        self._streams_blocked_bidi.clear()
        self._streams_blocked_uni.clear()
        self._streams_blocked_pending = False
        self._local_next_stream_id_bidi, self._local_next_stream_id_uni = 0, 2
        self._remote_max_data_used = 0

    def _unblock_streams(self, is_unidirectional: bool) -> None:  # noqa: FBT001 - aioquic's signature
        super()._unblock_streams(is_unidirectional)
        self.allows_streams = True

    def _replenish_connection_ids(self) -> None:
        super()._replenish_connection_ids()
        for connection_id in self.connection_ids:
            self._route(connection_id)

    def _handle_crypto_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        end = buf.pull_uint_var() + buf.pull_uint_var()
        if end > _MAX_HANDSHAKE_BYTES:
            raise QuicConnectionError(QuicErrorCode.CRYPTO_BUFFER_EXCEEDED, frame_type, "the handshake is too long")
        buf.seek(start)
        super()._handle_crypto_frame(context, frame_type, buf)

    def _close_begin(self, is_initiator: bool, now: float) -> None:  # noqa: FBT001 - aioquic's signature
        super()._close_begin(is_initiator, now)
        self._end(by_peer=not is_initiator, is_silent=False)

    def _close_end(self) -> None:
        super()._close_end()
        self._end(by_peer=False, is_silent=True)

    def _end(self, *, by_peer: bool, is_silent: bool) -> None:
        event = self._close_event
        if self.ended is None and event is not None:
            is_application = event.frame_type is None
            self.ended = Ended(event.error_code, is_application, event.reason_phrase, by_peer, is_silent)


def configure(
    credentials: Credentials, *, is_client: bool, max_datagram_bytes: int, window_bytes: int, idle_timeout: float
) -> QuicConfiguration:
    """Return the engine's settings for new connections.

    Args:
        credentials: what this side shows the other.
        is_client: whether this side dials.
        max_datagram_bytes: the largest datagram it sends.
        window_bytes: what it takes before it has to grant more, per stream and in total.
        idle_timeout: seconds of silence after which the connection is gone.
    """
    return QuicConfiguration(
        alpn_protocols=[ALPN],
        certificate=credentials.certificate,
        certificate_chain=list(credentials.chain),
        cipher_suites=_CIPHERS,
        connection_id_length=CID_BYTES,
        idle_timeout=idle_timeout,
        is_client=is_client,
        max_data=window_bytes,
        max_datagram_size=max_datagram_bytes,
        max_stream_data=window_bytes,
        private_key=credentials.private_key,
        supported_versions=[VERSION],
        verify_mode=ssl.CERT_NONE,
    )


def with_ticket(configuration: QuicConfiguration, ticket: SessionTicket, *, early: bool) -> QuicConfiguration:
    """Return the settings of a client that shows a ticket.

    Args:
        configuration: from :func:`configure`.
        ticket: from a connection before.
        early: whether it asks to send before the handshake is complete, where the ticket allows that.
    """
    shown = ticket if early else dataclasses.replace(ticket, max_early_data_size=None)
    return dataclasses.replace(configuration, session_ticket=shown)


def version_negotiation(source_cid: bytes, destination_cid: bytes) -> bytes:
    """Return the answer to a client whose QUIC version we do not speak (RFC 9000, 6.1)."""
    packet = encode_quic_version_negotiation(source_cid, destination_cid, [VERSION])
    return bytes([packet[0] | 0x40]) + packet[1:]  # the bit that tells QUIC from its neighbours (RFC 9000, 17.2.1)


class RetryTokens:
    """Makes clients prove that they are where they say they are (RFC 9000, 8.1.2); remembers none of them."""

    def __init__(self) -> None:
        self._handler = QuicRetryTokenHandler()

    def retry(self, data: bytes, source: tuple[str, int], now: float) -> bytes | None:
        """Return the answer to a client's first packet: a token, to be shown in another one; None if it is none."""
        try:
            header = pull_quic_header(Buffer(data=data), CID_BYTES)
        except (ValueError, BufferReadError):
            return None
        source_cid = os.urandom(CID_BYTES)
        token = self._handler.create_token(
            address=source,
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=source_cid,
            now=now,
        )
        return encode_quic_retry(VERSION, source_cid, header.source_cid, header.destination_cid, token)

    def original_destination(self, data: bytes, source: tuple[str, int], now: float) -> bytes | None:
        """Return which connection id the client chose at first, if its packet shows a token that was sent there.

        A token that is too old, of another address or of another start of this process is as good as none.
        """
        try:
            header = pull_quic_header(Buffer(data=data), CID_BYTES)
            if not header.token:
                return None
            return self._handler.validate_token(
                address=source, destination_cid=header.destination_cid, token=header.token, now=now
            )
        except (ValueError, BufferReadError):
            return None


def tls_alert_name(code: int) -> str | None:
    """Return the name of the TLS alert in a QUIC error code; None if it is no such code."""
    if code not in _CRYPTO_ERRORS:
        return None
    alert = code - QuicErrorCode.CRYPTO_ERROR
    try:
        return tls.AlertDescription(alert).name
    except ValueError:
        return f"alert_{alert}"
