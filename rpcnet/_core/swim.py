"""The membership machine: who is in the cluster, told by gossip (SWIM; Das, Gupta, Motivala 2002).

The rules of this file:

* It owns the records (``roster.py``) and what is said to others; when to probe whom, and when silence means failure,
  is the failure detector's (``detector.py``). The two know each other by events only.
* Gossip about failures is believed as it comes. What a full exchange says of suspect or failed members is hearsay
  that may be old: it becomes a suspicion without accusers, which everybody who hears it checks (memberlist's rule).
  A goodbye is its owner's own word and is always believed.
* Alive never beats suspect or failed at the same (boot id, incarnation). Only the owner raises its incarnation, and
  does so when it hears that it is believed suspect, failed, or further on than it is. When that cannot outbid what
  is said (a higher boot id, or no incarnation left), it raises its boot id, at most once a second, so that two
  processes under one name cannot drive each other in a storm.
* Whoever talks to a node that it believes suspect or failed tells it so: a ping carries what its sender believes of
  the target, an ack carries what its sender believes of the asker when that is not simply alive. So the refutation
  of a false suspicion often travels in the very next answer.
* Gossip runs in rounds while there is news and somebody to tell, and is silent otherwise. The first news after a
  silence goes out at once.
* A node that was alone does not pass on what its first full exchange taught it, only itself: the others know.
* Gossip leaves out a few when many nodes change at the same moment. So an exchange that taught something is followed
  by another one with a random member two seconds later, until one teaches nothing; and so is a failed node's return.
* Every method either changes nothing and raises, or returns what is to be done, in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from rpcnet._signals import PeerHeard, ProbeAnswered, ProbeDue, Suspicion, Verdict
from rpcnet.config import GossipConfig
from rpcnet.events import ClusterEvent, NodeInfo, NodeLeft, NodeState, NodeUpdated

from .gossip import GossipQueue
from .members import MAX_BOOT_ID, MAX_INCARNATION, MemberRecord, check_address, check_metadata, rank
from .messages import (
    MAX_PAYLOAD_BYTES,
    Accusation,
    Ack,
    Head,
    Ping,
    PingReq,
    Status,
    Update,
    decode_datagram,
    decode_state,
    encode_datagram,
    encode_head,
    encode_state,
    encode_update,
)
from .relays import FIRST_RELAY_SEQ, Relay, RelayTable
from .roster import Member, Origin, Roster

if TYPE_CHECKING:
    import random

__all__ = ["Effect", "Emit", "OpenSync", "SendDatagram", "SwimMachine"]

_JITTER = 0.2
_TELL_INTERVAL = 1.0
_LEAVE_HASTE = 4  # a node that leaves waits for its goodbye to be told, so it gossips at four times the pace
_SYNC_SOON_AFTER = 2.0
_MAX_SEEDS = 64
_SYNC_SCALE_FROM = 32


@attrs.frozen
class SendDatagram:
    """Seal ``payload`` and send it."""

    address: str
    payload: bytes


@attrs.frozen
class OpenSync:
    """Exchange full states with the node at ``address``: send ours, read its, hand that to ``handle_state``."""

    address: str


@attrs.frozen
class Emit:
    """Tell the other tasks."""

    event: ClusterEvent


Effect = SendDatagram | OpenSync | Emit


class SwimMachine:
    """One node's view of the cluster.

    Whoever drives it performs the effects in order. A full exchange is symmetrical: the asker sends
    :meth:`state_payload`; the asked hands that to :meth:`handle_state` and then answers with its own
    :meth:`state_payload`, which the asker hands to :meth:`handle_state`.

    Args:
        local: this node's own record, alive.
        config: how news spreads.
        rng: where chance comes from.
        now: Trio time.
        seeds: addresses that are tried again for ever while the node is alone or most others are gone.
        known: records of a previous machine of this process; nothing is announced for them.

    Raises:
        ConfigError: name, address, tags or services cannot be told to others.
    """

    def __init__(
        self,
        *,
        local: MemberRecord,
        config: GossipConfig,
        rng: random.Random,
        now: float,
        seeds: Sequence[str] = (),
        known: Sequence[MemberRecord] = (),
    ) -> None:
        check_metadata(local.name, local.tags, local.services)
        check_address(local.address)
        self._config = config
        self._rng = rng
        self._roster = Roster(local, known, max_members=config.max_members, now=now)
        self._queue = GossipQueue(multiplier=config.transmit_multiplier, max_subjects=config.max_members)
        self._relays = RelayTable()
        self._seeds = list(dict.fromkeys(seeds))[:_MAX_SEEDS]
        self._cause = 0
        self._may_reboot_at = now
        self._gossip_at = now
        self._sync_at = now + self._jittered(config.sync_interval)
        self._heal_at = now + self._jittered(config.heal_interval)
        self._queue_local()

    # --- reading

    @property
    def local(self) -> MemberRecord:
        """This node's own record."""
        return self._roster.local

    @property
    def is_leave_spread(self) -> bool:
        """Whether the goodbye has been told as often as it will be, or there is nobody to tell it to."""
        return self.local.state is NodeState.LEFT and (self.local.id not in self._queue or not self._roster.peers())

    def members(self) -> tuple[NodeInfo, ...]:
        """Return all remembered nodes, this one and the failed and departed included, sorted by id."""
        return self._roster.infos()

    def records(self) -> tuple[MemberRecord, ...]:
        """Return all records, sorted by id."""
        return self._roster.records()

    def state_payload(self) -> bytes:
        """Return the full state for an exchange over a stream."""
        return encode_state(self._roster.records())

    # --- what others say

    def handle_datagram(self, payload: bytes, source: str, now: float) -> list[Effect]:
        """Take in an opened membership datagram that came from the address ``source``.

        Raises:
            MessageError: it is malformed; nothing changed.
        """
        datagram = decode_datagram(payload)
        origin = self._origin(now)
        effects: list[Effect] = []
        for update in datagram.updates:
            effects += self._hear(update.record, origin, update.accusations)
        match datagram.head:
            case Ping() as ping if ping.target == self.local.id and ping.sender != self.local.id:
                effects += self._answer(ping, source, now)
            case PingReq() as request if request.sender != self.local.id:
                effects += self._help(request, source, now)
            case Ack() as ack if ack.node != self.local.id:
                carried = [update.record for update in datagram.updates if update.record.id == ack.node]
                effects += self._handle_ack(ack, carried, source, origin)
        return effects

    def handle_state(self, payload: bytes, now: float) -> list[Effect]:
        """Take in a peer's full state, asked for or offered.

        Raises:
            MessageError: it is malformed; nothing changed.
        """
        records = decode_state(payload)
        origin = self._origin(now)
        was_alone = not self._roster.peers()
        effects: list[Effect] = []
        for record in records:
            heard = self._as_hearsay(record)
            is_history = not heard.is_present and self._present(heard.id) is None
            effects += self._hear(heard, origin, (), is_quiet=was_alone or is_history)
        if was_alone and self._roster.peers():
            self._queue_local()
        if effects:
            self._sync_soon(now)
        return effects

    def _as_hearsay(self, record: MemberRecord) -> MemberRecord:
        """Soften what an exchange says of the failed: a suspicion, where we count the node as present."""
        if record.state is NodeState.FAILED and self._present(record.id) is not None:
            return attrs.evolve(record, state=NodeState.SUSPECT)
        return record

    def _hear(
        self, record: MemberRecord, origin: Origin, accusations: Sequence[Accusation], *, is_quiet: bool = False
    ) -> list[Effect]:
        if record.id == self.local.id:
            self._defend(Status.of(record), origin.at)
            return []
        n_failed = self._roster.n_failed
        events = self._roster.apply(record, origin, accusations)
        if events is None:
            return []
        if self._roster.n_failed < n_failed:
            self._sync_soon(origin.at)
        if not is_quiet:
            self._queue_member(record.id)
        return [Emit(event) for event in events]

    def _answer(self, ping: Ping, source: str, now: float) -> list[Effect]:
        self._defend(ping.known, now)
        local, asker = self.local, self._roster.get(ping.sender)
        believed = None if asker is None or asker.record.state is NodeState.ALIVE else Status.of(asker.record)
        ack = Ack(ping.seq, local.id, local.id, Status.of(local), you=believed, is_stranger=asker is None)
        is_outdated = (ping.known.boot_id, ping.known.meta_version) != (local.boot_id, local.meta_version)
        return [self._send(source, ack, about=ping.sender, first=[Update(local)] if is_outdated else [])]

    def _help(self, request: PingReq, source: str, now: float) -> list[Effect]:
        if request.target == self.local.id:
            return self._answer(Ping(request.seq, request.sender, request.target, request.known), source, now)
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
        return [] if relay is None else [self._ping_for(relay)]

    def _ping_for(self, relay: Relay) -> Effect:
        ping = Ping(relay.seq, self.local.id, relay.target, relay.known)
        return self._send(relay.address, ping, about=relay.target)

    def _handle_ack(self, ack: Ack, carried: Sequence[MemberRecord], source: str, origin: Origin) -> list[Effect]:
        effects = self._hear_first_hand(ack, origin)
        if ack.seq >= FIRST_RELAY_SEQ:
            return effects + self._pass_on(ack, carried)
        member = self._roster.get(ack.node)
        if member is not None and member.record.boot_id == ack.status.boot_id:
            via = None if ack.sender == ack.node else ack.sender
            answered = ProbeAnswered(node_id=ack.node, seq=ack.seq, via=via, at=origin.at, cause=origin.cause)
            effects.append(Emit(answered))
            effects += self._tell(member, origin.at)
        if ack.you is not None:
            self._defend(ack.you, origin.at)
        if ack.is_stranger or (ack.you is not None and ack.you != Status.of(self.local)):
            effects.append(self._send(source, None, about=None, first=[Update(self.local)]))
        return effects

    def _hear_first_hand(self, ack: Ack, origin: Origin) -> list[Effect]:
        member, status = self._roster.get(ack.node), ack.status
        if member is None or member.record.boot_id != status.boot_id:
            return []
        if status.state not in (NodeState.ALIVE, NodeState.LEFT):
            return []
        record = attrs.evolve(member.record, incarnation=status.incarnation, state=status.state)
        return self._hear(record, origin, ())

    def _pass_on(self, ack: Ack, carried: Sequence[MemberRecord]) -> list[Effect]:
        relay = self._relays.close(ack.seq, ack.node)
        if relay is None:
            return []
        answer = Ack(relay.asker_seq, self.local.id, ack.node, ack.status)
        return [self._send(relay.asker, answer, about=None, first=[Update(record) for record in carried[:1]])]

    # --- what the failure detector and the RPC server say

    def probe_due(self, due: ProbeDue, now: float) -> list[Effect]:
        """Send the pings that the failure detector asks for; ``due.seq`` is below ``FIRST_RELAY_SEQ``."""
        target = self._present(due.node_id)
        if target is None:
            return []
        record, known, effects = target.record, Status.of(target.record), list[Effect]()
        if due.direct:
            ping = Ping(due.seq, self.local.id, record.id, known)
            effects.append(self._send(record.address, ping, about=record.id))
        request = PingReq(due.seq, self.local.id, record.id, known, max(due.remaining, 0.0), record.address)
        for helper_id in due.helpers:
            helper = self._present(helper_id)
            if helper is not None:
                effects.append(self._send(helper.record.address, request, about=helper_id))
        return effects

    def suspicion(self, suspicion: Suspicion, now: float) -> list[Effect]:
        """Accuse a node in this node's own name, of whatever incarnation it has by now, and tell it so."""
        member = self._present(suspicion.node_id)
        if member is None or member.record.boot_id != suspicion.boot_id or self.local.state is NodeState.LEFT:
            return []
        record = attrs.evolve(member.record, state=NodeState.SUSPECT)
        accusation = Accusation(self.local.id, suspicion.phi)
        effects = self._hear(record, self._origin(now), (accusation,))
        return effects + self._tell(member, now) if effects else []

    def verdict(self, verdict: Verdict, now: float) -> list[Effect]:
        """Declare a suspect failed, unless it has refuted or restarted meanwhile."""
        member = self._present(verdict.node_id)
        if member is None or self.local.state is NodeState.LEFT:
            return []
        record = member.record
        if (record.boot_id, record.incarnation, record.state) != (
            verdict.boot_id,
            verdict.incarnation,
            NodeState.SUSPECT,
        ):
            return []
        origin = attrs.evolve(self._origin(now), reason=verdict.reason)
        return self._hear(attrs.evolve(record, state=NodeState.FAILED), origin, ())

    def peer_heard(self, heard: PeerHeard, now: float) -> list[Effect]:
        """Tell a node that is alive on a connection, but suspect or failed in the records, to refute that."""
        member = self._roster.get(heard.node_id)
        return [] if member is None else self._tell(member, now)

    def _tell(self, member: Member, now: float) -> list[Effect]:
        """Let a suspect or failed node know what is said of it, at most once a second."""
        record = member.record
        if record.state not in (NodeState.SUSPECT, NodeState.FAILED) or now < member.told_at + _TELL_INTERVAL:
            return []
        member.told_at = now
        return [self._send(record.address, None, about=None, first=[Update(record, member.accusation_list())])]

    # --- what this node says of itself

    def update_local(
        self,
        now: float,
        *,
        tags: Mapping[str, str] | None = None,
        services: Sequence[str] | None = None,
        address: str | None = None,
    ) -> list[Effect]:
        """Change what this node tells about itself; None leaves a part as it is.

        Raises:
            ConfigError: it cannot be told to others; nothing changed.
        """
        old = self.local
        new = attrs.evolve(
            old,
            tags=old.tags if tags is None else tags,
            services=old.services if services is None else tuple(sorted(services)),
            address=old.address if address is None else address,
        )
        check_metadata(new.name, new.tags, new.services)
        check_address(new.address)
        if new == old:
            return []
        new = _with_new_metadata(new, old.meta_version)
        origin = self._origin(now)
        self._set_local(new)
        return [Emit(NodeUpdated(node=new.info(), previous=old.info(), at=origin.at, cause=origin.cause))]

    def join(self, addresses: Sequence[str], now: float) -> list[Effect]:
        """Contact others, and come back if this node had left; the addresses are remembered as seeds."""
        self._seeds = list(dict.fromkeys((*addresses, *self._seeds)))[:_MAX_SEEDS]
        local = self.local
        if local.state is NodeState.LEFT:
            self._roster.set_local(attrs.evolve(local, state=NodeState.ALIVE))
            self._defend(Status.of(local), now)
        self._heal_at = now + self._jittered(self._config.heal_interval)
        return [OpenSync(address) for address in dict.fromkeys(addresses) if address != local.address]

    def leave(self, now: float) -> list[Effect]:
        """Say goodbye: the first round now, the others by timer until :attr:`is_leave_spread`."""
        if self.local.state is NodeState.LEFT:
            return []
        self._set_local(attrs.evolve(self.local, state=NodeState.LEFT))
        origin = self._origin(now)
        left = NodeLeft(node=self.local.info(), at=origin.at, cause=origin.cause)
        return [Emit(left), *self._gossip_round(now)]

    def _defend(self, told: Status, now: float) -> None:
        """Outbid what is said of this node, if it is not what this node says itself."""
        local = self.local
        ours, theirs = (local.boot_id, local.incarnation), (told.boot_id, told.incarnation)
        if theirs < ours:
            return
        if theirs == ours and rank(told.state) <= rank(local.state):
            if told.meta_version > local.meta_version:
                self._set_local(_with_new_metadata(local, told.meta_version))
            return
        if told.boot_id == local.boot_id and told.incarnation < MAX_INCARNATION:
            self._set_local(attrs.evolve(local, incarnation=told.incarnation + 1))
        elif told.boot_id < MAX_BOOT_ID and now >= self._may_reboot_at:
            self._may_reboot_at = now + _TELL_INTERVAL
            self._set_local(attrs.evolve(local, boot_id=told.boot_id + 1, incarnation=0))

    def _set_local(self, record: MemberRecord) -> None:
        self._roster.set_local(record)
        self._queue_local()

    # --- timers

    def next_timer(self) -> float | None:
        """Return the Trio time at which :meth:`on_timer` has something to do."""
        times = [self._sync_at, self._heal_at]
        if len(self._queue) and self._roster.peers():
            times.append(self._gossip_at)
        optional = (self._relays.next_timer(), self._roster.next_reap(self._config.dead_reap_after))
        return min(times + [time for time in optional if time is not None])

    def on_timer(self, now: float) -> list[Effect]:
        """Do what is due: a round of gossip, relayed pings, an exchange, an attempt to heal, forgetting."""
        effects: list[Effect] = [self._ping_for(relay) for relay in self._relays.due(now)]
        if now >= self._gossip_at and len(self._queue):
            effects += self._gossip_round(now)
        if now >= self._sync_at:
            effects += self._sync(now)
        if now >= self._heal_at:
            effects += self._heal(now)
        events = self._roster.reap(self._origin(now), self._config.dead_reap_after)
        return effects + [Emit(event) for event in events]

    def _gossip_round(self, now: float) -> list[Effect]:
        peers = self._roster.peers()
        if not peers:
            return []
        is_leaving = self.local.state is NodeState.LEFT
        self._gossip_at = now + self._config.gossip_interval / (_LEAVE_HASTE if is_leaving else 1)
        effects: list[Effect] = []
        for node_id in self._rng.sample(peers, min(self._config.gossip_fanout, len(peers))):
            member = self._present(node_id)
            if member is not None and len(self._queue):
                effects.append(self._send(member.record.address, None, about=node_id))
        return effects

    def _sync(self, now: float) -> list[Effect]:
        scale = 1 + max(0, (self._roster.n_present - 1).bit_length() - _SYNC_SCALE_FROM.bit_length() + 1)
        self._sync_at = now + scale * self._jittered(self._config.sync_interval)
        members = [self._roster.get(node_id) for node_id in self._roster.peers()]
        addresses = [m.record.address for m in members if m is not None and m.record.state is NodeState.ALIVE]
        if not addresses or self.local.state is NodeState.LEFT:
            return []
        return [OpenSync(self._rng.choice(addresses))]

    def _sync_soon(self, now: float) -> None:
        self._sync_at = min(self._sync_at, now + self._jittered(_SYNC_SOON_AFTER))

    def _heal(self, now: float) -> list[Effect]:
        """Try a seed or a failed node, the likelier the more of them there are, so that any partition ends."""
        self._heal_at = now + self._jittered(self._config.heal_interval)
        roster = self._roster
        is_alone = roster.n_present == 1
        must = is_alone or roster.n_present * 2 < roster.high_water
        if self.local.state is NodeState.LEFT or not (must or self._rng.random() < roster.n_failed / roster.n_present):
            return []
        seeds = [seed for seed in self._seeds if seed != self.local.address]
        failed = [record.address for record in roster.failed()]
        groups = [group for group in (seeds, failed) if group]
        return [OpenSync(self._rng.choice(self._rng.choice(groups)))] if groups else []

    def _jittered(self, interval: float) -> float:
        return interval * self._rng.uniform(1 - _JITTER, 1 + _JITTER)

    # --- sending

    def _origin(self, now: float) -> Origin:
        self._cause += 1
        return Origin(at=now, cause=self._cause)

    def _present(self, node_id: str) -> Member | None:
        member = self._roster.get(node_id)
        return member if member is not None and member.record.is_present else None

    def _queue_local(self) -> None:
        self._queue.put(self.local.id, encode_update(self.local))

    def _queue_member(self, node_id: str) -> None:
        member = self._roster.get(node_id)
        if member is not None:
            self._queue.put(node_id, encode_update(member.record, member.accusation_list()))

    def _send(self, address: str, head: Head | None, *, about: str | None, first: Sequence[Update] = ()) -> Effect:
        """Send a datagram with what must be in it, filled up with news."""
        start = encode_head(head)
        updates = [encode_update(update.record, update.accusations) for update in first]
        room = MAX_PAYLOAD_BYTES - len(start) - 1 - sum(map(len, updates))
        said = [update.record.id for update in first]
        updates += self._queue.take(room, self._roster.n_present, about, without=said)
        return SendDatagram(address, encode_datagram(start, updates))


def _with_new_metadata(record: MemberRecord, outbid: int) -> MemberRecord:
    """Return the record with a meta version above ``outbid``; a new boot id where the 32 bits are used up."""
    if outbid < MAX_INCARNATION:
        return attrs.evolve(record, meta_version=outbid + 1)
    return attrs.evolve(record, boot_id=record.boot_id + 1, incarnation=0, meta_version=0)
