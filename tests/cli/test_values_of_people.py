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
from rpcnet.cli._arguments import arguments
from rpcnet.cli._outcomes import error_data, error_line, exit_code
from rpcnet.cli._schema_text import service_text, signature
from rpcnet.cli._types import Class, Field, Form, Method, Service, Type, show
from rpcnet.cli._values import Misfit, Values, plain, read_json

INT, STR, FLOAT, BYTES, NONE, ANY = (
    Type(form) for form in (Form.INT, Form.STR, Form.FLOAT, Form.BYTES, Form.NONE, Form.ANY)
)
BOOL, UUID, DATE, DATETIME, DECIMAL = (
    Type(form) for form in (Form.BOOL, Form.UUID, Form.DATE, Form.DATETIME, Form.DECIMAL)
)
COLOUR = Type(Form.ENUM, "Colour", values=(("RED", 1), ("BLUE", 2)))
SIZE = Type(Form.ENUM, "Size", values=(("LARGE", "l"), ("L", "XL")))
MODE = Type(Form.LITERAL, values=(("", "fast"), ("", 2), ("", None), ("", b"\x00")))
JOB = Type(Form.CLASS, "Job")
CIRCLE, SQUARE = Type(Form.CLASS, "Circle"), Type(Form.CLASS, "Square")
SHAPES = Type(Form.UNION, parts=(CIRCLE, SQUARE, NONE), tags=("Circle", "Square", ""))
WORDS = Type(Form.LIST, parts=(STR,))
CLASSES = {
    "Job": Class("Job", (Field("id", INT), Field("words", WORDS, is_required=False, default=[]))),
    "Circle": Class("Circle", (Field("radius", FLOAT),)),
    "Square": Class("Square", (Field("side", FLOAT), Field("name", STR, is_required=False))),
    "Tree": Class("Tree", (Field("children", Type(Form.LIST, parts=(Type(Form.CLASS, "Tree"),))),)),
    "OutOfPaper": Class("OutOfPaper", (Field("tray", INT),)),
}
VALUES = Values(CLASSES)
ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


def one_of(*parts: Type) -> Type:
    return Type(Form.UNION, parts=parts)


def several(form: Form, *parts: Type) -> Type:
    return Type(form, parts=parts)


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
        ("[1, 2.5]", several(Form.LIST, FLOAT), [1.0, 2.5]),
        ('["a", 1]', several(Form.TUPLE, STR, INT), ["a", 1]),
        ('{"1": "x"}', several(Form.DICT, INT, STR), {1: "x"}),
        ('{"7": 1, "\\"a\\"": 2}', several(Form.DICT, STR, INT), {"7": 1, '"a"': 2}),
        ('{"RED": 1}', several(Form.DICT, COLOUR, INT), {1: 1}),
        ('{"id": 1}', JOB, {"id": 1}),
        ('["Circle", {"radius": 1}]', SHAPES, ["Circle", {"radius": 1.0}]),
        ('{"side": 1}', SHAPES, ["Square", {"side": 1.0}]),
        ("null", SHAPES, None),
        ('{"children": [{"children": []}]}', Type(Form.CLASS, "Tree"), {"children": [{"children": []}]}),
        ('{"a": [1.5, null, "x"]}', ANY, {"a": [1.5, None, "x"]}),
        ("anything", ANY, "anything"),
        ("1" * 5000, STR, "1" * 5000),
    ],
)
def test_a_text_becomes_what_the_type_wants(text: str, kind: Type, wire: object) -> None:
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
        ("slow", MODE, "expected Literal['fast', 2, None, b'\\x00']"),
        ("[]", one_of(INT, NONE), "expected int | None, got a list"),
        ('[1, "x"]', several(Form.LIST, INT), '[1]: expected int, got "x"'),
        ("[1]", several(Form.TUPLE, INT, INT), "expected 2 elements, got 1"),
        ('{"a": 1}', several(Form.DICT, INT, INT), "['a']: expected int"),
        ('{"1": null}', several(Form.DICT, INT, INT), "['1']: expected int, got null"),
        ('{"id": "x"}', JOB, 'id: expected int, got "x"'),
        ("{}", JOB, "Job needs the field 'id': int"),
        ('{"id": 1, "word": []}', JOB, "Job has no field 'word'; it has id, words"),
        ("[]", JOB, "expected Job, got a list"),
        ("{}", SHAPES, "an object does not fit Circle | Square | None: write [name, value]"),
        ('["Circle", {"radius": "x"}]', SHAPES, "[1].radius: expected float"),
        ('{"id": 1, "id": 2}', JOB, "expected Job"),
    ],
)
def test_a_text_that_does_not_fit_is_refused_with_place_and_both_sides(text: str, kind: Type, words: str) -> None:
    with pytest.raises(Misfit) as caught:
        VALUES.from_text(text, kind)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["{", '{"a": 1, "a": 2}', "[" * 100_000, "nul"])
def test_data_must_be_json(text: str) -> None:
    with pytest.raises(Misfit, match="JSON"):
        read_json(text)


def test_a_value_that_two_members_fit_must_be_named() -> None:
    both = Type(Form.UNION, parts=(several(Form.LIST, INT), several(Form.SET, INT)), tags=("list", "set"))
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
        ([ID.bytes], several(Form.LIST, UUID), [str(ID)]),
        ([1, ID.bytes], several(Form.TUPLE, INT, UUID), [1, str(ID)]),
        ({ID.bytes: b"x"}, several(Form.DICT, UUID, BYTES), {str(ID): "eA=="}),
        ({7: None, True: 1}, several(Form.DICT, INT, ANY), {"7": None, "true": 1}),
        ({"radius": 1.0, "later": b""}, Type(Form.CLASS, "Circle"), {"radius": 1.0, "later": ""}),
        (ID.bytes, one_of(STR, UUID), str(ID)),
        ("x", one_of(STR, UUID), "x"),
        (["Circle", {"radius": 1.0}], SHAPES, ["Circle", {"radius": 1.0}]),
        (["Oval", b""], SHAPES, ["Oval", ""]),
        (None, SHAPES, None),
        (b"not sixteen", UUID, "bm90IHNpeHRlZW4="),
        ([b"", b""], several(Form.TUPLE, UUID), ["", ""]),
        ("not a list", several(Form.LIST, UUID), "not a list"),
        ("red", COLOUR, "red"),
    ],
)
def test_what_arrives_is_shown_as_json_whatever_it_is(wire: object, kind: Type, shown: object) -> None:
    assert VALUES.to_json(wire, kind) == shown
    json.dumps(VALUES.to_json(wire, kind), allow_nan=False)


SCALARS: Mapping[Type, st.SearchStrategy[Any]] = {
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
def typed_values(draw: st.DrawFn, depth: int = 2) -> tuple[Type, Any]:
    form = draw(st.sampled_from([Form.LIST, Form.DICT, Form.TUPLE, Form.CLASS, None, None] if depth else [None]))
    if form is None:
        kind = draw(st.sampled_from(list(SCALARS)))
        return kind, draw(SCALARS[kind])
    if form is Form.CLASS:
        return JOB, {"id": draw(st.integers()), "words": draw(st.lists(st.text()))}
    inner, value = draw(typed_values(depth=depth - 1))
    if form is Form.LIST:
        return several(Form.LIST, inner), [value] * draw(st.integers(0, 2))
    if form is Form.TUPLE:
        other, second = draw(typed_values(depth=depth - 1))
        return several(Form.TUPLE, inner, other), [value, second]
    key = draw(st.sampled_from(KEYS))
    return several(Form.DICT, key, inner), dict.fromkeys(draw(st.lists(SCALARS[key], max_size=3)), value)


@given(typed_values())
def test_whatever_travels_goes_to_json_and_back(case: tuple[Type, Any]) -> None:
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


SUBMIT = Method(
    "printing",
    "submit",
    (Field("job", JOB), Field("copies", INT, is_required=False, default=1), Field("colour", COLOUR, is_required=False)),
    INT,
    is_idempotent=True,
    raises=("OutOfPaper",),
)
UPLOAD = Method(
    "printing", "upload", (Field("title", STR),), SHAPES, requests=Field("pages", BYTES), streams_results=True
)
PRINTING = Service("printing", 2, {"submit": SUBMIT, "upload": UPLOAD}, CLASSES)


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
    method = Method("s", "m", (Field("a", ANY),), NONE)
    with pytest.raises(Misfit, match=r"s\.m: .*too deeply"):
        arguments(method, VALUES, [], f'{{"a": {"[" * 700}{"]" * 700}}}')


def test_a_stream_is_not_given_as_an_argument() -> None:
    with pytest.raises(Misfit, match=r"printing\.upload: pages: is a stream: it comes from standard input"):
        arguments(UPLOAD, VALUES, ["title=x", "pages=y"])


def test_a_gap_whose_default_is_not_told_must_be_filled() -> None:
    method = Method("s", "m", (Field("a", INT, is_required=False), Field("b", INT, is_required=False)), NONE)
    with pytest.raises(Misfit, match=r"s\.m: a: must be given too"):
        arguments(method, VALUES, ["b=1"])
    assert arguments(method, VALUES, ["a=1"]) == [1]


def test_a_service_is_shown_with_everything_it_uses_once() -> None:
    assert (
        service_text(PRINTING)
        == """\
service printing, version 2
  submit(job: Job, copies: int = 1, colour: Colour = ...) -> int
      idempotent; raises OutOfPaper
  upload(title: str, pages: stream of bytes) -> stream of Circle | Square | None

class Job
  id: int
  words: list[str] = []

enum Colour
  RED = 1
  BLUE = 2

class OutOfPaper
  tray: int

class Circle
  radius: float

class Square
  side: float
  name: str = ..."""
    )


def test_one_method_is_shown_with_what_it_uses() -> None:
    text = service_text(PRINTING, "upload")
    assert text.splitlines()[1] == f"  {signature(UPLOAD)}"
    assert ("Job" in text, "class Square" in text) == (False, True)


def test_a_class_that_contains_itself_is_shown_once() -> None:
    grow = Method("forest", "grow", (), Type(Form.CLASS, "Tree"))
    text = service_text(Service("forest", 1, {"grow": grow}, CLASSES))
    assert text.count("class Tree") == 1


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (several(Form.DICT, STR, one_of(INT, NONE)), "dict[str, int | None]"),
        (several(Form.TUPLE), "tuple[()]"),
        (MODE, "Literal['fast', 2, None, b'\\x00']"),
        (ANY, "Any"),
    ],
)
def test_a_type_is_written_as_an_annotation(kind: Type, text: str) -> None:
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
