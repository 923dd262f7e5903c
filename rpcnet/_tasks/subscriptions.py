"""Subscriptions of the application: each a bounded mailbox that starts with what is known and goes on without a gap."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from rpcnet.events import ClusterEvent, EventsDropped, NodeInfo, NodeJoined, NodeState

from .bus import Mailbox

__all__ = ["EventStream", "SubscriptionHub"]


class EventStream:
    """The events of one subscription, as an async iterator; it ends when the node does."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    def __aiter__(self) -> EventStream:
        """Return itself."""
        return self

    async def __anext__(self) -> ClusterEvent:
        """Return the next event. A checkpoint; cancelling loses nothing."""
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            return await self._mailbox.get()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None


class SubscriptionHub:
    """All subscriptions of one node; outlives the registry task that feeds it.

    Args:
        size: how many events may wait for one subscriber before they are merged per node.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._mailboxes: dict[Mailbox, None] = {}
        self._is_closed = False

    def subscribe(self, kinds: tuple[type[ClusterEvent], ...], known: Iterable[NodeInfo]) -> Mailbox:
        """Open a subscription that begins with one ``NodeJoined`` per node known and usable.

        The caller must not await between reading ``known`` and this call, so that no event falls between them.
        """
        mailbox = Mailbox(self._size, (*kinds, EventsDropped))
        now = trio.current_time()
        for node in known:
            if node.state in (NodeState.ALIVE, NodeState.SUSPECT):
                joined = NodeJoined(node, at=now)
                if mailbox.wants(joined):
                    mailbox.put(joined)
        self._mailboxes[mailbox] = None
        if self._is_closed:
            mailbox.close()
        return mailbox

    def unsubscribe(self, mailbox: Mailbox) -> None:
        """Close a subscription."""
        self._mailboxes.pop(mailbox, None)
        mailbox.close()

    def publish(self, event: ClusterEvent) -> None:
        """Give an event to all who asked for its class; never waits."""
        for mailbox in self._mailboxes:
            if mailbox.wants(event):
                mailbox.put(event)

    def close(self) -> None:
        """End all subscriptions after what waits in them."""
        self._is_closed = True
        for mailbox in self._mailboxes:
            mailbox.close()
