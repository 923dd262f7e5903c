"""Streams larger than the memory of those who handle them, on real sockets and processes. Run them with ``make large``.

``RPCNET_LARGE_BYTES`` and ``RPCNET_LARGE_VALUES`` make them smaller or larger.
"""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
from _store import Store

import rpcnet

SIZE = int(os.environ.get("RPCNET_LARGE_BYTES", str(1 << 30)))
VALUES = int(os.environ.get("RPCNET_LARGE_VALUES", "1_000_000"))
HEAP = 64 << 20
PIECE = 64 << 10
SECRET = "a secret of the tests with enough entropy 4711"
MARGIN = 8 << 20
"""What a stream may add to a process besides its window: buffers of sockets and of the allocator."""


@pytest.fixture
def store() -> Iterator[str]:
    """Start a server with a small heap; return its address."""
    program = Path(__file__).with_name("_store.py")
    with subprocess.Popen(
        [sys.executable, str(program), str(HEAP)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "RPCNET_SECRET": SECRET},
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().decode().strip()
        finally:
            process.kill()


def node(address: str) -> rpcnet.Node:
    security = rpcnet.Security.shared_secret(SECRET)
    return rpcnet.Node("caller", seeds=[address], security=security, config=rpcnet.NodeConfig.local())


def own_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def test_a_stream_of_a_gibibyte_goes_through_a_heap_of_64_mebibytes(store: str) -> None:
    state = hashlib.blake2b(digest_size=16)

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(SIZE // PIECE):
            piece = number.to_bytes(8, "big") * (PIECE // 8)
            state.update(piece)
            yield piece

    async with node(store) as caller:
        before = own_peak()
        assert await caller.stub(Store).digest(pieces()) == (SIZE // PIECE * PIECE, state.hexdigest())
        window = caller.config.rpc.stream_window_bytes + caller.config.rpc.send_watermark_bytes
        assert own_peak() - before < window + MARGIN


async def test_a_stream_of_a_million_small_values_takes_no_more_memory_than_a_short_one(store: str) -> None:
    async with node(store) as caller:
        stub = caller.stub(Store)

        async def numbers(upto: int) -> AsyncIterator[int]:
            for number in range(upto):
                yield number

        async def both_ways(upto: int) -> None:
            expected = 0
            async with stub.count(upto) as values:
                async for value in values:
                    assert value == expected
                    expected += 1
            assert expected == upto
            assert await stub.total(numbers(upto)) == upto * (upto - 1) // 2

        with trio.fail_after(600):
            await both_ways(VALUES // 50)
            before, theirs = own_peak(), await stub.peak()
            await both_ways(VALUES)
            assert own_peak() - before < MARGIN
            assert await stub.peak() - theirs < MARGIN
