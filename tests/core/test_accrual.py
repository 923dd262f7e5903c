"""The phi accrual detector for regular streams."""

from __future__ import annotations

import math
import random
import statistics

import pytest

import rpcnet
from rpcnet import PhiAccrualDetector
from rpcnet._core.accrual import normal_phi


def regular(n: int, interval: float = 1.0, **settings: float) -> PhiAccrualDetector:
    """A detector that has heard ``n`` heartbeats, the last one at ``(n - 1) * interval``."""
    detector = PhiAccrualDetector(**settings)  # type: ignore[arg-type]
    for i in range(n):
        detector.heartbeat(i * interval)
    return detector


@pytest.mark.parametrize(
    ("z", "phi"),
    [
        (-10.0, 0.0),
        (0.0, 0.30103),
        (1.2815515655446004, 1.0),
        (2.3263478740408408, 2.0),
        (3.090232306167813, 3.0),
        (4.0, 4.49933),
        (5.612001244174789, 8.0),
        (7.034483825500000, 12.0),
        (8.0, 15.20615),
        (20.0, 88.56010),
        (30.0, 197.30921),
        (38.0, 315.53979),
        (100.0, 2173.87154),
    ],
)
def test_phi_is_the_negative_decimal_logarithm_of_the_probability_that_it_still_comes(z: float, phi: float) -> None:
    assert normal_phi(z) == pytest.approx(phi, abs=2e-5)


def test_the_tail_has_no_step_where_its_formula_changes() -> None:
    assert normal_phi(25.0) - normal_phi(25.0 - 1e-9) == pytest.approx(0.0, abs=1e-6)
    assert normal_phi(24.999999) < normal_phi(25.0) < normal_phi(25.000001)


def test_no_silence_is_so_long_that_phi_is_not_a_number() -> None:
    detector = regular(100)
    assert math.isfinite(detector.phi(1e9))
    assert detector.phi(1e9) > detector.phi(1e8)


def alternating(mean: float, deviation: float) -> PhiAccrualDetector:
    """A detector whose intervals have this mean and deviation; its last heartbeat was at 0."""
    detector = PhiAccrualDetector(threshold=100.0)
    now = -1000 * mean
    for i in range(1001):
        detector.heartbeat(now)
        now += mean + (deviation if i % 2 else -deviation)
    return detector


@pytest.mark.parametrize(
    ("elapsed", "phi"), [(0.0, 0.0), (0.5, 0.0), (1.0, 0.3), (1.2, 1.6), (1.4, 4.5), (1.6, 9.0), (1.7, 11.9)]
)
def test_phi_grows_as_in_akkas_table_with_the_exact_tail_instead_of_its_approximation(
    elapsed: float, phi: float
) -> None:
    assert normal_phi((elapsed - 1.0) / 0.1) == pytest.approx(phi, abs=0.1)


@pytest.mark.parametrize(("elapsed", "phi", "within"), [(1.0, 0.3, 0.2), (2.0, 4.5, 0.3)])
def test_a_single_heartbeat_is_judged_by_the_expected_interval_as_akka_does(
    elapsed: float, phi: float, within: float
) -> None:
    detector = PhiAccrualDetector(expected_interval=1.0)
    detector.heartbeat(10.0)
    assert detector.sample_count == 0
    assert detector.phi(10.0 + elapsed) == pytest.approx(phi, abs=within)
    assert detector.phi(10.0 + 3.0) > 15.0


def test_a_wider_spread_makes_less_suspicious() -> None:
    wide, narrow = alternating(1.0, 0.5).phi(1.2), alternating(1.0, 0.1).phi(1.2)
    assert wide == pytest.approx(normal_phi(0.4), abs=0.01)
    assert narrow == pytest.approx(normal_phi(2.0), abs=0.02)
    assert wide < narrow


def test_phi_says_how_probable_it_is_that_a_heartbeat_comes_even_later() -> None:
    """The paper's definition: of the intervals of a normal source, one in 10^phi is longer."""
    rng = random.Random(7)
    intervals = [rng.gauss(1.0, 0.2) for _ in range(4000)]
    detector = PhiAccrualDetector(threshold=100.0)
    now = 0.0
    detector.heartbeat(now)
    for interval in intervals[:1000]:
        now += interval
        detector.heartbeat(now)
    for phi in (0.5, 1.0, 2.0):
        later = statistics.mean(detector.phi(now + interval) > phi for interval in intervals[1000:])
        assert later == pytest.approx(10**-phi, rel=0.35)


def test_a_source_that_was_never_heard_is_available() -> None:
    detector = PhiAccrualDetector()
    assert detector.phi(1e6) == 0.0
    assert detector.is_available(1e6)


def test_a_source_is_unavailable_from_the_threshold_on_and_available_again_when_it_is_heard() -> None:
    detector = regular(20, threshold=3.0)
    assert detector.is_available(19.0 + 1.3)
    assert not detector.is_available(19.0 + 1.4)
    detector.heartbeat(30.0)
    assert detector.is_available(30.1)


def test_a_regular_stream_is_not_believed_to_be_more_regular_than_a_tenth_of_a_second() -> None:
    assert regular(1200).phi(1199.0 + 1.1) == pytest.approx(normal_phi(1.0), abs=0.05)


def test_an_acceptable_pause_is_given_on_top() -> None:
    assert regular(1200, acceptable_pause=3.0).phi(1199.0 + 4.0) == pytest.approx(normal_phi(0.0), abs=0.01)


def test_the_interval_that_ends_an_unavailability_is_not_learnt_from() -> None:
    detector = regular(50)
    before = detector.phi(49.0 + 1.5)
    detector.heartbeat(1000.0)
    assert detector.sample_count == 49
    assert detector.phi(1000.0 + 1.5) == pytest.approx(before)
    detector.heartbeat(1001.0)
    assert detector.sample_count == 50


def test_only_the_latest_intervals_count() -> None:
    detector = PhiAccrualDetector(window=10, threshold=1000.0)
    now = 0.0
    for interval in [5.0] * 50 + [1.0] * 10:
        detector.heartbeat(now)
        now += interval
    detector.heartbeat(now)
    assert detector.sample_count == 10
    assert detector.phi(now + 1.0) == pytest.approx(normal_phi(0.0), abs=1e-6)


def test_the_running_sums_do_not_drift() -> None:
    rng = random.Random(1)
    detector = PhiAccrualDetector(window=100, threshold=1e9)
    now, intervals = 0.0, [rng.uniform(0.5, 1e5) for _ in range(20_000)] + [rng.uniform(0.5, 1.5) for _ in range(150)]
    detector.heartbeat(now)
    for interval in intervals:
        now += interval
        detector.heartbeat(now)
    mean, deviation = statistics.fmean(intervals[-100:]), statistics.pstdev(intervals[-100:])
    assert detector.phi(now + 2.0) == pytest.approx(normal_phi((2.0 - mean) / deviation), rel=1e-4)


def test_forgetting_everything_starts_over() -> None:
    detector = regular(50, interval=9.0, expected_interval=9.0)
    detector.clear()
    assert detector.sample_count == 0
    assert detector.phi(1e6) == 0.0


def test_a_clock_that_goes_back_makes_nobody_suspicious_and_teaches_nothing() -> None:
    detector = regular(50)
    assert detector.phi(-100.0) == 0.0
    detector.heartbeat(-100.0)
    assert detector.sample_count == 49
    assert detector.is_available(-99.0)
    detector.heartbeat(-99.0)
    assert detector.sample_count == 50


@pytest.mark.parametrize(
    "settings",
    [
        {"threshold": 0},
        {"expected_interval": -1},
        {"min_std_deviation": float("nan")},
        {"window": 0},
        {"acceptable_pause": -0.1},
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(rpcnet.ConfigError, match=next(iter(settings))):
        PhiAccrualDetector(**settings)  # type: ignore[arg-type]
