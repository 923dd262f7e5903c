"""What this node's own cycles say of others, and of itself.

The rules of this file:

* The latest cycle to each member is worth a phi (``phi.py``), 0 if it was answered; only what is not 0 is kept.
* What a host says of its port does not depend on how this node is, so a cycle that was refused is worth 3.
* Each further cycle to the same node that fails without one in between that does not adds half a point.
* The same outcomes tell whether it is this node that is cut off (``isolation.py``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from rpcnet.events import ClusterEvent, NodeInfo, SelfIsolated

from .isolation import Isolation, looks_isolated
from .peers import Peers
from .phi import Credibility
from .probing import Cycle
from .suspicion import Docket

__all__ = ["REPEATED_FAILURE", "Evidence"]

REPEATED_FAILURE = 0.5
"""What another failure to reach a suspect adds."""

_REFUSED_PHI = 3.0


class Evidence:
    """The outcomes of this node's cycles.

    Args:
        local_id: this node's id.
        peers: the members.
        docket: the suspicions, some of which are others' too.
    """

    def __init__(self, local_id: str, peers: Peers, docket: Docket) -> None:
        self._local_id = local_id
        self._peers = peers
        self._docket = docket
        self._credibility = Credibility()
        self._streaks: dict[str, int] = {}
        self._latest: dict[str, float] = {}
        self.isolation = Isolation()
        """Whether this node is cut off."""

    def latest(self, node_id: str) -> float:
        """Return what the latest cycle to a member was worth: 0 when it answered."""
        return self._latest.get(node_id, 0.0)

    def forget(self, node_id: str) -> None:
        """Forget a node that is no member any more."""
        self._streaks.pop(node_id, None)
        self._latest.pop(node_id, None)
        self._credibility.forget(node_id)
        self.isolation.forget(node_id)

    def acquit(self, node_id: str) -> None:
        """Forget what was held against a member."""
        self._latest.pop(node_id, None)

    def answered(self, node_id: str) -> None:
        """Take note that a member was heard."""
        self._streaks.pop(node_id, None)
        self._latest.pop(node_id, None)
        self._credibility.observe(node_id, failed=False)
        self.isolation.note(node_id, failed=False)

    def failed(self, cycle: Cycle, silence: float) -> float:
        """Take in a cycle that failed; return what it and those before it are worth.

        Args:
            cycle: the cycle.
            silence: how improbable its silence is if the member lives.
        """
        node_id = cycle.node_id
        self._credibility.observe(node_id, failed=True, were_helpers_silent=cycle.were_helpers_silent)
        self.isolation.note(node_id, failed=True)
        streak = self._streaks.get(node_id, 0)
        self._streaks[node_id] = streak + 1
        phi = -math.log10(silence + self._credibility.doubt(self._supported(self._credibility.failed())))
        if cycle.is_refused:
            phi = max(phi, _REFUSED_PHI)
        self._latest[node_id] = max(phi, 0.0)
        return phi + streak * REPEATED_FAILURE

    def _supported(self, targets: Iterable[str]) -> list[str]:
        """Return those whose silence somebody else has met too."""
        return [target for target in targets if self._docket.is_supported(target, self._local_id)]

    def reconsider(self, give_up_after: float, now: float) -> list[ClusterEvent]:
        """Begin or end an episode of being cut off; who comes back lets all suspicions begin again."""
        outcomes = self._credibility.recent()
        failed = [target for target, has_failed in outcomes if has_failed]
        is_isolated = looks_isolated(outcomes, self._supported(failed), len(self._peers))
        if is_isolated == self.isolation.is_on:
            return []
        if is_isolated:
            self.isolation.begin(failed, give_up_after, now)
            return [SelfIsolated(failed=tuple(failed), at=now)]
        self.isolation.end()
        self._docket.delay(0.0, now, judge_from=now, is_long=True)
        return []

    def given_up(self, now: float) -> list[NodeInfo]:
        """Return whom to give up, when it is time for that."""
        nodes = [self._peers.get(node_id) for node_id in self.isolation.give_up(list(self._peers), now)]
        return [node for node in nodes if node is not None]
