"""Network coordinates: they converge to what is measured, and nonsense does not move them."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._core.coordinates import ORIGIN, Position, distance, is_sane, updated
from rpcnet._signals import Coordinates

Distances = Callable[[int, int], float]


def settle(n: int, rtt: Distances, *, rounds: int = 4000, noise: float = 0.0, seed: int = 1) -> list[Coordinates]:
    """Let ``n`` nodes measure each other at random."""
    rng = random.Random(seed)
    nodes = [ORIGIN] * n
    for _ in range(rounds):
        for i in range(n):
            j = rng.choice([j for j in range(n) if j != i])
            nodes[i] = updated(nodes[i], nodes[j], rtt(i, j) * math.exp(rng.gauss(0.0, noise)), rng)
    return nodes


def worst_error(nodes: list[Coordinates], rtt: Distances) -> float:
    pairs = itertools.combinations(range(len(nodes)), 2)
    return max(abs(distance(nodes[i], nodes[j]) - rtt(i, j)) / rtt(i, j) for i, j in pairs)


def median_error(nodes: list[Coordinates], rtt: Distances) -> float:
    pairs = list(itertools.combinations(range(len(nodes)), 2))
    errors = sorted(abs(distance(nodes[i], nodes[j]) - rtt(i, j)) / rtt(i, j) for i, j in pairs)
    return errors[len(errors) // 2]


@pytest.mark.parametrize("seed", range(5))
def test_a_triangle_is_found(seed: int) -> None:
    sides = {frozenset((0, 1)): 0.03, frozenset((1, 2)): 0.04, frozenset((0, 2)): 0.05}

    def rtt(i: int, j: int) -> float:
        return sides[frozenset((i, j))]

    assert worst_error(settle(3, rtt, seed=seed), rtt) < 0.05


@pytest.mark.parametrize("seed", range(5))
def test_a_line_is_found(seed: int) -> None:
    def rtt(i: int, j: int) -> float:
        return 0.01 * abs(i - j)

    assert median_error(settle(10, rtt, rounds=1500, seed=seed), rtt) < 0.1


@pytest.mark.parametrize("seed", range(3))
def test_a_node_behind_a_slow_access_line_gets_a_height(seed: int) -> None:
    def rtt(i: int, j: int) -> float:
        angle = 2 * math.pi * (i - j) / 8
        ring = 0.02 * math.hypot(1 - math.cos(angle), math.sin(angle))
        return ring + 0.05 * ((i == 0) + (j == 0)) + 0.001

    nodes = settle(8, rtt, rounds=2500, seed=seed)
    assert nodes[0][2] == pytest.approx(0.05, abs=0.015)
    assert max(node[2] for node in nodes[1:]) < 0.01
    assert median_error(nodes, rtt) < 0.1


@pytest.mark.parametrize("seed", range(3))
def test_two_clusters_find_how_far_apart_they_are(seed: int) -> None:
    def rtt(i: int, j: int) -> float:
        return 0.1 if (i < 6) != (j < 6) else 0.001

    nodes = settle(12, rtt, rounds=1000, noise=0.1, seed=seed)
    between = [distance(nodes[i], nodes[j]) for i in range(6) for j in range(6, 12)]
    within = [distance(nodes[i], nodes[j]) for i, j in itertools.combinations(range(6), 2)]
    assert max(between) < 0.13
    assert min(between) > 0.07
    assert max(within) < 0.02


def test_who_is_sure_is_moved_less_than_who_is_not_and_by_the_sure_more_than_by_others() -> None:
    rng = random.Random(1)
    sure, unsure = (0.01, 0.0, 1e-4, 0.05), (0.01, 0.0, 1e-4, 1.0)

    def step(own: Coordinates, other: Coordinates) -> float:
        moved = updated(own, (-other[0], *other[1:]), 0.1, rng)
        return abs(moved[0] - own[0])

    assert step(sure, unsure) < step(sure, sure) < step(unsure, sure)


def test_the_error_falls_while_what_is_foretold_is_right_and_rises_when_it_is_wrong() -> None:
    rng = random.Random(1)
    own, other = (0.0, 0.0, 1e-4, 0.5), (0.01, 0.0, 1e-4, 0.5)
    assert updated(own, other, distance(own, other), rng)[3] < 0.5
    assert updated(own, other, 10 * distance(own, other), rng)[3] > 0.5


def test_two_nodes_at_one_point_are_driven_apart() -> None:
    rng = random.Random(1)
    moved = updated(ORIGIN, ORIGIN, 0.01, rng)
    assert math.hypot(moved[0], moved[1]) > 0.0005
    assert updated(ORIGIN, ORIGIN, 0.01, random.Random(1)) == updated(ORIGIN, ORIGIN, 0.01, random.Random(1))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "other",
    [(NAN, 0, 0, 1), (0, INF, 0, 1), (0, 0, NAN, 1), (0, 0, -0.1, 1), (0, 0, 0, NAN), (0, 0, 0, -1), (1e300, 0, 0, 1)],
)
def test_coordinates_that_cannot_be_change_nothing(other: Coordinates) -> None:
    assert not is_sane(other)
    own = (0.01, 0.02, 0.001, 0.3)
    assert updated(own, other, 0.01, random.Random(1)) is own


@pytest.mark.parametrize("rtt", [0.0, -1.0, NAN, INF, 1e6])
def test_a_round_trip_that_cannot_be_changes_nothing(rtt: float) -> None:
    assert updated(ORIGIN, (0.01, 0.0, 0.0, 0.5), rtt, random.Random(1)) is ORIGIN


@given(
    st.lists(
        st.tuples(
            st.tuples(*[st.floats(allow_nan=True, allow_infinity=True)] * 4) | st.tuples(*[st.floats(0, 10)] * 4),
            st.floats(allow_nan=True, allow_infinity=True) | st.floats(1e-6, 10),
        ),
        max_size=30,
    )
)
@settings(max_examples=200, deadline=None)
def test_whatever_others_say_a_node_stays_somewhere(said: list[tuple[Coordinates, float]]) -> None:
    own, rng = ORIGIN, random.Random(1)
    for other, rtt in said:
        own = updated(own, other, rtt, rng)
        assert is_sane(own)
        assert own[2] > 0
        assert 0 < own[3] <= 1.5


def test_a_liar_who_claims_to_be_sure_moves_a_node_no_faster_than_the_surest_may() -> None:
    own = (0.0, 0.0, 1e-4, 0.5)
    honest, liar = (0.01, 0.0, 1e-4, 0.02), (0.01, 0.0, 1e-4, 0.0)
    assert updated(own, liar, 0.5, random.Random(1)) == updated(own, honest, 0.5, random.Random(1))


def test_others_hear_of_the_first_coordinates_and_then_of_changes_that_matter_once_a_second() -> None:
    position, rng = Position(), random.Random(1)
    assert not position.is_news(0.001, 0.0)
    position.measured((0.0, 0.0, 1e-4, 1.0), 0.02, rng)
    assert position.is_news(0.001, 0.0)
    assert position.tell(0.0) == position.coordinates
    position.measured((0.0, 0.0, 1e-4, 1.0), 0.2, rng)
    assert not position.is_news(0.001, 0.9)
    assert position.is_news(0.001, 1.0)
    position.tell(1.0)
    assert not position.is_news(0.001, 50.0)


def test_a_clock_that_goes_back_does_not_silence_a_node() -> None:
    position, rng = Position(), random.Random(1)
    position.measured((0.0, 0.0, 1e-4, 1.0), 0.02, rng)
    position.tell(1000.0)
    position.measured((0.0, 0.0, 1e-4, 1.0), 0.2, rng)
    assert position.is_news(0.001, 0.0)
