"""Asking a node something: the options that say whom, the connection, and how it ends.

The rules of this file:

* What has a colon is an address, and is dialled. Anything else is the name of a node, which the seeds know.
* SIGINT and SIGTERM cancel what is asked, at the node too; a second one ends the process at once.
* The time allowed counts from the beginning. What is left of it when the call is made travels as its deadline.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, Protocol, TypeVar

import attrs
import trio
import typer

import rpcnet

from ._beside import beside
from ._description import Unreadable
from ._ending import ending_signals
from ._lines import printable, to_line
from ._options import split_seeds
from ._outcomes import Declared, error_data, error_line, exit_code
from ._values import Misfit

__all__ = [
    "NodeArgument",
    "Question",
    "ReachOption",
    "StubMaker",
    "TimeoutOption",
    "described",
]

T = TypeVar("T")

NodeArgument = Annotated[
    str,
    typer.Argument(metavar="NODE", help="An address, HOST:PORT; or a node's name, with --seed.", show_default=False),
]
ReachOption = Annotated[
    list[str] | None,
    typer.Option(
        "--seed",
        envvar="RPCNET_SEEDS",
        metavar="HOST:PORT",
        help="A node of the cluster, which knows the others by name; repeat it, or separate several by commas.",
    ),
]
TimeoutOption = Annotated[
    float | None,
    typer.Option("--timeout", metavar="SECONDS", help="Give up then, and cancel the call.", show_default="none"),
]


class StubMaker(Protocol):
    """Makes stubs that call the node."""

    def __call__(self, service: Callable[..., T], /, *, metadata: Mapping[str, str] | None = None) -> T:
        """Return a stub of a service."""


@attrs.frozen
class Question:
    """Whom to ask, and how long."""

    node: str
    """An address, or the name of a node."""
    seeds: tuple[str, ...] = attrs.field(converter=split_seeds)
    """Addresses of nodes that know it, if it is a name."""
    timeout: float | None
    """Seconds; None for as long as it takes."""
    as_json: bool
    """Whether errors are printed as JSON."""

    def ask(self, security: Callable[[], rpcnet.Security | None], ask: Callable[[StubMaker], Awaitable[None]]) -> None:
        """Connect, ask, and end the command.

        Args:
            security: returns what is shown and checked; None for the default.
            ask: does the asking.

        Raises:
            typer.Exit: always; the codes are those of ``_outcomes.py``, 128 + n for a signal.
        """
        try:
            code = trio.run(self._until_signal, security, ask)
        except BrokenPipeError:
            code = 128 + signal.SIGPIPE
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
        except (rpcnet.RpcNetError, Declared, Misfit, Unreadable, OSError) as error:
            text = to_line(error_data(error)) if self.as_json else printable(error_line(error))
            typer.echo(text, err=True)
            code = exit_code(error)
        raise typer.Exit(code)

    async def _until_signal(
        self, security: Callable[[], rpcnet.Security | None], ask: Callable[[StubMaker], Awaitable[None]]
    ) -> int:
        code = 0
        with ending_signals() as signals, trio.CancelScope() as scope:

            async def listen() -> None:
                nonlocal code
                if signals is not None:
                    code = 128 + await anext(signals)
                    scope.cancel()

            async with beside(listen):
                await self._in_time(security, ask)
        return code

    async def _in_time(
        self, security: Callable[[], rpcnet.Security | None], ask: Callable[[StubMaker], Awaitable[None]]
    ) -> None:
        timeout = float("inf") if self.timeout is None else self.timeout
        if not timeout > 0:
            raise rpcnet.ConfigError(f"--timeout {timeout:g}: must be above 0")
        with trio.move_on_after(timeout) as limit:
            async with self._reached(security()) as stub_of:
                await ask(stub_of)
        if limit.cancelled_caught:
            raise rpcnet.DeadlineExceeded(f"{self.node} has not answered within {timeout:g} s")

    @asynccontextmanager
    async def _reached(self, security: rpcnet.Security | None) -> AsyncGenerator[StubMaker, None]:
        if ":" in self.node:
            async with rpcnet.connect(self.node, security=security) as connection:
                yield connection.stub
            return
        if not self.seeds:
            raise rpcnet.ConfigError(f"NODE {self.node!r}: write HOST:PORT, or say --seed for the name of a node")
        async with rpcnet.connect_cluster(self.seeds, security=security) as client:
            if client.registry.get(self.node) is None:
                raise rpcnet.NoWorkers(f"no node is called {self.node!r}; there is: {_names(client.registry.nodes())}")
            yield functools.partial(client.stub, node=self.node)


def _names(nodes: Iterable[rpcnet.NodeInfo]) -> str:
    return ", ".join(sorted(node.name for node in nodes))


async def described(stub_of: StubMaker, name: str) -> dict[str, Any]:
    """Return what the node tells of a service or a method. A checkpoint.

    Raises:
        Unimplemented: it serves nothing of that name; the message says what it serves instead.
    """
    reflection = stub_of(rpcnet.Reflection)
    try:
        return await reflection.describe(name)
    except rpcnet.NotFound as error:
        problem = error.message
    for service in await reflection.services():
        if name.startswith(f"{service.name}."):
            method = name.removeprefix(f"{service.name}.")
            problem = f"{service.name} has no method {method!r}; it has: {', '.join(service.methods)}"
    raise rpcnet.Unimplemented(problem)
