"""The examples, run as their READMEs say: programs with real sockets."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "examples"
PATIENCE = 60
"""Seconds after which a test gives up; nothing waits that long when things are well."""


@pytest.fixture
def environment() -> dict[str, str]:
    return {**os.environ, "RPCNET_SECRET": secrets.token_urlsafe(32)}


async def output_of(environment: dict[str, str], program: Path, *arguments: str, code: int = 0) -> str:
    """Run a program to its end; return what it wrote."""
    done = await trio.run_process(
        [sys.executable, str(program), *arguments], env=environment, capture_stdout=True, check=False
    )
    assert done.returncode == code
    return done.stdout.decode()


@asynccontextmanager
async def running(
    environment: dict[str, str], program: Path, *arguments: str
) -> AsyncIterator[tuple[trio.Process, str]]:
    """Run a program that serves until the block ends; yields it and the address it says it serves at."""
    process = await trio.lowlevel.open_process([sys.executable, str(program), *arguments], env=environment, stdout=-1)
    try:
        assert process.stdout is not None
        said = b""
        while b"\n" not in said:
            chunk = await process.stdout.receive_some()
            assert chunk, f"{program.name} ended early: {said!r}"
            said += chunk
        yield process, said.decode().strip().rpartition(" ")[2]
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


def test_hello_is_twelve_lines_and_the_readme_shows_exactly_these() -> None:
    text = (EXAMPLES / "hello.py").read_text(encoding="utf-8")
    assert sum(bool(line.strip()) for line in text.splitlines()) == 12
    assert f"```python\n{text}```" in (ROOT / "README.md").read_text(encoding="utf-8")


async def test_hello_says_hello(environment: dict[str, str]) -> None:
    with trio.fail_after(PATIENCE):
        assert await output_of(environment, EXAMPLES / "hello.py") == "Hello, world!\n"


async def test_a_director_spreads_a_job_and_survives_a_worker(environment: dict[str, str]) -> None:
    folder = EXAMPLES / "coordinator_workers"
    with trio.fail_after(PATIENCE):
        async with (
            running(environment, folder / "director.py", "--bind", "127.0.0.1:0") as (_, seed),
            running(environment, folder / "worker.py", "--name", "w1", "--seed", seed) as (first, _),
            running(environment, folder / "worker.py", "--name", "w2", "--seed", seed),
        ):
            both = await output_of(environment, folder / "client.py", "--seed", seed, "20000")
            first.kill()
            one = await output_of(environment, folder / "client.py", "--seed", seed, "20000")
    assert both.splitlines()[0] == "2262 primes below 20000"
    assert {line.split()[-1] for line in both.splitlines()[1:]} == {"w1", "w2"}
    assert sum(int(line.split()[0]) for line in both.splitlines()[1:]) == 16
    assert [line.split() for line in one.splitlines()[1:]] == [["16", "pieces", "by", "w2"]]


async def test_a_worker_that_is_interrupted_leaves_in_peace(environment: dict[str, str]) -> None:
    folder = EXAMPLES / "coordinator_workers"
    with trio.fail_after(PATIENCE):
        async with (
            running(environment, folder / "director.py", "--bind", "127.0.0.1:0") as (director, seed),
            running(environment, folder / "worker.py", "--name", "w1", "--seed", seed) as (worker, _),
        ):
            for process in (worker, director):
                process.send_signal(signal.SIGINT)
                assert await process.wait() == 0


async def test_a_read_of_the_cache_finds_what_was_written_although_a_node_died(environment: dict[str, str]) -> None:
    program = EXAMPLES / "p2p_cache" / "node.py"
    with trio.fail_after(PATIENCE):
        async with (
            running(environment, program, "--name", "n1") as (first, seed),
            running(environment, program, "--name", "n2", "--seed", seed) as (_, other),
            running(environment, program, "--name", "n3", "--seed", seed),
        ):
            for number in range(3):
                await output_of(environment, program, "--seed", seed, "put", f"key{number}", f"value {number}")
            await output_of(environment, program, "--seed", seed, "delete", "key2")
            first.kill()
            for number in range(2):
                found = await output_of(environment, program, "--seed", other, "get", f"key{number}")
                assert found == f"value {number}\n"
            missing = await output_of(environment, program, "--seed", other, "get", "key2", code=1)
            assert missing == "there is no such key\n"


async def test_an_operation_the_cache_does_not_know_is_refused(environment: dict[str, str]) -> None:
    assert await output_of(environment, EXAMPLES / "p2p_cache" / "node.py", "fetch", "key", code=2) == ""
