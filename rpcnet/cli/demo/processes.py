"""The worker processes of the demo: started, killed, and never left behind.

The rules of this file:

* Only processes that were started here are touched, by the handle of their start.
* They are started from the main thread: on Linux a worker asks the kernel to be killed when the *thread* that started
  it is gone, and a thread of a pool comes and goes.
* They have a session of their own, so a Ctrl-C in the terminal reaches the demo only, which then ends them in order.
* What they write to standard error goes to a nameless file and is shown when one fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import attrs
import trio

__all__ = ["WorkerProcesses", "open_workers"]

GOODBYE_SECONDS = 4.0
"""How long workers get to leave by themselves before they are killed."""
_POLL_SECONDS = 0.02


@attrs.frozen(eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    errors: IO[bytes]


class WorkerProcesses:
    """The workers of one demo, by name.

    Args:
        seed: the address they join.
        root: the directory of which they analyse files.
        secret: the cluster's secret.
    """

    def __init__(self, seed: str, root: Path, secret: str) -> None:
        self._options = ("--seed", seed, "--root", str(root), "--parent", str(os.getpid()))
        self._environment = {**os.environ, "RPCNET_SECRET": secret}
        self._workers: dict[str, _Worker] = {}

    def start(self, name: str) -> int:
        """Start one worker and return its process id; it joins by itself. Takes a few milliseconds, no checkpoint."""
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end()
        process = subprocess.Popen(  # noqa: S603 - our own module, in our own interpreter
            [sys.executable, "-m", "rpcnet.cli.demo.worker", "--name", name, *self._options],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=self._environment,
            start_new_session=True,
        )
        self._workers[name] = _Worker(process, errors)
        return process.pid

    def kill(self, name: str) -> None:
        """Kill one worker with SIGKILL, as the kernel does when memory is short."""
        self._workers[name].process.kill()

    def failures(self) -> dict[str, str]:
        """Return what the workers that ended said last, by name."""
        return {
            name: _last_line(worker.errors)
            for name, worker in self._workers.items()
            if worker.process.poll() is not None
        }

    async def end(self) -> None:
        """End all workers and wait for them; bounded, and not to be cancelled. Those that do not leave are killed."""
        with trio.CancelScope(shield=True):
            for worker in self._workers.values():
                if worker.process.stdin is not None:
                    worker.process.stdin.close()
            with trio.move_on_after(GOODBYE_SECONDS):
                while any(  # noqa: ASYNC110 - the end of a Popen can only be polled
                    worker.process.poll() is None for worker in self._workers.values()
                ):
                    await trio.sleep(_POLL_SECONDS)
            for worker in self._workers.values():
                worker.process.kill()
                worker.process.wait()
                worker.errors.close()


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


@asynccontextmanager
async def open_workers(seed: str, root: Path, secret: str) -> AsyncIterator[WorkerProcesses]:
    """Open an empty set of workers, and end every one of them when the block ends, for whatever reason."""
    workers = WorkerProcesses(seed, root, secret)
    try:
        yield workers
    finally:
        await workers.end()
