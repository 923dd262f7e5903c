"""Unary calls: one server process, one client process, loopback, a 64-byte echo. Run it with ``make bench``.

Every figure is the median over the rounds; peers take turns (A B A B), each round with a fresh server and a fresh
client per number of calls in flight. See README.md in this directory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import attrs
from measure import Load, machine, median_load, steal, versions

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PACKAGES = ("rpcnet", "trio", "aioquic", "attrs", "cattrs", "cbor2", "cryptography", "grpcio")
SATURATED = 0.9
"""A side that used more of one core than this was the limit."""


@attrs.frozen
class Peer:
    """One library under test: how its programs are called."""

    name: str
    """What the table calls it."""
    program: str
    """The file in this directory."""
    options: tuple[str, ...] = ()
    """Arguments of server and load."""
    load_options: tuple[str, ...] = ()
    """Arguments of the load only."""


@attrs.frozen
class Result:
    """What one peer showed at one number of calls in flight."""

    peer: str
    """Its name."""
    median: Load
    """The median of all rounds."""
    rounds: tuple[Load, ...]
    """Every round."""


def _start(peer: Peer, role: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(HERE / peer.program), role, *peer.options, *options], stdout=subprocess.PIPE, text=True
    )


def _line(process: subprocess.Popen[str], what: str) -> str:
    output: IO[str] | None = process.stdout
    line = output.readline() if output is not None else ""
    if not line:
        raise SystemExit(f"{what} ended with code {process.wait()} and said nothing")
    return line


@contextlib.contextmanager
def _running(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    with process:
        try:
            yield process
        finally:
            process.kill()


def measure(peer: Peer, in_flight: int, seconds: float) -> Load:
    """Start a server and a load on it, wait for both, and return what the load measured."""
    with _running(_start(peer, "serve")) as server:
        address = json.loads(_line(server, f"the server of {peer.name}"))["address"]
        options = ("--address", address, "--in-flight", str(in_flight), "--seconds", str(seconds), *peer.load_options)
        with _running(_start(peer, "load", *options)) as load:
            return Load(**json.loads(_line(load, f"the load on {peer.name}")))


def run_rounds(peers: Sequence[Peer], concurrency: Sequence[int], rounds: int, seconds: float) -> list[Result]:
    """Let the peers take turns at each number of calls in flight; say so as it goes."""
    results = []
    for in_flight in concurrency:
        found: dict[str, list[Load]] = {peer.name: [] for peer in peers}
        for number in range(1, rounds + 1):
            for peer in peers:
                load = measure(peer, in_flight, seconds)
                found[peer.name].append(load)
                said = f"{in_flight:5} in flight, round {number}, {peer.name}: {load.rate:,.0f} calls/s"
                print(said, file=sys.stderr, flush=True)
        results += [Result(name, median_load(loads), tuple(loads)) for name, loads in found.items()]
    return results


def table(results: Sequence[Result]) -> str:
    """Return the results as a table; the ratio is that of calls per second to the last peer's."""
    last = {result.median.in_flight: result.median.rate for result in results}
    heads = ("in flight", "peer", "calls/s", "ratio", "p50 us", "p99 us", "us/call client", "server", "RSS client")
    lines = ["{:>9}  {:<16}{:>10}{:>8}{:>10}{:>10}{:>16}{:>8}{:>13}{:>10}  limit".format(*heads, "server")]
    for result in results:
        load = result.median
        lines.append(
            f"{load.in_flight:>9}  {result.peer:<16}{load.rate:>10,.0f}{load.rate / last[load.in_flight]:>8.2f}"
            f"{load.p50 * 1e6:>10,.0f}{load.p99 * 1e6:>10,.0f}"
            f"{load.client_cpu_per_call * 1e6:>16,.1f}{load.server_cpu_per_call * 1e6:>8,.1f}"
            f"{load.client_rss / 2**20:>10,.0f} MB{load.server_rss / 2**20:>7,.0f} MB  {limit(load)}"
        )
    return "\n".join(lines)


def limit(load: Load) -> str:
    """Return which side had no processor time left."""
    sides = {"client": load.client_cpu, "server": load.server_cpu}
    return " and ".join(side for side, cpu in sides.items() if cpu / load.seconds > SATURATED) or "neither"


def make_peers(names: Sequence[str], through: Sequence[str], directory: Path) -> list[Peer]:
    """Return rpcnet, once for each way through it, and the peers asked for, with what they need made ready."""
    peers = [Peer(f"rpcnet {way}", "rpcnet_peer.py", load_options=("--through", way)) for way in through]
    if "grpc" in names:
        grpc = Peer("grpc.aio", "grpc_peer.py", ("--directory", str(directory)))
        with _start(grpc, "certificates") as making:
            failed = making.wait()
        if failed:
            raise SystemExit("grpc_peer.py could not make certificates; is the extra 'bench' installed?")
        peers.append(grpc)
    return peers


def save(results: Sequence[Result], options: argparse.Namespace, stolen: float) -> Path:
    """Write everything to a file of its own under ``results/``; return it."""
    data = {
        "benchmark": "unary",
        "machine": machine(),
        "versions": versions(PACKAGES),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "payload_bytes": 64,
        "stolen_share": stolen,
        "results": [attrs.asdict(result) for result in results],
    }
    RESULTS.mkdir(exist_ok=True)
    stamp = str(machine()["date"]).replace(":", "").removesuffix("+0000")
    path = RESULTS / f"unary-{stamp}.json"
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return path


def main() -> None:
    """Measure, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="*", choices=["grpc"], default=[], help="what to compare with")
    parser.add_argument(
        "--through",
        nargs="+",
        choices=["client", "pinned"],
        default=["client"],
        help="through a ClusterClient with least connections, or a stub pinned to the server's node",
    )
    parser.add_argument("--in-flight", nargs="+", type=int, default=[1, 64, 512])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of measuring, per round, after a warm-up of one")
    parser.add_argument("--no-save", action="store_true", help="print the table only")
    options = parser.parse_args()
    os.environ["RPCNET_SECRET"] = secrets.token_urlsafe(32)
    stolen_before, ticks_before = steal()
    with tempfile.TemporaryDirectory() as directory:
        peers = make_peers(options.peers, options.through, Path(directory))
        results = run_rounds(peers, options.in_flight, options.rounds, options.seconds)
    stolen, ticks = steal()
    share = (stolen - stolen_before) / max(ticks - ticks_before, 1)
    print(table(results))
    print(
        f"medians of {options.rounds} rounds of {options.seconds:g} s; {share:.1%} of the processors' time was stolen"
    )
    if not options.no_save:
        print(f"written to {save(results, options, share).relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
