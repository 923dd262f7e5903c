"""A cluster in one process, in virtual time, that repeats exactly; in two sizes.

``run(scenario, seed=7)`` runs an async function with a :class:`SimulatedCluster`. The whole stack of every node runs,
QUIC and TLS included, over a network in memory; the clock is virtual, so an hour passes in as long as its events take.

``simulate(scenario, seed=7)`` runs a :class:`Scenario`, which is data, with the membership machines alone: a thousand
nodes for a minute in less than that. ``SCENARIOS`` are the ones that come with rpcnet.

The same seed gives the same trace.
"""

from rpcnet._simulator.plot import plot
from rpcnet._simulator.reading import scenario_from_json, scenario_to_json
from rpcnet._simulator.running import SimulationResult, simulate
from rpcnet._simulator.scenario import (
    Block,
    BusyLoop,
    HostGone,
    Latency,
    Leave,
    Partition,
    Pause,
    ProcessKilled,
    Requirement,
    Restart,
    Scenario,
    UpdateTags,
)
from rpcnet._simulator.shipped import SCENARIOS
from rpcnet._simulator.watching import InvariantBroken

from ._cluster import SimulatedCluster, SimulatedNode, TraceEntry
from ._run import run

__all__ = [
    "SCENARIOS",
    "Block",
    "BusyLoop",
    "HostGone",
    "InvariantBroken",
    "Latency",
    "Leave",
    "Partition",
    "Pause",
    "ProcessKilled",
    "Requirement",
    "Restart",
    "Scenario",
    "SimulatedCluster",
    "SimulatedNode",
    "SimulationResult",
    "TraceEntry",
    "UpdateTags",
    "plot",
    "run",
    "scenario_from_json",
    "scenario_to_json",
    "simulate",
]

for _name in __all__:
    if _name != "SCENARIOS":
        globals()[_name].__module__ = "rpcnet.testing"
del _name
