"""The budgets: what rpcnet has to reach, as ratios to its peers within one session.

Each says what is required, and what is aimed at. ``make bench`` says whether they are reached and never fails
because of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
from measure import Load

__all__ = ["BUDGETS", "Budget", "Loads", "verdicts"]

Loads = Mapping[tuple[str, str], Load]
"""The medians, by workload and peer."""


@attrs.frozen
class Budget:
    """One promise."""

    what: str
    """What is promised."""
    figure: Callable[[Loads], float | None]
    """Returns the figure; None if what it needs was not measured. A missing key means the same."""
    required: float | None
    """What is acceptable; None where it is only stated."""
    aim: float | None
    """What is aimed at."""
    unit: str = "x"
    """What the figure is in."""
    is_ceiling: bool = False
    """Whether less is better."""

    def judge(self, loads: Loads) -> str | None:
        """Return one line, or None if it was not measured."""
        try:
            found = self.figure(loads)
        except KeyError:
            return None
        if found is None:
            return None
        marks = (("required", self.required), ("aim", self.aim))
        said = [f"{self._mark(name, mark)} {self._word(found, mark)}" for name, mark in marks if mark is not None]
        return f"{self.what:<62}{self._number(found):>12}   " + ", ".join(said)

    def _mark(self, name: str, mark: float) -> str:
        sign = "<=" if self.is_ceiling else ">="
        return f"{name} {sign} {self._number(mark)}"

    def _number(self, value: float) -> str:
        return f"{value:,.0f} {self.unit}" if abs(value) >= 1000 else f"{value:.3g} {self.unit}"

    def _word(self, found: float, mark: float) -> str:
        return "reached" if (found <= mark if self.is_ceiling else found >= mark) else "MISSED"


def _rate_ratio(workload: str, peer: str, of: str = "rpcnet") -> Callable[[Loads], float | None]:
    return lambda loads: loads[workload, of].rate / loads[workload, peer].rate


def _p50_ratio(workload: str, peer: str) -> Callable[[Loads], float | None]:
    def figure(loads: Loads) -> float | None:
        ours, theirs = loads[workload, "rpcnet"].p50, loads[workload, peer].p50
        return ours / theirs if ours and theirs else None

    return figure


def _p50_added(workload: str) -> Callable[[Loads], float | None]:
    def figure(loads: Loads) -> float | None:
        through, direct = loads[workload, "rpcnet"].p50, loads[workload, "rpcnet pinned"].p50
        return (through - direct) * 1e6 if through and direct else None

    return figure


def _kilobytes_each(workload: str, side: str) -> Callable[[Loads], float | None]:
    def figure(loads: Loads) -> float | None:
        load = loads[workload, "rpcnet"]
        growth: int = getattr(load, side).rss_growth
        return growth / load.count / 1000

    return figure


def _idle_share(loads: Loads) -> float | None:
    load = loads["one idle node of 50", "rpcnet node"]
    return load.client.cpu_seconds / load.seconds * 100


def _choice(loads: Loads) -> float | None:
    p50 = loads["choice among 1000 workers", "rpcnet node"].p50
    return p50 * 1e6 if p50 else None


_ONE, _SIXTY_FOUR, _MANY = (f"unary 64 B, {number} in flight" for number in (1, 64, 512))

BUDGETS = (
    Budget("1 in flight, p50 against grpc.aio", _p50_ratio(_ONE, "grpc.aio"), 0.65, 0.4, is_ceiling=True),
    Budget("64 in flight against grpc.aio", _rate_ratio(_SIXTY_FOUR, "grpc.aio"), 10, 18),
    Budget("64 in flight against RPyC", _rate_ratio(_SIXTY_FOUR, "RPyC"), 1.3, 2.4),
    Budget("512 in flight against grpc.aio", _rate_ratio(_MANY, "grpc.aio"), 18, 50),
    Budget("512 in flight", lambda loads: loads[_MANY, "rpcnet"].rate, None, 172_000, "calls/s"),
    Budget("through ClusterClient against pinned, 64 in flight", _rate_ratio(_SIXTY_FOUR, "rpcnet pinned"), 0.95, None),
    Budget("through ClusterClient against pinned, 512 in flight", _rate_ratio(_MANY, "rpcnet pinned"), 0.95, None),
    Budget("through ClusterClient, added to p50 of 1 in flight", _p50_added(_ONE), 100, 20, "us", is_ceiling=True),
    Budget("1 MiB echo against grpc.aio", _rate_ratio("unary 1 MiB, 4 in flight", "grpc.aio"), 0.6, 1.5),
    Budget("server streaming of 64 B against grpc.aio", _rate_ratio("server streaming of 64 B", "grpc.aio"), 8, 30),
    *(
        Budget(
            f"memory of an idle connection, {side}",
            _kilobytes_each("idle connections", side),
            None,
            60,
            "KB",
            is_ceiling=True,
        )
        for side in ("client", "server")
    ),
    Budget("one idle node of 50, share of a core", _idle_share, 1, 0.3, "%", is_ceiling=True),
    Budget("choice among 1000 workers", _choice, 10, 2, "us", is_ceiling=True),
)


def verdicts(loads: Loads) -> list[str]:
    """Return a line for every budget that was measured."""
    return [line for budget in BUDGETS if (line := budget.judge(loads)) is not None]
