"""mypy itself confirms that the decorators keep static types, and refuses code that is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]

WRONG = """
from rpcnet.service import rpc, service

@service
class Greeter:
    @rpc
    async def hello(self, name: str) -> str:
        return name

async def call(greeter: Greeter) -> int:
    return await greeter.hello(7)
"""


def mypy(cache: Path, *files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(cache)]
    return subprocess.run(
        [*command, *map(str, files)],
        cwd=PROJECT,
        env={**os.environ, "MYPYPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_decorated_classes_keep_their_static_types(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.cache is not None
    done = mypy(pytestconfig.cache.mkdir("mypy"), Path(__file__).with_name("stub_types.py"))
    assert (done.returncode, done.stdout) == (0, "")


def test_a_wrong_call_is_refused(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    assert pytestconfig.cache is not None
    snippet = tmp_path / "snippet.py"
    snippet.write_text(WRONG)
    done = mypy(pytestconfig.cache.mkdir("mypy"), snippet)
    assert done.returncode == 1
    assert 'Argument 1 to "hello" of "Greeter" has incompatible type "int"; expected "str"' in done.stdout
    assert 'Incompatible return value type (got "str", expected "int")' in done.stdout
