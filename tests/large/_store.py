"""A server with little memory: ``python _store.py LIMIT_BYTES`` serves until its standard input ends.

When it serves, it limits its own heap (``RLIMIT_DATA``) to what it has then and ``LIMIT_BYTES`` more, or to
``LIMIT_BYTES`` in all if it has less. It says its address and the limit on one line.
"""

from __future__ import annotations

import hashlib
import resource
import sys
from collections.abc import AsyncIterator

import trio

import rpcnet


@rpcnet.service(name="store")
class Store:
    """Takes and gives streams larger than its memory."""

    @rpcnet.rpc
    async def digest(self, chunks: AsyncIterator[bytes]) -> tuple[int, str]:
        """Return length and hash of a stream."""
        size, state = 0, hashlib.blake2b(digest_size=16)
        async for chunk in chunks:
            size += len(chunk)
            state.update(chunk)
        return size, state.hexdigest()

    @rpcnet.rpc
    async def count(self, upto: int) -> AsyncIterator[int]:
        """Return many small values."""
        for number in range(upto):
            yield number

    @rpcnet.rpc
    async def total(self, numbers: AsyncIterator[int]) -> int:
        """Take many small values."""
        result = 0
        async for number in numbers:
            result += number
        return result

    @rpcnet.rpc
    async def peak(self) -> int:
        """Return the most memory that this process has held so far, in bytes."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def main(limit: int) -> None:
    async with rpcnet.Node("store", services=[Store()], config=rpcnet.NodeConfig.local()) as node:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        print(node.address, flush=True)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
                    scope.cancel()

                nursery.start_soon(watch)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
