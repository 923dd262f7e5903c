"""The command line of a peer's program: ``python x_peer.py serve|load <settings as JSON>``."""

from __future__ import annotations

import argparse
import functools
import json
import resource
from collections.abc import Callable

import attrs
import cattrs
from loads import LOADS
from measure import Load
from peering import Loop, Peer, Settings

__all__ = ["announce", "arguments", "main", "report"]

_converter = cattrs.Converter()
"""Knows paths: cattrs writes and reads them as strings."""


def arguments(description: str | None) -> tuple[str, Settings]:
    """Return the role and the settings from the program's arguments, and allow as many files as the system does."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("role", choices=["serve", "load"])
    parser.add_argument("settings", help="as JSON")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return options.role, _converter.structure(json.loads(options.settings), Settings)


def announce(address: str) -> None:
    """Say where the server listens."""
    print(json.dumps({"address": address}), flush=True)


def report(measured: Load) -> None:
    """Say what was measured."""
    print(json.dumps(attrs.asdict(measured)), flush=True)


def main(make: Callable[[Settings, Loop], Peer], loop: Loop, description: str | None) -> None:
    """Serve or load, as the arguments say."""
    role, settings = arguments(description)
    peer = make(settings, loop)
    if role == "serve":
        loop.run(peer.serve)
    else:
        report(loop.run(functools.partial(LOADS[settings.workload], peer, loop, settings)))
