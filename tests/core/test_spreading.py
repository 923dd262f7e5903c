"""How fast news spreads, as measured."""

from __future__ import annotations

import math
import random

import pytest

from rpcnet._core.spreading import Spreading, dissemination_time, time_constant

TAU = time_constant(0.2, 3, 0.0)


def formula(n_members: int) -> float:
    """What D is before anything was measured."""
    return TAU * (math.log(n_members + 1) + 4.61)


FORMULA = formula(100)


def ages(n: int, tau: float, n_members: int = 100, seed: int = 1) -> list[float]:
    """Ages at which an epidemic with this time constant reaches a node: a logistic distribution."""
    rng = random.Random(seed)
    found = []
    for _ in range(n):
        part = rng.uniform(1e-9, 1 - 1e-9)
        found.append(max(0.0, tau * (math.log(n_members + 1) + math.log(part / (1 - part)))))
    return found


def measured(samples: list[float], n_members: int = 100, loss: float = 0.0) -> float:
    spreading = Spreading(0.2, 3)
    for age in samples:
        spreading.observe(age, n_members, loss)
    return spreading.time(n_members, loss)


def test_before_anything_was_measured_the_formula_holds() -> None:
    assert measured([]) == pytest.approx(FORMULA)
    assert measured([]) == pytest.approx(0.2 * (math.log(101) + 4.61) / 1.5)


def test_until_all_but_one_in_ten_thousand_know_it_takes_longer() -> None:
    assert dissemination_time(0.2, 3, 100, 0.0) == pytest.approx(0.2 * (math.log(101) + 9.21) / 1.5)


def test_ages_as_the_formula_has_them_change_hardly_anything() -> None:
    assert measured(ages(300, TAU)) == pytest.approx(FORMULA, rel=0.2)


@pytest.mark.parametrize("factor", [0.6, 2.0, 3.0])
def test_news_that_spreads_faster_or_slower_is_measured(factor: float) -> None:
    assert measured(ages(400, factor * TAU)) == pytest.approx(factor * FORMULA, rel=0.25)


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_it_covers_all_but_one_node_in_a_hundred(factor: float) -> None:
    slowest = sorted(ages(200_000, factor * TAU, seed=2))[int(0.99 * 200_000)]
    assert measured(ages(600, factor * TAU)) == pytest.approx(slowest, rel=0.3)


def test_a_few_samples_change_little() -> None:
    assert measured(ages(2, 3 * TAU)) < 1.6 * FORMULA


def test_one_node_that_hears_old_news_makes_nobody_patient_for_ever() -> None:
    assert measured([*ages(100, TAU), 3600.0]) < 1.2 * measured(ages(100, TAU))


@pytest.mark.parametrize("age", [-1.0, float("nan"), float("inf")])
def test_an_age_that_cannot_be_is_left_out(age: float) -> None:
    assert measured([age] * 100) == pytest.approx(FORMULA)


def test_it_stays_within_half_and_six_times_the_formula() -> None:
    assert measured([0.0] * 1000) >= 0.5 * FORMULA
    assert measured([1e6] * 1000) <= 6 * FORMULA


def test_what_was_measured_holds_when_the_cluster_grows() -> None:
    spreading = Spreading(0.2, 3)
    for age in ages(400, 2 * TAU):
        spreading.observe(age, 100, 0.0)
    assert spreading.time(1000, 0.0) == pytest.approx(2 * formula(1000), rel=0.3)
