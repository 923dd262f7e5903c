"""One session: every workload with all its peers in turn, each round with a fresh server and a fresh client."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import attrs
import cattrs
from measure import Load, median_load
from peering import Settings
from workloads import PEERS, Workload

__all__ = ["PeerFailed", "Result", "Session"]

HERE = Path(__file__).resolve().parent
PATIENCE_SECONDS = 240.0
"""A load that takes this much longer than it should has failed."""

_converter = cattrs.Converter()


class PeerFailed(Exception):
    """A program of a peer ended without a result."""


@attrs.frozen
class Result:
    """What one peer showed under one workload."""

    workload: Workload
    """What was asked of it."""
    peer: str
    """Its name."""
    rounds: tuple[Load, ...]
    """Every round that succeeded."""
    failures: tuple[str, ...] = ()
    """Why one did not; the peer has no further turn then."""

    @property
    def median(self) -> Load | None:
        """The median of all rounds; None if every one failed."""
        return median_load(self.rounds) if self.rounds else None


@attrs.frozen(kw_only=True)
class Session:
    """Runs workloads."""

    directory: Path
    """Where the certificates of the session are."""
    rounds: int
    """How often each peer has its turn."""
    seconds: float
    """How long each is measured."""

    def run(self, workload: Workload, peers: Sequence[str]) -> list[Result]:
        """Let the peers take turns (A B A B); say so as it goes."""
        loads: dict[str, list[Load]] = {peer: [] for peer in peers}
        failures: dict[str, list[str]] = {peer: [] for peer in peers}
        for number in range(1, (workload.rounds or self.rounds) + 1):
            for peer in [peer for peer in peers if not failures[peer]]:
                try:
                    load = self.measure(workload, peer)
                except PeerFailed as failure:
                    failures[peer].append(str(failure))
                    said = f"failed: {failure}"
                else:
                    loads[peer].append(load)
                    said = f"{load.rate:,.0f} {workload.unit}/s"
                print(f"{workload.name}, round {number}, {peer}: {said}", file=sys.stderr, flush=True)
        return [Result(workload, peer, tuple(loads[peer]), tuple(failures[peer])) for peer in peers]

    def measure(self, workload: Workload, peer: str) -> Load:
        """Start a server and a load on it, wait for the load, and return what it measured.

        Raises:
            PeerFailed: one of the two ended without a result, or took too long.
        """
        settings = Settings(
            workload=workload.load,
            directory=self.directory,
            variant=PEERS[peer].variant,
            in_flight=workload.in_flight,
            size=workload.size,
            count=workload.count,
            seconds=max(self.seconds, workload.least_seconds),
        )
        environment = {**os.environ, "PYTHONTRACEMALLOC": "1"} if workload.is_traced else dict(os.environ)
        program = HERE / PEERS[peer].file
        with _running(program, "serve", settings, environment) as server:
            output: IO[str] | None = server.stdout
            line = output.readline() if output is not None else ""
            if not line:
                raise PeerFailed(f"the server ended with code {server.wait()} and said nothing")
            settings = attrs.evolve(settings, address=json.loads(line)["address"])
            with _running(program, "load", settings, environment) as load:
                return _wait(load, PATIENCE_SECONDS + settings.seconds)


@contextlib.contextmanager
def _running(
    program: Path, role: str, settings: Settings, environment: dict[str, str]
) -> Iterator[subprocess.Popen[str]]:
    said = json.dumps(_converter.unstructure(settings))
    arguments = [sys.executable, str(program), role, said]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def _wait(load: subprocess.Popen[str], patience: float) -> Load:
    try:
        said, _ = load.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        raise PeerFailed(f"the load was not done after {patience:.0f} s") from None
    if load.returncode or not said:
        raise PeerFailed(f"the load ended with code {load.returncode}")
    return _converter.structure(json.loads(said), Load)
