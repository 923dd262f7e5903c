"""What the tests of ``rpcnet call`` and ``rpcnet schema`` call: a service with values and shapes of many kinds."""

from __future__ import annotations

import datetime as dt
import enum
import sys
import uuid
from collections.abc import AsyncIterator

import attrs
import trio

import rpcnet


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


@attrs.frozen
class Job:
    id: int
    words: list[str] = attrs.field(factory=list)
    due: dt.date | None = None


@attrs.frozen
class Circle:
    radius: float


@attrs.frozen
class Square:
    side: float


class OutOfPaper(rpcnet.ApplicationError):
    tray: int
    printer: uuid.UUID


class Jammed(rpcnet.ApplicationError):
    message: str
    status = rpcnet.Status.UNAVAILABLE


@rpcnet.service(version=2)
class Printing:
    """Prints, in every shape."""

    @rpcnet.rpc(idempotent=True, raises=[OutOfPaper, Jammed])
    async def submit(self, job: Job, copies: int = 1, colour: Colour = Colour.RED) -> Job:
        match copies:
            case 0:
                raise rpcnet.NotFound("no \x1b[31mcopies")
            case 13:
                raise KeyError("unlucky")
            case 100:
                raise OutOfPaper(3, uuid.UUID(int=7))
            case 101:
                raise Jammed("page 101")
        call = rpcnet.current_call()
        return attrs.evolve(job, words=[f"{copies} in {colour.name}", *call.metadata.values()])

    @rpcnet.rpc
    async def values(
        self, rights: Rights, shape: Circle | Square | None = None
    ) -> tuple[Rights, Circle | Square | None, bytes, float]:
        return rights, shape, b"\x00\xff", float("inf")

    @rpcnet.rpc
    async def text(self, codes: list[int]) -> str:
        return "".join(map(chr, codes))

    @rpcnet.rpc
    async def count(self, upto: int, fail: bool = False) -> AsyncIterator[int]:
        for number in range(upto):
            yield number
        if fail:
            raise rpcnet.OutOfRange("no more numbers")

    @rpcnet.rpc
    async def total(self, start: int, numbers: AsyncIterator[int], times: int = 1) -> int:
        async for number in numbers:
            if number < 0:
                return -1
            start += number * times
        return start

    @rpcnet.rpc
    async def upper(self, words: AsyncIterator[str]) -> AsyncIterator[str]:
        async for word in words:
            yield word.upper()

    @rpcnet.rpc
    async def wait(self) -> AsyncIterator[str]:
        try:
            yield "waiting"
            await trio.sleep_forever()
        finally:
            print("cancelled", file=sys.stderr, flush=True)


services = [Printing()]
