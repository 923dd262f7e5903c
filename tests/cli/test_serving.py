"""What options, mistakes and errors become, and serving anything that can be served."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import trio
import typer
from typer.testing import CliRunner

import rpcnet
from rpcnet.cli._ending import ending_signals
from rpcnet.cli._options import NodeOptions, Profile, config_of
from rpcnet.cli._output import Output
from rpcnet.cli._running import run_until_signal
from rpcnet.cli._serving import serve
from rpcnet.cli.app import app

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(HERE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("RPCNET_SECRET", "kh2OhM8AnJ0b7vIfVxyDzqEEJ3n5pJ5C")
    yield
    sys.modules.pop("_served", None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("run _served", "'_served': write 'module:attribute'"),
        ("run _served:Greeter", "_served:Greeter: the class Greeter requires greeting"),
        ("run _served:node --bind 127.0.0.1:0", "--bind: _served:node is a Node"),
        ("run _served:node --seed 127.0.0.1:1", "--seed: _served:node is a Node"),
        ("run _served:node --drain-timeout 1", "--drain-timeout: _served:node is a Node"),
        ("run _served:node --gossip-keys keys", "--gossip-keys: _served:node is a Node"),
        ("run _served:door --ca ca.pem --key key.pem", "--ca, --cert and --key belong together"),
        ("agent --gossip-keys keys", "--ca, --cert and --key belong together"),
        ("agent --ca no.pem --cert no.pem --key no.pem", "no.pem"),
        ("run _served:several --tag colour", "--tag 'colour': write KEY=VALUE"),
        ("run _served:door --tag =red", "--tag '=red': write KEY=VALUE"),
        ("agent --tag a=1 --tag a=2", "--tag 'a=2': 'a' is given twice"),
        ("agent --seed nowhere", "seeds: address 'nowhere': has no port"),
        ("agent --advertise 0.0.0.0:1", "advertise: address '0.0.0.0:1': nobody can dial it"),
        ("agent --drain-timeout -1", "NodeConfig.drain_timeout = -1.0: must be"),
        ("agent --profile moon", "moon"),
        ("agent --bind 192.0.2.1:0", "192.0.2.1"),
        ("agent --colour", "--colour"),
    ],
)
def test_a_mistake_in_what_was_asked_for_is_code_2_and_no_traceback(arguments: str, words: str) -> None:
    result = CliRunner().invoke(app, arguments.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_weak_secret_is_code_2_and_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RPCNET_SECRET", "sesame")
    result = CliRunner().invoke(app, ["agent"])
    assert (result.exit_code, "RPCNET_SECRET is too weak" in result.stderr) == (2, True)
    assert "sesame" not in result.stderr


def test_an_application_that_fails_is_code_1_and_the_users_own_traceback() -> None:
    result = CliRunner().invoke(app, ["run", "_served:fail"])
    lines = result.stderr.splitlines()
    assert (result.exit_code, lines[0]) == (1, "Traceback (most recent call last):")
    assert lines[1].startswith(f'  File "{HERE / "_served.py"}"')
    assert lines[-1] == "LookupError: no services today"


@pytest.mark.parametrize("command", ["agent", "run"])
def test_a_command_explains_how_it_ends(command: str) -> None:
    assert "SIGTERM" in CliRunner().invoke(app, [command, "--help"]).stdout


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (rpcnet.JoinError("no seed"), 1, "rpcnet: JoinError: no seed\n"),
        (rpcnet.NodeCrashed("it has"), 1, "rpcnet: NodeCrashed: it has\n"),
        (rpcnet.ConfigError("bind: no"), 2, "rpcnet: bind: no\n"),
        (rpcnet.SecurityError("too open"), 2, "rpcnet: too open\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_an_error_of_the_node_is_one_line_and_a_code(
    error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail() -> int:
        raise error

    with pytest.raises(typer.Exit) as caught:
        run_until_signal(fail)
    assert (caught.value.exit_code, capsys.readouterr().err) == (code, words)


def test_an_error_of_a_service_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    async def fail() -> int:
        raise OSError("the disk is gone")

    with pytest.raises(typer.Exit) as caught:
        run_until_signal(fail)
    shown = capsys.readouterr().err
    assert (caught.value.exit_code, "test_serving.py" in shown, "_running.py" in shown) == (1, True, False)
    assert shown.endswith("OSError: the disk is gone\n")


def test_seeds_come_one_by_one_or_separated() -> None:
    options = NodeOptions("a", "127.0.0.1:0", None, ["h:1,h:2 h:3", "h:4"], None, config_of(Profile.LAN, None))
    assert options.seeds == ("h:1", "h:2", "h:3", "h:4")


def test_a_profile_keeps_its_settings_beside_the_drain_timeout() -> None:
    assert config_of(Profile.WAN, None) == rpcnet.NodeConfig.wan()
    assert config_of(Profile.LOCAL, 3.5).drain_timeout == 3.5
    assert config_of(Profile.LOCAL, 3.5).detector == rpcnet.NodeConfig.local().detector


class Shop:
    """A server that is no node: it writes down what happens to it, and asks for its own end."""

    def __init__(self, *, ends_with: signal.Signals = signal.SIGTERM, drains_for: float = 0.0) -> None:
        self.address = "shop:1"
        self.happened: list[str] = []
        self.ends_with = ends_with
        self.drains_for = drains_for

    async def drain(self) -> None:
        self.happened.append("draining")
        await trio.sleep(self.drains_for)
        self.happened.append("drained")

    async def __aenter__(self) -> Self:
        self.happened.append("entered")
        signal.raise_signal(self.ends_with)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.happened.append("left" if error is None else f"left with {type(error).__name__}")


async def served(server: Any, *, drain_timeout: float = 10.0) -> tuple[int, list[str]]:
    """Serve; return the exit code and what was said."""
    reader, writer = os.pipe()
    try:
        code = await serve(
            server, drain_timeout=drain_timeout, output=Output(as_json=False, descriptor=writer), shows_events=False
        )
    finally:
        os.close(writer)
        said = os.read(reader, 65536).decode().splitlines()
        os.close(reader)
    return code, said


async def test_any_server_is_entered_drained_and_left() -> None:
    shop = Shop()
    code, said = await served(shop)
    assert (code, shop.happened) == (0, ["entered", "draining", "drained", "left"])
    assert (said[0], said[-1], len(said)) == ("ready at shop:1", "stopped", 3)
    assert said[1].startswith("draining after SIGTERM, for at most 10 s")


async def test_a_drain_that_is_too_slow_is_cut_and_code_1() -> None:
    shop = Shop(drains_for=60.0)
    code, said = await served(shop, drain_timeout=0.0)
    assert (code, shop.happened) == (1, ["entered", "draining", "left"])
    assert said[-1] == "stopped; calls that took longer than 0 s were cut"


async def test_after_ctrl_c_it_drains_too_and_the_code_is_130() -> None:
    shop = Shop(ends_with=signal.SIGINT)
    assert (await served(shop))[0] == 130
    assert shop.happened == ["entered", "draining", "drained", "left"]


async def test_what_is_asked_to_end_while_it_enters_is_cancelled() -> None:
    class SlowShop(Shop):
        async def __aenter__(self) -> Self:
            await super().__aenter__()
            await trio.Event().wait()
            return self

    shop = SlowShop()
    assert await served(shop) == (0, ["stopped"])
    assert shop.happened == ["entered"]


async def test_a_node_that_is_asked_to_end_while_it_joins_does_so() -> None:
    with trio.fail_after(60), trio.socket.socket(type=trio.socket.SOCK_DGRAM) as silent:
        await silent.bind(("127.0.0.1", 0))
        node = rpcnet.Node("joining", seeds=[f"127.0.0.1:{silent.getsockname()[1]}"])

        async def ask_to_end() -> None:
            await silent.recvfrom(1)
            signal.raise_signal(signal.SIGTERM)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_to_end)
            assert await served(node) == (0, ["stopped"])


async def test_a_signal_that_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ending_signals() as signals:
            assert signals is not None
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            assert await anext(signals) == signal.SIGTERM
    finally:
        signal.signal(signal.SIGINT, before)


async def test_without_a_signal_to_obey_there_is_none_to_wait_for() -> None:
    before = [(number, signal.signal(number, signal.SIG_IGN)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with ending_signals() as signals:
            assert signals is None
    finally:
        for number, handler in before:
            signal.signal(number, handler)


async def test_an_error_on_the_way_in_comes_out_bare() -> None:
    class ClosedShop(Shop):
        async def __aenter__(self) -> Self:
            raise rpcnet.JoinError("closed")

    with pytest.raises(rpcnet.JoinError, match="closed"):
        await served(ClosedShop())


async def test_an_error_of_the_drain_comes_out_bare() -> None:
    class BrokenShop(Shop):
        async def drain(self) -> None:
            raise OSError("no way out")

    shop = BrokenShop()
    with pytest.raises(OSError, match="no way out"):
        await served(shop)


async def test_afterwards_signals_mean_what_they_meant_before() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    await served(Shop())
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
