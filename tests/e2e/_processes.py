"""Processes of the tests' own: started here, ended by their handle, never left behind.

A process serves until its standard input ends, which it does when the test's process is gone, however that went.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import trio

PROGRAM = Path(__file__).with_name("_peer.py")


@attrs.define(eq=False)
class PeerProcess:
    """One process that serves ``Peer``."""

    name: str
    popen: subprocess.Popen[bytes]

    async def address(self) -> str:
        """Wait until it has joined; return where it listens."""
        return await trio.to_thread.run_sync(self.read_line)

    def read_line(self) -> str:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline().decode()
        assert line.endswith("\n"), f"{self.name} ended early"
        return line.strip()

    def write_line(self, line: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(line.encode() + b"\n")
        self.popen.stdin.flush()


@attrs.define(eq=False)
class Processes:
    """The processes of one test, which share one environment."""

    environment: dict[str, str]
    started: list[PeerProcess] = attrs.field(factory=list)

    def start(self, name: str, *seeds: str, program: tuple[str, ...] = (str(PROGRAM),)) -> PeerProcess:
        popen = subprocess.Popen(
            [sys.executable, *program, name, *seeds],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment,
        )
        self.started.append(PeerProcess(name, popen))
        return self.started[-1]

    def end(self) -> None:
        for process in self.started:
            process.popen.kill()
            process.popen.communicate()


@contextmanager
def processes(secret: str) -> Iterator[Processes]:
    """Open an empty set of processes; all of them are dead when the block ends."""
    opened = Processes({**os.environ, "RPCNET_SECRET": secret})
    try:
        yield opened
    finally:
        opened.end()
