"""What a node believes of what it hears about others, and what it passes on.

The rules of this file:

* Gossip about failures is believed as it comes. What an exchange says of suspect or failed members is hearsay that may
  be old: it becomes a suspicion without accusers, which everybody who hears it checks (memberlist's rule). A goodbye
  is its owner's own word and is always believed.
* That an unlisted node lives is believed while it is fresh; otherwise the node itself is asked (``hearsay.py``). So is
  one that nobody here has heard of and that is said to be suspect, however fresh that is: somebody who was away may
  only now miss the answer of the long forgotten.
* What was news is passed on with the age it came with; what an exchange taught, as if it had been said now, because
  whoever listed it vouches for it.
* Who is gone and unknown here is not taken in any more when others are about to forget it, so that it is forgotten
  everywhere and nobody gets it back from the last who remembers.
* Tags and services that a record only names are filled in when their body is here; those of before stand until then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from rpcnet.config import GossipConfig
from rpcnet.events import NodeState

from .effects import Effect, Emit
from .exchanges import MAX_AGE, Hearsay, decode_bodies
from .gossip import GossipQueue, RefreshQueue
from .hearsay import CheckTable
from .members import MemberRecord, Vitals, supersedes
from .messages import Accusation, MessageError, Refresh, encode_refresh, encode_update
from .metadata import Fetch, MetadataStore
from .own_record import OwnRecord
from .roster import Member, Origin, Origins, Roster
from .spreading import dissemination_time

__all__ = ["Belief"]

_LEASE = 3.0
_FRESH_LOSS = 0.3


class Belief:
    """Takes in what is heard about others.

    Args:
        roster: what is believed.
        queue: the news to pass on.
        refreshes: the signs of life to pass on.
        store: the bodies of metadata.
        checks: what is not believed yet.
        own: what is said of this node itself goes there.
        origins: numbers what happens.
        config: how fast news spreads.
        on_gap: called when something was learnt that suggests that gossip left out more.
        on_arrival: called when gossip brought a node that is new, is back or was restarted.
    """

    def __init__(
        self,
        *,
        roster: Roster,
        queue: GossipQueue,
        refreshes: RefreshQueue,
        store: MetadataStore,
        checks: CheckTable,
        own: OwnRecord,
        origins: Origins,
        config: GossipConfig,
        on_gap: Callable[[float], None],
        on_arrival: Callable[[float], None],
    ) -> None:
        self._roster = roster
        self._queue = queue
        self._refreshes = refreshes
        self._store = store
        self._checks = checks
        self._own = own
        self._origins = origins
        self._config = config
        self._on_gap = on_gap
        self._on_arrival = on_arrival

    @property
    def lease(self) -> float:
        """Seconds for which a sign of life is good: three times the time in which every node says one."""
        return _LEASE * self._own.refresh_interval

    def hear(
        self, record: MemberRecord, origin: Origin, accusations: Sequence[Accusation], *, is_quiet: bool = False
    ) -> list[Effect]:
        """Take in a record of any node; passed on if it was news, unless it is quiet."""
        if record.id == self._roster.local.id:
            return self._own.hear(record, origin.at)
        member = self._roster.get(record.id)
        is_arrival = record.is_present and (member is None or not member.record.is_present)
        is_unheard_of = member is None and record.state is NodeState.SUSPECT
        if is_unheard_of or (is_arrival and origin.age > self._fresh_for):
            self._checks.add(record, origin.at)
            return []
        n_failed = self._roster.n_failed
        old_digest = b"" if member is None else member.record.digest
        old_boot = 0 if member is None else member.record.boot_id
        events = self._roster.apply(self._completed(record, member), origin, accusations)
        if events is None:
            return []
        if self._roster.n_failed < n_failed:
            self._on_gap(origin.at)
        if not is_quiet and (is_arrival or record.boot_id > old_boot):
            self._on_arrival(origin.at)
        member = self._roster.get(record.id)
        if member is not None:
            self._store.update(record.id, old_digest, member.record.digest, origin.at)
            if not is_quiet:
                self._queue.put(record.id, encode_update(member.record, member.accusation_list()), origin.born)
        return [Emit(event) for event in events]

    @property
    def _fresh_for(self) -> float:
        """How old gossip may be while it still spreads: twice the time that takes."""
        config = self._config
        return 2.0 * dissemination_time(
            config.gossip_interval, config.gossip_fanout, self._roster.n_present, _FRESH_LOSS
        )

    def _completed(self, record: MemberRecord, member: Member | None) -> MemberRecord:
        """Fill in tags and services that a record only names; those of before until their body has been fetched."""
        if not record.digest:
            return record
        body = self._store.body(record.digest)
        if body is not None:
            return attrs.evolve(record, tags=body.tags, services=body.services)
        if member is not None:
            return attrs.evolve(record, tags=member.record.tags, services=member.record.services)
        return record

    def hear_refresh(self, refresh: Refresh, now: float) -> list[Effect]:
        """Take in a sign of life of a member."""
        member = self._roster.by_key(refresh.key)
        if member is None or member.record.boot_id & 0xFFFF != refresh.boot or not member.record.is_present:
            return []
        self._store.want(member.record.digest, now)
        origin = self._origins(now, refresh.age)
        halt = (refresh.is_halted, refresh.is_following)
        vitals = Vitals(refresh.epoch, refresh.stall, refresh.coordinates, *halt)
        events = self._roster.refresh(member, vitals, origin)
        if events is None:
            return []
        self._refreshes.put(member.record.id, encode_refresh(member.record), origin.born)
        return [Emit(event) for event in events]

    def hear_exchange(self, heard: Sequence[Hearsay], now: float) -> list[Effect]:
        """Take in records that an exchange taught.

        Whoever knows a node to live vouches for that; only what has outlived its lease is checked.
        """
        was_alone = not self._roster.peers()
        effects: list[Effect] = []
        has_gap = False
        forgettable = min(self._config.dead_reap_after, MAX_AGE) / 2
        for item in heard:
            record = self._as_hearsay(item.record)
            is_history = not record.is_present and not self._is_present(record.id)
            if is_history and item.age >= forgettable and self._roster.get(record.id) is None:
                continue
            age = 0.0 if item.age <= self.lease else item.age
            origin = attrs.evolve(self._origins(now, age), heard_at=now - item.age)
            is_news = self._is_news(record)
            found = self.hear(record, origin, (), is_quiet=was_alone or is_history or not is_news)
            has_gap = has_gap or bool(found and is_news)
            effects += found
        if was_alone and self._roster.peers():
            self._own.tell(now)
        if has_gap:
            self._on_gap(now)
        return effects

    def _is_news(self, record: MemberRecord) -> bool:
        """Tell whether a record says more than newer vitals, which travel with refreshes anyway."""
        member = self._roster.get(record.id)
        return member is None or supersedes(attrs.evolve(record, vitals=member.record.vitals), member.record)

    def _as_hearsay(self, record: MemberRecord) -> MemberRecord:
        """Soften what an exchange says of the failed: a suspicion, where we count the node as present."""
        if record.state is NodeState.FAILED and self._is_present(record.id):
            return attrs.evolve(record, state=NodeState.SUSPECT)
        return record

    def _is_present(self, node_id: str) -> bool:
        member = self._roster.get(node_id)
        return member is not None and member.record.is_present

    def fetched(self, fetch: Fetch, reply: bytes | None, now: float) -> list[Effect]:
        """Take in bodies of metadata that a node answered; None if it did not.

        Raises:
            MessageError: the answer is malformed; it counts as none.
        """
        if reply is None:
            self._store.failed(fetch, now)
            return []
        try:
            bodies = decode_bodies(reply, fetch.digests)
        except MessageError:
            self._store.failed(fetch, now)
            raise
        origin, effects = self._origins(now), list[Effect]()
        for node_id in self._store.answered(fetch, bodies, now):
            member = self._roster.get(node_id)
            if member is not None:
                events = self._roster.complete(member, self._completed(member.record, member), origin)
                effects += [Emit(event) for event in events]
        return effects
