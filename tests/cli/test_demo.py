"""The demo as a user runs it: a process with children of its own."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="follows processes by their Linux handles")

FILES = 200
PATIENCE = 120
"""Seconds after which a test gives up; nothing waits that long when things are well."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    rng = random.Random(7)
    for number in range(FILES):
        directory = tmp_path / f"part{number % 7}"
        directory.mkdir(exist_ok=True)
        lines = [" ".join(rng.choices(["spam", "eggs", "ham", "bacon"], k=8)) for _ in range(rng.randrange(40))]
        (directory / f"file{number}.txt").write_text("\n".join(lines))
    return tmp_path


def command(tree: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "rpcnet", "demo", "--input", str(tree), *options]


def size_of(tree: Path) -> int:
    return sum(path.stat().st_size for path in tree.rglob("*.txt"))


def arguments_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def secret_of(pid: int) -> bytes:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(line.removeprefix(b"RPCNET_SECRET=") for line in variables if line.startswith(b"RPCNET_SECRET="))


def running_workers(parent: int) -> list[int]:
    """Return the workers of one demo that still run, by what they were started with."""
    wanted = [b"rpcnet.cli.demo.worker", b"--parent", str(parent).encode()]
    found = []
    for entry in Path("/proc").iterdir():
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if all(part in arguments for part in wanted):
            found.append(int(entry.name))
    return found


@asynccontextmanager
async def running_demo(tree: Path) -> AsyncIterator[tuple[trio.Process, list[int]]]:
    """Run a demo whose workers have all joined; yields it and the handles of its workers' processes."""
    handles: list[int] = []
    process = await trio.lowlevel.open_process(command(tree), stdout=-1)
    try:
        assert process.stdout is not None
        text = ""
        while "workers joined" not in text:
            chunk = await process.stdout.receive_some()
            assert chunk, f"the demo ended early: {text}"
            text += chunk.decode()
        pids = [int(pid) for pid in re.findall(r"started, process (\d+)", text)]
        assert len(pids) == 4
        handles = [os.pidfd_open(pid) for pid in pids]
        yield process, pids
        for handle in handles:
            await trio.lowlevel.wait_readable(handle)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        for handle in handles:
            os.close(handle)


async def test_the_demo_survives_its_own_kill_and_says_so_as_json(tree: Path) -> None:
    output = b""
    with trio.fail_after(PATIENCE):
        process = await trio.lowlevel.open_process(command(tree, "--json"), stdout=-1)
        try:
            assert process.stdout is not None
            async for chunk in process.stdout:
                output += chunk
            await process.wait()
        finally:
            process.kill()
    summary = json.loads(output)
    assert (process.returncode, summary["ok"], summary["lost"], summary["equal_to_serial"]) == (0, True, 0, True)
    assert summary["files"] == FILES
    assert summary["bytes"] == size_of(tree)
    assert summary["calls"] >= FILES
    assert sum(summary["calls_per_worker"].values()) == FILES
    assert (summary["killed"] in summary["calls_per_worker"], summary["joined_later"]) == (True, "worker-5")
    assert summary["seconds_from_kill_to_failed"] > 0
    assert running_workers(process.pid) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_demo_that_is_asked_to_end_ends_its_workers_first(tree: Path, number: signal.Signals) -> None:
    with trio.fail_after(PATIENCE):
        async with running_demo(tree) as (process, _):
            process.send_signal(number)
            assert await process.wait() == 128 + number
            assert running_workers(process.pid) == []


async def test_workers_die_with_a_demo_that_is_killed(tree: Path) -> None:
    with trio.fail_after(PATIENCE):
        async with running_demo(tree) as (process, _):
            process.kill()
            assert await process.wait() == -signal.SIGKILL


async def test_the_secret_is_in_no_argument(tree: Path) -> None:
    with trio.fail_after(PATIENCE):
        async with running_demo(tree) as (process, pids):
            for pid in pids:
                secret = secret_of(pid)
                assert len(secret) >= 32
                assert all(secret not in arguments_of(each) for each in (*pids, process.pid))
            process.terminate()


async def test_a_directory_without_files_is_refused(tmp_path: Path) -> None:
    done = await trio.run_process(command(tmp_path, "--json"), capture_stdout=True, capture_stderr=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"no file" in done.stderr


async def test_one_worker_is_too_few_to_lose_one(tree: Path) -> None:
    done = await trio.run_process(command(tree, "--workers", "1"), capture_stderr=True, check=False)
    assert done.returncode == 2


@pytest.mark.parametrize("missing", ["typer", "rich"])
async def test_without_the_extra_one_line_says_what_is_missing(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from rpcnet.__main__ import main; main()"
    done = await trio.run_process([sys.executable, "-c", code], capture_stdout=True, capture_stderr=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == f"rpcnet: the command line needs {missing}: pip install 'rpcnet[cli]'\n".encode()


async def test_help_names_the_commands() -> None:
    done = await trio.run_process([sys.executable, "-m", "rpcnet", "--help"], capture_stdout=True)
    assert b"demo" in done.stdout
