"""A running suspicion: who accuses, how long it has lasted, when it becomes a verdict.

The rules of this file:

* A case belongs to one (boot id, incarnation) of one node; a refutation ends it.
* Cluster size and loss are those of its start, so that a case does not change under the failures it is about.
* The jury of a case is chosen by a hash that everybody can compute, so choosing it needs no messages: each node is
  on it with probability ``JURY / (N - 2)``. A suspicion that nobody stands behind is checked by all who hear it.
"""

from __future__ import annotations

import hashlib

import attrs

from rpcnet.config import DetectorConfig, GossipConfig

from .phi import conviction_phi, conviction_time, dissemination_time, joint_phi, needed_evidence

__all__ = ["JURY", "Case", "Standing", "is_juror", "open_case"]

JURY = 5
"""How many nodes, on average, check a suspicion at once."""

_HASH_BITS = 64


@attrs.frozen
class Standing:
    """How far a suspicion has got; enough to compute phi at any time."""

    started_at: float
    """When this node heard of it, in Trio time."""
    conviction: float
    """Phi at which it becomes a verdict."""
    need: float
    """Evidence that makes that phi."""
    patience: float
    """T_s: seconds that it takes at least, evidence or not."""
    evidence: float = 0.0
    """The sum of what the accusers bring."""

    def phi(self, now: float) -> float:
        """Return the joint phi at ``now``."""
        return joint_phi(self.conviction, self.evidence, self.need, now - self.started_at, self.patience)

    @property
    def verdict_at(self) -> float:
        """When it becomes a verdict if nothing more is heard."""
        return self.started_at + conviction_time(self.conviction, self.evidence, self.need, self.patience)


@attrs.define(eq=False)
class Case:
    """One running suspicion."""

    boot_id: int
    incarnation: int
    standing: Standing
    """How far it has got."""
    verdict_at: float
    """When the verdict is due."""
    accusers: dict[str, float] = attrs.field(factory=dict)
    """Phi by accuser."""

    def accuse(self, accuser: str, phi: float, now: float) -> None:
        """Count an accuser's evidence; of several statements the greatest stands."""
        self.accusers[accuser] = max(phi, self.accusers.get(accuser, 0.0))
        self._set(attrs.evolve(self.standing, evidence=sum(self.accusers.values())), now)

    def delay(self, started_at: float, now: float) -> None:
        """Let the clock start at ``started_at`` instead."""
        self._set(attrs.evolve(self.standing, started_at=started_at), now)

    def _set(self, standing: Standing, now: float) -> None:
        """Take over a standing; a verdict that is due by it is due now, not in the past."""
        self.standing = standing
        self.verdict_at = max(standing.verdict_at, now)


def open_case(
    *,
    boot_id: int,
    incarnation: int,
    config: DetectorConfig,
    gossip: GossipConfig,
    n_members: int,
    one_way_loss: float,
    now: float,
) -> Case:
    """Start the clock of a suspicion."""
    phi = conviction_phi(config.conviction_phi, n_members)
    spread = dissemination_time(gossip.gossip_interval, gossip.gossip_fanout, n_members, one_way_loss)
    standing = Standing(
        started_at=now,
        conviction=phi,
        need=needed_evidence(phi, n_members),
        patience=config.pause_tolerance + spread,
    )
    return Case(boot_id, incarnation, standing, standing.verdict_at)


def is_juror(node_id: str, boot_id: int, incarnation: int, *, juror_id: str, n_members: int) -> bool:
    """Tell whether ``juror_id`` is to check this suspicion at once."""
    if n_members <= JURY + 2:
        return True
    text = f"{node_id} {boot_id} {incarnation} {juror_id}".encode()
    lot = int.from_bytes(hashlib.blake2b(text, digest_size=_HASH_BITS // 8).digest(), "big")
    return lot * (n_members - 2) < JURY << _HASH_BITS
