"""Instructions per call and per message of the hot path: a figure that does not depend on what else the machine does.

Client and server run in one process, over the simulated network, in virtual time, from one seed. Only what comes after
a warm-up is counted. ``perf stat`` counts where the processor lets it: two runs, with and without that, and the
difference. Otherwise ``valgrind`` does, which the run itself switches on and off. The figures are compared with those
in ``baseline.json`` of the same counter, Python and libraries; ``--update`` writes them there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import attrs
import trio
from measure import versions
from peering import check, message, messages
from workloads import PEERS

import rpcnet
from rpcnet.testing import SimulatedCluster
from rpcnet.testing import run as simulate

BASELINE = Path(__file__).resolve().parent / "baseline.json"
SEED = 1
SIZE = 64


@attrs.frozen
class Case:
    """One figure."""

    name: str
    """What the baseline calls it."""
    in_flight: int
    """Calls at a time; 0 for the messages of one stream instead."""
    warm_up: int
    """Calls or messages before those that are counted."""
    calls: int
    """Calls or messages that are counted."""


CASES = (
    Case("unary 64 B, 1 in flight", 1, 50, 200),
    Case("unary 64 B, 64 in flight", 64, 640, 2560),
    Case("server streaming of 64 B", 0, 500, 5000),
)
Counter = Callable[[Case], int]
"""Returns the instructions of a case's calls."""


@rpcnet.service
class Echo:
    """Gives back what it gets."""

    @rpcnet.rpc(idempotent=True)
    async def echo(self, data: bytes) -> bytes:
        """Return ``data``."""
        return data

    @rpcnet.rpc
    async def count(self, count: int, size: int) -> AsyncIterator[bytes]:
        """Yield messages."""
        async for value in messages(count, size):
            yield value


def play(case: Case, *, switches_valgrind: bool) -> None:
    """Make the calls of a case in a simulation; this is what is counted."""

    async def scenario(cluster: SimulatedCluster) -> None:
        client, _ = await cluster.start(2, services=lambda name: [Echo()] if name == "n1" else [])
        await cluster.converged()
        stub = client.node.stub(Echo)
        await _use(stub, case.in_flight, case.warm_up)
        if switches_valgrind:
            _switch("on")
        await _use(stub, case.in_flight, case.calls)
        if switches_valgrind:
            _switch("off")

    simulate(scenario, seed=SEED)


async def _use(stub: Echo, in_flight: int, count: int) -> None:
    if in_flight:
        await _call(stub, in_flight, count)
        return
    number = 0
    async with stub.count(count, SIZE) as values:
        async for value in values:
            check(number, value)
            number += 1
    if number != count:
        raise AssertionError(f"{number} messages of {count} arrived")


async def _call(stub: Echo, in_flight: int, count: int) -> None:
    numbers = iter(range(count))

    async def caller() -> None:
        for number in numbers:
            data = message(number, SIZE)
            if await stub.echo(data) != data:
                raise AssertionError("the answer is not what was sent")

    async with trio.open_nursery() as nursery:
        for _ in range(in_flight):
            nursery.start_soon(caller)


def _switch(instrumentation: str) -> None:
    subprocess.run(
        ["callgrind_control", "-i", instrumentation, str(os.getpid())], check=True, stdout=subprocess.DEVNULL
    )


def find_counter() -> tuple[str, Counter] | None:
    """Return the name of a tool that counts instructions here, and what counts with it."""
    if shutil.which("perf"):
        with contextlib.suppress(subprocess.CalledProcessError, ValueError):
            _perf([sys.executable, "-c", ""])
            return "perf", _count_by_perf
    if shutil.which("valgrind") and shutil.which("callgrind_control"):
        return "valgrind", _count_by_valgrind
    return None


def _count_by_perf(case: Case) -> int:
    return _perf(_command(case)) - _perf(_command(attrs.evolve(case, calls=0)))


def _perf(command: list[str]) -> int:
    done = subprocess.run(
        ["perf", "stat", "-x", ",", "-e", "instructions:u", "--", *command],
        env=_environment(),
        check=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = next((line for line in done.stderr.splitlines() if "instructions" in line), "")
    return int(line.partition(",")[0])


def _count_by_valgrind(case: Case) -> int:
    with tempfile.TemporaryDirectory() as directory:
        options = ["--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={directory}/out"]
        done = subprocess.run(
            ["valgrind", *options, *_command(case), "--switches-valgrind"],
            env=_environment(),
            check=False,
            stderr=subprocess.PIPE,
            text=True,
        )
    found = re.search(r"Collected\s*:\s*(\d+)", done.stderr)
    if found is None or done.returncode:
        raise SystemExit(f"valgrind said no number:\n{done.stderr}")
    return int(found[1])


def _command(case: Case) -> list[str]:
    return [sys.executable, __file__, "--play", json.dumps(attrs.asdict(case))]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONHASHSEED": "0"}


def measure(count: Counter) -> dict[str, int]:
    """Return the instructions of one call, by case."""
    found = {}
    for case in CASES:
        found[case.name] = round(count(case) / case.calls)
        print(f"{case.name}: {found[case.name]:,} instructions", file=sys.stderr, flush=True)
    return found


def key_of(counter: str) -> dict[str, str]:
    """Return what figures must have in common to be compared."""
    packages = [package for package in PEERS["rpcnet"].packages if package != "rpcnet"]
    return {"counter": counter, "processor": platform.machine(), **versions(packages)}


def compare(counter: str, found: dict[str, int], *, update: bool) -> None:
    """Print the figures with their difference to the baseline, and write a new baseline if asked to."""
    entries = json.loads(BASELINE.read_text(encoding="utf-8")) if BASELINE.exists() else []
    key = key_of(counter)
    before: dict[str, int] = next((entry["instructions"] for entry in entries if entry["key"] == key), {})
    print(f"instructions a call or message, client and server together, counted by {counter}")
    for name, instructions in found.items():
        known = before.get(name)
        said = (
            f"{instructions / known - 1:+.1%} to the baseline's {known:,}" if known else "no baseline of these versions"
        )
        print(f"  {name:<28}{instructions:>12,}   {said}")
    if update:
        entries = [entry for entry in entries if entry["key"] != key]
        entries.append({"key": key, "instructions": found})
        BASELINE.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
        print(f"written to {BASELINE}")


def main() -> None:
    """Count and compare; or, as the process that is counted, make the calls of a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="make the figures the baseline of these versions")
    parser.add_argument("--play", default="", help="a case as JSON: make its calls and count nothing")
    parser.add_argument("--switches-valgrind", action="store_true", help="with --play: only the calls are counted")
    options = parser.parse_args()
    if options.play:
        play(Case(**json.loads(options.play)), switches_valgrind=options.switches_valgrind)
        return
    counter = find_counter()
    if counter is None:
        print("neither 'perf stat -e instructions:u' nor valgrind works here: nothing is counted")
        return
    name, count = counter
    compare(name, measure(count), update=options.update)


if __name__ == "__main__":
    main()
