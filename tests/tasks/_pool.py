"""A pool of workers with a queue, and without a port."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from random import Random
from typing import Any, cast

import attrs
import trio
import trio.testing

import rpcnet
from rpcnet._core.framing import Frame, FrameKind
from rpcnet._core.values import compile_method
from rpcnet._net.endpoint import CallQueue
from rpcnet._net.pump import PortPump
from rpcnet._net.server_session import IncomingCall
from rpcnet._tasks.dispatch import Dispatcher
from rpcnet._tasks.handler_table import HandlerTable
from rpcnet._tasks.handlers import Handler
from rpcnet._tasks.loop_watch import LoopWatch
from rpcnet.call import CallHost
from rpcnet.errors import (
    CallCancelled,
    StatusError,
)
from rpcnet.service import MethodDefinition, Shape

Work = Callable[[], Coroutine[Any, Any, Any]]


@attrs.define(eq=False)
class Session:
    """What an incoming call belongs to: writes down how each call ended."""

    answers: dict[int, object] = attrs.field(factory=dict)
    peer_name: str = "peer"
    began_early: bool = False

    def answer(self, call: IncomingCall, body: bytes) -> None:
        self._end(call, CODEC.decode_result(body))

    def refuse(self, call: IncomingCall, error: StatusError) -> None:
        self._end(call, error)

    def forget(self, call: IncomingCall) -> None:
        self._end(call, CallCancelled("forgotten"))

    def _end(self, call: IncomingCall, outcome: object) -> None:
        assert call.call_id not in self.answers, "a call ended twice"
        self.answers[call.call_id] = outcome


CONFIG = rpcnet.RpcConfig()
HOST = CallHost(None, lambda _: None, trio.Event, CONFIG)
DEFINITION = MethodDefinition("method", "service", Shape.UNARY, (), Any, idempotent=False)
CODEC = compile_method(DEFINITION, max_depth=8, max_bytes=1 << 20)


class Pump:
    """The pump of a port without a port: the pool never reads."""

    def __init__(self) -> None:
        self.busy = False
        self.finished = 0

    def finish(self) -> None:
        self.busy = False
        self.finished += 1

    def take_reading(self) -> bool:
        return False


class Table(HandlerTable):
    """A table whose methods are made up on the way."""

    def __init__(self) -> None:
        super().__init__([], CONFIG, HOST)

    def add(self, work: Work) -> int:
        async def invoke(_: IncomingCall, arguments: list[object]) -> object:
            return await work(*arguments)

        definition = attrs.evolve(DEFINITION, name=getattr(work, "__name__", DEFINITION.name))
        self._handlers.append(Handler(definition, CODEC, work, invoke))
        return len(self._handlers) - 1


@attrs.define(eq=False)
class Pool:
    """A dispatcher with its queue, and calls to put into it."""

    dispatcher: Dispatcher
    table: Table
    queue: CallQueue
    pump: Pump
    session: Session
    count: int = 0

    def submit(self, *works: Work, timeout_ms: int = 0) -> list[IncomingCall]:
        """Let calls arrive together, as in one burst."""
        calls = []
        for work in works:
            self.count += 1
            frame = Frame(FrameKind.CALL, self.count, self.table.add(work), timeout_ms, CODEC.encode_arguments((), {}))
            calls.append(IncomingCall(self.session, 0, frame, own_stream=False))  # type: ignore[arg-type]
            self.queue.accept(calls[-1])
        self.dispatcher.on_calls()
        return calls

    async def outcomes(self, *works: Work, timeout_ms: int = 0) -> list[object]:
        """Let calls arrive together and return what each ended with."""
        calls = self.submit(*works, timeout_ms=timeout_ms)
        await self.queue.wait_idle()
        return [self.session.answers[call.call_id] for call in calls]


@contextlib.asynccontextmanager
async def open_pool(max_running: int = 100, watch: LoopWatch | None = None) -> AsyncIterator[Pool]:
    table, queue, pump, session = Table(), CallQueue(), Pump(), Session()
    async with trio.open_nursery() as nursery:
        dispatcher = Dispatcher(
            nursery,
            pump=cast(PortPump, pump),
            queue=queue,
            table=table,
            max_running=max_running,
            rng=Random(1),
            watch=watch,
        )
        yield Pool(dispatcher, table, queue, pump, session)
        await trio.testing.wait_all_tasks_blocked()
        statistics = dispatcher.statistics()
        assert statistics.running == 0
        assert statistics.workers == statistics.idle
        assert queue.active == 0
        assert not pump.busy
        nursery.cancel_scope.cancel()
    assert dispatcher.statistics().workers == 0


async def quick() -> str:
    return "quick"


async def slow() -> str:
    await trio.sleep(1)
    return "slow"
