"""A scenario as data: how many nodes, on what network, what befalls them, what is asked of them.

The rules of this file:

* A scenario is a frozen value; with a seed it decides a run completely. It can be written as JSON (``reading.py``).
* Nodes are named by number, from 0. Times are seconds of the run.
* A requirement names a measure, a statistic over all runs and a bound; ``figures.py`` says what can be measured.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal, get_args

import attrs

from rpcnet.errors import ConfigError

from .figures import MEASURES, STATISTICS, is_figure

__all__ = [
    "Block",
    "BusyLoop",
    "Fault",
    "HostGone",
    "Latency",
    "Leave",
    "Partition",
    "Pause",
    "ProcessKilled",
    "Profile",
    "Requirement",
    "Restart",
    "Scenario",
    "UpdateTags",
    "resized",
]

MAX_NODES = 20_000
MAX_SECONDS = 1_000_000.0

Profile = Literal["local", "lan", "wan"]


@attrs.frozen
class Latency:
    """How long a datagram takes, one way: uniform around the median, or log-normal, which has a long tail."""

    median: float = 0.001
    """Seconds."""
    spread: float = 0.2
    """Uniform: the share of the median that it varies by, up and down. Log-normal: the deviation of the logarithm."""
    shape: Literal["uniform", "lognormal"] = "uniform"
    """Which distribution."""


# --- what befalls nodes


@attrs.frozen
class HostGone:
    """A host vanishes with its node: nothing answers any more, not even the network."""

    at: float
    node: int


@attrs.frozen
class ProcessKilled:
    """The process of a node ends without a goodbye; its host says so to whoever sends something there."""

    at: float
    node: int


@attrs.frozen
class Pause:
    """A process stops (SIGSTOP, garbage collection, a sleeping laptop) and goes on after ``seconds``."""

    at: float
    node: int
    seconds: float


@attrs.frozen
class BusyLoop:
    """For ``seconds``, something holds a node's loop for ``hold`` seconds at a time, ``rest`` seconds in between."""

    at: float
    node: int
    seconds: float
    hold: float = 1.5
    rest: float = 0.5


@attrs.frozen
class Block:
    """Nothing passes from ``source`` to ``destination`` for ``seconds``; the other way everything does."""

    at: float
    source: int
    destination: int
    seconds: float


@attrs.frozen
class Partition:
    """The nodes fall into groups of these sizes, in order of their numbers, and come together after ``seconds``."""

    at: float
    groups: tuple[int, ...]
    seconds: float


@attrs.frozen
class Restart:
    """All nodes are restarted, one after the other, within ``within`` seconds: same names, new boot ids."""

    at: float
    within: float
    down: float = 0.1
    """Seconds between the end of a process and its next start."""


@attrs.frozen
class Leave:
    """A node says goodbye and ends."""

    at: float
    node: int


@attrs.frozen
class UpdateTags:
    """A node changes its tags: news whose way through the cluster is measured."""

    at: float
    node: int


Fault = HostGone | ProcessKilled | Pause | BusyLoop | Block | Partition | Restart | Leave | UpdateTags


@attrs.frozen
class Requirement:
    """What must hold: a statistic of a measure, over all runs, within bounds."""

    measure: str
    """As in ``"all_know.p95"``: the name of a measure and the name of a statistic."""
    at_most: float = math.inf
    at_least: float = -math.inf

    def __attrs_post_init__(self) -> None:
        """Check that there is such a figure."""
        if not is_figure(self.measure):
            raise ConfigError(
                f"measure = {self.measure!r}: must be one of {', '.join(MEASURES)}, "
                f"a dot, and one of {', '.join(STATISTICS)}"
            )

    def is_met(self, value: float) -> bool:
        """Tell whether a measured value is within the bounds; what could not be measured is not."""
        return self.at_least <= value <= self.at_most

    def __str__(self) -> str:
        """Return the bound, without the name of the measure."""
        if self.at_least == self.at_most:
            return f"= {self.at_most:g}"
        return f"<= {self.at_most:g}" if self.at_least == -math.inf else f">= {self.at_least:g}"


def _check_number(value: float, low: float, high: float, what: str) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{what} = {value!r}: must be between {low:g} and {high:g}")


@attrs.frozen(kw_only=True)
class Scenario:
    """One thing to try; see the fields."""

    name: str
    """One word; what the command line calls it."""
    title: str = ""
    """What is tried, for a person to read."""
    nodes: int = 10
    """How many."""
    profile: Profile = "lan"
    """Which settings the nodes have."""
    latency: Latency = attrs.field(factory=Latency)
    """How long datagrams take."""
    loss: float = 0.0
    """The probability that a datagram is lost."""
    duplication: float = 0.0
    """The probability that a datagram arrives a second time, up to a second later."""
    start: Literal["converged", "joining"] = "converged"
    """Whether all nodes know each other from the beginning, or start together and join through the first three."""
    settle: float = 5.0
    """Seconds before anything is measured."""
    seconds: float = 60.0
    """When the run ends, at the latest."""
    faults: tuple[Fault, ...] = ()
    """What happens, not before ``settle``."""
    required: tuple[Requirement, ...] = ()
    """What must hold over all runs."""
    zones: int = 1
    """The nodes carry a tag ``zone`` with as many values, in blocks of their numbers."""

    def __attrs_post_init__(self) -> None:
        """Check the fields against each other."""
        _check_number(self.nodes, 1, MAX_NODES, "nodes")
        _check_number(self.seconds, 0.001, MAX_SECONDS, "seconds")
        _check_number(self.settle, 0.0, self.seconds, "settle")
        _check_number(self.loss, 0.0, 1.0, "loss")
        _check_number(self.duplication, 0.0, 1.0, "duplication")
        _check_number(self.latency.median, 0.0, 60.0, "latency.median")
        _check_number(self.latency.spread, 0.0, 10.0 if self.latency.shape == "lognormal" else 1.0, "latency.spread")
        _check_number(self.zones, 1, self.nodes, "zones")
        for fault in self.faults:
            self._check_fault(fault)

    def _check_fault(self, fault: Fault) -> None:
        what = type(fault).__name__
        _check_number(fault.at, self.settle, self.seconds, f"{what}.at")
        for field in ("node", "source", "destination"):
            number = getattr(fault, field, None)
            if number is not None:
                _check_number(number, 0, self.nodes - 1, f"{what}.{field}")
        for field in ("seconds", "within", "down", "hold", "rest"):
            length = getattr(fault, field, None)
            if length is not None:
                _check_number(length, 0.0, MAX_SECONDS, f"{what}.{field}")
        if isinstance(fault, Partition) and (min(fault.groups, default=0) < 1 or sum(fault.groups) != self.nodes):
            raise ConfigError(f"Partition.groups = {fault.groups}: must be sizes that add up to {self.nodes} nodes")
        if isinstance(fault, BusyLoop) and fault.hold + fault.rest <= 0:
            raise ConfigError("BusyLoop.hold, BusyLoop.rest: must not both be 0")


def resized(scenario: Scenario, nodes: int) -> Scenario:
    """Return a scenario with another number of nodes: faults befall nodes, and groups have sizes, in proportion.

    Raises:
        ConfigError: there are too few nodes for it, or too many.
    """
    _check_number(nodes, 1, MAX_NODES, "nodes")
    faults = tuple(_moved(fault, scenario.nodes, nodes) for fault in scenario.faults)
    return attrs.evolve(scenario, nodes=nodes, faults=faults, zones=min(scenario.zones, nodes))


def _moved(fault: Fault, old: int, new: int) -> Fault:
    if isinstance(fault, Partition):
        if new < len(fault.groups):
            raise ConfigError(f"{len(fault.groups)} groups need as many nodes, {new} are too few")
        ends = [max(i + 1, round(sum(fault.groups[: i + 1]) * new / old)) for i in range(len(fault.groups))]
        return attrs.evolve(fault, groups=tuple(end - start for start, end in pairwise([0, *ends])))
    if isinstance(fault, Block):
        source = fault.source * new // old
        destination = fault.destination * new // old
        return attrs.evolve(
            fault, source=source, destination=(source + 1) % new if source == destination else destination
        )
    return fault if isinstance(fault, Restart) else attrs.evolve(fault, node=fault.node * new // old)


for _kind in (*get_args(Fault), Latency, Requirement, Scenario):
    attrs.resolve_types(_kind)  # here, where the names are known, whatever public path the classes get
del _kind
