"""Many runs: scenarios times seeds, on as many cores as there are, and what is required beside what was measured.

The rules of this file:

* A run depends on its scenario and its seed only, so they may run in any order and anywhere; the samples are pooled
  in the order of the seeds.
* A broken invariant in one run does not end the others; it is reported, and nothing makes up for it.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import attrs

from .figures import statistic
from .running import SimulationResult, simulate
from .scenario import Requirement, Scenario
from .shipped import COMPARISONS, Comparison
from .watching import InvariantBroken

__all__ = ["Breach", "Report", "Row", "compare", "run_all"]

_LARGE = 500


@attrs.frozen
class Breach:
    """An invariant that was broken in one run."""

    seed: int
    text: str


@attrs.frozen
class Row:
    """One requirement and what was measured."""

    scenario: str
    measure: str
    required: str
    measured: float
    is_met: bool


@attrs.frozen
class Report:
    """What came of all runs of one scenario."""

    scenario: Scenario
    """What was run."""
    seeds: tuple[int, ...]
    """With which seeds."""
    samples: Mapping[str, tuple[float, ...]]
    """What was measured in all runs, by measure."""
    breaches: tuple[Breach, ...]
    """The invariants that were broken."""
    core_seconds: float
    """Seconds of one core that the runs took, together."""

    def value(self, name: str) -> float:
        """Return a statistic of a measure over all runs; not a number when there is no sample."""
        return statistic(name, self.samples)

    def rows(self) -> list[Row]:
        """Return what is required beside what was measured."""
        rows = [self._row(requirement) for requirement in self.scenario.required]
        if self.breaches:
            rows.append(Row(self.scenario.name, "invariants", "hold", float(len(self.breaches)), is_met=False))
        return rows

    def _row(self, requirement: Requirement) -> Row:
        measured = self.value(requirement.measure)
        is_met = requirement.is_met(measured)
        return Row(self.scenario.name, requirement.measure, str(requirement), measured, is_met)

    @property
    def is_met(self) -> bool:
        """Whether everything required holds, the invariants included."""
        return all(row.is_met for row in self.rows())


def compare(reports: Sequence[Report], comparisons: Iterable[Comparison] = COMPARISONS) -> list[Row]:
    """Return what is required between scenarios, as far as both were run."""
    by_name = {report.scenario.name: report for report in reports}
    rows = []
    for one in comparisons:
        if one.scenario in by_name and one.other in by_name:
            value = by_name[one.other].value(one.measure)
            ratio = by_name[one.scenario].value(one.measure) / value if value else math.nan
            text = f"<= {one.at_most:g} x {one.other}"
            rows.append(Row(one.scenario, one.measure, text, ratio, is_met=ratio <= one.at_most))
    return rows


def _run_one(scenario: Scenario, seed: int) -> SimulationResult | Breach:
    try:
        return simulate(scenario, seed=seed, keeps_beliefs=False)
    except InvariantBroken as error:
        return Breach(seed, str(error))
    finally:
        if scenario.nodes >= _LARGE:
            gc.collect()  # or two worlds lie in memory while the next one runs


def run_all(
    scenarios: Sequence[Scenario],
    seeds: Sequence[int],
    *,
    jobs: int | None = None,
    on_report: Callable[[Report], None] = lambda _: None,
) -> list[Report]:
    """Run scenarios with seeds; synchronous.

    Args:
        scenarios: what to run; no two of one name.
        seeds: each scenario is run with each.
        jobs: processes to use, all cores by default; with 1 everything runs in this one.
        on_report: called as soon as all runs of a scenario are done.
    """
    jobs = min(jobs or os.cpu_count() or 1, len(scenarios) * len(seeds))
    if jobs <= 1:
        reports = []
        for scenario in scenarios:
            reports.append(_report(scenario, seeds, [_run_one(scenario, seed) for seed in seeds]))
            on_report(reports[-1])
        return reports
    return _run_in_processes(scenarios, seeds, jobs, on_report)


def _run_in_processes(
    scenarios: Sequence[Scenario], seeds: Sequence[int], jobs: int, on_report: Callable[[Report], None]
) -> list[Report]:
    found: dict[str, dict[int, SimulationResult | Breach]] = {scenario.name: {} for scenario in scenarios}
    reports: dict[str, Report] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        largest_first = sorted(scenarios, key=lambda scenario: -scenario.nodes * scenario.seconds)
        runs = [(scenario, seed) for scenario in largest_first for seed in seeds]
        futures = {pool.submit(_run_one, *run): run for run in runs}
        for future in as_completed(futures):
            scenario, seed = futures[future]
            done = found[scenario.name]
            done[seed] = future.result()
            if len(done) == len(seeds):
                reports[scenario.name] = _report(scenario, seeds, [done[seed] for seed in seeds])
                on_report(reports[scenario.name])
    return [reports[scenario.name] for scenario in scenarios]


def _report(scenario: Scenario, seeds: Sequence[int], runs: Sequence[SimulationResult | Breach]) -> Report:
    samples: dict[str, list[float]] = {}
    results = [run for run in runs if isinstance(run, SimulationResult)]
    for result in results:
        for name, values in result.samples.items():
            samples.setdefault(name, []).extend(values)
    return Report(
        scenario,
        tuple(seeds),
        {name: tuple(values) for name, values in samples.items()},
        tuple(run for run in runs if isinstance(run, Breach)),
        math.fsum(result.core_seconds for result in results),
    )
