"""The registry task: owns the immutable snapshots that readers and clients see, and feeds the subscriptions."""

from __future__ import annotations

import trio
from trio.lowlevel import enable_ki_protection

from rpcnet._core.registry import RegistryMachine
from rpcnet.events import (
    ClusterEvent,
    EventsDropped,
    LinkDegraded,
    LocalDegraded,
    NameConflictDetected,
    NodeEvent,
    PartitionDetected,
    PartitionHealed,
    PartitionSuspected,
    QueryReceived,
    SelfIsolated,
    UserEvent,
)

from .bus import Bus
from .snapshots import nodes_of
from .subscriptions import SubscriptionHub

__all__ = ["RegistryTask"]

_FOR_APPLICATIONS = (
    NodeEvent,
    *(PartitionSuspected, PartitionDetected, PartitionHealed),
    *(SelfIsolated, LinkDegraded, LocalDegraded, NameConflictDetected),
    *(UserEvent, QueryReceived),
)


class RegistryTask:
    """Turns events about nodes into snapshots, posts them, and hands the events on.

    Args:
        bus: where it hears all that applications may hear, and posts a ``RegistrySnapshot``.
        hub: the application's subscriptions.
        is_restart: whether an earlier registry of this node failed; subscribers are told that they may have missed one.
    """

    def __init__(self, *, bus: Bus, hub: SubscriptionHub, is_restart: bool) -> None:
        self._bus = bus
        self._hub = hub
        self._is_restart = is_restart
        self._mailbox = bus.mailbox("registry", *_FOR_APPLICATIONS)
        self._machine = RegistryMachine()

    @enable_ki_protection
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        self._adopt()
        if self._is_restart:
            self._hub.publish(EventsDropped(at=trio.current_time(), count=1))
        task_status.started()
        while True:
            self._take(await self._mailbox.get())

    def _adopt(self) -> None:
        self._machine.reset(nodes_of(self._bus))
        self._bus.post(self._machine.snapshot())

    def _take(self, event: ClusterEvent) -> None:
        if isinstance(event, EventsDropped):
            self._adopt()
        elif self._machine.apply(event):
            self._bus.post(self._machine.snapshot())
        self._hub.publish(event)
