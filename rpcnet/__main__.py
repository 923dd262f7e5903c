"""``python -m rpcnet``: the command line, or one line that says what is missing for it."""

from __future__ import annotations

import sys

EXTRA = frozenset({"typer", "rich"})


def main() -> None:
    """Run the command line; exit with 2 when the extra ``cli`` is not installed."""
    try:
        from .cli.app import app  # noqa: PLC0415 - the extra may be missing
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRA:
            raise
        sys.stderr.write(f"rpcnet: the command line needs {missing}: pip install 'rpcnet[cli]'\n")
        raise SystemExit(2) from None
    app(prog_name="rpcnet")


if __name__ == "__main__":
    main()
