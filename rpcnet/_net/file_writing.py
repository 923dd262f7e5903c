"""Small files, replaced while the program runs, without making it wait for a disk.

The rules of this file:

* A file is replaced by renaming another one into its place, after that one has reached the disk. Whoever reads finds
  the old content or the new one, also after the machine has failed. A link stays one; what it leads to is replaced.
* A file is written in a thread, and whoever is cancelled meanwhile does not wait for it. A few such threads at most can
  hang, on a file system that is gone; whoever comes after that waits until cancelled.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import trio

__all__ = ["replace_file", "replace_now"]

_MAX_THREADS = 4
_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("rpcnet file writers")


async def replace_file(path: str, data: bytes) -> None:
    """Replace a file, whole or not at all. A checkpoint; cancelling waits for nothing.

    Raises:
        OSError: it cannot be written; what was there before is still there.
    """
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(_MAX_THREADS)
        _limiter.set(limiter)
    await trio.to_thread.run_sync(replace_now, path, data, abandon_on_cancel=True, limiter=limiter)


def replace_now(path: str, data: bytes) -> None:
    """Replace a file, whole or not at all, in this thread; only this user may read the new one.

    Raises:
        OSError: it cannot be written; what was there before is still there.
    """
    place = Path(os.path.realpath(path))  # unlike Path.resolve, also for links in a circle
    descriptor, name = tempfile.mkstemp(prefix=f".{place.name[:100]}.", dir=place.parent)
    draft = Path(name)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - opened above, under a name that nobody else has
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        draft.replace(place)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    _sync(place.parent)


def _sync(directory: Path) -> None:
    """Have the new name on the disk, too, where directories can be told to."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
