"""What every benchmark needs: one process's resources, quantiles, medians, and the machine they belong to.

A program that serves or loads prints one JSON object per line on standard output and nothing else; :class:`Load` is
what a load prints when it is done.
"""

from __future__ import annotations

import datetime as dt
import os
import platform
import resource
import statistics
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path

import attrs

__all__ = ["Load", "Meter", "Side", "Usage", "machine", "median_load", "quantile", "steal", "usage", "versions"]

_USAGE = struct.Struct("!dQQ")


@attrs.frozen
class Usage:
    """What one process has used so far."""

    cpu_seconds: float
    """Processor time, user and system, of all threads."""
    rss_bytes: int
    """Resident memory now."""
    heap_bytes: int
    """What tracemalloc counts now; 0 where it is off."""

    def pack(self) -> bytes:
        """Return the figures as bytes, for peers that carry only these."""
        return _USAGE.pack(self.cpu_seconds, self.rss_bytes, self.heap_bytes)

    @classmethod
    def unpack(cls, data: bytes) -> Usage:
        """Return the figures that :meth:`pack` made bytes of."""
        return cls(*_USAGE.unpack(data))


@attrs.frozen
class Side:
    """What one of the two processes used within the measured time."""

    cpu_seconds: float
    """Processor time."""
    rss_bytes: int
    """Resident memory at the end."""
    rss_growth: int
    """Resident memory at the end, less that at the beginning."""
    heap_growth: int
    """The same of what tracemalloc counts; 0 where it is off."""

    @classmethod
    def between(cls, before: Usage, after: Usage) -> Side:
        """Return what was used between two moments."""
        return cls(
            after.cpu_seconds - before.cpu_seconds,
            after.rss_bytes,
            after.rss_bytes - before.rss_bytes,
            after.heap_bytes - before.heap_bytes,
        )


@attrs.frozen
class Load:
    """What one load measured."""

    count: int
    """Calls answered, messages delivered or connections opened, rightly, within the measured time."""
    seconds: float
    """The measured time."""
    p50: float | None
    """Median seconds of one call or connection; None where single ones are not timed."""
    p99: float | None
    """Seconds within which 99 of 100 were done."""
    client: Side
    """The client's process."""
    server: Side
    """The server's process."""

    @property
    def rate(self) -> float:
        """How many per second."""
        return self.count / self.seconds


@attrs.define(eq=False)
class Meter:
    """Counts what is done between :meth:`start` and :meth:`stop`; what is timed before is forgotten."""

    durations: list[float] = attrs.field(factory=list)
    """Seconds of each call or connection that is timed."""
    count: int = 0
    """What is done without being timed."""
    _began: float = 0.0
    _seconds: float = 0.0
    _timed: int = 0
    _before: tuple[Usage, Usage] | None = None
    _after: Usage | None = None

    def start(self, server: Usage) -> None:
        """Begin to count, given what the server has used."""
        self.durations.clear()
        self._before = (usage(), server)
        self._began = time.perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._began

    def stop(self) -> None:
        """End the measured time."""
        self._seconds = self.elapsed
        self._timed = len(self.durations)
        self._after = usage()

    def load(self, server: Usage) -> Load:
        """Return what was measured, given what the server had used when it was stopped."""
        if self._before is None or self._after is None:
            raise RuntimeError("start() and stop() come first")
        client_before, server_before = self._before
        ordered = sorted(self.durations[: self._timed])
        return Load(
            self.count + len(ordered),
            self._seconds,
            quantile(ordered, 0.5),
            quantile(ordered, 0.99),
            Side.between(client_before, self._after),
            Side.between(server_before, server),
        )


def usage() -> Usage:
    """Return what this process has used so far."""
    return Usage(time.process_time(), _rss_bytes(), tracemalloc.get_traced_memory()[0])


def _rss_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:  # not Linux: the peak has to do
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def quantile(ordered: Sequence[float], fraction: float) -> float | None:
    """Return the nearest-rank quantile of values in ascending order; None of none."""
    return ordered[min(int(len(ordered) * fraction), len(ordered) - 1)] if ordered else None


def median_load(rounds: Sequence[Load]) -> Load:
    """Return the median of every figure over rounds of the same load."""

    def median(figure: Callable[[Load], float]) -> float:
        return statistics.median(figure(load) for load in rounds)

    def middle(figure: Callable[[Load], float | None]) -> float | None:
        known = [value for load in rounds if (value := figure(load)) is not None]
        return statistics.median(known) if known else None

    def side(which: Callable[[Load], Side]) -> Side:
        return Side(
            median(lambda load: which(load).cpu_seconds),
            round(median(lambda load: which(load).rss_bytes)),
            round(median(lambda load: which(load).rss_growth)),
            round(median(lambda load: which(load).heap_growth)),
        )

    return Load(
        round(median(lambda load: load.count)),
        median(lambda load: load.seconds),
        middle(lambda load: load.p50),
        middle(lambda load: load.p99),
        side(lambda load: load.client),
        side(lambda load: load.server),
    )


def steal() -> tuple[int, int]:
    """Return the ticks that the machine's processors were taken away, and all ticks; zeros where nobody counts."""
    try:
        ticks = [int(number) for number in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except OSError:
        return 0, 0
    return ticks[7], sum(ticks)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str | int]:
    """Return what the figures depend on besides the programs."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
