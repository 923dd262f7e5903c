"""Lines and objects on standard output, and readers that stall or go."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO

import attrs
import pytest
import trio
import trio.testing

import rpcnet
from rpcnet.cli._events import as_data, as_line
from rpcnet.cli._output import Output

NOW = dt.datetime(2026, 3, 1, 12, 0, 10, tzinfo=dt.UTC)
INFO = rpcnet.NodeInfo(
    id="0" * 32,
    name="b",
    address="127.0.0.1:7946",
    boot_id=3,
    incarnation=1,
    state=rpcnet.NodeState.ALIVE,
    tags={"zone": "eu"},
    services=("Door",),
    meta_version=2,
)
CHANGED = attrs.evolve(INFO, tags={"gpu": ""}, services=())


@attrs.frozen
class Pipe:
    """A pipe whose ends know whether they are closed."""

    reader: FileIO
    writer: FileIO


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reader, writer = os.pipe()
    with FileIO(reader, "r") as r, FileIO(writer, "w") as w:
        yield Pipe(r, w)


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (rpcnet.NodeJoined(INFO, at=0), "NodeJoined b at 127.0.0.1:7946"),
        (rpcnet.NodeFailed(INFO, "no answer", at=0), "NodeFailed b: no answer"),
        (rpcnet.NodeSuspected(INFO, 2.345, ("x", "y"), at=0), "NodeSuspected b: phi 2.3, missed by 2"),
        (
            rpcnet.NodeUpdated(CHANGED, INFO, at=0),
            "NodeUpdated b: services ['Door'] -> [], tag gpu None -> '', tag zone 'eu' -> None",
        ),
        (rpcnet.NodeUpdated(INFO, INFO, at=0), "NodeUpdated b: nothing to see"),
        (rpcnet.EventsDropped(4, at=0), "EventsDropped 4"),
        (rpcnet.ClusterEvent(at=0), "ClusterEvent"),
    ],
)
def test_an_event_is_one_line(event: rpcnet.ClusterEvent, line: str) -> None:
    assert as_line(event) == line


def test_an_event_is_an_object_with_its_fields_and_the_time_of_day() -> None:
    data = as_data(rpcnet.NodeUpdated(CHANGED, INFO, at=1000.0, cause=7), age=2.5, now=NOW)
    assert json.loads(json.dumps(data)) == {
        "event": "NodeUpdated",
        "time": "2026-03-01T12:00:07.500+00:00",
        "node": {**data["previous"], "tags": {"gpu": ""}, "services": []},
        "previous": {
            "id": "0" * 32,
            "name": "b",
            "address": "127.0.0.1:7946",
            "boot_id": 3,
            "incarnation": 1,
            "state": "alive",
            "tags": {"zone": "eu"},
            "services": ["Door"],
            "meta_version": 2,
            "stall": 0.0,
            "is_halted": False,
            "is_following": False,
        },
    }


async def test_everything_said_is_written_in_order_before_the_end(pipe: Pipe) -> None:
    output = Output(as_json=False, descriptor=pipe.writer.fileno())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(output.run)
        for number in range(500):
            await output.tell(f"line {number} \N{SNOWMAN} \udc80", {})
        output.say("the end", {})
        await output.finish()
    pipe.writer.close()
    lines = os.read(pipe.reader.fileno(), 65536).decode().splitlines()
    assert lines == [*(f"line {number} \N{SNOWMAN} \\udc80" for number in range(500)), "the end"]


async def test_json_is_an_object_per_line(pipe: Pipe) -> None:
    output = Output(as_json=True, descriptor=pipe.writer.fileno())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(output.run)
        output.say("a text", {"a": "line\nbreak"})
        await output.finish()
    assert os.read(pipe.reader.fileno(), 1000) == b'{"a": "line\\nbreak"}\n'


async def test_a_reader_that_stalls_holds_up_neither_words_nor_the_end(
    pipe: Pipe, autojump_clock: trio.testing.MockClock
) -> None:
    os.set_blocking(pipe.writer.fileno(), False)
    with suppress(BlockingIOError):
        while os.write(pipe.writer.fileno(), b"x" * 65536):
            pass
    os.set_blocking(pipe.writer.fileno(), True)
    left_open = os.dup(pipe.writer.fileno())  # the thread that is left behind may use the number after this test
    output = Output(as_json=False, descriptor=left_open)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(output.run)
        for _ in range(1000):
            output.say("unheard", {})
        with trio.fail_after(30):
            await output.finish()
        nursery.cancel_scope.cancel()
    pipe.reader.close()


async def test_a_pipe_that_does_not_block_loses_nothing(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer.fileno(), False)
    output = Output(as_json=False, descriptor=pipe.writer.fileno())
    text = "long " * 100_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(output.run)
        output.say(text, {})
        async with trio.lowlevel.FdStream(os.dup(pipe.reader.fileno())) as reader:
            read = b""
            while not read.endswith(b"\n"):
                read += await reader.receive_some()
        await output.finish()
    assert read.decode() == text + "\n"


async def test_a_reader_that_has_gone_stops_nobody(pipe: Pipe) -> None:
    pipe.reader.close()
    output = Output(as_json=False, descriptor=pipe.writer.fileno())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(output.run)
        for _ in range(1000):
            await output.tell("unheard", {})
        await output.finish()
