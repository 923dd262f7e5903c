"""How the demo went: as data and as text."""

from __future__ import annotations

from typing import Any

import attrs

from .job import Comparison, Totals

__all__ = ["Summary", "as_data", "as_text"]

_FREQUENT_SHOWN = 5


@attrs.frozen(kw_only=True)
class Summary:
    """How the demo went."""

    totals: Totals
    """What the cluster found."""
    comparison: Comparison
    """How that compares with the same job done serially."""
    lost: int
    """Files for which no result came."""
    calls: int
    """Calls that the coordinator made."""
    calls_per_worker: dict[str, int]
    """Calls that each worker answered."""
    retries: int
    """Calls that were made again elsewhere."""
    killed: str
    """The worker that was killed."""
    joined_later: str
    """The worker that came in its place."""
    kill_to_failed: float | None
    """Seconds from the kill to ``NodeFailed`` at the coordinator; None when that never came."""
    replacement_joined: bool
    """Whether the later worker joined."""
    cluster_seconds: float
    """Seconds from the first call to the last result."""
    serial_seconds: float
    """Seconds that the same job took in one process."""

    @property
    def ok(self) -> bool:
        """Whether the result is the serial one, whole, and the cluster noticed what was done to it."""
        return self.comparison.equal and not self.lost and self.kill_to_failed is not None and self.replacement_joined


def as_data(summary: Summary) -> dict[str, Any]:
    """Return the summary as plain data, for JSON."""
    return {
        "ok": summary.ok,
        "files": summary.totals.files,
        "unreadable": summary.totals.unreadable,
        "bytes": summary.totals.size_bytes,
        "lines": summary.totals.lines,
        "words": summary.totals.words,
        "frequent_words": summary.totals.frequent,
        "sha256": summary.totals.sha256,
        "calls": summary.calls,
        "calls_per_worker": summary.calls_per_worker,
        "retries": summary.retries,
        "killed": summary.killed,
        "joined_later": summary.joined_later,
        "replacement_joined": summary.replacement_joined,
        "seconds_from_kill_to_failed": summary.kill_to_failed,
        "lost": summary.lost,
        "equal_to_serial": summary.comparison.equal,
        "differing": list(summary.comparison.differing),
        "changed_meanwhile": list(summary.comparison.changed),
        "cluster_seconds": summary.cluster_seconds,
        "serial_seconds": summary.serial_seconds,
    }


def as_text(summary: Summary) -> str:
    """Return the summary as lines for a person."""
    failed = "never noticed" if summary.kill_to_failed is None else f"NodeFailed after {summary.kill_to_failed:.2f} s"
    joined = "joined later" if summary.replacement_joined else "never joined"
    frequent = list(summary.totals.frequent.items())[:_FREQUENT_SHOWN]
    rows = {
        "files": f"{summary.totals.files:,} ({summary.totals.unreadable} unreadable)",
        "bytes": f"{summary.totals.size_bytes:,}",
        "lines, words": f"{summary.totals.lines:,}, {summary.totals.words:,}",
        "frequent words": ", ".join(f"{word} {count:,}" for word, count in frequent),
        "calls": f"{summary.calls:,}",
        "calls per worker": ", ".join(f"{name} {count:,}" for name, count in summary.calls_per_worker.items()),
        "retries": f"{summary.retries:,}",
        "killed": f"{summary.killed}, {failed}; {summary.joined_later} {joined}",
        "lost results": f"{summary.lost:,}",
        "time": f"{summary.cluster_seconds:.2f} s on the cluster, {summary.serial_seconds:.2f} s in one process",
        "compared": _verdict(summary.comparison),
    }
    width = max(map(len, rows)) + 2
    return "\n".join(f"{name:<{width}}{text}" for name, text in rows.items())


def _verdict(comparison: Comparison) -> str:
    verdict = "equal to the serial result" if comparison.equal else "NOT equal to the serial result"
    if comparison.differing:
        verdict += f"; {len(comparison.differing)} files differ, the first is {comparison.differing[0]}"
    if comparison.changed:
        verdict += f"; {len(comparison.changed)} files left out, they changed meanwhile"
    return verdict
