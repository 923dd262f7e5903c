"""The built-in service by which programs that are no members follow a cluster.

The rules of this file:

* Whoever may connect may follow: it takes the cluster's secret to connect.
* A follower that reads slowly makes its node hold a bounded number of events, and is told everything anew then.
* A node that drains ends the streams of its followers, so that they go on elsewhere and draining need not wait.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import trio

from rpcnet._core.following import ClusterNews, NewsKind, NodeEntry, in_pieces
from rpcnet._tasks.bus import Mailbox
from rpcnet._tasks.subscriptions import SubscriptionHub
from rpcnet.events import ClusterEvent, EventsDropped, NodeEvent, NodeFailed, NodeInfo, NodeReaped, NodeSuspected
from rpcnet.service import rpc, service

__all__ = ["Cluster", "ClusterService"]


@service(name="rpcnet.Cluster")
class Cluster:
    """Tells what a node knows of its cluster; every node has it."""

    @rpc(idempotent=True)
    async def watch(self) -> AsyncIterator[ClusterNews]:
        """Return all that the node knows, then every change; ends when the node drains."""
        raise NotImplementedError


class ClusterService(Cluster):
    """What every node serves as ``rpcnet.Cluster``.

    Args:
        hub: where the node's events are.
        nodes: returns every node of the registry's last snapshot.
    """

    def __init__(self, hub: SubscriptionHub, nodes: Callable[[], tuple[NodeInfo, ...]]) -> None:
        self._hub = hub
        self._nodes = nodes
        self._followers: dict[Mailbox, None] = {}
        self._is_over = False

    @rpc(idempotent=True)
    async def watch(self) -> AsyncIterator[ClusterNews]:
        """Return all that the node knows, then every change."""
        if self._is_over:
            return
        mailbox = self._hub.subscribe((ClusterEvent,), ())
        self._followers[mailbox] = None
        try:
            for piece in in_pieces(self._nodes()):
                yield piece
            while True:
                try:
                    event = await mailbox.get()
                except trio.EndOfChannel:
                    return
                for news in self._news_of(event):
                    yield news
        finally:
            del self._followers[mailbox]
            self._hub.unsubscribe(mailbox)

    def end(self) -> None:
        """Let every follower go on elsewhere, and take no new one."""
        self._is_over = True
        for mailbox in self._followers:
            mailbox.close()

    def _news_of(self, event: ClusterEvent) -> list[ClusterNews]:
        match event:
            case EventsDropped():
                return in_pieces(self._nodes())
            case NodeReaped(node=node):
                return [ClusterNews(NewsKind.CHANGE, [], forgotten=[node.id])]
            case NodeSuspected(node=node, phi=phi, accusers=accusers):
                return [ClusterNews(NewsKind.CHANGE, [NodeEntry.of(node)], phi=phi, accusers=list(accusers))]
            case NodeFailed(node=node, reason=reason):
                return [ClusterNews(NewsKind.CHANGE, [NodeEntry.of(node)], reason=reason)]
            case NodeEvent(node=node):
                return [ClusterNews(NewsKind.CHANGE, [NodeEntry.of(node)])]
            case _:
                return []
