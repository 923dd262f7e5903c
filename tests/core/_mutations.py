"""Campaigns of mutated membership messages against every decoder and against a machine that lives on."""

from __future__ import annotations

import random
from collections import Counter

from _decoders import DECODERS, member_of_the_bench, mutate

from rpcnet._core.messages import MessageError, decode_datagram
from rpcnet._core.swim import SendDatagram, SwimMachine

__all__ = ["MEMBERSHIP", "run_decoders", "run_machine"]

MEMBERSHIP = ("datagrams", "user strings", "exchange requests", "exchange answers", "bodies of tags")
"""The decoders of membership."""

_LIFETIME = 500
_NASTY = (
    b"\x00",
    b"\xff",
    b"\x7f\xff\xff\xff",
    b"\xff" * 8,
    b"\x80\x00\x00\x00",
    b"\x7c\x00",
    b"\xfc\x00",
    b"\xa1aaab",
)


def _mutated(seeds: tuple[bytes, ...], rng: random.Random) -> bytes:
    """Change a real encoding in up to three places: a bit, a few bytes, a piece of another one, or its end."""
    data = rng.choice(seeds)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(5):
            case 0 if at < len(data):
                data = mutate(data, [(at, 1, bytes([data[at] ^ 1 << rng.randrange(8)]))])
            case 1:
                data = mutate(data, [(at, rng.randrange(6), rng.randbytes(rng.randrange(6)))])
            case 2:
                piece = rng.choice(_NASTY)
                data = mutate(data, [(at, len(piece), piece)])
            case 3:
                other = rng.choice(seeds)
                start = rng.randrange(len(other))
                data = mutate(data, [(at, rng.randrange(40), other[start : start + rng.randrange(60)])])
            case _:
                data = data[:at]
    return data


def run_decoders(count: int, seed: int) -> Counter[str]:
    """Hand ``count`` mutated messages to the decoders in turn; return how many of each were valid."""
    rng, valid = random.Random(seed), Counter[str]()
    for number in range(count):
        name = MEMBERSHIP[number % len(MEMBERSHIP)]
        decoder = DECODERS[name]
        try:
            decoder.read(_mutated(decoder.seeds, rng))
        except MessageError:
            continue
        valid[name] += 1
    return valid


def run_machine(count: int, seed: int) -> int:
    """Hand ``count`` mutated datagrams to machines, each for a while; return how many were valid.

    One that raises has changed nothing; after one that does not, all that the machine says can be read.
    """
    rng, seeds = random.Random(seed), DECODERS["membership machine"].seeds
    swim, valid, now = member_of_the_bench(), 0, 1.0
    for number in range(count):
        if number % _LIFETIME == 0:
            swim, now = member_of_the_bench(), 1.0
        now += rng.choice((0.0, 0.01, 0.3))
        before = _state(swim)
        try:
            effects = swim.handle_datagram(_mutated(seeds, rng), rng.choice(("ab:1", "a:1", "cd:1")), now)
        except MessageError:
            assert _state(swim) == before, f"datagram {number} of seed {seed} raised and changed something"
            continue
        valid += 1
        if valid % 10 == 0:
            effects = [*effects, *swim.on_timer(now)]
        for effect in effects:
            if isinstance(effect, SendDatagram):
                decode_datagram(effect.payload)
    return valid


def _state(swim: SwimMachine) -> object:
    """Return what a datagram may change, without going through all members."""
    return (
        id(swim.records()),
        id(swim.members()),
        swim.hashes.encode(),
        swim.next_timer(),
        swim.has_lost_name,
        (len(swim._queue), len(swim._refreshes), len(swim._checks), len(swim._desk._relays)),
    )
