"""The demo itself: workers join, share the files, lose one of them, and the result is compared with a serial one.

The rules of this file:

* This process is the coordinator and does none of the counting; workers are processes of their own.
* At most :data:`IN_FLIGHT` calls run at a time, so that memory and queues stay small however many files there are.
* A file is done when its report is there or its call has failed for good, in which case it counts as lost.
* The worker with the most running calls is killed, because that is the worst moment for it.
"""

from __future__ import annotations

import secrets
import signal
from collections.abc import Iterator, Mapping

import trio

import rpcnet

from .cluster import config, security
from .job import FileReport, Snapshot, compare, merge, serial
from .processes import WorkerProcesses, open_workers
from .service import Analyser
from .summary import Summary
from .view import Board, NodeRow, View, describe

__all__ = ["DemoFailed", "run", "run_until_signal"]

IN_FLIGHT = 32
"""Calls that run at a time."""
CALL_SECONDS = 60.0
"""After this a call is given up."""
JOIN_SECONDS = 60.0
"""How long the first workers may take to join."""
NEWS_SECONDS = 30.0
"""How long to wait, when all work is done, for what the cluster has yet to notice."""
REPLACE_SECONDS = 1.0
"""From the kill to the start of the later worker."""
REFRESH_SECONDS = 0.2
"""Between two pictures of the live view."""

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DemoFailed(Exception):
    """The demo could not be set up; the message says what its workers said."""


class Demo:
    """One run of the demo, on a node that is already up.

    Args:
        node: the coordinator.
        processes: the workers, none started yet.
        files: what to analyse; at least one file.
        view: where to show it.
    """

    def __init__(self, node: rpcnet.Node, processes: WorkerProcesses, files: Snapshot, view: View) -> None:
        self._node = node
        self._processes = processes
        self._files = files
        self._view = view
        self._client = rpcnet.ClusterClient(node, balancing=rpcnet.LeastConnections())
        self._analyser = self._client.stub(Analyser)
        self._began = trio.current_time()
        self._names: dict[str, str] = {}
        self._pending = iter(files.files)
        self._third_done = trio.Event()
        self._killed_at = 0.0
        self._failed = trio.Event()
        self._replaced = trio.Event()
        self.reports: dict[str, FileReport] = {}
        """The reports that came, by path."""
        self.lost = 0
        """Files whose call failed for good."""
        self.killed = ""
        """The worker that was killed."""
        self.joined_later = ""
        """The worker that was started in its place."""
        self.kill_to_failed: float | None = None
        """Seconds from the kill to ``NodeFailed``; None until it comes."""
        self.work_seconds = 0.0
        """Seconds from the first call to the last result."""

    async def run(self, workers: int) -> None:
        """Start the workers, do the job, and wait for what the cluster has yet to notice.

        Raises:
            DemoFailed: the workers did not join; in a group.
        """
        self.joined_later = f"worker-{workers + 1}"
        async with trio.open_nursery() as nursery:
            await nursery.start(self._follow_events)
            nursery.start_soon(self._keep_showing)
            await self._gather(workers)
            began = trio.current_time()
            async with trio.open_nursery() as work:
                work.start_soon(self._lose_one_and_replace_it)
                async with trio.open_nursery() as calls:
                    for _ in range(IN_FLIGHT):
                        calls.start_soon(self._call_until_none_is_left)
                self.work_seconds = trio.current_time() - began
            with trio.move_on_after(NEWS_SECONDS):
                await self._failed.wait()
                await self._replaced.wait()
            self._view.show(self._board())
            nursery.cancel_scope.cancel()

    @property
    def replacement_joined(self) -> bool:
        """Whether the later worker joined."""
        return self._replaced.is_set()

    @property
    def statistics(self) -> tuple[int, int, dict[str, int]]:
        """Calls, retries, and the calls that each worker answered, by name."""
        found = self._client.statistics()
        done = {self._names[node_id]: calls.done for node_id, calls in found.per_node.items() if node_id in self._names}
        names = (name for name in self._names.values() if name != self._node.name)
        return found.calls, found.retries, {name: done.get(name, 0) for name in sorted(names)}

    def _say(self, line: str, at: float | None = None) -> None:
        self._view.say((trio.current_time() if at is None else at) - self._began, line)

    def _start(self, name: str) -> None:
        self._say(f"{name} started, process {self._processes.start(name)}")

    async def _gather(self, workers: int) -> None:
        for number in range(1, workers + 1):
            self._start(f"worker-{number}")
        with trio.move_on_after(JOIN_SECONDS):
            await self._node.registry.wait_for(workers, where="role=worker")
            self._say(f"all {workers} workers joined, {len(self._files.files)} files to do")
            return
        said = "; ".join(f"{name}: {line}" for name, line in self._processes.failures().items())
        raise DemoFailed(f"the workers did not join within {JOIN_SECONDS:.0f} s. {said or 'None of them ended.'}")

    async def _follow_events(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with self._node.events() as events:
            task_status.started()
            async for event in events:
                self._say(describe(event), event.at)
                if isinstance(event, rpcnet.NodeEvent):
                    self._notice(event)

    def _notice(self, event: rpcnet.NodeEvent) -> None:
        self._names[event.node.id] = event.node.name
        if isinstance(event, rpcnet.NodeFailed) and event.node.name == self.killed and not self._failed.is_set():
            self.kill_to_failed = event.at - self._killed_at
            self._failed.set()
        if isinstance(event, rpcnet.NodeJoined) and event.node.name == self.joined_later:
            self._replaced.set()

    async def _call_until_none_is_left(self) -> None:
        for path in self._pending:
            try:
                with trio.fail_after(CALL_SECONDS):
                    self.reports[path] = await self._analyser.analyse(path)
            except (rpcnet.RpcNetError, trio.TooSlowError) as error:
                self.lost += 1
                self._say(f"no result for {path}: {type(error).__name__} {error}")
            if 3 * (len(self.reports) + self.lost) >= len(self._files.files):
                self._third_done.set()

    async def _lose_one_and_replace_it(self) -> None:
        await self._third_done.wait()
        running = self._running()
        serving = (node for node in self._node.registry.nodes() if node.tags.get("role") == "worker")
        victim = max(serving, key=lambda node: (running.get(node.id, 0), node.name))
        self.killed = victim.name
        self._killed_at = trio.current_time()
        self._processes.kill(victim.name)
        self._say(f"{victim.name} killed with SIGKILL, {running.get(victim.id, 0)} calls were running on it")
        await trio.sleep(REPLACE_SECONDS)
        self._start(self.joined_later)

    async def _keep_showing(self) -> None:
        while True:
            self._view.show(self._board())
            await trio.sleep(REFRESH_SECONDS)

    def _running(self) -> Mapping[str, int]:
        return {node_id: calls.active for node_id, calls in self._client.statistics().per_node.items()}

    def _board(self) -> Board:
        return Board(len(self.reports) + self.lost, len(self._files.files), tuple(self._rows()))

    def _rows(self) -> Iterator[NodeRow]:
        per_node = self._client.statistics().per_node
        for node in sorted(self._node.registry.nodes(), key=lambda node: node.name):
            calls = per_node.get(node.id)
            yield NodeRow(
                node.name,
                node.state.value,
                None if node.id == self._node.id else self._node.membership.phi(node.id),
                calls.active if calls else 0,
                calls.done if calls else 0,
            )


async def run(files: Snapshot, workers: int, view: View) -> Summary:
    """Run the demo and compare its result with a serial one, made afterwards in this process.

    However it ends, cancelled or not, every worker has ended before it returns.

    Args:
        files: what to analyse; at least one file.
        workers: how many workers to begin with; at least two, since one is killed.
        view: where to show it.

    Raises:
        DemoFailed: the workers did not join; in a group.
        RpcNetError: the coordinator's node failed.
    """
    secret = secrets.token_urlsafe(32)
    async with (
        rpcnet.Node("coordinator", security=security(secret), config=config()) as node,
        open_workers(node.address, files.root, secret) as processes,
    ):
        demo = Demo(node, processes, files, view)
        await demo.run(workers)
    calls, retries, calls_per_worker = demo.statistics
    began = trio.current_time()
    expected = await trio.to_thread.run_sync(serial, files, abandon_on_cancel=True)
    return Summary(
        totals=merge(demo.reports.values()),
        comparison=compare(files, demo.reports, expected),
        lost=demo.lost,
        calls=calls,
        calls_per_worker=calls_per_worker,
        retries=retries,
        killed=demo.killed,
        joined_later=demo.joined_later,
        kill_to_failed=demo.kill_to_failed,
        replacement_joined=demo.replacement_joined,
        cluster_seconds=demo.work_seconds,
        serial_seconds=trio.current_time() - began,
    )


async def run_until_signal(files: Snapshot, workers: int, view: View) -> Summary | signal.Signals:
    """Run the demo; on SIGINT, SIGTERM or SIGHUP, unless ignored, end it in order and return the signal instead."""
    result: Summary | signal.Signals | None = None
    obeyed = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    with trio.open_signal_receiver(*obeyed) as signals:
        async with trio.open_nursery() as nursery:

            async def obey() -> None:
                nonlocal result
                async for number in signals:
                    result = signal.Signals(number)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(obey)
            result = await run(files, workers, view)
            nursery.cancel_scope.cancel()
    assert result is not None  # noqa: S101 - one of the two ended the nursery
    return result
