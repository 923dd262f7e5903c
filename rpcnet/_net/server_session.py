"""The accepting side of a connection: takes calls, hands them to whoever runs handlers, sends the answers.

The rules of this file:

* A call is handed on with its bytes, not decoded: what it means is for the RPC server to say.
* An answer goes where the call came from; one that is too large for a lane gets a stream of its own.
* CANCEL, and a call's stream that the client resets or stops, cancel the handler; the call's place stays taken until
  the handler has ended.
* While more than the watermark is unacknowledged, what the client asks for waits, and its places with it. So a client
  that reads nothing makes this side hold the watermark and one answer per call in flight, and no more.
* Large requests are counted in bytes from their first one until their call has ended; a client that keeps to what
  HELLO said never meets that limit. Streams are bounded by QUIC, also those that say nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

import attrs
import trio

from rpcnet._core.bodies import Hello, encode_error, split_metadata
from rpcnet._core.calls import IncomingCalls, refuse_unexpected, status_error_of
from rpcnet._core.framing import Frame, FrameKind, StreamKind, encode_frame, encode_head
from rpcnet.config import RpcConfig
from rpcnet.errors import ProtocolError, ResourceExhausted, StatusError, Unavailable

from .call_stream import CallStream
from .pump import PortPump
from .quic import LinkClosed, QuicLink
from .session import MAX_STATE_BYTES, STREAM_CANCELLED, STREAM_DONE, InboundStream, Session

__all__ = ["CallSink", "IncomingCall", "ServerSession", "StateRequest", "StateSink"]

_NEVER = float("inf")
_CALLS = (FrameKind.CALL, FrameKind.CALL_WITH_METADATA)
_CONTROL_STREAM = 0
_MAX_OVERTAKING = 64 << 10
_MAX_LANES = 64
_MAX_STATES = 4


class IncomingCall:
    """One call that a peer made: what it wants, and how to answer. Belongs to whoever took it from the sink."""

    __slots__ = (
        "body",
        "call_id",
        "channel",
        "context",
        "deadline",
        "is_cancelled",
        "is_early",
        "metadata",
        "number",
        "own_stream",
        "scope",
        "session",
        "size",
        "stream_id",
    )

    def __init__(self, session: ServerSession, stream_id: int, frame: Frame, *, own_stream: bool) -> None:
        self.session = session
        self.stream_id = stream_id
        self.own_stream = own_stream
        self.call_id = frame.call_id
        self.number = frame.a
        self.body = frame.body
        self.size = len(frame.body) if own_stream else 0
        self.metadata = b""
        if frame.kind == FrameKind.CALL_WITH_METADATA:
            self.metadata, self.body = split_metadata(frame.body)
        self.deadline = trio.current_time() + frame.b / 1000 if frame.b else _NEVER
        self.scope: trio.CancelScope | None = None
        self.is_cancelled = False
        self.is_early = session.began_early and session.link.is_early
        self.channel: CallStream | None = None
        self.context: object = None

    def open_channel(self, window: int) -> CallStream:
        """Accept a streaming call: let the client send ``window`` bytes of requests, and return the stream."""
        return self.session.open_channel(self, window)

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
        self._state_sink = states
        self._states: set[int] = set()
        self._on_end = on_end
        self._incoming: IncomingCalls[IncomingCall] = IncomingCalls(config.max_calls_per_connection)
        self._own_streams: dict[int, IncomingCall] = {}
        self._request_bytes = 0
        self._short = 0
        self.began_early = False
        """Whether it took something before the handshake was complete."""
        self._overtaking: list[tuple[int, bytes, bool]] = []
        self._lane_count = 0
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
        if size <= self._short and not call.own_stream and not call.is_cancelled and self._closed is None:
            self._incoming.end(call.call_id)  # what most answers need
            self.write(call.stream_id, encode_frame(FrameKind.RESULT, call.call_id, 0, 0, body))
            return
        if size > self.message_limit:
            error = ResourceExhausted(f"result of {size} bytes is above the limit of {self.message_limit}")
            self.refuse(call, error)
            return
        self._send(call, encode_head(FrameKind.RESULT, call.call_id, 0, 0, size), body)

    def refuse(self, call: IncomingCall, error: StatusError) -> None:
        """Send the error that a call ended with."""
        body = encode_error(error, self.message_limit)
        head = encode_head(FrameKind.ERROR, call.call_id, error.status, int(error.never_ran), len(body))
        self._send(call, head, body)

    def forget(self, call: IncomingCall) -> None:
        """End a call without an answer."""
        self._end(call)
        if call.own_stream and not self.is_closed:
            self.link.reset(call.stream_id, STREAM_CANCELLED)

    def open_channel(self, call: IncomingCall, window: int) -> CallStream:
        """Accept a streaming call and return its stream."""
        credit = 0 if self.peer_hello is None else self.peer_hello.stream_window_bytes
        call.channel = CallStream(
            self, call.stream_id, call.call_id, credit=credit, window=window, watermark=self._watermark
        )
        inbound = self._streams.get(call.stream_id)
        if inbound is not None:
            inbound.channel = call.channel
            call.channel.accept(window)
        else:  # the client has closed its half already
            call.channel.accept(0)
            call.channel.end()
        return call.channel

    def _end(self, call: IncomingCall) -> None:
        self._incoming.end(call.call_id)
        if call.own_stream:
            self._own_streams.pop(call.stream_id, None)
            self._request_bytes -= call.size
            call.size = 0
        if call.channel is not None:
            call.channel.finish()

    def _send(self, call: IncomingCall, head: bytes, body: bytes) -> None:
        if call.is_cancelled or self._closed is not None:
            self.forget(call)
            return
        if call.own_stream:
            self._end(call)
            self.write_last(call.stream_id, head, body)
            if call.channel is not None and not call.channel.has_ended:
                self.link.stop(call.stream_id, STREAM_DONE)
        elif len(body) <= self._config.lane_limit_bytes:
            self._end(call)
            self.write(call.stream_id, head + body)
        else:
            self.with_stream(lambda stream_id: self._send_large(stream_id, call, head, body), unidirectional=True)

    def _send_large(self, stream_id: int, call: IncomingCall, head: bytes, body: bytes) -> None:
        self._end(call)
        if call.is_cancelled:  # while the answer waited for its stream
            self.link.reset(stream_id, STREAM_CANCELLED)
        else:
            self.write_last(stream_id, bytes([StreamKind.RESULT]) + head, body)

    # --- input

    def link_early(self, link: QuicLink) -> None:
        """Take what comes before the handshake is complete; it may be a recording that somebody plays back."""
        self._link = link
        self.began_early = True

    def link_early_lost(self, link: QuicLink) -> None:
        """Notice nothing: this is for who dials."""

    def link_data(self, link: QuicLink, stream_id: int, data: bytes, end: bool) -> None:  # noqa: FBT001
        """Take bytes of a stream; those that overtook HELLO in the first flight wait for it."""
        if self.began_early and self.peer_hello is None and stream_id != _CONTROL_STREAM:
            self._overtaking.append((stream_id, data, end))
            if sum(len(held) for _, held, _ in self._overtaking) > _MAX_OVERTAKING:
                self.fail(ProtocolError("more than 64 KiB before HELLO"))
            return
        super().link_data(link, stream_id, data, end)
        if self._overtaking and self.peer_hello is not None:
            overtaking, self._overtaking = self._overtaking, []
            for held in overtaking:
                super().link_data(link, *held)

    def on_ready(self) -> None:
        """Wait for the client's HELLO."""

    def on_hello(self, hello: Hello) -> None:
        """Answer HELLO."""
        self._short = min(self._config.lane_limit_bytes, self.message_limit)
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
        elif kind is StreamKind.LANE:
            self._lane_count += 1
            if self._lane_count > _MAX_LANES:
                raise ProtocolError(f"more than {_MAX_LANES} LANE streams")

    def count_partial(self, stream: InboundStream, size: int) -> None:
        """Count the bytes of a request that has not arrived as a whole; values of streams are bounded one by one."""
        if stream.channel is not None:
            self._request_bytes -= stream.counted
            size = 0
        elif stream.kind is not StreamKind.CONTROL:
            self._request_bytes += size - stream.counted
            limit = 2 * self._config.max_request_bytes + max(self._config.max_message_bytes, MAX_STATE_BYTES)
            if self._request_bytes > limit:
                raise ProtocolError(f"CALL frame: more than {limit} bytes of requests in flight")
        super().count_partial(stream, size)

    def on_frame(self, stream_id: int, stream: InboundStream, frame: Frame) -> None:
        """Take a call, a cancellation, a state exchange or what belongs to a streaming call."""
        kind = frame.kind
        is_call = kind in _CALLS
        if is_call and stream.kind is StreamKind.LANE:
            self._accept(IncomingCall(self, stream_id, frame, own_stream=False))
        elif kind == FrameKind.CANCEL and stream.kind is StreamKind.LANE:
            running = self._incoming.get(frame.call_id)
            if running is not None:
                running.cancel()
        elif stream.channel is not None:
            self._on_channel(stream.channel, frame)
        elif is_call and stream.kind is StreamKind.CALL and stream.call_id is None:
            stream.call_id = frame.call_id
            self._accept(IncomingCall(self, stream_id, frame, own_stream=True))
        elif kind == FrameKind.STATE and stream.kind is StreamKind.STATE and stream.call_id is None:
            if self.link.is_early:
                raise ProtocolError("STATE frame before the handshake is complete")
            stream.call_id = frame.call_id
            self._accept_state(stream_id, frame)
        else:
            raise refuse_unexpected(frame, stream.kind.name.lower())

    def _on_channel(self, channel: CallStream, frame: Frame) -> None:
        kind = frame.kind
        if kind == FrameKind.ITEM and not channel.has_ended:
            channel.put(frame.body)
        elif kind == FrameKind.CREDIT:
            channel.grant(frame.b)
        elif kind == FrameKind.END and not channel.has_ended:
            channel.end()
        elif kind == FrameKind.ERROR and not channel.has_ended:
            channel.end(status_error_of(frame))
        else:
            raise refuse_unexpected(frame, "call")

    def _accept(self, call: IncomingCall) -> None:
        config = self._config
        if not self._incoming.begin(call.call_id, call):
            limit = config.max_calls_per_connection
            if self._is_full:
                raise ProtocolError(f"CALL frame: more than {limit} calls in flight, and their answers are not read")
            self._refuse_unaccepted(call, f"more than {limit} calls in flight on one connection")
            return
        if call.own_stream:
            self._own_streams[call.stream_id] = call
            self._request_bytes += call.size
        if call.size and self._request_bytes > max(config.max_request_bytes, call.size):
            self._end(call)
            self._refuse_unaccepted(
                call, f"more than {config.max_request_bytes} bytes of requests in flight on one connection"
            )
        elif self._is_full:
            self._held.append(partial(self._sink.accept, call))
        else:
            self._sink.accept(call)

    def _accept_state(self, stream_id: int, frame: Frame) -> None:
        self._states.add(stream_id)
        if len(self._states) > _MAX_STATES:
            raise ProtocolError(f"STATE frame: more than {_MAX_STATES} exchanges at once")
        request = StateRequest(frame.body, lambda reply: self._reply_state(stream_id, frame.call_id, reply))
        if self._is_full:
            self._held.append(partial(self._state_sink, request))
        else:
            self._state_sink(request)

    def _refuse_unaccepted(self, call: IncomingCall, message: str) -> None:
        body = encode_error(ResourceExhausted(message))
        frame = encode_frame(FrameKind.ERROR, call.call_id, ResourceExhausted.status, 1, body)
        if call.own_stream:
            self.write_last(call.stream_id, frame)
        else:
            self.write(call.stream_id, frame)

    @property
    def _is_full(self) -> bool:
        return self._link is None or bool(self._held) or self._link.buffered_at_most > self._watermark

    def link_progress(self, link: QuicLink) -> None:
        """Go on with what was held back, as far as the client has read."""
        super().link_progress(link)
        while self._held and link.buffered_at_most <= self._watermark:
            self._held.popleft()()

    def _reply_state(self, stream_id: int, call_id: int, payload: bytes) -> None:
        if stream_id in self._states and not self.is_closed:
            self._states.discard(stream_id)
            self.write_last(stream_id, encode_frame(FrameKind.STATE, call_id, body=payload))

    def on_stream_end(self, stream_id: int, stream: InboundStream) -> None:
        """Let the client close its half; the answer is still to come."""
        if stream.kind is StreamKind.CONTROL:
            raise ProtocolError("the client closed the CONTROL stream")
        if stream.kind in (StreamKind.CALL, StreamKind.STATE) and stream.call_id is None:
            raise ProtocolError(f"{stream.kind.name} stream without a frame")
        if stream.channel is not None:
            stream.channel.end()

    def on_stream_reset(self, stream_id: int, stream: InboundStream | None) -> None:
        """Cancel the call of a stream that was given up."""
        call = self._own_streams.get(stream_id)
        if call is not None:
            call.cancel()
        elif stream is None or stream.call_id is None or stream_id in self._states:
            self.link.reset(stream_id, STREAM_CANCELLED)  # no answer follows
        self._states.discard(stream_id)

    def on_stream_stopped(self, stream_id: int) -> None:
        """Cancel a call whose answer nobody wants."""
        call = self._own_streams.get(stream_id)
        if call is not None:
            call.cancel()

    def on_closed(self, reason: LinkClosed) -> None:
        """Cancel every handler: nobody waits for them."""
        self._held.clear()
        self._own_streams.clear()
        for call in self._incoming.end_all():
            call.cancel()
            if call.channel is not None:
                call.channel.fail(Unavailable(f"connection with {self.peer_name} ended: {reason.message}"))
        self._on_end(self)
