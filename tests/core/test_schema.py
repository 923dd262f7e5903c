"""A description says what decides about the bytes on the wire, and its hash whether two say the same."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import re
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import attrs
import pytest
from _contracts import Color, Page, Person, Rights, Tree, UserId, codec
from _versions import TABLE, generic, version

from rpcnet._core.schema import describe_method, describe_service, read_description
from rpcnet._core.schema_hash import schema_hash
from rpcnet.errors import ApplicationError, Status
from rpcnet.service import definition_of, rpc, service


class OutOfPaper(ApplicationError):
    status = Status.RESOURCE_EXHAUSTED
    tray: int
    since: dt.date | None = None


@service(name="printing", version=3)
class Printing:
    @rpc(idempotent=True, raises=[OutOfPaper])
    async def submit(self, job: Page, copies: int = 1, color: Color = Color.RED) -> list[str]:
        return [*job.words] * copies

    @rpc
    async def chat(self, room: str, lines: AsyncIterator[Tree]) -> AsyncIterator[Page | Person | None]:
        async for _ in lines:
            yield None


def described(*annotations: Any, **options: Any) -> dict[str, Any]:
    return describe_method(codec(*annotations, **options).definition)


PAGE: dict[str, Any] = {
    "kind": "class",
    "fields": [
        {"name": "number", "type": {"type": "int"}, "required": True},
        {"name": "words", "type": {"type": "list", "items": [{"type": "str"}]}, "required": False},
    ],
}
COLOR = {"kind": "enum", "values": {"RED": "red", "BLUE": "blue"}}


def test_a_method_is_described_completely() -> None:
    assert describe_method(definition_of(Printing).methods["submit"]) == {
        "name": "submit",
        "service": "printing",
        "shape": "unary",
        "idempotent": True,
        "parameters": [
            {"name": "job", "type": {"type": "class", "name": "Page"}, "required": True},
            {"name": "copies", "type": {"type": "int"}, "required": False, "default": 1},
            {"name": "color", "type": {"type": "enum", "name": "Color"}, "required": False, "default": "red"},
        ],
        "result": {"type": "list", "items": [{"type": "str"}]},
        "errors": {
            "OutOfPaper": {
                "status": "RESOURCE_EXHAUSTED",
                "fields": [
                    {"name": "tray", "type": {"type": "int"}, "required": True},
                    {
                        "name": "since",
                        "type": {"type": "union", "items": [{"type": "date"}, {"type": "none"}]},
                        "required": False,
                        "default": None,
                    },
                ],
            }
        },
        "definitions": {"Page": PAGE, "Color": COLOR},
    }


def test_a_stream_is_described_by_its_items() -> None:
    chat = describe_method(definition_of(Printing).methods["chat"])
    assert (chat["shape"], chat["requests"]) == ("bidirectional", {"type": "class", "name": "Tree"})
    assert (chat["requests_name"], chat["requests_index"]) == ("lines", 1)
    assert chat["result"] == {
        "type": "union",
        "items": [{"type": "class", "name": "Page"}, {"type": "class", "name": "Person"}, {"type": "none"}],
        "tags": ["Page", "Person", ""],
    }
    assert list(chat["definitions"]) == ["Tree", "Page", "Person", "Color"]


def test_a_service_is_described_by_its_methods() -> None:
    description = describe_service(definition_of(Printing))
    assert (description["name"], description["version"], list(description["methods"])) == (
        "printing",
        3,
        ["chat", "submit"],
    )
    for name, method in definition_of(Printing).methods.items():
        assert description["methods"][name] == describe_method(method)
    assert json.loads(json.dumps(description)) == description


@pytest.mark.parametrize(
    ("annotation", "type_"),
    [
        (None, {"type": "none"}),
        (UserId, {"type": "int"}),
        (Annotated[Any, "x"], {"type": "any"}),
        (decimal.Decimal, {"type": "decimal"}),
        (uuid.UUID, {"type": "uuid"}),
        (Literal["a", b"x", 1, True], {"type": "literal", "values": ["a", {"bytes": "78"}, 1, True]}),
        (Sequence[int], {"type": "list", "items": [{"type": "int"}]}),
        (tuple[int, ...], {"type": "list", "items": [{"type": "int"}]}),
        (frozenset[int], {"type": "set", "items": [{"type": "int"}]}),
        (tuple[()], {"type": "tuple"}),
        (tuple[int, str], {"type": "tuple", "items": [{"type": "int"}, {"type": "str"}]}),
        (Mapping[str, bytes], {"type": "dict", "items": [{"type": "str"}, {"type": "bytes"}]}),
        (int | str, {"type": "union", "items": [{"type": "int"}, {"type": "str"}]}),
        (
            list[int] | set[int],
            {
                "type": "union",
                "items": [{"type": "list", "items": [{"type": "int"}]}, {"type": "set", "items": [{"type": "int"}]}],
                "tags": ["list", "set"],
            },
        ),
    ],
)
def test_a_type_is_described_as_it_travels(annotation: Any, type_: dict[str, Any]) -> None:
    assert described(result=annotation)["result"] == type_


def test_flags_say_their_bits() -> None:
    assert described(Rights)["definitions"] == {"Rights": {"kind": "flag", "values": {"READ": 1, "WRITE": 2}}}

    class Open(enum.IntFlag):
        READ = 1

    assert described(Open)["definitions"] == {"Open": {"kind": "flag", "values": {"READ": 1}, "open": True}}


@attrs.frozen
class Defaults:
    number: float = 1.5
    endless: float = float("inf")
    day: dt.date = dt.date(2024, 5, 1)
    data: bytes = b"x"
    pair: tuple[int, int] = (1, 2)
    page: Page = Page(1, ["a"])  # noqa: RUF009 - it is frozen
    anything: Any = attrs.field(factory=dict)
    wrong: int = "x"  # type: ignore[assignment]


def test_a_default_is_told_as_it_would_travel_where_json_can_hold_it() -> None:
    fields = described(Defaults)["definitions"]["Defaults"]["fields"]
    assert {field["name"]: field["default"] for field in fields if "default" in field} == {
        "number": 1.5,
        "day": "2024-05-01",
        "pair": [1, 2],
        "page": {"number": 1, "words": ["a"]},
    }
    assert not any(field["required"] for field in fields)


def test_two_classes_of_one_name_get_two_names_everywhere_in_a_service() -> None:
    one, other = version("Book", title=str), version("Book", pages=int)

    class Both:
        async def second(self, book: Any) -> None: ...

        async def first(self, books: Any) -> None: ...

    Both.first.__annotations__ = {"books": generic(tuple, one, other), "return": None}
    Both.second.__annotations__ = {"book": other, "return": None}
    for name in ("first", "second"):
        setattr(Both, name, rpc(vars(Both)[name]))
    methods = describe_service(definition_of(service(Both)))["methods"]
    assert list(methods["first"]["definitions"]) == ["Book", "Book_2"]
    assert list(methods["second"]["definitions"]) == ["Book_2"]
    assert methods["second"]["definitions"]["Book_2"] == methods["first"]["definitions"]["Book_2"]


# --- reading


@pytest.mark.parametrize("annotation", [annotation for annotation, _ in TABLE], ids=str)
def test_a_description_is_read_as_it_was_written(annotation: Any) -> None:
    description = described(annotation, result=annotation, requests=annotation)
    again = json.loads(json.dumps(description))
    assert again == description
    assert schema_hash(again) == schema_hash(description)
    read = read_description(again)
    assert (read.full_name, read.shape, read.parameters[0].type) == ("Service.method", "client streaming", read.result)


SUBMIT = describe_method(definition_of(Printing).methods["submit"])


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ({}, ".name: missing"),
        ({**SUBMIT, "shape": 7}, ".shape: expected str, got int"),
        ({**SUBMIT, "result": {"type": "map"}}, ".result: TypeDescription refuses it: no type is called 'map'"),
        ({**SUBMIT, "result": {"type": "list"}}, ".result: TypeDescription refuses it: list with 0 items"),
        ({**SUBMIT, "result": {"type": "int", "items": [{"type": "int"}]}}, "int with 1 items"),
        ({**SUBMIT, "result": {"type": "union", "items": [{"type": "int"}], "tags": ["", ""]}}, "1 items with 2 tags"),
        ({**SUBMIT, "result": {"type": "class", "name": "Book"}}, "no class is called 'Book'"),
        ({**SUBMIT, "result": {"type": "enum", "name": "Page"}}, "no enum is called 'Page'"),
        ({**SUBMIT, "result": {"type": "literal", "values": [[]]}}, "not the value of a literal: []"),
        ({**SUBMIT, "result": {"type": "literal", "values": [{"bytes": "7"}]}}, "non-hexadecimal number"),
        ({**SUBMIT, "definitions": {"Page": {"kind": "group"}}}, ".definitions['Page'].kind: expected Literal"),
        ({**SUBMIT, "parameters": [{"name": "job"}]}, ".parameters[0].type: missing"),
    ],
)
def test_what_is_no_description_is_refused_with_its_place(broken: dict[str, Any], problem: str) -> None:
    for read in (read_description, schema_hash):
        with pytest.raises(ValueError, match=re.escape(problem)):
            read(broken)


def test_a_description_that_nests_without_end_is_refused() -> None:
    deep: dict[str, Any] = {"type": "int"}
    for _ in range(5000):
        deep = {"type": "list", "items": [deep]}
    with pytest.raises(ValueError, match="maximum recursion depth exceeded") as caught:
        read_description({**SUBMIT, "result": deep})
    assert len(str(caught.value)) < 400


# --- the hash


def changed(**changes: Any) -> str:
    return schema_hash({**SUBMIT, **changes})


def test_the_hash_is_the_same_in_every_process() -> None:
    assert schema_hash(SUBMIT) == "f96d3a253d3dd924"  # strings hash differently in each run of the tests


def test_the_hash_does_not_know_what_does_not_travel() -> None:
    page = {**PAGE, "fields": [{**field, "default": 0} for field in reversed(PAGE["fields"])]}
    other_color = {"kind": "enum", "values": {"BLAU": "blue", "ROT": "red"}}
    renamed = json.loads(json.dumps(SUBMIT).replace('"Page"', '"Sheet"'))
    for same in (
        changed(name="other", service="else", idempotent=False),
        changed(definitions={"Color": other_color, "Page": page, "Unused": page}),
        schema_hash(renamed),
        changed(parameters=[{**parameter, "default": 7} for parameter in SUBMIT["parameters"]]),
        changed(errors={"OutOfPaper": {**SUBMIT["errors"]["OutOfPaper"], "status": "NOT_FOUND"}}),
    ):
        assert same == schema_hash(SUBMIT)
    for one, same_type in ((list[int], Sequence[int]), (int | str, str | int), (set[int], frozenset[int])):
        assert schema_hash(described(one)) == schema_hash(described(same_type))
    assert schema_hash(described(Page | Person | None)) == schema_hash(described(None | Person | Page))
    assert schema_hash(described(Color)) == schema_hash(described(Literal["blue", "red"]))


def test_the_hash_knows_what_travels() -> None:
    number, words = PAGE["fields"]
    hashes = [
        schema_hash(SUBMIT),
        changed(shape="server streaming"),
        changed(parameters=SUBMIT["parameters"][:2]),
        changed(parameters=[{**parameter, "required": True} for parameter in SUBMIT["parameters"]]),
        changed(parameters=[{**parameter, "name": "x"} for parameter in SUBMIT["parameters"]]),
        changed(result={"type": "none"}),
        changed(requests={"type": "none"}),
        changed(errors={}),
        changed(definitions={"Page": PAGE, "Color": {"kind": "enum", "values": {"RED": "red"}}}),
        changed(definitions={"Page": {**PAGE, "fields": [number]}, "Color": COLOR}),
        changed(definitions={"Page": {**PAGE, "fields": [{**number, "required": False}, words]}, "Color": COLOR}),
    ]
    assert len(set(hashes)) == len(hashes)
    for one, other in ((Literal[1], Literal[True]), (Literal["1"], Literal[1]), (Literal[b"a"], Literal["a"])):
        assert schema_hash(described(one)) != schema_hash(described(other))
