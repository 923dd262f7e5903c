"""What a worker of the demo serves."""

from __future__ import annotations

from pathlib import Path

import trio

import rpcnet

from .job import FileReport, analyse

__all__ = ["Analyser"]


@rpcnet.service
class Analyser:
    """Reads files below one directory and reports on them.

    Args:
        root: the directory. Nothing outside of it is opened, whatever a caller asks for.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        # One at a time: two threads of one interpreter would only slow each other, and the node's own loop, down.
        self._turns = trio.CapacityLimiter(1)

    @rpcnet.rpc(idempotent=True)
    async def analyse(self, path: str) -> FileReport:
        """Report on one file; counting runs in a thread, so that the node goes on answering probes.

        Args:
            path: relative to the directory.

        Raises:
            InvalidArgument: the path leads out of the directory.
        """
        if not (self._root / path).resolve().is_relative_to(self._root):
            raise rpcnet.InvalidArgument(f"path = {path!r}: must lie below the directory of the demo")
        return await trio.to_thread.run_sync(analyse, self._root, path, limiter=self._turns)
