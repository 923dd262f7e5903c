"""The bus: how the tasks of a node, and the application, hear cluster events.

The rules of this file:

* Nobody waits to send. Publishing puts the event into every mailbox that asked for its class, and returns.
* A mailbox is bounded. When it is full, events are merged: of each subject the latest stays, the rest are counted, and
  the reader gets :class:`EventsDropped` in front of what was merged, so that it reads the sender's last snapshot again.
* The latest event about a node that is remembered is never lost, so that a slow reader ends in the true state; there
  are as many of them as members. Of everything else that is merged, the oldest goes when there is too much.
* Events are edges, snapshots are truth: a sender posts its snapshot first and publishes its events afterwards. A
  snapshot is immutable, so reading one needs no lock and no answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import TypeVar

import attrs
import trio

from rpcnet._signals import Accused, ProbeAnswered, ProbeDue
from rpcnet.events import ClusterEvent, EventsDropped, NodeEvent, NodeReaped, QueryReceived, UserEvent

__all__ = ["Bus", "Mailbox", "MailboxStatistics"]

S = TypeVar("S")


@attrs.frozen
class MailboxStatistics:
    """Counters of a mailbox."""

    waiting: int
    """Events that the reader has not taken."""
    peak: int
    """The most that ever waited in the channel."""
    delivered: int
    """Events that the reader took: the position of the inbox."""
    dropped: int
    """Events that were merged into a later one."""


def _subject(event: ClusterEvent) -> Hashable:
    """Return what an event is about: of events with the same subject, only the latest matters to a late reader."""
    match event:
        case NodeEvent():
            return event.node.id
        case ProbeDue() | ProbeAnswered():
            return (type(event), event.seq)
        case Accused():
            return (type(event), event.node_id, event.accuser)
        case UserEvent() | QueryReceived():
            return (type(event), event.sender, event.boot_id, event.number)
        case _:
            return (type(event), getattr(event, "node_id", None))


class Mailbox:
    """A bounded memory channel of cluster events that merges instead of making the sender wait.

    Args:
        size: how many events may wait one by one; beyond that one per node waits, and as many of other subjects.
        kinds: the classes of events it takes; subclasses count.
    """

    def __init__(self, size: int, kinds: tuple[type[ClusterEvent], ...]) -> None:
        self._kinds = kinds
        self._size = size
        self._put, self._get = trio.open_memory_channel[ClusterEvent](size)
        self._merged_nodes: dict[Hashable, ClusterEvent] = {}
        self._merged_rest: dict[Hashable, ClusterEvent] = {}
        self._behind: deque[ClusterEvent] = deque()
        self._missed = self._delivered = self._dropped = 0
        self._is_closed = False

    def statistics(self) -> MailboxStatistics:
        """Return the counters."""
        channel = self._get.statistics()
        return MailboxStatistics(
            waiting=channel.current_buffer_used + len(self._merged_nodes) + len(self._merged_rest) + len(self._behind),
            peak=channel.peak_buffer_used,
            delivered=self._delivered,
            dropped=self._dropped,
        )

    def wants(self, event: ClusterEvent) -> bool:
        """Whether the event is of a class that this mailbox takes."""
        return isinstance(event, self._kinds)

    def put(self, event: ClusterEvent) -> None:
        """Take an event; never waits, never fails."""
        if self._is_closed:
            return
        if not self._missed:
            try:
                self._put.send_nowait(event)
            except trio.WouldBlock:
                pass
            else:
                return
        self._missed += 1
        self._dropped += 1
        self._merge(event)

    def _merge(self, event: ClusterEvent) -> None:
        subject = _subject(event)
        self._merged_nodes.pop(subject, None)
        self._merged_rest.pop(subject, None)
        if isinstance(event, NodeEvent) and not isinstance(event, NodeReaped):
            self._merged_nodes[subject] = event
            return
        self._merged_rest[subject] = event
        if len(self._merged_rest) > self._size:
            del self._merged_rest[next(iter(self._merged_rest))]

    async def get(self) -> ClusterEvent:
        """Return the next event. A checkpoint unless something waits; cancelling loses nothing.

        Raises:
            trio.EndOfChannel: the mailbox was closed and everything in it was read.
        """
        if self._behind:
            event = self._behind.popleft()
        else:
            try:
                event = self._get.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                event = self._next_merged() if self._missed else await self._get.receive()
        self._delivered += 1
        return event

    def _next_merged(self) -> ClusterEvent:
        dropped = EventsDropped(at=trio.current_time(), count=self._missed)
        for merged in (self._merged_nodes, self._merged_rest):
            self._behind.extend(merged.values())
            merged.clear()
        self._missed = 0
        return dropped

    def close(self) -> None:
        """Take nothing more; the reader gets what waits and then the end."""
        self._is_closed = True
        self._put.close()


class Bus:
    """Connects the tasks of one node.

    Args:
        size: how many events may wait in each task's mailbox.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._mailboxes: dict[str, Mailbox] = {}
        self._snapshots: dict[type, object] = {}

    def mailbox(self, owner: str, *kinds: type[ClusterEvent]) -> Mailbox:
        """Return the mailbox of a task; after a restart it is the same one, with what waited in it."""
        if owner not in self._mailboxes:
            self._mailboxes[owner] = Mailbox(self._size, kinds)
        return self._mailboxes[owner]

    def publish(self, *events: ClusterEvent) -> None:
        """Put events into every mailbox that takes them, in order; never waits."""
        for event in events:
            for mailbox in self._mailboxes.values():
                if mailbox.wants(event):
                    mailbox.put(event)

    def post(self, snapshot: object) -> None:
        """Replace the last snapshot of this class."""
        self._snapshots[type(snapshot)] = snapshot

    def latest(self, kind: type[S]) -> S | None:
        """Return the last snapshot of a class; None before the first."""
        snapshot = self._snapshots.get(kind)
        return snapshot if isinstance(snapshot, kind) else None

    def position(self, owner: str) -> int:
        """Return how many events a task has taken from its mailbox."""
        return self._mailboxes[owner].statistics().delivered
