"""How a QUIC connection ended: the engine's terms, turned into what an owner can act on.

The rules of this file:

* Codes below 0x100 belong to this layer, those from there on to the owner of the link.
* Who could not be verified is told apart from what merely failed, because repeating cannot help.
* What a peer says is shown to people only when it is short and printable.
"""

from __future__ import annotations

import enum

import attrs

from .quic_engine import IDLE_MESSAGE, Ended, tls_alert_name

__all__ = [
    "CLOSE_HANDSHAKE_TIMEOUT",
    "CLOSE_TOO_MANY",
    "CLOSE_UNAUTHENTICATED",
    "CloseKind",
    "LinkClosed",
    "clip_message",
    "describe_end",
]

CLOSE_UNAUTHENTICATED = 0x01
"""The application error code of a connection closed because its peer could not be verified."""
CLOSE_HANDSHAKE_TIMEOUT = 0x02
"""The application error code of a connection closed because its handshake took too long."""
CLOSE_TOO_MANY = 0x03
"""The application error code of a connection closed because its address has as many as it may."""

_MAX_MESSAGE_BYTES = 256
_IDENTITY_ALERTS = frozenset(
    {
        *("bad_certificate", "unsupported_certificate", "certificate_revoked", "certificate_expired"),
        *("certificate_unknown", "unknown_ca", "access_denied", "decrypt_error", "certificate_required"),
    }
)


class CloseKind(enum.Enum):
    """Why a link ended."""

    CLOSED = "closed"
    """One side closed it on purpose; the code is its own."""
    UNAUTHENTICATED = "unauthenticated"
    """One side did not prove who it is, or is somebody else; the message says what was missing."""
    HANDSHAKE_FAILED = "handshake failed"
    """It never came up: nobody answered, or the two sides do not speak the same protocol."""
    IDLE = "idle"
    """Nothing was sent either way for the idle timeout."""
    LOST = "lost"
    """The peer fell silent while something was waiting for it."""
    PROTOCOL = "protocol"
    """One side broke the rules of QUIC; the code is QUIC's."""


@attrs.frozen
class LinkClosed:
    """How a link ended."""

    code: int
    """The application's code if the kind is ``CLOSED``, else QUIC's or one of this module."""
    message: str
    """The reason, for a person to read; never empty."""
    by_peer: bool
    """Whether the peer ended it."""
    kind: CloseKind
    """What sort of end it was."""


def describe_end(ended: Ended, peer: str, *, was_ready: bool, had_backlog: bool) -> LinkClosed:
    """Return what the end of a connection means.

    Args:
        ended: the engine's account of it.
        peer: the peer's address, for messages.
        was_ready: whether the peer had been verified, or this side closed on purpose.
        had_backlog: whether something was still waiting for the peer.
    """
    alert = None if ended.is_application else tls_alert_name(ended.code)
    kind = CloseKind.CLOSED
    if alert in _IDENTITY_ALERTS or (ended.is_application and ended.code == CLOSE_UNAUTHENTICATED):
        kind = CloseKind.UNAUTHENTICATED
    elif not was_ready:
        kind = CloseKind.HANDSHAKE_FAILED
    elif ended.is_silent:
        kind = CloseKind.IDLE if ended.message == IDLE_MESSAGE and not had_backlog else CloseKind.LOST
    elif not ended.is_application and ended.code:
        kind = CloseKind.PROTOCOL
    message = "".join(c if c.isprintable() else "?" for c in ended.message[:_MAX_MESSAGE_BYTES])
    if not message:
        message = alert.replace("_", " ") if alert else f"{kind.value}, code {ended.code:#x}"
    if ended.by_peer and kind in (CloseKind.UNAUTHENTICATED, CloseKind.HANDSHAKE_FAILED):
        message = f"{peer} refused this node: {message}"
    return LinkClosed(ended.code, message, ended.by_peer, kind)


def clip_message(message: str) -> str:
    """Return as much of a message as fits into the last datagram of a connection."""
    return message.encode()[:_MAX_MESSAGE_BYTES].decode(errors="ignore")
