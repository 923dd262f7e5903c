"""The registry: what is known of every node, as snapshots that readers keep and never lock.

The rules of this file:

* A snapshot never changes. What was selected from it is remembered inside it, so that a call pays for a selector once
  per change of the cluster and not once per call.
* Events are applied in order; one that is older than what is held about its node changes nothing.
* Calls go to alive nodes. Suspected ones are used when no alive one matches, failed and departed ones never. A node
  that drains advertises no services and so is no worker.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from rpcnet.events import ClusterEvent, NodeEvent, NodeInfo, NodeReaped, NodeState
from rpcnet.selectors import Selector
from rpcnet.service import BUILTIN_PREFIX

__all__ = ["RegistryMachine", "RegistrySnapshot"]

_MAX_REMEMBERED = 256
"""Selections that one snapshot remembers. A program has a few selectors; one that makes them up per call has no end."""


class RegistrySnapshot:
    """All nodes at one moment. Immutable, and cheap to ask.

    Args:
        nodes: every node, in any order.
    """

    __slots__ = ("_by_id", "_by_name", "_by_service", "_selected", "nodes")

    nodes: tuple[NodeInfo, ...]
    """Every node, sorted by name."""

    def __init__(self, nodes: Iterable[NodeInfo] = ()) -> None:
        self.nodes = tuple(sorted(nodes, key=_order))
        self._by_id = {node.id: node for node in self.nodes}
        self._by_name = {node.name: node for node in self.nodes}
        self._by_service: Mapping[str, tuple[NodeInfo, ...]] | None = None
        self._selected: dict[tuple[str | None, Selector], tuple[NodeInfo, ...]] = {}

    def __repr__(self) -> str:
        states = ", ".join(f"{node.name}={node.state.value}" for node in self.nodes)
        return f"RegistrySnapshot({states})"

    def get(self, id_or_name: str) -> NodeInfo | None:
        """Return the node with this id or name, or None."""
        return self._by_id.get(id_or_name) or self._by_name.get(id_or_name)

    def alive(self) -> tuple[NodeInfo, ...]:
        """Return the alive nodes, sorted by name."""
        return self.where(Selector(), NodeState.ALIVE)

    def where(self, selector: Selector, state: NodeState | None = None) -> tuple[NodeInfo, ...]:
        """Return the nodes whose tags match, sorted by name; of any state, or only of ``state``."""
        return tuple(
            [node for node in self.nodes if (state is None or node.state is state) and selector.matches(node.tags)]
        )

    def services(self) -> Mapping[str, tuple[NodeInfo, ...]]:
        """Return the usable nodes of each service, by the service's name; both sorted by name."""
        if self._by_service is None:
            found: dict[str, list[NodeInfo]] = {}
            for node in self.nodes:
                if node.is_usable:
                    for service in node.services:
                        found.setdefault(service, []).append(node)
            self._by_service = MappingProxyType({service: tuple(found[service]) for service in sorted(found)})
        return self._by_service

    def workers(self, service: str | None, where: Selector) -> tuple[NodeInfo, ...]:
        """Return the nodes that a call may go to, sorted by name.

        Args:
            service: the name of the service; None for nodes that serve anything.
            where: what their tags must match.

        Returns:
            The alive ones that keep up; if there are none, those that are degraded by their own account; failing that,
            the suspected ones. As long as the snapshot is the same, the same question gives the same tuple.
        """
        key = (service, where)
        found = self._selected.get(key)
        if found is None:
            if len(self._selected) >= _MAX_REMEMBERED:
                self._selected.clear()
            found = self._selected[key] = self._select(service, where)
        return found

    def _select(self, service: str | None, where: Selector) -> tuple[NodeInfo, ...]:
        if service is None:
            serving = tuple([node for node in self.nodes if node.services and node.is_usable])
        elif service.startswith(BUILTIN_PREFIX):
            serving = tuple([node for node in self.nodes if node.is_usable])
        else:
            serving = self.services().get(service, ())
        matching = [node for node in serving if where.matches(node.tags)]
        alive = [node for node in matching if node.state is NodeState.ALIVE]
        return tuple([node for node in alive if not node.is_degraded] or alive or matching)


def _order(node: NodeInfo) -> tuple[str, str]:
    return (node.name, node.id)


class RegistryMachine:
    """Keeps the newest state of every node from the events about them."""

    def __init__(self) -> None:
        self._nodes: dict[str, NodeInfo] = {}
        self._order: list[tuple[str, str]] = []
        self._snapshot: RegistrySnapshot | None = RegistrySnapshot()

    def apply(self, event: ClusterEvent) -> bool:
        """Take in an event; events that are not about a node change nothing.

        Returns:
            Whether the next snapshot differs from the last one.
        """
        if not isinstance(event, NodeEvent):
            return False
        node, held = event.node, self._nodes.get(event.node.id)
        if held is not None and _age(node) < _age(held):
            return False
        if isinstance(event, NodeReaped):
            return self._forget(held)
        if node == held:
            return False
        if held is None or held.name != node.name:
            self._forget(held)
            bisect.insort(self._order, _order(node))
        self._nodes[node.id] = node
        self._snapshot = None
        return True

    def reset(self, nodes: Iterable[NodeInfo]) -> bool:
        """Replace everything, as after lost events.

        Returns:
            Whether the next snapshot differs from the last one.
        """
        fresh = {node.id: node for node in nodes}
        if fresh == self._nodes:
            return False
        self._nodes = fresh
        self._order = sorted(map(_order, fresh.values()))
        self._snapshot = None
        return True

    def snapshot(self) -> RegistrySnapshot:
        """Return all nodes as they are now; the same object until something changes."""
        if self._snapshot is None:
            self._snapshot = RegistrySnapshot([self._nodes[node_id] for _, node_id in self._order])
        return self._snapshot

    def _forget(self, held: NodeInfo | None) -> bool:
        if held is None:
            return False
        del self._nodes[held.id]
        del self._order[bisect.bisect_left(self._order, _order(held))]
        self._snapshot = None
        return True


def _age(node: NodeInfo) -> tuple[int, int]:
    return (node.boot_id, node.incarnation)
