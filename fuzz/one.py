"""Fuzz one target until something is found or the time is over: ``python fuzz/one.py TARGET CORPUS [OPTION ...]``.

Options are those of libFuzzer. An input that was found is played again with ``python fuzz/one.py TARGET FILE``.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["rpcnet"]):
    from targets import TARGETS


def main() -> None:
    """Give the process to libFuzzer."""
    name, *options = sys.argv[1:]
    run = TARGETS[name].run
    atheris.Setup([sys.argv[0], *options], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
