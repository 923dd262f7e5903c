"""The members that this node may probe: in which order, and where in the network they stand.

The rules of this file:

* Probing is round robin in passes; each pass is a shuffle, drawn step by step, and who is new is put in at a random
  place. So no node waits longer than ``2N - 1`` periods (SWIM, section 4.3), and who is probed when cannot be
  foreseen.
* Nothing here is proportional to the number of members: the part of the list before the cursor has had its turn, the
  rest has not, and within each part the order is of no importance. Who goes leaves his place to the last one.
* A member costs a place in a list and a dict and four small floats in columns beside it, no object of its own: a
  simulation holds five thousand times five thousand of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from rpcnet._signals import Coordinates
from rpcnet.events import NodeInfo

if TYPE_CHECKING:
    import random

__all__ = ["Peers"]

_UNKNOWN = -1.0
_N_COLUMNS = 4  # x, y, height, error
_TRIES = 4


class Peers:
    """The other members, in the order in which they are probed."""

    def __init__(self) -> None:
        self._nodes: list[NodeInfo] = []
        self._index: dict[str, int] = {}
        self._columns = tuple(array("f") for _ in range(_N_COLUMNS))
        self._cursor = 0

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._index

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def get(self, node_id: str) -> NodeInfo | None:
        """Return a member as it was last heard of; None for one that is none."""
        at = self._index.get(node_id)
        return None if at is None else self._nodes[at]

    def put(self, node: NodeInfo, rng: random.Random) -> None:
        """Take in a member at a random place; one that is there already stays where it is."""
        at = self._index.get(node.id)
        if at is not None:
            self._nodes[at] = node
            return
        size = len(self._nodes)
        self._nodes.append(node)
        for column in self._columns:
            column.append(_UNKNOWN)
        self._index[node.id] = size
        if self._cursor and rng.randint(0, size) < self._cursor:
            self._swap(size, self._cursor)
            self._cursor += 1

    def fill(self, nodes: Sequence[NodeInfo]) -> None:
        """Take in the first members, all different, all at once."""
        if self._nodes:
            raise ValueError("there are members already")
        self._nodes = list(nodes)
        self._index = {node.id: at for at, node in enumerate(nodes)}
        self._columns = tuple(array("f", (_UNKNOWN,)) * len(nodes) for _ in range(_N_COLUMNS))

    def remove(self, node_id: str) -> None:
        """Take out a member, if it is there."""
        at = self._index.get(node_id)
        if at is None:
            return
        if at < self._cursor:
            self._cursor -= 1
            self._swap(at, self._cursor)
            at = self._cursor
        self._swap(at, len(self._nodes) - 1)
        self._nodes.pop()
        for column in self._columns:
            column.pop()
        del self._index[node_id]

    def next(self, rng: random.Random) -> NodeInfo | None:
        """Return the member whose turn it is; None when there is none."""
        if not self._nodes:
            return None
        if self._cursor >= len(self._nodes):
            self._cursor = 0
        self._swap(self._cursor, rng.randrange(self._cursor, len(self._nodes)))
        self._cursor += 1
        return self._nodes[self._cursor - 1]

    def sample(self, count: int, rng: random.Random, is_able: Callable[[str], bool]) -> list[NodeInfo]:
        """Return up to ``count`` different members that are able, at random, after a bounded search."""
        nodes = self._nodes
        if len(nodes) <= _TRIES * count:
            able = [node for node in nodes if is_able(node.id)]
            return rng.sample(able, min(count, len(able)))
        found: dict[str, NodeInfo] = {}
        for _ in range(_TRIES * count):
            node = nodes[rng.randrange(len(nodes))]
            if node.id not in found and is_able(node.id):
                found[node.id] = node
                if len(found) == count:
                    break
        return list(found.values())

    def place(self, node_id: str, coordinates: Coordinates) -> None:
        """Note where a member stands; coordinates must be checked before."""
        at = self._index.get(node_id)
        if at is not None:
            for column, value in zip(self._columns, coordinates, strict=True):
                column[at] = value

    def coordinates(self, node_id: str) -> Coordinates | None:
        """Return where a member stands, to six digits; None if that is not known."""
        at = self._index.get(node_id)
        x, y, height, error = self._columns
        return None if at is None or error[at] < 0.0 else (x[at], y[at], height[at], error[at])

    def _swap(self, i: int, j: int) -> None:
        if i == j:
            return
        nodes = self._nodes
        nodes[i], nodes[j] = nodes[j], nodes[i]
        self._index[nodes[i].id], self._index[nodes[j].id] = i, j
        for column in self._columns:
            column[i], column[j] = column[j], column[i]
