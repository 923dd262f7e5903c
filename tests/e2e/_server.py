"""A server for tests with real processes: ``python _server.py NAME ADDRESS`` serves until its standard input ends.

The secret comes by environment. It says its address on one line when it takes calls.
"""

from __future__ import annotations

import os
import sys

import trio
from _peer import PATIENCE, Peer

import rpcnet


async def _serve(name: str, bind: str) -> None:
    with trio.fail_after(PATIENCE) as entering:
        async with rpcnet.Server([Peer(name)], name=name, bind=bind, drain_timeout=1.0) as server:
            entering.deadline = float("inf")
            print(server.address, flush=True)
            async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
                while await stdin.receive_some(1):
                    pass


if __name__ == "__main__":
    trio.run(_serve, sys.argv[1], sys.argv[2])
