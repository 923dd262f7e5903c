"""What a type checker sees of services. ``mypy --strict`` checks this file; nothing in it runs."""

from __future__ import annotations

import abc
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine
from typing import Any, ClassVar, Protocol, assert_type

import attrs
import trio

from rpcnet.errors import ApplicationError, Hop, Status
from rpcnet.service import ServiceDefinition, definition_of, rpc, service


@attrs.frozen
class Job:
    id: int
    words: list[str]


@service
class Greeter:
    @rpc
    async def hello(self, name: str, loud: bool = False) -> str:
        return name.upper() if loud else name

    @rpc(idempotent=True)
    async def submit(self, job: Job, copies: int = 1) -> dict[str, list[int]]:
        return {word: [job.id] * copies for word in job.words}


class OutOfPaper(ApplicationError):
    status: ClassVar[Status] = Status.RESOURCE_EXHAUSTED
    tray: int
    pages: list[str] = attrs.field(factory=list)


@service
class Streams:
    @rpc
    async def progress(self, job: int, step: float = 1.0) -> AsyncIterator[float]:
        yield step * job

    @rpc(idempotent=True, raises=[OutOfPaper], allow="role=admin")
    async def numbers(self) -> AsyncGenerator[int, None]:
        yield 1

    @rpc
    async def upload(self, pages: AsyncIterator[bytes]) -> int:
        return sum([len(page) async for page in pages])

    @rpc
    async def chat(self, lines: AsyncIterator[str], loud: bool = False) -> AsyncIterator[str]:
        async for line in lines:
            yield line

    @rpc
    def render(self, document: bytes) -> str:
        return document.decode()

    @rpc(raises=[OutOfPaper])
    def render_again(self, document: bytes) -> str:
        raise OutOfPaper(tray=3)

    @rpc(asyncio=True)
    async def lookup(self, key: str) -> str:
        return key


@service(name="remote", version=2)
class Remote(Protocol):
    @rpc
    async def hello(self, name: str) -> str: ...

    @rpc
    async def progress(self, job: int) -> AsyncIterator[float]: ...

    @rpc(idempotent=True)
    def numbers(self) -> AsyncIterable[int]: ...

    @rpc
    def render(self, document: bytes) -> str: ...


class Served(Remote):
    @rpc
    def hello(self, name: str) -> str:
        return name

    @rpc
    async def progress(self, job: int) -> AsyncIterator[float]:
        yield 1.0


@service
class Abstract(abc.ABC):
    @rpc
    @abc.abstractmethod
    async def hello(self, name: str) -> str: ...


class Implementation(Abstract):
    async def hello(self, name: str) -> str:
        return name


async def a_method_keeps_its_parameters_and_its_result(greeter: Greeter) -> None:
    assert_type(await greeter.hello("a"), str)
    assert_type(await greeter.hello(name="a", loud=True), str)
    assert_type(await greeter.submit(Job(1, ["a"]), copies=2), dict[str, list[int]])
    call: Coroutine[Any, Any, str] = assert_type(greeter.hello("a"), Coroutine[Any, Any, str])
    assert_type(await call, str)
    later: Callable[[Job, int], Coroutine[Any, Any, dict[str, list[int]]]] = greeter.submit
    assert_type(await later(Job(1, []), 2), dict[str, list[int]])


async def contracts_without_a_body_keep_their_types(remote: Remote, abstract: Abstract) -> None:
    assert_type(await remote.hello("a"), str)
    assert_type(await abstract.hello("a"), str)
    assert_type(await Implementation().hello("a"), str)


async def a_stream_is_entered_and_a_plain_function_is_awaited(streams: Streams, remote: Remote, served: Served) -> None:
    async with streams.progress(7, step=2) as values:
        assert_type(values, AsyncIterator[float])
        async for value in values:
            assert_type(value, float)
    async with streams.numbers() as numbers, remote.numbers() as others, remote.progress(1) as progress:
        assert_type(numbers, AsyncIterator[int])
        assert_type(others, AsyncIterator[int])
        assert_type(progress, AsyncIterator[float])
    async with served.progress(1) as served_progress:
        assert_type(served_progress, AsyncIterator[float])
    assert_type(await streams.render(b""), str)
    assert_type(await streams.render_again(b""), str)
    assert_type(await streams.lookup("a"), str)
    assert_type(await remote.render(b""), str)
    assert_type(await served.hello("a"), str)


async def a_request_stream_is_any_async_iterator(streams: Streams, channel: trio.MemoryReceiveChannel[bytes]) -> None:
    async def lines() -> AsyncIterator[str]:
        yield "a"

    assert_type(await streams.upload(channel), int)
    async with streams.chat(lines(), loud=True) as answers:
        assert_type(answers, AsyncIterator[str])


def a_declared_error_is_an_attrs_class(error: OutOfPaper) -> None:
    assert_type(error.tray, int)
    assert_type(OutOfPaper(3).pages, list[str])
    assert_type(OutOfPaper(tray=3, pages=["a"]).hops, tuple[Hop, ...])


def a_decorated_class_is_still_that_class() -> None:
    assert_type(Greeter, type[Greeter])
    assert_type(Greeter(), Greeter)
    assert_type(definition_of(Greeter), ServiceDefinition)
    assert_type(definition_of(Greeter()), ServiceDefinition)


async def mistakes_are_seen(greeter: Greeter) -> None:
    # Each of these is an error; mypy says so when one is not, because the comment is then unused.
    await greeter.hello(1)  # type: ignore[arg-type]
    await greeter.hello()  # type: ignore[call-arg]
    await greeter.hello("a", "loud")  # type: ignore[arg-type]
    await greeter.hello("a", shout=True)  # type: ignore[call-arg]
    number: int = await greeter.hello("a")  # type: ignore[assignment]
    await greeter.goodbye()  # type: ignore[attr-defined]
    del number


async def mistakes_with_streams_and_errors_are_seen(streams: Streams) -> None:
    await streams.progress(7)  # type: ignore[misc]
    async for _ in streams.progress(7):  # type: ignore[attr-defined]
        pass
    async with streams.progress("7") as values:  # type: ignore[arg-type]
        del values
    async with streams.upload([b""]) as answer:  # type: ignore[attr-defined, arg-type]
        del answer
    text: str = streams.render(b"")  # type: ignore[assignment]
    del text
    OutOfPaper()  # type: ignore[call-arg]
    OutOfPaper(tray="3")  # type: ignore[arg-type]


class Mistakes:
    @rpc(asyncio=True)  # type: ignore[arg-type]
    def plain(self) -> str:
        return ""

    @rpc(raises=[ValueError])  # type: ignore[list-item]
    async def foreign(self) -> None: ...
