"""The remembering task: what is worth remembering, and when it is written."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import AsyncIterator, Iterable
from random import Random

import attrs
import pytest
import trio
from trio.testing import MockClock

from rpcnet._core.members import MemberRecord
from rpcnet._net.memory import MemoryNetwork, SimulatedEnvironment
from rpcnet._net.snapshot_file import KnownPeer, Snapshot, SnapshotFile, decode_snapshot
from rpcnet._tasks.bus import Bus
from rpcnet._tasks.remembering import RememberingTask, what_to_remember
from rpcnet._tasks.snapshots import MembershipSnapshot
from rpcnet.events import NodeInfo, NodeJoined, NodeState

PATH = "a.snapshot"
LOCAL = MemberRecord(id="a" * 32, name="a", address="10.0.0.1:7946", boot_id=100, incarnation=2)


def node(number: int, state: NodeState = NodeState.ALIVE) -> NodeInfo:
    return NodeInfo(f"{number:032x}", f"n{number}", f"10.1.{number // 250}.{number % 250}:7946", 1, 0, state)


def peer(number: int) -> KnownPeer:
    return KnownPeer(node(number).id, node(number).name, node(number).address)


def remembered(nodes: Iterable[NodeInfo], last: Iterable[KnownPeer] = ()) -> set[str]:
    """Return the names of those that are worth remembering."""
    snapshot = what_to_remember(Snapshot(1, 0, tuple(last)), LOCAL, [LOCAL.info(), *nodes])
    assert len({each.id for each in snapshot.peers}) == len(snapshot.peers)
    return {each.name for each in snapshot.peers}


# --- what is worth remembering


def test_a_node_remembers_its_own_boot_and_incarnation_and_not_itself() -> None:
    assert what_to_remember(None, LOCAL, [LOCAL.info()]) == Snapshot(100, 2, ())


def test_those_who_are_present_are_remembered_and_behind_them_the_failed() -> None:
    states = (NodeState.FAILED, NodeState.SUSPECT, NodeState.ALIVE, NodeState.LEFT)
    found = what_to_remember(None, LOCAL, [node(index, state) for index, state in enumerate(states)])
    assert {each.name for each in found.peers[:2]} == {"n1", "n2"}
    assert found.peers[2:] == (peer(0),)


def test_whom_the_cluster_does_not_know_any_more_is_forgotten() -> None:
    assert remembered([node(1)], last=[peer(1), peer(2)]) == {"n1"}


def test_who_is_alone_keeps_whom_it_remembered() -> None:
    assert remembered([], last=[peer(1), peer(2)]) == {"n1", "n2"}
    assert remembered([node(1, NodeState.FAILED), node(3, NodeState.FAILED)], [peer(1), peer(2)]) == {"n1", "n2", "n3"}


def test_who_said_goodbye_is_forgotten() -> None:
    assert remembered([node(1, NodeState.LEFT)], last=[peer(1), peer(2)]) == {"n2"}


def test_of_many_a_bounded_number_is_remembered_and_not_the_same_by_all() -> None:
    nodes = [node(number * 97) for number in range(1000)]
    other = attrs.evolve(LOCAL, id="b" * 32)
    mine, theirs = (what_to_remember(None, local, nodes).peers for local in (LOCAL, other))
    assert len(mine) == len(theirs) == 256
    assert set(mine) != set(theirs)
    assert what_to_remember(None, LOCAL, reversed(nodes)).peers == mine


# --- when it is written


class Disk(SimulatedEnvironment):
    """A disk that takes its time or fails, and notes every writing with its time."""

    def __init__(self) -> None:
        super().__init__(MemoryNetwork(Random(1)), seed=1)
        self.delay = 0.0
        self.is_full = False
        self.attempts = 0
        self.written: list[tuple[float, Snapshot]] = []

    async def write_file(self, path: str, data: bytes) -> None:
        self.attempts += 1
        await trio.sleep(self.delay)
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        await super().write_file(path, data)
        self.written.append((trio.current_time(), decode_snapshot(data, "prod", "a")))


@attrs.define(eq=False)
class Bench:
    """A task with a bus and a disk."""

    bus: Bus = attrs.field(factory=lambda: Bus(100))
    disk: Disk = attrs.field(factory=Disk)
    is_killed: bool = False

    def show(self, *nodes: NodeInfo) -> None:
        """Let membership know some nodes, and say so."""
        self.bus.post(MembershipSnapshot(LOCAL, (), (LOCAL.info(), *nodes)))
        self.bus.publish(*(NodeJoined(each, at=trio.current_time()) for each in nodes))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        file = SnapshotFile(PATH, self.disk, "prod", "a")
        await file.load()
        task = RememberingTask(bus=self.bus, file=file, local=LOCAL, is_killed=lambda: self.is_killed)
        async with trio.open_nursery() as nursery:
            await nursery.start(task.run)
            yield
            nursery.cancel_scope.cancel()


async def test_the_boot_id_is_on_the_disk_before_the_task_has_started(autojump_clock: MockClock) -> None:
    bench = Bench()
    async with bench.running():
        assert [snapshot for _, snapshot in bench.disk.written] == [Snapshot(100, 2)]


async def test_what_was_remembered_is_there_until_the_node_knows_better(autojump_clock: MockClock) -> None:
    bench = Bench()
    async with bench.running():
        bench.show(node(1))
        await trio.sleep(1)
    bench.bus = Bus(100)
    async with bench.running():
        await trio.sleep(100)
        assert bench.disk.written[-1][1].peers == (peer(1),)
        bench.show(node(2))
        await trio.sleep(1)
        assert bench.disk.written[-1][1].peers == (peer(2),)


async def test_changes_are_written_at_once_and_then_every_few_seconds_at_most(autojump_clock: MockClock) -> None:
    bench = Bench()
    async with bench.running():
        await trio.sleep(100)
        start = trio.current_time()
        for number in range(1, 101):
            bench.show(*(node(each) for each in range(number)))
            await trio.sleep(0.1)
        await trio.sleep(100)
    times = [at - start for at, _ in bench.disk.written[1:]]
    assert times == pytest.approx([0.0, 5.0, 10.0])
    assert len(bench.disk.written[-1][1].peers) == 100


async def test_what_changes_nothing_is_not_written(autojump_clock: MockClock) -> None:
    bench = Bench()
    async with bench.running():
        for _ in range(10):
            bench.show(node(1))
            await trio.sleep(10)
    assert len(bench.disk.written) == 2


async def test_the_last_change_is_written_at_the_end(autojump_clock: MockClock) -> None:
    bench = Bench()
    async with bench.running():
        bench.show(node(1))
        await trio.sleep(1)
        bench.show(node(1), node(2))
    assert {each.name for each in bench.disk.written[-1][1].peers} == {"n1", "n2"}


async def test_who_is_killed_writes_nothing_more(autojump_clock: MockClock) -> None:
    bench = Bench()
    async with bench.running():
        bench.show(node(1))
        bench.is_killed = True
    assert [snapshot.peers for _, snapshot in bench.disk.written] == [()]


async def test_a_disk_that_does_not_answer_delays_start_and_end_within_bounds(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    bench = Bench()
    bench.disk.delay = 1000.0
    start = trio.current_time()
    async with bench.running():
        assert trio.current_time() - start == pytest.approx(2.0)
        bench.show(node(1))
        await trio.sleep(20)
        end = trio.current_time()
    assert trio.current_time() - end == pytest.approx(2.0)
    assert bench.disk.written == []
    assert ["not be written within 2 s" in record.getMessage() for record in caplog.records] == [True]


async def test_what_could_not_be_written_is_tried_again_though_nothing_changes(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench()
    bench.disk.is_full = True
    async with bench.running():
        await trio.sleep(12)
        assert bench.disk.attempts == 4  # at the start, at once, and every five seconds
        bench.disk.is_full = False
        await trio.sleep(12)
        assert [snapshot.boot_id for _, snapshot in bench.disk.written] == [100]
        assert bench.disk.attempts == 5
    assert ["cannot be written" in record.getMessage() for record in caplog.records] == [True]


async def test_a_file_that_is_left_alone_is_not_tried_again(autojump_clock: MockClock) -> None:
    bench = Bench()
    bench.disk.files[PATH] = b"something else"
    async with bench.running():
        bench.show(node(1))
        await trio.sleep(100)
    assert bench.disk.attempts == 0
