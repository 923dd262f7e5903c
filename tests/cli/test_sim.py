"""``rpcnet sim``: scenarios listed, run, drawn, and refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from rpcnet.cli.app import app
from rpcnet.testing import SCENARIOS, HostGone, Requirement, Scenario, scenario_to_json

FAST = Scenario(
    name="fast",
    title="four nodes",
    nodes=4,
    seconds=25,
    faults=(HostGone(at=5, node=1),),
    required=(Requirement("all_know.max", at_most=15),),
)


class Shown(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str


def invoke(*arguments: str) -> Shown:
    result = CliRunner().invoke(app, ["sim", *arguments])
    return Shown(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def fast(tmp_path: Path) -> str:
    path = tmp_path / "fast.json"
    path.write_text(scenario_to_json(FAST))
    return str(path)


def test_the_list_names_every_scenario() -> None:
    shown = invoke("list")
    assert shown.exit_code == 0
    assert all(scenario.name in shown.stdout for scenario in SCENARIOS)
    lines = invoke("list", "--json").stdout.splitlines()
    assert [json.loads(line)["name"] for line in lines] == [scenario.name for scenario in SCENARIOS]


def test_a_run_shows_what_is_required_beside_what_was_measured(fast: str) -> None:
    shown = invoke("run", fast, "--seeds", "2", "--jobs", "1")
    assert shown.exit_code == 0
    assert "four nodes; 2 runs" in shown.stdout
    assert "<= 15" in shown.stdout
    assert "ok" in shown.stdout


def test_a_run_as_json_is_one_object(fast: str) -> None:
    told = json.loads(invoke("run", fast, "--json").stdout)
    assert told["scenario"] == "fast"
    assert told["met"] is True
    assert 0 < told["figures"]["all_know"]["max"] <= 15
    assert told["broken"] == []


def test_what_is_missed_ends_with_exit_code_one(fast: str) -> None:
    shown = invoke("run", fast, "--seconds", "6", "--json")
    assert shown.exit_code == 1
    [required] = json.loads(shown.stdout)["required"]
    assert required["measured"] == "never"
    assert required["met"] is False


def test_a_picture_is_written_to_a_file(fast: str, tmp_path: Path) -> None:
    target = tmp_path / "out.svg"
    assert invoke("run", fast, "--plot", str(target)).exit_code == 0
    assert target.read_text().startswith("<svg")


def test_another_number_of_nodes_moves_the_faults_along() -> None:
    told = json.loads(invoke("run", "gone-100", "--nodes", "5", "--seconds", "20", "--json").stdout)
    assert told["nodes"] == 5
    assert told["figures"]["all_know"]["max"] <= 15


def test_no_scenario_is_so_small() -> None:
    shown = invoke("all", "--up-to", "9", "--seeds", "1")
    assert shown.exit_code == 2
    assert shown.stderr == "--up-to 9: there is no scenario with so few nodes\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ("run", "gone-101"),
            "gone-101: there is no such scenario, see 'rpcnet sim list'; a file's name ends in .json",
        ),
        (("run", "nowhere.json"), "nowhere.json: No such file or directory"),
        (("run", "gone-100", "--loss", "2"), "gone-100: loss = 2.0: must be between 0 and 1"),
        (("run", "split-100", "--nodes", "1"), "split-100: 2 groups need as many nodes, 1 are too few"),
        (("run", "gone-100", "--nodes", "0"), "gone-100: nodes = 0: must be between 1 and 20000"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(arguments: tuple[str, ...], complaint: str) -> None:
    shown = invoke(*arguments)
    assert shown.exit_code == 2
    assert shown.stderr == f"{complaint}\n"


def test_a_file_that_holds_no_scenario_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text('{"name": "x", "nodes": 0}')
    shown = invoke("run", str(path))
    assert shown.exit_code == 2
    assert shown.stderr == f"{path}: nodes = 0: must be between 1 and 20000\n"


def test_a_picture_that_cannot_be_written_is_refused(fast: str, tmp_path: Path) -> None:
    shown = invoke("run", fast, "--plot", str(tmp_path / "no" / "out.svg"))
    assert shown.exit_code == 2
    assert shown.stderr.endswith("No such file or directory\n")
