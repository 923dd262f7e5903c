"""What the tests of ``rpcnet run`` serve: services in every form that it takes, and what it refuses."""

from __future__ import annotations

import os
import sys
from typing import Protocol

import attrs
import trio

import rpcnet


@rpcnet.service
class Door:
    """A call that lasts until a line comes on standard input, and one that blocks the loop for good."""

    @rpcnet.rpc
    async def hold(self) -> str:
        print("held", file=sys.stderr, flush=True)
        async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
            line = await stdin.receive_some()
        return bytes(line).decode().strip()

    @rpcnet.rpc
    async def block(self) -> None:
        print("held", file=sys.stderr, flush=True)
        while True:
            pass

    @rpcnet.rpc(idempotent=True)
    async def process(self) -> int:
        return os.getpid()


@rpcnet.service
class Greeter:
    """A service that needs to be told something."""

    def __init__(self, greeting: str) -> None:
        self.greeting = greeting

    @rpcnet.rpc
    async def greet(self, name: str) -> str:
        return f"{self.greeting}, {name}!"


@rpcnet.service
class Contract(Protocol):
    """A service that somebody else serves."""

    @rpcnet.rpc
    async def serve(self) -> None: ...


class Plain:
    """No service at all."""


class Holder:
    """Something with a service in it."""

    door = Door()


door = Door()
several = [Door, Greeter("Hello")]
TEXT = "a text"
empty: list[object] = []
mixed = [Door(), 7]
node = rpcnet.Node("ready-made", services=[Door()], config=attrs.evolve(rpcnet.NodeConfig.local(), drain_timeout=0.05))


def make() -> list[object]:
    return [Door(), Greeter("Ahoy")]


async def make_slowly() -> object:
    await trio.lowlevel.checkpoint()
    return Greeter("Finally")


def make_a_function() -> object:
    return make


def make_with(number: int, *, other: str, more: str = "") -> object:
    return door


def fail() -> object:
    raise LookupError("no services today")
