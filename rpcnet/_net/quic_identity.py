"""Who an endpoint says it is, and whom it believes others to be: certificates, and tickets in their place.

The rules of this file:

* A connection is opened with what the security gives at that moment. When keys, certificates or authorities have
  changed, every ticket is void: who is not trusted any more cannot come back with one.
* A ticket is used for the address and the name that it was obtained for, and stands for the name verified then.
* A server keeps the other half of its tickets, in memory. One that it does not know, from before its start perhaps,
  costs the client nothing: the certificates are exchanged as if there had been none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rpcnet.config import RpcConfig

from .certificates import Credentials
from .identity import Security
from .quic_engine import Configuration, SessionTicket, configure
from .quic_tickets import Memory, Proof, Ticket, TicketStore

if TYPE_CHECKING:
    from .quic_link import QuicLink

__all__ = ["DialKey", "EndpointIdentity"]

DialKey = tuple[str, int, str | None]
"""Host, port and who must answer there; what a ticket is good for."""

_WINDOW_BYTES = 8 << 20


class EndpointIdentity:
    """Credentials and tickets of one endpoint.

    Args:
        security: issues this node's certificate and verifies those of others.
        name: this node's name.
        config: whether there are tickets, how many and for how long.
        clock: the endpoint's clock.
        wall_clock: seconds since 1970.
    """

    def __init__(
        self,
        security: Security,
        name: str,
        config: RpcConfig,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        security.check_name(name)
        self.security = security
        """Who issues and who verifies."""
        self.credentials: Credentials | None = None
        """What was shown last."""
        self.wall_clock = wall_clock
        """Seconds since 1970."""
        self._name = name
        self._config = config
        self._clock = clock
        self._generation = 0
        self._configurations: dict[tuple[bool, int], Configuration] = {}
        self._obtained: TicketStore[DialKey] = TicketStore(config.max_tickets)
        self._given: TicketStore[bytes] = TicketStore(config.max_resumable_peers)

    def configuration(self, *, is_client: bool, max_datagram_bytes: int) -> Configuration:
        """Return the engine's settings for a new connection.

        Args:
            is_client: whether this side dials.
            max_datagram_bytes: the largest datagram to send.
        """
        wall_now = self.wall_clock()
        generation = self.security.refresh(self._clock(), wall_now)
        if generation != self._generation:
            self._generation = generation
            self.credentials = None
            self._obtained.clear()
            self._given.clear()
        credentials = self.credentials
        if credentials is None or wall_now >= credentials.renew_after:
            credentials = self.credentials = self.security.issue(self._name)
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

    def prove(self, link: QuicLink) -> Proof:
        """Return who the peer of a link is, whose handshake is complete.

        Raises:
            SecurityError: if it did not prove to be a node of the cluster.
        """
        if link.engine.is_resumed and link.ticket is not None:
            return link.ticket.proof
        certificate, chain = link.engine.peer_certificates
        name = self.security.verify(certificate, chain)
        shown = chain if certificate is None else [certificate, *chain]
        return Proof(name, min(one.not_valid_after_utc for one in shown).timestamp())

    # --- tickets of others, for dialling again

    def ticket_for(self, key: DialKey) -> Ticket | None:
        """Take the ticket for whom this side is about to dial, if it has one."""
        return self._obtained.take(key, self._clock(), self.wall_clock()) if self._config.resumption else None

    # --- tickets for others

    def find(self, link: QuicLink, name: bytes) -> SessionTicket | None:
        """Take the other half of a ticket that the client of an accepted link shows, if this side gave it."""
        link.ticket = self._given.take(name, self._clock(), self.wall_clock())
        return None if link.ticket is None else link.ticket.session

    def give(self, session: SessionTicket, proof: Proof) -> None:
        """Make a ticket good that was sent on an accepted link, now that its peer is verified."""
        self._given.put(session.ticket, self._ticket(session, proof, Memory()))

    def keeper(self, link: QuicLink) -> Callable[[SessionTicket], None] | None:
        """Return what is to be done with the tickets of a link: that sent on an accepted one, or those that arrive.

        What arrives from a peer that has not proved who it is, is worth nothing.
        """

        def keep(session: SessionTicket) -> None:
            if not link.is_client:
                link.new_ticket = session
            elif link.proof is not None and link.dial_key is not None:
                self._obtained.put(link.dial_key, self._ticket(session, link.proof, link.memory))

        return keep if self._config.resumption else None

    def _ticket(self, session: SessionTicket, proof: Proof, memory: Memory) -> Ticket:
        return Ticket(session, proof, self._clock() + self._config.ticket_lifetime, memory)
