"""The commands of ``rpcnet``.

Exit codes, the same for every command:

====== ================================================================================================================
0      it went well; for a command that serves: SIGTERM came, and every running call finished
1      it did not: no seed answered, there is no such node, the node crashed, code of the application raised, or calls
       had to be cut because they took longer than the drain timeout
2      an option, an argument, a setting, key material or the application is wrong; starting again changes nothing
64+n   a call ended with the status of number n: 67 INVALID_ARGUMENT, 68 DEADLINE_EXCEEDED, 69 NOT_FOUND,
       71 PERMISSION_DENIED, 76 UNIMPLEMENTED, 78 UNAVAILABLE, 80 UNAUTHENTICATED; see ``rpcnet.Status``
128+n  signal n ended it: 130 for SIGINT, in good order; 128+n for a second signal, at once; 141 if nobody reads any
       more what a call prints
====== ================================================================================================================

So a process manager that stops a service with SIGTERM sees success, and failure if work was lost. To let it start
again only what may go better the next time, exempt code 2 (in systemd ``RestartPreventExitStatus=2``). It should wait
longer than the drain timeout before it kills (``TimeoutStopSec=``, ``terminationGracePeriodSeconds``).
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Annotated

import trio
import typer
from rich.console import Console

from rpcnet import RpcNetError

from .agent import agent
from .call import call
from .demo.cluster import leaves
from .demo.job import Snapshot, snapshot, standard_library
from .demo.run import DemoFailed, run_until_signal
from .demo.summary import Summary, as_data, as_text
from .demo.view import LiveView, PlainView, SilentView, View
from .run import run
from .schema import schema
from .sim import sim

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def rpcnet() -> None:
    """Distributed programs built the way Trio programs are."""


app.command()(agent)
app.command()(run)
app.command()(call)
app.command()(schema)
app.add_typer(sim, name="sim")


@app.command()
def demo(
    *,
    input_path: Annotated[
        Path | None,
        typer.Option(
            "--input",
            help="Analyse every file under this directory. "
            "Without it: every *.py of the running Python's standard library, some 30 MB.",
            exists=True,
            file_okay=False,
            readable=True,
            resolve_path=True,
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=2, max=64, help="How many workers to begin with.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON and nothing else.")] = False,
) -> None:
    """Run a cluster on this machine, kill one of its workers, and check that nothing is lost.

    One coordinator and some workers, each a process of its own, find each other by gossip. The workers count lines and
    words of files and hash them. After a third of the work one worker is killed with SIGKILL; a new one joins a second
    later. The result is compared with the same job done serially: exit code 0 if they are equal, 1 otherwise.
    """
    files = standard_library() if input_path is None else snapshot(input_path)
    if not files.files:
        raise typer.BadParameter(f"there is no file under {files.root}", param_hint="--input")
    result = _run_demo(files, workers, _view(as_json=as_json))
    if isinstance(result, signal.Signals):
        raise typer.Exit(128 + result)
    typer.echo(json.dumps(as_data(result), indent=2) if as_json else "\n" + as_text(result))
    raise typer.Exit(0 if result.ok else 1)


def _view(*, as_json: bool) -> View:
    if as_json:
        return SilentView()
    console = Console()
    return LiveView(console) if console.is_terminal and not console.is_dumb_terminal else PlainView(console)


def _run_demo(files: Snapshot, workers: int, view: View) -> Summary | signal.Signals:
    problems: list[str] = []
    try:
        with view:
            return trio.run(run_until_signal, files, workers, view)
    except* (DemoFailed, RpcNetError) as group:
        problems += [f"{type(error).__name__}: {error}" for error in leaves(group)]
    typer.echo("\n".join(problems), err=True)
    raise typer.Exit(1)
