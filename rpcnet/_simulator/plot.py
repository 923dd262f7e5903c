"""Who believed what when, as a picture: an SVG file written by hand.

The rules of this file:

* Time runs to the right. At each moment at which a fault happens or ends there is a line.
* When only one node gave anybody reason to change his mind, there is a row per observer, in the colour of what it
  believes of that node. Otherwise there is a row per node that others changed their mind about; its colours say how
  many of the others believe it alive, suspect, failed or departed, as shares of the row's height.
* Nodes of which everybody believed the same throughout have no row, and the heading says how many they are.
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
_MAX_LABELS = 4
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
    """How many observers believe what of one subject, over time; or what one observer believes."""

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
    """Return the rows that are drawn: those with changes, in order; if they do not fit, those with the most."""
    changed = [row for row in rows if len(row.changes) > 1] or rows
    busiest = sorted(changed, key=lambda row: (-len(row.changes), row.subject))[:_MAX_ROWS]
    return sorted(busiest, key=lambda row: row.subject)


def _by_observer(log: BeliefLog, subject: int) -> list[_Row]:
    """Return a row per observer of one subject; each believes one thing at a time."""
    first = beliefs.ALIVE if log.converged else beliefs.UNKNOWN
    rows = [_Row(observer, [(0.0, _only(first))]) for observer in range(log.n_nodes)]
    for change in log.changes():
        if change.forgets or change.subject == subject:
            state = beliefs.UNKNOWN if change.forgets else change.state
            rows[change.observer].changes.append((change.at, _only(state)))
    return [row for row in rows if row.subject != subject]


def _only(state: int) -> Counts:
    return tuple(int(state == each) for each in range(len(_COLOURS)))


def plot(result: SimulationResult) -> str:
    """Return an SVG picture of a run.

    Raises:
        ValueError: the run did not keep who believed what.
    """
    if result.beliefs is None:
        raise ValueError("the run did not keep who believed what: run it with keeps_beliefs=True")
    log = result.beliefs
    rows = _chosen(_rows(log))
    n_quiet = log.n_nodes - len(rows)
    about = f"what the others believe of each node{f' ({n_quiet} more: no change)' if n_quiet else ''}:"
    if len(rows) == 1 and 2 < log.n_nodes <= _MAX_ROWS:
        about = f"what each node believes of {_name(rows[0].subject)}:"
        rows = _by_observer(log, rows[0].subject)
    row_height = max(5, min(120 if len(rows) <= 5 else 26, 900 // len(rows)))
    bottom = _TOP + row_height * len(rows)
    size = f'width="{_WIDTH}" height="{bottom + _BOTTOM}" viewBox="0 0 {_WIDTH} {bottom + _BOTTOM}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{bottom + _BOTTOM}" fill="white"/>',
        *_heading(result, about),
    ]
    for place, row in enumerate(rows):
        parts += _draw_row(row, _TOP + place * row_height, row_height, result.scenario.seconds)
    parts += _moments(result.scenario, bottom)
    parts += _axis(result.scenario.seconds, bottom)
    return "\n".join((*parts, "</svg>", ""))


def _name(number: int) -> str:
    return f"n{number}"


def _heading(result: SimulationResult, about: str) -> Iterable[str]:
    title = result.scenario.title or result.scenario.name
    yield f'<text x="{_LEFT}" y="20" font-size="15">{escape(title)} (seed {result.seed})</text>'
    yield f'<text x="{_LEFT}" y="44">{escape(about)}</text>'
    for place, state in enumerate((beliefs.ALIVE, beliefs.SUSPECT, beliefs.FAILED, beliefs.LEFT, beliefs.UNKNOWN)):
        x = _WIDTH - 20 - (5 - place) * 95
        yield f'<rect x="{x}" y="34" width="12" height="12" fill="{_COLOURS[state]}"/>'
        yield f'<text x="{x + 17}" y="44">{_WORDS[state]}</text>'


def _x(at: float, seconds: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - 20) * at / seconds


def _draw_row(row: _Row, y: float, height: float, seconds: float) -> Iterable[str]:
    if height >= 10 or row.subject % 10 == 0:
        yield f'<text x="{_LEFT - 8}" y="{y + min(height, 12) - 1:.1f}" text-anchor="end">{_name(row.subject)}</text>'
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
    labels = 0
    for fault in scenario.faults:
        name, length = type(fault).__name__, getattr(fault, "seconds", None)
        moments = [(fault.at, name)] + ([] if length is None else [(fault.at + length, f"end of {name}")])
        for at, what in moments:
            x = _x(at, scenario.seconds)
            yield (
                f'<line x1="{x:.1f}" y1="{_TOP - 4}" x2="{x:.1f}" y2="{bottom + 4}" stroke="#222" '
                f'stroke-dasharray="3 3"><title>{escape(what)}</title></line>'
            )
            labels += 1
            if labels <= _MAX_LABELS:
                yield f'<text x="{x:.1f}" y="{bottom + 37}" text-anchor="middle" fill="#555">{escape(what)}</text>'


def _axis(seconds: float, y: float) -> Iterable[str]:
    step = next(step for step in (1, 2, 5, 10, 20, 60, 120, 300, 600, 1800, 3600, 36000, 1e9) if seconds / step <= 16)
    at = 0.0
    while at <= seconds:
        x = _x(at, seconds)
        yield f'<line x1="{x:.1f}" y1="{y}" x2="{x:.1f}" y2="{y + 5}" stroke="#222"/>'
        yield f'<text x="{x:.1f}" y="{y + 19}" text-anchor="middle">{at:g}</text>'
        at += step
    yield f'<text x="{_WIDTH - 20}" y="{y + 37}" text-anchor="end">seconds</text>'
