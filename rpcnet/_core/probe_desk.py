"""Pings, their answers, and what is done for others: membership's half of probing. When to probe is the detector's.

The rules of this file:

* Who is asked answers at once, with its own status, its stalls and its place, and with what it believes of the asker
  when that is not simply alive. So the refutation of a false suspicion often travels in the very next answer.
* A ping for another id says that this node has that node's port now: the answer tells the asker so.
* A helper pings for others (``relays.py``); its answer is the target's, or that nothing came.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rpcnet.events import NodeState

from .composer import Composer
from .effects import AskOverStream, Effect
from .members import MemberRecord
from .messages import Ack, Nack, Ping, PingReq, Status, Update
from .relays import Relay, RelayTable
from .roster import Roster

if TYPE_CHECKING:
    from rpcnet._signals import ProbeDue

    from .hearsay import Check

__all__ = ["ProbeDesk"]


class ProbeDesk:
    """Sends pings, answers those of others, and helps.

    Args:
        roster: the members.
        composer: makes the datagrams.
        defend: called with what others believe of this node.
    """

    def __init__(self, roster: Roster, composer: Composer, defend: Callable[[Status, float], None]) -> None:
        self._roster = roster
        self._composer = composer
        self._defend = defend
        self._relays = RelayTable()

    # --- asking

    def probe(self, due: ProbeDue, now: float) -> list[Effect]:
        """Send the pings that the failure detector asks for."""
        target = self._roster.get(due.node_id)
        if target is None or not target.record.is_present:
            return []
        record, known, effects = target.record, Status.of(target.record), list[Effect]()
        own = self._roster.local.id
        if due.direct:
            ping = Ping(due.seq, own, record.id, known)
            effects.append(self._composer.send(record.address, ping, now, about=record.id))
        request = PingReq(due.seq, own, record.id, known, max(due.remaining, 0.0), record.address)
        for helper_id in due.helpers:
            helper = self._roster.get(helper_id)
            if helper is not None and helper.record.is_present:
                effects.append(self._composer.send(helper.record.address, request, now, about=helper_id))
        if due.fallback:
            effects.append(AskOverStream(record.id, record.name, record.address))
        return effects

    def check(self, check: Check, now: float) -> Effect:
        """Ask a node whose record is hearsay."""
        ping = Ping(check.seq, self._roster.local.id, check.record.id, Status.of(check.record))
        return self._composer.send(check.record.address, ping, now)

    # --- answering

    def answer(self, ping: Ping, source: str, now: float) -> list[Effect]:
        """Answer a ping."""
        local = self._roster.local
        if ping.target != local.id:
            return [self._composer.send(source, self._ack(ping.seq, asked=ping.target), now, about=ping.sender)]
        self._defend(ping.known, now)
        local, asker = self._roster.local, self._roster.get(ping.sender)
        believed = None if asker is None or asker.record.state is NodeState.ALIVE else Status.of(asker.record)
        ack = self._ack(ping.seq, you=believed, is_stranger=asker is None)
        is_outdated = (ping.known.boot_id, ping.known.meta_version) != (local.boot_id, local.meta_version)
        first = [Update(local)] if is_outdated else []
        return [self._composer.send(source, ack, now, about=ping.sender, first=first)]

    def _ack(self, seq: int, *, you: Status | None = None, is_stranger: bool = False, asked: str | None = None) -> Ack:
        local = self._roster.local
        return Ack(
            seq,
            local.id,
            local.id,
            Status.of(local),
            you=you,
            is_stranger=is_stranger,
            asked=asked,
            stall=local.vitals.stall,
            coordinates=local.vitals.coordinates,
        )

    # --- helping

    def help(self, request: PingReq, source: str, now: float) -> list[Effect]:
        """Ping on behalf of another node."""
        if request.target == self._roster.local.id:
            return self.answer(Ping(request.seq, request.sender, request.target, request.known), source, now)
        member = self._roster.get(request.target)
        relay = self._relays.open(
            asker=source,
            asker_seq=request.seq,
            target=request.target,
            address=request.address if member is None else member.record.address,
            known=request.known,
            remaining=request.remaining,
            now=now,
        )
        return [] if relay is None else [self._ping_for(relay, now)]

    def pass_on(self, ack: Ack, carried: Sequence[MemberRecord], now: float) -> list[Effect]:
        """Pass an answer on to who asked for help."""
        relay = self._relays.get(ack.seq)
        if relay is not None and ack.asked == relay.target:
            return self._deny(relay, now, refused=True)
        relay = self._relays.close(ack.seq, ack.node)
        if relay is None:
            return []
        answer = Ack(relay.asker_seq, self._roster.local.id, ack.node, ack.status)
        first = [Update(record) for record in carried[:1]]
        return [self._composer.send(relay.asker, answer, now, first=first)]

    def refused(self, address: str, now: float) -> list[Effect]:
        """Tell those for whom a node at ``address`` is being pinged that nobody has that port."""
        return [effect for relay in self._relays.towards(address) for effect in self._deny(relay, now, refused=True)]

    def _ping_for(self, relay: Relay, now: float) -> Effect:
        ping = Ping(relay.seq, self._roster.local.id, relay.target, relay.known)
        return self._composer.send(relay.address, ping, now, about=relay.target)

    def _deny(self, relay: Relay, now: float, *, refused: bool) -> list[Effect]:
        if relay.is_denied:
            return []
        relay.is_denied = True
        nack = Nack(relay.asker_seq, self._roster.local.id, relay.target, refused)
        return [self._composer.send(relay.asker, nack, now)]

    # --- timers

    def next_timer(self) -> float | None:
        """Return when :meth:`on_timer` has something to do."""
        return self._relays.next_timer()

    def on_timer(self, now: float) -> list[Effect]:
        """Ping again for others, or tell them that nothing came."""
        effects: list[Effect] = []
        for relay in self._relays.due(now):
            effects += self._deny(relay, now, refused=False) if relay.is_spent else [self._ping_for(relay, now)]
        return effects
