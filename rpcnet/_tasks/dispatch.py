"""Running handlers: a pool of workers of which one leads.

The rules of this file:

* The leader takes calls from the queue and runs each handler inside its own task. A handler that never suspends costs
  no task, no cancel scope and no turn of the scheduler. When the queue is empty the leader flushes the answers and, if
  it holds the reading role, reads the port itself.
* At its first suspension a handler keeps its worker, and the lead passes to another one. Trio's traps are forwarded, so
  that scopes, nurseries, context variables and exceptions behave in a handler as in a task of its own.
* A worker's cancel scope is entered once and serves many calls, until one of them is cancelled or runs into its
  deadline. Each call has a copy of a clean context.
* A handler that raises, hangs or floods ends its call and nothing else, whatever it raises. Only Ctrl-C, and being
  cancelled from outside, end the worker.
"""

from __future__ import annotations

import contextvars
import logging
import random
import traceback
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, NamedTuple, cast

import attrs
import trio
from trio.lowlevel import Abort, RaiseCancelT, current_task, enable_ki_protection, reschedule, wait_task_rescheduled

from rpcnet._context import call_maker, served_call
from rpcnet._net.endpoint import CallQueue
from rpcnet._net.pump import PortPump
from rpcnet._net.server_session import IncomingCall
from rpcnet.errors import (
    DeadlineExceeded,
    InvalidArgument,
    StatusError,
    Unavailable,
    Unimplemented,
)

from .failures import answer_to, undeclared
from .handler_table import HandlerTable
from .handlers import END_OF_RESULTS, Handler
from .loop_watch import LoopWatch

__all__ = ["Dispatcher", "DispatcherStatistics"]

log = logging.getLogger("rpcnet.rpc")
_NEVER = float("inf")
_MAX_IDLE = 64
_SLICE = 256


@types.coroutine
def _drive(
    coroutine: Coroutine[Any, Any, object], context: contextvars.Context, trap: object, watch: LoopWatch, name: str
) -> Generator[Any, Any, object]:
    """Run a coroutine that has suspended with a trap to its end, in its context, inside the current task."""
    run, clock, limit = context.run, watch.clock, watch.limit
    running = cast("Generator[Any, Any, object]", coroutine)
    while True:
        try:
            resumed = yield trap
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the handler
            step: Callable[[Any], Any] = running.throw
            argument: Any = error
        else:
            step, argument = running.send, resumed
        begun = clock()
        try:
            trap = run(step, argument)
        except StopIteration as stop:
            return stop.value
        finally:
            if clock() - begun > limit:
                watch.on_step(name, begun)


def _ends_the_worker(error: BaseException) -> bool:
    """Whether an error that came out of a handler is more than the end of a call."""
    if isinstance(error, Exception):
        return False
    is_ours = (KeyboardInterrupt, GeneratorExit)
    if error.subgroup(is_ours) if isinstance(error, BaseExceptionGroup) else isinstance(error, is_ours):
        return True
    return trio.current_effective_deadline() == -_NEVER


@attrs.frozen
class DispatcherStatistics:
    """Counters of a dispatcher."""

    workers: int
    """Tasks that run handlers or wait for some."""
    idle: int
    """Those that wait."""
    running: int
    """Handlers that are suspended."""
    finished: int
    """Calls that were answered, refused or dropped."""


class Dispatcher:
    """Takes calls from the port's queue and runs their handlers.

    Args:
        nursery: where workers live.
        pump: who reads and flushes.
        queue: where calls wait.
        table: what is served.
        max_running: handlers that may be suspended at once; further calls wait in the queue.
        rng: for call ids.
        sends_tracebacks: whether callers that want the tracebacks of handlers get them.
        watch: notices handlers that block the event loop.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        pump: PortPump,
        queue: CallQueue,
        table: HandlerTable,
        max_running: int,
        rng: random.Random,
        sends_tracebacks: bool = False,
        watch: LoopWatch | None = None,
    ) -> None:
        self.watch = watch or LoopWatch(limit=1.0)
        """Notices handlers that block the event loop."""
        self._sends_tracebacks = sends_tracebacks
        self._nursery = nursery
        self.pump = pump
        """Who reads and flushes."""
        self.queue = queue
        """Where calls wait."""
        self._table = table
        self._max_running = max_running
        self._rng = rng
        self._idle: list[trio.lowlevel.Task] = []
        self._workers = self._running = self._finished = 0
        self._has_leader = False
        self.reads = False
        """Whether the leader holds the reading role."""
        self._base = contextvars.Context()
        self._base.run(call_maker.set, table.call_of)
        self.is_draining = False
        """Whether new calls are refused."""

    def statistics(self) -> DispatcherStatistics:
        """Return the counters."""
        return DispatcherStatistics(self._workers, len(self._idle), self._running, self._finished)

    # --- who leads

    def on_calls(self) -> None:
        """Let a worker lead if calls wait; the pump's reader calls this, and gives the reading role away with it."""
        if self.queue.waiting and not self._has_leader and self._wake_leader():
            self.reads = self.pump.take_reading()

    def take_lead(self) -> bool:
        """Take the lead if calls wait and nobody has it."""
        if self._has_leader or not self.queue.waiting:
            return False
        self._has_leader = True
        return True

    def pass_on(self) -> None:
        """Pass the lead to another worker, because the leader's handler has suspended."""
        self._running += 1
        self._has_leader = False
        self.pump.busy = False
        if not self._wake_leader():
            self.give_up_lead()

    def give_up_lead(self) -> None:
        """Lead no more: the pump reads and flushes by itself."""
        self._has_leader = False
        self.pump.finish()
        if self.reads:
            self.reads = False
            self.pump.release_reading()

    def resume(self) -> None:
        """Note that a suspended handler has ended."""
        self._running -= 1

    async def park(self) -> bool:
        """Wait to be woken as the leader; return False at once if enough workers wait already."""
        if len(self._idle) >= _MAX_IDLE:
            return False
        task = current_task()
        self._idle.append(task)

        def abort(_: RaiseCancelT) -> Abort:
            self._idle.remove(task)
            return Abort.SUCCEEDED

        await wait_task_rescheduled(abort)
        return True

    def _wake_leader(self) -> bool:
        if self._idle:
            reschedule(self._idle.pop())
        elif self._running < self._max_running:
            self._workers += 1
            contextvars.Context().run(self._nursery.start_soon, self._work)
        else:
            return False
        self._has_leader = True
        return True

    @enable_ki_protection
    async def _work(self) -> None:
        worker = _Worker(self)
        try:
            while await worker.turn():
                pass
        finally:
            self._workers -= 1
            worker.end()

    def new_context(self, call: IncomingCall) -> contextvars.Context:
        """Return a clean context for one handler, which knows the call."""
        context = self._base.copy()
        context.run(served_call.set, call)
        return context

    # --- one call

    def handler_of(self, call: IncomingCall) -> tuple[Handler, list[object]] | None:
        """Find and decode what a call wants; None if it was answered already, because that cannot be done."""
        if call.is_cancelled:
            self.drop(call)
            return None
        try:
            return self._prepare(call)
        except StatusError as error:
            self.refuse(call, error)
            return None

    def _prepare(self, call: IncomingCall) -> tuple[Handler, list[object]]:
        handler = self._table.get(call.number)
        if self.is_draining and not (handler is not None and handler.is_builtin):
            raise Unavailable("the node is draining", never_ran=True)
        if call.deadline != _NEVER and call.deadline <= trio.current_time():
            raise DeadlineExceeded("the deadline passed before the call was started", never_ran=True)
        if handler is None:
            raise Unimplemented(f"no method has the number {call.number}", never_ran=True)
        if call.is_early and not handler.definition.idempotent:
            raise Unavailable("only what may run twice can be called before the handshake is complete", never_ran=True)
        if handler.guard is not None:
            handler.guard(call)
        if call.metadata:
            self._table.call_of(call)  # refuses what cannot be read
        try:
            return handler, handler.codec.decode_arguments(call.body)
        except InvalidArgument as error:
            error.never_ran = True
            raise

    def name_of(self, call: IncomingCall) -> str:
        """Return what a call wants, for the log."""
        handler = self._table.get(call.number)
        return f"method {call.number}" if handler is None else handler.definition.full_name

    def finish(self, call: IncomingCall, handler: Handler, result: object) -> None:
        """Encode a handler's result and answer the call."""
        try:
            body = handler.codec.encode_result(result) if result is not END_OF_RESULTS else b""
        except Exception as error:  # noqa: BLE001 - a handler can return anything
            self.fail(call, handler, error)
            return
        self._finished += 1
        call.answer(body)
        self.queue.end()

    def fail(self, call: IncomingCall, handler: Handler, error: BaseException) -> None:
        """Answer a call whose handler raised; what is not declared goes to the log under a call id."""
        try:
            answer = answer_to(error, handler)
        except TypeError as problem:  # what it declares cannot be sent as it is
            error, answer = problem, None
        if answer is None:
            call_id = f"{self._rng.getrandbits(48):012x}"
            name = handler.definition.full_name
            log.error("%s failed for %s [call %s]", name, call.session.peer_name, call_id, exc_info=error)
            answer = undeclared(error, name, call_id)
        if self._sends_tracebacks and call.session.wants_tracebacks:
            answer.remote_traceback = "".join(traceback.format_exception(error))
        self.refuse(call, answer)

    def refuse(self, call: IncomingCall, error: StatusError) -> None:
        """Answer a call with an error."""
        self._finished += 1
        call.refuse(error)
        self.queue.end()

    def drop(self, call: IncomingCall) -> None:
        """End a call whose caller has given up."""
        self._finished += 1
        call.drop()
        self.queue.end()


class _Suspended(NamedTuple):
    """A call whose handler waits for something."""

    call: IncomingCall
    handler: Handler
    coroutine: Coroutine[Any, Any, object]
    context: contextvars.Context
    trap: object
    """What the handler yielded to Trio."""


class _Worker:
    """One task of the pool: what it runs, and whether it leads."""

    def __init__(self, pool: Dispatcher) -> None:
        self._pool = pool
        self._leads = True
        self._is_suspended = False
        self._call: IncomingCall | None = None
        self._handler: Handler | None = None
        self._scope = trio.CancelScope()

    async def turn(self) -> bool:
        """Serve until the cancel scope is used up; return False when the worker is not needed any more."""
        self._scope = trio.CancelScope()
        try:
            with self._scope:
                while not self._scope.cancel_called:
                    if not self._leads and not await self._rest():
                        return False
                    await self._lead()
        except BaseException as error:
            if self._call is None or self._handler is None or _ends_the_worker(error):
                raise
            call, handler = self._clear(self._call), self._handler
            self._pool.fail(call, handler, error)
        if self._call is not None:
            call = self._clear(self._call)
            if call.is_cancelled:
                self._pool.drop(call)
            else:
                self._pool.refuse(call, DeadlineExceeded("the deadline passed while the handler was running"))
        return True

    def end(self) -> None:
        """Leave nothing behind: neither a call without an answer nor the lead."""
        if self._call is not None:
            self._pool.refuse(self._clear(self._call), Unavailable("the node stopped while the handler was running"))
        if self._leads:
            self._pool.give_up_lead()

    async def _rest(self) -> bool:
        pool = self._pool
        if not pool.take_lead() and not await pool.park():
            return False
        self._leads = True
        return True

    async def _lead(self) -> None:
        pool = self._pool
        watch, clock = pool.watch, pool.watch.clock
        waiting = pool.queue.waiting
        budget = _SLICE
        while self._leads:
            pool.pump.busy = True
            begun, before = clock(), budget
            start = self._start_watched if watch.is_armed(begun) else self._start
            while waiting and budget:
                budget -= 1
                suspended = start(call := waiting.popleft())
                if suspended is not None:
                    if clock() - begun > watch.limit:
                        watch.on_burst(before - budget, pool.name_of(call), begun)
                    await self._finish(suspended)
                    return
            if clock() - begun > watch.limit and before > budget:
                watch.on_burst(before - budget, pool.name_of(call), begun)
            pool.pump.finish()
            if not budget:
                budget = _SLICE
                await trio.lowlevel.checkpoint()
            elif pool.reads:
                await pool.pump.wait_and_read()
            else:
                self._leads = False
                pool.give_up_lead()

    def _start(self, call: IncomingCall) -> _Suspended | None:
        """Run a call until its handler ends or first suspends; what it suspended with goes to :meth:`_finish`.

        While it runs nothing else does, so nobody needs to know of it: only a suspended call can be cancelled.
        """
        pool = self._pool
        prepared = pool.handler_of(call)
        if prepared is None:
            return None
        handler, arguments = prepared
        context = pool.new_context(call)
        method = handler.method
        try:
            coroutine = method(*arguments) if method is not None else handler.invoke(call, arguments)
            trap = context.run(coroutine.send, None)
        except StopIteration as stop:
            pool.finish(call, handler, stop.value)
        except BaseException as error:
            if _ends_the_worker(error):
                self._call, self._handler = call, handler  # so that it gets an answer
                raise
            pool.fail(call, handler, error)
        else:
            return _Suspended(call, handler, coroutine, context, trap)
        return None

    def _start_watched(self, call: IncomingCall) -> _Suspended | None:
        """Do what :meth:`_start` does, and measure it."""
        watch = self._pool.watch
        begun = watch.clock()
        try:
            return self._start(call)
        finally:
            watch.on_step(self._pool.name_of(call), begun)

    async def _finish(self, suspended: _Suspended) -> None:
        """Pass the lead on, and run a suspended call to its end."""
        pool = self._pool
        call, handler = suspended.call, suspended.handler
        self._call, self._handler = call, handler
        call.scope = self._scope
        if call.deadline != _NEVER:
            self._scope.deadline = call.deadline
        self._is_suspended = True
        self._leads = False
        pool.pass_on()
        try:
            name = handler.definition.full_name
            result = await _drive(suspended.coroutine, suspended.context, suspended.trap, pool.watch, name)
        except BaseException as error:
            if _ends_the_worker(error):
                raise
            pool.fail(self._clear(call), handler, error)
        else:
            pool.finish(self._clear(call), handler, result)

    def _clear(self, call: IncomingCall) -> IncomingCall:
        self._call = None
        call.scope = None
        if self._is_suspended:
            self._is_suspended = False
            self._pool.resume()
            if not self._scope.cancel_called:
                self._scope.deadline = _NEVER
        return call
