"""Paths that do not work though both ends do: one-way links, and peers whose datagrams pass while their calls fail.

The rules of this file:

* A member that answers helpers but not this node is alive. It is probed again in the next periods, and when it has been
  silent to this node for more than three of them, the link is degraded. That is said once, until it answers directly.
* Calls that fail several times within a while, for want of a connection, say the same of a member that answers pings.
  That is said once, until something of it arrives on a connection.
"""

from __future__ import annotations

import attrs

from rpcnet.events import ClusterEvent, LinkDegraded, NodeInfo

__all__ = ["LinkWatch"]

_SILENT_PERIODS = 3.0
_FAILED_CALLS = 3
_WINDOW_PERIODS = 60.0  # a dial that nobody answers takes several periods
_MAX_WATCHED = 1024


@attrs.define(eq=False)
class _Trouble:
    since: float
    count: int = 0
    is_said: bool = False


class LinkWatch:
    """The links of this node that are in doubt.

    Args:
        local_id: this node's id.
        period: seconds between probes.
    """

    def __init__(self, local_id: str, period: float) -> None:
        self._local_id = local_id
        self._period = period
        self._indirect: dict[str, _Trouble] = {}
        self._calls: dict[str, _Trouble] = {}

    def answered_through_others(self, node: NodeInfo, since: float, now: float) -> list[ClusterEvent]:
        """Take note that a cycle begun at ``since`` was answered to a helper only."""
        trouble = _watch(self._indirect, node.id, since)
        if trouble.is_said or now - trouble.since <= _SILENT_PERIODS * self._period:
            return []
        return [self._say(trouble, node, "it answers others, but not this node", now)]

    def is_to_be_tried_again(self, node_id: str) -> bool:
        """Tell whether a member answers only through others and nothing was said of that yet."""
        trouble = self._indirect.get(node_id)
        return trouble is not None and not trouble.is_said

    def answered_directly(self, node_id: str) -> None:
        """Take note of a direct answer."""
        self._indirect.pop(node_id, None)

    def call_failed(self, node: NodeInfo, reason: str, now: float, *, is_answering: bool) -> list[ClusterEvent]:
        """Take note that a call found no connection.

        Args:
            node: whom it was for.
            reason: what went wrong.
            now: Trio time.
            is_answering: whether the latest probe of it was answered and nobody suspects it.
        """
        trouble = _watch(self._calls, node.id, now)
        if not trouble.is_said and not 0.0 <= now - trouble.since <= _WINDOW_PERIODS * self._period:
            trouble.since, trouble.count = now, 0
        trouble.count += 1
        if trouble.is_said or trouble.count < _FAILED_CALLS or not is_answering:
            return []
        return [self._say(trouble, node, f"calls fail, though pings are answered: {reason}", now)]

    def heard(self, node_id: str) -> None:
        """Take note that something of a member arrived on a connection."""
        self._calls.pop(node_id, None)

    def forget(self, node_id: str) -> None:
        """Forget a node that is no member any more."""
        self._indirect.pop(node_id, None)
        self._calls.pop(node_id, None)

    def delay(self, lag: float) -> None:
        """Leave out the time for which this node itself stood still."""
        for trouble in self._indirect.values():
            trouble.since += lag

    def _say(self, trouble: _Trouble, node: NodeInfo, reason: str, now: float) -> ClusterEvent:
        trouble.is_said = True
        return LinkDegraded(node=node, observer=self._local_id, reason=reason, at=now)


def _watch(table: dict[str, _Trouble], node_id: str, since: float) -> _Trouble:
    """Return what is noted of a node, which is little at first; the oldest note goes when there are too many."""
    trouble = table.get(node_id)
    if trouble is None:
        if len(table) >= _MAX_WATCHED:
            del table[next(iter(table))]
        trouble = table[node_id] = _Trouble(since)
    return trouble
