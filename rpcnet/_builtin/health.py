"""What a node says of its own health, and who asks or watches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable

import trio

from rpcnet._builtin_contracts import Health, HealthStatus
from rpcnet.errors import ConfigError, NotFound
from rpcnet.service import rpc

__all__ = ["HealthBoard", "HealthService"]


class HealthBoard:
    """Where an application says how it is; ``node.health``.

    Args:
        draining: returns what is set when the node takes no new calls.
    """

    def __init__(self, draining: Callable[[], trio.Event]) -> None:
        self._ready = {"": True}
        self._is_live = True
        self._draining = draining
        self._changed = trio.Event()

    def know(self, services: Iterable[str]) -> None:
        """Learn the names of the services that can be asked for."""
        self._ready.update(dict.fromkeys(services, True))

    def set_ready(self, ready: bool, service: str = "") -> None:  # noqa: FBT001 - set_ready(False) says it all
        """Say whether calls should be sent here. Others learn it by asking or watching; calls are not refused.

        Args:
            ready: whether.
            service: one of the node's services; by default all of them.

        Raises:
            ConfigError: the node has no such service.
        """
        if service not in self._ready:
            raise ConfigError(f"health: there is no service {service!r} here")
        self._ready[service] = ready
        self._note()

    def set_live(self, live: bool) -> None:  # noqa: FBT001 - as above
        """Say whether the process works at all; an orchestrator that asks should restart it when it does not."""
        self._is_live = live
        self._note()

    def status(self, service: str = "") -> HealthStatus:
        """Return what is told of the node or of one of its services.

        Raises:
            NotFound: the node has no such service.
        """
        if service not in self._ready:
            raise NotFound(f"there is no service {service!r} here")
        draining = self._draining().is_set()
        ready = self._is_live and self._ready[""] and self._ready[service] and not draining
        return HealthStatus(live=self._is_live, ready=ready, draining=draining)

    async def wait_changed(self) -> None:
        """Wait until something was said, or the node drains. A checkpoint."""
        async with trio.open_nursery() as nursery:
            for event in (self._changed, self._draining()):
                nursery.start_soon(_wait, event, nursery.cancel_scope)

    def _note(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


async def _wait(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


class HealthService(Health):
    """What every node serves as ``rpcnet.Health``.

    Args:
        board: where the application says how it is.
    """

    def __init__(self, board: HealthBoard) -> None:
        self._board = board

    @rpc(idempotent=True)
    async def check(self, service: str = "") -> HealthStatus:
        """Return how the node is, or one of its services."""
        return self._board.status(service)

    @rpc(idempotent=True)
    async def watch(self, service: str = "") -> AsyncIterator[HealthStatus]:
        """Return how the node is now, and again whenever that changes."""
        told = self._board.status(service)
        yield told
        while not told.draining:
            await self._board.wait_changed()
            status = self._board.status(service)
            if status != told:
                told = status
                yield told
