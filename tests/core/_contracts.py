"""Contracts and codecs that the tests of values share."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from typing import Any, NewType

import attrs

from rpcnet._core.values import MethodCodec, compile_method, compile_service
from rpcnet.service import MethodDefinition, Parameter, Shape, definition_of, rpc, service

LIMIT = 1 << 20


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


def codec(*annotations: Any, result: Any = None, max_bytes: int = LIMIT, max_depth: int = 64) -> MethodCodec:
    parameters = tuple(Parameter(f"p{index}", annotation) for index, annotation in enumerate(annotations))
    definition = MethodDefinition("method", "Service", Shape.UNARY, parameters, result, idempotent=False)
    return compile_method(definition, max_depth=max_depth, max_bytes=max_bytes)


def round_trip(annotation: Any, value: Any) -> Any:
    one = codec(annotation, result=annotation)
    result = one.decode_result(one.encode_result(value))
    (argument,) = one.decode_arguments(one.encode_arguments((value,), {}))
    assert repr(result) == repr(argument)
    return argument


SUBMIT = compile_service(definition_of(Printing), max_depth=64, max_bytes=LIMIT)["submit"]


def with_parameters(*parameters: Parameter) -> MethodCodec:
    definition = MethodDefinition("method", "Service", Shape.UNARY, parameters, None, idempotent=False)
    return compile_method(definition, max_depth=64, max_bytes=LIMIT)
