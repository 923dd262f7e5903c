"""The parts that serve calls: an open port, a supervised RPC server, and the service objects behind it.

The rules of this file:

* Service objects are entered first and left last. In between the port is open and the tasks run.
* Draining is heard by a task like everything else, and asked for again if the task failed with the order in hand.
* What is killed says no goodbye.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from random import Random

import attrs
import trio

from rpcnet._net.endpoint import Endpoint
from rpcnet._signals import Draining
from rpcnet._tasks.bus import Bus
from rpcnet._tasks.handler_table import HandlerTable
from rpcnet._tasks.rpc_server import RpcServerTask
from rpcnet._tasks.service_lifetimes import ServiceLifetimes
from rpcnet._tasks.supervisor import NodeTask, Supervisor
from rpcnet.config import NodeConfig

from .common import child

__all__ = ["ORDER_TIMEOUT", "ServerParts"]

log = logging.getLogger("rpcnet.node")
ORDER_TIMEOUT = 0.5
"""Seconds after which an order to a task is given again."""


@attrs.define(eq=False, kw_only=True)
class ServerParts:
    """What a running server is made of; a node has more."""

    name: str
    address: str
    bus: Bus
    supervisor: Supervisor
    endpoint: Endpoint
    table: HandlerTable
    lifetimes: ServiceLifetimes
    config: NodeConfig
    rng: Random
    is_killed: bool = False
    _has_started: bool = False
    _has_drained: bool = False

    async def run(
        self,
        on_crash: Callable[[Exception], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Enter the service objects, run the port and the tasks until cancelled; close the port then."""
        try:
            async with self.lifetimes.entered(on_crash, self._patience), trio.open_nursery() as nursery:
                await nursery.start(self.endpoint.run)
                for name, make in self.tasks().items():
                    await nursery.start(self._supervise, name, make, on_crash)
                await self.start_more(nursery)
                self._has_started = True
                task_status.started()
        finally:
            self.close()

    async def start_more(self, nursery: trio.Nursery) -> None:
        """Start what runs beside the supervised tasks."""

    def tasks(self) -> dict[str, Callable[[bool], NodeTask]]:
        """Return what makes each supervised task, by name; the argument says whether it is started again."""
        return {
            "RPC server": lambda _: RpcServerTask(
                bus=self.bus, endpoint=self.endpoint, table=self.table, config=self.config, rng=child(self.rng)
            )
        }

    def _patience(self) -> float:
        return 0.0 if self.is_killed else self.config.drain_timeout

    async def _supervise(
        self,
        name: str,
        make: Callable[[bool], NodeTask],
        on_crash: Callable[[Exception], None],
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        try:
            await self.supervisor.supervise(name, make, task_status=task_status)
        except Exception as error:
            log.exception("the %s task of %s is given up", name, self.name)
            on_crash(error)

    async def enter(self) -> None:
        """Do what comes between the start of the tasks and the body of the block."""
        await trio.lowlevel.checkpoint()

    async def drain(self) -> None:
        """Refuse new calls and wait for the running ones and their answers, without a bound of its own."""
        with trio.move_on_after(self.config.leave_timeout):
            await self.begin_draining()
        await self.endpoint.calls.wait_idle()
        await self.endpoint.wait_answered(self.config.leave_timeout)
        await trio.lowlevel.checkpoint()

    async def begin_draining(self) -> None:
        """Refuse new calls, and tell everybody so."""
        draining = self.endpoint.draining
        while not draining.is_set():
            self.bus.publish(Draining(at=trio.current_time()))
            with trio.move_on_after(ORDER_TIMEOUT):
                await draining.wait()

    async def leave(self) -> None:
        """Drain, within ``drain_timeout``; again only if that was cancelled."""
        if not self._has_drained:
            with trio.move_on_after(self.config.drain_timeout):
                await self.drain()
            self._has_drained = True

    async def goodbye(self) -> None:
        """Leave if that has not been done, and close all connections."""
        if self._has_started and not self.is_killed:
            await self.leave()
            self.endpoint.close_connections()

    def close(self) -> None:
        """Close the port."""
        self.endpoint.close()
