"""A failure detector and a cluster whose members answer it, in virtual time."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TypeVar

import attrs

from rpcnet._core.detector import DetectorMachine
from rpcnet._core.probing import Cycle
from rpcnet._core.suspicion import Case, is_juror
from rpcnet._signals import Accused, Coordinates, ProbeAnswered, ProbeDue, Suspicion
from rpcnet.config import DetectorConfig, GossipConfig
from rpcnet.events import ClusterEvent, NodeInfo, NodeState, NodeSuspected

E = TypeVar("E", bound=ClusterEvent)


def info(name: str, **changes: object) -> NodeInfo:
    base = NodeInfo(id=name, name=name, address=f"{name}:1", boot_id=1, incarnation=0, state=NodeState.ALIVE)
    return attrs.evolve(base, **changes)  # type: ignore[arg-type]


def names(n: int) -> list[str]:
    return [f"n{i:02}" for i in range(n)]


class Bench:
    """A detector, and a cluster whose members answer after a millisecond unless they are silent."""

    def __init__(self, others: Iterable[str], *, seed: int = 1, **config: float) -> None:
        self.machine = DetectorMachine(
            local_id="me",
            config=DetectorConfig(**config),  # type: ignore[arg-type]
            gossip=GossipConfig(),
            rng=random.Random(seed),
            now=0.0,
        )
        self.now = 0.0
        self.silent: set[str] = set()
        self.rtt = 0.001
        self.stands: dict[str, Coordinates] = {}
        self.said: list[ClusterEvent] = []
        self.machine.reset([info("me"), *(info(name) for name in others)], 0.0)

    def hear(self, event: ClusterEvent) -> list[ClusterEvent]:
        return self._take(self.machine.handle(event, self.now))

    def run(self, seconds: float) -> list[ClusterEvent]:
        """Let time pass, timers coming exactly when they are due; return what was said meanwhile."""
        start, end = len(self.said), self.now + seconds
        while (timer := self.machine.next_timer()) is not None and timer <= end:
            self.now = max(self.now, timer)
            self._take(self.machine.on_timer(self.now))
        self.now = end
        return self.said[start:]

    def _take(self, events: list[ClusterEvent]) -> list[ClusterEvent]:
        self.said += events
        for event in events:
            if isinstance(event, ProbeDue) and event.node_id not in self.silent:
                self.now += self.rtt
                self.answer(event)
        return events

    def answer(self, probe: ProbeDue, *, via: str | None = None) -> list[ClusterEvent]:
        stands = None if via else self.stands.get(probe.node_id)
        answered = ProbeAnswered(node_id=probe.node_id, seq=probe.seq, via=via, coordinates=stands, at=self.now)
        return self.hear(answered)

    def suspect(self, name: str, *accusers: str, phi: float = 3.0, incarnation: int = 0) -> list[ClusterEvent]:
        node = info(name, state=NodeState.SUSPECT, incarnation=incarnation)
        said = self.hear(NodeSuspected(node=node, phi=phi, accusers=accusers, at=self.now))
        for accuser in accusers:
            self.accuse(name, accuser, phi, incarnation=incarnation)
        return said

    def miss(self, name: str, *accusers: str, incarnation: int = 0) -> list[ClusterEvent]:
        """Let a node be suspected that does not answer this one either."""
        self.silent.add(name)
        return self.suspect(name, "me", *accusers, incarnation=incarnation)

    def accuse(self, name: str, accuser: str, phi: float = 3.0, *, incarnation: int = 0, refused: bool = False) -> None:
        accused = Accused(
            node_id=name,
            boot_id=1,
            incarnation=incarnation,
            accuser=accuser,
            phi=phi,
            refused=refused,
            at=self.now,
        )
        self.hear(accused)

    def follow(self, suspicion: Suspicion) -> None:
        """Tell the detector what membership makes of its suspicion."""
        if suspicion.node_id not in self.machine._docket:
            self.suspect(suspicion.node_id, "me", phi=suspicion.phi)
        else:
            self.accuse(suspicion.node_id, "me", suspicion.phi)

    @property
    def cycles(self) -> dict[str, Cycle]:
        return self.machine._prober.cycles

    def case(self, name: str) -> Case:
        case = self.machine._docket.get(name)
        assert case is not None
        return case

    def phi(self, name: str) -> float:
        return self.machine.snapshot().phi(name, self.now)


def of(kind: type[E], events: list[ClusterEvent]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]


def suspicions(events: list[ClusterEvent]) -> list[Suspicion]:
    return [event for event in events if isinstance(event, Suspicion)]


def probes(events: list[ClusterEvent], name: str) -> list[ProbeDue]:
    return [event for event in events if isinstance(event, ProbeDue) and event.node_id == name]


def non_juror_of(name: str, n: int) -> bool:
    return not is_juror(name, 1, 0, juror_id="me", n_members=n)


def cycle_of(bench: Bench, name: str) -> list[ProbeDue]:
    """Let time pass until a whole cycle to a silent node has been sent; return its pings."""
    start = len(bench.said)
    while name not in bench.cycles or not bench.cycles[name].is_exhausted:
        bench.run(0.001)
    return probes(bench.said[start:], name)
