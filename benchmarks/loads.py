"""The loads, written once for all peers: calls, streams, connections, and what they cost in memory.

The rules of this file:

* Everything is compared: each answer with what was sent, each message of a stream with its number.
* What is measured is counted where it is done: calls when they are answered, messages when a whole stream has arrived
  at its reader, connections when the first call on them is answered.
* A warm-up comes first and is not counted.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from measure import Load, Meter
from peering import Client, Loop, Peer, Settings, check, message, messages

__all__ = ["LOADS"]

WARM_UP_SECONDS = 1.0
SOAK_WARM_UP = 0.1
"""The share of a soak's calls after which its memory is read for the first time."""


async def unary(peer: Peer, loop: Loop, settings: Settings) -> Load:
    """Keep ``in_flight`` calls in flight; every payload is different."""
    meter, end = Meter(), math.inf
    measured: Load | None = None

    async with peer.connect() as client:

        async def caller(number: int) -> None:
            filler = message(number, settings.size - 8)
            count = 0
            while (began := time.perf_counter()) < end:
                count += 1
                data = count.to_bytes(8, "big") + filler
                if await client.echo(data) != data:
                    raise AssertionError("the answer is not what was sent")
                meter.durations.append(time.perf_counter() - began)

        async def conductor() -> None:
            nonlocal end, measured
            await loop.sleep(WARM_UP_SECONDS)
            meter.start(await client.usage())
            await loop.sleep(settings.seconds)
            meter.stop()
            measured = meter.load(await client.usage())
            end = 0.0

        await loop.together([*(functools.partial(caller, number) for number in range(settings.in_flight)), conductor])
    assert measured is not None
    return measured


async def server_stream(peer: Peer, _loop: Loop, settings: Settings) -> Load:
    """Read streams of ``count`` messages, one after another."""

    async def one(client: Client) -> None:
        number = 0
        async with client.count(settings.count, settings.size) as values:
            async for value in values:
                check(number, value)
                number += 1
        _expect(number, settings.count)

    return await _streams(peer, settings, one)


async def client_stream(peer: Peer, _loop: Loop, settings: Settings) -> Load:
    """Send streams of ``count`` messages, one after another."""

    async def one(client: Client) -> None:
        _expect(await client.total(messages(settings.count, settings.size)), settings.count)

    return await _streams(peer, settings, one)


async def echo_stream(peer: Peer, _loop: Loop, settings: Settings) -> Load:
    """Send streams of ``count`` messages and read them back meanwhile, one stream after another."""

    async def one(client: Client) -> None:
        number = 0
        async with client.echo_all(messages(settings.count, settings.size)) as values:
            async for value in values:
                check(number, value)
                number += 1
        _expect(number, settings.count)

    return await _streams(peer, settings, one)


def _expect(got: int, count: int) -> None:
    if got != count:
        raise AssertionError(f"{got} messages of {count} arrived")


async def _streams(peer: Peer, settings: Settings, one: Callable[[Client], Awaitable[None]]) -> Load:
    meter = Meter()
    async with peer.connect() as client:
        began = time.perf_counter()
        while time.perf_counter() - began < WARM_UP_SECONDS:
            await one(client)
        meter.start(await client.usage())
        while meter.elapsed < settings.seconds:
            await one(client)
            meter.count += settings.count
        meter.stop()
        return meter.load(await client.usage())


async def connections(peer: Peer, _loop: Loop, settings: Settings, *, resume: bool = False) -> Load:
    """Open connections one after another: dial, one call, close. The time of one ends with the answer."""
    meter = Meter()
    data = message(0, settings.size)

    async def one() -> None:
        began = time.perf_counter()
        async with dial() as client:
            if await client.echo(data) != data:
                raise AssertionError("the answer is not what was sent")
            meter.durations.append(time.perf_counter() - began)

    async with peer.connect() as watcher, peer.dialling(resume=resume) as dial:
        began = time.perf_counter()
        while time.perf_counter() - began < WARM_UP_SECONDS:
            await one()
        meter.start(await watcher.usage())
        while meter.elapsed < settings.seconds:
            await one()
        meter.stop()
        return meter.load(await watcher.usage())


async def idle(peer: Peer, loop: Loop, settings: Settings) -> Load:
    """Open ``in_flight`` connections with a call on each, and read what they hold while nothing happens on them."""
    meter = Meter()
    data = message(0, settings.size)

    async def open_one(stack: AsyncExitStack) -> None:
        client = await stack.enter_async_context(dial())
        if await client.echo(data) != data:
            raise AssertionError("the answer is not what was sent")

    async with peer.connect() as watcher, peer.dialling() as dial, AsyncExitStack() as stack:
        for _ in range(8):  # what the first ones load or cache belongs to none
            await open_one(stack)
        meter.start(await watcher.usage())
        for _ in range(settings.in_flight):
            await open_one(stack)
            meter.count += 1
        await loop.sleep(0.5)
        meter.stop()
        return meter.load(await watcher.usage())


async def held(peer: Peer, loop: Loop, settings: Settings) -> Load:
    """Make ``in_flight`` calls on one connection that are answered only when all of them have arrived."""
    meter = Meter()
    everybody = settings.in_flight

    async with peer.connect() as client:

        async def caller(number: int) -> None:
            began = time.perf_counter()
            if await client.hold(number, everybody) != number:
                raise AssertionError("the answer is that of another call")
            meter.durations.append(time.perf_counter() - began)

        if await client.hold(0, 1) != 0:
            raise AssertionError("the answer is that of another call")
        meter.start(await client.usage())
        await loop.together([functools.partial(caller, number) for number in range(everybody)])
        meter.stop()
        _expect(len(meter.durations), everybody)
        return meter.load(await client.usage())


async def soak(peer: Peer, loop: Loop, settings: Settings) -> Load:
    """Make ``count`` calls, ``in_flight`` at a time; memory is compared from a tenth of them to the end."""
    meter = Meter()
    numbers = iter(range(settings.count))
    warm = int(settings.count * SOAK_WARM_UP)

    async with peer.connect() as client:

        async def caller() -> None:
            for number in numbers:
                data = message(number, settings.size)
                if await client.echo(data) != data:
                    raise AssertionError("the answer is not what was sent")
                if number == warm:
                    meter.start(await client.usage())
                    meter.count = 0
                meter.count += 1

        await loop.together([caller] * settings.in_flight)
        meter.stop()
        return meter.load(await client.usage())


LOADS: dict[str, Callable[[Peer, Loop, Settings], Awaitable[Load]]] = {
    "unary": unary,
    "server_stream": server_stream,
    "client_stream": client_stream,
    "echo_stream": echo_stream,
    "connections": connections,
    "resumed": functools.partial(connections, resume=True),
    "idle": idle,
    "held": held,
    "soak": soak,
}
