"""The table of all nodes that one node remembers, and the events that a change of it means.

The rules of this file:

* Every change goes through :meth:`Roster.apply`, which merges (``members.py``) and says what happened as events.
* Per node: joined first; failed or left only after joined. A node first heard of as failed or left is remembered,
  so that older news cannot bring it in, and causes no event until it is alive.
* A higher boot id over a member is a replacement, over a failed or departed node it is a new join. The same boot
  coming back from suspect or failed is a recovery.
* Accusations belong to one (boot id, incarnation) and end with it. Per accuser the greatest phi counts.
* Of every node it is remembered when it was last known to be alive: heard itself, or vouched for by a refresh.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import attrs

from rpcnet._signals import Accused, VitalsHeard
from rpcnet.events import (
    ClusterEvent,
    NodeFailed,
    NodeInfo,
    NodeJoined,
    NodeLeft,
    NodeReaped,
    NodeRecovered,
    NodeReplaced,
    NodeState,
    NodeSuspected,
    NodeUpdated,
)

from .antientropy import BucketHashes
from .members import NO_VITALS, MemberRecord, Vitals, merge
from .messages import Accusation, quantize

__all__ = ["Member", "Origin", "Origins", "Roster"]

_MAX_KEPT_ACCUSERS = 64
_NOBODY: Mapping[str, Accusation] = MappingProxyType({})


@attrs.frozen
class Origin:
    """When and why a change happens: what every event of it carries."""

    at: float
    """Trio time."""
    cause: int = 0
    """The number of the datagram, timer or order."""
    reason: str = "declared failed by another node"
    """For :class:`NodeFailed`."""
    age: float = 0.0
    """Seconds since it was first said."""
    heard_at: float | None = None
    """When its subject was known to live; when it was first said if left out."""

    @property
    def born(self) -> float:
        """When it was first said, as far as nodes have held it."""
        return self.at - self.age

    @property
    def lived_at(self) -> float:
        """When its subject was known to live."""
        return self.born if self.heard_at is None else self.heard_at


class Origins:
    """Numbers what happens to one node."""

    def __init__(self) -> None:
        self._cause = 0

    def __call__(self, now: float, age: float = 0.0) -> Origin:
        """Return the origin of what happens now, said first ``age`` seconds ago."""
        self._cause += 1
        return Origin(at=now, cause=self._cause, age=age)


@attrs.define(eq=False)
class Member:
    """One remembered node; there may be many thousands, so it is kept small."""

    record: MemberRecord
    """The merged record."""
    heard_at: float
    """When it was last known to be alive."""
    accusations: Mapping[str, Accusation] = _NOBODY
    """By accuser, for the current incarnation."""
    announced: bool = False
    """Whether :class:`NodeJoined` was said of it."""
    told_at: float = -1.0e9
    """When it was last told directly that it is suspected or failed."""
    _info: NodeInfo | None = None

    def accusation_list(self) -> tuple[Accusation, ...]:
        """Return the accusations as they travel."""
        return tuple(self.accusations.values())

    def info(self) -> NodeInfo:
        """Return the record as users see it; the same object until it changes."""
        if self._info is None:
            self._info = self.record.info()
        return self._info

    def replace(self, record: MemberRecord) -> None:
        """Put another record in the place of the present one."""
        self.record = record
        self._info = None


class Roster:
    """All remembered nodes, this one included.

    Args:
        local: this node's own record.
        known: records remembered from before; nothing is announced for them.
        max_members: more nodes than this are not taken in.
        now: Trio time.
    """

    def __init__(self, local: MemberRecord, known: Sequence[MemberRecord], *, max_members: int, now: float) -> None:
        self._local = local
        self._max_members = max_members
        self._members: dict[str, Member] = {}
        self._ids: list[str] = []
        self._hashes = BucketHashes()
        self._hashes.update(None, local)
        self._gone: dict[str, float] = {}
        self._n_failed = 0
        self.high_water = 1
        self._load([record for record in known if record.id != local.id], now)
        self._drop_caches()

    def _load(self, known: Sequence[MemberRecord], now: float) -> None:
        """Take in the records of before, all at once."""
        self._members = {record.id: Member(record, now, announced=True) for record in known}
        self._ids = sorted(self._members)
        for record in known:
            self._hashes.update(None, record)
        self._gone = {record.id: now for record in known if not record.is_present}
        self._n_failed = sum(record.state is NodeState.FAILED for record in known)
        self.high_water = self.n_present

    def _drop_caches(self) -> None:
        self._infos: tuple[NodeInfo, ...] | None = None
        self._records: tuple[MemberRecord, ...] | None = None
        self._peers: list[str] | None = None

    # --- reading

    @property
    def local(self) -> MemberRecord:
        """This node's own record."""
        return self._local

    @property
    def n_present(self) -> int:
        """How many nodes are alive or suspect, this one included."""
        return 1 + len(self._members) - len(self._gone)

    @property
    def n_failed(self) -> int:
        """How many remembered nodes have failed."""
        return self._n_failed

    def get(self, node_id: str) -> Member | None:
        """Return another node, or None when it is unknown."""
        return self._members.get(node_id)

    def members(self) -> Iterator[Member]:
        """Yield all other nodes."""
        return iter(self._members.values())

    def by_key(self, key: str) -> Member | None:
        """Return the other node whose id begins with ``key``; None when it is unknown or there are two."""
        at = bisect_left(self._ids, key)
        found = self._ids[at : at + 2]
        matching = [node_id for node_id in found if node_id.startswith(key)]
        return self._members[matching[0]] if len(matching) == 1 else None

    @property
    def hashes(self) -> BucketHashes:
        """The hashes of all records, this node's included."""
        return self._hashes

    def records(self) -> tuple[MemberRecord, ...]:
        """Return all records, sorted by id."""
        if self._records is None:
            own = bisect_left(self._ids, self._local.id)
            everyone = [self._members[node_id].record for node_id in self._ids]
            everyone.insert(own, self._local)
            self._records = tuple(everyone)
        return self._records

    def infos(self) -> tuple[NodeInfo, ...]:
        """Return all nodes as users see them, sorted by id."""
        if self._infos is None:
            own = bisect_left(self._ids, self._local.id)
            everyone = [self._members[node_id].info() for node_id in self._ids]
            everyone.insert(own, self._local.info())
            self._infos = tuple(everyone)
        return self._infos

    def peers(self) -> list[str]:
        """Return the ids of the other nodes that are alive or suspect; the list is not to be changed."""
        if self._peers is None:
            self._peers = [node_id for node_id, member in self._members.items() if member.record.is_present]
        return self._peers

    def failed(self) -> list[MemberRecord]:
        """Return the records of the nodes that have failed, the latest last."""
        records = [self._members[node_id].record for node_id in self._gone]
        return [record for record in records if record.state is NodeState.FAILED]

    # --- changing

    def set_local(self, record: MemberRecord) -> None:
        """Replace this node's own record."""
        self._hashes.update(self._local, record)
        self._local = record
        self._infos = self._records = None

    def apply(
        self, record: MemberRecord, origin: Origin, accusations: Iterable[Accusation] = ()
    ) -> list[ClusterEvent] | None:
        """Merge news about another node.

        Returns:
            None when it was no news, otherwise the events it means, perhaps none.
        """
        member = self._members.get(record.id)
        if member is None:
            if 1 + len(self._members) >= self._max_members:
                return None
            member = Member(record, origin.lived_at)
            self._insert(member, origin.at)
            heard = self._accuse(member, accusations, origin) if record.state is NodeState.SUSPECT else []
            return self._transition(member, None, origin) + heard + _vitals_heard(None, record, origin)
        old = member.record
        new = merge(old, record)
        if new is not old:
            self._replace(member, new, origin.at)
            if _standing(new) != _standing(old):
                member.accusations = _NOBODY
                member.heard_at = max(member.heard_at, origin.lived_at)
        told = (record.boot_id, record.incarnation, record.state)
        applies = told == (new.boot_id, new.incarnation, NodeState.SUSPECT)
        heard = self._accuse(member, accusations, origin) if applies else []
        if new is old:
            return heard or None
        return self._transition(member, old, origin) + heard + _vitals_heard(old, new, origin)

    def refresh(self, member: Member, vitals: Vitals, origin: Origin) -> list[ClusterEvent] | None:
        """Take in what a node of the present boot says of itself; returns None when it was known already."""
        member.heard_at = max(member.heard_at, origin.born)
        if vitals.epoch <= member.record.vitals.epoch:
            return None
        return self.apply(attrs.evolve(member.record, vitals=vitals), origin)

    def complete(self, member: Member, record: MemberRecord, origin: Origin) -> list[ClusterEvent]:
        """Fill in tags and services that were only named before."""
        old = member.record
        if record == old:
            return []
        member.replace(record)
        self._infos = self._records = None
        if not (member.announced and record.is_present):
            return []
        return [NodeUpdated(node=member.info(), previous=old.info(), at=origin.at, cause=origin.cause)]

    def reap(self, origin: Origin, after: float) -> tuple[list[MemberRecord], list[ClusterEvent]]:
        """Forget nodes that failed or left more than ``after`` seconds ago, and return their records and the events."""
        forgotten: list[MemberRecord] = []
        events: list[ClusterEvent] = []
        while self._gone:
            node_id, since = next(iter(self._gone.items()))
            if since + after > origin.at:  # as next_reap() says it: what rounds otherwise would be due for ever
                break
            member = self._members.pop(node_id)
            del self._ids[bisect_left(self._ids, node_id)]
            self._hashes.update(member.record, None)
            del self._gone[node_id]
            self._n_failed -= member.record.state is NodeState.FAILED
            self._lower_high_water()
            self._drop_caches()
            forgotten.append(member.record)
            if member.announced:
                events.append(NodeReaped(node=member.info(), at=origin.at, cause=origin.cause))
        return forgotten, events

    def next_reap(self, after: float) -> float | None:
        """Return when :meth:`reap` has something to do."""
        return next(iter(self._gone.values())) + after if self._gone else None

    def _insert(self, member: Member, now: float) -> None:
        self._members[member.record.id] = member
        insort(self._ids, member.record.id)
        self._hashes.update(None, member.record)
        self._account(member.record, now)

    def _replace(self, member: Member, new: MemberRecord, now: float) -> None:
        old = member.record
        member.replace(new)
        self._hashes.update(old, new)
        self._infos = self._records = None
        if new.state is old.state or (new.is_present and old.is_present):
            return
        self._gone.pop(old.id, None)
        self._n_failed -= old.state is NodeState.FAILED
        self._account(new, now)
        if new.state is NodeState.LEFT:
            self._lower_high_water()

    def _account(self, record: MemberRecord, now: float) -> None:
        if not record.is_present:
            self._gone[record.id] = now
            self._n_failed += record.state is NodeState.FAILED
        self.high_water = max(self.high_water, self.n_present)
        self._drop_caches()

    def _lower_high_water(self) -> None:
        self.high_water = max(self.n_present, self.high_water - 1)

    def _accuse(self, member: Member, accusations: Iterable[Accusation], origin: Origin) -> list[ClusterEvent]:
        record = member.record
        heard: list[ClusterEvent] = []
        for entry in accusations:
            known = member.accusations.get(entry.accuser)
            phi, refused = quantize(entry.phi), entry.refused
            if known is not None:
                if phi <= known.phi and refused <= known.refused:
                    continue
                phi, refused = max(phi, known.phi), refused or known.refused
            elif entry.accuser == record.id or len(member.accusations) >= _MAX_KEPT_ACCUSERS:
                continue
            said = Accusation(entry.accuser, phi, refused)
            member.accusations = {**member.accusations, said.accuser: said}
            heard.append(
                Accused(
                    node_id=record.id,
                    boot_id=record.boot_id,
                    incarnation=record.incarnation,
                    accuser=said.accuser,
                    phi=said.phi,
                    refused=said.refused,
                    at=origin.at,
                    cause=origin.cause,
                )
            )
        return heard

    # --- what a change means

    def _transition(self, member: Member, old: MemberRecord | None, origin: Origin) -> list[ClusterEvent]:
        new = member.record
        if not new.is_present:
            return self._departure(member, old, origin)
        node = member.info()
        is_suspect = new.state is NodeState.SUSPECT
        arrival = attrs.evolve(node, state=NodeState.ALIVE) if is_suspect else node
        events = self._arrival(member, old, arrival, origin)
        if is_suspect and (old is None or _standing(old) != _standing(new)):
            phi, accusers = sum(entry.phi for entry in member.accusation_list()), tuple(member.accusations)
            events.append(
                NodeSuspected(node=node, phi=phi, accusers=accusers, age=origin.age, at=origin.at, cause=origin.cause)
            )
        if old is not None and old.boot_id == new.boot_id and _public(old) != _public(new) and not _joins(events):
            events.append(NodeUpdated(node=node, previous=old.info(), at=origin.at, cause=origin.cause))
        return events

    def _arrival(self, member: Member, old: MemberRecord | None, node: NodeInfo, origin: Origin) -> list[ClusterEvent]:
        at, cause = origin.at, origin.cause
        if old is None or not member.announced:
            member.announced = True
            return [NodeJoined(node=node, at=at, cause=cause)]
        if old.is_present and node.boot_id > old.boot_id:
            return [NodeReplaced(node=node, previous=old.info(), at=at, cause=cause)]
        if old.state is NodeState.LEFT or node.boot_id > old.boot_id:
            return [NodeJoined(node=node, at=at, cause=cause)]
        if old.state is NodeState.FAILED or (old.state is NodeState.SUSPECT and member.record.state is NodeState.ALIVE):
            return [NodeRecovered(node=node, at=at, cause=cause)]
        return []

    def _departure(self, member: Member, old: MemberRecord | None, origin: Origin) -> list[ClusterEvent]:
        new = member.record
        if old is None or not member.announced:
            return []
        if new.state is NodeState.LEFT and old.state is not NodeState.LEFT:
            return [NodeLeft(node=new.info(), at=origin.at, cause=origin.cause)]
        if new.state is NodeState.FAILED and old.is_present:
            return [NodeFailed(node=new.info(), reason=origin.reason, at=origin.at, cause=origin.cause)]
        return []


def _standing(record: MemberRecord) -> tuple[int, int, NodeState]:
    return record.boot_id, record.incarnation, record.state


def _public(record: MemberRecord) -> tuple[object, ...]:
    vitals = record.vitals
    return record.address, record.tags, record.services, vitals.stall, vitals.is_halted, vitals.is_following


def _vitals_heard(old: MemberRecord | None, new: MemberRecord, origin: Origin) -> list[ClusterEvent]:
    vitals = new.vitals
    if vitals is (NO_VITALS if old is None else old.vitals) or vitals == NO_VITALS:
        return []
    heard = VitalsHeard(
        node_id=new.id, coordinates=vitals.coordinates, stall=vitals.stall, at=origin.at, cause=origin.cause
    )
    return [heard]


def _joins(events: Sequence[ClusterEvent]) -> bool:
    return any(isinstance(event, NodeJoined) for event in events)
