"""Calls without the class of the service, over the whole stack, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import attrs
import pytest

import rpcnet
from rpcnet._core.described import described_service
from rpcnet.testing import SimulatedCluster, run


@attrs.frozen
class Page:
    words: list[str]


@rpcnet.service
class Copying:
    """One method of each shape."""

    @rpcnet.rpc(idempotent=True)
    async def one(self, page: Page) -> Page:
        return Page([*page.words, "copied"])

    @rpcnet.rpc
    async def several(self, page: Page, copies: int = 2) -> AsyncIterator[Page]:
        for _ in range(copies):
            yield page

    @rpcnet.rpc
    async def bind(self, title: str, pages: AsyncIterator[Page]) -> Page:
        return Page([title, *[word async for page in pages for word in page.words]])

    @rpcnet.rpc
    async def each(self, pages: AsyncIterator[Page]) -> AsyncIterator[int]:
        async for page in pages:
            yield len(page.words)


@rpcnet.service(name="Copying")
class Newer:
    """The same service in another version, which takes something else."""

    @rpcnet.rpc
    async def one(self, page: int) -> int:
        return page


def services(name: str) -> list[object]:
    served: dict[str, list[object]] = {"n1": [Copying()], "n2": [Newer()]}
    return served.get(name, [])


async def asker(cluster: SimulatedCluster) -> rpcnet.Node:
    """Return a node that serves nothing; n1 and n2 serve something else under one name."""
    [asks, *_] = await cluster.start(3, services=services)
    await cluster.converged()
    return asks.node


async def stub_of(node: rpcnet.Node, method: str, *, target: str = "n1") -> Any:
    """Return a stub of what n1 tells of a method, to call it on a node."""
    told = await node.stub(rpcnet.Reflection, node="n1").describe(f"Copying.{method}")
    return node.stub(described_service(told), node=target)


async def pages(words: Iterable[str]) -> AsyncIterator[dict[str, Any]]:
    for word in words:
        yield {"words": word.split()}


def test_every_shape_is_called_with_plain_values() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        node = await asker(cluster)
        page = {"words": ["a"]}
        assert await (await stub_of(node, "one")).one(page) == {"words": ["a", "copied"]}
        several = await stub_of(node, "several")
        async with several.several(page) as copies:
            assert [copy async for copy in copies] == [page, page]
        bind = await stub_of(node, "bind")
        assert await bind.bind("book", pages(["a b", "c"])) == {"words": ["book", "a", "b", "c"]}
        each = await stub_of(node, "each")
        async with each.each(pages(["a b", "c"])) as lengths:
            assert [length async for length in lengths] == [2, 1]

    run(scenario)


def test_another_server_that_serves_something_else_under_the_name_is_not_called() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        node = await asker(cluster)
        elsewhere = await stub_of(node, "one", target="n2")
        with pytest.raises(rpcnet.Unimplemented, match=r"the contract of Copying\.one does not fit"):
            await elsewhere.one({"words": []})

    run(scenario)
