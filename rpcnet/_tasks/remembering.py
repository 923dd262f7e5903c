"""The remembering task: keeps the snapshot file as new as it needs to be.

The rules of this file:

* Whom to remember is read from membership's snapshot; events only say when to look.
* The file is written when the task starts, so that the boot id is there before anybody hears of it; then when
  something has changed, with a pause after each time; and at the end. What fails is tried again after the pause.
* While other members are present they are what is worth remembering, and behind them those that have failed, which may
  be the other side of a partition. A node that is alone keeps those it remembered, except for those that said goodbye.
* A disk that does not answer is waited for within a bound, at the start, in between and at the end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import trio
from trio.lowlevel import enable_ki_protection

from rpcnet._core.members import MemberRecord
from rpcnet._net.snapshot_file import MAX_PEERS, KnownPeer, Snapshot, SnapshotFile
from rpcnet.events import NodeEvent, NodeInfo, NodeState

from .bus import Bus
from .snapshots import MembershipSnapshot

__all__ = ["RememberingTask", "what_to_remember"]

log = logging.getLogger("rpcnet.membership")
_PAUSE = 5.0
_PATIENCE = 2.0


def what_to_remember(last: Snapshot | None, local: MemberRecord, nodes: Iterable[NodeInfo]) -> Snapshot:
    """Return what a node should remember.

    Args:
        last: what it remembered so far; None if nothing.
        local: its own record.
        nodes: every node that it knows.
    """
    others = [node for node in nodes if node.id != local.id]
    present = [node for node in others if node.state in (NodeState.ALIVE, NodeState.SUSPECT)]
    failed = [node for node in others if node.state is NodeState.FAILED]
    peers = [*_nearest(present, local), *_nearest(failed, local)]
    if not present and last is not None:
        known = {node.id for node in others}
        peers += [peer for peer in last.peers if peer.id not in known]
    return Snapshot(local.boot_id, local.incarnation, tuple(peers[:MAX_PEERS]))


def _nearest(nodes: list[NodeInfo], local: MemberRecord) -> list[KnownPeer]:
    """Return nodes in an order that stays the same as others come and go, and differs from node to node."""
    own = int(local.id, 16)
    ordered = sorted(nodes, key=lambda node: int(node.id, 16) ^ own)
    return [KnownPeer(node.id, node.name, node.address) for node in ordered[:MAX_PEERS]]


class RememberingTask:
    """Writes the snapshot file of a node.

    Args:
        bus: where it hears ``Node*``, and where membership posts what it knows.
        file: the file, loaded.
        local: this node's record at the start of the process.
        is_killed: whether the node ends like a process that is killed, and writes nothing more.
        pause: seconds between two writings.
    """

    def __init__(
        self,
        *,
        bus: Bus,
        file: SnapshotFile,
        local: MemberRecord,
        is_killed: Callable[[], bool] = lambda: False,
        pause: float = _PAUSE,
    ) -> None:
        self._bus = bus
        self._file = file
        self._local = local
        self._is_killed = is_killed
        self._pause = pause
        self._mailbox = bus.mailbox("remembering", NodeEvent)
        self._changed = trio.Event()
        self._is_late = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then write once more, within two seconds."""
        await self._save()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hear, name="rpcnet remembering inbox")
                task_status.started()
                await self._save_what_changes()
        finally:
            if not self._is_killed():
                with trio.CancelScope(shield=True):
                    await self._save()

    @enable_ki_protection
    async def _hear(self) -> None:
        while True:
            await self._mailbox.get()
            self._changed.set()

    @enable_ki_protection
    async def _save_what_changes(self) -> None:
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            await self._save()
            await trio.sleep(self._pause)

    @enable_ki_protection
    async def _save(self) -> None:
        seen = self._bus.latest(MembershipSnapshot)
        local, nodes = (self._local, ()) if seen is None else (seen.local, seen.nodes)
        is_done = False
        with trio.move_on_after(_PATIENCE) as scope:
            is_done = await self._file.save(what_to_remember(self._file.last, local, nodes))
        if not is_done:
            self._changed.set()
        if scope.cancelled_caught and not self._is_late:
            log.warning("the snapshot file could not be written within %g s", _PATIENCE)
        self._is_late = scope.cancelled_caught
