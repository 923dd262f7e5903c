"""One worker of the demo: ``python -m rpcnet.cli.demo.worker``, started by the demo and ended by it.

The rules of this file:

* The secret comes by environment, never by argument: the arguments of a process are for everybody to read.
* A worker never outlives the demo, however that ends. It watches its standard input, a pipe that nobody writes to and
  that closes with the demo; and on Linux the kernel kills it when the demo's thread is gone, should its loop hang.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
from pathlib import Path

import trio

import rpcnet

from .cluster import config, leaves, security
from .service import Analyser

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent is gone; exit now if it is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


async def serve(name: str, seed: str, root: Path, secret: str) -> None:
    """Join, serve until standard input ends, then leave the cluster and return.

    Raises:
        RpcNetError: the cluster cannot be joined, or the node failed; in a group.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_at_end_of_input, nursery.cancel_scope)
        async with rpcnet.Node(
            name,
            seeds=[seed],
            tags={"role": "worker"},
            services=[Analyser(root)],
            security=security(secret),
            config=config(),
        ):
            await trio.sleep_forever()


async def _cancel_at_end_of_input(scope: trio.CancelScope) -> None:
    async with trio.lowlevel.FdStream(os.dup(0)) as pipe:
        while await pipe.receive_some(1):
            pass
    scope.cancel()


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description="One worker of the demo; started by it.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--seed", required=True)
    parser.add_argument("--root", required=True, type=Path)
    parser.add_argument("--parent", required=True, type=int)
    options = parser.parse_args()
    die_with(options.parent)
    problems: list[str] = []
    try:
        trio.run(serve, options.name, options.seed, options.root, os.environ["RPCNET_SECRET"])
    except* rpcnet.RpcNetError as group:
        problems += [f"{type(error).__name__}: {error}" for error in leaves(group)]
    if problems:
        sys.exit("; ".join(problems))


if __name__ == "__main__":
    main()
