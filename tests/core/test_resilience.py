"""A call is repeated only where that can help and can do no harm."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._core.resilience import RetryBudget, RetryPolicy, RetryState, may_retry
from rpcnet.errors import (
    Aborted,
    ConfigError,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NoWorkers,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from rpcnet.events import NodeInfo, NodeState

REFUSED = Unavailable("refused", never_ran=True)
LOST = Unavailable("lost in mid-call")


def state(policy: RetryPolicy | None = None, budget: RetryBudget | None = None) -> RetryState:
    policy = policy or RetryPolicy()
    return RetryState(policy, budget or RetryBudget(policy))


def delay_of(one: RetryState, error: BaseException = REFUSED, **changes: Any) -> float | None:
    settings_: dict[str, Any] = {"idempotent": False, "rng": random.Random(1), "now": 0.0, **changes}
    return one.on_failure(error, **settings_)


@pytest.mark.parametrize(
    ("error", "idempotent", "expected"),
    [
        (REFUSED, False, True),
        (REFUSED, True, True),
        (LOST, False, False),
        (LOST, True, True),
        (ResourceExhausted("full", never_ran=True), False, True),
        (ResourceExhausted("the handler's own quota"), True, False),
        (Unauthenticated("somebody else answers there", never_ran=True), False, True),
        (Unauthenticated("the handler's own opinion"), True, False),
        (InvalidArgument("wrong", never_ran=True), True, False),
        (DeadlineExceeded("late"), True, False),
        (Internal("bug"), True, False),
        (Aborted("race"), True, False),
        (NoWorkers("none"), True, False),
        (ValueError("mine"), True, False),
    ],
)
def test_only_what_reached_no_handler_or_may_run_twice_is_repeated(
    error: BaseException, idempotent: bool, expected: bool
) -> None:
    assert may_retry(error, idempotent=idempotent) is expected
    assert (delay_of(state(), error, idempotent=idempotent) is not None) is expected


def test_attempts_are_counted_with_the_first_one() -> None:
    one = state(RetryPolicy(max_attempts=3))
    assert delay_of(one) is not None
    assert delay_of(one) is not None
    assert delay_of(one) is None
    assert one.failures == 3


def test_one_attempt_means_no_retry() -> None:
    assert delay_of(state(RetryPolicy(max_attempts=1))) is None


@settings(deadline=None)
@given(st.integers(1, 20), st.floats(0, 1), st.floats(1, 5), st.integers(0, 1000))
def test_waits_grow_up_to_the_limit_and_are_jittered_from_zero(
    attempts: int, initial: float, multiplier: float, seed: int
) -> None:
    policy = RetryPolicy(max_attempts=attempts + 1, initial_backoff=initial, max_backoff=1.5, multiplier=multiplier)
    one, rng = state(policy), random.Random(seed)
    for failure in range(1, attempts + 1):
        delay = delay_of(one, rng=rng)
        assert delay is not None
        assert 0 <= delay <= min(1.5, initial * multiplier ** (failure - 1))


def test_jitter_uses_the_whole_range() -> None:
    rng = random.Random(3)
    delays = [delay_of(state(RetryPolicy(initial_backoff=1.0)), rng=rng) or 0.0 for _ in range(200)]
    assert min(delays) < 0.1
    assert max(delays) > 0.9


def test_a_wait_that_ends_after_the_deadline_is_not_begun() -> None:
    policy = RetryPolicy(initial_backoff=1.0)
    budget = RetryBudget(policy)
    rng = random.Random(1)
    wait = random.Random(1).random()
    assert delay_of(state(policy, budget), rng=rng, now=5.0, deadline=5.0 + wait) is None
    assert budget.tokens == policy.budget_burst
    assert delay_of(state(policy, budget), now=5.0, deadline=5.0 + wait + 0.001) == wait


def test_retries_stop_when_the_clients_budget_is_empty() -> None:
    policy = RetryPolicy(budget_burst=2, budget_ratio=0.5)
    budget = RetryBudget(policy)
    outcomes = [delay_of(state(policy, budget)) is not None for _ in range(4)]
    assert outcomes == [True, True, False, False]
    budget.deposit()
    assert delay_of(state(policy, budget)) is None
    budget.deposit()
    assert delay_of(state(policy, budget)) is not None


def test_what_must_not_be_repeated_takes_nothing_from_the_budget() -> None:
    policy = RetryPolicy(budget_burst=5)
    budget = RetryBudget(policy)
    delay_of(state(policy, budget), LOST)
    assert budget.tokens == 5


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=200), st.integers(0, 10), st.floats(0, 1))
def test_retries_never_exceed_the_burst_and_the_ratio(steps: list[bool], burst: int, ratio: float) -> None:
    budget = RetryBudget(RetryPolicy(budget_burst=burst, budget_ratio=ratio))
    calls = retries = 0
    for is_call in steps:
        if is_call:
            budget.deposit()
            calls += 1
        else:
            retries += budget.withdraw()
        assert 0 <= budget.tokens <= burst
        assert retries <= burst + calls * ratio + 1e-6


def test_a_node_that_failed_is_avoided_while_there_are_others() -> None:
    a, b = (
        NodeInfo(id=name, name=name, address="127.0.0.1:1", boot_id=1, incarnation=0, state=NodeState.ALIVE)
        for name in "ab"
    )
    one = state()
    assert one.candidates((a, b)) == (a, b)
    one.avoid("a")
    assert one.candidates((a, b)) == (b,)
    assert one.candidates((a,)) == (a,)
    one.avoid("b")
    assert one.candidates((a, b)) == (a, b)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_attempts": 0}, "RetryPolicy.max_attempts = 0: must be a number from 1 to 100"),
        ({"max_attempts": 2.5}, "RetryPolicy.max_attempts = 2.5: must be a whole number"),
        ({"max_attempts": True}, "RetryPolicy.max_attempts = True"),
        ({"initial_backoff": -1}, "RetryPolicy.initial_backoff = -1"),
        ({"initial_backoff": float("nan")}, "RetryPolicy.initial_backoff = nan"),
        ({"max_backoff": 0.01}, "must not be below initial_backoff = 0.05"),
        ({"multiplier": 0.5}, "RetryPolicy.multiplier = 0.5"),
        ({"budget_ratio": 2}, "RetryPolicy.budget_ratio = 2"),
        ({"budget_burst": "x"}, "RetryPolicy.budget_burst = 'x'"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RetryPolicy(**changes)
    assert message in str(caught.value)
