"""Service objects that are async context managers: entered before calls are served, left after the last one.

The rules of this file:

* All are entered and left in one task, so that they may hold nurseries and cancel scopes open in between: in the order
  of the services, and in reverse.
* They are left when the node has drained, said goodbye and cancelled the handlers that still ran. Then they have a
  bounded time, in which nothing else cancels them.
* What fails while entering is the failure of the start, bare. What fails later, a nursery that a service has opened or
  the leaving itself, is a crash of the node: nobody can tell what is still served behind it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import trio
from trio.lowlevel import enable_ki_protection

from rpcnet._middleware import sole_error

__all__ = ["ServiceLifetimes"]

log = logging.getLogger("rpcnet.node")


class ServiceLifetimes:
    """Enters and leaves service objects.

    Args:
        services: the service objects; those that are no async context managers are left alone.
        around: what is entered before them and left after them.
    """

    def __init__(self, services: Sequence[object], around: Sequence[AbstractAsyncContextManager[Any]] = ()) -> None:
        own = [service for service in services if isinstance(service, AbstractAsyncContextManager)]
        self._managers = [*around, *own]
        self._leaving = trio.Event()

    @asynccontextmanager
    async def entered(
        self, on_crash: Callable[[Exception], None], patience: Callable[[], float]
    ) -> AsyncGenerator[None, None]:
        """Enter all for the length of a block. Not a checkpoint if there is nothing to enter.

        Args:
            on_crash: told what fails later.
            patience: says, when the block has ended, how many seconds they have for leaving.

        Raises:
            Exception: what one of them raised while it was entered; those before it have been left.
        """
        if not self._managers:
            yield
            return
        outcome: BaseException | None = None
        async with trio.open_nursery() as nursery:
            outcome = await nursery.start(self._live, on_crash, patience)
            if outcome is None:
                try:
                    yield
                except BaseException as error:  # noqa: BLE001 - raised again below, bare, once all have been left
                    outcome = error
                self._leaving.set()
            nursery.cancel_scope.shield = True
        if outcome is not None:
            raise outcome

    @enable_ki_protection
    async def _live(
        self,
        on_crash: Callable[[Exception], None],
        patience: Callable[[], float],
        *,
        task_status: trio.TaskStatus[Exception | None],
    ) -> None:
        failure: Exception | None = None
        are_entered = False
        scope = trio.CancelScope()
        try:
            with scope:
                async with AsyncExitStack() as stack:
                    try:
                        for manager in self._managers:
                            await stack.enter_async_context(manager)
                        are_entered = scope.shield = True
                        task_status.started(None)
                        await self._leaving.wait()
                    except Exception as error:
                        failure = error
                        raise
                    finally:
                        scope.shield = True
                        scope.deadline = trio.current_time() + patience()
        except Exception as error:  # noqa: BLE001 - told to who asked for it
            failure = failure or error
        if scope.cancelled_caught and patience():
            log.warning("the service objects were not left within %s s", patience())
        if failure is None:
            return
        if are_entered:
            log.error("a service object has failed", exc_info=failure)
            on_crash(_as_exception(failure))
        else:
            task_status.started(failure)


def _as_exception(error: Exception) -> Exception:
    """Return what a nursery of a service has wrapped."""
    found = sole_error(error)
    return found if isinstance(found, Exception) else error
