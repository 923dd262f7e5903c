"""What is fuzzed: every decoder of the suite's fuzz tests, and both ends of a connection against programs of steps.

A target takes any bytes. What it raises is a finding.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from random import Random

import attrs
import trio
import trio.testing

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "core"))

from _decoders import DECODERS
from _session_programs import against_a_client, against_a_server

__all__ = ["TARGETS", "Target"]

logging.getLogger("rpcnet").setLevel(logging.CRITICAL)  # else a line for every connection that is lost


@attrs.frozen(eq=False)
class Target:
    """One thing that is fuzzed."""

    run: Callable[[bytes], None]
    """Takes bytes; whatever it raises is a finding."""
    seeds: tuple[bytes, ...]
    """What the fuzzer begins from."""
    max_bytes: int
    """The longest input."""
    weight: int = 1
    """Its share of the time."""


def _play(program: Callable[[bytes], Awaitable[None]], steps: bytes) -> None:
    trio.run(program, steps, clock=trio.testing.MockClock(autojump_threshold=0))


_PROGRAMS = tuple(Random(seed).randbytes(200) for seed in range(50))

TARGETS: Mapping[str, Target] = {
    **{
        name.replace(" ", "-"): Target(decoder.survive, decoder.seeds, max_bytes=2048)
        for name, decoder in DECODERS.items()
    },
    "server-session": Target(functools.partial(_play, against_a_server), _PROGRAMS, max_bytes=600, weight=5),
    "client-session": Target(functools.partial(_play, against_a_client), _PROGRAMS, max_bytes=600, weight=5),
}
"""Everything that is fuzzed, by name."""
