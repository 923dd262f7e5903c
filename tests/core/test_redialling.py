"""When an address that could not be reached is dialled again."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcnet._core.redialling import DialKey, Redialling
from rpcnet.errors import Unavailable

KEY: DialKey = ("10.0.0.1:7946", "a")
OTHER: DialKey = ("10.0.0.2:7946", "b")

SILENCE = Unavailable("nobody answered")


def make(shortest: float = 0.1, longest: float = 10.0, seed: int = 1) -> Redialling:
    return Redialling(shortest, longest, Random(seed))


def test_an_address_that_never_failed_is_dialled_at_once() -> None:
    redialling = make()
    assert not redialling.unreachable
    assert KEY not in redialling.unreachable
    assert redialling.pause(KEY, now=5.0) == 0.0
    assert redialling.failures(KEY) == 0
    assert redialling.error(KEY) is None


def test_a_failed_address_is_left_alone_for_a_while_and_then_dialled_although_it_is_still_unreachable() -> None:
    redialling = make()
    redialling.failed(KEY, SILENCE, now=5.0)
    assert 0.05 <= redialling.pause(KEY, now=5.0) <= 0.1
    assert redialling.pause(KEY, now=5.1) == 0.0
    assert KEY in redialling.unreachable
    assert redialling.error(KEY) is SILENCE
    assert OTHER not in redialling.unreachable


@given(failures=st.integers(1, 100), seed=st.integers(0, 1000))
def test_the_pause_doubles_up_to_the_longest_and_at_most_half_of_it_is_left_to_chance(failures: int, seed: int) -> None:
    redialling = make(seed=seed)
    for _ in range(failures):
        redialling.failed(KEY, SILENCE, now=0.0)
    longest = min(10.0, 0.1 * 2 ** (failures - 1))
    assert longest / 2 <= redialling.pause(KEY, now=0.0) <= longest
    assert redialling.failures(KEY) == failures


def test_two_that_lost_the_same_server_come_back_at_different_times() -> None:
    pauses = set()
    for seed in range(20):
        redialling = make(seed=seed)
        redialling.failed(KEY, SILENCE, now=0.0)
        pauses.add(redialling.pause(KEY, now=0.0))
    assert len(pauses) == 20


def test_a_dial_that_works_makes_the_address_as_good_as_new() -> None:
    redialling = make()
    for _ in range(9):
        redialling.failed(KEY, SILENCE, now=0.0)
    redialling.succeeded(KEY)
    assert not redialling.unreachable
    redialling.failed(KEY, SILENCE, now=0.0)
    assert redialling.pause(KEY, now=0.0) <= 0.1


def test_another_one_of_the_same_name_does_not_inherit_the_failures() -> None:
    redialling = make()
    redialling.failed(KEY, SILENCE, now=0.0)
    redialling.failed(OTHER, SILENCE, now=0.0)
    redialling.failed((OTHER[0], None), SILENCE, now=0.0)
    redialling.forget("b")
    assert OTHER not in redialling.unreachable
    assert KEY in redialling.unreachable
    assert (OTHER[0], None) in redialling.unreachable


@pytest.mark.parametrize("again", [True, False])
def test_a_bounded_number_of_addresses_is_remembered_and_the_oldest_failure_goes_first(again: bool) -> None:
    redialling = make()
    for number in range(4096):
        redialling.failed((f"10.0.0.1:{number}", None), SILENCE, now=0.0)
    if again:
        redialling.failed(("10.0.0.1:0", None), SILENCE, now=0.0)
    redialling.failed(KEY, SILENCE, now=0.0)
    assert (("10.0.0.1:0", None) in redialling.unreachable) is again
    assert (("10.0.0.1:1", None) in redialling.unreachable) is not again
    assert KEY in redialling.unreachable
