"""``rpcnet run`` and ``rpcnet agent`` as a process manager sees them: processes, lines, signals, exit codes."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from _peer import PATIENCE, config

import rpcnet

APPLICATIONS = Path(__file__).parent.parent / "cli"
SECRET = secrets.token_urlsafe(32)
BRIEF = ("--profile", "local", "--drain-timeout", "30")


@rpcnet.service
class Door:
    """The contract of what the processes serve; served here too, where calls go that find no other node."""

    @rpcnet.rpc
    async def hold(self) -> str:
        return "held elsewhere"

    @rpcnet.rpc
    async def block(self) -> None:
        """Do nothing."""

    @rpcnet.rpc(idempotent=True)
    async def process(self) -> int:
        return os.getpid()


@attrs.define(eq=False)
class Command:
    """A command that runs, and what it has said so far that nobody has read."""

    process: trio.Process
    address: str = ""
    _unread: dict[int, bytes] = attrs.field(factory=dict)

    async def line(self, stream: trio.abc.ReceiveStream | None) -> str:
        assert stream is not None
        unread = self._unread.pop(id(stream), b"")
        while b"\n" not in unread:
            chunk = await stream.receive_some()
            assert chunk, f"it has ended, and said {unread!r} last"
            unread += chunk
        line, _, self._unread[id(stream)] = unread.partition(b"\n")
        return line.decode()

    async def said(self) -> str:
        return await self.line(self.process.stdout)

    async def said_object(self, event: str = "") -> dict[str, Any]:
        """Return the next object on standard output, or the next one of an event."""
        while True:
            found = json.loads(await self.said())
            assert isinstance(found, dict)
            if event in ("", found["event"]):
                return found

    async def is_held(self) -> None:
        assert await self.line(self.process.stderr) == "held"

    async def release(self) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(b"released\n")


@asynccontextmanager
async def command(*arguments: str, **environment: str) -> AsyncIterator[Command]:
    """Run a command until the block ends."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "rpcnet", *arguments],
        stdin=-1,
        stdout=-1,
        stderr=-1,
        cwd=APPLICATIONS,
        env={**os.environ, "RPCNET_SECRET": SECRET, **environment},
    )
    try:
        yield Command(process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    await stream.aclose()


@asynccontextmanager
async def serving(*arguments: str, seed: str = "") -> AsyncIterator[Command]:
    """Run ``rpcnet run`` with the services of the tests' module, ready."""
    joins = ("--seed", seed) if seed else ()
    async with command("run", *arguments, "--json", *joins) as served:
        served.address = (await served.said_object("ready"))["address"]
        yield served


@asynccontextmanager
async def director(*services: object) -> AsyncIterator[rpcnet.Node]:
    security = rpcnet.Security.shared_secret(SECRET)
    with trio.fail_after(PATIENCE):
        async with rpcnet.Node("director", services=services, security=security, config=config()) as node:
            yield node


async def test_an_agent_says_that_it_is_ready_and_then_what_happens() -> None:
    async with director() as node, command("agent", "--name", "watcher", *BRIEF, "--json") as agent:
        ready = await agent.said_object()
        assert (ready["event"], ready["name"]) == ("ready", "watcher")
        first = await agent.said_object()
        assert (first["event"], first["node"]["name"]) == ("NodeJoined", "watcher")
        await node.join([ready["address"]])
        joined = await agent.said_object()
        assert (joined["event"], joined["node"]["address"]) == ("NodeJoined", node.address)
        await node.update_tags({"zone": "eu"})
        updated = await agent.said_object()
        assert (updated["event"], updated["node"]["tags"], updated["previous"]["tags"]) == (
            "NodeUpdated",
            {"zone": "eu"},
            {},
        )
        await node.leave()
        assert (await agent.said_object("NodeLeft"))["node"]["name"] == "director"
        agent.process.terminate()
        assert (await agent.said_object())["event"] == "draining"
        assert (await agent.said_object())["drained"] is True
        assert await agent.process.wait() == 0


async def test_an_agent_takes_its_seeds_from_the_environment_and_leaves_in_good_order_on_ctrl_c() -> None:
    async with director() as node, node.events(rpcnet.NodeLeft, rpcnet.NodeFailed) as endings:
        seeds = f"127.0.0.1:1,{node.address}"
        arguments = ("agent", "--name", "idler", "--tag", "role=idle", "--tag", "x=a=b", *BRIEF)
        async with command(*arguments, RPCNET_SEEDS=seeds, RPCNET_BIND="127.0.0.1:0") as agent:
            assert (await agent.said()).startswith("ready: idler at 127.0.0.1:")
            [idler] = await node.registry.wait_for(1, where="role=idle")
            assert idler.tags == {"role": "idle", "x": "a=b"}
            agent.process.send_signal(signal.SIGINT)
            assert await agent.process.wait() == 128 + signal.SIGINT
        ending = await anext(endings)
        assert isinstance(ending, rpcnet.NodeLeft)
        assert ending.node.name == "idler"


async def test_a_running_call_gets_its_answer_while_new_ones_go_elsewhere() -> None:
    answers: list[str] = []
    async with director(Door()) as node, serving("_served:Door", "--name", "door", *BRIEF, seed=node.address) as served:

        async def call() -> None:
            answers.append(await node.stub(Door, node="door").hold())

        async with node.events(rpcnet.NodeUpdated) as updates, trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await served.is_held()
            served.process.terminate()
            assert (await served.said_object())["signal"] == "SIGTERM"
            update = await anext(updates)
            assert isinstance(update, rpcnet.NodeUpdated)
            assert update.node.services == ()
            for _ in range(20):
                assert await node.stub(Door).process() == os.getpid()
            with pytest.raises(rpcnet.RpcNetError):
                await node.stub(Door, node="door").process()
            assert answers == []
            await served.release()
        assert answers == ["released"]
        assert (await served.said_object("stopped"))["drained"] is True
        assert await served.process.wait() == 0


async def test_a_node_that_is_ready_made_cuts_calls_by_its_own_settings_and_the_exit_code_says_so() -> None:
    async with director() as node, serving("_served:node") as served:
        await node.join([served.address])
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def call() -> None:
                with pytest.raises(rpcnet.Unavailable):
                    await node.stub(Door, node="ready-made").hold()

            await served.is_held()
            served.process.terminate()
        stopped = await served.said_object("stopped")
        assert stopped["drained"] is False
        assert await served.process.wait() == 1


async def test_a_second_signal_ends_the_process_at_once() -> None:
    async with (
        director() as node,
        serving("_served:make", "--name", "door", *BRIEF, seed=node.address) as served,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(node.stub(Door, node="door").hold)
        await served.is_held()
        served.process.terminate()
        assert (await served.said_object())["event"] == "draining"
        served.process.send_signal(signal.SIGINT)
        assert await served.process.wait() == 128 + signal.SIGINT
        nursery.cancel_scope.cancel()


async def test_a_second_signal_works_while_a_handler_blocks_the_loop() -> None:
    async with (
        director() as node,
        serving("_served:door", "--name", "door", *BRIEF, seed=node.address) as served,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(node.stub(Door, node="door").block)
        await served.is_held()
        served.process.send_signal(signal.SIGINT)
        served.process.terminate()
        assert await served.process.wait() in (128 + signal.SIGINT, 128 + signal.SIGTERM)
        nursery.cancel_scope.cancel()
