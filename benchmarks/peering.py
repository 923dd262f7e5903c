"""What a peer's program is made of: a server, a client of it, and the event loop they run on.

The rules of this file:

* A peer is one small program with two roles. ``serve`` prints its address as JSON and serves until killed; ``load``
  prints what it measured as JSON and ends.
* The loads are written once, in ``loads.py``, over :class:`Client` and :class:`Loop`. So every peer does the same work,
  and every answer is compared with what was sent.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol, TypeVar

import attrs
from measure import Usage

__all__ = ["AsyncioLoop", "Client", "Dial", "Event", "Gate", "Loop", "Peer", "Settings", "check", "message", "messages"]

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Settings:
    """What server and load of one measurement are told."""

    workload: str
    """The function of ``loads.py``."""
    directory: Path
    """Where certificates are."""
    address: str = ""
    """The server's; empty for the server."""
    variant: str = ""
    """A way through the peer, where it has several."""
    in_flight: int = 1
    """Calls at a time; connections of the load ``idle``."""
    size: int = 64
    """Bytes of one payload or message."""
    count: int = 0
    """Messages of one stream; calls of the load ``soak``."""
    seconds: float = 5.0
    """How long to measure, where that is not decided by ``count``."""


class Client(Protocol):
    """One open connection, seen by a load."""

    async def echo(self, data: bytes) -> bytes:
        """Return what the server gave back."""

    async def usage(self) -> Usage:
        """Return what the server's process has used so far."""

    async def hold(self, number: int, everybody: int) -> int:
        """Return the number, once that many of these calls have arrived at the server."""

    def count(self, count: int, size: int) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Return :func:`messages` of the server."""

    async def total(self, chunks: AsyncIterator[bytes]) -> int:
        """Return how many messages the server got."""

    def echo_all(self, chunks: AsyncIterator[bytes]) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Return what the server gave back, while it is still being sent."""


class Echoer(Protocol):
    """A connection that is opened only to see what that costs."""

    async def echo(self, data: bytes) -> bytes:
        """Return what the server gave back; called once."""


Dial = Callable[[], AbstractAsyncContextManager[Echoer]]
"""Opens a connection of its own, and closes it at the end of the block."""


class Event(Protocol):
    """What the events of asyncio and Trio have in common."""

    def set(self) -> None:
        """Wake who waits."""

    async def wait(self) -> object:
        """Wait until it is set."""


class Loop(Protocol):
    """An event loop."""

    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run it to its end."""

    def event(self) -> Event:
        """Return a new event."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    async def together(self, functions: Sequence[Callable[[], Awaitable[None]]]) -> None:
        """Run all at the same time, until all have ended."""


class Peer(Protocol):
    """One library under test."""

    async def serve(self) -> None:
        """Serve until killed."""

    def connect(self) -> AbstractAsyncContextManager[Client]:
        """Open a connection."""

    def dialling(self, *, resume: bool = False) -> AbstractAsyncContextManager[Dial]:
        """Get ready to open many connections, at the same time or one after another.

        Args:
            resume: leave out the certificates from the second connection on.
        """


class AsyncioLoop:
    """asyncio as a :class:`Loop`."""

    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run it to its end."""

        async def main() -> T:
            return await function()

        return asyncio.run(main())

    def event(self) -> Event:
        """Return a new event."""
        return asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def together(self, functions: Sequence[Callable[[], Awaitable[None]]]) -> None:
        """Run all at the same time, until all have ended."""

        async def one(function: Callable[[], Awaitable[None]]) -> None:
            await function()

        async with asyncio.TaskGroup() as group:
            for function in functions:
                group.create_task(one(function))


class Gate:
    """Keeps all who arrive until everybody is there; the server's side of :meth:`Client.hold`."""

    def __init__(self, new_event: Callable[[], Event]) -> None:
        self._new_event = new_event
        self._arrived = 0
        self._opened: Event | None = None

    async def pass_through(self, everybody: int) -> None:
        """Wait until that many have called this."""
        if self._opened is None:
            self._opened = self._new_event()
        opened = self._opened
        self._arrived += 1
        if self._arrived == everybody:
            self._opened, self._arrived = None, 0
            opened.set()
        await opened.wait()


@functools.cache
def _filler(size: int) -> bytes:
    return bytes(i % 251 for i in range(size))


def message(number: int, size: int) -> bytes:
    """Return the message with a number; every message of a stream is different."""
    return number.to_bytes(8, "big") + _filler(size - 8)


async def messages(count: int, size: int) -> AsyncIterator[bytes]:
    """Yield so many messages of that size."""
    for number in range(count):
        yield message(number, size)


def check(number: int, received: bytes) -> None:
    """Compare what arrived as a message of :func:`messages` with what it must be."""
    if received != message(number, len(received)):
        raise AssertionError(f"message {number} is not what was sent")
