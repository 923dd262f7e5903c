"""How a call ended, as exit code, as a line and as data."""

from __future__ import annotations

from typing import Any

from rpcnet import StatusError

__all__ = ["error_data", "error_line", "exit_code"]

_FIRST_STATUS = 64


def exit_code(error: StatusError) -> int:
    """Return 64 + the number of the status: 69 for NOT_FOUND, 78 for UNAVAILABLE."""
    return _FIRST_STATUS + error.status


def error_line(error: StatusError) -> str:
    """Return one line: the status, what happened, and the id under which the node logged it."""
    return f"{error.status.name}: {error}"


def error_data(error: StatusError) -> dict[str, Any]:
    """Return an error as JSON can hold it."""
    return {
        "status": error.status.name,
        "code": int(error.status),
        "message": error.message,
        "call_id": error.call_id,
        "hops": [{"node": hop.node, "method": hop.method, "call_id": hop.call_id} for hop in error.hops],
    }
