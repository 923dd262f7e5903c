"""The suspicions under way: who accuses whom, since when, and when that becomes a verdict.

The rules of this file:

* A case belongs to one (boot id, incarnation) of one node; a refutation ends it.
* Cluster size, loss and patience are those of its start, so that a case does not change under the failures it is about.
* Of several statements of one accuser the greatest counts; who fails to reach the suspect again says half a point more.
* A process that is merely stopped keeps its port. So when the accusers who were told that nobody has the port suffice
  by themselves, only the time that a refutation needs to spread is waited for, not the one that the suspect may be
  stopped for. It takes two of them, since what the network says is easily made up; only where there is nobody else to
  ask, in a cluster of two, one is enough: the suspect has left all pings of a cycle unanswered besides, and any answer
  within that time ends the case.
* Nobody convicts on hearsay: whoever gives a verdict has failed to reach the suspect itself in the last two periods.
  Accusers probe it again shortly before the verdict is due. Who accuses nobody lets them go first, for three times the
  time that their verdict needs to spread, and then probes: hardly ever, so that a death is no reason for all to probe.
  So one who missed a refutation, as somebody will at high loss, hears it from the suspect before it can do harm.
* The jury of a case is chosen by a hash that everybody can compute, so choosing it needs no messages: each node is
  on it with probability ``JURY / (N - 2)``. A suspicion that nobody stands behind is checked by all who hear it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import attrs

from .phi import conviction_phi, conviction_time, joint_phi, needed_evidence
from .timers import Timers

__all__ = ["JURY", "Case", "Docket", "is_juror", "open_case"]

JURY = 5
"""How many nodes, on average, check a suspicion at once."""

_HASH_BITS = 64
_REFUSED_PHI = 3.0
_LEAST_REFUSERS = 2


@attrs.define(eq=False)
class Case:
    """One running suspicion."""

    boot_id: int
    incarnation: int
    started_at: float
    """When the first accuser spoke, by the age of the news, in Trio time."""
    conviction: float
    """Phi at which it becomes a verdict."""
    need: float
    """Evidence that makes that phi."""
    spread: float
    """D: seconds that a refutation needs to reach this node."""
    patience: float
    """T_s: seconds that it takes at least, evidence or not."""
    needs_two_refusals: bool
    """Whether there is somebody else who can be asked."""
    evidence: float = 0.0
    """E: the sum of what the accusers bring."""
    accusers: dict[str, float] = attrs.field(factory=dict)
    """Phi by accuser."""
    refusers: dict[str, None] | None = None
    """The accusers that were told that nobody has the port."""
    is_postponed: bool = False
    """Whether its verdict was put off because this node was late."""
    is_rechecked: bool = False
    """Whether the time has come to probe the suspect once more before the verdict."""
    has_waited: bool = False
    """Whether this node, which accuses nobody, has let the accusers go first."""
    missed_at: float = -math.inf
    """When this node itself last failed to reach the suspect."""

    def accuse(self, accuser: str, phi: float, *, refused: bool = False) -> None:
        """Count an accuser's evidence."""
        if refused:
            phi = max(phi, _REFUSED_PHI)
            self.refusers = self.refusers or {}
            self.refusers[accuser] = None
        self.accusers[accuser] = max(phi, self.accusers.get(accuser, 0.0))
        self.evidence = sum(self.accusers.values())
        if self._is_refused():
            self.patience = self.spread

    def _is_refused(self) -> bool:
        """Whether those who were told that nobody has the port suffice."""
        if self.refusers is None or len(self.refusers) < (_LEAST_REFUSERS if self.needs_two_refusals else 1):
            return False
        return sum(self.accusers[refuser] for refuser in self.refusers) >= self.need

    def phi(self, now: float) -> float:
        """Return the joint phi at ``now``."""
        return joint_phi(self.conviction, self.evidence, self.need, now - self.started_at, self.patience)

    @property
    def verdict_at(self) -> float:
        """When it becomes a verdict if nothing more is heard."""
        return self.started_at + conviction_time(self.conviction, self.evidence, self.need, self.patience)


def open_case(
    *, boot_id: int, incarnation: int, phi: float, n_members: int, pause: float, spread: float, now: float
) -> Case:
    """Start the clock of a suspicion.

    Args:
        boot_id: the suspect's.
        incarnation: the suspect's.
        phi: what it takes to convict in a small cluster.
        n_members: the size of the cluster, this node included.
        pause: seconds for which the suspect may be stopped.
        spread: seconds that news needs to reach everybody.
        now: Trio time.
    """
    conviction = conviction_phi(phi, n_members)
    return Case(
        boot_id=boot_id,
        incarnation=incarnation,
        started_at=now,
        conviction=conviction,
        need=needed_evidence(conviction, n_members),
        spread=spread,
        patience=pause + spread,
        needs_two_refusals=n_members > _LEAST_REFUSERS,
    )


class Docket:
    """All cases of one node, and when each is to be judged.

    Args:
        lead: seconds before a verdict at which the suspect is probed once more.
    """

    def __init__(self, lead: float) -> None:
        self._lead = lead
        self._cases: dict[str, Case] = {}
        self._timers = Timers()

    def __len__(self) -> int:
        return len(self._cases)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._cases

    def __iter__(self) -> Iterator[str]:
        return iter(self._cases)

    def get(self, node_id: str) -> Case | None:
        """Return the case of a node; None if it is not suspected."""
        return self._cases.get(node_id)

    def open(self, node_id: str, case: Case) -> None:
        """Take in a case, in the place of one that the node may have had."""
        self._cases[node_id] = case
        self._timers.set(node_id, self._due(case))

    def _due(self, case: Case) -> float:
        return case.verdict_at - (0.0 if case.is_rechecked else self._lead)

    def close(self, node_id: str) -> None:
        """End the case of a node, if it has one."""
        if self._cases.pop(node_id, None) is not None:
            self._timers.cancel(node_id)

    def accuse(self, node_id: str, accuser: str, phi: float, now: float, *, refused: bool) -> None:
        """Count an accuser's evidence; a verdict that is due by it is due now, not in the past."""
        case = self._cases[node_id]
        case.accuse(accuser, phi, refused=refused)
        self._timers.set(node_id, max(self._due(case), now))

    def is_supported(self, node_id: str, local_id: str) -> bool:
        """Tell whether somebody other than this node accuses a node."""
        case = self._cases.get(node_id)
        return case is not None and any(accuser != local_id for accuser in case.accusers)

    def delay(self, lag: float, now: float, *, judge_from: float, is_long: bool) -> None:
        """Let all clocks stand still for ``lag`` seconds, or start again after a long stop."""
        for node_id, case in self._cases.items():
            case.started_at = now if is_long else min(case.started_at + lag, now)
            self._timers.set(node_id, max(self._due(case), judge_from))

    def next_timer(self) -> float | None:
        """Return when the first case is to be judged."""
        return self._timers.next()

    def pop(self, now: float) -> tuple[str, Case, float] | None:
        """Return a case that is to be judged by ``now``, and when it was to be; :meth:`again` must follow."""
        due = self._timers.pop(now)
        return None if due is None else (due[0], self._cases[due[0]], due[1])

    def again(self, node_id: str, at: float) -> None:
        """Let a case be judged at ``at``."""
        self._timers.set(node_id, at)


def is_juror(node_id: str, boot_id: int, incarnation: int, *, juror_id: str, n_members: int) -> bool:
    """Tell whether ``juror_id`` is to check this suspicion at once."""
    if n_members <= JURY + 2:
        return True
    text = f"{node_id} {boot_id} {incarnation} {juror_id}".encode()
    lot = int.from_bytes(hashlib.blake2b(text, digest_size=_HASH_BITS // 8).digest(), "big")
    return lot * (n_members - 2) < JURY << _HASH_BITS
