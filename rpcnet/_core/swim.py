"""The membership machine: who is in the cluster, told by gossip (SWIM; Das, Gupta, Motivala 2002).

The rules of this file:

* It owns the records (``roster.py``) and what is said to others; when to probe whom, and when silence means failure,
  is the failure detector's (``detector.py``). The two know each other by events only.
* What is believed of what is heard is in ``belief.py``.
* Alive never beats suspect or failed at the same (boot id, incarnation). Only the owner raises its incarnation
  (``own_record.py``).
* Whoever talks to a node that it believes suspect or failed tells it so, at most once a second.
* Gossip runs in rounds while there is news and somebody to tell, and is silent otherwise. The first news after a
  silence goes out at once. Signs of life, *refreshes*, ride on probes only.
* A member of whom nothing was heard for three times the refresh interval is probed out of turn.
* A node that was alone does not pass on what its first exchange taught it, only itself: the others know.
* Gossip leaves out a few when many nodes change at the same moment. So an exchange that taught something is followed
  by another one with a random member two seconds later, until one teaches nothing; and so is a failed node's return.
  When a tenth of the cluster has come or been restarted, an exchange follows after five seconds.
* Every method either changes nothing and raises, or returns what is to be done, in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from rpcnet._signals import (
    LeaseExpired,
    NewsAged,
    OwnVitals,
    PeerHeard,
    ProbeAnswered,
    ProbeDue,
    ProbeNacked,
    ProbeRefused,
    Suspicion,
    Verdict,
)
from rpcnet.config import GossipConfig
from rpcnet.events import NodeInfo, NodeState

from .antientropy import BucketHashes
from .belief import Belief
from .composer import Composer, UserData
from .effects import AskOverStream, Deliver, Effect, Emit, FetchMetadata, OpenSync, SendDatagram
from .exchanges import AskerExchange, Hearsay, answer
from .gossip import GossipQueue, RefreshQueue
from .healing import Healing
from .hearsay import CheckTable
from .members import MemberRecord, check_address, check_metadata
from .messages import (
    Accusation,
    Ack,
    Claim,
    Datagram,
    Nack,
    Ping,
    PingReq,
    Status,
    Update,
    decode_datagram,
)
from .metadata import Body, Fetch, MetadataStore
from .own_record import OwnRecord
from .probe_desk import ProbeDesk
from .relays import FIRST_CHECK_SEQ, FIRST_RELAY_SEQ
from .roster import Member, Origin, Origins, Roster

if TYPE_CHECKING:
    import random

__all__ = [
    "AskOverStream",
    "Deliver",
    "Effect",
    "Emit",
    "FetchMetadata",
    "OpenSync",
    "SendDatagram",
    "SwimMachine",
]

_JITTER = 0.2
_TELL_INTERVAL = 1.0
_LEAVE_HASTE = 4  # a node that leaves waits for its goodbye to be told, so it gossips at four times the pace
_MOST_LOSS = 0.5
_REAP_LEASES = 4.0
_SYNC_SOON_AFTER = 2.0
_SYNC_AFTER_ARRIVALS = 5.0
_FEW_ARRIVALS = 4
_MANY_ARRIVALS = 0.1
_SYNC_SCALE_FROM = 32
_LEASES_AT_ONCE = 8


class SwimMachine:
    """One node's view of the cluster.

    Whoever drives it performs the effects in order. For :class:`OpenSync` it runs :meth:`exchange` over a stream and
    hands what that learns to :meth:`hear`; the other side answers with :meth:`answer_exchange`. For
    :class:`FetchMetadata` it sends the request and hands the answer to :meth:`fetched`.

    Args:
        local: this node's own record, alive.
        config: how news spreads.
        rng: where chance comes from.
        now: Trio time.
        seeds: addresses that are tried again for ever while the node is alone or most others are gone.
        known: records of a previous machine of this process; nothing is announced for them.
        user: user data that rides along.
        started: the boot id that this process started with; that of ``local`` if left out.

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
        user: UserData | None = None,
        started: int | None = None,
    ) -> None:
        check_metadata(local.name, local.tags, local.services, config.max_metadata_bytes)
        check_address(local.address)
        self._config = config
        self._rng = rng
        self._store = MetadataStore(rng=rng, max_body_bytes=config.max_metadata_bytes)
        self._origins = Origins()
        self._roster = Roster(local, known, max_members=config.max_members, now=now)
        self._queue = GossipQueue(multiplier=config.transmit_multiplier, max_subjects=config.max_members)
        self._refreshes = RefreshQueue()
        self._user = user
        self._composer = Composer(self._roster, self._queue, self._refreshes, user)
        self._own = OwnRecord(
            roster=self._roster,
            queue=self._queue,
            refreshes=self._refreshes,
            store=self._store,
            composer=self._composer,
            origins=self._origins,
            config=config,
            rng=rng,
            started=local.boot_id if started is None else started,
            now=now,
        )
        self._desk = ProbeDesk(self._roster, self._composer, self._own.defend)
        self._checks = CheckTable()
        self._healing = Healing(seeds, config.heal_interval, rng, now)
        self._belief = Belief(
            roster=self._roster,
            queue=self._queue,
            refreshes=self._refreshes,
            store=self._store,
            checks=self._checks,
            own=self._own,
            origins=self._origins,
            config=config,
            on_gap=self._sync_soon,
            on_arrival=self._count_arrival,
        )
        self._arrivals = 0
        self._gossip_at = now
        self._sync_at = now + rng.random() * self._sync_interval
        for record in known:
            self._store.update(record.id, b"", record.digest, now)

    # --- reading

    @property
    def local(self) -> MemberRecord:
        """This node's own record."""
        return self._roster.local

    @property
    def is_leave_spread(self) -> bool:
        """Whether the goodbye has been told as often as it will be, or there is nobody to tell it to."""
        is_told = self.local.id not in self._queue or not self._roster.peers()
        return self.has_lost_name or (self.local.state is NodeState.LEFT and is_told)

    def members(self) -> tuple[NodeInfo, ...]:
        """Return all remembered nodes, this one and the failed and departed included, sorted by id."""
        return self._roster.infos()

    def records(self) -> tuple[MemberRecord, ...]:
        """Return all records, sorted by id."""
        return self._roster.records()

    @property
    def hashes(self) -> BucketHashes:
        """The hashes of all records."""
        return self._roster.hashes

    def heard_age(self, node_id: str, now: float) -> float:
        """Return the seconds since a node was known to live; 0 for this one."""
        member = self._roster.get(node_id)
        return 0.0 if member is None else max(now - member.heard_at, 0.0)

    def body(self, digest: bytes) -> Body | None:
        """Return a body of metadata, or None when it is not here."""
        return self._store.body(digest)

    @property
    def has_lost_name(self) -> bool:
        """Whether another node keeps this node's name; this one says nothing any more."""
        return self._own.has_lost_name

    @property
    def _reap_after(self) -> float:
        """Seconds for which who is gone is remembered: longer than what others may still vouch for."""
        config = self._config
        return max(config.dead_reap_after, _REAP_LEASES * config.refresh_per_member * self._roster.n_present)

    @property
    def _has_news(self) -> bool:
        return bool(len(self._queue) or (self._user is not None and len(self._user)))

    # --- datagrams

    def handle_datagram(self, payload: bytes, source: str, now: float) -> list[Effect]:
        """Take in an opened membership datagram that came from the address ``source``.

        Raises:
            MessageError: it is malformed; nothing changed.
        """
        datagram = decode_datagram(payload)
        if self.has_lost_name:
            return []
        head, effects = datagram.head, list[Effect]()
        speaker = head.node if isinstance(head, Ack) else None if head is None else head.sender
        has_sample = False
        for update in datagram.updates:
            origin = self._origins(now, update.age)
            heard = self._belief.hear(update.record, origin, update.accusations)
            if heard and not has_sample and update.record.id not in (speaker, self.local.id):
                has_sample = True
                effects.append(Emit(NewsAged(update.age, at=now, cause=origin.cause)))
            effects += heard
        for refresh in datagram.refreshes:
            effects += self._belief.hear_refresh(refresh, now)
        if datagram.user:
            effects.append(Deliver(datagram.user, source))
        return effects + self._handle_head(datagram, source, now)

    def _handle_head(self, datagram: Datagram, source: str, now: float) -> list[Effect]:
        head = datagram.head
        match head:
            case Claim() if head.sender == self.local.id:
                return self._own.contest(head, now)
            case Ping() if head.sender != self.local.id:
                return self._desk.answer(head, source, now)
            case PingReq() if head.sender != self.local.id:
                return self._desk.help(head, source, now)
            case Nack() if head.sender != self.local.id:
                return self._handle_nack(head, now)
            case Ack() if head.sender != self.local.id:
                carried = [update.record for update in datagram.updates if update.record.id == head.node]
                return self._handle_ack(head, carried, source, self._origins(now))
        return []

    def _handle_nack(self, nack: Nack, now: float) -> list[Effect]:
        cause = self._origins(now).cause
        nacked = ProbeNacked(
            node_id=nack.target, seq=nack.seq, helper=nack.sender, refused=nack.refused, at=now, cause=cause
        )
        return [Emit(nacked)]

    def _handle_ack(self, ack: Ack, carried: Sequence[MemberRecord], source: str, origin: Origin) -> list[Effect]:
        effects = self._hear_first_hand(ack, origin)
        if FIRST_RELAY_SEQ <= ack.seq < FIRST_CHECK_SEQ:
            return effects + self._desk.pass_on(ack, carried, origin.at)
        if ack.asked is not None:
            return effects + self._replaced_at(source, ack, origin)
        member = self._roster.get(ack.node)
        if member is not None and member.record.boot_id == ack.status.boot_id:
            is_direct = ack.sender == ack.node
            answered = ProbeAnswered(
                node_id=ack.node,
                seq=ack.seq,
                via=None if is_direct else ack.sender,
                coordinates=ack.coordinates if is_direct else None,
                at=origin.at,
                cause=origin.cause,
            )
            effects.append(Emit(answered))
            effects += self._tell(member, origin.at)
        if ack.you is not None:
            self._own.defend(ack.you, origin.at)
        if ack.is_stranger or (ack.you is not None and ack.you != Status.of(self.local)):
            effects.append(self._composer.send(source, None, origin.at, first=[Update(self.local)]))
        return effects

    def _hear_first_hand(self, ack: Ack, origin: Origin) -> list[Effect]:
        """Take in what an answer says of the node that gave it."""
        status, effects = ack.status, list[Effect]()
        checked = self._checks.settle(ack.node)
        if checked is not None and checked.boot_id == status.boot_id:
            told = attrs.evolve(checked, incarnation=status.incarnation, state=status.state)
            effects += self._belief.hear(told, origin, ())
        member = self._roster.get(ack.node)
        if member is None or member.record.boot_id != status.boot_id:
            return effects
        if ack.sender == ack.node:
            member.heard_at = origin.at
        if status.state not in (NodeState.ALIVE, NodeState.LEFT):
            return effects
        old = member.record
        if (old.incarnation, old.state) == (status.incarnation, status.state):
            return effects
        record = attrs.evolve(old, incarnation=status.incarnation, state=status.state)
        return effects + self._belief.hear(record, origin, ())

    def _replaced_at(self, source: str, ack: Ack, origin: Origin) -> list[Effect]:
        """Declare a node failed whose address answers as another node: its process is gone."""
        member = self._present(ack.asked or "")
        if member is None or member.record.address != source or ack.node == ack.asked:
            return []
        origin = attrs.evolve(origin, reason="another node has its address now")
        return self._belief.hear(attrs.evolve(member.record, state=NodeState.FAILED), origin, ())

    # --- exchanges

    def exchange(self) -> AskerExchange:
        """Return the asking side of an exchange with another node."""
        return AskerExchange.sync(self, max_records=self._config.max_members)

    def answer_exchange(self, request: bytes, now: float) -> tuple[bytes, list[Effect]]:
        """Answer a request of another node's exchange.

        Raises:
            MessageError: it is malformed; nothing changed.
        """
        reply, shown = answer(request, self, now)
        return reply, self.hear(shown, now)

    def hear(self, heard: Sequence[Hearsay], now: float) -> list[Effect]:
        """Take in records that an exchange taught."""
        return self._belief.hear_exchange(heard, now)

    def joined(self, heard: Sequence[Hearsay], address: str, now: float) -> list[Effect]:
        """Take in what a node at ``address`` listed when this one joined, and show it what it does not know."""
        listed = {item.record.id for item in heard}
        effects = self.hear(heard, now)
        is_merger = any(node_id not in listed for node_id in self._roster.peers())
        return [*effects, OpenSync(address)] if is_merger else effects

    def fetched(self, fetch: Fetch, reply: bytes | None, now: float) -> list[Effect]:
        """Take in what a node answered to :class:`FetchMetadata`; None if it did not.

        Raises:
            MessageError: it is malformed; it counts as no answer.
        """
        return self._belief.fetched(fetch, reply, now)

    # --- what the other tasks say

    def probe_due(self, due: ProbeDue, now: float) -> list[Effect]:
        """Send the pings that the failure detector asks for; ``due.seq`` is below ``FIRST_RELAY_SEQ``."""
        return self._desk.probe(due, now)

    def refused(self, address: str, now: float) -> list[Effect]:
        """Take in that nobody has the port at ``address``, as its host says."""
        origin = self._origins(now)
        effects: list[Effect] = [
            Emit(ProbeRefused(node_id=member.record.id, at=now, cause=origin.cause))
            for member in self._roster.members()
            if member.record.address == address and member.record.is_present
        ]
        return effects + self._desk.refused(address, now)

    def suspicion(self, suspicion: Suspicion, now: float) -> list[Effect]:
        """Accuse a node in this node's own name, of whatever incarnation it has by now, and tell it so."""
        member = self._present(suspicion.node_id)
        if member is None or member.record.boot_id != suspicion.boot_id or self.local.state is NodeState.LEFT:
            return []
        record = attrs.evolve(member.record, state=NodeState.SUSPECT)
        accusation = Accusation(self.local.id, suspicion.phi, suspicion.refused)
        effects = self._belief.hear(record, self._origins(now), (accusation,))
        return effects + self._tell(member, now) if effects else []

    def verdict(self, verdict: Verdict, now: float) -> list[Effect]:
        """Declare a suspect failed, unless it has refuted or restarted meanwhile."""
        member = self._present(verdict.node_id)
        if member is None or self.local.state is NodeState.LEFT:
            return []
        record = member.record
        if (record.boot_id, record.incarnation) != (verdict.boot_id, verdict.incarnation):
            return []
        if record.state is not NodeState.SUSPECT and not verdict.is_local:
            return []
        origin = attrs.evolve(self._origins(now), reason=verdict.reason)
        return self._belief.hear(attrs.evolve(record, state=NodeState.FAILED), origin, (), is_quiet=verdict.is_local)

    def peer_heard(self, heard: PeerHeard, now: float) -> list[Effect]:
        """Note that a node lives; tell one that is suspect or failed in the records to refute that."""
        member = self._roster.get(heard.node_id)
        if member is None:
            return []
        member.heard_at = now
        return self._tell(member, now)

    def isolated(self, now: float) -> None:
        """Try to find back at once: this node is cut off. What it alone accused others of is not told any more."""
        self._healing.hasten(now)
        for member in self._roster.members():
            if list(member.accusations) == [self.local.id]:
                self._queue.discard(member.record.id)

    def seeds_resolved(self, addresses: Sequence[str]) -> None:
        """Take in what the seed sources say now."""
        self._healing.resolve(addresses)

    def _tell(self, member: Member, now: float) -> list[Effect]:
        """Let a suspect or failed node know what is said of it, at most once a second."""
        record = member.record
        if record.state not in (NodeState.SUSPECT, NodeState.FAILED) or now < member.told_at + _TELL_INTERVAL:
            return []
        member.told_at = now
        return [self._composer.send(record.address, None, now, first=[Update(record, member.accusation_list())])]

    # --- what the node says

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
        return self._own.update(now, tags=tags, services=services, address=address)

    def own_vitals(self, vitals: OwnVitals, now: float) -> list[Effect]:
        """Take in how this node is."""
        self._queue.loss = min(vitals.loss, _MOST_LOSS)
        return self._own.set_vitals(vitals, now)

    def halted(self, now: float, *, is_halted: bool, is_following: bool = False) -> list[Effect]:
        """Tell the others whether this node's side of a partition may not go on; a change is news."""
        if self.local.state is NodeState.LEFT or self.has_lost_name:
            return []
        return self._own.set_halted(now, is_halted=is_halted, is_following=is_following)

    def join(self, addresses: Sequence[str], now: float) -> list[Effect]:
        """Contact others, and come back if this node had left; the addresses are remembered as seeds."""
        self._healing.remember(addresses)
        self._own.come_back(now)
        self._healing.postpone(now)
        return [OpenSync(address) for address in dict.fromkeys(addresses) if address != self.local.address]

    def leave(self, now: float) -> list[Effect]:
        """Say goodbye: the first round now, the others by timer until :attr:`is_leave_spread`."""
        if self.local.state is NodeState.LEFT or self.has_lost_name:
            return []
        return [self._own.leave(now), *self._gossip_round(now)]

    def send_user(self, node_id: str, address: str | None, text: bytes, now: float) -> list[SendDatagram]:
        """Send a string of user data to one node: where it is known to be, otherwise to where it said it is."""
        member = self._roster.get(node_id)
        where = address if member is None else member.record.address
        return [] if where is None else [self._composer.send(where, None, now, private=[text])]

    # --- timers

    def next_timer(self) -> float | None:
        """Return the Trio time at which :meth:`on_timer` has something to do."""
        if self.has_lost_name:
            return None
        soonest = min(self._sync_at, self._healing.at, self._own.refresh_at)
        if self._gossip_at < soonest and self._has_news and self._roster.peers():
            soonest = self._gossip_at
        for part in (self._desk, self._checks, self._store):
            time = part.next_timer()
            if time is not None and time < soonest:
                soonest = time
        time = self._roster.next_reap(self._reap_after)
        return soonest if time is None else min(soonest, time)

    def on_timer(self, now: float) -> list[Effect]:
        """Do what is due: gossip, pings for others, checks of hearsay, exchanges, healing, refreshing, forgetting."""
        if self.has_lost_name:
            return []
        effects: list[Effect] = []
        if _is_due(self._desk.next_timer(), now):
            effects += self._desk.on_timer(now)
        if now >= self._gossip_at and self._has_news:
            effects += self._gossip_round(now)
        if _is_due(self._checks.next_timer(), now):
            effects += [self._desk.check(check, now) for check in self._checks.due(now)]
        if now >= self._own.refresh_at:
            self._own.refresh(now)
        if now >= self._sync_at:
            effects += self._expire_leases(now) + self._sync(now)
        if now >= self._healing.at:
            addresses = self._healing.choose(self._roster, now)
            effects += [] if self.local.state is NodeState.LEFT else [OpenSync(address) for address in addresses]
        if _is_due(self._store.next_timer(), now):
            effects += self._fetch(now)
        if _is_due(self._roster.next_reap(self._reap_after), now):
            effects += self._reap(now)
        return effects

    def _reap(self, now: float) -> list[Effect]:
        forgotten, events = self._roster.reap(self._origins(now), self._reap_after)
        for record in forgotten:
            self._store.update(record.id, record.digest, b"", now)
        return [Emit(event) for event in events]

    def _gossip_round(self, now: float) -> list[Effect]:
        peers = self._roster.peers()
        if not peers:
            return []
        is_leaving = self.local.state is NodeState.LEFT
        self._gossip_at = now + self._config.gossip_interval / (_LEAVE_HASTE if is_leaving else 1)
        effects: list[Effect] = []
        for node_id in self._rng.sample(peers, min(self._config.gossip_fanout, len(peers))):
            member = self._present(node_id)
            if member is not None and self._has_news:
                effects.append(self._composer.send(member.record.address, None, now, about=node_id))
        return effects

    def _expire_leases(self, now: float) -> list[Effect]:
        latest = now - self._belief.lease
        expired = [m for m in self._roster.members() if m.heard_at < latest and m.record.state is NodeState.ALIVE]
        chosen = self._rng.sample(expired, min(_LEASES_AT_ONCE, len(expired)))
        return [Emit(LeaseExpired(node_id=member.record.id, at=now)) for member in chosen]

    def _sync(self, now: float) -> list[Effect]:
        self._sync_at = now + self._jittered(self._sync_interval)
        if self.local.state is NodeState.LEFT:
            return []
        address = self._random_alive()
        return [] if address is None else [OpenSync(address)]

    @property
    def _sync_interval(self) -> float:
        """Seconds between two exchanges: longer in large clusters, where each has more others to learn from."""
        scale = 1 + max(0, (self._roster.n_present - 1).bit_length() - _SYNC_SCALE_FROM.bit_length() + 1)
        return scale * self._config.sync_interval

    def _random_alive(self) -> str | None:
        members = (self._roster.get(node_id) for node_id in self._roster.peers())
        alive = [m.record.address for m in members if m is not None and m.record.state is NodeState.ALIVE]
        return self._rng.choice(alive) if alive else None

    def _count_arrival(self, now: float) -> None:
        """Exchange with somebody after a part of the cluster has come or been restarted."""
        self._arrivals += 1
        if self._arrivals >= max(_FEW_ARRIVALS, _MANY_ARRIVALS * self._roster.n_present):
            self._arrivals = 0
            self._sync_at = min(self._sync_at, now + self._jittered(_SYNC_AFTER_ARRIVALS))

    def _sync_soon(self, now: float) -> None:
        self._sync_at = min(self._sync_at, now + self._jittered(_SYNC_SOON_AFTER))

    def _fetch(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for fetch in self._store.due(now, self._roster.peers()):
            member = self._roster.get(fetch.node_id)
            if member is not None:
                effects.append(FetchMetadata(member.record.address, fetch))
        return effects

    def _jittered(self, interval: float) -> float:
        return interval * self._rng.uniform(1 - _JITTER, 1 + _JITTER)

    # --- parts of the above

    def _present(self, node_id: str) -> Member | None:
        member = self._roster.get(node_id)
        return member if member is not None and member.record.is_present else None


def _is_due(time: float | None, now: float) -> bool:
    return time is not None and now >= time
