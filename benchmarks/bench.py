"""rpcnet and its peers in one session, printed as one table and written as JSON. Run it with ``make bench``.

Every figure is the median over the rounds; peers take turns (A B A B), each round with a fresh server process and a
fresh client process. See README.md in this directory.
"""

from __future__ import annotations

import argparse
import os
import resource
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from budgets import verdicts
from certificates import make_certificates
from measure import steal
from report import medians, save, table
from session import Result, Session
from workloads import PARTS, PEERS, WORKLOADS

SOAK_GROWTH_BYTES = 4 << 20
"""Either side of a soak may grow by this much in the last nine tenths of its calls: 4.7 bytes a call."""


@attrs.frozen
class _Moment:
    """What the machine and this session's processes had used."""

    at: float
    stolen: int
    ticks: int
    busy_seconds: float
    own_seconds: float

    @classmethod
    def now(cls) -> _Moment:
        stolen, ticks = steal()
        own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return cls(time.monotonic(), stolen, ticks, _busy_seconds(), sum(used.ru_utime + used.ru_stime for used in own))


def _busy_seconds() -> float:
    try:
        ticks = [int(number) for number in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except OSError:
        return 0.0
    user, nice, system, _idle, _waiting, hard, soft, _stolen = ticks
    return (user + nice + system + hard + soft) / os.sysconf("SC_CLK_TCK")


def conditions_between(before: _Moment, after: _Moment, options: argparse.Namespace) -> dict[str, Any]:
    """Return how the session was run, and what others took of the processors meanwhile."""
    elapsed = (after.at - before.at) * (os.cpu_count() or 1)
    others = (after.busy_seconds - before.busy_seconds) - (after.own_seconds - before.own_seconds)
    return {
        "parts": options.only,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "stolen_share": (after.stolen - before.stolen) / max(after.ticks - before.ticks, 1),
        "others_share": max(others, 0.0) / max(elapsed, 1e-9),
        "session_seconds": after.at - before.at,
    }


def check_soak(results: Sequence[Result]) -> list[str]:
    """Return a sentence for each side of a soak whose memory grew by more than it may."""
    said = []
    for result in results:
        load = result.median
        if result.workload.load != "soak" or load is None:
            continue
        for name, side in (("client", load.client), ("server", load.server)):
            before, after = side.rss_bytes - side.rss_growth, side.rss_bytes
            print(
                f"soak, {result.peer}, {name}: {before / 2**20:.1f} MB at 10 % of {result.workload.count:,} calls, "
                f"{after / 2**20:.1f} MB at 100 %; may grow by {SOAK_GROWTH_BYTES / 2**20:g} MB"
            )
            if side.rss_growth > SOAK_GROWTH_BYTES:
                said.append(f"the {name} of the soak grew by {side.rss_growth / 2**20:.1f} MB")
    return said


def parse() -> argparse.Namespace:
    """Return what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, with commas between: {','.join(PARTS)}")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"peers, with commas between: {','.join(PEERS)}")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each peer")
    parser.add_argument("--seconds", type=float, default=2.0, help="of measuring, per turn, after a warm-up of one")
    parser.add_argument("--no-save", action="store_true", help="print the table only")
    options = parser.parse_args()
    for name, known in (("only", PARTS), ("peers", tuple(PEERS))):
        chosen = [word.strip() for word in getattr(options, name).split(",")]
        if unknown := sorted(set(chosen) - set(known)):
            parser.error(f"--{name}: no {', '.join(unknown)}; there are {', '.join(known)}")
        setattr(options, name, chosen)
    return options


def run(options: argparse.Namespace) -> list[Result]:
    """Run every workload asked for."""
    os.environ["RPCNET_SECRET"] = secrets.token_urlsafe(32)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as directory:
        make_certificates(Path(directory))
        session = Session(directory=Path(directory), rounds=options.rounds, seconds=options.seconds)
        for workload in WORKLOADS:
            peers = [peer for peer in workload.peers if peer in options.peers]
            if workload.part in options.only and peers:
                results += session.run(workload, peers)
    return results


def main() -> None:
    """Measure, print the table, write the file."""
    options = parse()
    before = _Moment.now()
    results = run(options)
    conditions = conditions_between(before, _Moment.now(), options)
    lines = verdicts(medians(results))
    print(table(results))
    if lines:
        print("\nbudgets", *lines, sep="\n  ")
    minutes = conditions["session_seconds"] / 60
    print(
        f"\nmedians of {options.rounds} rounds of {options.seconds:g} s, in {minutes:.1f} min; "
        f"{conditions['stolen_share']:.1%} of the processors' time was stolen, "
        f"{conditions['others_share']:.1%} went to other programs"
    )
    grown = check_soak(results)
    if not options.no_save:
        print(f"written to {save(results, conditions, lines)}")
    failed = [f"{result.peer}: {result.workload.name}: {why}" for result in results for why in result.failures]
    if grown or failed:
        sys.exit("\n".join([*grown, *failed]))


if __name__ == "__main__":
    main()
