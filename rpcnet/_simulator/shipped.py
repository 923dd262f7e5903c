"""The scenarios that come with rpcnet, and what must hold in them: the promises of membership, as a table.

Every number of nodes, loss and time is that of the promise. All run in the LAN profile with 1 ms latency.
"""

from __future__ import annotations

import attrs

from .scenario import (
    Block,
    BusyLoop,
    Fault,
    HostGone,
    Leave,
    Partition,
    Pause,
    ProcessKilled,
    Requirement,
    Restart,
    Scenario,
    UpdateTags,
)

__all__ = ["COMPARISONS", "SCENARIOS", "Comparison", "scenario_named"]


@attrs.frozen
class Comparison:
    """What must hold between two scenarios: a statistic of the one is at most ``at_most`` times that of the other."""

    scenario: str
    other: str
    measure: str
    at_most: float


_NOBODY_ELSE = Requirement("false_deaths.sum", at_most=0)


def _upto(measure: str, bound: float) -> Requirement:
    return Requirement(measure, at_most=bound)


def _ends(name: str, title: str, nodes: int, fault: Fault, *required: Requirement, loss: float = 0.0) -> Scenario:
    return Scenario(
        name=name, title=title, nodes=nodes, loss=loss, seconds=30, faults=(fault,), required=(*required, _NOBODY_ELSE)
    )


def _pause(nodes: int) -> Scenario:
    return Scenario(
        name=f"pause-{nodes}",
        title=f"{nodes} nodes, one stands still for 5 s",
        nodes=nodes,
        seconds=40,
        faults=(Pause(at=5, node=nodes // 2, seconds=5),),
        required=(_NOBODY_ELSE,),
    )


def _spread(name: str, nodes: int, bound: float, loss: float = 0.0) -> Scenario:
    changes = tuple(UpdateTags(at=5.0 + 4.0 * i, node=(7 * i + 1) % nodes) for i in range(6))
    return Scenario(
        name=name,
        title=f"{nodes} nodes, {loss:.0%} loss: news reaches 99.99 %",
        nodes=nodes,
        loss=loss,
        seconds=33,
        faults=changes,
        required=(_upto("spread.p9999", bound), _NOBODY_ELSE),
    )


def _idle(nodes: int) -> Scenario:
    return Scenario(
        name=f"idle-{nodes}",
        title=f"{nodes} nodes, nothing happens: bytes per node and second",
        nodes=nodes,
        seconds=65,
        required=(_upto("bytes.mean", 600), _upto("suspicions.mean", 0), _NOBODY_ELSE),
    )


SCENARIOS: tuple[Scenario, ...] = (
    _ends(
        "gone-100",
        "100 nodes, one host gone",
        100,
        HostGone(at=5, node=50),
        _upto("all_know.p50", 9),
        _upto("all_know.p95", 12),
    ),
    _ends(
        "gone-100-lossy",
        "100 nodes, 30 % loss, one host gone",
        100,
        HostGone(at=5, node=50),
        _upto("all_know.p50", 10),
        _upto("all_know.p95", 12.5),
        loss=0.3,
    ),
    _ends(
        "killed-10",
        "10 nodes, one process killed on a live host",
        10,
        ProcessKilled(at=5, node=5),
        _upto("all_know.p50", 3.5),
        _upto("all_know.p95", 6),
    ),
    _ends(
        "gone-1000",
        "1000 nodes, 1 % loss, one host gone",
        1000,
        HostGone(at=5, node=500),
        _upto("all_know.p50", 10),
        loss=0.01,
    ),
    _ends(
        "killed-1000",
        "1000 nodes, 1 % loss, one process killed on a live host",
        1000,
        ProcessKilled(at=5, node=500),
        _upto("all_know.p50", 6),
        loss=0.01,
    ),
    Scenario(
        name="lossy-100",
        title="100 nodes, 30 % loss for 900 s, nothing else wrong",
        nodes=100,
        loss=0.3,
        seconds=905,
        required=(_NOBODY_ELSE, _upto("suspicions.mean", 0.05)),
    ),
    _pause(10),
    _pause(100),
    Scenario(
        name="one-way-10",
        title="10 nodes, nothing passes from one to another for 90 s",
        nodes=10,
        seconds=120,
        faults=(Block(at=5, source=1, destination=2, seconds=90),),
        required=(_NOBODY_ELSE, Requirement("link_degraded.min", at_least=1, at_most=1)),
    ),
    Scenario(
        name="split-100",
        title="100 nodes fall into 60 and 40 for 60 s",
        nodes=100,
        settle=30,
        seconds=120,
        faults=(Partition(at=30, groups=(60, 40), seconds=60),),
        required=(_upto("separate.max", 35), _upto("minority.max", 60), _upto("healed.max", 15), _NOBODY_ELSE),
    ),
    Scenario(
        name="restart-100",
        title="100 nodes, all restarted within 10 s",
        nodes=100,
        seconds=60,
        faults=(Restart(at=5, within=10),),
        required=(_upto("complete.max", 30), _NOBODY_ELSE),
    ),
    Scenario(
        name="leave-100",
        title="100 nodes, one says goodbye",
        nodes=100,
        seconds=25,
        faults=(Leave(at=5, node=50),),
        required=(_upto("all_know.p99", 3), _upto("failed_leavers.sum", 0), _NOBODY_ELSE),
    ),
    _spread("spread-100", 100, 2.0),
    _spread("spread-1000", 1000, 2.2),
    _spread("spread-100-lossy", 100, 2.8, loss=0.3),
    _spread("spread-1000-lossy", 1000, 3.2, loss=0.3),
    _idle(10),
    _idle(100),
    _idle(1000),
    Scenario(
        name="busy-10",
        title="10 nodes, something holds the loop of one for 1.5 s at a time",
        nodes=10,
        seconds=60,
        faults=(BusyLoop(at=5, node=5, seconds=40),),
        required=(_NOBODY_ELSE, Requirement("degraded.min", at_least=1, at_most=1)),
    ),
)

COMPARISONS: tuple[Comparison, ...] = (Comparison("idle-1000", "idle-10", "bytes.mean", 1.5),)


def scenario_named(name: str) -> Scenario | None:
    """Return a shipped scenario."""
    return next((scenario for scenario in SCENARIOS if scenario.name == name), None)
