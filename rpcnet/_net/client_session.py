"""The dialling side of a connection: sends calls, waits for their answers.

The rules of this file:

* A small call goes out as one frame on a lane; the lanes take turns. A large one has a stream of its own.
* A waiting caller is woken directly, by rescheduling its task: no event and no channel per call.
* Whoever stops waiting says so to the server, with CANCEL on a lane or a reset of the call's own stream.
* When the connection ends, every caller gets ``Unavailable``; ``never_ran`` is True only for calls that were not sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import trio
from trio.lowlevel import Abort, RaiseCancelT, current_task, reschedule, wait_task_rescheduled

from rpcnet._core.bodies import Hello, MethodEntry
from rpcnet._core.calls import OutgoingCalls, refuse_unexpected, status_error_of
from rpcnet._core.framing import Frame, FrameKind, StreamKind, encode_frame, encode_head
from rpcnet.config import RpcConfig
from rpcnet.errors import (
    ProtocolError,
    ResourceExhausted,
    RpcNetError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    VersionMismatch,
)

from .allowance import Allowance
from .call_stream import CallStream
from .pump import PortPump
from .quic import CloseKind, LinkClosed, StreamsExhausted
from .session import CLOSE_NORMAL, CLOSE_VERSION_MISMATCH, MAX_STATE_BYTES, STREAM_CANCELLED, InboundStream, Session

if TYPE_CHECKING:
    from outcome import Outcome

__all__ = ["ClientSession", "Waiter"]

_OWN_KINDS = (StreamKind.CALL, StreamKind.STATE)


class Waiter:
    """One caller that waits: its task, where its call is, and in the end the outcome that it is woken with."""

    __slots__ = ("_session", "body", "call_id", "error", "is_waiting", "lane", "stream_id", "task")

    def __init__(self, session: ClientSession, task: trio.lowlevel.Task) -> None:
        self._session = session
        self.task = task
        self.call_id = 0
        self.lane = -1
        self.is_waiting = True
        self.stream_id: int | None = None
        self.error: Exception | None = None
        self.body = b""

    def unwrap(self) -> bytes:
        """Return or raise what the call ended with; Trio calls this as it would an ``Outcome``'s."""
        if self.error is not None:
            raise self.error
        return self.body

    def succeed(self, result: bytes) -> None:
        """Resume the caller with the result."""
        self.body = result
        reschedule(self.task, cast("Outcome[bytes]", self))

    def fail(self, error: RpcNetError) -> None:
        """Resume the caller with an error."""
        self.error = error
        if self.task is not current_task():  # the one that flushes does not wait yet; it looks by itself
            reschedule(self.task, cast("Outcome[bytes]", self))

    def tell_given_up(self) -> None:
        """Tell the server that nobody waits any more, if that is so."""
        self._session.tell_given_up(self)

    def abort(self, _: RaiseCancelT) -> Abort:
        """Give the call up; Trio calls this when the caller is cancelled.

        Trio cancels the tasks of a scope in no order that repeats. So nothing is sent here, but when the task runs.
        """
        self._session.give_up(self)
        return Abort.SUCCEEDED


class ClientSession(Session):
    """The dialling side of one connection."""

    def __init__(self, pump: PortPump, config: RpcConfig, hello: Hello, *, on_end: Callable[[], object]) -> None:
        super().__init__(pump, config, hello)
        self._on_end = on_end
        self._opened = trio.Event()
        self._calls: OutgoingCalls[Waiter | CallStream] = OutgoingCalls()
        self._methods: dict[tuple[str, str], MethodEntry] = {}
        self._lanes: list[int] = []
        self._lane = -1
        self._max_calls = 0
        self._slots: deque[trio.Event] = deque()
        self._room_for_requests = Allowance(config.max_request_bytes)
        self._control = -1
        self._lane_limit = config.lane_limit_bytes
        self.is_open = False
        """Whether calls can be sent at once."""
        self.verdicts: dict[tuple[int, str], str] = {}
        """By method and contract, why the contract does not fit; empty if it does."""
        self.is_draining = False
        """Whether the server said that it takes no new calls."""

    @property
    def calls_in_flight(self) -> int:
        """The number of calls that are sent and not answered."""
        return len(self._calls)

    async def wait_open(self) -> None:
        """Wait until both sides have said HELLO. A checkpoint; cancelling leaves the connection to others.

        Raises:
            Unavailable: nobody answered, or the connection was lost.
            Unauthenticated: one side did not prove who it is.
            VersionMismatch: there is no common protocol version.
        """
        await self._opened.wait()
        if self._closed is not None:
            raise self._why_closed(never_ran=True)

    def method(self, name: tuple[str, str]) -> MethodEntry:
        """Return what the server said of a method, given the names of its service and of itself.

        Raises:
            Unimplemented: the server does not have it.
        """
        entry = self._methods.get(name)
        if entry is None:
            raise Unimplemented(f"{self.peer_name} does not serve {'.'.join(name)}", never_ran=True)
        return entry

    async def call(
        self, kind: FrameKind, number: int, body: bytes, timeout_ms: int, *, even_draining: bool = False
    ) -> bytes:
        """Call a unary method and return its encoded result. A checkpoint; cancelling cancels the handler.

        Args:
            kind: CALL or CALL_WITH_METADATA.
            number: from :meth:`method`.
            body: the encoded arguments.
            timeout_ms: what is left of the deadline, 0 for none.
            even_draining: call a server that takes no new calls, too; it serves what is built in.

        Raises:
            StatusError: whatever the call ended with.
        """
        if len(self._calls) >= self._max_calls:
            await self._wait_for_slot()
        if len(body) > self._lane_limit:
            return await self._call_on_stream(kind, number, body, timeout_ms)
        self._check_open(even_draining=even_draining)
        waiter = self._send_call(kind, number, body, timeout_ms)
        try:
            result: bytes = await wait_task_rescheduled(waiter.abort)
        except BaseException:
            waiter.tell_given_up()
            raise
        return result

    def start(self, number: int, body: bytes, timeout_ms: int) -> Waiter | None:
        """Send a call if that is possible at once; None if it is not.

        The caller then waits with ``wait_task_rescheduled(waiter.abort)``, and calls ``waiter.tell_given_up()`` if
        that raises.

        Raises:
            Unavailable: the connection ended while the call was sent.
        """
        if (
            len(body) > self._lane_limit
            or len(self._calls) >= self._max_calls
            or self._closed is not None
            or self.is_draining
        ):
            return None
        return self._send_call(FrameKind.CALL, number, body, timeout_ms)

    def _send_call(self, kind: FrameKind, number: int, body: bytes, timeout_ms: int) -> Waiter:
        waiter = Waiter(self, current_task())
        waiter.call_id = call_id = self._calls.begin(waiter)
        is_alone = not self._pump.busy and len(self._calls) == 1
        if is_alone:
            self._pump.busy = True  # nobody else need be woken to flush: that is done at once, here
        if not self._queued:
            self._next_lane()
        waiter.lane = lane = self._lane
        self.write(lane, encode_frame(kind, call_id, number, timeout_ms, body))
        if is_alone:
            self._pump.finish()
            if waiter.error is not None:  # the connection was about to be closed, and flushing did that
                raise waiter.error
        return waiter

    async def _call_on_stream(self, kind: FrameKind, number: int, body: bytes, timeout_ms: int) -> bytes:
        self._check_size(body)
        await self._room_for_requests.take(len(body))
        try:
            await self.wait_for_room()
            while self._closed is None and len(self._calls) >= self._max_calls:  # others waited for room as well
                await self._wait_for_slot()
                await self.wait_for_room()
            return await self._request(StreamKind.CALL, kind, number, timeout_ms, body)
        finally:
            self._room_for_requests.give_back(len(body))

    def _check_size(self, body: bytes) -> None:
        if len(body) > self.message_limit:
            message = f"request of {len(body)} bytes is above the limit of {self.message_limit}"
            raise ResourceExhausted(message, never_ran=True)

    async def open_call(
        self, kind: FrameKind, number: int, body: bytes, timeout_ms: int, *, even_draining: bool = False
    ) -> CallStream:
        """Call a streaming method; return its stream when the server has accepted the call.

        A checkpoint; cancelling cancels the handler. Whoever gets the stream ends it with :meth:`close_call`.

        Args:
            kind: CALL or CALL_WITH_METADATA.
            number: from :meth:`method`.
            body: the encoded arguments, without the stream of requests.
            timeout_ms: what is left of the deadline, 0 for none.
            even_draining: call a server that takes no new calls, too; it serves what is built in.

        Raises:
            StatusError: the call was refused; no request was taken from anybody's stream.
        """
        self._check_size(body)
        await self.wait_for_room()
        while self._closed is None and len(self._calls) >= self._max_calls:
            await self._wait_for_slot()
            await self.wait_for_room()
        self._check_open(even_draining=even_draining)
        config = self._config
        stream = CallStream(
            self, -1, 0, credit=0, window=config.stream_window_bytes, watermark=config.send_watermark_bytes
        )
        stream.call_id = self._calls.begin(stream)
        data = bytes([StreamKind.CALL]) + encode_frame(kind, stream.call_id, number, timeout_ms, body)

        def begin(stream_id: int) -> None:
            if stream.is_over:  # it gave up before the peer allowed another stream
                self._cancel_stream(stream_id)
                return
            stream.stream_id = stream_id
            inbound = self.expect(stream_id, StreamKind.CALL)
            inbound.call_id, inbound.channel = stream.call_id, stream
            self.write(stream_id, data)

        self.with_stream(begin)
        try:
            await stream.wait_accepted()
        except BaseException:
            self.close_call(stream)
            raise
        return stream

    def close_call(self, stream: CallStream) -> None:
        """Let a streaming call go; one that has not ended is cancelled at the server."""
        stream.finish()
        if stream.has_ended or self._closed is not None:
            return
        if stream.requests_failed:
            self.write_last(stream.stream_id, b"")  # the server hears why; its answer ends the call
        else:
            self._cancel_call(stream)

    def _cancel_call(self, stream: CallStream) -> None:
        self._calls.end(stream.call_id)
        self._free_slot()
        if stream.stream_id >= 0:
            self._streams.pop(stream.stream_id, None)
            self._cancel_stream(stream.stream_id)

    def _cancel_stream(self, stream_id: int) -> None:
        self._output.pop(stream_id, None)
        self.link.reset(stream_id, STREAM_CANCELLED)
        self.link.stop(stream_id, STREAM_CANCELLED)

    async def exchange_state(self, payload: bytes) -> bytes:
        """Send membership's full state and return the peer's. A checkpoint; cancelling gives the exchange up.

        Raises:
            Unavailable: the connection was lost.
        """
        if len(payload) > MAX_STATE_BYTES:
            raise ResourceExhausted(f"state of {len(payload)} bytes is above the limit of {MAX_STATE_BYTES}")
        return await self._request(StreamKind.STATE, FrameKind.STATE, 0, 0, payload)

    async def _request(
        self, stream_kind: StreamKind, kind: FrameKind, number: int, timeout_ms: int, body: bytes
    ) -> bytes:
        self._check_open()
        waiter = Waiter(self, current_task())
        waiter.call_id = self._calls.begin(waiter)
        head = bytes([stream_kind]) + encode_head(kind, waiter.call_id, number, timeout_ms, len(body))

        def send(stream_id: int) -> None:
            if waiter.is_waiting:
                waiter.stream_id = stream_id
                self.expect(stream_id, stream_kind).call_id = waiter.call_id
                self.write_last(stream_id, head, body)
            else:  # it gave up before the peer allowed another stream
                self._cancel_stream(stream_id)

        self.with_stream(send)
        try:
            result: bytes = await wait_task_rescheduled(waiter.abort)
        except BaseException:
            waiter.tell_given_up()
            raise
        return result

    def give_up(self, waiter: Waiter) -> None:
        """Wait for the answer to a call no more."""
        waiter.is_waiting = False
        if self._calls.end(waiter.call_id) is not None:
            self._free_slot()

    def tell_given_up(self, waiter: Waiter) -> None:
        """Tell the server that nobody waits for a call any more, if that is so."""
        if waiter.is_waiting or self._closed is not None:
            return
        if waiter.lane >= 0:
            self.write(waiter.lane, encode_frame(FrameKind.CANCEL, waiter.call_id))
        elif waiter.stream_id is not None:
            self._streams.pop(waiter.stream_id, None)
            self._cancel_stream(waiter.stream_id)

    def _check_open(self, *, even_draining: bool = False) -> None:
        if self._closed is not None:
            raise self._why_closed(never_ran=True)
        if self.is_draining and not even_draining:
            raise Unavailable(f"{self.peer_name} is draining", never_ran=True)

    def _next_lane(self) -> None:
        """Take another lane for what goes out with the next flush; all of one flush shares a lane, hence a packet."""
        lanes = self._lanes
        self._lane = lanes[(lanes.index(self._lane) + 1) % len(lanes)]

    async def _wait_for_slot(self) -> None:
        while self._closed is None and len(self._calls) >= self._max_calls:
            event = trio.Event()
            self._slots.append(event)
            try:
                await event.wait()
            except BaseException:
                if event.is_set():
                    self._free_slot()
                else:
                    self._slots.remove(event)
                raise

    def _free_slot(self) -> None:
        if self._slots:
            self._slots.popleft().set()

    def _why_closed(self, *, never_ran: bool) -> RpcNetError:
        if isinstance(self.failure, RpcNetError) and isinstance(self.failure, VersionMismatch):
            return self.failure
        reason = self._closed
        if reason is None:
            return Unavailable("the connection is not open", never_ran=never_ran)
        if reason.kind is CloseKind.UNAUTHENTICATED:
            return Unauthenticated(reason.message, never_ran=True)
        if reason.code == CLOSE_VERSION_MISMATCH:
            return VersionMismatch(reason.message)
        where = self.peer_name or "the peer"
        return Unavailable(f"connection with {where} ended: {reason.message or reason.kind.name}", never_ran=never_ran)

    # --- input

    def on_ready(self) -> None:
        """Say HELLO first."""
        self._control = self.link.open_stream()
        self.expect(self._control, StreamKind.CONTROL)
        self.say_hello(self._control, bytes([StreamKind.CONTROL]))

    def on_hello(self, hello: Hello) -> None:
        """Learn what the server says, and let the callers go."""
        self.learn(hello)
        self.let_go()

    def learn(self, hello: Hello) -> None:
        """Learn the server's methods and limits, and open the lanes."""
        self.message_limit = min(self._config.max_message_bytes, hello.max_message_bytes)
        self._max_calls = hello.max_calls
        self._room_for_requests = Allowance(hello.max_request_bytes)
        self._lane_limit = min(self._lane_limit, self.message_limit)
        self._methods = {(s.name, m.name): m for s in hello.services for m in s.methods}
        self._open_lanes()

    def let_go(self) -> None:
        """Let the callers go who wait for the connection."""
        self.is_open = True
        self._opened.set()

    def _open_lanes(self) -> None:
        """Open the lanes before large calls can take all streams that the peer allows."""
        try:
            self._lanes = [self.link.open_stream() for _ in range(self._config.lanes)]
        except StreamsExhausted:
            raise ProtocolError(f"HELLO frame: the server allows less than {self._config.lanes} lanes") from None
        for lane in self._lanes:
            self.write(lane, bytes([StreamKind.LANE]))
            self.expect(lane, StreamKind.LANE)
        self._lane = self._lanes[-1]

    def on_control(self, frame: Frame) -> None:
        """Take GOAWAY."""
        if frame.kind != FrameKind.GOAWAY:
            raise refuse_unexpected(frame, "control")
        self.is_draining = True

    def check_stream(self, stream_id: int, kind: StreamKind) -> None:
        """Allow only results on streams that the server opens."""
        if kind is not StreamKind.RESULT:
            raise ProtocolError(f"the server may not open a {kind.name} stream")

    def on_frame(self, stream_id: int, stream: InboundStream, frame: Frame) -> None:
        """Wake the caller whose answer this is."""
        kind = frame.kind
        if stream.kind in _OWN_KINDS:
            self._on_own_stream(stream_id, stream, frame)
            return
        error = None
        if kind == FrameKind.ERROR:
            error = status_error_of(frame)
        elif kind != FrameKind.RESULT:
            raise refuse_unexpected(frame, stream.kind.name.lower())
        waiter = self._calls.end(frame.call_id)
        if waiter is None:
            return  # it was given up
        if not isinstance(waiter, Waiter) or waiter.lane < 0:
            waiter.fail(Unavailable("the server broke the protocol"))
            raise ProtocolError(f"{FrameKind(kind).name} frame on a {stream.kind.name} stream for a call on another")
        if error is None:
            waiter.succeed(frame.body)
        else:
            waiter.fail(error)
        if self._slots:
            self._free_slot()

    def _on_own_stream(self, stream_id: int, stream: InboundStream, frame: Frame) -> None:
        """Take what arrives on the stream of a call, up to its answer."""
        kind, channel = frame.kind, stream.channel
        if stream.call_id is None:
            raise ProtocolError(f"{FrameKind(kind).name} frame after the answer")
        if channel is not None and kind == FrameKind.ITEM:
            channel.put(frame.body)
            if channel.is_over:
                self._cancel_call(channel)
            return
        if channel is not None and kind == FrameKind.CREDIT:
            channel.grant(frame.b)
            return
        error = None
        if kind == FrameKind.ERROR:
            error = status_error_of(frame)
        elif kind != (FrameKind.STATE if stream.kind is StreamKind.STATE else FrameKind.RESULT):
            raise refuse_unexpected(frame, stream.kind.name.lower())
        waiter = self._calls.end(stream.call_id)
        stream.call_id = None
        if waiter is not None:
            if error is None:
                waiter.succeed(frame.body)
            else:
                waiter.fail(error)
            self._free_slot()
        if channel is not None and not channel.is_over:
            self.write_last(stream_id, b"")

    def on_stream_end(self, stream_id: int, stream: InboundStream) -> None:
        """End the call of a stream that was closed without an answer."""
        if stream.kind in (StreamKind.CONTROL, StreamKind.LANE):
            raise ProtocolError(f"the server closed a {stream.kind.name} stream")
        self._fail_call(stream_id, stream, "the server closed the call's stream without an answer")

    def on_stream_reset(self, stream_id: int, stream: InboundStream | None) -> None:
        """End the call of a stream that was given up."""
        if stream is not None:
            self._fail_call(stream_id, stream, "the server reset the call's stream")

    def on_stream_stopped(self, stream_id: int) -> None:
        """Go on waiting: a server that has answered wants no more requests."""

    def _fail_call(self, stream_id: int, stream: InboundStream, message: str) -> None:
        waiter = None if stream.call_id is None else self._calls.end(stream.call_id)
        if waiter is not None:
            waiter.fail(Unavailable(message))
            self._free_slot()
            self.link.reset(stream_id, STREAM_CANCELLED)

    def on_closed(self, reason: LinkClosed) -> None:
        """End every call."""
        self.is_open = False
        self._on_end()
        self._opened.set()
        self._room_for_requests.open_up()
        for waiter in self._calls.end_all():
            waiter.fail(self._why_closed(never_ran=False))
        while self._slots:
            self._slots.popleft().set()

    def shut(self) -> None:
        """Close the connection in good order."""
        self.close(CLOSE_NORMAL, "closed by the client")
