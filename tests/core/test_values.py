"""Values arrive as they were sent, and what does not fit is refused by name."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import math
import tracemalloc
import uuid
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal, NewType

import attrs
import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._core.values import MAX_INTEGER_BYTES, MethodCodec, compile_method, compile_service
from rpcnet.errors import Internal, InvalidArgument, ResourceExhausted
from rpcnet.service import MethodDefinition, Parameter, Requirement, Shape, definition_of, rpc, service

LIMIT = 1 << 20


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


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


# --- round trips


PLAIN_SCALARS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (None, st.none()),
    (bool, st.booleans()),
    (int, st.integers()),
    (float, st.floats(allow_nan=False)),
    (str, st.text(max_size=8)),
    (bytes, st.binary(max_size=8)),
]

HASHABLE: list[tuple[Any, st.SearchStrategy[Any]]] = [
    *PLAIN_SCALARS[1:],
    (dt.datetime, st.datetimes(timezones=st.none() | st.timezones())),
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


@settings(deadline=None, max_examples=300)
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


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_bytes_are_a_value_of_the_right_type_or_an_invalid_argument(data: st.DataObject) -> None:
    annotation, values = data.draw(ANNOTATED)
    one = codec(annotation, result=annotation)
    body = bytearray(one.encode_arguments((data.draw(values),), {}))
    for position, byte in data.draw(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 255)), max_size=4)):
        body[position % len(body)] = byte
    _decode_or_refuse(
        one, bytes(body[: data.draw(st.integers(0, len(body)))]) if data.draw(st.booleans()) else bytes(body)
    )


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(LEAVES), st.binary(max_size=40))
def test_random_bytes_are_a_value_of_the_right_type_or_an_invalid_argument(
    pair: tuple[Any, st.SearchStrategy[Any]], body: bytes
) -> None:
    one = codec(pair[0], result=pair[0])
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


# --- binding and growing


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


def with_parameters(*parameters: Parameter) -> MethodCodec:
    definition = MethodDefinition("method", "Service", Shape.UNARY, parameters, None, idempotent=False)
    return compile_method(definition, max_depth=64, max_bytes=LIMIT)


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


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x9b" + (2**40).to_bytes(8),
        b"\x9b" + b"\xff" * 8,
        b"\x81\x9b" + (2**40).to_bytes(8),
        b"\x81\xbb" + (2**40).to_bytes(8),
        b"\x81\x5b" + (2**40).to_bytes(8),
        b"\x81\x7b" + (2**40).to_bytes(8),
        b"\x81" * 60_000,
        b"\xc2\x5b" + (2**40).to_bytes(8),
    ],
)
def test_a_declared_length_takes_no_memory(body: bytes) -> None:
    for one in (codec(Any), codec(list[int]), codec(bytes)):
        tracemalloc.start()
        try:
            with pytest.raises(InvalidArgument):
                one.decode_arguments(body)
            assert tracemalloc.get_traced_memory()[1] < 4 * len(body) + 500_000
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    "item",
    [
        b"\x9f\x01\xff",
        b"\x5f\x41a\xff",
        b"\xa2\x61a\x01\x61a\x02",
        b"\xf7",
        b"\xe0",
        b"\x61\xff",
        b"\xff",
        b"\x1c",
        b"\xc2\x61a",
        b"\xc2" + cbor2.dumps(b"\xff" * (MAX_INTEGER_BYTES + 1)),
        b"\xc3" + cbor2.dumps(b"\xff" * (MAX_INTEGER_BYTES + 1)),
    ],
)
def test_cbor_that_is_not_needed_is_refused(item: bytes) -> None:
    with pytest.raises(InvalidArgument):
        codec(Any).decode_arguments(b"\x81" + item)


def test_no_tag_is_read_but_those_of_integers() -> None:
    one = codec(Any)
    payloads = [b"\x01", b"\x61a", b"\x41a", b"\x80", b"\x82\x01\x02", b"\xa0"]
    read = []
    for tag in [*range(300), 1004, 43000, 55799, 2**32]:
        for payload in payloads:
            try:
                one.decode_arguments(b"\x81" + cbor2.dumps(cbor2.CBORTag(tag, 0))[:-1] + payload)
            except InvalidArgument:
                continue
            read.append((tag, payload))
    assert read == [(2, b"\x41a"), (3, b"\x41a")]


def test_the_largest_integer_is_read() -> None:
    largest = 2 ** (8 * MAX_INTEGER_BYTES) - 1
    assert round_trip(int, largest) == largest
    assert round_trip(int, ~largest) == ~largest


def test_keys_that_can_be_made_to_collide_are_read_only_where_an_annotation_asks_for_them() -> None:
    body = cbor2.dumps([{1: 2}])
    for annotation in (dict[str, int], dict[bytes, int], Page):
        with pytest.raises(InvalidArgument, match="map key must be a text string or byte string"):
            codec(annotation).decode_arguments(body)
    assert codec(dict[int, int]).decode_arguments(body) == [{1: 2}]
    assert codec(Any).decode_arguments(body) == [{1: 2}]


def test_values_nest_as_deep_as_the_limit_allows() -> None:
    def nested(depth: int) -> object:
        value: object = 1
        for _ in range(depth):
            value = [value]
        return value

    one = codec(Any, max_depth=10)
    assert one.decode_arguments(one.encode_arguments((nested(9),), {})) == [nested(9)]
    with pytest.raises(InvalidArgument, match="maximum container nesting depth"):
        one.decode_arguments(cbor2.dumps([nested(10)]))
    with pytest.raises(InvalidArgument, match="nests deeper than 10 levels"):
        one.encode_arguments((nested(11),), {})


def test_values_without_end_are_refused_at_the_sender() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidArgument, match="nests deeper than 64 levels"):
        codec(Any).encode_arguments((endless,), {})
    tree = Tree("leaf")
    for _ in range(5000):
        tree = Tree("node", twin=tree)
    with pytest.raises(InvalidArgument, match="p0: nests too deep"):
        codec(Tree).encode_arguments((tree,), {})
    with pytest.raises(TypeError, match="returned what cannot be sent"):
        codec(result=Tree).encode_result(tree)


def test_a_body_above_the_limit_is_refused_with_both_sizes() -> None:
    one = codec(bytes, result=bytes, max_bytes=1000)
    message = r"Service.method: the {} have 1004 bytes, at most 1000 are allowed"
    with pytest.raises(ResourceExhausted, match=message.format("arguments")) as caught:
        one.encode_arguments((b"x" * 1000,), {})
    assert caught.value.never_ran
    with pytest.raises(ResourceExhausted, match=message.format("arguments")):
        one.decode_arguments(cbor2.dumps([b"x" * 1000]))
    with pytest.raises(ResourceExhausted, match="the result has 1003 bytes, at most 1000 are allowed") as caught:
        one.encode_result(b"x" * 1000)
    assert not caught.value.never_ran
    with pytest.raises(ResourceExhausted, match="the result has 1003 bytes"):
        one.decode_result(cbor2.dumps(b"x" * 1000))
    assert one.decode_arguments(one.encode_arguments((b"x" * 996,), {})) == [b"x" * 996]


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
