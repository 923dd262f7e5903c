"""A service with one method of each shape, and two nodes to call it between."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence

import attrs
import trio

import rpcnet
from rpcnet.testing import SimulatedCluster, run


class OutOfPaper(rpcnet.ApplicationError):
    """What the printer says when a tray is empty."""

    tray: int
    sizes: list[str] = attrs.field(factory=list)


class OnFire(rpcnet.ApplicationError):
    """An error that the service does not declare."""

    where: str


@rpcnet.service
class Printer:
    """Prints words in every shape; the word ``fail`` fails, ``empty`` is an empty tray, ``wait`` waits for a minute."""

    def __init__(self) -> None:
        self.printed: list[str] = []
        self.cancelled = 0

    async def print(self, word: str) -> str:
        try:
            if word == "wait":
                await trio.sleep(60)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        if word == "fail":
            raise KeyError("no such word")
        if word == "empty":
            raise OutOfPaper(3, sizes=["A4", "A5"])
        if word == "missing":
            raise rpcnet.NotFound("no such tray")
        if word == "fire":
            raise OnFire("the fuser")
        self.printed.append(word)
        return word.upper()

    @rpcnet.rpc(raises=[OutOfPaper])
    async def one(self, word: str) -> str:
        return await self.print(word)

    @rpcnet.rpc(raises=[OutOfPaper])
    async def results(self, words: list[str]) -> AsyncIterator[str]:
        for word in words:
            yield await self.print(word)

    @rpcnet.rpc(raises=[OutOfPaper])
    async def requests(self, words: AsyncIterator[str]) -> list[str]:
        return [await self.print(word) async for word in words]

    @rpcnet.rpc(raises=[OutOfPaper])
    async def both(self, words: AsyncIterator[str]) -> AsyncIterator[str]:
        async for word in words:
            yield await self.print(word)


async def each(words: Iterable[str]) -> AsyncIterator[str]:
    for word in words:
        yield word


async def collect(values: AsyncIterable[str], into: list[str]) -> list[str]:
    async for value in values:
        into += [value]  # one by one: what has come before an error counts
    return into


Print = Callable[[Printer, Sequence[str], list[str]], Awaitable[list[str]]]
"""Prints words through a stub in one shape, and returns what came back; also in the list, as far as it came."""


async def print_one(stub: Printer, words: Sequence[str], got: list[str]) -> list[str]:
    for word in words:
        got += [await stub.one(word)]
    return got


async def print_results(stub: Printer, words: Sequence[str], got: list[str]) -> list[str]:
    async with stub.results(list(words)) as values:
        return await collect(values, got)


async def print_requests(stub: Printer, words: Sequence[str], got: list[str]) -> list[str]:
    got += await stub.requests(each(words))
    return got


async def print_both(stub: Printer, words: Sequence[str], got: list[str]) -> list[str]:
    async with stub.both(each(words)) as values:
        return await collect(values, got)


SHAPES: dict[str, Print] = {
    "one": print_one,
    "results": print_results,
    "requests": print_requests,
    "both": print_both,
}
STREAMED = {"results", "both"}
"""The shapes whose results are a stream."""


@attrs.define(eq=False)
class Pair:
    """A node that serves a printer, and one that calls it."""

    cluster: SimulatedCluster
    called: rpcnet.Node
    caller: rpcnet.Node
    printer: Printer

    def client(self, *middleware: rpcnet.Middleware[rpcnet.ClientCall]) -> rpcnet.ClusterClient:
        return rpcnet.ClusterClient(self.caller, middleware=middleware)

    def stub(self, *middleware: rpcnet.Middleware[rpcnet.ClientCall], **metadata: str) -> Printer:
        return self.client(*middleware).stub(Printer, node="called", metadata=metadata)


def simulate(
    scenario: Callable[[Pair], Awaitable[None]],
    *,
    middleware: Sequence[rpcnet.Middleware[rpcnet.ServerCall]] = (),
    rpc: rpcnet.RpcConfig | None = None,
) -> None:
    """Run a scenario with the two nodes; nothing may be left of its calls afterwards."""

    async def main(cluster: SimulatedCluster) -> None:
        printer = Printer()
        config = rpcnet.NodeConfig(rpc=rpc or rpcnet.RpcConfig())
        called = rpcnet.Node(
            "called", services=[printer], middleware=middleware, security=cluster.security, config=config
        )
        async with called:
            seeds = [called.address]
            async with rpcnet.Node("caller", seeds=seeds, security=cluster.security, config=config) as caller:
                await scenario(Pair(cluster, called, caller, printer))
                await trio.sleep(1)
                assert called.statistics().active_calls == 0
                assert set(called.statistics().restarts.values()) == {0}
                if not middleware:
                    assert await caller.stub(Printer).one("still here") == "STILL HERE"

    run(main)
