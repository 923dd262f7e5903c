"""How the machines of one node are put together: what each of them hears, as the tasks' bus delivers it.

The rules of this file:

* Who says and who hears what is the table in ``docs/architecture.md``. Here an event goes to its hearers at once, in
  the order in which it was said; nothing is merged or lost.
* This is the one place of the simulator that knows the verbs of the machines.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from rpcnet._core.detector import DetectorMachine
from rpcnet._core.members import MemberRecord
from rpcnet._core.swim import Effect, SwimMachine
from rpcnet._signals import Accused, PeerHeard, ProbeAnswered, ProbeDue, Suspicion, Verdict
from rpcnet.config import NodeConfig
from rpcnet.events import ClusterEvent, NodeEvent, NodeInfo

__all__ = ["Machines", "Outcome"]

Outcome = Effect | ClusterEvent
Hearer = Callable[[ClusterEvent, float], Sequence[Outcome]]

_DETECTOR_HEARS = (NodeEvent, ProbeAnswered, Accused, PeerHeard)


class Machines:
    """The membership machine and the failure detector of one node.

    Args:
        local: the node's record.
        config: its settings.
        rng: where its chance comes from.
        now: the time.
        seeds: addresses that it tries again for ever.
        known: records of the other nodes, when it is to know them already and they know it.
        nodes: the same as users see them.
    """

    def __init__(
        self,
        *,
        local: MemberRecord,
        config: NodeConfig,
        rng: random.Random,
        now: float,
        seeds: Sequence[str] = (),
        known: Sequence[MemberRecord] = (),
        nodes: Sequence[NodeInfo] = (),
    ) -> None:
        self.config = config
        self._rng = rng
        self.swim = SwimMachine(local=local, config=config.gossip, rng=rng, now=now, seeds=seeds, known=known)
        self.detector = DetectorMachine(
            local_id=local.id, config=config.detector, gossip=config.gossip, rng=rng, now=now
        )
        self.detector.reset(nodes, now)
        self._routes: dict[type[ClusterEvent], tuple[Hearer, ...]] = {}

    def route(self, event: ClusterEvent, now: float) -> list[Outcome]:
        """Give an event to the machines that listen for it; return what they say to that."""
        hearers = self._routes.get(type(event))
        if hearers is None:
            hearers = self._routes[type(event)] = tuple(self._hearers(event))
        outcomes: list[Outcome] = []
        for hear in hearers:
            outcomes += hear(event, now)
        return outcomes

    def _hearers(self, event: ClusterEvent) -> list[Hearer]:
        orders: dict[type[ClusterEvent], Callable[..., Sequence[Outcome]]] = {
            ProbeDue: self.swim.probe_due,
            Suspicion: self.swim.suspicion,
            Verdict: self.swim.verdict,
            PeerHeard: self.swim.peer_heard,
        }
        found: list[Hearer] = [orders[type(event)]] if type(event) in orders else []
        if isinstance(event, _DETECTOR_HEARS):
            found.append(self.detector.handle)
        return found

    def next_timer(self) -> float:
        """Return when :meth:`on_timer` has something to do."""
        swim, detector = self.swim.next_timer(), self.detector.next_timer()
        return swim if detector is None or swim < detector else detector

    def on_timer(self, now: float) -> list[Outcome]:
        """Do what is due."""
        outcomes: list[Outcome] = []
        outcomes += self.swim.on_timer(now)
        outcomes += self.detector.on_timer(now)
        return outcomes

    def restart_membership(self, now: float) -> None:
        """Replace the membership machine, as its supervisor does after its task has failed."""
        old, rng = self.swim, random.Random(self._rng.random())
        local = MemberRecord(
            **{field: getattr(old.local, field) for field in ("id", "name", "address", "tags", "services")},
            boot_id=old.local.boot_id + 1,
        )
        self.swim = SwimMachine(local=local, config=self.config.gossip, rng=rng, now=now, known=old.records())
        self.detector.reset(self.swim.members(), now)
        self._routes.clear()
