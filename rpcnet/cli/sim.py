"""``rpcnet sim``: the membership protocol of many nodes in virtual time.

Exit code 0 when everything required was measured, 1 when something was missed, 2 when a scenario or an option is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import attrs
import typer
from rich.console import Console

from rpcnet import ConfigError
from rpcnet._simulator.campaign import Report, compare, run_all
from rpcnet._simulator.plot import plot
from rpcnet._simulator.reading import scenario_from_json, scenario_to_json
from rpcnet._simulator.running import simulate
from rpcnet._simulator.scenario import Scenario, resized
from rpcnet._simulator.shipped import SCENARIOS, scenario_named

from ._sim_table import figures_table, report_data, required_table, scenarios_table

__all__ = ["sim"]

sim = typer.Typer(no_args_is_help=True, help="Try the membership protocol with many nodes, in virtual time.")

_MAX_SEEDS = 100_000

SeedsOption = Annotated[int, typer.Option("--seeds", min=1, max=_MAX_SEEDS, help="How many runs.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="The seed of the first run; the others count up.")]
JobsOption = Annotated[int | None, typer.Option("--jobs", min=1, max=256, help="Processes to use. Default: the cores.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per scenario, nothing else.")]
NodesOption = Annotated[int | None, typer.Option("--nodes", help="Another number of nodes.", show_default=False)]
LossOption = Annotated[float | None, typer.Option("--loss", help="Another loss, 0 to 1.", show_default=False)]
SecondsOption = Annotated[
    float | None, typer.Option("--seconds", help="Another end of the run, in virtual seconds.", show_default=False)
]


@sim.command("list")
def list_scenarios(*, as_json: JsonOption = False) -> None:
    """Show the scenarios that come with rpcnet, and what must hold in each."""
    if as_json:
        for scenario in SCENARIOS:
            typer.echo(json.dumps(json.loads(scenario_to_json(scenario))))
    else:
        _console().print(scenarios_table(SCENARIOS))


@sim.command("run")
def run(
    scenario: Annotated[
        str, typer.Argument(help="The name of a scenario, see 'rpcnet sim list', or a JSON file with one.")
    ],
    *,
    nodes: NodesOption = None,
    loss: LossOption = None,
    seconds: SecondsOption = None,
    seeds: SeedsOption = 1,
    seed: SeedOption = 0,
    jobs: JobsOption = None,
    plot_to: Annotated[
        Path | None,
        typer.Option("--plot", help="Draw who believed what when, in the first run, to this SVG file.", dir_okay=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run one scenario and show what was measured, beside what is required."""
    chosen = _changed(_read(scenario), nodes, {"loss": loss, "seconds": seconds})
    reports = run_all([chosen], range(seed, seed + seeds), jobs=jobs)
    if as_json:
        typer.echo(json.dumps(report_data(reports[0])))
    else:
        _show(reports[0])
    if plot_to is not None and not reports[0].breaches:
        _draw(chosen, seed, plot_to)
    raise typer.Exit(0 if reports[0].is_met else 1)


@sim.command("all")
def run_every(
    *,
    seeds: SeedsOption = 20,
    seed: SeedOption = 0,
    jobs: JobsOption = None,
    largest: Annotated[int, typer.Option("--up-to", help="Leave out scenarios with more nodes.")] = 1_000_000,
    as_json: JsonOption = False,
) -> None:
    """Run all scenarios and print what is required beside what was measured."""
    scenarios = [scenario for scenario in SCENARIOS if scenario.nodes <= largest]
    if not scenarios:
        _refuse(f"--up-to {largest}: there is no scenario with so few nodes")

    def tell(report: Report) -> None:
        verdict = "ok" if report.is_met else "missed"
        typer.echo(f"{report.scenario.name}: {verdict}, {report.core_seconds:.0f} s of one core", err=True)

    reports = run_all(scenarios, range(seed, seed + seeds), jobs=jobs, on_report=tell)
    between = compare(reports)
    if as_json:
        for report in reports:
            more = [row for row in between if row.scenario == report.scenario.name]
            typer.echo(json.dumps(report_data(report, more)))
    else:
        rows = [row for report in reports for row in report.rows()]
        _console().print(required_table([*rows, *between]))
        _show_breaches(reports)
    raise typer.Exit(0 if all(report.is_met for report in reports) and all(row.is_met for row in between) else 1)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=140)


def _refuse(message: str) -> None:
    typer.echo(message, err=True)
    raise typer.Exit(2)


def _read(name: str) -> Scenario:
    found = scenario_named(name)
    if found is not None:
        return found
    path = Path(name)
    if path.suffix != ".json":
        _refuse(f"{name}: there is no such scenario, see 'rpcnet sim list'; a file's name ends in .json")
    try:
        return scenario_from_json(path.read_bytes())
    except OSError as error:
        _refuse(f"{name}: {error.strerror}")
    except ConfigError as error:
        _refuse(f"{name}: {error}")
    raise AssertionError("refused above")


def _changed(scenario: Scenario, nodes: int | None, changes: dict[str, Any]) -> Scenario:
    try:
        scenario = scenario if nodes is None else resized(scenario, nodes)
        return attrs.evolve(scenario, **{key: value for key, value in changes.items() if value is not None})
    except ConfigError as error:
        _refuse(f"{scenario.name}: {error}")
    raise AssertionError("refused above")


def _show(report: Report) -> None:
    console = _console()
    seeds = f"{len(report.seeds)} runs" if len(report.seeds) > 1 else f"seed {report.seeds[0]}"
    title = report.scenario.title or report.scenario.name
    console.print(f"{title}; {seeds}, {report.core_seconds:.1f} s of one core", highlight=False)
    console.print(figures_table(report))
    if report.rows():
        console.print(required_table(report.rows()))
    _show_breaches([report])


def _show_breaches(reports: Sequence[Report]) -> None:
    for report in reports:
        for breach in report.breaches:
            typer.echo(f"{report.scenario.name}, seed {breach.seed}: {breach.text}")


def _draw(scenario: Scenario, seed: int, path: Path) -> None:
    result = simulate(scenario, seed=seed)
    try:
        path.write_text(plot(result), encoding="utf-8")
    except OSError as error:
        _refuse(f"{path}: {error.strerror}")
