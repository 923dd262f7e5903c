"""The scenarios that come with rpcnet, at sizes and with seeds that fit into a test run; ``make sim`` runs them whole.

The bounds are those of the shipped scenarios, so what is required here is what is promised.
"""

from __future__ import annotations

import attrs
import pytest

from rpcnet._simulator.campaign import Report, compare, run_all
from rpcnet._simulator.scenario import HostGone, Scenario, UpdateTags, resized
from rpcnet._simulator.shipped import SCENARIOS, scenario_named


def shipped(name: str, **changes: object) -> Scenario:
    found = scenario_named(name)
    assert found is not None
    return attrs.evolve(found, **changes)  # type: ignore[arg-type]


def run(scenario: Scenario, seeds: int = 1) -> Report:
    return run_all([scenario], range(seeds), jobs=1)[0]


SHORT: dict[str, tuple[Scenario, int]] = {
    "one of 100 hosts gone": (shipped("gone-100", seconds=20), 1),
    "one of 30 hosts gone, three datagrams in ten lost": (
        resized(shipped("gone-100-lossy", seconds=20), 30),
        3,
    ),
    "a process killed on a live host": (shipped("killed-10", seconds=15), 5),
    "three datagrams in ten lost for two minutes": (shipped("lossy-100", nodes=30, seconds=125), 1),
    "one of 10 paused": (shipped("pause-10", seconds=30), 3),
    "one of 100 paused": (shipped("pause-100", seconds=25), 1),
    "a one-way block": (shipped("one-way-10", seconds=60), 1),
    "a split": (
        resized(shipped("split-100", seconds=110), 25),
        1,
    ),
    "a restart of all": (shipped("restart-100", nodes=30, seconds=40), 1),
    "a goodbye": (resized(shipped("leave-100"), 50), 2),
    "news among 200": (
        shipped("spread-100", nodes=200, seconds=12, faults=tuple(UpdateTags(5.0 + i, i) for i in range(3))),
        1,
    ),
    "a busy loop": (shipped("busy-10", seconds=40), 1),
}


@pytest.mark.parametrize(("scenario", "seeds"), SHORT.values(), ids=SHORT.keys())
def test_what_is_promised_holds(scenario: Scenario, seeds: int) -> None:
    report = run(scenario, seeds)
    assert [row for row in report.rows() if not row.is_met] == []


def test_an_idle_cluster_costs_little_whatever_its_size() -> None:
    small, large = run(shipped("idle-10")), run(shipped("idle-100", seconds=35))
    assert [row for report in (small, large) for row in report.rows() if not row.is_met] == []
    assert large.value("bytes.mean") <= 1.5 * small.value("bytes.mean")


def test_a_requirement_that_does_not_hold_is_said_to_be_missed() -> None:
    hasty = shipped("killed-10", faults=(HostGone(at=5, node=5),), seconds=12)
    rows = {row.measure: row for row in run(hasty).rows()}
    assert not rows["all_know.p50"].is_met
    assert rows["false_deaths.sum"].is_met


def test_every_shipped_scenario_has_a_name_of_its_own_and_requires_something() -> None:
    names = [scenario.name for scenario in SCENARIOS]
    assert len(set(names)) == len(names)
    assert all(scenario.required for scenario in SCENARIOS)


def test_scenarios_are_compared_when_both_were_run() -> None:
    reports = [run(shipped("idle-10", seconds=8)), run(attrs.evolve(shipped("idle-10", seconds=8), name="idle-1000"))]
    [row] = compare(reports)
    assert row.is_met
    assert row.measured == 1.0
    assert compare(reports[:1]) == []
