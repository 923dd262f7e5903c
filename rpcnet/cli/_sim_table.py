"""What came of simulations, for people and for programs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

from rpcnet._simulator.campaign import Report, Row
from rpcnet._simulator.figures import MEASURES
from rpcnet._simulator.scenario import Scenario

__all__ = ["figures_table", "report_data", "required_table", "scenarios_table"]

_SHOWN = ("p50", "p95", "max")


def _number(value: float) -> str:
    if math.isnan(value):
        return "not measured"
    if math.isinf(value):
        return "never"
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def scenarios_table(scenarios: Iterable[Scenario]) -> Table:
    """Return a table of scenarios and what is required of each."""
    table = Table("scenario", "nodes", "what happens", "required")
    for scenario in scenarios:
        required = "\n".join(f"{one.measure} {one}" for one in scenario.required)
        table.add_row(scenario.name, str(scenario.nodes), scenario.title, required)
    return table


def required_table(rows: Iterable[Row]) -> Table:
    """Return a table of what is required beside what was measured."""
    table = Table("scenario", "measure", "required", "measured", "")
    for row in rows:
        table.add_row(
            row.scenario,
            row.measure,
            row.required,
            _number(row.measured),
            "ok" if row.is_met else "[bold red]missed[/bold red]",
        )
    return table


def figures_table(report: Report) -> Table:
    """Return a table of everything that was measured in the runs of one scenario."""
    table = Table("measure", *_SHOWN, "mean", "samples")
    for measure in MEASURES:
        samples = report.samples.get(measure, ())
        if samples:
            values = [_number(report.value(f"{measure}.{kind}")) for kind in (*_SHOWN, "mean")]
            table.add_row(measure, *values, str(len(samples)))
    return table


def _finite(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return "never" if math.isinf(value) else value


def report_data(report: Report, more: Sequence[Row] = ()) -> dict[str, Any]:
    """Return what came of one scenario for a program; ``more`` are rows besides its own."""
    return {
        "scenario": report.scenario.name,
        "nodes": report.scenario.nodes,
        "seeds": list(report.seeds),
        "met": report.is_met and all(row.is_met for row in more),
        "required": [
            {
                "measure": row.measure,
                "required": row.required,
                "measured": _finite(row.measured),
                "met": row.is_met,
            }
            for row in (*report.rows(), *more)
        ],
        "figures": {
            measure: {kind: _finite(report.value(f"{measure}.{kind}")) for kind in (*_SHOWN, "mean")}
            for measure in MEASURES
            if report.samples.get(measure)
        },
        "broken": [{"seed": breach.seed, "what": breach.text} for breach in report.breaches],
        "core_seconds": round(report.core_seconds, 3),
    }
