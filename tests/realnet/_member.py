"""A member of a cluster as a process: ``python _member.py`` is one until its standard input ends.

The rules of this file:

* It talks in lines of JSON. The first one that it reads says how it starts (:class:`Start`), every further one is a
  question with a number: ``{"ask": "statistics", "number": 3}``.
* It says ``{"ready": ADDRESS}`` when it has joined, ``{"event": KIND, ...}`` for every event of its node, and
  ``{"answer": 3, "value": ...}`` or ``{"answer": 3, "error": ...}``.
* Moments are ``time.monotonic()``, which is the same clock in all processes of a machine.
* The secret comes by environment.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import trio

import rpcnet
from rpcnet.events import (
    ClusterEvent,
    LinkDegraded,
    NodeEvent,
    NodeFailed,
    NodeInfo,
    PartitionDetected,
    PartitionHealed,
)

_CONNECTION_FILES = (
    *("/aioquic/", "/cryptography/", "/OpenSSL/", "/ssl.py", "/_net/quic", "/_net/session", "/_net/client_session"),
    *("/_net/server_session", "/_net/dialling", "/_net/certificates"),
)
_PROFILES = {"local": rpcnet.NodeConfig.local, "lan": rpcnet.NodeConfig.lan, "wan": rpcnet.NodeConfig.wan}


@attrs.frozen(kw_only=True)
class Start:
    """How a member starts."""

    name: str
    bind: str = "127.0.0.1:0"
    seeds: tuple[str, ...] = ()
    profile: str = "lan"
    joins_in_background: bool = False
    is_traced: bool = False
    """Whether tracemalloc counts what is allocated, which costs time."""

    def config(self) -> rpcnet.NodeConfig:
        """Return the profile, patient at the start and brief at the end."""
        config = attrs.evolve(_PROFILES[self.profile](), join_timeout=30.0, drain_timeout=1.0)
        return attrs.evolve(config, join="background") if self.joins_in_background else config


@rpcnet.service
class Greeter:
    """What members call on each other."""

    def __init__(self, name: str) -> None:
        self._name = name

    @rpcnet.rpc(idempotent=True)
    async def who(self) -> str:
        """Return the name of the member."""
        return self._name


class Lines:
    """Lines of JSON on two pipes of this process."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read = trio.lowlevel.FdStream(os.dup(read_fd))
        self._write = trio.lowlevel.FdStream(os.dup(write_fd))
        self._lock = trio.StrictFIFOLock()

    async def say(self, line: Mapping[str, Any]) -> None:
        """Write one line, whole."""
        async with self._lock:
            await self._write.send_all(json.dumps(line).encode() + b"\n")

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the lines that come, until there will be no more."""
        waiting = b""
        while data := await self._read.receive_some(1 << 16):
            *lines, waiting = (waiting + data).split(b"\n")
            for line in lines:
                yield json.loads(line)


async def serve(start: Start, lines: Lines) -> None:
    """Be a member until there are no more questions."""
    if start.is_traced:
        tracemalloc.start()
    logging.getLogger("rpcnet").setLevel(logging.ERROR)  # what is logged as a warning comes as an event, too
    node = rpcnet.Node(
        start.name, bind=start.bind, seeds=start.seeds, services=[Greeter(start.name)], config=start.config()
    )
    async with node, trio.open_nursery() as tasks, node.events() as events:
        tasks.start_soon(_tell, events, lines)
        await lines.say({"ready": node.address})
        async for line in lines:
            tasks.start_soon(_answer, node, line, lines)
        tasks.cancel_scope.cancel()


async def _tell(events: AsyncIterator[ClusterEvent], lines: Lines) -> None:
    async for event in events:
        await lines.say({"event": type(event).__name__, "at": time.monotonic(), **_described(event)})


def _described(event: ClusterEvent) -> dict[str, Any]:
    match event:
        case LinkDegraded(node=node, reason=reason) | NodeFailed(node=node, reason=reason):
            return {"node": node.name, "boot_id": node.boot_id, "reason": reason}
        case NodeEvent(node=node):
            return {"node": node.name, "boot_id": node.boot_id}
        case PartitionDetected(reachable=reachable, unreachable=unreachable, status=status):
            return {"reachable": _names(reachable), "unreachable": _names(unreachable), "status": status.value}
        case PartitionHealed(merged=merged):
            return {"merged": _names(merged)}
        case _:
            return {}


def _names(nodes: tuple[NodeInfo, ...]) -> list[str]:
    return sorted(node.name for node in nodes)


async def _answer(node: rpcnet.Node, line: Mapping[str, Any], lines: Lines) -> None:
    value: dict[str, Any]
    try:
        value = {"value": await _asked(node, line)}
    except rpcnet.RpcNetError as error:
        value = {"error": f"{type(error).__name__}: {error}"}
    await lines.say({"answer": line["number"], **value})


async def _asked(node: rpcnet.Node, line: Mapping[str, Any]) -> Any:
    match line["ask"]:
        case "call":
            return await node.stub(Greeter, node=line["node"]).who()
        case "statistics":
            return statistics(node)
        case "memory":
            return memory()
        case "stop tracing":
            return tracemalloc.stop()
        case "partition":
            view = node.membership.partition
            return {
                "status": view.status.value,
                "reachable": _names(view.reachable),
                "unreachable": _names(view.unreachable),
                "writable": view.writable,
            }
        case other:
            raise ValueError(f"nobody knows how to answer {other!r}")


def statistics(node: rpcnet.Node) -> dict[str, Any]:
    """Return what a node counted, with the processor time of the process, and the moment."""
    counters = node.statistics()
    return {
        "at": time.monotonic(),
        "cpu_seconds": time.process_time(),
        "port": attrs.asdict(counters.port),
        "membership": attrs.asdict(counters.membership),
        "restarts": dict(counters.restarts),
    }


def memory() -> dict[str, int]:
    """Return the bytes that this process holds: resident, its own alone, and, where it is traced, in objects."""
    gc.collect()
    held = {"rss_bytes": _rollup("Rss"), "own_bytes": _rollup("Private_Clean") + _rollup("Private_Dirty")}
    if tracemalloc.is_tracing():
        traces = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, tracemalloc.__file__)])
        sizes = {stat.traceback[0].filename: stat.size for stat in traces.statistics("filename")}
        held["object_bytes"] = sum(sizes.values())
        held["connection_bytes"] = sum(
            size for name, size in sizes.items() if any(part in name for part in _CONNECTION_FILES)
        )
    return held


def _rollup(key: str) -> int:
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) << 10
    return 0


def main(read_fd: int, write_fd: int) -> None:
    """Wait for the first line, then be the member that it describes."""
    first = b""
    while not first.endswith(b"\n"):  # byte by byte: what follows the line is for others
        byte = os.read(read_fd, 1)
        if not byte:
            return
        first += byte
    given = json.loads(first)
    start = Start(**{**given, "seeds": tuple(given.get("seeds", ()))})

    async def run() -> None:
        await serve(start, Lines(read_fd, write_fd))

    trio.run(run)


if __name__ == "__main__":
    main(sys.stdin.fileno(), sys.stdout.fileno())
