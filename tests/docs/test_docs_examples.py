"""The documents tell the truth: their examples run and print what stands there, their tables say what the code says."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from _examples import ROOT, Player, Section, read_sections

import rpcnet
from rpcnet.testing import SimulatedCluster, run

ALONE = ROOT / "examples" / "without_a_cluster.py"
README, RPC = ROOT / "README.md", ROOT / "docs" / "rpc.md"


@rpcnet.service
class Greeter:
    """The service of the README's first example."""

    @rpcnet.rpc
    async def hello(self, name: str) -> str:
        return f"Hello, {name}!"


def simulate(play: Callable[[], Awaitable[None]]) -> None:
    async def scenario(_: SimulatedCluster) -> None:
        await play()

    run(scenario)


@pytest.mark.parametrize("section", read_sections(RPC), ids=str)
def test_the_examples_about_rpc_run(section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if any("openssl" in example.text for example in section.examples) and shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    player = Player(section, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RPCNET_SECRET", player.secret)
    simulate(player.play)


@pytest.mark.parametrize("section", read_sections(README), ids=str)
def test_the_examples_of_the_readme_run(section: Section, tmp_path: Path) -> None:
    secret = secrets.token_urlsafe(32)

    async def play() -> None:
        security = rpcnet.Security.shared_secret(secret, cluster="orders")
        async with rpcnet.Node("first", security=security) as seed:
            assert seed.address == "10.0.0.1:7946"  # the first host of the simulated network, as the README has it
            await Player(section, tmp_path, {"rpcnet": rpcnet, "Greeter": Greeter, "secret": secret}).play()

    simulate(play)


def test_the_example_without_a_cluster_counts_words(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("one two\ntwo three three\n\nthree", encoding="utf-8")
    environment = {**os.environ, "RPCNET_SECRET": secrets.token_urlsafe(32)}
    command = [sys.executable, str(ALONE)]
    with subprocess.Popen([*command, "serve"], env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[-1]
            counted = subprocess.check_output([*command, "count", address, str(text)], env=environment, text=True)
        finally:
            server.kill()
    assert [line.split() for line in counted.splitlines()] == [["3", "three"], ["2", "two"], ["1", "one"]]
