"""Running a serving command: Trio, and what errors become.

The rules of this file:

* A wrong setting, wrong key material or a wrong application is code 2: starting again changes nothing. Everything else
  that goes wrong is code 1: a process manager may try again.
* Errors that rpcnet raises on purpose are one line; only code of the user gets a traceback.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

import trio
import typer

import rpcnet

from ._application import ApplicationFailure, ApplicationMistake, users_traceback

__all__ = ["run_until_signal"]


def run_until_signal(serve: Callable[[], Awaitable[int]]) -> None:
    """Run a function that serves and returns the exit code; end the command with that code.

    Raises:
        typer.Exit: always.
    """
    try:
        code = trio.run(serve)
    except (rpcnet.ConfigError, rpcnet.SecurityError, ApplicationMistake) as error:
        code = _say(f"rpcnet: {error}", 2)
    except rpcnet.RpcNetError as error:
        code = _say(f"rpcnet: {type(error).__name__}: {error}", 1)
    except ApplicationFailure as failure:
        code = _say(str(failure), 1)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except Exception as error:  # noqa: BLE001 - of a service that could not be entered, or left
        code = _say(users_traceback(error), 1)
    raise typer.Exit(code)


def _say(text: str, code: int) -> int:
    typer.echo(text, err=True)
    return code
