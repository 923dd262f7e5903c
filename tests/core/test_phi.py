"""The mathematics of the failure detector."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._core.phi import (
    Credibility,
    LossModel,
    Trial,
    conviction_phi,
    conviction_time,
    joint_phi,
    needed_evidence,
    silence_probability,
)
from rpcnet._core.probing import schedule
from rpcnet._core.round_trips import RoundTripModel
from rpcnet._core.spreading import dissemination_time


def trained(median: float = 0.002, spread: float = 0.2, peers: int = 10, samples: int = 500) -> RoundTripModel:
    rng = random.Random(1)
    model = RoundTripModel(0.02)
    for i in range(samples):
        model.observe(f"p{i % peers}", median * math.exp(rng.gauss(0, spread)))
    return model


def test_the_model_learns_the_distribution_it_is_shown() -> None:
    model = trained(median=0.002, spread=0.3)
    assert model.predicted("p1") == pytest.approx(0.002, rel=0.5)
    assert model.q90("p1") == pytest.approx(0.002 * math.exp(1.28 * 0.3), rel=0.5)
    assert model.probability_answered("p1", model.q90("p1")) == pytest.approx(0.9)


def test_a_peer_without_history_is_predicted_by_the_others() -> None:
    model = trained(median=0.05)
    assert model.predicted("stranger") == pytest.approx(0.05, rel=0.3)
    model.forget("p1")
    assert model.predicted("p1") == model.predicted("stranger")


def test_a_distant_peer_is_judged_by_its_own_round_trips() -> None:
    model = trained(median=0.002)
    for _ in range(20):
        model.observe("far", 0.2)
    assert model.predicted("far") == pytest.approx(0.2, rel=0.05)
    assert model.predicted("p1") < 0.01


@given(st.floats(1e-4, 1.0), st.floats(0, 10), st.floats(0, 10))
@settings(max_examples=100, deadline=None)
def test_an_answer_is_the_more_probable_the_longer_one_waits(rtt: float, a: float, b: float) -> None:
    model = RoundTripModel(0.02)
    model.observe("p", rtt)
    early, late = sorted((a, b))
    assert 0.0 <= model.probability_answered("p", early) <= model.probability_answered("p", late) <= 1.0


def test_a_peer_that_was_not_measured_is_predicted_by_coordinates_and_one_that_was_by_its_own_round_trips() -> None:
    model = RoundTripModel(0.02, {"known": 0.05, "far": 0.05}.get)
    for _ in range(20):
        model.observe("known", 0.01)
    assert model.predicted("known") == pytest.approx(0.01)
    assert model.measured("known") == pytest.approx(0.01)
    assert model.predicted("far") == pytest.approx(0.05)
    assert model.measured("far") is None
    assert model.predicted("stranger") == pytest.approx(model.typical)


def test_what_coordinates_foretell_is_bounded() -> None:
    model = RoundTripModel(0.02, {"moon": 1e9, "here": 0.0}.get)
    assert model.predicted("moon") == pytest.approx(0.25)
    assert model.predicted("here") == pytest.approx(1e-6)


def test_only_the_peers_measured_last_have_a_history() -> None:
    model = RoundTripModel(0.02)
    for i in range(2000):
        model.observe("often", 0.001)
        model.observe(f"p{i}", 0.001)
    assert len(model._typical) == 1024
    assert model.measured("often") is not None
    assert model.measured("p0") is None


def test_a_zero_round_trip_does_not_break_the_model() -> None:
    model = RoundTripModel(0.02)
    model.observe("p", 0.0)
    assert math.isfinite(model.q90("p"))


def test_loss_starts_at_one_in_twenty_and_follows_what_is_seen() -> None:
    model = LossModel()
    assert model.round_trip == pytest.approx(0.05)
    rng = random.Random(1)
    for _ in range(300):
        lost = 0
        while rng.random() < 0.51:
            lost += 1
        model.observe(lost=lost)
    assert model.round_trip == pytest.approx(0.51, abs=0.12)
    assert model.one_way == pytest.approx(0.3, abs=0.1)
    for _ in range(300):
        model.observe(lost=0)
    assert model.round_trip < 0.06


def test_a_path_through_a_helper_loses_more_than_a_direct_one_unless_the_helper_repeats() -> None:
    model = LossModel()
    assert model.through_helper(1) > model.round_trip
    assert model.through_helper(3) < model.through_helper(1)


def test_silence_says_nothing_at_first_and_almost_everything_in_the_end() -> None:
    model = trained(median=0.002)
    trials = [Trial(at=0.0, loss=0.05), Trial(at=0.005, loss=0.05)]
    assert silence_probability(model, "p1", [], 1.0) == 1.0
    assert silence_probability(model, "p1", trials, 0.0) == 1.0
    assert silence_probability(model, "p1", trials, 1.0) == pytest.approx(0.05**2, rel=1e-3)


def test_an_answer_through_a_helper_is_given_two_round_trips() -> None:
    model = trained(median=0.1)
    direct, helped = Trial(at=0.0, loss=0.05), Trial(at=0.0, loss=0.05, hops=2)
    assert silence_probability(model, "p1", [helped], 0.2) > silence_probability(model, "p1", [direct], 0.2)


def test_a_healthy_observer_claims_at_most_three_and_a_sick_one_hardly_anything() -> None:
    healthy = Credibility()
    for i in range(20):
        healthy.observe(f"p{i}", failed=False)
    assert -math.log10(healthy.doubt(())) == pytest.approx(3.0)
    sick = Credibility()
    for i in range(20):
        sick.observe(f"p{i}", failed=i % 2 == 0)
    assert -math.log10(sick.doubt(())) == pytest.approx(0.95, abs=0.01)


def test_helpers_of_whom_none_says_anything_count_as_half_a_target_that_failed() -> None:
    def doubt(*, silent: bool) -> float:
        credibility = Credibility()
        for i in range(20):
            credibility.observe(f"p{i}", failed=i < 4, were_helpers_silent=silent and i == 0)
        return credibility.doubt(())

    assert doubt(silent=False) == pytest.approx((4 / 30) ** 2)
    assert doubt(silent=True) == pytest.approx((4.5 / 30.5) ** 2)


def test_a_helper_that_got_no_answer_either_leaves_only_that_all_its_pings_were_lost() -> None:
    model, loss = trained(median=0.002), LossModel()
    silent = Trial(at=0.0, loss=loss.through_helper(3), hops=2)
    nacked = Trial(at=0.0, loss=loss.in_vain(3), hops=0)
    assert silence_probability(model, "p1", [nacked], 1.0) == pytest.approx(loss.round_trip**3)
    assert silence_probability(model, "p1", [nacked], 1.0) < silence_probability(model, "p1", [silent], 1.0) / 10


def test_targets_that_others_accuse_too_do_not_count_against_the_observer() -> None:
    credibility = Credibility()
    for i in range(20):
        credibility.observe(f"p{i}", failed=i < 10)
    assert credibility.doubt([f"p{i}" for i in range(10)]) == pytest.approx(1e-3)


def test_only_the_latest_cycle_to_each_of_twenty_targets_counts() -> None:
    credibility = Credibility()
    for i in range(20):
        credibility.observe(f"old{i}", failed=True)
    for i in range(20):
        credibility.observe(f"new{i}", failed=True)
        credibility.observe(f"new{i}", failed=False)
    assert credibility.doubt(()) == pytest.approx(1e-3)
    credibility.observe("gone", failed=True)
    before = credibility.doubt(())
    credibility.forget("gone")
    assert credibility.doubt(()) < before


@pytest.mark.parametrize(("n", "need"), [(2, 2), (3, 2), (4, 4), (5, 4), (6, 6), (7, 6), (8, 8), (40, 8), (400, 9)])
def test_small_clusters_need_less_evidence(n: int, need: float) -> None:
    assert needed_evidence(conviction_phi(8.0, n), n) == pytest.approx(need)


def test_a_verdict_takes_both_evidence_and_time() -> None:
    assert joint_phi(8, evidence=8, need=8, elapsed=6.5, patience=6.5) == pytest.approx(8)
    assert joint_phi(8, evidence=80, need=8, elapsed=0, patience=6.5) < 0.5
    assert joint_phi(8, evidence=0, need=8, elapsed=1000, patience=6.5) < 0.5
    assert joint_phi(8, evidence=4, need=8, elapsed=1000, patience=6.5) < 5


@given(st.floats(2, 12), st.floats(0, 40), st.floats(1, 12), st.floats(0.5, 60))
@settings(max_examples=300, deadline=None)
def test_the_verdict_comes_when_phi_reaches_its_threshold_or_after_four_times_the_patience(
    phi: float, evidence: float, need: float, patience: float
) -> None:
    elapsed = conviction_time(phi, evidence, need, patience)
    if elapsed < 4 * patience:
        assert joint_phi(phi, evidence, need, elapsed, patience) == pytest.approx(phi, abs=1e-3)
        assert joint_phi(phi, evidence, need, 0.99 * elapsed, patience) < phi
    else:
        assert elapsed == 4 * patience
        assert joint_phi(phi, evidence, need, 0.99 * elapsed, patience) < phi


def test_no_amount_of_evidence_convicts_much_before_the_patience_is_over() -> None:
    assert conviction_time(8.0, 1000.0, 8.0, 6.6) > 0.96 * 6.6


@given(st.integers(2, 2000), st.floats(0, 0.5))
@settings(max_examples=100, deadline=None)
def test_a_pause_within_the_tolerance_leaves_time_for_the_refutation(n: int, loss: float) -> None:
    """Suspicion starts 0.3 s into the pause at the earliest; the refutation leaves at its end and needs most of D."""
    tolerance, spread = 5.0, dissemination_time(0.2, 3, n, loss)
    verdict = 0.3 + conviction_time(conviction_phi(8.0, n), 1000.0, 8.0, tolerance + spread)
    assert verdict - tolerance > 0.8 * spread


def test_news_takes_longer_in_a_larger_cluster_and_on_a_worse_network() -> None:
    assert dissemination_time(0.2, 3, 100, 0.0) == pytest.approx(1.84, abs=0.01)
    assert dissemination_time(0.2, 3, 1000, 0.0) > dissemination_time(0.2, 3, 100, 0.0)
    assert dissemination_time(0.2, 3, 100, 0.3) == pytest.approx(1.84 / 0.7, abs=0.01)


def test_on_a_fast_network_six_pings_go_out_quickly() -> None:
    offsets, end = schedule(0.001, 1.0)
    assert offsets == pytest.approx((0, 0.01, 0.03, 0.07, 0.15, 0.31))
    assert end == pytest.approx(0.63)


def test_on_a_slow_network_no_ping_goes_out_after_half_the_period() -> None:
    offsets, end = schedule(3.0, 1.0)
    assert offsets == pytest.approx((0, 0.125, 0.375))
    assert end == pytest.approx(0.875)


@given(st.floats(1e-6, 100), st.floats(0.05, 60))
@settings(max_examples=100, deadline=None)
def test_a_cycle_fits_into_its_period_and_has_time_for_helpers(q90: float, period: float) -> None:
    offsets, end = schedule(q90, period)
    assert 3 <= len(offsets) <= 6
    assert offsets[-1] <= period / 2
    assert offsets[-1] < end <= period
