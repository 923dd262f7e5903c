"""Who believed what when, as a picture: an SVG file written by hand.

The rules of this file:

* Time runs to the right. One row per node; the row's colours say how many of the others believe it alive, suspect,
  failed or departed at that time, as shares of the row's height.
* Nodes of which nobody ever believed anything but the usual are left out when there are more than fit.
* At each moment that faults happen or end there is a line.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

import attrs

from . import beliefs
from .beliefs import BeliefLog
from .running import SimulationResult
from .scenario import Scenario

__all__ = ["plot"]

_WIDTH, _LEFT, _TOP, _BOTTOM = 1100, 70, 64, 46
_COLUMNS = 500
_MAX_ROWS = 120
_COLOURS = {
    beliefs.UNKNOWN: "#e3e6ea",
    beliefs.ALIVE: "#8fc49b",
    beliefs.SUSPECT: "#f2b134",
    beliefs.FAILED: "#c8402f",
    beliefs.LEFT: "#5b7db1",
}
_WORDS = {
    beliefs.UNKNOWN: "unknown",
    beliefs.ALIVE: "alive",
    beliefs.SUSPECT: "suspect",
    beliefs.FAILED: "failed",
    beliefs.LEFT: "left",
}
_STACK = (beliefs.FAILED, beliefs.SUSPECT, beliefs.LEFT, beliefs.UNKNOWN, beliefs.ALIVE)

Counts = tuple[int, ...]


@attrs.define
class _Row:
    """How many observers believe what of one subject, over time."""

    subject: int
    changes: list[tuple[float, Counts]] = attrs.field(factory=list)


def _rows(log: BeliefLog) -> list[_Row]:
    """Replay a run: for each subject the counts of beliefs whenever they change."""
    n = log.n_nodes
    first = beliefs.ALIVE if log.converged else beliefs.UNKNOWN
    held = [bytearray([first]) * n for _ in range(n)]
    counts = [[0] * 5 for _ in range(n)]
    rows = []
    for subject in range(n):
        counts[subject][first] = n - 1
        rows.append(_Row(subject, [(0.0, tuple(counts[subject]))]))

    def believe(at: float, observer: int, subject: int, state: int) -> None:
        counts[subject][held[subject][observer]] -= 1
        counts[subject][state] += 1
        held[subject][observer] = state
        rows[subject].changes.append((at, tuple(counts[subject])))

    for change in log.changes():
        if not change.forgets:
            believe(change.at, change.observer, change.subject, change.state)
            continue
        for subject in range(n):
            if subject != change.observer and held[subject][change.observer] != beliefs.UNKNOWN:
                believe(change.at, change.observer, subject, beliefs.UNKNOWN)
    return rows


def _sampled(row: _Row, seconds: float) -> list[tuple[float, float, Counts]]:
    """Return spans of time with the worst counts within each column of the picture, equal neighbours joined."""
    spans: list[tuple[float, float, Counts]] = []
    step = seconds / _COLUMNS
    place, current = 0, row.changes[0][1]
    for column in range(_COLUMNS):
        start, end = column * step, (column + 1) * step
        worst = current
        while place < len(row.changes) and row.changes[place][0] < end:
            current = row.changes[place][1]
            worst = max(worst, current, key=lambda counts: (counts[beliefs.FAILED], counts[beliefs.SUSPECT]))
            place += 1
        if spans and spans[-1][2] == worst:
            spans[-1] = (spans[-1][0], end, worst)
        else:
            spans.append((start, end, worst))
    return spans


def _chosen(rows: list[_Row]) -> list[_Row]:
    """Return the rows that are drawn: all when they fit, otherwise those with the most changes, in order."""
    if len(rows) <= _MAX_ROWS:
        return rows
    busiest = sorted(rows, key=lambda row: (-len(row.changes), row.subject))[:_MAX_ROWS]
    return sorted(busiest, key=lambda row: row.subject)


def plot(result: SimulationResult) -> str:
    """Return an SVG picture of a run.

    Raises:
        ValueError: the run did not keep who believed what.
    """
    if result.beliefs is None:
        raise ValueError("the run did not keep who believed what: run it with keeps_beliefs=True")
    rows = _chosen(_rows(result.beliefs))
    row_height = max(5, min(26, 900 // len(rows)))
    height = _TOP + row_height * len(rows) + _BOTTOM
    size = f'width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        *_heading(result),
    ]
    for place, row in enumerate(rows):
        parts += _draw_row(row, _TOP + place * row_height, row_height, result.scenario.seconds)
    parts += _moments(result.scenario, _TOP + row_height * len(rows))
    parts += _axis(result.scenario.seconds, _TOP + row_height * len(rows))
    return "\n".join((*parts, "</svg>", ""))


def _heading(result: SimulationResult) -> Iterable[str]:
    title = result.scenario.title or result.scenario.name
    yield f'<text x="{_LEFT}" y="20" font-size="15">{escape(title)} (seed {result.seed})</text>'
    yield f'<text x="{_LEFT}" y="44">what the others believe of each node:</text>'
    for place, state in enumerate((beliefs.ALIVE, beliefs.SUSPECT, beliefs.FAILED, beliefs.LEFT, beliefs.UNKNOWN)):
        x = _LEFT + 230 + place * 95
        yield f'<rect x="{x}" y="34" width="12" height="12" fill="{_COLOURS[state]}"/>'
        yield f'<text x="{x + 17}" y="44">{_WORDS[state]}</text>'


def _x(at: float, seconds: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - 20) * at / seconds


def _draw_row(row: _Row, y: float, height: float, seconds: float) -> Iterable[str]:
    if height >= 10 or row.subject % 10 == 0:
        yield f'<text x="{_LEFT - 8}" y="{y + min(height, 12) - 1:.1f}" text-anchor="end">n{row.subject}</text>'
    bar = height - (2 if height >= 10 else 1)
    for start, end, counts in _sampled(row, seconds):
        total, top = sum(counts), y
        if not total:
            continue
        x, width = _x(start, seconds), _x(end, seconds) - _x(start, seconds)
        for state in _STACK:
            share = bar * counts[state] / total
            if share:
                yield (
                    f'<rect x="{x:.1f}" y="{top:.2f}" width="{width:.1f}" height="{share:.2f}" '
                    f'fill="{_COLOURS[state]}"/>'
                )
                top += share


def _moments(scenario: Scenario, bottom: float) -> Iterable[str]:
    for fault in scenario.faults:
        name = type(fault).__name__
        ends = [fault.at + length for length in (getattr(fault, "seconds", None),) if length is not None]
        for at in (fault.at, *ends):
            x = _x(at, scenario.seconds)
            yield (
                f'<line x1="{x:.1f}" y1="{_TOP - 4}" x2="{x:.1f}" y2="{bottom + 4}" stroke="#222" '
                f'stroke-dasharray="3 3"><title>{escape(name)}</title></line>'
            )


def _axis(seconds: float, y: float) -> Iterable[str]:
    step = next(step for step in (1, 2, 5, 10, 20, 60, 120, 300, 600, 1800, 3600, 36000, 1e9) if seconds / step <= 16)
    at = 0.0
    while at <= seconds:
        x = _x(at, seconds)
        yield f'<line x1="{x:.1f}" y1="{y}" x2="{x:.1f}" y2="{y + 5}" stroke="#222"/>'
        yield f'<text x="{x:.1f}" y="{y + 19}" text-anchor="middle">{at:g}</text>'
        at += step
    yield f'<text x="{_WIDTH - 20}" y="{y + 37}" text-anchor="end">seconds</text>'
