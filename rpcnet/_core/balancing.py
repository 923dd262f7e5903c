"""Load balancing: which of the nodes that may take a call takes it.

The rules of this file:

* A strategy is one pure decision over an immutable view. It never waits, and what it remembers is bounded.
* One instance serves every service and selector of a client, and is fair for each set of candidates by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, TypeVar

import attrs

from rpcnet.events import NodeInfo

if TYPE_CHECKING:
    from random import Random as Rng

_K = TypeVar("_K")
_V = TypeVar("_V")

__all__ = ["LeastConnections", "LoadBalancingStrategy", "Random", "RoundRobin", "WorkerView"]

_MAX_ROTATIONS = 256
"""Sets of candidates that a RoundRobin remembers. The longest known one is forgotten and starts again at random."""


def _unknown(_node_id: str) -> float | None:
    return None


@attrs.frozen(eq=False)
class WorkerView:
    """What a strategy may look at when it decides."""

    nodes: tuple[NodeInfo, ...]
    """The candidates, at least one; they match the service and the selector, and none is known to be down."""
    active: Mapping[str, int]
    """Calls in flight from this client, by node id; nodes without any are missing."""
    rng: Rng
    """The only source of randomness a strategy may use."""
    rtt_of: Callable[[str], float | None] = _unknown
    """Estimates the round trip to a node by its id, in seconds; None where nothing is known of it."""

    def active_calls(self, node_id: str) -> int:
        """Return how many calls of this client are in flight on a node."""
        return self.active.get(node_id, 0)

    def rtt(self, node_id: str) -> float | None:
        """Return the round trip to a node in seconds, measured or foretold from coordinates; None if unknown.

        Clients that are no members of the cluster know none.
        """
        return self.rtt_of(node_id)


class LoadBalancingStrategy(Protocol):
    """Chooses a worker for one call. Anything with this method is a strategy."""

    def select(self, workers: WorkerView) -> NodeInfo:
        """Return one of ``workers.nodes``."""
        ...


class Random:
    """Chooses any worker, each with the same probability."""

    def select(self, workers: WorkerView) -> NodeInfo:
        """Return one of ``workers.nodes``."""
        nodes = workers.nodes
        return nodes[int(workers.rng.random() * len(nodes))]


_TRIES = 8
"""How many workers are looked at before all of them are."""


class LeastConnections:
    """Chooses the worker with the fewest calls of this client in flight; equals share at random.

    While most workers are idle a choice costs the same for ten as for ten thousand: an idle worker that is found at
    random is as good as any. Only when none is found soon, all of them are looked at.
    """

    def select(self, workers: WorkerView) -> NodeInfo:
        """Return one of ``workers.nodes``."""
        nodes, active = workers.nodes, workers.active
        if len(active) < len(nodes):
            random = workers.rng.random
            for _ in range(_TRIES):
                node = nodes[int(random() * len(nodes))]
                if node.id not in active:
                    return node
        counts = [active.get(node.id, 0) for node in nodes]
        least = min(counts)
        ties = counts.count(least)
        if ties == 1:
            return nodes[counts.index(least)]
        chosen = int(workers.rng.random() * ties)
        return [node for node, count in zip(nodes, counts, strict=True) if count == least][chosen]


@attrs.define(eq=False)
class _Rotation:
    turn: int


class RoundRobin:
    """Chooses the workers in turn.

    Every set of candidates has a rotation of its own, which begins at a random worker, so that many clients do not
    all begin with the same one.
    """

    def __init__(self) -> None:
        self._rotations: dict[tuple[str, ...], _Rotation] = {}
        # Snapshots hand out the same tuple again and again: known by identity, it need not be compared by content.
        self._known: dict[int, tuple[tuple[NodeInfo, ...], _Rotation]] = {}

    def select(self, workers: WorkerView) -> NodeInfo:
        """Return one of ``workers.nodes``."""
        nodes = workers.nodes
        known = self._known.get(id(nodes))
        rotation = known[1] if known is not None else self._find(workers)
        turn = rotation.turn
        rotation.turn = (turn + 1) % len(nodes)
        return nodes[turn]

    def _find(self, workers: WorkerView) -> _Rotation:
        nodes = workers.nodes
        ids = tuple([node.id for node in nodes])
        rotation = self._rotations.get(ids)
        if rotation is None:
            rotation = _Rotation(int(workers.rng.random() * len(nodes)))
            _put(self._rotations, ids, rotation)
        _put(self._known, id(nodes), (nodes, rotation))  # holding the tuple keeps its identity from being used again
        return rotation


def _put(memory: dict[_K, _V], key: _K, value: _V) -> None:
    if len(memory) >= _MAX_ROTATIONS:
        del memory[next(iter(memory))]
    memory[key] = value
