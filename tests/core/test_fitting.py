"""Two versions of a contract fit if and only if calls get through, in each direction."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from _contracts import Color, Page, Person, codec
from _versions import (
    BOOK,
    BOOK_NEEDS_PAGES,
    BOOK_WITH_INDEX,
    BOOK_WITH_PAGES,
    NOVEL,
    SHELF,
    SHELF_3,
    TABLE,
    generic,
    version,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rpcnet._annotations import check_annotation, show
from rpcnet._core.fitting import MAX_PROBLEMS, differences
from rpcnet._core.schema import describe_method
from rpcnet._core.schema_hash import schema_hash
from rpcnet._core.values import MethodCodec, compile_method
from rpcnet.errors import ApplicationError, ConfigError, Internal, InvalidArgument
from rpcnet.service import MethodDefinition, Parameter, Shape


@attrs.frozen
class Version:
    """A method with one annotation in all places, and what it sends."""

    annotation: Any
    values: list[Any]
    codec: MethodCodec
    description: dict[str, Any]
    hash: str
    arguments: list[bytes]

    @classmethod
    def of(cls, annotation: Any, values: list[Any]) -> Version:
        one = codec(annotation, result=annotation)
        description = describe_method(one.definition)
        sent = [one.encode_arguments((value,), {}) for value in values]
        return cls(annotation, values, one, description, schema_hash(description), sent)

    def takes_arguments_of(self, other: Version) -> bool:
        return all(self._reads(self.codec.decode_arguments, body) for body in other.arguments)

    def takes_results_of(self, other: Version) -> bool:
        return all(self._reads(self.codec.decode_result, body[1:]) for body in other.arguments)

    def _reads(self, decode: Callable[[bytes], object], body: bytes) -> bool:
        try:
            decode(body)
        except (InvalidArgument, Internal):
            return False
        return True


def check(client: Version, server: Version) -> None:
    found = differences(client.description, server.description)
    towards = [problem for problem in found if "parameter 'p0'" in problem]
    back = [problem for problem in found if "the result" in problem]
    pair = f"{show(client.annotation)} at the client, {show(server.annotation)} at the server"
    assert (towards == []) is server.takes_arguments_of(client), f"{pair}: {towards}"
    assert (back == []) is client.takes_results_of(server), f"{pair}: {back}"
    assert len(towards) + len(back) == len(found)
    if client.hash == server.hash:
        assert found == []


VERSIONS = [Version.of(annotation, values) for annotation, values in TABLE]


@pytest.mark.parametrize("client", VERSIONS, ids=lambda version: show(version.annotation))
def test_versions_fit_if_and_only_if_calls_get_through(client: Version) -> None:
    assert differences(client.description, client.description) == []
    for server in VERSIONS[: VERSIONS.index(client)]:
        check(client, server)


Wrap = Callable[[Any, list[Any]], tuple[Any, list[Any]]]


def _in_class(name: str, *, needed: bool) -> Wrap:
    def wrap(annotation: Any, values: list[Any]) -> tuple[Any, list[Any]]:
        made = version(name, title=annotation if needed else (annotation | None, None))
        return made, [*(made(value) for value in values), *([] if needed else [made()])]

    return wrap


WRAPPERS: list[Wrap] = [
    lambda annotation, values: (generic(list, annotation), [[], [*values, *values]]),
    lambda annotation, values: (
        generic(tuple, annotation, int),
        [(value, n) for value in values for n in (0, 1, 2, 9)],
    ),
    lambda annotation, values: (
        generic(dict, str, annotation),
        [{}, *({key: value} for key in ("title", "pages") for value in values)],
    ),
    lambda annotation, values: (annotation | None, [*values, None]),
    lambda annotation, values: (annotation | NOVEL, [*values, NOVEL("w")]),
    _in_class("Holder", needed=True),
    _in_class("Holder", needed=False),
]


def wrapped(pair: tuple[Any, list[Any]], wrappers: list[Wrap]) -> Version:
    try:
        for wrapper in wrappers:
            pair = wrapper(*pair)
        check_annotation(pair[0], "here")
        return Version.of(*pair)
    except (ConfigError, TypeError, InvalidArgument):  # a union of what cannot be told apart, or with Any
        assume(False)
        raise


@settings(deadline=None, max_examples=60, derandomize=True)  # a witness may be too weak for a rare pair
@given(st.sampled_from(TABLE), st.sampled_from(TABLE), st.lists(st.sampled_from(WRAPPERS), min_size=1, max_size=3))
def test_versions_fit_if_and_only_if_calls_get_through_inside_of_other_types(
    one: tuple[Any, list[Any]], other: tuple[Any, list[Any]], wrappers: list[Wrap]
) -> None:
    client = wrapped(one, wrappers)
    check(client, wrapped(other, wrappers))
    check(client, wrapped(other, wrappers[:-1]))


# --- parameters


def method(*parameters: Parameter, **options: Any) -> MethodDefinition:
    shape = options.pop("shape", Shape.UNARY)
    result = options.pop("result", None)
    return MethodDefinition("method", "Service", shape, parameters, result, idempotent=False, **options)


def found(client: MethodDefinition, server: MethodDefinition) -> list[str]:
    return [
        problem.removeprefix("Service.method: ")
        for problem in differences(describe_method(client), describe_method(server))
    ]


OPTIONAL = st.lists(st.booleans(), max_size=4).map(sorted)


@settings(deadline=None)
@given(OPTIONAL, OPTIONAL)
def test_counts_of_parameters_fit_if_and_only_if_calls_with_what_both_know_get_through(
    client: list[bool], server: list[bool]
) -> None:
    def declare(optional: list[bool]) -> MethodDefinition:
        return method(
            *(Parameter(f"p{i}", int, 0) if flag else Parameter(f"p{i}", int) for i, flag in enumerate(optional))
        )

    ours, theirs = declare(client), declare(server)
    writer, reader = (compile_method(one, max_depth=64, max_bytes=1000) for one in (ours, theirs))

    def calls() -> bool:
        least, most = client.count(False), max(client.count(False), min(len(client), len(server)))
        for count in range(least, most + 1):
            try:
                reader.decode_arguments(writer.encode_arguments((7,) * count, {}))
            except InvalidArgument:
                return False
        return True

    assert (found(ours, theirs) == []) is calls()


def test_what_one_side_requires_and_the_other_does_not_is_named() -> None:
    one, two = Parameter("name", str), Parameter("loud", bool)
    optional = Parameter("loud", bool, default=False)
    assert found(method(one), method(one, optional)) == []
    assert found(method(one, optional), method(one)) == []
    assert found(method(one, two), method(one, optional)) == []
    assert found(method(one), method(one, two)) == [
        "parameter 'loud' is required by the server, the client does not know it"
    ]
    assert found(method(one, two), method(one)) == [
        "parameter 'loud' is sent by the client, the server does not know it"
    ]
    assert found(method(one, optional), method(one, two)) == [
        "parameter 'loud' may be left out by the client, the server requires it"
    ]


def test_parameters_may_be_renamed_and_may_not_change_places() -> None:
    one, two, other = Parameter("low", int), Parameter("high", int), Parameter("top", int)
    assert found(method(one, two), method(one, other)) == []
    assert found(method(one, two), method(two, one)) == [
        "parameter 'low' is number 1 at the client and number 2 at the server",
        "parameter 'high' is number 2 at the client and number 1 at the server",
    ]
    assert schema_hash(describe_method(method(one, two))) != schema_hash(describe_method(method(two, one)))


# --- what the sentences say


@pytest.mark.parametrize(
    ("client", "server", "problem"),
    [
        (int, str, "parameter 'p': the client sends int, the server reads str"),
        (int | None, int, "parameter 'p': the client sends None, the server reads int"),
        (list[int], list[str], "parameter 'p', each element: the client sends int, the server reads str"),
        (tuple[int, int], tuple[int, str], "parameter 'p', element 2: the client sends int, the server reads str"),
        (dict[str, int], dict[str, str], "parameter 'p', each value: the client sends int, the server reads str"),
        (dict[str, int], dict[bytes, int], "parameter 'p', each key: the client sends str, the server reads bytes"),
        (
            BOOK,
            BOOK_NEEDS_PAGES,
            "parameter 'p', field Book.pages is required by the server, the client does not know it",
        ),
        (
            SHELF,
            SHELF_3,
            (
                "parameter 'p', field Shelf.books, each element, field Book.pages is required by the server, "
                "the client does not know it"
            ),
        ),
        (
            BOOK_WITH_INDEX,
            BOOK,
            "parameter 'p', field Book.index is not known to the server, which reads no dict with such keys",
        ),
        (
            Page,
            Page | Person,
            "parameter 'p': the client sends Page, the server reads Page | Person, each with its name",
        ),
        (
            BOOK | NOVEL,
            BOOK_NEEDS_PAGES | NOVEL,
            "parameter 'p', as Book, field Book.pages is required by the server, the client does not know it",
        ),
        (
            BOOK | NOVEL,
            BOOK | Page,
            "parameter 'p': the client sends Novel with its name, the server reads Book | Page, each with its name",
        ),
        (str, Color, "parameter 'p': the client sends str, the server reads Color"),
    ],
)
def test_a_difference_names_the_place_and_both_sides(client: Any, server: Any, problem: str) -> None:
    assert found(method(Parameter("p", client)), method(Parameter("p", server))) == [problem]


def test_results_and_items_are_compared_in_the_direction_in_which_they_travel() -> None:
    assert found(method(result=int | None), method(result=int)) == []
    assert found(method(result=int), method(result=int | None)) == [
        "the result: the server sends None, the client reads int"
    ]
    stream = functools.partial(method, shape=Shape.CLIENT_STREAMING, requests_name="pages", requests_index=0)
    assert found(stream(requests=int), stream(requests=int | None)) == []
    assert found(stream(requests=int | None), stream(requests=int)) == [
        "the items of 'pages': the client sends None, the server reads int"
    ]


def test_another_shape_is_another_contract() -> None:
    assert found(method(), method(shape=Shape.SERVER_STREAMING)) == [
        "the client calls it as unary, the server serves it as server streaming"
    ]


def failing(**fields: Any) -> MethodDefinition:
    annotations = {name: said[0] if isinstance(said, tuple) else said for name, said in fields.items()}
    defaults = {name: said[1] for name, said in fields.items() if isinstance(said, tuple)}
    return method(raises=(type("OutOfPaper", (ApplicationError,), {"__annotations__": annotations, **defaults}),))


def test_an_error_that_both_declare_must_be_readable() -> None:
    plain = failing(tray=int)
    assert found(plain, method()) == found(method(), plain) == []
    assert found(plain, failing(tray=int, since=str)) == []
    assert found(failing(tray=int, since=(str, "")), plain) == []
    assert found(failing(tray=int, since=str), plain) == [
        "error OutOfPaper, field OutOfPaper.since is required by the client, the server does not know it"
    ]
    assert found(plain, failing(tray=str)) == [
        "error OutOfPaper, field OutOfPaper.tray: the server sends str, the client reads int"
    ]


def test_all_differences_are_told_once_and_no_more_than_a_person_reads() -> None:
    old = version("Form", **{f"field{i}": int for i in range(5)})
    new = version("Form", **{f"field{i}": str for i in range(5)})
    both = generic(tuple, old, old), generic(tuple, new, new)
    assert len(found(*(method(Parameter("p", annotation)) for annotation in both))) == 5
    old = version("Form", **{f"field{i}": int for i in range(100)})
    new = version("Form", **{f"field{i}": str for i in range(100)})
    assert len(found(method(Parameter("p", old)), method(Parameter("p", new)))) == MAX_PROBLEMS


def test_a_field_with_a_default_may_be_added_on_either_side_first() -> None:
    for one, other in ((BOOK, BOOK_WITH_PAGES), (BOOK_WITH_PAGES, BOOK)):
        assert found(method(Parameter("p", one), result=one), method(Parameter("p", other), result=other)) == []


# --- descriptions of strangers


def test_what_is_no_description_is_refused() -> None:
    good = describe_method(method())
    for client, server in (({}, good), (good, {"name": 7})):
        with pytest.raises(ValueError, match="not the description of a method"):
            differences(client, server)


def test_classes_without_end_are_refused() -> None:
    definitions = {
        f"C{i}": {
            "kind": "class",
            "fields": [{"name": "next", "type": {"type": "class", "name": f"C{i + 1}"}, "required": True}],
        }
        for i in range(5000)
    }
    definitions["C5000"] = {"kind": "class"}
    endless = {**describe_method(method()), "result": {"type": "class", "name": "C0"}, "definitions": definitions}
    with pytest.raises(ValueError, match="nest too deep"):
        differences(endless, endless)
    with pytest.raises(ValueError, match="nests too deep"):
        schema_hash(endless)
