"""Supervision: a task of a node that fails is started again, fresh; one that keeps failing ends the node.

The rules of this file:

* Each start gets a new task object, hence a new machine; what must outlive it is in the bus, the port or the hub.
* More than ``max_restarts`` within ``restart_window`` seconds end the node, with everything that was raised.
* Cancellation is not a failure. Nor is the loss of the node's name: that ends the node at once.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

import attrs
import trio

from rpcnet._middleware import sole_error
from rpcnet.config import SupervisionConfig
from rpcnet.errors import NameConflict

from .bus import Bus

__all__ = ["NodeTask", "Supervisor"]

log = logging.getLogger("rpcnet.node")


class NodeTask(Protocol):
    """One of the four tasks of a node."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; call ``task_status.started()`` once the task hears its mailbox."""


class _FirstStart(trio.TaskStatus[None]):
    """Passes on the first ``started()`` of a task that may be started many times."""

    def __init__(self, status: trio.TaskStatus[None]) -> None:
        self._status: trio.TaskStatus[None] | None = status

    def started(self, value: None = None) -> None:
        """Say that the task has started; only the first time counts."""
        status, self._status = self._status, None
        if status is not None:
            status.started()


@attrs.define(eq=False)
class Supervisor:
    """Runs tasks and restarts them when they fail."""

    config: SupervisionConfig
    """When to give up."""
    bus: Bus
    """Where the tasks' mailboxes are, for the log."""
    restarts: dict[str, int] = attrs.field(factory=dict)
    """How often each task was restarted."""

    async def supervise(
        self,
        name: str,
        make: Callable[[bool], NodeTask],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run one task for ever, until cancelled.

        Args:
            name: the task's name, also that of its mailbox.
            make: makes the task; its argument says whether this is a restart.
            task_status: started when the task is, for the first time.

        Raises:
            ExceptionGroup: the task failed too often; these are its failures.
            NameConflict: another node keeps this one's name.
        """
        failures: deque[tuple[float, Exception]] = deque()
        first = _FirstStart(task_status)
        self.restarts[name] = 0
        while True:
            try:
                await make(self.restarts[name] > 0).run(task_status=first)
            except Exception as error:
                if isinstance(lost := sole_error(error), NameConflict):
                    raise lost from None
                now = trio.current_time()
                failures.append((now, error))
                while now - failures[0][0] > self.config.restart_window:
                    failures.popleft()
                if len(failures) > self.config.max_restarts:
                    message = f"the {name} task failed {len(failures)} times in {self.config.restart_window} s"
                    raise ExceptionGroup(message, [each for _, each in failures]) from None
                self.restarts[name] += 1
                position = self.bus.position(name)
                log.exception("the %s task failed after %d events and is restarted", name, position)
            else:
                raise RuntimeError(f"the {name} task returned")
            await trio.lowlevel.checkpoint()
