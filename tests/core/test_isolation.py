"""Whether it is this node that is cut off."""

from __future__ import annotations

import math

import pytest

from rpcnet._core.isolation import Isolation, looks_isolated


def outcomes(failed: int, answered: int) -> list[tuple[str, bool]]:
    return [(f"f{i}", True) for i in range(failed)] + [(f"a{i}", False) for i in range(answered)]


@pytest.mark.parametrize(
    ("failed", "answered", "others", "is_isolated"),
    [
        (6, 4, 99, True),
        (5, 5, 99, False),
        (3, 2, 99, True),
        (4, 0, 99, False),  # too few targets
        (4, 0, 4, True),
        (2, 0, 2, True),
        (1, 1, 2, False),
        (1, 0, 1, False),  # in a cluster of two nobody can tell
    ],
)
def test_more_than_half_of_enough_targets_must_fail(failed: int, answered: int, others: int, is_isolated: bool) -> None:
    assert looks_isolated(outcomes(failed, answered), [], others) is is_isolated


def test_who_is_not_alone_in_missing_a_quarter_of_them_is_not_cut_off() -> None:
    assert looks_isolated(outcomes(8, 2), ["f0"], 99)
    assert not looks_isolated(outcomes(8, 2), ["f0", "f1"], 99)
    assert looks_isolated(outcomes(8, 2), ["a0", "a1"], 99)


def test_all_are_given_up_when_nobody_answered_in_the_meantime() -> None:
    isolation = Isolation()
    assert isolation.gives_up_at == math.inf
    isolation.begin(["a", "b"], 20.0, 100.0)
    isolation.note("c", failed=True)
    assert isolation.is_on
    assert isolation.gives_up_at == 120.0
    assert isolation.give_up(["a", "b", "c", "d"], 120.0) == ["a", "b", "c", "d"]
    assert isolation.gives_up_at == 140.0


def test_only_those_are_given_up_that_were_tried_in_vain_when_somebody_answered() -> None:
    isolation = Isolation()
    isolation.begin(["a", "b"], 20.0, 100.0)
    isolation.note("c", failed=True)
    isolation.note("b", failed=False)
    isolation.forget("a")
    assert isolation.give_up(["a", "b", "c", "d"], 120.0) == ["c"]


def test_its_clock_stands_still_with_the_node_and_starts_again_after_a_long_stop() -> None:
    isolation = Isolation()
    isolation.delay(3.0, 50.0, is_long=False)
    assert not isolation.is_on
    isolation.begin(["a"], 20.0, 100.0)
    isolation.delay(3.0, 110.0, is_long=False)
    assert isolation.gives_up_at == 123.0
    isolation.delay(30.0, 140.0, is_long=True)
    assert isolation.gives_up_at == 160.0
    isolation.end()
    assert not isolation.is_on
