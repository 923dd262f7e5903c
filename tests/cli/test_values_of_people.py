"""Texts and JSON to what travels, and back, by the types that a node tells."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rpcnet
from rpcnet._core.schema import (
    ErrorDescription,
    FieldDescription,
    MethodDescription,
    NamedDescription,
    TypeDescription,
)
from rpcnet.cli._arguments import arguments
from rpcnet.cli._description import ServiceDescription, Unreadable, read_method, read_service, show
from rpcnet.cli._outcomes import Declared, error_data, error_line, exit_code
from rpcnet.cli._schema_text import service_text, signature
from rpcnet.cli._values import Misfit, Values, plain, read_json

INT, STR, FLOAT, BYTES, NONE, ANY = map(TypeDescription, ("int", "str", "float", "bytes", "none", "any"))
BOOL, UUID, DATE, DATETIME, DECIMAL = map(TypeDescription, ("bool", "uuid", "date", "datetime", "decimal"))
COLOUR, SIZE, RIGHTS = (TypeDescription("enum", name) for name in ("Colour", "Size", "Rights"))
MODE = TypeDescription("literal", values=("fast", 2, None, {"bytes": "00"}))
JOB, CIRCLE, SQUARE, TREE = (TypeDescription("class", name) for name in ("Job", "Circle", "Square", "Tree"))
SHAPES = TypeDescription("union", items=(CIRCLE, SQUARE, NONE), tags=("Circle", "Square", ""))
WORDS = TypeDescription("list", items=(STR,))


def needed(name: str, kind: TypeDescription) -> FieldDescription:
    return FieldDescription(name, kind, required=True)


def optional(name: str, kind: TypeDescription, *default: object) -> FieldDescription:
    return FieldDescription(name, kind, False, *default)


DEFINITIONS = {
    "Job": NamedDescription("class", (needed("id", INT), optional("words", WORDS, []))),
    "Circle": NamedDescription("class", (needed("radius", FLOAT),)),
    "Square": NamedDescription("class", (needed("side", FLOAT), optional("name", STR))),
    "Tree": NamedDescription("class", (needed("children", TypeDescription("list", items=(TREE,))),)),
    "Colour": NamedDescription("enum", values={"RED": 1, "BLUE": 2}),
    "Size": NamedDescription("enum", values={"LARGE": "l", "L": "XL"}),
    "Rights": NamedDescription("flag", values={"READ": 1, "WRITE": 2, "RUN": 8}),
}


def method_of(
    name: str, *parameters: FieldDescription, result: TypeDescription = NONE, **more: Any
) -> MethodDescription:
    service, _, name = name.rpartition(".")
    more = {"shape": "unary", "idempotent": False, **more}
    return MethodDescription(name, service, parameters=parameters, result=result, definitions=DEFINITIONS, **more)


VALUES = Values(method_of("s.m"))
ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


def one_of(*items: TypeDescription) -> TypeDescription:
    return TypeDescription("union", items=items)


def several(kind: str, *items: TypeDescription) -> TypeDescription:
    return TypeDescription(kind, items=items)


@pytest.mark.parametrize(
    ("text", "kind", "wire"),
    [
        ("7", INT, 7),
        ("7", STR, "7"),
        ("null", STR, "null"),
        ('"null"', STR, "null"),
        ("", STR, ""),
        ("hello world", STR, "hello world"),
        ("true", BOOL, True),
        ("7", FLOAT, 7.0),
        ("1e3", FLOAT, 1000.0),
        ("-Infinity", FLOAT, -math.inf),
        ("aGk=", BYTES, b"hi"),
        ("2026-03-01", DATE, "2026-03-01"),
        ("2026-03-01T10:00:00Z", DATETIME, "2026-03-01T10:00:00+00:00"),
        ("0.1000000000000000055511151231257827", DECIMAL, "0.1000000000000000055511151231257827"),
        (str(ID), UUID, ID.bytes),
        (ID.hex, UUID, ID.bytes),
        ("2", COLOUR, 2),
        ("RED", COLOUR, 1),
        ("l", SIZE, "l"),
        ("L", SIZE, "XL"),
        ("RUN", RIGHTS, 8),
        ("READ | RUN", RIGHTS, 9),
        ("3", RIGHTS, 3),
        ("0", RIGHTS, 0),
        ("fast", MODE, "fast"),
        ("2", MODE, 2),
        ("null", MODE, None),
        ("AA==", MODE, b"\x00"),
        ("7", one_of(INT, STR), 7),
        ('"7"', one_of(INT, STR), "7"),
        ("null", one_of(STR, NONE), None),
        ("some", one_of(STR, NONE), "some"),
        (str(ID), one_of(STR, UUID), ID.bytes),
        ("aGk=", one_of(BYTES, STR), "aGk="),
        ("[1, 2.5]", several("list", FLOAT), [1.0, 2.5]),
        ('["a", 1]', several("tuple", STR, INT), ["a", 1]),
        ('{"1": "x"}', several("dict", INT, STR), {1: "x"}),
        ('{"7": 1, "\\"a\\"": 2}', several("dict", STR, INT), {"7": 1, '"a"': 2}),
        ('{"RED": 1}', several("dict", COLOUR, INT), {1: 1}),
        ('{"id": 1}', JOB, {"id": 1}),
        ('["Circle", {"radius": 1}]', SHAPES, ["Circle", {"radius": 1.0}]),
        ('{"side": 1}', SHAPES, ["Square", {"side": 1.0}]),
        ("null", SHAPES, None),
        ('{"children": [{"children": []}]}', TREE, {"children": [{"children": []}]}),
        ('{"a": [1.5, null, "x"]}', ANY, {"a": [1.5, None, "x"]}),
        ("anything", ANY, "anything"),
        ("1" * 5000, STR, "1" * 5000),
    ],
)
def test_a_text_becomes_what_the_type_wants(text: str, kind: TypeDescription, wire: object) -> None:
    found = VALUES.from_text(text, kind)
    assert (found, type(found)) == (wire, type(wire))


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("x", INT, 'expected int, got "x"'),
        ("7.0", INT, "expected int, got 7.0"),
        ("true", INT, "expected int, got true"),
        ("1", BOOL, "expected bool, got 1"),
        ("[]", FLOAT, "expected float, got a list"),
        ("1" + "0" * 400, FLOAT, "too large"),
        ("%%%", BYTES, "expected bytes in base64"),
        ("tomorrow", DATE, 'expected date, got "tomorrow"'),
        ("tomorrow", DATETIME, "expected datetime"),
        ("much", DECIMAL, "expected Decimal"),
        ("1234", UUID, "expected UUID"),
        ("GREEN", COLOUR, 'expected Colour, one of 1, 2, got "GREEN"'),
        ("true", COLOUR, "expected Colour"),
        ("READ|FLY", RIGHTS, 'expected Rights, a sum of READ, WRITE, RUN, got "READ|FLY"'),
        ("4", RIGHTS, "expected Rights, a sum of READ, WRITE, RUN, got 4"),
        ("true", RIGHTS, "expected Rights"),
        ("slow", MODE, "expected Literal['fast', 2, None, b'\\x00']"),
        ("[]", one_of(INT, NONE), "expected int | None, got a list"),
        ('[1, "x"]', several("list", INT), '[1]: expected int, got "x"'),
        ("[1]", several("tuple", INT, INT), "expected 2 elements, got 1"),
        ('{"a": 1}', several("dict", INT, INT), "['a']: expected int"),
        ('{"1": null}', several("dict", INT, INT), "['1']: expected int, got null"),
        ('{"id": "x"}', JOB, 'id: expected int, got "x"'),
        ("{}", JOB, "Job needs the field 'id': int"),
        ('{"id": 1, "word": []}', JOB, "Job has no field 'word'; it has id, words"),
        ("[]", JOB, "expected Job, got a list"),
        ("{}", SHAPES, "an object does not fit Circle | Square | None: write [name, value]"),
        ('["Circle", {"radius": "x"}]', SHAPES, "[1].radius: expected float"),
        ('{"id": 1, "id": 2}', JOB, "expected Job"),
    ],
)
def test_a_text_that_does_not_fit_is_refused_with_place_and_both_sides(
    text: str, kind: TypeDescription, words: str
) -> None:
    with pytest.raises(Misfit) as caught:
        VALUES.from_text(text, kind)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["{", '{"a": 1, "a": 2}', "[" * 100_000, "nul"])
def test_data_must_be_json(text: str) -> None:
    with pytest.raises(Misfit, match="JSON"):
        read_json(text)


def test_a_value_that_two_members_fit_must_be_named() -> None:
    both = TypeDescription("union", items=(several("list", INT), several("set", INT)), tags=("list", "set"))
    with pytest.raises(Misfit, match=r"fits list and set: write \[name, value\]"):
        VALUES.from_text("[1]", both)
    assert VALUES.from_text('["set", [1]]', both) == ["set", [1]]


@pytest.mark.parametrize(
    ("wire", "kind", "shown"),
    [
        (b"hi", BYTES, "aGk="),
        (ID.bytes, UUID, str(ID)),
        (math.nan, FLOAT, "NaN"),
        (-math.inf, ANY, "-Infinity"),
        ([ID.bytes], several("list", UUID), [str(ID)]),
        ([1, ID.bytes], several("tuple", INT, UUID), [1, str(ID)]),
        ({ID.bytes: b"x"}, several("dict", UUID, BYTES), {str(ID): "eA=="}),
        ({7: None, True: 1}, several("dict", INT, ANY), {"7": None, "true": 1}),
        ({"radius": 1.0, "later": b""}, CIRCLE, {"radius": 1.0, "later": ""}),
        (ID.bytes, one_of(STR, UUID), str(ID)),
        ("x", one_of(STR, UUID), "x"),
        (["Circle", {"radius": 1.0}], SHAPES, ["Circle", {"radius": 1.0}]),
        (["Oval", b""], SHAPES, ["Oval", ""]),
        (None, SHAPES, None),
        (b"not sixteen", UUID, "bm90IHNpeHRlZW4="),
        ([b"", b""], several("tuple", UUID), ["", ""]),
        ("not a list", several("list", UUID), "not a list"),
        ("red", COLOUR, "red"),
        (9, RIGHTS, 9),
        ({b"id": b""}, JOB, {"aWQ=": ""}),
    ],
)
def test_what_arrives_is_shown_as_json_whatever_it_is(wire: object, kind: TypeDescription, shown: object) -> None:
    assert VALUES.to_json(wire, kind) == shown
    json.dumps(VALUES.to_json(wire, kind), allow_nan=False)


SCALARS: Mapping[TypeDescription, st.SearchStrategy[Any]] = {
    INT: st.integers(),
    STR: st.text(),
    FLOAT: st.floats(allow_nan=False),
    BYTES: st.binary(),
    BOOL: st.booleans(),
    NONE: st.none(),
    UUID: st.uuids().map(lambda value: value.bytes),
    DATE: st.dates().map(lambda value: value.isoformat()),
    DATETIME: st.datetimes().map(lambda value: value.isoformat()),
    DECIMAL: st.decimals(allow_nan=False).map(str),
    COLOUR: st.sampled_from([1, 2]),
    SIZE: st.sampled_from(["l", "XL"]),
}
KEYS = [INT, STR, UUID, DATE, BOOL, COLOUR, DECIMAL, BYTES]


@st.composite
def typed_values(draw: st.DrawFn, depth: int = 2) -> tuple[TypeDescription, Any]:
    form = draw(st.sampled_from(["list", "dict", "tuple", "class", None, None] if depth else [None]))
    if form is None:
        kind = draw(st.sampled_from(list(SCALARS)))
        return kind, draw(SCALARS[kind])
    if form == "class":
        return JOB, {"id": draw(st.integers()), "words": draw(st.lists(st.text()))}
    inner, value = draw(typed_values(depth=depth - 1))
    if form == "list":
        return several("list", inner), [value] * draw(st.integers(0, 2))
    if form == "tuple":
        other, second = draw(typed_values(depth=depth - 1))
        return several("tuple", inner, other), [value, second]
    key = draw(st.sampled_from(KEYS))
    return several("dict", key, inner), dict.fromkeys(draw(st.lists(SCALARS[key], max_size=3)), value)


@given(typed_values())
def test_whatever_travels_goes_to_json_and_back(case: tuple[TypeDescription, Any]) -> None:
    kind, wire = case
    shown = json.dumps(VALUES.to_json(wire, kind), allow_nan=False)
    assert VALUES.from_json(read_json(shown), kind) == wire


PLAIN = st.recursive(
    st.none() | st.binary() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.binary(), inner),
)


@given(PLAIN)
@settings(max_examples=30)
def test_plain_data_of_any_kind_can_be_shown(value: object) -> None:
    json.dumps(plain(value), allow_nan=False)


SUBMIT = method_of(
    "printing.submit",
    *(needed("job", JOB), optional("copies", INT, 1), optional("colour", COLOUR)),
    result=INT,
    idempotent=True,
    errors={"OutOfPaper": ErrorDescription("UNAVAILABLE", (needed("tray", INT), needed("left", SIZE)))},
)
UPLOAD = method_of(
    "printing.upload",
    *(needed("title", STR), optional("author", STR, "me")),
    result=SHAPES,
    shape="bidirectional",
    requests=BYTES,
    requests_name="pages",
    requests_index=1,
)


@pytest.mark.parametrize(
    ("words", "data", "expected"),
    [
        (['job={"id": 7}'], None, [{"id": 7}]),
        (['job={"id": 7}', "copies=3"], None, [{"id": 7}, 3]),
        (['job={"id": 7}', "colour=BLUE"], None, [{"id": 7}, 1, 2]),
        ([], '{"job": {"id": 7}, "copies": 2}', [{"id": 7}, 2]),
        ([], '[{"id": 7}, 2]', [{"id": 7}, 2]),
        (['job={"id": 7}'], "[]", [{"id": 7}]),
        (["copies=2"], '{"job": {"id": 7}}', [{"id": 7}, 2]),
    ],
)
def test_arguments_travel_by_position(words: list[str], data: str | None, expected: list[object]) -> None:
    assert arguments(SUBMIT, VALUES, words, data) == expected


@pytest.mark.parametrize(
    ("words", "data", "problem"),
    [
        ([], None, "printing.submit: job: is missing: Job"),
        (["job"], None, "printing.submit: 'job': write key=value"),
        (["job=7"], None, "printing.submit: job: expected Job, got 7"),
        (['job={"id": "x"}'], None, 'printing.submit: job.id: expected int, got "x"'),
        (['job={"id": 1}', "size=1"], None, "has no parameter 'size'; it is submit(job: Job, copies: int = 1, "),
        (['job={"id": 1}', 'job={"id": 2}'], None, "printing.submit: job: is given twice"),
        (['job={"id": 1}'], '[{"id": 1}]', "printing.submit: job: is given twice"),
        ([], "[1, 2, 3, 4]", "printing.submit: takes 3 arguments, got 4"),
        ([], "7", "the data must be an object by name, or an array by position"),
        ([], "{", "printing.submit: no JSON"),
    ],
)
def test_a_mistake_in_the_arguments_names_method_and_parameter(
    words: list[str], data: str | None, problem: str
) -> None:
    with pytest.raises(Misfit) as caught:
        arguments(SUBMIT, VALUES, words, data)
    assert problem in str(caught.value)


def test_arguments_that_nest_too_deeply_are_a_mistake_like_any_other() -> None:
    method = method_of("s.m", needed("a", ANY))
    with pytest.raises(Misfit, match=r"s\.m: .*too deeply"):
        arguments(method, VALUES, [], f'{{"a": {"[" * 700}{"]" * 700}}}')


def test_a_stream_is_not_given_as_an_argument() -> None:
    with pytest.raises(Misfit, match=r"printing\.upload: pages: is a stream: it comes from standard input"):
        arguments(UPLOAD, VALUES, ["title=x", "pages=y"])


def test_a_gap_whose_default_is_not_told_must_be_filled() -> None:
    method = method_of("s.m", optional("a", INT), optional("b", INT))
    with pytest.raises(Misfit, match=r"s\.m: a: must be given too"):
        arguments(method, VALUES, ["b=1"])
    assert arguments(method, VALUES, ["a=1"]) == [1]


def test_a_service_is_shown_with_everything_it_uses_once() -> None:
    remove = method_of("printing.remove", needed("job", JOB))
    methods = {each.name: each for each in (SUBMIT, UPLOAD, remove)}
    assert (
        service_text(ServiceDescription("printing", 2, methods))
        == """\
service printing, version 2
  submit(job: Job, copies: int = 1, colour: Colour = ...) -> int
      idempotent; raises OutOfPaper
  upload(title: str, pages: stream of bytes, author: str = "me") -> stream of Circle | Square | None
  remove(job: Job) -> None

class Job
  id: int
  words: list[str] = []

enum Colour
  RED = 1
  BLUE = 2

error OutOfPaper, UNAVAILABLE
  tray: int
  left: Size

enum Size
  LARGE = 'l'
  L = 'XL'

class Circle
  radius: float

class Square
  side: float
  name: str = ..."""
    )


def test_a_class_that_contains_itself_is_shown_once() -> None:
    grow = method_of("forest.grow", result=TREE)
    text = service_text(ServiceDescription("forest", 1, {"grow": grow}))
    assert text.count("class Tree") == 1


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (several("dict", STR, one_of(INT, NONE)), "dict[str, int | None]"),
        (several("tuple"), "tuple[()]"),
        (MODE, "Literal['fast', 2, None, b'\\x00']"),
        (ANY, "Any"),
    ],
)
def test_a_type_is_written_as_an_annotation(kind: TypeDescription, text: str) -> None:
    assert show(kind) == text


def test_an_outcome_is_a_code_a_line_and_an_object() -> None:
    error = rpcnet.NotFound("no such job", call_id="1a2b")
    assert (exit_code(error), error_line(error)) == (69, "NOT_FOUND: no such job [call 1a2b]")
    assert error_data(error) == {
        "status": "NOT_FOUND",
        "code": 5,
        "message": "no such job",
        "call_id": "1a2b",
        "hops": [],
    }


class OutOfPaper(rpcnet.ApplicationError):
    tray: int


def test_a_declared_error_is_told_with_its_name_and_its_fields() -> None:
    declared = Declared(OutOfPaper(3), {"tray": 3})
    assert (exit_code(declared), error_line(declared)) == (73, "FAILED_PRECONDITION: OutOfPaper(tray=3)")
    found = error_data(declared)
    assert (found["status"], found["error"], found["fields"]) == ("FAILED_PRECONDITION", "OutOfPaper", {"tray": 3})


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Misfit("expected int"), 2),
        (rpcnet.ConfigError("a setting"), 2),
        (rpcnet.SecurityError("a file"), 2),
        (rpcnet.JoinError("no seed"), 1),
        (Unreadable("no description"), 1),
        (OSError("no room"), 1),
    ],
)
def test_what_is_no_outcome_of_a_call_has_a_code_of_its_own(error: Exception, code: int) -> None:
    assert (exit_code(error), error_line(error)) == (code, f"rpcnet: {error}")
    assert error_data(error) == {"error": type(error).__name__, "message": str(error)}


TOLD = {"name": "m", "service": "s", "shape": "unary", "idempotent": True, "parameters": [], "result": {"type": "int"}}


def test_what_a_node_tells_is_read_and_what_it_tells_besides_is_ignored() -> None:
    service = read_service({"name": "s", "version": 3, "methods": {"m": {**TOLD, "colour": "red"}}, "more": 1})
    assert (service.name, service.version, signature(service.methods["m"])) == ("s", 3, "m() -> int")


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        (7, "what the node tells of s.m cannot be read"),
        ({}, "what the node tells of s.m cannot be read"),
        ({**TOLD, "result": {"type": "tensor"}}, "no type is called 'tensor'"),
        ({**TOLD, "result": {"type": "class", "name": "Nobody"}}, "no class is called 'Nobody'"),
        ({**TOLD, "shape": "round"}, "'round' is not a valid Shape"),
        ({**TOLD, "name": "other"}, "the node was asked for s.m, and tells of s.other"),
    ],
)
def test_what_a_node_tells_that_is_no_description_is_refused(told: Any, problem: str) -> None:
    with pytest.raises(Unreadable, match=problem):
        read_method(told, "s.m")
    with pytest.raises(Unreadable, match=problem):
        read_service({"name": "s", "version": 1, "methods": {"m": told}})


@pytest.mark.parametrize("told", [{}, TOLD, {"name": "s", "version": 1, "methods": [TOLD]}])
def test_a_service_must_be_one(told: dict[str, Any]) -> None:
    with pytest.raises(Unreadable, match="the node's answer is no description of a service"):
        read_service(told)
