"""How a node measures that its loop stops at times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcnet._core.stalls import StallMeter, StallWatch, longest_of_class, stall_class
from rpcnet.events import LocalDegraded


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(-1, 0), (0, 0), (0.249, 0), (0.25, 0.25), (0.49, 0.25), (0.5, 0.5), (1, 1), (7.9, 4), (64, 64), (1e9, 64)],
)
def test_a_class_is_a_lower_bound_that_doubles(seconds: float, expected: float) -> None:
    assert stall_class(seconds) == expected


def test_what_is_no_number_is_no_stall() -> None:
    assert stall_class(float("nan")) == 0.0


@given(st.floats(0.25, 127.9))
def test_a_stall_is_never_longer_than_the_longest_of_its_class(seconds: float) -> None:
    assert stall_class(seconds) <= seconds < longest_of_class(stall_class(seconds))


def test_the_class_rises_at_once_and_falls_when_a_whole_minute_was_quiet() -> None:
    meter = StallMeter(0.0)
    assert not meter.observe(0.01, 1.0)
    assert meter.observe(3.0, 10.0)
    assert meter.stall == 2.0
    assert meter.observe(5.0, 11.0)
    assert meter.stall == 4.0
    changes = [now for now in range(12, 300) if meter.observe(0.0, float(now))]
    assert changes == [120]
    assert meter.stall == 0.0


def test_it_falls_to_what_still_happens() -> None:
    meter = StallMeter(0.0)
    meter.observe(9.0, 1.0)
    changes = [(now, meter.stall) for now in range(2, 400) if meter.observe(0.6 if now % 30 == 0 else 0.0, float(now))]
    assert changes == [(120, 0.5)]


def test_stalls_once_a_minute_do_not_make_it_swing() -> None:
    meter = StallMeter(0.0)
    meter.observe(2.0, 30.0)
    assert not any(meter.observe(2.0 if now % 60 == 31 else 0.0, float(now)) for now in range(31, 1000))


def test_after_a_long_silence_nothing_old_counts() -> None:
    meter = StallMeter(0.0)
    meter.observe(9.0, 1.0)
    assert meter.observe(0.0, 1000.0)
    assert meter.stall == 0.0


def test_the_application_hears_once_that_its_node_is_degraded_and_by_whom() -> None:
    watch = StallWatch(0.0)
    assert watch.observe(0.6, 1.0) == []
    watch.blame("work.crunch", 3.0)
    (event,) = watch.observe(1.5, 3.2) or []
    assert event == LocalDegraded(stall=1.0, handler="work.crunch", at=3.2)
    assert watch.observe(5.0, 9.0) == []
    assert watch.observe(0.0, 200.0) == []
    assert watch.stall == 0.0
    (again,) = watch.observe(2.5, 300.0) or []
    assert isinstance(again, LocalDegraded)
    assert again.handler is None


def test_a_tick_that_changes_no_class_is_not_told() -> None:
    watch = StallWatch(0.0)
    assert watch.observe(0.1, 1.0) is None
    assert watch.observe(0.3, 1.0) == []
    assert watch.observe(0.3, 1.0) is None
