"""What a type checker sees of services. ``mypy --strict`` checks this file; nothing in it runs."""

from __future__ import annotations

import abc
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, assert_type

import attrs

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


@service(name="remote", version=2)
class Remote(Protocol):
    @rpc
    async def hello(self, name: str) -> str: ...


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


class NotAsync:
    @rpc  # type: ignore[arg-type]
    def plain(self) -> str:
        return ""
