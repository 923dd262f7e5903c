"""Many members as processes, from outside: start them, ask them, wait until they believe something, end them.

The rules of this file:

* What a member believes is known from its events: nobody polls, everybody waits for what is said.
* Every wait has a bound, which is generous; that it was not kept is told with what everybody believed then.
* A process that ends without being told to is an error.
* Whatever happens, no process is left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
from _member import Start

PROGRAM = Path(__file__).with_name("_member.py")


@attrs.frozen
class Process:
    """A process that waits for the line that makes it a member."""

    pid: int
    to_fd: int
    from_fd: int
    reap: Callable[[], object]
    """Waits until it has ended."""

    def end(self) -> None:
        """Kill it, stopped or not, and wait for it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.reap()
        for fd in (self.to_fd, self.from_fd):
            os.close(fd)


def start_process(*prefix: str) -> Process:
    """Start a process of its own, with a command before it that runs it elsewhere."""
    popen = subprocess.Popen([*prefix, sys.executable, str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert popen.stdin is not None
    assert popen.stdout is not None
    to_fd, from_fd = os.dup(popen.stdin.fileno()), os.dup(popen.stdout.fileno())
    popen.stdin.close()
    popen.stdout.close()
    return Process(popen.pid, to_fd, from_fd, popen.wait)


@contextmanager
def forked(count: int, main: Callable[[int, int], None]) -> Iterator[list[Process]]:
    """Open a number of processes that are copies of this one, so that none has to import anything.

    Must be called before anything like Trio runs. ``main`` gets what to read and what to write.
    """
    processes: list[Process] = []
    try:
        for _ in range(count):
            processes.append(_fork(main, processes))
        yield processes
    finally:
        for process in processes:
            process.end()


def _fork(main: Callable[[int, int], None], others: Sequence[Process]) -> Process:
    child_reads, to_child = os.pipe()
    from_child, child_writes = os.pipe()
    pid = os.fork()
    if pid:
        os.close(child_reads)
        os.close(child_writes)
        return Process(pid, to_child, from_child, lambda: os.waitpid(pid, 0))
    code = 1
    try:
        for fd in (to_child, from_child, *(fd for other in others for fd in (other.to_fd, other.from_fd))):
            os.close(fd)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who started it; it ends its copies
        main(child_reads, child_writes)
        code = 0
    except BaseException:  # noqa: BLE001 - it is told, and the process ends with it
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


@attrs.define(eq=False)
class Member:
    """One member: its process, what it said, and what it believes."""

    name: str
    process: Process
    address: str = ""
    """Where it listens; empty until it is ready."""
    events: list[dict[str, Any]] = attrs.field(factory=list)
    """All events so far, in order."""
    believes: dict[str, str] = attrs.field(factory=dict)
    """The state of every member that it knows."""
    boots: dict[str, int] = attrs.field(factory=dict)
    """The boot id of each."""
    is_to_end: bool = False
    _stream: trio.lowlevel.FdStream | None = None
    _answers: dict[int, dict[str, Any]] = attrs.field(factory=dict)
    _asked: int = 0

    def take(self, line: dict[str, Any]) -> None:
        """Take in one line."""
        if "ready" in line:
            self.address = line["ready"]
        elif "answer" in line:
            self._answers[line["answer"]] = line
        else:
            self.events.append(line)
            self._learn(line)

    def _learn(self, event: dict[str, Any]) -> None:
        kind, about = event["event"], event.get("node", "")
        if kind == "NodeSuspected":
            self.believes[about] = "suspect"
        elif kind == "NodeFailed":
            self.believes[about] = "failed"
        elif kind == "NodeLeft":
            self.believes[about] = "left"
        elif kind in ("NodeJoined", "NodeRecovered", "NodeReplaced"):
            self.believes[about] = "alive"
            self.boots[about] = event["boot_id"]

    def told(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        """Return the events of a kind whose fields have these values."""
        return [
            event
            for event in self.events
            if event["event"] == kind and all(event.get(key) == value for key, value in fields.items())
        ]

    def counts(self) -> Counter[str]:
        """Return how many members it believes to be in each state."""
        return Counter(self.believes.values())

    def signal(self, number: signal.Signals) -> float:
        """Send the process a signal; return when."""
        self.is_to_end = self.is_to_end or number is signal.SIGKILL
        os.kill(self.process.pid, number)
        return time.monotonic()


class Crowd:
    """The members of one test or measurement.

    Args:
        nursery: where what they say is read.
        profile: the profile of all of them.
    """

    def __init__(self, nursery: trio.Nursery, profile: str) -> None:
        self._nursery = nursery
        self._profile = profile
        self._said = trio.Event()
        self.members: dict[str, Member] = {}

    async def start(self, process: Process, start: Start) -> Member:
        """Make a process a member; it need not have joined when this returns."""
        member = self.members[start.name] = Member(start.name, process)
        stream = member._stream = trio.lowlevel.FdStream(os.dup(process.to_fd))
        await stream.send_all(json.dumps({**attrs.asdict(start), "profile": self._profile}).encode() + b"\n")
        self._nursery.start_soon(self._listen, member)
        return member

    async def _listen(self, member: Member) -> None:
        waiting = b""
        async with trio.lowlevel.FdStream(os.dup(member.process.from_fd)) as stream:
            while data := await stream.receive_some(1 << 16):
                *lines, waiting = (waiting + data).split(b"\n")
                for line in lines:
                    member.take(json.loads(line))
                self._said.set()
                self._said = trio.Event()
        if not member.is_to_end:
            raise RuntimeError(f"{member.name} has ended")

    async def ask(self, member: Member, what: str, within: float = 30.0, **more: Any) -> Any:
        """Ask a member something and return its answer."""
        assert member._stream is not None
        number = member._asked = member._asked + 1
        await member._stream.send_all(json.dumps({"ask": what, "number": number, **more}).encode() + b"\n")
        await self.until(lambda: number in member._answers, within, f"an answer of {member.name} to {what}")
        answer = member._answers.pop(number)
        if "error" in answer:
            raise RuntimeError(f"{member.name}, {what}: {answer['error']}")
        return answer["value"]

    async def until(self, condition: Callable[[], bool], within: float, what: str) -> None:
        """Wait until something is true of what the members said.

        Raises:
            AssertionError: it did not become true in time.
        """
        with trio.move_on_after(within):
            while not condition():
                await self._said.wait()
            return
        raise AssertionError(f"waited {within:.0f} s in vain for {what}; {self.story()}")

    def story(self) -> str:
        """Return what everybody believes, and how often what happened, for people."""
        lines = []
        for member in self.members.values():
            beliefs = ", ".join(f"{name} {state}" for name, state in member.believes.items() if state != "alive")
            events = Counter(event["event"] for event in member.events)
            lines.append(f"{member.name}: alive {member.counts()['alive']}; {beliefs}; {dict(events)}")
        return "\n".join(["what they believe:", *lines])

    def all_alive(self, members: Iterable[Member] | None = None) -> Callable[[], bool]:
        """Return the condition that each of these, by default everybody, believes each other one to be alive."""
        chosen = list(self.members.values() if members is None else members)
        names = {member.name for member in chosen}
        return lambda: all(
            member.address and all(member.believes.get(name) == "alive" for name in names - {member.name})
            for member in chosen
        )

    def all_believe(self, observers: Iterable[Member], subjects: Iterable[Member], state: str) -> Callable[[], bool]:
        """Return the condition that each of the observers believes each of the subjects to be in a state."""
        pairs = [(observer, subject.name) for observer in observers for subject in list(subjects)]
        return lambda: all(observer.believes.get(name) == state for observer, name in pairs)

    def failed(self) -> set[tuple[str, str]]:
        """Return who was ever declared failed, with whom that was by."""
        return {(event["node"], member.name) for member in self.members.values() for event in member.told("NodeFailed")}


@asynccontextmanager
async def crowd(profile: str) -> AsyncIterator[Crowd]:
    """Open a crowd without members; afterwards nobody listens to them any more."""
    async with trio.open_nursery() as nursery:
        yield Crowd(nursery, profile)
        nursery.cancel_scope.cancel()
