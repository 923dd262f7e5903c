"""The key ring on its way: what goes over connections so that all nodes have the same one.

The rules of this file:

* Keys leave this process only over a connection that is encrypted and authenticated both ways, with a node: the name
  that it has proved must belong to the id that it says it has. What else it must prove is in ``key_desk.py``.
* An exchange of state that is under way does not fail because rings cannot be compared. Rings that differ after they
  were compared are reported, once per interval.
* The file of keys is looked at when there is something to do, at most once a second.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from rpcnet._core.key_desk import KeyDesk, RingVersion, is_note
from rpcnet._core.messages import MessageError
from rpcnet._core.naming import node_id_of
from rpcnet.errors import RpcNetError, SecurityError, Unavailable

from .client_session import ClientSession
from .identity import Security
from .sealing import Sealer
from .server_session import StateRequest
from .session import Session

__all__ = ["KeyExchange"]

log = logging.getLogger("rpcnet.security")
_LOG_INTERVAL = 10.0
_COMPARE_TIMEOUT = 5.0
_MAX_ROUNDS = 2


class KeyExchange:
    """One node's part in keeping the rings of all nodes the same.

    Args:
        sealer: who has the ring.
        security: what the node is configured with.
        name: the node's name.
        wall_clock: seconds since 1970.
    """

    def __init__(self, sealer: Sealer, security: Security, name: str, wall_clock: Callable[[], float]) -> None:
        self.desk = KeyDesk(sealer, security.cluster, name)
        """Where the ring is changed."""
        self._security = security
        self._wall_clock = wall_clock
        self._log_at = float("-inf")

    def look(self) -> None:
        """Follow the file of keys, if there is one and it has changed."""
        self._security.refresh(trio.current_time(), self._wall_clock())
        if self.desk.follow(self._security.gossip_keys):
            listed = ", ".join(f"{key.key_id} ({key.fingerprint})" for key in self.desk.ring.list())
            log.info("the file of gossip keys has changed; the node has these now, the first one seals: %s", listed)

    async def exchange_state(self, session: ClientSession, request: bytes) -> bytes:
        """Exchange state with a node, and compare rings if they differ. A checkpoint.

        Raises:
            RpcNetError: the connection was lost.
        """
        self.look()
        version, reply = self.desk.untag(await session.exchange_state(self.desk.tag(request)))
        if version is not None and self.desk.should_compare(version) and self._is_node(session):
            try:
                with trio.move_on_after(_COMPARE_TIMEOUT):
                    await self.compare(session)
            except SecurityError as error:
                self._warn(str(error))
            except RpcNetError as error:
                log.debug("key rings could not be compared with %s: %s", session.peer_name, error)
        return reply

    async def compare(self, session: ClientSession) -> None:
        """Compare rings with a node: take its ring if it is newer, and hand over one's own if that is. A checkpoint.

        Raises:
            Unavailable: it is no node, or answered what cannot be read.
            SecurityError: the two have different rings, and no key that both of them have or had.
            RpcNetError: the connection was lost.
        """
        peer = session.peer_name or ""
        if not self._is_node(session):
            raise Unavailable(f"{peer} is no node of a cluster", never_ran=True)
        note = self.desk.ask()
        for _ in range(_MAX_ROUNDS):
            answer = await session.exchange_state(note)
            before = self.desk.version
            try:
                more = self.desk.hear(answer, peer)
            except MessageError as error:
                raise Unavailable(f"{peer} answered what cannot be read: {error}") from None
            self._tell(before, peer)
            if more is None:
                break
            note = more

    def answer(self, request: StateRequest, session: Session) -> StateRequest | None:
        """Answer a comparison of rings and return None, or return what membership is to answer."""
        if is_note(request.payload):
            request.reply(self._answer(request.payload, session))
            return None
        version, payload = self.desk.untag(request.payload)
        if version is None:
            return request
        return StateRequest(payload, lambda reply: request.reply(self.desk.tag(reply)))

    def _answer(self, note: bytes, session: Session) -> bytes:
        if not self._is_node(session):
            return b""
        self.look()
        peer, before = session.peer_name or "", self.desk.version
        try:
            answer = self.desk.answer(note, peer)
        except MessageError as error:
            self._warn(f"{peer} sent a note about keys that cannot be read: {error}")
            return b""
        self._tell(before, peer)
        return answer

    def _is_node(self, session: Session) -> bool:
        hello, name = session.peer_hello, session.peer_name
        return hello is not None and name is not None and hello.node_id == node_id_of(self._security.cluster, name)

    def _tell(self, before: RingVersion, peer: str) -> None:
        if self.desk.version != before:
            key = self.desk.ring.in_use
            log.info("took over the key ring of %s; the key in use is %d (%s)", peer, key.key_id, key.fingerprint)

    def _warn(self, message: str) -> None:
        now = trio.current_time()
        if now >= self._log_at:
            self._log_at = now + _LOG_INTERVAL
            log.warning("%s", message)
