"""Arguments are bound as Python binds them, and what does not fit is refused by name."""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from collections.abc import Sequence
from typing import Any, Literal

import attrs
import cbor2
import pytest
from _contracts import (
    LIMIT,
    SUBMIT,
    Color,
    Level,
    Page,
    Person,
    Positive,
    Printing,
    Strange,
    Tree,
    codec,
    with_parameters,
)

from rpcnet._core.values import compile_service
from rpcnet.errors import Internal, InvalidArgument
from rpcnet.service import Parameter, Requirement, definition_of


@pytest.mark.parametrize(
    ("args", "kwargs", "sent"),
    [
        ((Page(1),), {}, 1),
        ((Page(1), 2), {}, 2),
        ((), {"job": Page(1)}, 1),
        ((Page(1),), {"copies": 2}, 2),
        ((Page(1),), {"color": True}, 3),
        ((), {"color": False, "job": Page(1)}, 3),
    ],
)
def test_arguments_are_bound_as_python_binds_them_and_trailing_defaults_stay_at_home(
    args: tuple[object, ...], kwargs: dict[str, object], sent: int
) -> None:
    expected = [Page(1), kwargs.get("copies", 2 if len(args) == 2 else 1), kwargs.get("color", False)]
    assert SUBMIT.decode_arguments(SUBMIT.encode_arguments(args, kwargs)) == expected[:sent]


@pytest.mark.parametrize(
    ("args", "kwargs", "problem"),
    [
        ((), {}, "parameter 'job' is missing"),
        ((), {"copies": 1}, "parameter 'job' is missing"),
        ((), {"jbo": 1}, "has no parameter 'jbo'"),
        ((Page(1),), {"pages": 1}, "has no parameter 'pages'"),
        ((Page(1),), {"job": Page(1)}, "got parameter 'job' twice"),
        ((Page(1), 1, False, 4), {}, "takes 3 arguments, got 4"),
        (("page",), {}, "job: expected Page, got str"),
        ((Page(1), True), {}, "copies: expected int, got bool"),
        ((Page(1),), {"copies": "2"}, "copies: expected int, got str"),
        ((Page(1), None), {}, "copies: expected int, got None"),
        ((Page(1, ["a", b"b"]),), {}, "job.words[1]: expected str, got bytes"),  # type: ignore[list-item]
        ((Page(1, ["\ud800"]),), {}, "job: cannot be sent: 'utf-8' codec can't encode"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_they_are_sent(
    args: tuple[object, ...], kwargs: dict[str, object], problem: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        SUBMIT.encode_arguments(args, kwargs)
    assert str(caught.value).startswith(f"Printing.submit: {problem}")
    assert caught.value.never_ran


def test_a_parameter_with_a_default_may_be_added_at_the_end_on_either_side_first() -> None:
    old = with_parameters(Parameter("name", str))
    new = with_parameters(Parameter("name", str), Parameter("loud", bool, default=False))
    assert new.decode_arguments(old.encode_arguments(("a",), {})) == ["a"]
    assert old.decode_arguments(new.encode_arguments(("a",), {})) == ["a"]
    with pytest.raises(InvalidArgument, match="takes 1 arguments, got 2"):
        old.decode_arguments(new.encode_arguments(("a", True), {}))


def test_a_field_with_a_default_may_be_added_on_either_side_first() -> None:
    old, new = codec(attrs.make_class("Book", {"title": attrs.field(type=str)})), codec(Book2)
    title = new.decode_arguments(cbor2.dumps([{"title": "x"}]))
    assert title == [Book2("x")]
    (book,) = old.decode_arguments(new.encode_arguments((Book2("x", 4),), {}))
    assert getattr(book, "title", None) == "x"


@attrs.frozen
class Book2:
    title: str
    pages: int = 0


# --- what arrives is not trusted


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([], "parameter 'job' is missing"),
        ([{"number": 1}, 1, False, 4], "takes 3 arguments, got 4"),
        ({}, "the arguments cannot be read: expected a list, got dict"),
        ("x", "the arguments cannot be read: expected a list, got str"),
        ([1], "job: expected Page, got int"),
        ([{}], "job.number: missing"),
        ([{"number": "1"}], "job.number: expected int, got str"),
        ([{"number": True}], "job.number: expected int, got bool"),
        ([{"number": 1.0}], "job.number: expected int, got float"),
        ([{"number": 1, "words": ["a", "b", "c", 4]}], "job.words[3]: expected str, got int"),
        ([{"number": 1, "words": "abc"}], "job.words: expected list, got str"),
        ([{"number": 1, "words": None}], "job.words: expected list, got None"),
        ([{"number": 1}, "2"], "copies: expected int, got str"),
        ([{"number": 1}, 1, 1], "color: expected bool, got int"),
    ],
)
def test_arguments_of_the_wrong_type_are_refused_with_the_path(values: object, problem: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        SUBMIT.decode_arguments(cbor2.dumps(values))
    assert str(caught.value) == f"Printing.submit: {problem}"
    assert caught.value.never_ran


@pytest.mark.parametrize(
    ("annotation", "packed", "problem"),
    [
        (Color, "green", "p0: 'green' is not a value of Color"),
        (Color, 1, "p0: expected a value of Color, got int"),
        (Level, True, "p0: expected a value of Level, got bool"),
        (Level, 1.0, "p0: expected a value of Level, got float"),
        (Strange, "lost", "p0: 'lost' is not a value of Strange"),
        (Literal["a", 1], True, "p0: expected Literal['a', 1], got bool"),
        (dt.datetime, "yesterday", "p0: expected datetime in ISO 8601, got another str"),
        (dt.date, 3, "p0: expected date in ISO 8601, got int"),
        (decimal.Decimal, "1,5", "p0: expected Decimal as text, got another str"),
        (decimal.Decimal, 1.5, "p0: expected Decimal as text, got float"),
        (uuid.UUID, b"short", "p0: expected UUID as 16 bytes, got another bytes"),
        (tuple[int, str], [1], "p0: expected 2 elements, got 1"),
        (tuple[int, str], [1, 2], "p0[1]: expected str, got int"),
        (tuple[int, ...], "12", "p0: expected tuple, got str"),
        (set[int], [1, 2, 1], "p0: expected set, got an element twice"),
        (dict[str, int], {"a": "b"}, "p0['a']: expected int, got str"),
        (dict[int, int], {"a": 1}, "p0: a key: expected int, got str"),
        (dict[decimal.Decimal, int], {"1": 1, "1.0": 2}, "p0: expected dict, got a key twice"),
        (int | None, "x", "p0: expected int | None, got str"),
        (float, 10**400, "p0: expected float, got an int that is too large for one"),
        (Page | Person, {"number": 1}, "as a pair of name and value, got dict"),
        (Page | Person, ["Tree", {}], "got 'Tree'"),
        (Page | Person, ["Page", {}], "p0.number: missing"),
        (Positive, {"value": 0}, "p0: Positive refuses it: 'value' must be > 0: 0"),
        (list[Tree], [{"name": "a", "children": [{"name": 1}]}], "p0[0].children[0].name: expected str, got int"),
    ],
)
def test_each_kind_of_value_says_what_was_expected(annotation: Any, packed: object, problem: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        codec(annotation).decode_arguments(cbor2.dumps([packed]))
    assert str(caught.value).endswith(problem)


@pytest.mark.parametrize(
    ("annotation", "value", "problem"),
    [
        (Any, {1, 2}, "p0: expected plain data, got set"),
        (Any, [1, {"a": dt.date(2024, 1, 1)}], "p0[1]['a']: expected plain data, got date"),
        (Any, {(1, 2): 3}, "p0: expected a key of plain data, got tuple"),
        (decimal.Decimal, 1.5, "p0: expected Decimal, got float"),
        (dt.date, dt.datetime(2024, 1, 1), "p0: expected date, got datetime"),  # noqa: DTZ001 - naive on purpose
        (Color, "red", "p0: expected Color, got str"),
        (list[int], (1, 2), "p0: expected list, got tuple"),
        (Sequence[str], "abc", "p0: expected Sequence, got str"),
        (set[int], frozenset({1}), "p0: expected set, got frozenset"),
        (str | None, 1, "p0: expected str | None, got int"),
        (int | None, True, "p0: expected int | None, got bool"),
        (bytes, bytearray(b"x"), "p0: expected bytes, got bytearray"),
    ],
)
def test_a_value_of_another_type_is_refused_at_the_sender(annotation: Any, value: object, problem: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        codec(annotation).encode_arguments((value,), {})
    assert str(caught.value) == f"Service.method: {problem}"


def test_a_result_of_the_wrong_type_names_the_method() -> None:
    with pytest.raises(TypeError, match=r"^Printing.submit: returned the wrong type: result: expected Page, got None$"):
        SUBMIT.encode_result(None)
    wrong = Page(1, ["a", 2])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"^Printing.submit: returned the wrong type: result.words\[1\]: expected str"):
        SUBMIT.encode_result(wrong)
    with pytest.raises(TypeError, match=r"^Printing.submit: returned what cannot be sent: 'utf-8'"):
        SUBMIT.encode_result(Page(1, ["\ud800"]))


def test_a_result_that_is_not_what_the_contract_says_is_internal() -> None:
    with pytest.raises(Internal, match=r"^Printing.submit: result.number: missing$"):
        SUBMIT.decode_result(cbor2.dumps({}))
    with pytest.raises(Internal, match=r"^Printing.submit: the result cannot be read: premature end"):
        SUBMIT.decode_result(b"\x82\x01")


def test_a_service_is_compiled_method_by_method() -> None:
    codecs = compile_service(definition_of(Printing), max_depth=64, max_bytes=LIMIT)
    assert list(codecs) == ["echo", "submit"]
    assert codecs["echo"].definition is definition_of(Printing).methods["echo"]
    assert codecs["echo"].decode_result(codecs["echo"].encode_result(b"x")) == b"x"


def test_a_default_between_given_arguments_is_sent() -> None:
    one = with_parameters(
        Parameter("a", int, Requirement.REQUIRED),
        Parameter("b", int, 7),
        Parameter("c", int, 8),
        Parameter("d", int, 9),
    )
    assert one.decode_arguments(one.encode_arguments((1,), {"c": 3})) == [1, 7, 3]
