"""Stopping one node of a simulation, as SIGSTOP stops a process: its tasks do not run, and its clock goes on.

The rules of this file:

* All nodes of a simulation share one scheduler. Its queue of runnable tasks is replaced by one that keeps back the
  tasks of nodes that stand still. What wakes them meanwhile (datagrams, timers, cancellation) happens, but nobody runs
  until the node goes on; then everything is late at once, and what has arrived waits in the socket.
* A node is the task in which its block runs, and all tasks below that one.
* The queue is a private name of Trio; a test of ours fails when it changes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from trio._core._run import GLOBAL_RUN_CONTEXT
from trio.lowlevel import Task

__all__ = ["FreezableQueue"]


class FreezableQueue(deque[Task]):
    """The queue of runnable tasks; those of nodes that stand still are not seen in it."""

    def __init__(self) -> None:
        super().__init__()
        self._frozen: dict[Task, list[Task]] = {}

    @classmethod
    def install(cls) -> FreezableQueue:
        """Take the place of the queue of the current run, for the rest of it."""
        runner: Any = GLOBAL_RUN_CONTEXT.runner
        queue = cls()
        queue.extend(runner.runq)
        runner.runq = queue
        return queue

    def freeze(self, root: Task) -> None:
        """Let a task and all below it not run, from the next turn of the scheduler on."""
        self._frozen.setdefault(root, [])
        waiting = list(self)
        self.clear()
        for task in waiting:
            self.append(task)

    def thaw(self, root: Task) -> None:
        """Let them go on; does nothing if they run."""
        self.extend(self._frozen.pop(root, ()))

    def append(self, task: Task) -> None:
        """Take in a task that has become runnable."""
        for above in _upwards(task) if self._frozen else ():
            kept_back = self._frozen.get(above)
            if kept_back is not None:
                kept_back.append(task)
                return
        super().append(task)


def _upwards(task: Task) -> Iterator[Task]:
    """Return a task and those above it."""
    above: Task | None = task
    while above is not None:
        yield above
        nursery = above.parent_nursery
        above = None if nursery is None else nursery.parent_task
