"""Calls: what a client and a server must remember about the calls of one connection.

The rules of this file:

* The client numbers its calls; a number is not used again while the server may still speak of it.
* Each call ends once, at both ends: by RESULT, by ERROR, by CANCEL, or by the end of the connection. A RESULT or an
  ERROR for a call that the client gave up is old news and is dropped; so is a CANCEL for a call that has ended.
* A server never has more calls of one peer in hand than it advertised. A call over the limit is answered with
  ``ResourceExhausted`` and not run: a client that cancels may believe in a free place before the handler has ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from rpcnet.errors import ProtocolError, StatusError

from .bodies import decode_error
from .framing import Frame, FrameKind

__all__ = ["IncomingCalls", "OutgoingCalls", "refuse_unexpected", "status_error_of"]

T = TypeVar("T")
_MAX_ID = 0xFFFF_FFFF


def status_error_of(frame: Frame) -> StatusError:
    """Build the error that an ERROR frame stands for."""
    return decode_error(frame.a, frame.body, never_ran=frame.b == 1)


class OutgoingCalls(Generic[T]):
    """The calls that one side has in flight on a connection; ``T`` is whatever waits for the answer."""

    __slots__ = ("_last", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[int, T] = {}
        self._last = 0

    def __len__(self) -> int:
        """Return the number of calls in flight."""
        return len(self._waiting)

    def begin(self, waiter: T) -> int:
        """Remember a new call and return its number."""
        number = self._last
        while True:
            number = number + 1 if number < _MAX_ID else 1
            if number not in self._waiting:
                break
        self._last = number
        self._waiting[number] = waiter
        return number

    def end(self, call_id: int) -> T | None:
        """Forget a call that was answered or given up, and return its waiter; None if it had ended before."""
        return self._waiting.pop(call_id, None)

    def end_all(self) -> Iterator[T]:
        """Forget every call, oldest first."""
        while self._waiting:
            yield self._waiting.pop(next(iter(self._waiting)))


class IncomingCalls(Generic[T]):
    """The calls of one peer that are accepted and not answered; ``T`` is whatever runs them.

    Args:
        limit: how many may be in flight at once; what HELLO said.
    """

    __slots__ = ("_limit", "_running")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running: dict[int, T] = {}

    def __len__(self) -> int:
        """Return the number of calls in flight."""
        return len(self._running)

    def begin(self, call_id: int, running: T) -> bool:
        """Accept a call and return True, or return False when the limit is reached.

        Raises:
            ProtocolError: its number is in flight already.
        """
        if call_id in self._running:
            raise ProtocolError(f"CALL frame: call {call_id} is in flight already")
        if len(self._running) >= self._limit:
            return False
        self._running[call_id] = running
        return True

    def get(self, call_id: int) -> T | None:
        """Return a call in flight; None if it has ended."""
        return self._running.get(call_id)

    def values(self) -> Iterator[T]:
        """Iterate over the calls in flight, oldest first."""
        return iter(self._running.values())

    def end(self, call_id: int) -> T | None:
        """Forget a call whose handler has ended; None if it had ended before."""
        return self._running.pop(call_id, None)

    def end_all(self) -> Iterator[T]:
        """Forget every call, oldest first."""
        while self._running:
            yield self._running.pop(next(iter(self._running)))


def refuse_unexpected(frame: Frame, where: str) -> ProtocolError:
    """Build the error for a frame that has no place on this kind of stream."""
    return ProtocolError(f"{FrameKind(frame.kind).name} frame on a {where} stream")
