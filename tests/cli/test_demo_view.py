from __future__ import annotations

import io
import json

import attrs
import pytest
from rich.console import Console

from rpcnet import ClusterEvent, EventsDropped, NodeFailed, NodeInfo, NodeJoined, NodeState, NodeSuspected
from rpcnet.cli.demo.job import Comparison, Totals
from rpcnet.cli.demo.summary import Summary, as_data, as_text
from rpcnet.cli.demo.view import SHOWN_LINES, Board, LiveView, NodeRow, PlainView, describe

NODE = NodeInfo("ab" * 16, "worker-2", "127.0.0.1:4000", 1, 0, NodeState.FAILED)
GOOD = Summary(
    totals=Totals(3, 1, 2_000, 40, 300, {"self": 12, "def": 7}, "ff" * 32),
    comparison=Comparison(equal=True, differing=(), changed=()),
    lost=0,
    calls=5,
    calls_per_worker={"worker-1": 2, "worker-2": 1},
    retries=2,
    killed="worker-2",
    joined_later="worker-3",
    kill_to_failed=2.5,
    replacement_joined=True,
    cluster_seconds=4.0,
    serial_seconds=3.0,
)


def console() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None, legacy_windows=False)


def written(target: Console) -> str:
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def test_the_live_view_shows_progress_nodes_and_the_last_lines() -> None:
    view, screen = LiveView(console()), console()
    for number in range(SHOWN_LINES + 2):
        view.say(number, f"line {number}")
    with view:
        view.show(Board(5, 20, (NodeRow("worker-2", "suspect", 3.25, 8, 41), NodeRow("me", "alive", None, 0, 0))))
    screen.print(view.picture())
    text = written(screen)
    assert "5 of 20 files" in text
    row = next(line for line in text.splitlines() if "worker-2" in line)
    assert [cell.strip() for cell in row.strip("│ ").split("│")] == ["worker-2", "suspect", "3.2", "8", "41"]
    said = [line.rpartition("s  ")[2].strip() for line in text.splitlines() if "line" in line]
    assert said == [f"line {number}" for number in range(2, SHOWN_LINES + 2)]


def test_the_plain_view_writes_every_event_and_every_tenth_once() -> None:
    target = console()
    with PlainView(target) as view:
        view.say(1.5, "[worker-1] started")
        for done in range(21):
            view.show(Board(done, 20))
            view.show(Board(done, 20))
    lines = written(target).splitlines()
    assert lines[0] == "    1.50 s [worker-1] started"
    assert [line.split()[0] for line in lines[1:]] == [str(done) for done in range(2, 21, 2)]


def test_an_empty_job_is_no_division_by_zero() -> None:
    PlainView(console()).show(Board(0, 0))
    console().print(LiveView(console()).picture())


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (NodeFailed(NODE, "no answer for 2 s", at=1.0), "NodeFailed worker-2: no answer for 2 s"),
        (NodeSuspected(NODE, 2.345, ("a", "b"), at=1.0), "NodeSuspected worker-2: phi 2.3, missed by 2"),
        (NodeJoined(NODE, at=1.0), "NodeJoined worker-2"),
        (EventsDropped(7, at=1.0), "EventsDropped 7"),
    ],
)
def test_an_event_is_told_in_one_line(event: ClusterEvent, line: str) -> None:
    assert describe(event) == line


def test_the_summary_is_data_that_json_takes() -> None:
    data = json.loads(json.dumps(as_data(GOOD)))
    assert (data["ok"], data["files"], data["retries"], data["lost"]) == (True, 3, 2, 0)
    assert data["calls_per_worker"] == {"worker-1": 2, "worker-2": 1}
    assert data["seconds_from_kill_to_failed"] == 2.5


def test_the_summary_is_text_with_every_figure() -> None:
    text = as_text(GOOD)
    for part in (
        "3 (1 unreadable)",
        "2,000",
        "self 12",
        "worker-2 1",
        "NodeFailed after 2.50 s",
        "equal to the serial",
    ):
        assert part in text


@pytest.mark.parametrize(
    "flawed",
    [
        attrs.evolve(GOOD, lost=1),
        attrs.evolve(GOOD, kill_to_failed=None),
        attrs.evolve(GOOD, replacement_joined=False),
        attrs.evolve(GOOD, comparison=Comparison(equal=False, differing=("a.py",), changed=())),
    ],
)
def test_a_demo_with_any_flaw_is_not_ok(flawed: Summary) -> None:
    assert (GOOD.ok, flawed.ok) == (True, False)
    assert as_text(flawed) != as_text(GOOD)


def test_the_text_names_files_that_differ_and_counts_those_that_changed() -> None:
    summary = attrs.evolve(GOOD, comparison=Comparison(equal=False, differing=("a.py", "b.py"), changed=("c.py",)))
    assert "NOT equal to the serial result; 2 files differ, the first is a.py; 1 files left out" in as_text(summary)
