"""The documents tell the truth: their examples run and print what stands there, their tables say what the code says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from _examples import ROOT, Player, Section, read_sections

import rpcnet
from rpcnet.testing import SimulatedCluster, run

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
    monkeypatch.chdir(tmp_path)
    player = Player(section, tmp_path)
    monkeypatch.setenv("RPCNET_SECRET", player.secret)
    simulate(player.play)
