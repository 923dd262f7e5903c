"""What must hold at every step of every simulated run, whatever the scenario.

The rules of this file:

* The checks look inside the machines, as nobody else may, and cost a constant each, so that they stay on in large runs.
* A broken invariant ends the run with :class:`InvariantBroken`; the text says which, who and when.
* Only the owner raises its (boot id, incarnation) and meta version: every record that a machine is told is compared
  with what its owner says of itself.
* No update is sent more often than the transmit limit, none twice in one datagram; one per subject is queued at most.
* Per listener and subject: joined first, failed and left only after it, and never back in time.
* No member waits for a probe longer than ``2N - 1`` periods.
"""

# ruff: noqa: SLF001 - the checks look inside the machines, see above

from __future__ import annotations

from array import array
from collections.abc import Callable, Container, Iterable, Sequence
from typing import TYPE_CHECKING

from rpcnet._core.gossip import GossipQueue, RefreshQueue
from rpcnet._core.members import MemberRecord
from rpcnet._core.messages import AGE_BYTES, MAX_PAYLOAD_BYTES, Accusation
from rpcnet._core.roster import Origin, Roster
from rpcnet.events import (
    ClusterEvent,
    NodeEvent,
    NodeFailed,
    NodeJoined,
    NodeLeft,
    NodeReaped,
    NodeReplaced,
    NodeState,
)

if TYPE_CHECKING:
    from .machines import Machines

__all__ = ["InvariantBroken", "Order", "ProbeGaps", "check_size", "watch"]

Position = tuple[int, int, int]
_ROUNDING = 1.02
_REFRESH_LIMIT = 6
_MAX_COUNTED = 4096


class InvariantBroken(AssertionError):
    """Something happened that must never happen, in any scenario."""


def check_size(payload: bytes) -> None:
    """Check that a datagram fits into what every path carries."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise InvariantBroken(f"a datagram of {len(payload)} bytes before sealing, at most {MAX_PAYLOAD_BYTES}")


# --- inside the machines


def watch(machines: Machines, owner_of: Callable[[str], MemberRecord]) -> None:
    """Check what the membership machine of one node is told and what it hands out, from now on.

    Args:
        machines: the node's.
        owner_of: returns what a node says of itself, by its id.
    """
    _watch_roster(machines.swim._roster, owner_of)
    _watch_queue(machines.swim._queue)
    _watch_refreshes(machines.swim._refreshes)


def _watch_roster(roster: Roster, owner_of: Callable[[str], MemberRecord]) -> None:
    apply = roster.apply

    def checked(
        record: MemberRecord, origin: Origin, accusations: Iterable[Accusation] = ()
    ) -> list[ClusterEvent] | None:
        owner = owner_of(record.id)
        if (record.boot_id, record.incarnation) > (owner.boot_id, owner.incarnation):
            raise InvariantBroken(f"{record.name} was raised by somebody else at {origin.at}: {record}")
        if (record.boot_id, record.meta_version) > (owner.boot_id, owner.meta_version):
            raise InvariantBroken(f"the tags of {record.name} were raised by somebody else at {origin.at}: {record}")
        return apply(record, origin, accusations)

    roster.apply = checked  # type: ignore[method-assign]


def _watch_queue(queue: GossipQueue) -> None:
    put, take = queue.put, queue.take
    counts: dict[str, int] = {}

    def checked_put(subject: str, update: bytes, born: float) -> None:
        counts[subject] = 0
        put(subject, update, born)
        if sum(map(len, queue._levels)) != len(queue):
            raise InvariantBroken(f"more than one update about {subject} is queued")

    def checked_take(
        budget_bytes: int,
        n_members: int,
        first_about: str | None = None,
        *,
        now: float,
        without: Container[str] = (),
    ) -> list[bytes]:
        taken = take(budget_bytes, n_members, first_about, now=now, without=without)
        if taken:
            _count(taken, counts, queue.transmit_limit(n_members))
        return taken

    queue.put = checked_put  # type: ignore[method-assign]
    queue.take = checked_take  # type: ignore[method-assign]


def _watch_refreshes(queue: RefreshQueue) -> None:
    put, take = queue.put, queue.take
    counts: dict[bytes, int] = {}

    def checked_put(subject: str, refresh: bytes, born: float) -> None:
        counts.pop(refresh, None)
        put(subject, refresh, born)

    def checked_take(budget_bytes: int, now: float) -> list[bytes]:
        taken = take(budget_bytes, now)
        for sent in taken:
            refresh = sent[AGE_BYTES:]
            counts[refresh] = counts.get(refresh, 0) + 1
            if counts[refresh] > _REFRESH_LIMIT:
                raise InvariantBroken(f"a refresh was sent more than {_REFRESH_LIMIT} times at {now}")
        if len(counts) > _MAX_COUNTED:
            for spent in list(counts)[: _MAX_COUNTED // 2]:
                del counts[spent]
        return taken

    queue.put = checked_put  # type: ignore[method-assign]
    queue.take = checked_take  # type: ignore[method-assign]


def _count(taken: Sequence[bytes], counts: dict[str, int], limit: int) -> None:
    subjects = [update[AGE_BYTES : AGE_BYTES + 16].hex() for update in taken]
    for subject in subjects:
        counts[subject] = counts.get(subject, 0) + 1
        if counts[subject] > limit:
            raise InvariantBroken(f"an update about {subject} was sent more than {limit} times")
    if len(set(subjects)) < len(subjects):
        raise InvariantBroken(f"one datagram carries two updates about one node: {subjects}")


# --- at the listener


class Order:
    """The order of the events that one node says about each other node.

    Args:
        known: where each node stands that this one knows from the beginning; shared, never changed.
    """

    __slots__ = ("_known", "_latest")

    def __init__(self, known: dict[str, Position]) -> None:
        self._known = known
        self._latest: dict[str, Position | None] = {}

    def check(self, event: NodeEvent) -> None:
        """Check the next event."""
        node = event.node
        before = self._latest[node.id] if node.id in self._latest else self._known.get(node.id)
        position = (node.boot_id, node.incarnation, node.meta_version)
        if isinstance(event, NodeJoined):
            is_right = before is None or position[:2] >= before[:2]
        else:
            is_right = before is not None and position[:2] >= before[:2]
            is_right = is_right and (before is None or position[0] > before[0] or position[2] >= before[2])
        if isinstance(event, NodeReplaced):
            is_right = is_right and node.boot_id > event.previous.boot_id
        if isinstance(event, NodeFailed | NodeLeft):
            expected = NodeState.FAILED if isinstance(event, NodeFailed) else NodeState.LEFT
            is_right = is_right and node.state is expected
        if not is_right:
            raise InvariantBroken(f"{type(event).__name__} out of order at {event.at}: {node}, after {before}")
        self._latest[node.id] = None if isinstance(event, NodeReaped) else position


class ProbeGaps:
    """How long one node lets each other one wait for a probe.

    Args:
        n_nodes: how many numbers of nodes there are.
        period: seconds between two probes.
        now: the time.
    """

    __slots__ = ("_last", "bound")

    def __init__(self, n_nodes: int, period: float, now: float) -> None:
        self._last = array("d", [now]) * n_nodes
        self.bound = (2 * n_nodes - 1) * period * _ROUNDING

    def excuse(self, now: float) -> None:
        """Start again, after the node itself stood still."""
        self._last = array("d", [now]) * len(self._last)

    def met(self, number: int, now: float) -> None:
        """Note that a node is new here, or is probed only from now on."""
        self._last[number] = now

    def check(self, number: int, now: float) -> None:
        """Check a probe."""
        if now - self._last[number] > self.bound:
            raise InvariantBroken(f"node {number} waited {now - self._last[number]:.1f} s for a probe, at {now}")
        self._last[number] = now

    def is_overdue(self, number: int, now: float) -> bool:
        """Tell whether a node waits for too long already."""
        return now - self._last[number] > self.bound
