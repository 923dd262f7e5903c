"""What a node says of itself, and how it stands up for that.

The rules of this file:

* Only the owner raises its boot id, incarnation, meta version and epoch. It outbids what others say of it when that is
  not what it says itself: suspect, failed, or further on than it is.
* When an incarnation cannot outbid what is said (a higher boot id, or no incarnation left), it raises its boot id, at
  most once a second, so that two processes under one name cannot drive each other in a storm. Which of the two has to
  give up the name is settled by claims (``claims.py``). Who keeps it starts a new boot when the other one has the same,
  or others could not tell their records apart.
* Every change is news, but for its place in the network, which goes with answers and refreshes.
* A refresh says that the node lives on. It rides on probes; one in 32 goes as news, so that every node has samples of
  how long news takes even when nothing happens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from rpcnet.config import GossipConfig
from rpcnet.events import NameConflictDetected, NodeLeft, NodeState, NodeUpdated

from .claims import Claims
from .composer import Composer
from .effects import Effect, Emit
from .gossip import GossipQueue, RefreshQueue
from .members import (
    MAX_BOOT_ID,
    MAX_EPOCH,
    MAX_INCARNATION,
    MemberRecord,
    Vitals,
    check_address,
    check_metadata,
    encode_metadata,
    rank,
)
from .messages import Claim, Status, encode_refresh, encode_update, quantize_stall
from .metadata import MetadataStore
from .roster import Origins, Roster

if TYPE_CHECKING:
    import random

    from rpcnet._signals import OwnVitals

__all__ = ["OwnRecord"]

_REBOOT_INTERVAL = 1.0
_JITTER = 0.2
_CANARY = 32


class OwnRecord:
    """This node's own record, kept in the roster.

    Args:
        roster: where it is.
        queue: where news goes.
        refreshes: where refreshes go.
        store: keeps tags and services that are told by digest.
        composer: makes claims.
        origins: numbers what happens.
        config: how often to refresh, how large tags may be.
        rng: where chance comes from.
        started: the boot id that this process started with.
        now: Trio time.
    """

    def __init__(
        self,
        *,
        roster: Roster,
        queue: GossipQueue,
        refreshes: RefreshQueue,
        store: MetadataStore,
        composer: Composer,
        origins: Origins,
        config: GossipConfig,
        rng: random.Random,
        started: int,
        now: float,
    ) -> None:
        self._roster = roster
        self._queue = queue
        self._refreshes = refreshes
        self._store = store
        self._composer = composer
        self._origins = origins
        self._config = config
        self._rng = rng
        self._claims = Claims(started)
        self._may_reboot_at = now
        self.has_lost_name = False
        """Whether another node keeps this node's name; this one says nothing any more."""
        self._set(self._with_digest(roster.local), now)
        self.refresh_at = now + rng.random() * self.refresh_interval
        """When the next refresh is due; at first at any time, so that nodes that start together do not keep step."""

    @property
    def refresh_interval(self) -> float:
        """Seconds in which every node says one sign of life: longer in large clusters, so that all are one a second."""
        return max(self._config.refresh_interval, self._config.refresh_per_member * self._roster.n_present)

    # --- changing it

    def update(
        self, now: float, *, tags: Mapping[str, str] | None, services: Sequence[str] | None, address: str | None
    ) -> list[Effect]:
        """Change what this node tells about itself; None leaves a part as it is.

        Raises:
            ConfigError: it cannot be told to others; nothing changed.
        """
        old = self._roster.local
        new = attrs.evolve(
            old,
            tags=old.tags if tags is None else tags,
            services=old.services if services is None else tuple(sorted(services)),
            address=old.address if address is None else address,
        )
        check_metadata(new.name, new.tags, new.services, self._config.max_metadata_bytes)
        check_address(new.address)
        if new == old:
            return []
        self._set(_with_new_metadata(self._with_digest(new), old.meta_version), now)
        return [self._updated(old, now)]

    def set_vitals(self, vitals: OwnVitals, now: float) -> list[Effect]:
        """Take in how this node is; only a change of its stalls is news."""
        old = self._roster.local.vitals
        return self._say(attrs.evolve(old, stall=quantize_stall(vitals.stall), coordinates=vitals.coordinates), now)

    def set_halted(self, now: float, *, is_halted: bool, is_following: bool) -> list[Effect]:
        """Say whether this node's side of a partition may not go on; a change is news."""
        return self._say(attrs.evolve(self._roster.local.vitals, is_halted=is_halted, is_following=is_following), now)

    def _say(self, vitals: Vitals, now: float) -> list[Effect]:
        old = self._roster.local
        if attrs.evolve(old.vitals, coordinates=vitals.coordinates) == vitals:
            self._roster.set_local(attrs.evolve(old, vitals=vitals))
            return []
        self._set(_with_new_epoch(attrs.evolve(old, vitals=vitals)), now)
        return [self._updated(old, now)]

    def come_back(self, now: float) -> None:
        """Be alive again after having left."""
        local = self._roster.local
        if local.state is NodeState.LEFT:
            self._roster.set_local(attrs.evolve(local, state=NodeState.ALIVE))
            self.defend(Status.of(local), now)

    def leave(self, now: float) -> Effect:
        """Say goodbye."""
        self._set(attrs.evolve(self._roster.local, state=NodeState.LEFT), now)
        return Emit(NodeLeft(node=self._roster.local.info(), at=now, cause=self._origins(now).cause))

    def refresh(self, now: float) -> None:
        """Say that this node lives and how it is."""
        self.refresh_at = now + self._refresh_pause()
        old = self._roster.local
        if old.state is not NodeState.ALIVE:
            return
        local = _with_new_epoch(old)
        self._roster.set_local(local)
        if self._rng.random() * _CANARY < 1 or local.boot_id != old.boot_id:
            self.tell(now)
        else:
            self._refreshes.put(local.id, encode_refresh(local), now)

    def tell(self, now: float) -> None:
        """Make this node's record news."""
        self._queue.put(self._roster.local.id, encode_update(self._roster.local), now)

    # --- standing up for it

    def defend(self, told: Status, now: float) -> None:
        """Outbid what is said of this node, if it is not what this node says itself."""
        local = self._roster.local
        ours, theirs = (local.boot_id, local.incarnation), (told.boot_id, told.incarnation)
        if theirs < ours:
            return
        if theirs == ours and rank(told.state) <= rank(local.state):
            if told.meta_version > local.meta_version:
                self._set(_with_new_metadata(local, told.meta_version), now)
            return
        if told.boot_id == local.boot_id and told.incarnation < MAX_INCARNATION:
            self._set(attrs.evolve(local, incarnation=told.incarnation + 1), now)
        elif told.boot_id < MAX_BOOT_ID and now >= self._may_reboot_at:
            self._may_reboot_at = now + _REBOOT_INTERVAL
            self._set(attrs.evolve(local, boot_id=told.boot_id + 1, incarnation=0), now)

    def hear(self, record: MemberRecord, now: float) -> list[Effect]:
        """Take in what others say of this node; ask there when they mean another node of its name."""
        local = self._roster.local
        is_past = record.boot_id == local.boot_id and record.meta_version < local.meta_version
        is_rival = record.address != local.address and record.is_present and not is_past
        if record.boot_id == local.boot_id and record.vitals.epoch > local.vitals.epoch:
            self._roster.set_local(attrs.evolve(local, vitals=attrs.evolve(local.vitals, epoch=record.vitals.epoch)))
        self.defend(Status.of(record), now)
        if not is_rival or not self._claims.may_ask(record.address, now):
            return []
        return [self._claim_at(record.address, now)]

    def contest(self, claim: Claim, now: float) -> list[Effect]:
        """Settle whose name it is with another node that has the same."""
        local = self._roster.local
        if claim.address == local.address or local.state is NodeState.LEFT or self.has_lost_name:
            return []
        self.has_lost_name = self._claims.is_lost_to(claim, local.address)
        found = NameConflictDetected(
            node=local.info(),
            address=claim.address,
            is_lost=self.has_lost_name,
            at=now,
            cause=self._origins(now).cause,
        )
        if self.has_lost_name:
            return [Emit(found), self._claim_at(claim.address, now)]
        self.defend(claim.status, now)
        if claim.status.boot_id == self._roster.local.boot_id and now >= self._may_reboot_at:
            self._may_reboot_at = now + _REBOOT_INTERVAL
            self._set(_with_new_boot(self._roster.local), now)
        effects: list[Effect] = [Emit(found)] if self._claims.may_report(claim.address, now) else []
        return [*effects, self._claim_at(claim.address, now)] if self._claims.may_ask(claim.address, now) else effects

    def _claim_at(self, address: str, now: float) -> Effect:
        local = self._roster.local
        claim = Claim(local.id, Status.of(local), self._claims.started, local.address)
        return self._composer.send(address, claim, now)

    # --- parts of the above

    def _set(self, record: MemberRecord, now: float) -> None:
        self._roster.set_local(record)
        self.tell(now)

    def _updated(self, old: MemberRecord, now: float) -> Effect:
        node, cause = self._roster.local.info(), self._origins(now).cause
        return Emit(NodeUpdated(node=node, previous=old.info(), at=now, cause=cause))

    def _with_digest(self, record: MemberRecord) -> MemberRecord:
        digest = self._store.set_own(encode_metadata(record.tags, record.services))
        return record if digest == record.digest else attrs.evolve(record, digest=digest)

    def _refresh_pause(self) -> float:
        return self.refresh_interval * self._rng.uniform(1 - _JITTER, 1 + _JITTER)


def _with_new_metadata(record: MemberRecord, outbid: int) -> MemberRecord:
    """Return the record with a meta version above ``outbid``."""
    if outbid < MAX_INCARNATION:
        return attrs.evolve(record, meta_version=outbid + 1)
    return _with_new_boot(attrs.evolve(record, meta_version=outbid))


def _with_new_epoch(record: MemberRecord) -> MemberRecord:
    """Return the record with the next epoch."""
    if record.vitals.epoch < MAX_EPOCH:
        return attrs.evolve(record, vitals=attrs.evolve(record.vitals, epoch=record.vitals.epoch + 1))
    return _with_new_boot(record)


def _with_new_boot(record: MemberRecord) -> MemberRecord:
    """Return the record with the next boot id, for when the 32 bits of a number are used up; the last one has none."""
    if record.boot_id == MAX_BOOT_ID:
        return record
    vitals = attrs.evolve(record.vitals, epoch=0)
    return attrs.evolve(record, boot_id=record.boot_id + 1, incarnation=0, meta_version=0, vitals=vitals)
