"""Values arrive as they were sent, whatever their annotation is made of."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import math
import uuid
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal

import attrs
import cbor2
import pytest
from _contracts import (
    Color,
    Level,
    Page,
    Person,
    Rights,
    Tree,
    UserId,
    codec,
    round_trip,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._annotations import check_annotation
from rpcnet._core.values import MethodCodec
from rpcnet.errors import Internal, InvalidArgument

PLAIN_SCALARS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (None, st.none()),
    (bool, st.booleans()),
    (int, st.integers()),
    (float, st.floats(allow_nan=False)),
    (str, st.text(max_size=8)),
    (bytes, st.binary(max_size=8)),
]

# A time of day that a zone has twice, or never, equals nothing of another zone (PEP 495): offsets have no such times.
OFFSETS = st.integers(-23 * 60, 23 * 60).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))

HASHABLE: list[tuple[Any, st.SearchStrategy[Any]]] = [
    *PLAIN_SCALARS[1:],
    (dt.datetime, st.datetimes(timezones=st.none() | OFFSETS)),
    (dt.date, st.dates()),
    (decimal.Decimal, st.decimals(allow_nan=False)),
    (uuid.UUID, st.uuids()),
    (Color, st.sampled_from(Color)),
    (Level, st.sampled_from(Level)),
    (Rights, st.sampled_from([Rights(0), Rights.READ, Rights.READ | Rights.WRITE])),
    (UserId, st.integers()),
    (Annotated[int, "pages"], st.integers()),
    (Literal["a", 1, True], st.sampled_from(["a", 1, True])),
]

PLAIN_DATA = st.recursive(
    st.one_of([values for _, values in PLAIN_SCALARS]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=6,
)

PAGES = st.builds(Page, st.integers(), st.lists(st.text(max_size=3), max_size=3))
TREES = st.recursive(
    st.builds(Tree, st.text(max_size=3)),
    lambda inner: st.builds(Tree, st.text(max_size=3), st.lists(inner, max_size=2), st.none() | inner),
    max_leaves=4,
)
PEOPLE = st.builds(Person, st.text(max_size=3), st.integers(), st.none() | st.dates(), st.sampled_from(Color))

LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (None, st.none()),
    *HASHABLE,
    (Any, PLAIN_DATA),
    (Page, PAGES),
    (Tree, TREES),
    (Person, PEOPLE),
    (int | str | None, st.integers() | st.text(max_size=3) | st.none()),
    (float | None, st.floats(allow_nan=False) | st.none()),
    (Page | Person | None, PAGES | PEOPLE | st.none()),
    (str | dt.datetime | Color, st.text(max_size=3) | st.datetimes() | st.sampled_from(Color)),
    (int | list[Page], st.integers() | st.lists(PAGES, max_size=2)),
]


def generic(origin: Any, *arguments: Any) -> Any:
    return origin[arguments]


def _wider(inner: tuple[Any, st.SearchStrategy[Any]]) -> st.SearchStrategy[tuple[Any, st.SearchStrategy[Any]]]:
    annotation, values = inner
    return st.sampled_from(
        [
            (generic(list, annotation), st.lists(values, max_size=3)),
            (generic(Sequence, annotation), st.lists(values, max_size=3)),
            (generic(tuple, annotation, ...), st.lists(values, max_size=3).map(tuple)),
            (generic(tuple, annotation, str), st.tuples(values, st.text(max_size=3))),
            (generic(dict, str, annotation), st.dictionaries(st.text(max_size=3), values, max_size=3)),
            (generic(Mapping, uuid.UUID, annotation), st.dictionaries(st.uuids(), values, max_size=3)),
        ]
    )


ANNOTATED: st.SearchStrategy[tuple[Any, st.SearchStrategy[Any]]] = st.one_of(
    st.recursive(st.sampled_from(LEAVES), lambda inner: inner.flatmap(_wider), max_leaves=3),
    st.sampled_from(HASHABLE).map(lambda pair: (generic(set, pair[0]), st.sets(pair[1], max_size=3))),
    st.sampled_from(HASHABLE).map(lambda pair: (generic(frozenset, pair[0]), st.frozensets(pair[1], max_size=3))),
    st.sampled_from(HASHABLE).map(
        lambda pair: (generic(dict, pair[0], int), st.dictionaries(pair[1], st.integers(), max_size=3))
    ),
)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_every_supported_annotation_round_trips(data: st.DataObject) -> None:
    annotation, values = data.draw(ANNOTATED)
    value = data.draw(values)
    arrived = round_trip(annotation, value)
    assert arrived == value
    assert type(arrived) is type(value)
    if not isinstance(value, (set, frozenset)):  # 1 == 1.0 == True, but their bytes differ
        one = codec(annotation)
        assert one.encode_arguments((arrived,), {}) == one.encode_arguments((value,), {})


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_bytes_are_a_value_of_the_right_type_or_an_invalid_argument(data: st.DataObject) -> None:
    annotation, values = data.draw(ANNOTATED)
    one = codec(annotation, result=annotation, requests=annotation)
    body = bytearray(one.encode_arguments((data.draw(values),), {}))
    for position, byte in data.draw(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 255)), max_size=4)):
        body[position % len(body)] = byte
    _decode_or_refuse(
        one, bytes(body[: data.draw(st.integers(0, len(body)))]) if data.draw(st.booleans()) else bytes(body)
    )


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(LEAVES), st.binary(max_size=40))
def test_random_bytes_are_a_value_of_the_right_type_or_an_invalid_argument(
    pair: tuple[Any, st.SearchStrategy[Any]], body: bytes
) -> None:
    one = codec(pair[0], result=pair[0], requests=pair[0])
    _decode_or_refuse(one, body)
    _decode_or_refuse(one, b"\x81" + body)


def _decode_or_refuse(one: MethodCodec, body: bytes) -> None:
    try:
        (argument,) = one.decode_arguments(body)
    except InvalidArgument as error:
        refusal: InvalidArgument | None = error
    else:
        refusal = None
        one.encode_arguments((argument,), {})  # what was decoded is what the annotation says
    assert refusal is None or str(refusal).startswith("Service.method: ")
    try:
        one.encode_request(one.decode_request(body))
    except InvalidArgument as error:
        assert str(error).startswith("Service.method: items")  # noqa: PT017 - both outcomes are right
    try:
        one.encode_result(one.decode_result(body))
    except Internal as error:
        assert str(error).startswith("Service.method: ")  # noqa: PT017 - both outcomes are right


def test_numbers_that_are_special_arrive_as_they_are() -> None:
    assert math.isnan(round_trip(float, math.nan))
    assert math.copysign(1, round_trip(float, -0.0)) == -1
    assert round_trip(float, math.inf) == math.inf
    assert round_trip(decimal.Decimal, decimal.Decimal("NaN")).is_nan()
    assert str(round_trip(decimal.Decimal, decimal.Decimal("1.10"))) == "1.10"
    assert round_trip(int, 2**200) == 2**200
    assert round_trip(int, -(2**200)) == -(2**200)


def test_a_time_keeps_its_offset_and_a_naive_one_stays_naive() -> None:
    aware = dt.datetime(2024, 5, 1, 12, 30, 15, 123456, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=45)))
    assert round_trip(dt.datetime, aware).utcoffset() == dt.timedelta(hours=5, minutes=45)
    naive = round_trip(dt.datetime, dt.datetime(2024, 5, 1, 12, 30))  # noqa: DTZ001 - naive on purpose
    assert naive.tzinfo is None


def test_an_int_is_good_for_a_float_and_arrives_as_one() -> None:
    for annotation in (float, float | None, float | str):
        assert repr(round_trip(annotation, 3)) == "3.0"
    assert repr(round_trip(int | float, 3)) == "3"
    assert repr(round_trip(list[float], [1, 2.5])) == "[1.0, 2.5]"


def test_subclasses_travel_as_what_the_annotation_says() -> None:
    class Name(str):
        __slots__ = ()

    assert type(round_trip(str, Name("x"))) is str
    assert type(round_trip(int, Level.HIGH)) is int
    assert type(round_trip(int | None, Level.HIGH)) is int
    assert round_trip(Mapping[str, int], MappingProxyType({"a": 1})) == {"a": 1}
    assert round_trip(Sequence[int], (1, 2)) == [1, 2]


def test_a_set_travels_in_sorted_order_so_that_its_bytes_are_the_same_in_every_process() -> None:
    one = codec(set[str])
    words = [f"word{number}" for number in range(50)]
    assert cbor2.loads(one.encode_arguments((set(words),), {})) == [sorted(words)]


def test_one_argument_is_encoded_as_an_array_of_one() -> None:
    assert codec(bytes).encode_arguments((b"x" * 64,), {}) == cbor2.dumps([b"x" * 64])
    assert codec(str, int).encode_arguments(("x", 4), {}) == cbor2.dumps(["x", 4])
    assert codec().encode_arguments((), {}) == cbor2.dumps([])


@attrs.frozen
class Named:
    """Fields with types that derive from builtins, and with names that generated code might use itself."""

    converter: Level
    cl: Rank
    typevar_map: Level | None = None
    o: Mapping[Level, Rank] = attrs.field(factory=dict)


class Rank(enum.StrEnum):
    FIRST = "first"


def test_a_field_is_what_its_annotation_says_whatever_that_derives_from() -> None:
    value = Named(Level.HIGH, Rank.FIRST, Level.LOW, {Level.LOW: Rank.FIRST})
    arrived = round_trip(Named, value)
    assert repr(arrived) == repr(value)
    with pytest.raises(InvalidArgument, match=r"p0.converter: expected Level, got int$"):
        codec(Named).encode_arguments((Named(2, Rank.FIRST),), {})  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=r"p0.converter: 3 is not a value of Level$"):
        codec(Named).decode_arguments(cbor2.dumps([{"converter": 3, "cl": "first"}]))


def test_a_class_that_is_given_to_another_module_later_keeps_its_annotations() -> None:
    class Moved:
        value: Annotated[dt.date, "of the move"]

    moved: Any = attrs.frozen(Moved)
    check_annotation(moved, "here")
    moved.__module__ = "builtins"
    assert round_trip(moved, moved(dt.date(2024, 5, 1))) == moved(dt.date(2024, 5, 1))
