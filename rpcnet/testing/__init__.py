"""A cluster in one process, in virtual time, that repeats exactly.

``run(scenario, seed=7)`` runs an async function with a :class:`SimulatedCluster`. The whole stack of every node runs,
QUIC and TLS included, over a network in memory; the clock is virtual, so an hour passes in as long as its events take.
The same seed gives the same trace.
"""

from ._cluster import SimulatedCluster, SimulatedNode, TraceEntry
from ._run import run

__all__ = ["SimulatedCluster", "SimulatedNode", "TraceEntry", "run"]

for _name in __all__:
    globals()[_name].__module__ = "rpcnet.testing"
del _name
