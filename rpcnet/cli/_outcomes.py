"""How a command ended that asks a node for something: as exit code, as a line and as data.

The rules of this file:

* A call's own outcome has the codes from 64 on, one for each status, so that a script can tell them apart. Everything
  else that goes wrong is as for every command: 2 if the words are wrong, 1 otherwise.
* A declared error is told with its name and its fields, as the node has described them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from rpcnet import ApplicationError, ConfigError, SecurityError, StatusError

from ._values import Misfit

__all__ = ["Declared", "error_data", "error_line", "exit_code"]

_FIRST_STATUS = 64


@attrs.frozen(eq=False)
class Declared(Exception):
    """A declared error that a call ended with."""

    error: ApplicationError
    """The error itself."""
    fields: Mapping[str, Any]
    """Its fields as JSON."""


def exit_code(error: Exception) -> int:
    """Return 64 + the number of the status: 69 for NOT_FOUND, 78 for UNAVAILABLE; 2 for wrong words, 1 for the rest."""
    match error:
        case Declared():
            return exit_code(error.error)
        case StatusError():
            return _FIRST_STATUS + error.status
        case ConfigError() | SecurityError() | Misfit():
            return 2
    return 1


def error_line(error: Exception) -> str:
    """Return one line: the status, what happened, and the id under which the node logged it."""
    match error:
        case Declared():
            return error_line(error.error)
        case StatusError():
            return f"{error.status.name}: {error}"
    return f"rpcnet: {error}"


def error_data(error: Exception) -> dict[str, Any]:
    """Return an error as JSON can hold it."""
    match error:
        case Declared():
            data = error_data(error.error)
            return {**data, "error": type(error.error).__name__, "fields": dict(error.fields)}
        case StatusError():
            return {
                "status": error.status.name,
                "code": int(error.status),
                "message": error.message,
                "call_id": error.call_id,
                "hops": [{"node": hop.node, "method": hop.method, "call_id": hop.call_id} for hop in error.hops],
            }
    return {"error": type(error).__name__, "message": str(error)}
