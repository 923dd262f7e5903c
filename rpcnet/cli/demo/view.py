"""What a person sees while the demo runs: a live table on a terminal, lines elsewhere, nothing beside ``--json``.

The rules of this file:

* A view is told everything and decides nothing. :class:`Board` is all there is to see at one moment.
* The live view draws when it is told to, never from a thread of its own.
"""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Protocol, Self

import attrs
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rpcnet import ClusterEvent, EventsDropped, NodeEvent, NodeFailed, NodeSuspected

__all__ = ["Board", "LiveView", "NodeRow", "PlainView", "SilentView", "View", "describe"]

SHOWN_LINES = 8
"""How many of the last lines the live view shows."""
_STYLES = {"alive": "green", "suspect": "yellow", "failed": "red", "left": "dim"}


@attrs.frozen
class NodeRow:
    """One node at one moment."""

    name: str
    """Its name."""
    state: str
    """What the coordinator believes of it."""
    phi: float | None
    """How suspect its silence is; None for the coordinator itself."""
    running: int
    """Calls that run on it now."""
    done: int
    """Calls it has answered."""


@attrs.frozen
class Board:
    """All there is to see at one moment."""

    done: int
    """Files whose fate is known."""
    total: int
    """Files of the job."""
    nodes: tuple[NodeRow, ...] = ()
    """The nodes that the coordinator knows, by name."""


class View(Protocol):
    """Where the demo shows what happens."""

    def __enter__(self) -> Self:
        """Begin to show."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Leave the terminal as it should be."""
        ...

    def show(self, board: Board) -> None:
        """Show the state of things."""
        ...

    def say(self, seconds: float, line: str) -> None:
        """Tell what just happened, and when, in seconds since the start."""
        ...


class SilentView(contextlib.AbstractContextManager["SilentView", None]):
    """Shows nothing: standard output belongs to the data."""

    def __exit__(self, *_: object) -> None:
        """Do nothing."""

    def show(self, board: Board) -> None:
        """Show nothing."""

    def say(self, seconds: float, line: str) -> None:
        """Say nothing."""


class PlainView(contextlib.AbstractContextManager["PlainView", None]):
    """Writes a line for everything that happens, and one for every tenth of the work."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tenths = 0

    def __exit__(self, *_: object) -> None:
        """Do nothing: every line is out already."""

    def show(self, board: Board) -> None:
        """Write a line when another tenth is done."""
        tenths = 10 * board.done // max(board.total, 1)
        if tenths > self._tenths:
            self._tenths = tenths
            self._write(f"           {board.done} of {board.total} files done")

    def say(self, seconds: float, line: str) -> None:
        """Write the line."""
        self._write(f"{seconds:8.2f} s {line}")

    def _write(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class LiveView:
    """Draws a progress bar, the table of nodes and the last lines, again and again in the same place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False)
        self._lines: list[str] = []
        self._board = Board(0, 0)

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last picture standing and the cursor below it."""
        self._live.stop()

    def show(self, board: Board) -> None:
        """Draw the state of things."""
        self._board = board
        self._live.update(self.picture(), refresh=True)

    def say(self, seconds: float, line: str) -> None:
        """Add the line to the last ones, from the next picture on."""
        self._lines = [*self._lines, f"{seconds:8.2f} s  {line}"][-SHOWN_LINES:]

    def picture(self) -> RenderableType:
        """Return what is drawn."""
        board = self._board
        progress = Table.grid(padding=(0, 1))
        progress.add_row(
            ProgressBar(total=max(board.total, 1), completed=board.done, width=50),
            f"{board.done} of {board.total} files",
        )
        return Group(
            progress, _table(board.nodes), *(Text(line, no_wrap=True, overflow="ellipsis") for line in self._lines)
        )


def _table(nodes: tuple[NodeRow, ...]) -> Table:
    table = Table("node", "state")
    for heading in ("phi", "calls running", "calls done"):
        table.add_column(heading, justify="right")
    for node in nodes:
        phi = "" if node.phi is None else f"{node.phi:.1f}"
        state = Text(node.state, style=_STYLES.get(node.state, ""))
        table.add_row(node.name, state, phi, str(node.running), str(node.done))
    return table


def describe(event: ClusterEvent) -> str:
    """Return one line that tells an event to a person."""
    kind = type(event).__name__
    match event:
        case NodeFailed():
            return f"{kind} {event.node.name}: {event.reason}"
        case NodeSuspected():
            return f"{kind} {event.node.name}: phi {event.phi:.1f}, missed by {len(event.accusers)}"
        case NodeEvent():
            return f"{kind} {event.node.name}"
        case EventsDropped():
            return f"{kind} {event.count}"
        case _:
            return kind
