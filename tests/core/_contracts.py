"""Contracts and codecs that the tests of values share."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from typing import Any, NewType

import attrs

from rpcnet._annotations import strip
from rpcnet._core.values import MethodCodec, compile_method, compile_service
from rpcnet.errors import ApplicationError
from rpcnet.service import MethodDefinition, Parameter, Shape, definition_of, rpc, service

LIMIT = 1 << 20
NO_STREAM = object()


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Strange(enum.Enum):
    FOUND = "found"

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise LookupError(value)


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


UserId = NewType("UserId", int)


@attrs.frozen
class Page:
    number: int
    words: list[str] = attrs.field(factory=list)


@attrs.frozen
class Tree:
    name: str
    children: list[Tree] = attrs.field(factory=list)
    twin: Tree | None = None


@dataclasses.dataclass(frozen=True)
class Person:
    name: str
    id: UserId
    born: dt.date | None = None
    favourite: Color = Color.RED


@attrs.frozen
class Positive:
    value: int = attrs.field(validator=attrs.validators.gt(0))


@service
class Printing:
    @rpc
    async def submit(self, job: Page, copies: int = 1, color: bool = False) -> Page: ...  # type: ignore[empty-body]

    @rpc
    async def echo(self, data: bytes) -> bytes: ...  # type: ignore[empty-body]


def codec(
    *annotations: Any,
    result: Any = None,
    requests: Any = NO_STREAM,
    raises: tuple[type[ApplicationError], ...] = (),
    max_bytes: int = LIMIT,
    max_depth: int = 64,
) -> MethodCodec:
    takes_stream = requests is not NO_STREAM
    definition = MethodDefinition(
        name="method",
        service_name="Service",
        shape=Shape.of(requests=takes_stream, results=False),
        parameters=tuple(Parameter(f"p{index}", annotation) for index, annotation in enumerate(annotations)),
        result=result,
        idempotent=False,
        raises=raises,
        requests=strip(requests) if takes_stream else None,
        requests_name="items" if takes_stream else "",
        requests_index=len(annotations) if takes_stream else None,
    )
    return compile_method(definition, max_depth=max_depth, max_bytes=max_bytes)


def failure_of(annotation: Any) -> type[Any]:
    """Make an error class with one field."""
    return type("Failure", (ApplicationError,), {"__annotations__": {"value": annotation}})


def round_trip(annotation: Any, value: Any) -> Any:
    """Send a value in every place that a method has for one."""
    failure = failure_of(annotation)
    one = codec(annotation, result=annotation, requests=annotation, raises=(failure,))
    (argument,) = one.decode_arguments(one.encode_arguments((value,), {}))
    result = one.decode_result(one.encode_result(value))
    item = one.decode_request(one.encode_request(value))
    sent = one.encode_error(failure(value))
    assert sent is not None
    error: Any = one.decode_application_error(*sent)
    assert repr(argument) == repr(result) == repr(item) == repr(error.value)
    return argument


SUBMIT = compile_service(definition_of(Printing), max_depth=64, max_bytes=LIMIT)["submit"]


def with_parameters(*parameters: Parameter) -> MethodCodec:
    definition = MethodDefinition("method", "Service", Shape.UNARY, parameters, None, idempotent=False)
    return compile_method(definition, max_depth=64, max_bytes=LIMIT)
