"""Retries: when a call that failed is tried again, and how long it waits before that.

The rules of this file:

* A call is repeated only where nothing can have run twice: it reached no handler, or its method is idempotent.
* Only what may be different next time is repeated: a node that is gone, or one that was full. Whatever a handler
  answered is an answer.
* Waiting times are exponential with full jitter ("Exponential Backoff and Jitter", AWS Architecture Blog, 2015), so
  that callers that failed together do not come back together.
* All calls of one client share a budget. When much fails at once, retries are a small part of the traffic and not a
  multiple of it (as in Finagle's RetryBudget and gRPC's retry throttling).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import attrs

from rpcnet.errors import ConfigError, ResourceExhausted, Unauthenticated, Unavailable
from rpcnet.events import NodeInfo

if TYPE_CHECKING:
    from random import Random

__all__ = ["RetryBudget", "RetryPolicy", "RetryState", "may_retry"]


def _between(low: float, high: float) -> Any:
    def check(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ConfigError(f"RetryPolicy.{attribute.name} = {value!r}: must be a number from {low} to {high}")

    return check


def _whole(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, int):
        raise ConfigError(f"RetryPolicy.{attribute.name} = {value!r}: must be a whole number")


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """When a call is tried again on another worker. ``RetryPolicy(max_attempts=1)`` never does."""

    max_attempts: int = attrs.field(default=3, validator=[_between(1, 100), _whole])
    """Attempts of one call, the first one included."""
    initial_backoff: float = attrs.field(default=0.05, validator=_between(0, 60))
    """Seconds before the second attempt, at most: the wait is a random part of it."""
    max_backoff: float = attrs.field(default=2.0, validator=_between(0, 600))
    """Seconds before any attempt, at most; not below ``initial_backoff``."""
    multiplier: float = attrs.field(default=2.0, validator=_between(1, 10))
    """By how much the wait may grow from one attempt to the next."""
    budget_ratio: float = attrs.field(default=0.2, validator=_between(0, 1))
    """Retries per call that the client may make in the long run, over all its calls."""
    budget_burst: int = attrs.field(default=1000, validator=[_between(0, 1_000_000), _whole])
    """Retries that it may make at once, before the ratio counts: a lost worker's calls all fail together."""

    def __attrs_post_init__(self) -> None:
        """Check the fields against each other."""
        if self.max_backoff < self.initial_backoff:
            raise ConfigError(
                f"RetryPolicy.max_backoff = {self.max_backoff}: must not be below "
                f"initial_backoff = {self.initial_backoff}"
            )

    def backoff(self, failures: int) -> float:
        """Return the longest wait in seconds after so many failed attempts of one call."""
        return float(min(self.max_backoff, self.initial_backoff * self.multiplier ** (failures - 1)))


class RetryBudget:
    """A bucket of tokens that all calls of a client share: calls fill it slowly, retries empty it.

    Args:
        policy: gives the ratio and the size of the bucket, which begins full.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self._ratio = policy.budget_ratio
        self._burst = float(policy.budget_burst)
        self._tokens = self._burst

    @property
    def tokens(self) -> float:
        """How many retries are left at this moment."""
        return self._tokens

    def deposit(self) -> None:
        """Count a new call, whatever becomes of it."""
        self._tokens = min(self._burst, self._tokens + self._ratio)

    def withdraw(self) -> bool:
        """Take one retry out of the bucket; return False when it is empty."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def may_retry(error: BaseException, *, idempotent: bool) -> bool:
    """Return whether repeating a call that ended with this error can help and can do no harm."""
    if isinstance(error, Unavailable):
        return error.never_ran or idempotent
    # An address may belong to somebody else by now, who is not whom the call was for: Unauthenticated, and nothing ran.
    return isinstance(error, (ResourceExhausted, Unauthenticated)) and error.never_ran


class RetryState:
    """What one call remembers of its failed attempts.

    Args:
        policy: the rules.
        budget: shared by the client's calls.
    """

    __slots__ = ("_avoided", "_budget", "_policy", "failures")

    def __init__(self, policy: RetryPolicy, budget: RetryBudget) -> None:
        self._policy = policy
        self._budget = budget
        self._avoided: list[str] = []
        self.failures = 0

    def on_failure(
        self, error: BaseException, *, idempotent: bool, rng: Random, now: float, deadline: float = math.inf
    ) -> float | None:
        """Decide what follows a failed attempt.

        Args:
            error: how it ended.
            idempotent: whether the method may run twice.
            rng: where the jitter comes from.
            now: the time, in the clock of ``deadline``.
            deadline: when the caller stops waiting.

        Returns:
            Seconds to wait before the next attempt, or None: the error is the answer. A wait that would end after the
            deadline is not begun, and takes nothing from the budget.
        """
        self.failures += 1
        if self.failures >= self._policy.max_attempts or not may_retry(error, idempotent=idempotent):
            return None
        delay = rng.random() * self._policy.backoff(self.failures)
        if now + delay >= deadline or not self._budget.withdraw():
            return None
        return delay

    def avoid(self, node_id: str) -> None:
        """Remember that an attempt on this node failed."""
        self._avoided.append(node_id)

    def candidates(self, nodes: tuple[NodeInfo, ...]) -> tuple[NodeInfo, ...]:
        """Return the nodes where no attempt has failed yet; all of them when there is no other."""
        if not self._avoided:
            return nodes
        return tuple([node for node in nodes if node.id not in self._avoided]) or nodes
