"""Who votes on what becomes of a partition, and which of the voters are lost.

The rules of this file:

* The *voters* are the members that were there at the last stable point. Who joins later has no vote until the next one.
* A voter is *lost* while it is failed, and while it is suspect for longer than a refutation takes to come round. So
  the suspicions that fly about when two parts meet again, and are refuted at once, are no losses.
* Who said goodbye has no vote any more. Who was restarted is the same voter, and as old as at the stable point.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from rpcnet.events import NodeEvent, NodeFailed, NodeInfo, NodeLeft, NodeReaped, NodeState, NodeUpdated
from rpcnet.selectors import Selector

from .deference import Company

__all__ = ["Voters"]


@attrs.define(eq=False)
class Voters:
    """What one node sees of the members, fed with what membership says."""

    local_id: str
    """This node, which is never lost and always there, even while it says goodbye."""
    nodes: dict[str, NodeInfo]
    """The nodes that are present, and the voters that are failed; by id."""
    boots: Mapping[str, int]
    """The voters: boot ids of the last stable point, by node id. Never changed in place."""
    selector: Selector
    """Which nodes a static quorum counts."""
    lost: dict[str, float] = attrs.field(factory=dict)
    """Since when those voters are suspect or failed that are lost."""
    doubted: dict[str, float] = attrs.field(factory=dict)
    """Since when those voters are suspect that may yet refute it, the oldest suspicion first."""
    forgotten: dict[str, None] = attrs.field(factory=dict)
    """Those lost voters that membership has forgotten."""
    _matching: dict[str, None] = attrs.field(factory=dict, init=False)
    _halted: dict[str, bool] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        """Count the nodes that match."""
        for node in list(self.nodes.values()):
            self.put(node)

    # --- reading

    def failed(self) -> dict[str, float]:
        """Return the voters that are declared failed."""
        return {node_id: at for node_id, at in self.lost.items() if self.nodes[node_id].state is NodeState.FAILED}

    def infos(self, node_ids: Iterable[str]) -> tuple[NodeInfo, ...]:
        """Return nodes by their ids, sorted."""
        return tuple(self.nodes[node_id] for node_id in sorted(node_ids))

    def alive(self) -> tuple[NodeInfo, ...]:
        """Return the nodes that are not even suspected, sorted by id."""
        return self.infos(node_id for node_id, node in self.nodes.items() if node.state is NodeState.ALIVE)

    def present(self) -> list[str]:
        """Return the ids of the nodes that are not declared failed."""
        return [node_id for node_id, node in self.nodes.items() if node.is_usable]

    def n_matching(self, lost: Iterable[str]) -> int:
        """Return how many nodes match the selector, the ``lost`` ones not counted."""
        return len(self._matching) - sum(node_id in self._matching for node_id in lost)

    def zones(self, tag: str, lost: Mapping[str, object]) -> tuple[str, ...]:
        """Return the values of a tag that only the ``lost`` nodes have, sorted."""
        gone = {self.nodes[node_id].tags.get(tag) for node_id in lost}
        kept = {node.tags.get(tag) for node_id, node in self.nodes.items() if node_id not in lost}
        return tuple(sorted(zone for zone in gone - kept if zone is not None))

    def company(self) -> Company:
        """Return what the others that are neither failed nor lost say of themselves."""
        said = [follows for node_id, follows in self._halted.items() if self._is_here(node_id)]
        return Company(n_halted=len(said) - sum(said), n_following=sum(said))

    def n_free(self) -> int:
        """Return how many of the same are not halted."""
        return sum(self._is_here(node_id) and node_id not in self._halted for node_id in self.nodes) - 1

    def _is_here(self, node_id: str) -> bool:
        return self.nodes[node_id].is_usable and node_id not in self.lost

    # --- changing

    def put(self, node: NodeInfo) -> None:
        """Keep the latest information on a node."""
        self.nodes[node.id] = node
        if self.selector.matches(node.tags):
            self._matching[node.id] = None
        else:
            self._matching.pop(node.id, None)
        if node.is_halted and node.id != self.local_id:
            self._halted[node.id] = node.is_following
        else:
            self._halted.pop(node.id, None)

    def _remove(self, node_id: str) -> None:
        self.nodes.pop(node_id, None)
        self._matching.pop(node_id, None)
        self._halted.pop(node_id, None)
        self.forgotten.pop(node_id, None)

    def apply(self, event: NodeEvent, now: float, *, keeps_forgotten: bool) -> bool:
        """Take in one event; ``keeps_forgotten`` is whether a node that membership forgets goes on voting.

        Returns:
            Whether it is a change: a stable point comes some time after the last of them.
        """
        node = event.node
        if node.id == self.local_id:
            self.put(attrs.evolve(node, state=NodeState.ALIVE))
            return False
        before = self.nodes.get(node.id)
        match event:
            case NodeLeft():
                self._drop([node.id])
            case NodeReaped():
                if not keeps_forgotten:
                    self._drop([node.id])
                elif node.id in self.lost:
                    self.forgotten[node.id] = None
            case NodeUpdated():
                if before is not None:
                    self.put(node)
                return before is not None and _halt(before) != _halt(node)
            case _:
                self._account(node, now)
                return isinstance(event, NodeFailed) or before is None or not before.is_usable
        return True

    def reset(self, known: Mapping[str, NodeInfo], now: float, *, keeps_forgotten: bool) -> None:
        """Take over all nodes as membership remembers them, departed ones included; the votes stay."""
        gone = [node_id for node_id in self.boots if node_id not in known and node_id != self.local_id]
        if keeps_forgotten:
            self.forgotten.update({node_id: None for node_id in gone if node_id in self.lost})
            gone = []
        left = [node_id for node_id, node in known.items() if node.state is NodeState.LEFT]
        self._drop(gone + left)
        strangers = [node_id for node_id in self.nodes if node_id not in known and node_id not in self.boots]
        self._drop(strangers)
        for node in known.values():
            if node.id != self.local_id and node.state is not NodeState.LEFT:
                self._account(node, now)

    def _account(self, node: NodeInfo, now: float) -> None:
        self.put(node)
        self.forgotten.pop(node.id, None)
        if node.id not in self.boots:
            if not node.is_usable:
                self._remove(node.id)
        elif node.state is NodeState.ALIVE:
            self.lost.pop(node.id, None)
            self.doubted.pop(node.id, None)
        elif node.state is NodeState.FAILED:
            self.lost.setdefault(node.id, self.doubted.pop(node.id, now))
        elif node.id not in self.lost:
            self.doubted.setdefault(node.id, now)

    def _drop(self, gone: list[str]) -> None:
        dropped = {node_id: None for node_id in gone if node_id != self.local_id}
        for node_id in dropped:
            self._remove(node_id)
            self.lost.pop(node_id, None)
            self.doubted.pop(node_id, None)
        if any(node_id in self.boots for node_id in dropped):
            self.boots = {node_id: boot for node_id, boot in self.boots.items() if node_id not in dropped}

    def give_up_forgotten(self) -> None:
        """Let those not vote any more that membership has forgotten."""
        self._drop(list(self.forgotten))

    def lose(self, before: float) -> None:
        """Count those as lost that were suspected at ``before`` or earlier, and are still."""
        for node_id, at in list(self.doubted.items()):
            if at > before:
                break
            self.lost[node_id] = self.doubted.pop(node_id)

    def rebase(self) -> None:
        """Let exactly those vote that are members now."""
        for node_id in [node_id for node_id, node in self.nodes.items() if not node.is_usable]:
            self._remove(node_id)
        self.boots = {node_id: node.boot_id for node_id, node in self.nodes.items()}
        self.lost = {node_id: at for node_id, at in self.lost.items() if node_id in self.nodes}


def _halt(node: NodeInfo) -> tuple[bool, bool]:
    return node.is_halted, node.is_following
