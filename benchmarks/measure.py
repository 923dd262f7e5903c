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
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path

import attrs

__all__ = ["Load", "Meter", "Usage", "machine", "median_load", "quantile", "steal", "usage", "versions"]

PAYLOAD_BYTES = 64


@attrs.frozen
class Usage:
    """What one process has used so far."""

    cpu_seconds: float
    """Processor time, user and system, of all threads."""
    rss_bytes: int
    """Resident memory now."""


@attrs.frozen
class Load:
    """What one load measured."""

    in_flight: int
    """Calls kept in flight."""
    calls: int
    """Calls answered, rightly, within the measured time."""
    seconds: float
    """The measured time."""
    p50: float
    """Median seconds of one call."""
    p99: float
    """Seconds within which 99 of 100 calls were answered."""
    client_cpu: float
    """Processor seconds of the client's process."""
    server_cpu: float
    """Processor seconds of the server's process."""
    client_rss: int
    """Resident bytes of the client's process afterwards."""
    server_rss: int
    """Resident bytes of the server's process afterwards."""

    @property
    def rate(self) -> float:
        """Calls per second."""
        return self.calls / self.seconds

    @property
    def client_cpu_per_call(self) -> float:
        """Processor seconds of the client per call."""
        return self.client_cpu / self.calls

    @property
    def server_cpu_per_call(self) -> float:
        """Processor seconds of the server per call."""
        return self.server_cpu / self.calls


@attrs.define(eq=False)
class Meter:
    """Counts calls and their durations between :meth:`start` and :meth:`stop`; outside of that it ignores them."""

    durations: list[float] = attrs.field(factory=list)
    """Seconds of each measured call."""
    _began: float = 0.0
    _seconds: float = 0.0
    _count: int = 0
    _before: tuple[Usage, Usage] | None = None
    _after: Usage | None = None

    def start(self, server: Usage) -> None:
        """Begin to count, given what the server has used."""
        self.durations.clear()
        self._before = (usage(), server)
        self._began = time.perf_counter()

    def stop(self) -> None:
        """End the measured time."""
        self._seconds = time.perf_counter() - self._began
        self._count = len(self.durations)
        self._after = usage()

    def load(self, in_flight: int, server: Usage) -> Load:
        """Return what was measured, given what the server had used when it was stopped."""
        if self._before is None or self._after is None:
            raise RuntimeError("start() and stop() come first")
        client_before, server_before = self._before
        ordered = sorted(self.durations[: self._count])
        return Load(
            in_flight,
            len(ordered),
            self._seconds,
            quantile(ordered, 0.5),
            quantile(ordered, 0.99),
            self._after.cpu_seconds - client_before.cpu_seconds,
            server.cpu_seconds - server_before.cpu_seconds,
            self._after.rss_bytes,
            server.rss_bytes,
        )


def usage() -> Usage:
    """Return what this process has used so far."""
    return Usage(time.process_time(), _rss_bytes())


def _rss_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:  # not Linux: the peak has to do
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def quantile(ordered: Sequence[float], fraction: float) -> float:
    """Return the nearest-rank quantile of values in ascending order; NaN of none."""
    return ordered[min(int(len(ordered) * fraction), len(ordered) - 1)] if ordered else float("nan")


def median_load(rounds: Sequence[Load]) -> Load:
    """Return the median of every figure over rounds of the same load."""

    def median(figure: Callable[[Load], float]) -> float:
        return statistics.median(figure(load) for load in rounds)

    return Load(
        rounds[0].in_flight,
        round(median(lambda load: load.calls)),
        median(lambda load: load.seconds),
        median(lambda load: load.p50),
        median(lambda load: load.p99),
        median(lambda load: load.client_cpu),
        median(lambda load: load.server_cpu),
        round(median(lambda load: load.client_rss)),
        round(median(lambda load: load.server_rss)),
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
