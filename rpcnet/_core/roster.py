"""The table of all nodes that one node remembers, and the events that a change of it means.

The rules of this file:

* Every change goes through :meth:`Roster.apply`, which merges (``members.py``) and says what happened as events.
* Per node: joined first; failed or left only after joined. A node first heard of as failed or left is remembered,
  so that older news cannot bring it in, and causes no event until it is alive.
* A higher boot id over a member is a replacement, over a failed or departed node it is a new join. The same boot
  coming back from suspect or failed is a recovery.
* Accusations belong to one (boot id, incarnation) and end with it. Per accuser the greatest phi counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from rpcnet._signals import Accused
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

from .members import MemberRecord, merge
from .messages import Accusation, quantize

__all__ = ["Member", "Origin", "Roster"]

_MAX_KEPT_ACCUSERS = 64


@attrs.frozen
class Origin:
    """When and why a change happens: what every event of it carries."""

    at: float
    """Trio time."""
    cause: int = 0
    """The number of the datagram, timer or order."""
    reason: str = "declared failed by another node"
    """For :class:`NodeFailed`."""


@attrs.define(eq=False)
class Member:
    """One remembered node."""

    record: MemberRecord
    """The merged record."""
    accusations: dict[str, float] = attrs.field(factory=dict)
    """Phi by accuser, for the current incarnation."""
    announced: bool = False
    """Whether :class:`NodeJoined` was said of it."""
    told_at: float = -1.0e9
    """When it was last told directly that it is suspected or failed."""

    def accusation_list(self) -> tuple[Accusation, ...]:
        """Return the accusations as they travel."""
        return tuple(Accusation(accuser, phi) for accuser, phi in self.accusations.items())


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
        self._gone: dict[str, float] = {}
        self._n_failed = 0
        self.high_water = 1
        for record in known:
            if record.id != local.id:
                self._insert(Member(record, announced=True), now)
        self._drop_caches()

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

    def records(self) -> tuple[MemberRecord, ...]:
        """Return all records, sorted by id."""
        if self._records is None:
            everyone = [self._local, *(member.record for member in self._members.values())]
            self._records = tuple(sorted(everyone, key=lambda record: record.id))
        return self._records

    def infos(self) -> tuple[NodeInfo, ...]:
        """Return all nodes as users see them, sorted by id."""
        if self._infos is None:
            self._infos = tuple(record.info() for record in self.records())
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
            member = Member(record)
            self._insert(member, origin.at)
            heard = self._accuse(member, accusations, origin) if record.state is NodeState.SUSPECT else []
            return self._transition(member, None, origin) + heard
        old = member.record
        new = merge(old, record)
        if new is not old:
            self._replace(member, new, origin.at)
            if _standing(new) != _standing(old):
                member.accusations.clear()
        told = (record.boot_id, record.incarnation, record.state)
        applies = told == (new.boot_id, new.incarnation, NodeState.SUSPECT)
        heard = self._accuse(member, accusations, origin) if applies else []
        if new is old:
            return heard or None
        return self._transition(member, old, origin) + heard

    def reap(self, origin: Origin, after: float) -> list[ClusterEvent]:
        """Forget nodes that failed or left more than ``after`` seconds ago."""
        events: list[ClusterEvent] = []
        while self._gone:
            node_id, since = next(iter(self._gone.items()))
            if origin.at - since < after:
                break
            member = self._members.pop(node_id)
            del self._gone[node_id]
            self._n_failed -= member.record.state is NodeState.FAILED
            self._lower_high_water()
            self._drop_caches()
            if member.announced:
                events.append(NodeReaped(node=member.record.info(), at=origin.at, cause=origin.cause))
        return events

    def next_reap(self, after: float) -> float | None:
        """Return when :meth:`reap` has something to do."""
        return next(iter(self._gone.values())) + after if self._gone else None

    def _insert(self, member: Member, now: float) -> None:
        self._members[member.record.id] = member
        self._account(member.record, now)

    def _replace(self, member: Member, new: MemberRecord, now: float) -> None:
        old, member.record = member.record, new
        if new.state is old.state:
            self._drop_caches()
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
            phi = quantize(entry.phi)
            known = member.accusations.get(entry.accuser)
            is_new = known is None and len(member.accusations) < _MAX_KEPT_ACCUSERS
            if entry.accuser == record.id or not (is_new or (known is not None and phi > known)):
                continue
            member.accusations[entry.accuser] = phi
            heard.append(
                Accused(
                    node_id=record.id,
                    boot_id=record.boot_id,
                    incarnation=record.incarnation,
                    accuser=entry.accuser,
                    phi=phi,
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
        node = new.info()
        is_suspect = new.state is NodeState.SUSPECT
        arrival = attrs.evolve(node, state=NodeState.ALIVE) if is_suspect else node
        events = self._arrival(member, old, arrival, origin)
        if is_suspect and (old is None or _standing(old) != _standing(new)):
            phi, accusers = sum(member.accusations.values()), tuple(member.accusations)
            events.append(NodeSuspected(node=node, phi=phi, accusers=accusers, at=origin.at, cause=origin.cause))
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
    return record.address, record.tags, record.services


def _joins(events: Sequence[ClusterEvent]) -> bool:
    return any(isinstance(event, NodeJoined) for event in events)
