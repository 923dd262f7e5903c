"""The lifetime of a node: services that outlive the body they serve, by a goodbye.

The rules of this file:

* Services run shielded, so that whatever ends the body (its end, an error, a cancellation from outside) the services
  are still there while it unwinds and while the goodbye runs.
* The goodbye is shielded too, and bounded by whoever wrote it.
* Errors of the body come out bare. A crash of the services cancels the body and comes out as :class:`NodeCrashed`.
"""

from __future__ import annotations

import contextvars
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import trio

from rpcnet.errors import NodeCrashed

__all__ = ["Services", "serving"]


class Services(Protocol):
    """What runs while the body does."""

    async def run(self, on_crash: Callable[[Exception], None], *, task_status: trio.TaskStatus[None]) -> None:
        """Serve until cancelled; report a crash instead of raising it, so that the rest can still say goodbye."""

    async def goodbye(self) -> None:
        """Leave in good order, within bounded time."""


async def _wait_started(started: trio.Event, failure: list[Exception]) -> None:
    await started.wait()
    if failure:
        raise failure[0]


@asynccontextmanager
async def serving(services: Services, enter: Callable[[], Awaitable[None]]) -> AsyncGenerator[None, None]:
    """Run services around a body.

    Args:
        services: what to run; started before the body, in a clean context.
        enter: what to do between the start of the services and the body.

    Raises:
        NodeCrashed: the services crashed; the cause says why.
    """
    crashes: list[Exception] = []
    outcome: list[BaseException] = []
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope(shield=True)
        started, failure = trio.Event(), list[Exception]()

        def on_crash(error: Exception) -> None:
            crashes.append(error)
            nursery.cancel_scope.cancel(reason="the node has crashed")

        contextvars.Context().run(nursery.start_soon, _serve, services, scope, on_crash, started, failure)
        try:
            try:
                await _wait_started(started, failure)
                await enter()
                yield
            except BaseException as error:  # noqa: BLE001 - raised again below, bare, once the services have ended
                outcome.append(error)
            if not failure:
                with trio.CancelScope(shield=True):
                    await services.goodbye()
        finally:
            nursery.cancel_scope.shield = True  # what ends the services must not replace what ended the body
            scope.cancel(reason="the node is leaving")
    if crashes:
        crashed = NodeCrashed(f"the node has crashed: {crashes[0]}")
        crashed.__context__ = outcome[0] if outcome else None
        raise crashed from crashes[0]
    if outcome:
        raise outcome[0]


async def _serve(
    services: Services,
    scope: trio.CancelScope,
    on_crash: Callable[[Exception], None],
    started: trio.Event,
    failure: list[Exception],
) -> None:
    try:
        with scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(services.run, on_crash)
                started.set()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the node's end, not the nursery's
        if isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]  # that group is the nursery's
        if started.is_set():
            on_crash(error)
        else:
            failure.append(error)
            started.set()
