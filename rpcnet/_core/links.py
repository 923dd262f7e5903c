"""Paths that do not work though both ends do: one-way links, and peers whose datagrams pass while their calls fail.

The rules of this file:

* A member that answers helpers but not this node is alive. It is probed again in the next periods, and when it has been
  silent to this node for more than three of them, the link is degraded. That is said once, until it answers directly.
* Calls that fail several times within a while, for want of a connection, say the same of a member that answers pings.
  That is said once, until something of it arrives on a connection.
"""

from __future__ import annotations

import attrs

__all__ = ["LinkWatch"]

_SILENT_PERIODS = 3.0
_FAILED_CALLS = 3
_WINDOW_PERIODS = 10.0
_MAX_WATCHED = 1024


@attrs.define(eq=False)
class _Trouble:
    since: float
    count: int = 1
    is_said: bool = False


class LinkWatch:
    """The links of this node that are in doubt.

    Args:
        period: seconds between probes.
    """

    def __init__(self, period: float) -> None:
        self._period = period
        self._indirect: dict[str, _Trouble] = {}
        self._calls: dict[str, _Trouble] = {}

    def is_suspicious(self, node_id: str) -> bool:
        """Whether a member answers only through others and nothing was said of that yet: it is to be probed again."""
        trouble = self._indirect.get(node_id)
        return trouble is not None and not trouble.is_said

    def answered_through_others(self, node_id: str, since: float, now: float) -> bool:
        """Take note that a cycle begun at ``since`` was answered to a helper only; return whether to say so now."""
        trouble = self._watch(self._indirect, node_id, since)
        trouble.count += 1
        if trouble.is_said or now - trouble.since <= _SILENT_PERIODS * self._period:
            return False
        trouble.is_said = True
        return True

    def answered_directly(self, node_id: str) -> None:
        """Take note of a direct answer."""
        self._indirect.pop(node_id, None)

    def call_failed(self, node_id: str, now: float) -> bool:
        """Take note that a call found no connection; return whether that has become too many now."""
        trouble = self._calls.get(node_id)
        if trouble is None or (not trouble.is_said and now - trouble.since > _WINDOW_PERIODS * self._period):
            self._calls.pop(node_id, None)
            self._watch(self._calls, node_id, now)
            return False
        trouble.count += 1
        return not trouble.is_said and trouble.count >= _FAILED_CALLS

    def say_of_calls(self, node_id: str) -> None:
        """Take note that the application was told."""
        self._calls[node_id].is_said = True

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

    def _watch(self, table: dict[str, _Trouble], node_id: str, since: float) -> _Trouble:
        trouble = table.get(node_id)
        if trouble is None:
            if len(table) >= _MAX_WATCHED:
                del table[next(iter(table))]
            trouble = table[node_id] = _Trouble(since)
        return trouble
