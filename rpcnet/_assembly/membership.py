"""The parts of a node: those that serve calls, and those that make it a member of a cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable

import attrs
import trio

from rpcnet._builtin.cluster import ClusterService
from rpcnet._core.members import MemberRecord
from rpcnet._net.seeds import SeedBook
from rpcnet._net.snapshot_file import SnapshotFile
from rpcnet._signals import Draining, Leaving
from rpcnet._tasks.failure_detector import FailureDetectorTask
from rpcnet._tasks.joining import Joiner
from rpcnet._tasks.membership import MembershipTask
from rpcnet._tasks.registry import RegistryTask
from rpcnet._tasks.remembering import RememberingTask
from rpcnet._tasks.seeding import SeedTask
from rpcnet._tasks.snapshots import MembershipSnapshot
from rpcnet._tasks.subscriptions import EventStream, SubscriptionHub
from rpcnet._tasks.supervisor import NodeTask
from rpcnet.errors import JoinError
from rpcnet.events import ClusterEvent

from .common import child
from .serving import ORDER_TIMEOUT, ServerParts

__all__ = ["NodeParts"]

log = logging.getLogger("rpcnet.node")


@attrs.define(eq=False, kw_only=True)
class NodeParts(ServerParts):
    """What a running node is made of."""

    hub: SubscriptionHub
    followers: ClusterService
    local: MemberRecord
    joiner: Joiner
    seeds: SeedBook
    """What the user gave, and whom the node knew before it was restarted."""
    must_join: bool
    """Whether the user gave any."""
    file: SnapshotFile | None
    """Where the node keeps whom it knew, loaded."""
    _has_left: bool = False

    async def start_more(self, nursery: trio.Nursery) -> None:
        """Start what keeps seeds and remembered nodes at hand; join in the background, if that is asked for."""
        book = self.seeds
        if self.file is not None:
            remembering = RememberingTask(
                bus=self.bus, file=self.file, local=self.local, is_killed=lambda: self.is_killed
            )
            await nursery.start(remembering.run)
        seeding = SeedTask(bus=self.bus, seeds=book, config=self.config.gossip, rng=child(self.rng))
        await nursery.start(seeding.run)
        if book and self.config.join == "background":
            nursery.start_soon(self.joiner.keep_joining, book)

    def tasks(self) -> dict[str, Callable[[bool], NodeTask]]:
        """Return what makes each of the four tasks."""
        config, bus, rng = self.config, self.bus, self.rng
        return {
            "membership": lambda _: MembershipTask(
                bus=bus,
                port=self.endpoint.membership,
                local=self.local,
                config=config,
                rng=child(rng),
            ),
            "failure detector": lambda _: FailureDetectorTask(
                bus=bus, local_id=self.local.id, config=config.detector, gossip=config.gossip, rng=child(rng)
            ),
            "registry": lambda restart: RegistryTask(bus=bus, hub=self.hub, is_restart=restart),
            **super().tasks(),
        }

    async def enter(self) -> None:
        """Join through the seeds, if that is asked for."""
        book = self.seeds
        if not book or self.config.join != "required":
            await trio.lowlevel.checkpoint()
            return
        try:
            await self.joiner.join(book)
        except JoinError as error:
            if self.must_join:
                raise
            log.warning("%s found none of the nodes it knew and starts alone: %s", self.name, error)

    async def order(self, make: Callable[[], ClusterEvent], is_done: Callable[[MemberRecord], bool]) -> None:
        """Tell the tasks to do something, until this node's record shows that it was done.

        Once is not always enough: an order is lost if a task fails with it in hand.
        """
        mailbox = self.hub.subscribe((ClusterEvent,), ())
        try:
            events = EventStream(mailbox)
            while not is_done(self.record):
                self.bus.publish(make())
                with trio.move_on_after(ORDER_TIMEOUT):
                    while not is_done(self.record):
                        if await anext(events, None) is None:
                            raise RuntimeError("the node has stopped")
        finally:
            self.hub.unsubscribe(mailbox)

    @property
    def record(self) -> MemberRecord:
        """This node's record as membership has it."""
        snapshot = self.bus.latest(MembershipSnapshot)
        return self.local if snapshot is None else snapshot.local

    async def begin_draining(self) -> None:
        """Refuse new calls, and tell callers, the cluster and those who follow it so."""
        await super().begin_draining()
        self.followers.end()
        await self.order(lambda: Draining(at=trio.current_time()), lambda local: not local.services)

    async def leave(self) -> None:
        """Drain and say goodbye, within ``drain_timeout`` and ``leave_timeout``; again only if that was cancelled."""
        if self._has_left:
            return
        await super().leave()
        left = self.endpoint.membership.left
        with trio.move_on_after(self.config.leave_timeout):
            while not left.is_set():
                self.bus.publish(Leaving(at=trio.current_time()))
                with trio.move_on_after(ORDER_TIMEOUT):
                    await left.wait()
        self._has_left = True

    def close(self) -> None:
        """Close the port and end all subscriptions."""
        super().close()
        self.hub.close()
