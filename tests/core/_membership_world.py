"""Worlds for tests of membership and failure detection: the simulator's, with words for what tests ask."""

from __future__ import annotations

from collections.abc import Iterable

from rpcnet._simulator.world import World
from rpcnet.events import ClusterEvent, NodeEvent, NodeState


class Town(World):
    """A simulated world that remembers what every node said."""

    def __init__(self, seed: int, n: int, *, loss: float = 0.0, duplication: float = 0.0) -> None:
        self.said: list[tuple[int, ClusterEvent]] = []
        super().__init__(seed, n, loss=loss, duplication=duplication)
        self.tap = lambda number, event: self.said.append((number, event))

    def start_all(self, *, interval: float = 0.0) -> None:
        """Start all nodes, the others joining through the first."""
        self.start(0)
        for number in range(1, self.n_nodes):
            self.run(interval)
            self.start(number, seeds=[0])

    def states(self, observer: int) -> dict[int, NodeState]:
        """What one node believes of all, itself included."""
        return {self.number(node.id): node.state for node in self.hosts[observer].machines.swim.members()}

    def alive(self, observer: int) -> set[int]:
        return {number for number, state in self.states(observer).items() if state is NodeState.ALIVE}

    def everyone_sees(self, expected: Iterable[int]) -> bool:
        wanted = set(expected)
        return all(self.alive(host.number) == wanted for host in self.live())

    def all_know(self, number: int, state: NodeState) -> bool:
        return all(self.states(host.number).get(number) is state for host in self.live())

    def heard(self, kind: type[NodeEvent], observer: int | None = None) -> list[NodeEvent]:
        return [event for number, event in self.said if isinstance(event, kind) and observer in (None, number)]

    def subjects(self, kind: type[NodeEvent]) -> set[int]:
        """Whom such events were about."""
        return {self.number(event.node.id) for event in self.heard(kind)}


def settled(seed: int, n: int, *, loss: float = 0.0, duplication: float = 0.0) -> Town:
    """A world whose ``n`` nodes have all met, and probed for a while."""
    town = Town(seed, n, loss=loss, duplication=duplication)
    town.start_all()
    town.run_until(lambda: town.everyone_sees(range(n)), within=30)
    town.run(5)
    return town
