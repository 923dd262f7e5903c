"""What a membership machine wants done: values that whoever drives it performs, in order."""

from __future__ import annotations

import attrs

from rpcnet.events import ClusterEvent

from .metadata import Fetch

__all__ = ["AskOverStream", "Deliver", "Effect", "Emit", "FetchMetadata", "OpenSync", "SendDatagram"]


@attrs.frozen
class SendDatagram:
    """Seal ``payload`` and send it."""

    address: str
    payload: bytes


@attrs.frozen
class AskOverStream:
    """Ask a node for a sign of life over QUIC; one that comes is a ``PeerHeard``."""

    node_id: str
    name: str
    address: str


@attrs.frozen
class OpenSync:
    """Exchange what is known with the node at ``address``, over a stream."""

    address: str


@attrs.frozen
class FetchMetadata:
    """Ask the node at ``address`` for tags and services that are too large for gossip, over a stream."""

    address: str
    fetch: Fetch


@attrs.frozen
class Deliver:
    """Hand strings of user data on to ``user_events.py``."""

    strings: tuple[bytes, ...]
    source: str
    """The address that they came from."""


@attrs.frozen
class Emit:
    """Tell the other tasks."""

    event: ClusterEvent


Effect = SendDatagram | AskOverStream | OpenSync | FetchMetadata | Deliver | Emit
