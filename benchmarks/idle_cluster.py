"""What an idle cluster of real processes costs, and how soon it knows of the dead.

Every node is a process of its own with one UDP socket on loopback. All join, all keep still, and what they send and
compute meanwhile is counted; then some are killed at once, and it is measured until every other one lists them as
failed. Nothing is asserted: the exit code is 0 unless a node was declared failed that was not, or a death was missed.

Processes are forked from one that has imported everything, so that two cores can start fifty of them.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import trio
from measure import machine, quantile

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "realnet"))

from _crowd import Crowd, Member, Process, crowd, forked
from _member import Start, main

HEADER_BYTES = 28
"""What IPv4 and UDP add to a datagram."""
FIRST = 3
"""How many nodes there are when memory is measured for the first time."""
PATIENCE = 120.0
"""Seconds after which a step has failed; nothing takes that long when things are well."""


@attrs.frozen(kw_only=True)
class Plan:
    """What is measured."""

    nodes: int
    seconds: float
    settle: float
    kill: int
    wave: int
    profile: str


@attrs.frozen(kw_only=True)
class Figures:
    """What was measured; rates are per node and second."""

    nodes: int
    seconds: float
    datagrams: float
    payload_bytes: float
    """Of UDP, sent; as much is received."""
    wire_bytes: float
    """With the headers of IPv4 and UDP."""
    wire_bytes_max: float
    """Of the node that sent most."""
    membership_datagrams: float
    """Without QUIC, by which nodes join and compare what they know."""
    membership_bytes: float
    """Before sealing, which adds 36."""
    cpu_share: float
    """Of one core, the mean of all nodes."""
    cpu_share_max: float
    rss_bytes: int
    """Resident memory of a node, the median; most of it is shared with the others here."""
    own_bytes: int
    """What a node shares with nobody."""
    member_object_bytes: float | None
    """Growth of a node's objects per member from the first nodes to all, but for connections; as tracemalloc counts."""
    member_rss_bytes: float | None
    """Growth of a node's resident memory per member, with the connections open just then and the allocator's gaps."""
    killed: tuple[str, ...]
    known_p50: float | None
    """Seconds from a kill until one other node lists the dead one as failed."""
    known_p95: float | None
    known_max: float | None
    all_know_p50: float | None
    """Seconds until all others do, of those killed."""
    refusals: int
    """Datagrams of which the network said that nobody listens where they went."""
    falsely_failed: tuple[str, ...]
    """Nodes that were declared failed though they lived."""
    not_noticed: int
    """Pairs of an observer and a dead node that it does not list as failed."""


class Measurement:
    """One run.

    Args:
        plan: what is measured.
        found: the members, none yet.
        processes: as many processes as nodes.
    """

    def __init__(self, plan: Plan, found: Crowd, processes: Sequence[Process]) -> None:
        self._plan = plan
        self._crowd = found
        self._processes = processes

    async def run(self) -> Figures:
        """Let them join, keep still, and die."""
        plain, traced = await self._first()
        before = [await self._crowd.ask(member, "memory") for member in (plain, traced)]
        await self._others()
        say(f"{self._plan.nodes} nodes know each other; settling for {self._plan.settle:.0f} s")
        await trio.sleep(self._plan.settle)
        quiet = await self._keep_still([member for member in self._members if member is not traced])
        say("measuring memory")
        after = [await self._crowd.ask(member, "memory") for member in (plain, traced)]
        held = [await self._crowd.ask(member, "memory") for member in self._members if member is not traced]
        await self._crowd.ask(traced, "stop tracing")
        await trio.sleep(self._plan.settle)  # until those that were held up by the measurement are as they were
        grown = after[0]["rss_bytes"] - before[0]["rss_bytes"]
        objects = [each["object_bytes"] - each["connection_bytes"] for each in (before[1], after[1])]
        added = self._plan.nodes - FIRST
        return Figures(
            nodes=self._plan.nodes,
            **quiet,
            rss_bytes=round(statistics.median(each["rss_bytes"] for each in held)),
            own_bytes=round(statistics.median(each["own_bytes"] for each in held)),
            member_object_bytes=(objects[1] - objects[0]) / added if added else None,
            member_rss_bytes=grown / added if added else None,
            **await self._kill([member for member in self._members if member not in (plain, traced)]),
        )

    @property
    def _members(self) -> list[Member]:
        return list(self._crowd.members.values())

    async def _first(self) -> tuple[Member, Member]:
        """Start the first nodes; return two of them: one that is like all others, and one that counts its objects."""
        seed = await self._start(0)
        await self._crowd.until(lambda: bool(seed.address), PATIENCE, "the first node")
        plain, traced = await self._start(1, seed.address), await self._start(2, seed.address, is_traced=True)
        await self._all_alive()
        await trio.sleep(2.0)
        return plain, traced

    async def _others(self) -> None:
        seed = self._members[0].address
        for begin in range(FIRST, self._plan.nodes, self._plan.wave):
            for number in range(begin, min(begin + self._plan.wave, self._plan.nodes)):
                await self._start(number, seed)
            await self._all_alive()
            say(f"{len(self._members)} of {self._plan.nodes} nodes have joined")

    async def _start(self, number: int, *seeds: str, is_traced: bool = False) -> Member:
        start = Start(name=f"n{number}", seeds=seeds, is_traced=is_traced)
        return await self._crowd.start(self._processes[number], start)

    async def _all_alive(self) -> None:
        await self._crowd.until(self._crowd.all_alive(), PATIENCE, f"{len(self._members)} nodes that know each other")

    async def _keep_still(self, members: Sequence[Member]) -> dict[str, Any]:
        """Return what the nodes sent and computed while nothing happened."""
        say(f"keeping still for {self._plan.seconds:.0f} s")
        before = [await self._crowd.ask(member, "statistics") for member in members]
        await trio.sleep(self._plan.seconds)
        after = [await self._crowd.ask(member, "statistics") for member in members]
        pairs = list(zip(before, after, strict=True))

        def rates(group: str, key: str) -> list[float]:
            return [(b[group][key] - a[group][key]) / (b["at"] - a["at"]) for a, b in pairs]

        sent, payload = rates("port", "datagrams_sent"), rates("port", "bytes_sent")
        wire = [size + HEADER_BYTES * count for size, count in zip(payload, sent, strict=True)]
        shares = [(b["cpu_seconds"] - a["cpu_seconds"]) / (b["at"] - a["at"]) for a, b in pairs]
        return {
            "seconds": self._plan.seconds,
            "datagrams": statistics.mean(sent),
            "payload_bytes": statistics.mean(payload),
            "wire_bytes": statistics.mean(wire),
            "wire_bytes_max": max(wire),
            "membership_datagrams": statistics.mean(rates("membership", "sent")),
            "membership_bytes": statistics.mean(rates("membership", "sent_bytes")),
            "cpu_share": statistics.mean(shares),
            "cpu_share_max": max(shares),
        }

    async def _kill(self, candidates: Sequence[Member]) -> dict[str, Any]:
        """Kill some nodes at once and return how soon the others knew."""
        dead = candidates[-self._plan.kill :] if self._plan.kill else []
        alive = [member for member in self._members if member not in dead]
        say(f"killing {', '.join(member.name for member in dead) or 'nobody'}")
        killed_at = {member.name: member.signal(signal.SIGKILL) for member in dead}
        is_over = self._crowd.all_believe(alive, dead, "failed")
        try:
            await self._crowd.until(is_over, PATIENCE, "everybody to know of the dead")
        except AssertionError as error:
            say(str(error))
        await trio.sleep(5.0 if dead else 0.0)  # whether somebody else is declared failed in the wake of it
        waits = {
            name: [event["at"] - at for member in alive for event in member.told("NodeFailed", node=name)[:1]]
            for name, at in killed_at.items()
        }
        pairs, complete = sorted(wait for each in waits.values() for wait in each), sorted(map(max, waits.values()))
        counters = [await self._crowd.ask(member, "statistics") for member in alive]
        return {
            "killed": tuple(killed_at),
            "known_p50": quantile(pairs, 0.5),
            "known_p95": quantile(pairs, 0.95),
            "known_max": pairs[-1] if pairs else None,
            "all_know_p50": quantile(complete, 0.5),
            "refusals": sum(each["port"]["refusals"] for each in counters),
            "falsely_failed": tuple(sorted({name for name, _ in self._crowd.failed() if name not in killed_at})),
            "not_noticed": len(alive) * len(dead) - len(pairs),
        }


def say(what: str) -> None:
    """Tell a person how far it is; standard output is for the result."""
    print(what, file=sys.stderr, flush=True)


def table(figures: Figures) -> str:
    """Return required and measured side by side."""

    def seconds(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f} s"

    def size(value: float | None) -> str:
        return "-" if value is None else f"{value / 1e3:,.2f} KB"

    rows = [
        ("sent per node and second, UDP payload", "", f"{figures.payload_bytes:,.0f} B"),
        ("the same with IPv4 and UDP headers", "<= 600 B", f"{figures.wire_bytes:,.0f} B"),
        ("of the node that sent most", "", f"{figures.wire_bytes_max:,.0f} B"),
        ("datagrams sent per node and second", "", f"{figures.datagrams:.2f}"),
        ("of these membership's own", "", f"{figures.membership_datagrams:.2f}"),
        ("processor per idle node", "< 1 %", f"{figures.cpu_share:.2%}"),
        ("of the busiest node", "", f"{figures.cpu_share_max:.2%}"),
        ("objects per tracked member", "< 3 KB", size(figures.member_object_bytes)),
        ("growth of resident memory per tracked member", "", size(figures.member_rss_bytes)),
        (
            "resident memory of a node, of which its own",
            "",
            f"{figures.rss_bytes / 1e6:.1f}, {figures.own_bytes / 1e6:.1f} MB",
        ),
        ("killed on a live host: known to one other, p50", "<= 3.5 s at N=10", seconds(figures.known_p50)),
        ("known to one other, p95", "<= 6 s at N=10", seconds(figures.known_p95)),
        ("known to all others, p50 of the dead", "", seconds(figures.all_know_p50)),
        ("known to all others, max", "", seconds(figures.known_max)),
        ("nodes falsely declared failed", "0", str(len(figures.falsely_failed))),
        ("deaths not noticed by somebody", "0", str(figures.not_noticed)),
    ]
    head = f"{figures.nodes} processes, {figures.seconds:.0f} s idle, {len(figures.killed)} killed"
    return "\n".join([f"{head:<54}{'required':>18}{'measured':>18}", *(f"{a:<54}{b:>18}{c:>18}" for a, b, c in rows)])


async def measure(plan: Plan, processes: Sequence[Process]) -> Figures:
    """Carry a plan out."""
    async with crowd(plan.profile) as found:
        return await Measurement(plan, found, processes).run()


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description="Measure an idle cluster of real processes on this host.")
    parser.add_argument("--nodes", type=int, default=50, help="processes; at least 4 more than are killed")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long they keep still")
    parser.add_argument("--settle", type=float, default=10.0, help="seconds before that, and before they are killed")
    parser.add_argument("--kill", type=int, default=5, help="how many are killed at once")
    parser.add_argument("--wave", type=int, default=8, help="how many are started at a time")
    parser.add_argument("--profile", choices=("local", "lan", "wan"), default="lan")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, the table to stderr")
    given = parser.parse_args()
    if given.nodes < given.kill + FIRST + 1 or given.kill < 0:
        parser.error(f"--nodes: must be at least {FIRST + 1} more than are killed")
    return given


def run() -> int:
    """Measure, print, and say by the exit code whether the detector was right."""
    given = arguments()
    os.environ.setdefault("RPCNET_SECRET", secrets.token_urlsafe(32))
    plan = Plan(
        nodes=given.nodes,
        seconds=given.seconds,
        settle=given.settle,
        kill=given.kill,
        wave=given.wave,
        profile=given.profile,
    )
    began = time.monotonic()
    with forked(plan.nodes, main) as processes:
        figures = trio.run(measure, plan, processes)
    say(f"done after {time.monotonic() - began:.0f} s")
    if given.json:
        say(table(figures))
        print(json.dumps({"machine": machine(), **attrs.asdict(figures)}, indent=2))
    else:
        print(table(figures))
    return 1 if figures.falsely_failed or figures.not_noticed else 0


if __name__ == "__main__":
    sys.exit(run())
