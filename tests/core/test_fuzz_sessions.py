"""Either end of a connection against a peer that knows the protocol and keeps to none of its rules."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from random import Random

import pytest
import trio
import trio.testing
from _session_programs import against_a_client, against_a_server
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    """Write no line for every connection that a program loses."""
    logger = logging.getLogger("rpcnet.rpc")
    before, logger.level = logger.level, logging.CRITICAL
    yield
    logger.level = before


def play(program: Callable[[bytes], Awaitable[None]], steps: bytes) -> None:
    trio.run(program, steps, clock=trio.testing.MockClock(autojump_threshold=0))


programs = st.binary(min_size=20, max_size=500)


@given(programs)
@settings(max_examples=80)
def test_no_client_makes_a_server_fail_or_remember_anything(steps: bytes) -> None:
    play(against_a_server, steps)


@given(programs)
@settings(max_examples=80)
def test_no_server_makes_a_client_fail_or_remember_anything(steps: bytes) -> None:
    play(against_a_client, steps)


@pytest.mark.parametrize("program", [against_a_server, against_a_client])
def test_long_programs_of_chance_are_survived_as_well(program: Callable[[bytes], Awaitable[None]]) -> None:
    for seed in range(40):
        play(program, Random(seed).randbytes(900))
