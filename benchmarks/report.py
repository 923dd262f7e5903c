"""The table, and the file with everything that was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from budgets import Loads
from measure import Load, machine, versions
from session import Result
from workloads import PEERS

__all__ = ["medians", "save", "table"]

RESULTS = Path(__file__).resolve().parent / "results"
SATURATED = 0.9
"""A side that used more of one core than this was the limit."""
BULK_BYTES = 4096
"""From this size on, MB/s are shown."""


def medians(results: Sequence[Result]) -> Loads:
    """Return the medians by workload and peer."""
    return {(result.workload.name, result.peer): load for result in results if (load := result.median) is not None}


def table(results: Sequence[Result]) -> str:
    """Return the results of all workloads, a block for each."""
    lines: list[str] = []
    loads = medians(results)
    for index, result in enumerate(results):
        workload = result.workload
        if not index or results[index - 1].workload != workload:
            lines += ["", _head(result)]
        load = result.median
        if load is None:
            lines.append(f"  {result.peer:<16}failed: {result.failures[0]}")
            continue
        first = next(iter(PEERS))
        ours = loads.get((workload.name, first)) if result.peer != first else None
        row = _row(result.peer, load, ours, workload.size)
        lines.append(row + (_memory(load) if workload.is_memory else ""))
    return "\n".join(lines[1:])


def _head(result: Result) -> str:
    unit = f"{result.workload.unit}/s"
    heads = (unit, "MB/s", "rpcnet is", "p50 us", "p99 us", "CPU us each", "RSS MB")
    head = "{:>14}{:>8}{:>11}{:>11}{:>11}{:>21}{:>13}  limit ".format(*heads)
    return f"{result.workload.name}\n{'':18}{head}" + (
        f"{'KB each':>22}{'traced':>16}" if result.workload.is_memory else ""
    )


def _row(peer: str, load: Load, ours: Load | None, size: int) -> str:
    megabytes = f"{load.rate * size / 1e6:,.0f}" if size >= BULK_BYTES else ""
    ratio = f"{ours.rate / load.rate:.2f}x" if ours is not None else ""
    cpu = f"{load.client.cpu_seconds / load.count * 1e6:,.1f} + {load.server.cpu_seconds / load.count * 1e6:,.1f}"
    memory = f"{load.client.rss_bytes / 2**20:,.0f} + {load.server.rss_bytes / 2**20:,.0f}"
    return (
        f"  {peer:<16}{load.rate:>14,.0f}{megabytes:>8}{ratio:>11}{_micro(load.p50):>11}{_micro(load.p99):>11}"
        f"{cpu:>21}{memory:>13}  {limit(load):<6}"
    )


def _memory(load: Load) -> str:
    rss = f"{load.client.rss_growth / load.count / 1000:,.2f} + {load.server.rss_growth / load.count / 1000:,.2f}"
    heap = f"{load.client.heap_growth / load.count / 1000:,.1f} + {load.server.heap_growth / load.count / 1000:,.1f}"
    has_heap = load.client.heap_growth or load.server.heap_growth
    return f"{rss:>22}{heap if has_heap else '':>16}"


def _micro(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e6:,.0f}"


def limit(load: Load) -> str:
    """Return which side had no processor time left."""
    sides = {"client": load.client, "server": load.server}
    busy = [side for side, used in sides.items() if used.cpu_seconds / load.seconds > SATURATED]
    return "both" if len(busy) == len(sides) else "".join(busy)


def save(results: Sequence[Result], conditions: dict[str, Any], verdicts: Sequence[str]) -> Path:
    """Write everything to a file of its own under ``results/``; return it.

    Args:
        results: what was measured.
        conditions: how: rounds, seconds, what others took of the processors.
        verdicts: what was said of the budgets.
    """
    packages = sorted({package for result in results for package in PEERS[result.peer].packages})
    described = machine()
    data = {
        "machine": described,
        "versions": versions(packages),
        **conditions,
        "budgets": list(verdicts),
        "results": [_result(result) for result in results],
    }
    RESULTS.mkdir(exist_ok=True)
    stamp = str(described["date"]).replace(":", "").removesuffix("+0000")
    path = RESULTS / f"bench-{stamp}.json"
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return path


def _result(result: Result) -> dict[str, Any]:
    load = result.median
    return {
        "workload": attrs.asdict(result.workload, filter=lambda field, _: field.name not in ("peers", "rounds")),
        "peer": result.peer,
        "limit": limit(load) if load is not None else None,
        "rate": load.rate if load is not None else None,
        "median": attrs.asdict(load) if load is not None else None,
        "rounds": [attrs.asdict(load) for load in result.rounds],
        "failures": list(result.failures),
    }
