"""The accepting side of a connection: takes calls, hands them to whoever runs handlers, sends the answers.

The rules of this file:

* A call is handed on with its bytes, not decoded: what it means is for the RPC server to say.
* An answer goes where the call came from; one that is too large for a lane gets a stream of its own.
* CANCEL and a reset stream cancel the handler; the call's place stays taken until the handler has ended.
* While more than the watermark is unacknowledged, what the client asks for waits, and its places with it. So a client
  that reads nothing makes this side hold the watermark and one answer per call in flight, and no more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

import attrs
import trio

from rpcnet._core.calls import IncomingCalls, refuse_unexpected
from rpcnet._core.framing import Frame, FrameKind, Hello, StreamKind, encode_error, encode_frame
from rpcnet.config import RpcConfig
from rpcnet.errors import ProtocolError, ResourceExhausted, StatusError

from .pump import PortPump
from .quic import LinkClosed, QuicLink
from .session import STREAM_CANCELLED, InboundStream, Session

__all__ = ["CallSink", "IncomingCall", "ServerSession", "StateRequest", "StateSink"]

_NEVER = float("inf")


class IncomingCall:
    """One call that a peer made: what it wants, and how to answer. Belongs to whoever took it from the sink."""

    __slots__ = ("body", "call_id", "deadline", "is_cancelled", "number", "own_stream", "scope", "session", "stream_id")

    def __init__(self, session: ServerSession, stream_id: int, frame: Frame, *, own_stream: bool) -> None:
        self.session = session
        self.stream_id = stream_id
        self.own_stream = own_stream
        self.call_id = frame.call_id
        self.number = frame.a
        self.body = frame.body
        self.deadline = trio.current_time() + frame.b / 1000 if frame.b else _NEVER
        self.scope: trio.CancelScope | None = None
        self.is_cancelled = False

    def cancel(self) -> None:
        """Cancel the handler, or see to it that none is started."""
        self.is_cancelled = True
        if self.scope is not None:
            self.scope.cancel()

    def answer(self, body: bytes) -> None:
        """Send the result and end the call."""
        self.session.answer(self, body)

    def refuse(self, error: StatusError) -> None:
        """Send an error and end the call."""
        self.session.refuse(self, error)

    def drop(self) -> None:
        """End the call without an answer: the caller has given up."""
        self.session.forget(self)


@attrs.frozen
class StateRequest:
    """A peer's full state, and how to answer with one's own."""

    payload: bytes
    """The peer's state, undecoded."""
    reply: Callable[[bytes], None] = attrs.field(eq=False)
    """Sends one's own state back; does nothing if the peer has gone."""


class CallSink(Protocol):
    """Whoever runs handlers."""

    def accept(self, call: IncomingCall) -> None:
        """Take a call; must not raise."""


StateSink = Callable[[StateRequest], None]
"""Whoever answers full-state exchanges; must not raise."""


class ServerSession(Session):
    """The accepting side of one connection."""

    def __init__(
        self,
        pump: PortPump,
        config: RpcConfig,
        hello: Hello,
        *,
        calls: CallSink,
        states: StateSink,
        on_end: Callable[[ServerSession], None],
    ) -> None:
        super().__init__(pump, config, hello)
        self._sink = calls
        self._states = states
        self._on_end = on_end
        self._incoming: IncomingCalls[IncomingCall] = IncomingCalls(config.max_calls_per_connection)
        self._watermark = config.send_watermark_bytes
        self._held: deque[Callable[[], None]] = deque()
        self._control = -1

    @property
    def calls_in_flight(self) -> int:
        """The number of calls that are accepted and not ended."""
        return len(self._incoming)

    def say_goaway(self) -> None:
        """Tell the client that no new calls are taken."""
        if self.peer_hello is not None and not self.is_closed:
            self.write(self._control, encode_frame(FrameKind.GOAWAY, 0))

    # --- answers

    def answer(self, call: IncomingCall, body: bytes) -> None:
        """Send the result of a call; one above the client's limit becomes ``ResourceExhausted``."""
        size = len(body)
        if size > self.message_limit:
            error = ResourceExhausted(f"result of {size} bytes is above the limit of {self.message_limit}")
            self.refuse(call, error)
            return
        self._send(call, encode_frame(FrameKind.RESULT, call.call_id, 0, 0, body), size)

    def refuse(self, call: IncomingCall, error: StatusError) -> None:
        """Send the error that a call ended with."""
        body = encode_error(error.message, error.call_id, self.message_limit)
        self._send(
            call, encode_frame(FrameKind.ERROR, call.call_id, error.status, int(error.never_ran), body), len(body)
        )

    def forget(self, call: IncomingCall) -> None:
        """End a call without an answer."""
        self._incoming.end(call.call_id)
        if call.own_stream and not self.is_closed:
            self.link.reset(call.stream_id, STREAM_CANCELLED)

    def _send(self, call: IncomingCall, frame: bytes, size: int) -> None:
        if call.is_cancelled or self._closed is not None:
            self.forget(call)
            return
        if call.own_stream:
            self._incoming.end(call.call_id)
            self.write_last(call.stream_id, frame)
        elif size <= self._config.lane_limit_bytes:
            self._incoming.end(call.call_id)
            self.write(call.stream_id, frame)
        else:
            self.with_stream(lambda stream_id: self._send_large(stream_id, call, frame), unidirectional=True)

    def _send_large(self, stream_id: int, call: IncomingCall, frame: bytes) -> None:
        self._incoming.end(call.call_id)
        if call.is_cancelled:  # while the answer waited for its stream
            self.link.reset(stream_id, STREAM_CANCELLED)
        else:
            self.write_last(stream_id, bytes([StreamKind.RESULT]) + frame)

    # --- input

    def on_ready(self) -> None:
        """Wait for the client's HELLO."""

    def on_hello(self, hello: Hello) -> None:
        """Answer HELLO."""
        self.say_hello(self._control)

    def on_control(self, frame: Frame) -> None:
        """Refuse everything but HELLO."""
        raise refuse_unexpected(frame, "control")

    def check_stream(self, stream_id: int, kind: StreamKind) -> None:
        """Allow one control stream, lanes, calls and state exchanges."""
        if kind is StreamKind.RESULT:
            raise ProtocolError("a client may not open a RESULT stream")
        if kind is StreamKind.CONTROL:
            if self._control >= 0:
                raise ProtocolError("a second CONTROL stream")
            self._control = stream_id

    def on_frame(self, stream_id: int, stream: InboundStream, frame: Frame) -> None:
        """Take a call, a cancellation or a state exchange."""
        kind = frame.kind
        if kind == FrameKind.CALL and stream.kind is StreamKind.LANE:
            self._accept(IncomingCall(self, stream_id, frame, own_stream=False))
        elif kind == FrameKind.CANCEL and stream.kind is StreamKind.LANE:
            running = self._incoming.get(frame.call_id)
            if running is not None:
                running.cancel()
        elif kind == FrameKind.CALL and stream.kind is StreamKind.CALL and stream.call_id is None:
            stream.call_id = frame.call_id
            self._accept(IncomingCall(self, stream_id, frame, own_stream=True))
        elif kind == FrameKind.STATE and stream.kind is StreamKind.STATE and stream.call_id is None:
            stream.call_id = frame.call_id
            request = StateRequest(frame.body, lambda reply: self._reply_state(stream_id, frame.call_id, reply))
            if self._is_full:
                self._held.append(partial(self._states, request))
            else:
                self._states(request)
        else:
            raise refuse_unexpected(frame, stream.kind.name.lower())

    def _accept(self, call: IncomingCall) -> None:
        if self._incoming.begin(call.call_id, call):
            if self._is_full:
                self._held.append(partial(self._sink.accept, call))
            else:
                self._sink.accept(call)
            return
        limit = self._config.max_calls_per_connection
        if self._is_full:
            raise ProtocolError(f"CALL frame: more than {limit} calls in flight, and their answers are not read")
        error = ResourceExhausted(f"more than {limit} calls in flight on one connection", never_ran=True)
        body = encode_error(error.message, None)
        frame = encode_frame(FrameKind.ERROR, call.call_id, error.status, 1, body)
        if call.own_stream:
            self.write_last(call.stream_id, frame)
        else:
            self.write(call.stream_id, frame)

    @property
    def _is_full(self) -> bool:
        return bool(self._held) or self.link.buffered_at_most > self._watermark

    def link_progress(self, link: QuicLink) -> None:
        """Go on with what was held back, as far as the client has read."""
        super().link_progress(link)
        while self._held and link.buffered_at_most <= self._watermark:
            self._held.popleft()()

    def _reply_state(self, stream_id: int, call_id: int, payload: bytes) -> None:
        if not self.is_closed:
            self.write_last(stream_id, encode_frame(FrameKind.STATE, call_id, body=payload))

    def on_stream_end(self, stream_id: int, stream: InboundStream) -> None:
        """Let the client close its half; the answer is still to come."""
        if stream.kind is StreamKind.CONTROL:
            raise ProtocolError("the client closed the CONTROL stream")
        if stream.kind in (StreamKind.CALL, StreamKind.STATE) and stream.call_id is None:
            raise ProtocolError(f"{stream.kind.name} stream without a frame")

    def on_stream_reset(self, stream_id: int, stream: InboundStream | None) -> None:
        """Cancel the call of a stream that the client gave up."""
        for call in self._incoming.values():
            if call.own_stream and call.stream_id == stream_id:
                call.cancel()
                return

    def on_closed(self, reason: LinkClosed) -> None:
        """Cancel every handler: nobody waits for them."""
        self._held.clear()
        for call in self._incoming.end_all():
            call.cancel()
        self._on_end(self)
