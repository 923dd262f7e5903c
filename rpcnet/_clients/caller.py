"""Calls through whichever peer is chosen: one attempt after another, of every shape.

The rules of this file:

* What is called is a :class:`Target`, fixed when a stub is made. Whom it is called on is for a subclass to say.
* An attempt is repeated only where it cannot have run twice, or may: see :class:`RetryPolicy`. All attempts share one
  deadline, that of the caller or of the call that the caller serves, whichever is earlier.
* A streaming call is repeated until one server has accepted it; until then no request was taken from the caller.
* Counting is exact: an attempt is active from the moment its peer is chosen until it has ended, however it ends.
* An error names every node it came through; a declared one arrives as itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from random import Random
from typing import Any, Generic, NoReturn, Protocol, TypeVar

import attrs
import trio
from trio.lowlevel import wait_task_rescheduled

from rpcnet._context import served_call
from rpcnet._core.bodies import MethodEntry, join_metadata
from rpcnet._core.contracts import Contract
from rpcnet._core.framing import FrameKind, timeout_to_wire
from rpcnet._core.resilience import RetryBudget, RetryPolicy, RetryState
from rpcnet._core.values import MethodCodec
from rpcnet._middleware import Middleware, check_middleware
from rpcnet._net.call_stream import CallStream
from rpcnet._net.client_session import ClientSession
from rpcnet._net.early import EarlyDataLost
from rpcnet._net.endpoint import Endpoint
from rpcnet._net.stream_values import send_values
from rpcnet.errors import (
    ApplicationError,
    DeadlineExceeded,
    Hop,
    Internal,
    RpcNetError,
    StatusError,
    Unimplemented,
)
from rpcnet.selectors import Selector
from rpcnet.service import BUILTIN_PREFIX, Shape

from .contracts import is_settled, settle

__all__ = ["Caller", "OpenCall", "Peer", "Target"]

T = TypeVar("T")
_NEVER = float("inf")


class Peer(Protocol):
    """Somebody to call."""

    @property
    def id(self) -> str:
        """Tells peers apart."""

    @property
    def name(self) -> str:
        """Who must answer; empty if anybody of the cluster will do."""

    @property
    def address(self) -> str:
        """Where."""


P = TypeVar("P", bound=Peer)


@attrs.frozen(eq=False)
class Target:
    """What a stub's method calls: fixed when the stub is made."""

    name: tuple[str, str]
    """The names of service and method."""
    codec: MethodCodec
    """How arguments and results are converted."""
    shape: Shape
    """How many messages go each way."""
    idempotent: bool | None
    """Whether it may run twice; None if the caller has no contract and takes the server's word."""
    where: Selector
    """Which peers will do."""
    node: str | None = None
    """The one peer that will do."""
    wait_for_worker: float = 0.0
    """Seconds to wait for a peer while none will do."""
    metadata: bytes = b""
    """What goes along with every call, encoded."""
    contract: Contract | None = None
    """The contract it belongs to; None if the caller has none."""
    schema: str = attrs.field(init=False)
    """The hash of what the contract says of the method."""

    @schema.default
    def _hash_schema(self) -> str:
        return "" if self.contract is None else self.contract.hashes[self.name[1]]

    @property
    def is_builtin(self) -> bool:
        """Whether every server has it, also while it drains."""
        return self.name[0].startswith(BUILTIN_PREFIX)

    @property
    def full_name(self) -> str:
        """The name as calls give it, ``"service.method"``."""
        return ".".join(self.name)


@attrs.frozen(eq=False)
class OpenCall(Generic[P]):
    """A streaming call that a server has accepted."""

    peer: P
    """Who serves it."""
    session: ClientSession
    """The connection."""
    stream: CallStream
    """Its values."""


def _time_left(deadline: float) -> int:
    """Return what goes on the wire: milliseconds, 0 for no deadline, and what does not: -1 for one that has passed."""
    if deadline == _NEVER:
        return 0
    left = deadline - trio.current_time()
    return timeout_to_wire(left) if left > 0 else -1


class Caller(ABC, Generic[P]):
    """Calls methods on peers that a subclass chooses.

    Args:
        endpoint: where connections live.
        retry: when a failed attempt is followed by another.
        rng: for the pauses between attempts.
        middleware: what runs around every call, the outermost first.
    """

    def __init__(
        self, endpoint: Endpoint, retry: RetryPolicy, rng: Random, middleware: Iterable[Middleware[Any]] = ()
    ) -> None:
        self.middleware = check_middleware(middleware)
        """What runs around every call that a stub makes, the outermost first."""
        self._endpoint = endpoint
        self._retry = retry
        self._budget = RetryBudget(retry)
        self._rng = rng
        self._calls = self._retries = self._failures = 0
        self._idempotent: dict[tuple[str, str], bool] = {}

    # --- what subclasses say

    @abstractmethod
    def _select(self, target: Target, state: RetryState | None = None) -> P | None:
        """Return whom to call; None if nobody will do."""

    @abstractmethod
    async def _wait_for_peer(self, target: Target) -> P:
        """Wait for somebody to call, as long as the target says.

        Raises:
            NoWorkers: nobody will do.
        """

    @abstractmethod
    def _begin(self, peer: P) -> None:
        """Count an attempt on a peer."""

    @abstractmethod
    def _end(self, peer: P, *, done: bool) -> None:
        """Count the end of an attempt."""

    # --- unary calls

    async def call(self, target: Target, /, *args: object, **kwargs: object) -> object:
        """Call a unary method. A checkpoint.

        One coroutine, from the stub to where the task sleeps: a layer costs as much as the rest of this function.
        """
        codec = target.codec
        body = codec.encode_arguments(args, kwargs)
        deadline = self.deadline()
        timeout = _time_left(deadline)
        if timeout < 0:
            await self._refuse_late(target)
        self._calls += 1
        self._budget.deposit()
        peer = self._select(target)
        if peer is None:
            peer = await self._found(target)
        self._begin(peer)
        session = self._endpoint.session(peer.address, peer.name)
        waiter = None
        done = False
        try:
            if session is not None and not target.metadata:
                method = self._method(session, target)
                if method is not None:
                    waiter = session.start(method.number, body, timeout)
            if session is not None and waiter is not None:
                result = await wait_task_rescheduled(waiter.abort)
            else:
                result = await self._call_slowly(target, peer, body, deadline)
            done = True
        except StatusError as error:
            failed = error
        except BaseException as error:
            if waiter is not None:
                waiter.tell_given_up()
            self._failures += isinstance(error, RpcNetError)
            raise
        finally:
            self._end(peer, done=done)
        if not done:
            result = await self._repeat(
                target, peer, failed, deadline, lambda peer: self._attempt(target, peer, body, deadline)
            )
        return codec.decode_result(result)

    async def _attempt(self, target: Target, peer: P, body: bytes, deadline: float) -> bytes:
        self._begin(peer)
        done = False
        try:
            result = await self._call_slowly(target, peer, body, deadline)
            done = True
            return result
        finally:
            self._end(peer, done=done)

    async def _call_slowly(self, target: Target, peer: P, body: bytes, deadline: float) -> bytes:
        """Call where something has to be done, or waited for, before the call can be sent."""
        if target.idempotent:
            session = await self._endpoint.connect(peer.address, peer.name, is_early=True)
            try:
                return await self._call_on(session, target, body, deadline)
            except EarlyDataLost:
                pass  # once more, as usual
        session = await self._endpoint.connect(peer.address, peer.name)
        return await self._call_on(session, target, body, deadline)

    async def _call_on(self, session: ClientSession, target: Target, body: bytes, deadline: float) -> bytes:
        frame = await self._frame(session, target, body, deadline)
        return await session.call(*frame, even_draining=target.is_builtin)

    # --- streaming calls

    async def open(self, target: Target, body: bytes) -> OpenCall[P]:
        """Begin a streaming call: return when a server has accepted it. A checkpoint.

        The attempt counts as active until :meth:`close` is called.
        """
        deadline = self.deadline()
        if deadline <= trio.current_time():
            await self._refuse_late(target)
        self._calls += 1
        self._budget.deposit()
        peer = self._select(target)
        if peer is None:
            peer = await self._found(target)
        try:
            return await self._try_to_open(target, peer, body, deadline)
        except StatusError as error:
            return await self._repeat(
                target, peer, error, deadline, lambda peer: self._try_to_open(target, peer, body, deadline)
            )
        except RpcNetError:
            self._failures += 1
            raise

    async def _try_to_open(self, target: Target, peer: P, body: bytes, deadline: float) -> OpenCall[P]:
        self._begin(peer)
        try:
            session = await self._endpoint.connect(peer.address, peer.name)
            frame = await self._frame(session, target, body, deadline)
            stream = await session.open_call(*frame, even_draining=target.is_builtin)
            return OpenCall(peer, session, stream)
        except BaseException:
            self._end(peer, done=False)
            raise

    def close(self, call: OpenCall[P], *, done: bool) -> None:
        """Let a streaming call go; one that has not ended is cancelled at the server."""
        call.session.close_call(call.stream)
        if not done:
            self._failures += 1
        self._end(call.peer, done=done)

    async def send_all(self, target: Target, /, *args: object, **kwargs: object) -> object:
        """Call a method that takes a stream of requests and returns one result."""
        codec = target.codec
        args, rest, requests = codec.split_requests(args, kwargs)
        call = await self.open(target, codec.encode_arguments(args, rest))
        done = False
        try:
            if requests is not None:
                await self.send_requests(target, call, requests)
            try:
                result = await call.stream.wait_end()
            except StatusError as error:
                raise self.explain(error, target, call.peer) from None
            done = True
        finally:
            self.close(call, done=done)
        return codec.decode_result(result)

    async def send_requests(self, target: Target, call: OpenCall[P], requests: AsyncIterable[Any]) -> None:
        """Send a stream of requests, until it ends or the server has answered. A checkpoint if it waits.

        An error of the requests ends the call, at the server with its status and here as it is.
        """
        stream = call.stream
        with trio.CancelScope() as scope:
            stream.on_end = scope.cancel
            if stream.has_ended:
                scope.cancel()
            try:
                await send_values(stream, requests, target.codec.encode_request)
            except StatusError as error:
                stream.send_error(error)
                raise
            except Exception as error:
                stream.send_error(Internal(f"the stream of requests failed with {type(error).__name__}"))
                raise
            stream.send_end()
        stream.on_end = None

    # --- what both need

    @staticmethod
    def deadline() -> float:
        """Return when a call that is made now is given up: the caller's deadline, or that of the call it serves."""
        deadline = trio.current_effective_deadline()
        served = served_call.get()
        return deadline if served is None else min(deadline, served.deadline)

    async def _refuse_late(self, target: Target) -> NoReturn:
        await trio.lowlevel.checkpoint()  # if it is the caller that is cancelled, this is where it strikes
        self._failures += 1
        raise DeadlineExceeded(f"the deadline passed before {target.full_name} was called", never_ran=True)

    async def _found(self, target: Target) -> P:
        try:
            return await self._wait_for_peer(target)
        except RpcNetError:
            self._failures += 1
            raise

    def _method(self, session: ClientSession, target: Target) -> MethodEntry | None:
        """Return what the server says of a method; None if it must be asked whether the contract fits."""
        method = session.method(target.name)
        if target.idempotent is None:
            self._idempotent[target.name] = method.idempotent
        if method.shape is not target.shape:
            raise Unimplemented(
                f"{target.full_name} is {method.shape.value} at {session.peer_name}, but {target.shape.value} here",
                never_ran=True,
            )
        if method.schema != target.schema and target.schema and not is_settled(session, target, method):
            return None
        return method

    async def _fitting(self, session: ClientSession, target: Target, deadline: float) -> MethodEntry:
        """Return what the server says of a method, after seeing to it that the contract fits."""
        method = self._method(session, target)
        if method is not None:
            return method
        method = session.method(target.name)
        await settle(session, target, method, timeout_to_wire(deadline - trio.current_time()))
        return method

    async def _frame(
        self, session: ClientSession, target: Target, body: bytes, deadline: float
    ) -> tuple[FrameKind, int, bytes, int]:
        """Return what a CALL frame says: its kind, the method's number, the body, and what is left of the deadline."""
        method = await self._fitting(session, target, deadline)
        kind = FrameKind.CALL
        if target.metadata:
            kind, body = FrameKind.CALL_WITH_METADATA, join_metadata(target.metadata, body)
        return kind, method.number, body, timeout_to_wire(deadline - trio.current_time())

    async def _repeat(
        self, target: Target, peer: P, error: StatusError, deadline: float, attempt: Callable[[P], Awaitable[T]]
    ) -> T:
        """Follow a failed attempt by others, as far as the policy goes, or raise what it ended with."""
        state = RetryState(self._retry, self._budget)
        while True:
            state.avoid(peer.id)
            if isinstance(error, DeadlineExceeded) and trio.current_time() >= deadline:
                await trio.lowlevel.checkpoint()  # if it was the caller's own deadline, this is where it strikes
            idempotent = target.idempotent
            if idempotent is None:
                idempotent = self._idempotent.get(target.name, False)
            now = trio.current_time()
            delay = state.on_failure(error, idempotent=idempotent, rng=self._rng, now=now, deadline=deadline)
            chosen = None
            if delay is not None:
                await trio.sleep(delay)
                chosen = self._select(target, state)
            if chosen is None:
                self._failures += 1
                raise self.explain(error, target, peer) from None
            self._retries += 1
            peer = chosen
            try:
                return await attempt(peer)
            except StatusError as next_error:
                error = next_error
            except RpcNetError:
                self._failures += 1
                raise

    def explain(self, error: StatusError, target: Target, peer: P) -> StatusError:
        """Return what the caller gets: with the node that was called in front of the chain, and as itself."""
        fields = error.wire_fields
        known = None if fields is None else target.codec.decode_application_error(*fields)
        answer = known or error
        if fields is not None and not isinstance(error, ApplicationError):
            error.wire_fields = None
        answer.call_id = error.call_id
        if not error.never_ran:
            is_passed_on = any(hop.call_id == error.call_id for hop in error.hops)
            hop = Hop(self._name_of(peer), target.full_name, None if is_passed_on else error.call_id)
            answer.hops = (hop, *error.hops)
        if error.remote_traceback is not None:
            answer.remote_traceback = error.remote_traceback
            answer.add_note(f"Traceback on {self._name_of(peer)}:\n{error.remote_traceback}")
        return answer

    def _name_of(self, peer: P) -> str:
        """Return who a peer is: as it is called, as it has proved to be, or where it was."""
        session = None if peer.name else self._endpoint.session(peer.address, peer.name)
        return peer.name or (session.peer_name if session is not None else None) or peer.address
