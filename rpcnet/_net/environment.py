"""Which environment a node lives in: the real machine, unless the run says otherwise.

A simulation sets its own for the whole run of Trio, so that a node needs no argument to live in it.
"""

from __future__ import annotations

import trio

from .ports import Environment
from .udp import RealEnvironment

__all__ = ["current_environment", "set_environment"]

_REAL: Environment = RealEnvironment()
_environment: trio.lowlevel.RunVar[Environment] = trio.lowlevel.RunVar("rpcnet environment", _REAL)


def current_environment() -> Environment:
    """Return the environment of this run of Trio."""
    return _environment.get()


def set_environment(environment: Environment) -> None:
    """Let every node that is made in this run of Trio from now on live in ``environment``."""
    _environment.set(environment)
