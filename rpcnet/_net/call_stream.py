"""One end of a streaming call: values out while there is credit, values in as the application reads them.

The rules of this file:

* Each direction has at most one task that waits. It is woken directly, by rescheduling it.
* Values that arrived before the end are read before the end is: an error that ends a call never overtakes a value.
* Credit is granted as the application reads. So what one stream can hold here is its window and one value; see
  ``flow.py``.
* An end that is over, or whose connection is, sends nothing more: ``send`` returns False. Why, who reads learns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio
from trio.lowlevel import Abort, RaiseCancelT, Task, current_task, reschedule, wait_task_rescheduled

from rpcnet._core.bodies import encode_error
from rpcnet._core.flow import ReceiveWindow, SendCredit
from rpcnet._core.framing import FrameKind, encode_frame, encode_head
from rpcnet.errors import ResourceExhausted, RpcNetError, StatusError

from .quic import QuicLink

__all__ = ["LARGE_BYTES", "CallStream", "StreamHost"]

LARGE_BYTES = 4096
"""What is larger is not copied to be sent together with what is around it: another call costs less than that."""


class StreamHost(Protocol):
    """What a stream needs of its session."""

    message_limit: int
    """The longest body that both sides take."""

    @property
    def link(self) -> QuicLink:
        """The QUIC connection underneath."""

    def write(self, stream_id: int, data: bytes) -> None:
        """Queue bytes for the next flush."""

    def write_out(self) -> None:
        """Hand everything queued to QUIC."""

    async def wait_for_room(self) -> None:
        """Wait until less than the watermark is unacknowledged on the connection."""


class CallStream:
    """One end of a streaming call.

    Args:
        host: the session.
        stream_id: the QUIC stream that carries both directions.
        call_id: the call's number on the connection.
        credit: bytes that this end may send to begin with.
        window: bytes that the other end may send to begin with.
        watermark: unacknowledged bytes on the connection above which sending waits.
    """

    __slots__ = (
        "_accepted",
        "_credit",
        "_ended",
        "_host",
        "_receiver",
        "_sender",
        "_watermark",
        "_window",
        "call_id",
        "error",
        "is_over",
        "may_send",
        "on_end",
        "requests_failed",
        "result",
        "stream_id",
    )

    def __init__(
        self, host: StreamHost, stream_id: int, call_id: int, *, credit: int, window: int, watermark: int
    ) -> None:
        self._host = host
        self.stream_id = stream_id
        """The QUIC stream."""
        self.call_id = call_id
        """The call's number on the connection."""
        self._credit = SendCredit(credit)
        self._window = ReceiveWindow(window)
        self._watermark = watermark
        self._receiver: Task | None = None
        self._sender: Task | None = None
        self._accepted = False
        self._ended = False
        self.may_send = True
        """Whether values can be sent; the rest is dropped."""
        self.requests_failed = False
        """Whether an error ended what is sent here."""
        self.is_over = False
        """Whether nothing more is read or sent at this end."""
        self.error: RpcNetError | None = None
        """What the other end's values ended with, if it was an error."""
        self.result: bytes = b""
        """The result that ended the call, at the client."""
        self.on_end: Callable[[], None] | None = None
        """Called when the other end's values are complete, so that whoever still sends may stop."""

    @property
    def has_ended(self) -> bool:
        """Whether the other end has said its last word."""
        return self._ended

    @property
    def unread_bytes(self) -> int:
        """What waits here to be read, in bytes as ``flow.cost`` counts them."""
        return self._window.unread_bytes

    # --- sending

    def send_nowait(self, body: bytes) -> bool:
        """Send a value if that need not wait; say whether it was sent.

        Raises:
            ResourceExhausted: it is longer than what the other side takes.
        """
        host = self._host
        if len(body) > host.message_limit:
            raise ResourceExhausted(f"value of {len(body)} bytes is above the limit of {host.message_limit}")
        if self._credit.is_spent or not self.may_send or host.link.buffered_at_most > self._watermark:
            return False
        self._credit.spend(len(body))
        if len(body) <= LARGE_BYTES:
            host.write(self.stream_id, encode_frame(FrameKind.ITEM, self.call_id, 0, 0, body))
        else:
            host.write(self.stream_id, encode_head(FrameKind.ITEM, self.call_id, 0, 0, len(body)))
            host.write(self.stream_id, body)
            host.write_out()  # what waits for a flush is not among the bytes that the watermark is for
        return True

    async def send(self, body: bytes) -> bool:
        """Send a value when there is credit and room; False if it cannot be sent any more. A checkpoint if it waits."""
        while not self.send_nowait(body):
            if not self.may_send:
                return False
            if not self._credit.is_spent:
                await self._host.wait_for_room()
                continue
            if self._sender is not None:
                raise trio.BusyResourceError("another task is sending on this stream")
            self._sender = current_task()
            await wait_task_rescheduled(self._abort_sender)
        return True

    def send_end(self) -> None:
        """Say that no more requests follow."""
        if self.may_send:
            self._host.write(self.stream_id, encode_frame(FrameKind.END, self.call_id))
            self.may_send = False

    def send_error(self, error: StatusError) -> None:
        """Say which error ended the requests."""
        if self.may_send:
            body = encode_error(error, self._host.message_limit)
            self._host.write(self.stream_id, encode_frame(FrameKind.ERROR, self.call_id, error.status, 0, body))
            self.may_send = False
            self.requests_failed = True

    # --- receiving

    def receive_nowait(self) -> bytes | None:
        """Return the next value if one waits."""
        body = self._window.pop()
        if body is not None:
            granted = self._window.take_grant()
            if granted and not self._ended and not self.is_over:
                self._host.write(self.stream_id, encode_frame(FrameKind.CREDIT, self.call_id, 0, granted))
        return body

    async def receive(self) -> bytes | None:
        """Return the next value; None after the last one. A checkpoint if it waits.

        Raises:
            StatusError: the error that ended the values.
        """
        while True:
            body = self.receive_nowait()
            if body is not None:
                return body
            if self._ended or self.is_over:
                if self.error is not None:
                    raise self.error
                return None
            await self._wait()

    async def wait_end(self) -> bytes:
        """Wait for the end and return the result; values that arrive meanwhile are dropped. A checkpoint if it waits.

        Raises:
            StatusError: the error that ended the call.
        """
        while not self._ended:
            self._window.clear()
            await self._wait()
        if self.error is not None:
            raise self.error
        return self.result

    async def wait_accepted(self) -> None:
        """Wait until the other side has accepted the call, or refused it. A checkpoint if it waits.

        Raises:
            StatusError: it was refused.
        """
        while not self._accepted and not self._ended:
            await self._wait()
        if not self._accepted and self.error is not None:
            raise self.error

    async def _wait(self) -> None:
        if self._receiver is not None:
            raise trio.BusyResourceError("another task is receiving from this stream")
        self._receiver = current_task()
        await wait_task_rescheduled(self._abort_receiver)

    # --- what the session says

    def put(self, body: bytes) -> None:
        """Take a value that arrived."""
        self._window.put(body)
        if self.is_over:
            self._window.clear()
        elif self._receiver is not None:
            self._wake_receiver()

    def grant(self, credit: int) -> None:
        """Take credit, and with the first one that the call was accepted."""
        self._credit.grant(credit)
        if not self._accepted:
            self._accepted = True
            self._wake_receiver()
        if not self._credit.is_spent:
            self._wake_sender()

    def accept(self, credit: int) -> None:
        """Accept the call, and grant the other end its first credit."""
        self._accepted = True
        self._host.write(self.stream_id, encode_frame(FrameKind.CREDIT, self.call_id, 0, credit))

    def end(self, error: RpcNetError | None = None, result: bytes = b"") -> None:
        """Note the last word of the other end; only the first one counts."""
        if self._ended:
            return
        self._ended = True
        self.error = error
        self.result = result
        self._wake_receiver()
        if self.on_end is not None:
            self.on_end()

    def stop_sending(self) -> None:
        """Send nothing more; who waits to send is woken."""
        self.may_send = False
        self._wake_sender()

    def finish(self) -> None:
        """Read and send nothing more at this end; who waits is woken."""
        self.is_over = True
        self._window.clear()
        self.stop_sending()
        self._wake_receiver()

    def succeed(self, result: bytes) -> None:
        """End a client's call with its result."""
        self.stop_sending()
        self.end(result=result)

    def fail(self, error: RpcNetError) -> None:
        """End both directions with an error: that of a client's call, or that the connection has ended."""
        self.stop_sending()
        self.end(error)

    def _wake_receiver(self) -> None:
        if self._receiver is not None:
            task, self._receiver = self._receiver, None
            reschedule(task)

    def _wake_sender(self) -> None:
        if self._sender is not None:
            task, self._sender = self._sender, None
            reschedule(task)

    def _abort_receiver(self, _: RaiseCancelT) -> Abort:
        self._receiver = None
        return Abort.SUCCEEDED

    def _abort_sender(self, _: RaiseCancelT) -> Abort:
        self._sender = None
        return Abort.SUCCEEDED
