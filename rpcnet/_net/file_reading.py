"""Small files, read while the program runs, without making it wait for a disk.

The rules of this file:

* A file is read in a thread, and whoever is cancelled meanwhile does not wait for it. A few such threads at most can
  hang, on a file system that is gone; whoever comes after that waits until cancelled.
* Only what is really a file is read: a pipe or a device could keep a reader for ever.
"""

from __future__ import annotations

import os
import stat

import trio

__all__ = ["read_head", "read_head_now"]

_MAX_THREADS = 4
_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("rpcnet file readers")


async def read_head(path: str, limit: int) -> bytes:
    """Return the first ``limit`` bytes of a file. A checkpoint; cancelling waits for nothing.

    Raises:
        OSError: it cannot be read, or is none.
    """
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(_MAX_THREADS)
        _limiter.set(limiter)
    return await trio.to_thread.run_sync(read_head_now, path, limit, abandon_on_cancel=True, limiter=limiter)


def read_head_now(path: str, limit: int) -> bytes:
    """Return the first ``limit`` bytes of a file, in this thread.

    Raises:
        OSError: it cannot be read, or is none.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is no regular file")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(limit)
    finally:
        os.close(descriptor)
