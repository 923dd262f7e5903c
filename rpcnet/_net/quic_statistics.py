"""What an endpoint counts."""

from __future__ import annotations

import attrs

__all__ = ["EndpointCounters", "EndpointStatistics"]


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
    resumed: int
    """Those of them in which a ticket stood in for the certificates."""
    early: int
    """Links, of both kinds, that carried data before their handshake was complete."""
    early_lost: int
    """Links, dialled, on which such data was lost, to be sent again."""
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
    retried: int
    """First packets answered with a token, to see whether their sender is where it says it is."""
    refused: int
    """Datagrams dropped because a limit on connections, handshakes or their size was reached."""
    engine_errors: int
    """Links lost to an error of the engine itself."""


@attrs.define(eq=False)
class EndpointCounters:
    """The counters while they count; those of :class:`EndpointStatistics`."""

    established: int = 0
    resumed: int = 0
    early: int = 0
    early_lost: int = 0
    unauthenticated: int = 0
    handshakes_failed: int = 0
    datagrams: int = 0
    garbage: int = 0
    unknown_connection: int = 0
    unknown_version: int = 0
    retried: int = 0
    refused: int = 0
    engine_errors: int = 0

    def snapshot(self, *, links: int, accepted: int, handshaking: int) -> EndpointStatistics:
        """Return them as they are now, with how many links there are."""
        return EndpointStatistics(
            links=links, accepted=accepted, handshaking=handshaking, **attrs.asdict(self, recurse=False)
        )
