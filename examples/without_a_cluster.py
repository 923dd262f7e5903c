"""A server and its client, without a cluster: a text goes up as a stream, and what was found in it comes back as one.

In one terminal ``python examples/without_a_cluster.py serve``; in another ``... count ADDRESS FILE``, with the address
that the first one has printed. Both need the same secret: that of this user, or the one in ``RPCNET_SECRET``.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator

import attrs
import trio

import rpcnet


@attrs.frozen
class Found:
    """How often a word was found."""

    word: str
    count: int


@rpcnet.service(name="words")
class Words:
    """Counts words."""

    @rpcnet.rpc
    async def count(self, lines: AsyncIterator[str], most: int = 3) -> AsyncIterator[Found]:
        """Return the words that a text has most often, the first one first."""
        counts: Counter[str] = Counter()
        async for line in lines:
            counts.update(line.split())
        for word, count in counts.most_common(most):
            yield Found(word, count)


async def serve() -> None:
    async with rpcnet.Server([Words()]) as server:
        print(f"serving at {server.address}", flush=True)
        await trio.sleep_forever()


async def count(address: str, path: str) -> None:
    async with (
        await trio.open_file(path, encoding="utf-8") as lines,
        rpcnet.connect(address) as connection,
        connection.stub(Words).count(lines) as found,
    ):
        async for each in found:
            print(f"{each.count:6} {each.word}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            trio.run(serve)
        case ["count", address, path]:
            trio.run(count, address, path)
        case _:
            sys.exit(__doc__)
