"""Partition detection: whether the cluster has fallen apart, into what, and whether this side may go on.

The rules of this file:

* The *voters* are the members that were alive at the last stable point, which comes ``stable_after`` seconds after the
  last change: a join, a failure, a return, a goodbye. Who joins while some of them are lost has no vote until the
  cluster is whole again, so that no side can grow into a majority.
* A voter is *lost* while it is failed, or suspect for longer than a refutation takes (``voters.py``). Goodbyes and
  restarts are no losses.
* So many lost within twice the time that a suspicion takes look like a partition: ``PartitionSuspected``, once. If the
  lost come back, that is all; the machine forgets it without an event.
* At the next stable point it is a partition if the loss is still that large, or if it costs this side its quorum.
  ``PartitionDetected`` says so, and the voters stay as they are. Any other loss is a few nodes that died: they have no
  vote any more. A stable point waits for suspects that could tip the scale.
* A partition that is not what it was, at a later stable point, is detected anew. It has healed when every voter is back
  or has left, or when at a stable point so few are missing that it would be no partition.
* A voter that membership forgets (reaps) is given up by a side that may go on. One that may not goes on counting it,
  or it would become writable by waiting, unless it is in the company of a member that may go on.
* ``writable`` is lost with the voters, before they are declared failed. If voters then fail, it comes back at a stable
  point or when all voters are back, not before: a node between two sides must not make both writable in turns.
* A node whose detector says that it is cut off itself accuses nobody for a while. It has no quorum until its detector
  must have given the others up, which is when the ordinary rules go on.
* A node that was stopped itself (its timer comes late) has seen nothing meanwhile, and waits anew.
* Each node tells the others when it may not go on (it is *halted*). A node that started inside a part, or was cut off
  itself since it last saw the cluster whole, follows those (``deference.py``). ``StaticQuorum`` needs that for nothing:
  its number decides. Under ``LeaseQuorum`` a newcomer that follows asks for the lease itself, and goes by the answer.

What becomes of N members of which k are lost, by ``KeepMajority``:

| N   | k         | suspected | detected as                                    | writable                   |
| --- | --------- | --------- | ---------------------------------------------- | -------------------------- |
| 2   | 1         | no        | with the lowest id: nothing; without: ISOLATED | with the lowest id         |
| 3   | 1         | no        | nothing                                        | yes                        |
| 3   | 2         | yes       | ISOLATED                                       | no                         |
| 4   | 2         | yes       | MAJORITY with the lowest id, else MINORITY     | with the lowest id         |
| 5   | 1         | no        | nothing                                        | yes                        |
| 5   | 2         | yes       | MAJORITY                                       | yes                        |
| 5   | 3         | yes       | MINORITY                                       | no                         |
| 100 | below 20  | no        | nothing                                        | yes                        |
| 100 | 20 to 49  | yes       | MAJORITY                                       | yes                        |

What this is not: consensus. Voters are each node's own memory, and memories may differ, so that two sides both find a
majority:

* where a join or a failure in the seconds before the cut had come to a stable point on some nodes only;
* where nodes started with a majority that goes on without the rest, and a later cut comes before the first has healed:
  they count as voters whom the older members count only once the cluster is whole;
* where some nodes formed a cluster of their own, without the others, before they met a part.

``StaticQuorum`` and ``LeaseQuorum`` have no such memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import islice

import attrs

from rpcnet.config import DetectorConfig, GossipConfig, PartitionConfig
from rpcnet.events import (
    ClusterEvent,
    NodeEvent,
    NodeInfo,
    NodeUpdated,
    PartitionDetected,
    PartitionHealed,
    PartitionStatus,
    PartitionSuspected,
    SelfIsolated,
)
from rpcnet.quorum import LeaseQuorum, StaticQuorum
from rpcnet.selectors import Selector

from .deference import Deference
from .quorum import Side, decide
from .voters import Voters

__all__ = ["PartitionMachine", "PartitionSnapshot", "stable_time"]

_LAN_PAUSE = 5.0
_LEAST_STABLE = 5.0
_LATE = 1.0
_UNREACHED = 1e-4
_ROUNDING = 1e-9
_SUSPICIONS_OF_ISOLATED = 5.0  # the detector of a node that is cut off gives the others up after four


def stable_time(config: PartitionConfig, pause_tolerance: float, n_members: int) -> float:
    """Return how many seconds without a change make a stable point (at 5 s: 7 for 5 members, 20 for 100)."""
    if config.stable_after is not None:
        return config.stable_after
    return max(_LEAST_STABLE, 10.0 * math.log10(max(n_members, 1))) * pause_tolerance / _LAN_PAUSE


@attrs.frozen
class PartitionSnapshot:
    """What the machine knows at one moment; another machine goes on from it after a restart of the task."""

    status: PartitionStatus
    """Which side this is, as it was said last."""
    since: float
    """Since when, in Trio time."""
    voters: Mapping[str, int]
    """The boot ids of the members of the last stable point."""
    lost: tuple[NodeInfo, ...]
    """Those of them that are failed, or suspect for longer than a refutation takes; sorted by id."""
    detected: tuple[str, ...]
    """The ids that were unreachable when the partition was last detected; empty while there is none."""
    is_suspected: bool
    """Whether a large loss waits to be decided."""
    is_held_back: bool
    """Whether a quorum was lost and no stable point has given it back."""
    has_quorum: bool
    """Whether this side may go on, by the nodes that are reachable right now."""
    writable: bool
    """Whether it may go on, all considered."""
    is_halted: bool
    """What the others are to be told: whether this side may not go on; never without a strategy."""
    is_following: bool
    """Whether that is only because others may not."""
    deference: Deference
    """Whether this node has to follow others, and why."""
    isolated_until: float | None = None
    """Until when this node counts as cut off, in Trio time, because its detector said so."""


@attrs.frozen
class _Finding:
    is_partition: bool
    quorum: bool | None


class PartitionMachine:
    """Watches what membership says of the nodes.

    Args:
        local: this node.
        config: when a loss is a partition, and who may go on.
        detector: the failure detector's settings, for how long a suspicion takes.
        gossip: gossip settings, for the same.
        now: Trio time.
        last: what an earlier machine of this process knew; :meth:`reset` is to follow.
    """

    def __init__(
        self,
        *,
        local: NodeInfo,
        config: PartitionConfig,
        detector: DetectorConfig,
        gossip: GossipConfig,
        now: float,
        last: PartitionSnapshot | None = None,
    ) -> None:
        self._config, self._detector, self._gossip = config, detector, gossip
        selector = Selector.parse(config.strategy.where if isinstance(config.strategy, StaticQuorum) else None)
        self._voters = Voters(local.id, {local.id: local}, {local.id: local.boot_id}, selector)
        self._detected: tuple[str, ...] = ()
        self._status, self._since = PartitionStatus.WHOLE, now
        self._is_suspected = self._is_held_back = self._waits_for_suspects = False
        self._lease: bool | None = None
        self._changed_at: float | None = now
        self._isolated_until: float | None = None
        self._deference = Deference()
        if last is not None:
            self._adopt(last, now)
        self._hold_back()

    def _adopt(self, last: PartitionSnapshot, now: float) -> None:
        self._voters.boots, self._detected = last.voters, last.detected
        self._status, self._since = last.status, last.since
        self._is_suspected, self._is_held_back = last.is_suspected, last.is_held_back
        self._isolated_until, self._deference = last.isolated_until, last.deference
        for node in last.lost:
            self._voters.put(node)
        self._voters.lost = {node.id: now for node in last.lost}

    # --- reading

    def snapshot(self) -> PartitionSnapshot:
        """Return what is known now."""
        voters = self._voters
        counts_enough = self._quorum(self._missing()) is True and self._isolated_until is None
        has_quorum = counts_enough and not self._follows
        may_all = self._config.strategy is None
        writable = may_all or (has_quorum and not self._is_held_back)
        return PartitionSnapshot(
            status=self._status,
            since=self._since,
            voters=voters.boots,
            lost=voters.infos(voters.lost),
            detected=self._detected,
            is_suspected=self._is_suspected,
            is_held_back=self._is_held_back,
            has_quorum=has_quorum,
            writable=writable,
            is_halted=not writable,
            is_following=not writable and counts_enough and not self._is_held_back,
            deference=self._deference,
            isolated_until=self._isolated_until,
        )

    @property
    def wants_lease(self) -> bool:
        """Whether :meth:`lease` should be told, now and regularly, whether this side has the lease."""
        is_by_lease = isinstance(self._config.strategy, LeaseQuorum)
        return is_by_lease and (self._deference.follows or bool(self._voters.failed()))

    @property
    def _follows(self) -> bool:
        """Whether this node may not go on because others may not; whoever is granted the lease follows nobody."""
        return self._deference.follows and not self._lease

    def next_timer(self) -> float | None:
        """Return the Trio time at which :meth:`on_timer` has something to do."""
        times = [self._stable_at(), self._isolated_until]
        times += [first + self._spreading_time() for first in islice(self._voters.doubted.values(), 1)]
        return min((time for time in times if time is not None), default=None)

    def _stable_at(self) -> float | None:
        if self._changed_at is None or self._waits_for_suspects:
            return None
        n_members = max(len(self._voters.boots), len(self._voters.nodes))
        return self._changed_at + stable_time(self._config, self._detector.pause_tolerance, n_members)

    def _spreading_time(self) -> float:
        """Return how long gossip takes to reach nearly all voters when nothing is lost."""
        rounds = math.log(len(self._voters.boots) + 1) - math.log(_UNREACHED)
        return rounds * self._gossip.gossip_interval * 2.0 / self._gossip.gossip_fanout

    def _suspicion_time(self) -> float:
        """Return how long a suspicion takes to become a verdict, about."""
        return self._detector.pause_tolerance + self._spreading_time()

    # --- what happens

    def handle(self, event: ClusterEvent, now: float) -> list[ClusterEvent]:
        """Take in a ``NodeEvent`` or ``SelfIsolated``, and return what it means for the cluster as a whole."""
        if isinstance(event, SelfIsolated):
            self._isolated_until = now + _SUSPICIONS_OF_ISOLATED * self._suspicion_time()
            self._doubt()
        if not isinstance(event, NodeEvent):
            return []
        is_change = self._voters.apply(event, now, keeps_forgotten=self._is_held_back)
        if isinstance(event, NodeUpdated):
            is_change = self._is_held_back or (is_change and not self._deference.is_sure)
        if is_change:
            self._restart_clock(now)
        return self._conclude(now, event.cause)

    def reset(self, nodes: Iterable[NodeInfo], now: float) -> list[ClusterEvent]:
        """Take over all nodes as membership remembers them, departed ones included; the voters stay."""
        self._voters.reset({node.id: node for node in nodes}, now, keeps_forgotten=self._is_held_back)
        self._restart_clock(now)
        return self._conclude(now, 0)

    def lease(self, now: float, *, has_lease: bool) -> list[ClusterEvent]:
        """Take in what the lease says."""
        if not self.wants_lease:
            return []
        self._lease = has_lease
        events = self._conclude(now, 0)
        return events if self._changed_at is not None else events + self._settle(now, 0)

    def on_timer(self, now: float) -> list[ClusterEvent]:
        """Count suspicions that were not refuted, and come to a stable point, as far as they are due."""
        if self._isolated_until is not None and now >= self._isolated_until:
            self._isolated_until = None
            if self._changed_at is None:
                self._restart_clock(now)
        events = self._conclude(now, 0)
        due = self._stable_at()
        if due is None or now < due:
            return events
        if now > due + _LATE:
            self._restart_clock(now)
            return events
        return events + self._settle(now, 0)

    def _restart_clock(self, now: float) -> None:
        self._changed_at, self._waits_for_suspects = now, False

    # --- what it means

    def _conclude(self, now: float, cause: int) -> list[ClusterEvent]:
        events: list[ClusterEvent] = []
        self._voters.lose(now - self._spreading_time() + _ROUNDING)
        if not self._voters.lost:
            self._is_suspected = False
            events += self._heal(now, cause)
        elif not self._is_suspected and self._is_large(self._lately_lost(now)):
            self._is_suspected = True
            self._restart_clock(now)
            events.append(self._suspicion(now, cause))
        if self._defers:
            company, has_lost = self._voters.company(), bool(self._voters.lost)
            self._deference = self._deference.hearing(company, has_lost=has_lost)
        if not self.wants_lease:
            self._lease = None
        self._hold_back()
        return events + self._settle(now, cause) if self._waits_for_suspects else events

    def _lately_lost(self, now: float) -> int:
        """Return how many voters were lost within two suspicions' time and not told of yet."""
        since = now - 2.0 * self._suspicion_time()
        told = frozenset(self._detected)
        return sum(lost_at >= since and node_id not in told for node_id, lost_at in self._voters.lost.items())

    def _is_large(self, n_lost: int) -> bool:
        config = self._config
        return n_lost >= max(config.least_lost, config.lost_share * len(self._voters.boots) - _ROUNDING)

    def _suspicion(self, now: float, cause: int) -> PartitionSuspected:
        voters = self._voters
        zones = voters.zones(self._config.zone_tag, voters.lost)
        return PartitionSuspected(lost=voters.infos(voters.lost), kept=voters.alive(), zones=zones, at=now, cause=cause)

    def _hold_back(self) -> None:
        """Take back the permission to go on as soon as the failed cost the quorum; give it back if nobody is lost."""
        if self._config.strategy is None:
            return
        if self._quorum(self._voters.failed()) is not True:
            self._is_held_back = True
            self._doubt()
        elif not self._voters.lost:
            self._is_held_back = False

    @property
    def _defers(self) -> bool:
        """Whether what others say of themselves matters: not where a number decides, nor where all may go on."""
        return self._config.strategy is not None and not isinstance(self._config.strategy, StaticQuorum)

    def _doubt(self) -> None:
        if not isinstance(self._config.strategy, LeaseQuorum):
            self._deference = self._deference.doubting()

    # --- stable points

    def _settle(self, now: float, cause: int) -> list[ClusterEvent]:
        if self._is_held_back and self._voters.forgotten and self._voters.n_free():
            self._voters.give_up_forgotten()
        failed = self._voters.failed()
        finding = self._assess(failed)
        self._waits_for_suspects = finding != self._assess(self._missing(with_doubted=True))
        if self._waits_for_suspects:
            return []
        self._changed_at = None
        self._is_suspected = False
        self._deference = self._deference.settled(self._voters.company(), self._voters.n_free())
        self._is_held_back = self._config.strategy is not None and finding.quorum is not True
        if finding.is_partition:
            return self._detect(self._status_of(quorum=finding.quorum), tuple(sorted(failed)), now, cause)
        if not self._follows:
            self._voters.rebase()
            if len(self._voters.boots) > 1 and self._isolated_until is None and not self._is_held_back:
                self._deference = self._deference.trusting()
        return self._heal(now, cause)

    def _assess(self, lost: Mapping[str, float]) -> _Finding:
        quorum = self._quorum(lost)
        is_large = (self._is_suspected or bool(self._detected)) and self._is_large(len(lost))
        is_costly = self._config.strategy is not None and quorum is not True and self._quorum({}) is True
        is_by_lease = isinstance(self._config.strategy, LeaseQuorum)
        return _Finding(bool(lost) and (is_large or is_costly or is_by_lease), quorum)

    def _quorum(self, lost: Mapping[str, float]) -> bool | None:
        side = Side(self._voters.boots, lost, self._voters.n_matching(lost), self._lease)
        return decide(self._config.strategy, side)

    def _missing(self, *, with_doubted: bool = False) -> Mapping[str, float]:
        """Return which voters are not counted on right now; a lease is asked for about the failed only."""
        voters = self._voters
        if isinstance(self._config.strategy, LeaseQuorum):
            return voters.failed()
        return voters.lost | voters.doubted if with_doubted else voters.lost

    def _status_of(self, *, quorum: bool | None) -> PartitionStatus:
        if quorum:
            return PartitionStatus.MAJORITY
        if len(self._voters.present()) == 1:
            return PartitionStatus.ISOLATED
        return PartitionStatus.TIE if quorum is None else PartitionStatus.MINORITY

    def _detect(
        self, status: PartitionStatus, unreachable: tuple[str, ...], now: float, cause: int
    ) -> list[ClusterEvent]:
        if (status, unreachable) == (self._status, self._detected):
            return []
        self._status, self._since, self._detected = status, now, unreachable
        voters = self._voters
        detected = PartitionDetected(
            reachable=voters.infos(voters.present()),
            unreachable=voters.infos(unreachable),
            status=status,
            zones=voters.zones(self._config.zone_tag, dict.fromkeys(unreachable)),
            at=now,
            cause=cause,
        )
        return [detected]

    def _heal(self, now: float, cause: int) -> list[ClusterEvent]:
        if not self._detected:
            return []
        back = [node_id for node_id in self._detected if node_id in self._voters.nodes]
        self._status, self._since, self._detected = PartitionStatus.WHOLE, now, ()
        return [PartitionHealed(merged=self._voters.infos(back), at=now, cause=cause)]
