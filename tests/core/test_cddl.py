"""The CDDL of a service says what is on the wire."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import uuid
from collections.abc import AsyncIterator
from typing import Any, Literal

import cbor2
import pytest
from _cddl import Schema
from _contracts import Color, Page, Person, Rights, Tree, codec
from _versions import TABLE, version

from rpcnet._annotations import show
from rpcnet._core.cddl import to_cddl
from rpcnet._core.schema import describe_method, describe_service
from rpcnet._core.values import MethodCodec
from rpcnet.errors import ApplicationError
from rpcnet.service import definition_of, rpc, service


class OutOfPaper(ApplicationError):
    tray: int
    since: dt.date | None = None


@service(name="printing", version=2)
class Printing:
    @rpc(idempotent=True, raises=[OutOfPaper])
    async def submit(self, job: Page, copies: int = 1, color: Color = Color.RED) -> list[str]:
        return job.words

    @rpc
    async def chat(self, room: uuid.UUID, lines: AsyncIterator[Tree]) -> AsyncIterator[Page | Person | None]:
        async for _ in lines:
            yield None

    @rpc
    def render(self, pages: dict[Color, tuple[decimal.Decimal, Rights]]) -> Any: ...


TEXT = """\
; service printing, version 2

; printing.chat, bidirectional, not idempotent
printing.chat.arguments = [room: uuid]
printing.chat.item = Tree
printing.chat.result = ["Page", Page] / ["Person", Person] / null

; printing.render, unary, not idempotent
printing.render.arguments = [pages: {* Color => [decimal, Rights]}]
printing.render.result = plain

; printing.submit, unary, idempotent
printing.submit.arguments = [job: Page]
  / [job: Page, copies: integer]
  / [job: Page, copies: integer, color: Color]
printing.submit.result = [* tstr]
printing.submit.error.OutOfPaper = {
  "tray": integer,
  ? "since": date / null,
  * tstr => any,
}

Tree = {
  "name": tstr,
  ? "children": [* Tree],
  ? "twin": Tree / null,
  * tstr => any,
}

Page = {
  "number": integer,
  ? "words": [* tstr],
  * tstr => any,
}

Person = {
  "name": tstr,
  "id": integer,
  ? "born": date / null,
  ? "favourite": Color,
  * tstr => any,
}

Color = "red" / "blue"

Rights = 0..3

uuid = bstr .size 16

date = tstr  ; ISO 8601

decimal = tstr  ; the digits, as in 1.50

plain = null / bool / integer / float / tstr / bstr / [* plain] / {* plain-key => plain}

plain-key = null / bool / integer / float / tstr / bstr
"""


def test_a_service_is_written_for_people() -> None:
    assert to_cddl(describe_service(definition_of(Printing))) == TEXT


@pytest.mark.parametrize(
    ("rule", "value", "fits"),
    [
        ("arguments", [{"number": 1}], True),
        ("arguments", [{"number": 1, "words": ["a"], "more": 7}, 2, "red"], True),
        ("arguments", [], False),
        ("arguments", [{"words": ["a"]}], False),
        ("arguments", [{"number": "1"}], False),
        ("arguments", [{"number": 1, "words": "a"}], False),
        ("arguments", [{"number": 1}, "red"], False),
        ("arguments", [{"number": 1}, 2, "green"], False),
        ("arguments", [{"number": 1}, 2, "red", 4], False),
        ("result", ["a", 1], False),
        ("error.OutOfPaper", {"tray": 3, "since": None}, True),
        ("error.OutOfPaper", {"since": "2024-05-01"}, False),
    ],
)
def test_the_rules_take_what_travels_and_nothing_else(rule: str, value: object, fits: bool) -> None:
    assert Schema(TEXT).matches(f"printing.submit.{rule}", value) is fits


def of(one: MethodCodec) -> Schema:
    return Schema(to_cddl({"name": "S", "version": 1, "methods": {"method": describe_method(one.definition)}}))


@pytest.mark.parametrize(("annotation", "values"), TABLE, ids=[show(annotation) for annotation, _ in TABLE])
def test_whatever_is_sent_is_what_the_rules_say(annotation: Any, values: list[Any]) -> None:
    one = codec(annotation, result=annotation, requests=annotation)
    schema = of(one)
    for value in values:
        assert schema.matches("Service.method.arguments", cbor2.loads(one.encode_arguments((value,), {})))
        assert schema.matches("Service.method.result", cbor2.loads(one.encode_result(value)))
        assert schema.matches("Service.method.item", cbor2.loads(one.encode_request(value)))


@pytest.mark.parametrize(
    ("annotation", "bad"),
    [
        (int, [1.5, True, "1", None]),
        (float, ["1", None, True]),
        (uuid.UUID, [b"short", "text"]),
        (Color, ["green", 1]),
        (Rights, [4, -1, "READ"]),
        (Literal["a", 1, b"x"], ["b", True, 2, b"y", None]),
        (Page | Person, [{"number": 1}, ["Person", {"number": 1}], ["Tree", {}]]),
        (tuple[int, str], [[1], [1, "a", 2], ["a", 1]]),
        (dict[str, int], [{"a": "b"}, {1: 1}, []]),
        (dict[Literal["a", "b"], int], [{"c": 1}]),
    ],
)
def test_what_a_reader_refuses_is_not_what_the_rules_say(annotation: Any, bad: list[Any]) -> None:
    schema = of(codec(annotation))
    for value in bad:
        assert not schema.matches("Service.method.arguments", [value])


STREET = version("Straße", größe=int, quote=Literal['a "quoted" \\ text', "new\nline", "größer"])


class Large(enum.Enum):
    NUMBER = 2**70


def test_names_that_cddl_does_not_allow_or_has_taken_are_replaced() -> None:
    one = codec(STREET, version("integer", value=int), version("uuid", value=uuid.UUID), Large)
    schema = of(one)
    assert {"Strau00dfe", "integer_2", "uuid_2", "uuid"} <= set(schema.rules)
    values = [{"größe": 1, "quote": 'a "quoted" \\ text'}, {"value": 1}, {"value": bytes(16)}, 2**70]
    assert schema.matches("Service.method.arguments", values)
    assert not schema.matches("Service.method.arguments", [{"größe": 1, "quote": "other"}, *values[1:]])


def test_a_class_of_several_methods_is_written_once_and_another_of_its_name_beside_it() -> None:
    page = describe_method(codec(Page).definition)
    again = {**describe_method(codec(result=Page).definition), "name": "again"}
    other = {**describe_method(codec(version("Page", number=str)).definition), "name": "other"}
    text = to_cddl({"name": "S", "version": 1, "methods": {"a": page, "b": again, "c": other}})
    schema = Schema(text)
    assert sum(name.startswith("Page") for name in schema.rules) == 2
    assert schema.matches("Service.method.arguments", [{"number": 1}])
    assert schema.matches("Service.other.arguments", [{"number": "1"}])
    assert not schema.matches("Service.other.arguments", [{"number": 1}])


def test_what_a_stranger_calls_its_service_cannot_leave_the_comment() -> None:
    hostile = {**describe_method(codec().definition), "name": "x\nstart = any", "shape": "y\nstart = any"}
    text = to_cddl({"name": "S\nstart = any", "version": "1\r\nstart = any", "methods": {"m": hostile}})
    assert set(Schema(text).rules) == {
        "Service.xu000astartu0020u003du0020any.arguments",
        "Service.xu000astartu0020u003du0020any.result",
    }


@pytest.mark.parametrize("broken", [{}, {"methods": {}}, {"methods": 7}, {"methods": {"m": {}}}])
def test_what_is_no_service_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not the description of a"):
        to_cddl(broken)
