"""Running a scenario with one seed, and what comes of it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import attrs

from rpcnet.config import NodeConfig

from .beliefs import BeliefLog
from .figures import statistic
from .measures import measure
from .scenario import (
    Block,
    BusyLoop,
    Fault,
    HostGone,
    Leave,
    Partition,
    Pause,
    ProcessKilled,
    Restart,
    Scenario,
    UpdateTags,
)
from .world import World

__all__ = ["SimulationResult", "config_of", "simulate"]

_JOIN_INTERVAL = 0.05


@attrs.frozen
class SimulationResult:
    """What came of one run."""

    scenario: Scenario
    """What was run."""
    seed: int
    """With which seed."""
    samples: Mapping[str, tuple[float, ...]]
    """What was measured, by measure."""
    trace_hash: int
    """A hash of all that happened; equal for equal runs."""
    beliefs: BeliefLog | None = attrs.field(default=None, repr=False, eq=False)
    """Who believed what of whom; None when it was not kept."""
    core_seconds: float = attrs.field(default=0.0, eq=False)
    """Seconds of one core that the run took."""

    def value(self, name: str) -> float:
        """Return a statistic of a measure, as in ``"all_know.p50"``; not a number when there is none."""
        return statistic(name, self.samples)


def config_of(scenario: Scenario) -> NodeConfig:
    """Return the settings of a scenario's nodes."""
    profiles: dict[str, Callable[[], NodeConfig]] = {
        "local": NodeConfig.local,
        "lan": NodeConfig.lan,
        "wan": NodeConfig.wan,
    }
    return profiles[scenario.profile]()


def simulate(
    scenario: Scenario, *, seed: int = 0, config: NodeConfig | None = None, keeps_beliefs: bool = True
) -> SimulationResult:
    """Run a scenario in virtual time; synchronous.

    Args:
        scenario: what to run.
        seed: decides everything that is left to chance.
        config: settings of the nodes, instead of those of the scenario's profile.
        keeps_beliefs: whether the result is to hold the changes of belief, for a plot.

    Raises:
        InvariantBroken: something happened that must never happen.
    """
    began = time.process_time()
    with _without_collector():
        world = World(
            seed,
            scenario.nodes,
            config=config or config_of(scenario),
            latency=scenario.latency,
            loss=scenario.loss,
            duplication=scenario.duplication,
            zones=scenario.zones,
            converged=scenario.start == "converged",
        )
        if scenario.start == "joining":
            _start_joining(world)
        world.run_to(scenario.settle)
        world.suspicions.clear()
        start = attrs.evolve(world.network.traffic)
        versions: dict[int, int] = {}
        for place, fault in enumerate(scenario.faults):
            _plan(world, place, fault, versions)
        world.run_to(scenario.seconds)
        world.check_probes()
        samples = measure(scenario, world, versions, start)
    return SimulationResult(
        scenario,
        seed,
        {name: tuple(found) for name, found in samples.items()},
        world.trace_hash,
        world.log if keeps_beliefs else None,
        time.process_time() - began,
    )


@contextmanager
def _without_collector() -> Iterator[None]:
    """Keep the cycle collector off: there are millions of objects and no cycles among those that go."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _start_joining(world: World) -> None:
    for number in range(world.n_nodes):
        seeds = [seed for seed in range(3) if seed < world.n_nodes and seed != number] if number else []
        world.at(number * _JOIN_INTERVAL / world.n_nodes, _starting(world, number, seeds))


def _starting(world: World, number: int, seeds: list[int]) -> Callable[[], None]:
    def start() -> None:
        world.start(number, seeds=seeds)

    return start


# --- what befalls the nodes


def _plan(world: World, place: int, fault: Fault, versions: dict[int, int]) -> None:
    """Put a fault, and its end, into the world's heap."""
    match fault:
        case HostGone():
            world.at(fault.at, lambda: world.crash(fault.node))
        case ProcessKilled():
            world.at(fault.at, lambda: world.kill(fault.node))
        case Pause():
            world.at(fault.at, lambda: world.pause(fault.node, fault.seconds))
        case BusyLoop():
            _plan_busy_loop(world, fault)
        case Block():
            world.at(fault.at, lambda: world.block(fault.source, fault.destination))
            world.at(fault.at + fault.seconds, lambda: world.network.unblock(fault.source, fault.destination))
        case Partition():
            groups = [range(sum(fault.groups[:i]), sum(fault.groups[: i + 1])) for i in range(len(fault.groups))]
            world.at(fault.at, lambda: world.partition(*groups))
            world.at(fault.at + fault.seconds, world.repair)
        case Restart():
            _plan_restart(world, fault)
        case Leave():
            world.at(fault.at, lambda: world.leave(fault.node))
        case UpdateTags():
            world.at(fault.at, lambda: versions.update({place: world.update_tags(fault.node)}))


def _plan_busy_loop(world: World, fault: BusyLoop) -> None:
    at = fault.at
    while at < fault.at + fault.seconds:
        world.at(at, lambda: world.pause(fault.node, fault.hold, handler="busy"))
        at += fault.hold + fault.rest


def _plan_restart(world: World, fault: Restart) -> None:
    """Restart all nodes evenly, the last one being up again when the window closes."""
    n = world.n_nodes
    step = max(0.0, fault.within - fault.down) / max(1, n - 1)
    for number in range(n):
        at = fault.at + number * step
        seeds = [seed for seed in range(3) if seed < n and seed != number]
        world.at(at, _killing(world, number))
        world.at(at + fault.down, _starting(world, number, seeds))


def _killing(world: World, number: int) -> Callable[[], None]:
    return lambda: world.kill(number)
