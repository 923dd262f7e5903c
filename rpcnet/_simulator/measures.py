"""What a run is asked afterwards: the samples behind the measures of ``figures.py``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rpcnet.events import (
    LinkDegraded,
    LocalDegraded,
    PartitionDetected,
    PartitionStatus,
)

from . import beliefs
from .beliefs import Change
from .figures import MEASURES
from .network import Traffic
from .scenario import (
    Block,
    BusyLoop,
    Fault,
    HostGone,
    Leave,
    Partition,
    ProcessKilled,
    Restart,
    Scenario,
    UpdateTags,
)
from .world import World

__all__ = ["measure"]

Samples = dict[str, list[float]]

_OF_FEWER = (PartitionStatus.MINORITY, PartitionStatus.ISOLATED)


def measure(scenario: Scenario, world: World, versions: Mapping[int, int], start: Traffic) -> dict[str, list[float]]:
    """Ask a finished run everything that can be asked of it.

    Args:
        scenario: what was run.
        world: as it is at the end.
        versions: for each change of tags, by its place among the faults, the version that it made.
        start: the traffic before anything was measured.
    """
    samples: Samples = {name: [] for name in MEASURES}
    _measure_traffic(scenario, world, start, samples)
    samples["false_deaths"].append(float(len(world.false_deaths)))
    minutes = (scenario.seconds - scenario.settle) / 60
    samples["suspicions"].append(len(world.suspicions) / scenario.nodes / minutes)
    if scenario.start == "joining":
        samples["complete"].append(_until_complete(world, 0.0, 0.0))
    for place, fault in enumerate(scenario.faults):
        _measure_fault(fault, world, versions.get(place, 0), samples)
    return {name: found for name, found in samples.items() if found}


def _measure_traffic(scenario: Scenario, world: World, start: Traffic, samples: Samples) -> None:
    now, divisor = world.network.traffic, scenario.nodes * (scenario.seconds - scenario.settle)
    streamed = now.stream_bytes - start.stream_bytes
    samples["datagrams"].append((now.datagrams - start.datagrams) / divisor)
    samples["stream_bytes"].append(streamed / divisor)
    samples["bytes"].append((now.bytes - start.bytes + streamed) / divisor)


def _measure_fault(fault: Fault, world: World, version: int, samples: Samples) -> None:
    match fault:
        case HostGone() | ProcessKilled() | Leave():
            _measure_end(fault, world, samples)
        case UpdateTags():
            samples["spread"] += _arrivals(fault, version, world)
        case Partition():
            _measure_partition(fault, world, samples)
        case Restart():
            last = fault.at + fault.within
            samples["complete"].append(_until_complete(world, last, last))
        case Block():
            samples["link_degraded"].append(float(_is_link_told(fault, world)))
        case BusyLoop():
            told = any(note.observer == fault.node and isinstance(note.event, LocalDegraded) for note in world.notes)
            samples["degraded"].append(float(told))


def _witnesses(world: World, subject: int) -> list[int]:
    return [host.number for host in world.live() if host.number != subject]


def _measure_end(fault: HostGone | ProcessKilled | Leave, world: World, samples: Samples) -> None:
    ends = (beliefs.LEFT,) if isinstance(fault, Leave) else (beliefs.FAILED,)
    since = world.log.since(fault.node, ends, after=fault.at)
    known = [since.get(number, math.inf) - fault.at for number in _witnesses(world, fault.node)]
    samples["known"] += known
    samples["all_know"].append(max(known, default=math.inf))
    if isinstance(fault, Leave):
        failed = any(c.subject == fault.node and c.state == beliefs.FAILED for c in world.log.changes())
        samples["failed_leavers"].append(float(failed))


def _arrivals(fault: UpdateTags, version: int, world: World) -> list[float]:
    first: dict[int, float] = {}
    for at, observer, subject, told in world.updates:
        if subject == fault.node and told >= version:
            first.setdefault(observer, at)
    return [first.get(number, math.inf) - fault.at for number in _witnesses(world, fault.node)]


def _since(moment: float | None, start: float) -> float:
    return math.inf if moment is None else moment - start


def _until_complete(world: World, start: float, after: float) -> float:
    boots = [world.hosts[number].local.boot_id if number in world.hosts else 0 for number in range(world.n_nodes)]
    live = [number in world.hosts and world.hosts[number].is_up for number in range(world.n_nodes)]

    def holds(change: Change) -> bool:
        return change.state == beliefs.ALIVE and change.boot_id == boots[change.subject]

    moment = world.log.first_moment(lambda o, s: live[o] and live[s], holds, after=after, initially=False)
    return _since(moment, start)


def _measure_partition(fault: Partition, world: World, samples: Samples) -> None:
    side = [number for number, size in enumerate(fault.groups) for _ in range(size)]
    end = fault.at + fault.seconds
    separate = world.log.first_moment(
        lambda o, s: side[o] != side[s],
        lambda change: change.state == beliefs.FAILED,
        after=fault.at,
        initially=False,
    )
    samples["separate"].append(_since(separate if separate is None or separate <= end else None, fault.at))
    healed = world.log.first_moment(
        lambda o, s: world.hosts[o].is_up and world.hosts[s].is_up,
        lambda change: change.state == beliefs.ALIVE,
        after=end,
        initially=world.log.converged,
    )
    samples["healed"].append(_since(healed, end))
    samples["minority"].append(_until_minority(fault, side, world))


def _until_minority(fault: Partition, side: Sequence[int], world: World) -> float:
    largest = fault.groups.index(max(fault.groups))
    said: dict[int, float] = {}
    for note in world.notes:
        is_told = isinstance(note.event, PartitionDetected) and note.event.status in _OF_FEWER
        if is_told and fault.at <= note.at <= fault.at + fault.seconds:
            said.setdefault(note.observer, note.at)
    inside = [number for number, group in enumerate(side) if group != largest]
    return max((said.get(number, math.inf) - fault.at for number in inside), default=math.nan)


def _is_link_told(fault: Block, world: World) -> bool:
    ends = {fault.source, fault.destination}
    return any(
        isinstance(note.event, LinkDegraded)
        and note.at >= fault.at
        and {note.observer, world.number(note.event.node.id)} == ends
        for note in world.notes
    )
