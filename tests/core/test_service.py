"""A class is a contract, and what cannot travel is refused when it is declared."""

from __future__ import annotations

import abc
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import inspect
import pathlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, Protocol, TypedDict, TypeVar

import attrs
import pytest
import trio

from rpcnet._annotations import check_annotation
from rpcnet.errors import ApplicationError, ConfigError
from rpcnet.service import MethodDefinition, Parameter, Requirement, Shape, definition_of, rpc, service


@attrs.frozen
class Job:
    id: int
    words: list[str]
    parent: Job | None = None


@dataclasses.dataclass
class Summary:
    pages: int
    best: Job | None = None


@service(name="printing", version=2)
class Printing:
    @rpc(idempotent=True)
    async def submit(self, job: Job, copies: int = 1) -> int:
        return job.id * copies

    @rpc
    async def list(self) -> list[Job]:
        return []

    async def helper(self, anything: Callable[[], None]) -> None:
        """Not marked, so nobody calls it from outside."""


def test_a_definition_says_what_the_class_says() -> None:
    definition = definition_of(Printing)
    assert (definition.name, definition.version, definition.contract) == ("printing", 2, Printing)
    assert list(definition.methods) == ["list", "submit"]
    assert definition.methods["submit"] == MethodDefinition(
        name="submit",
        service_name="printing",
        shape=Shape.UNARY,
        parameters=(Parameter("job", Job), Parameter("copies", int, 1)),
        result=int,
        idempotent=True,
    )
    assert definition.methods["submit"].full_name == "printing.submit"
    assert [parameter.is_required for parameter in definition.methods["submit"].parameters] == [True, False]
    assert definition.methods["submit"].parameters[0].default is Requirement.REQUIRED
    assert definition.methods["list"].result == list[Job]
    assert not definition.methods["list"].idempotent


def test_a_decorated_class_is_the_same_class_and_its_methods_are_plain_methods() -> None:
    class Plain:
        async def double(self, number: int) -> int:
            return 2 * number

    method = Plain.double
    assert rpc(method) is method
    assert service(Plain) is Plain
    assert Plain.__name__ == "Plain"
    assert inspect.iscoroutinefunction(Plain.double)
    assert trio.run(Plain().double, 4) == 8


def test_the_name_of_the_class_is_the_default_name() -> None:
    @service
    class Greeter:
        @rpc
        async def hello(self, name: str) -> str:
            return name

    assert definition_of(Greeter).name == "Greeter"
    assert definition_of(Greeter()).version == 1
    assert definition_of(Greeter()) is definition_of(Greeter)


def test_methods_cannot_be_added_to_a_definition() -> None:
    with pytest.raises(TypeError):
        definition_of(Printing).methods["more"] = None  # type: ignore[index]


@service
class Contract(Protocol):
    @rpc
    async def hello(self, name: str) -> str: ...


@service
class AbstractContract(abc.ABC):
    @rpc
    @abc.abstractmethod
    async def hello(self, name: str) -> str: ...


class Implementation(AbstractContract):
    async def hello(self, name: str) -> str:
        return name


class Explicit(Contract):
    async def hello(self, name: str) -> str:
        return name


def test_protocols_and_abstract_classes_are_contracts() -> None:
    for contract, implementation in ((Contract, Explicit), (AbstractContract, Implementation)):
        assert definition_of(contract).name == contract.__name__
        assert definition_of(implementation()) is definition_of(contract)


def test_an_override_that_is_no_async_def_is_refused() -> None:
    class Wrong(AbstractContract):
        def hello(self, name: str) -> str:  # type: ignore[override]
            return name

    with pytest.raises(ConfigError, match=r"Wrong.hello: must be an async def, as in AbstractContract"):
        definition_of(Wrong())


def test_a_decorated_subclass_has_the_inherited_methods_and_its_own() -> None:
    @service(name="more")
    class More(Printing):
        async def submit(self, job: Job, copies: int = 2, color: bool = False) -> int:
            return job.id

        @rpc
        async def cancel(self, job_id: int) -> None: ...

    definition = definition_of(More)
    assert list(definition.methods) == ["cancel", "list", "submit"]
    assert definition.methods["submit"].idempotent
    assert definition.methods["submit"].service_name == "more"
    assert [parameter.name for parameter in definition.methods["submit"].parameters] == ["job", "copies", "color"]
    assert definition_of(Printing).name == "printing"


def test_what_is_no_service_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"int is not a service: decorate the class with @rpcnet.service"):
        definition_of(7)


def refused(cls: Any, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        service(**options)(cls) if options else service(cls)
    return str(caught.value)


def test_a_service_without_methods_is_refused() -> None:
    class Empty:
        async def hello(self) -> None: ...

    assert refused(Empty) == "service Empty: no method is marked with @rpcnet.rpc"


@pytest.mark.parametrize("name", ["", "two words", "a.b", "9lives", 7, "x" * 129])
def test_a_bad_service_name_is_refused(name: Any) -> None:
    assert refused(type("Named", (Printing,), {}), name=name).startswith("service Named: name")


@pytest.mark.parametrize("version", [0, -1, 1.5, True, "2"])
def test_a_bad_version_is_refused(version: Any) -> None:
    message = refused(type("Versioned", (Printing,), {}), version=version)
    assert message == f"service Versioned: version = {version!r}: must be a whole number from 1"


def test_long_and_private_method_names_are_refused() -> None:
    async def method(self: object) -> None: ...

    assert "129 characters long, at most 128" in refused(type("Long", (), {"x" * 129: rpc(method)}))
    assert refused(type("Private", (), {"_x": rpc(method)})) == (
        "Private._x: the name of an rpc must not begin with an underscore"
    )


def test_only_plain_methods_can_be_marked() -> None:
    with pytest.raises(ConfigError, match="is not a method written with def"):
        rpc(staticmethod(lambda: None))
    with pytest.raises(ConfigError, match="must be True or False"):
        rpc(idempotent=1)(Printing.submit)  # type: ignore[call-overload]

    class Static:
        @staticmethod
        @rpc
        async def hello() -> None: ...

    assert refused(Static) == "Static.hello: an rpc must be a plain method, not staticmethod"


def test_a_service_that_is_no_class_is_refused() -> None:
    assert "is not a class" in refused(lambda: None)


class Signatures:
    """Each method breaks one rule."""

    def generator(self) -> Iterator[int]:
        yield 1

    async def yields_a_value(self) -> int:  # type: ignore[misc]
        yield 1

    async def streams_of_anything(self) -> AsyncIterator: ...  # type: ignore[type-arg, empty-body]

    async def takes_answers(self) -> AsyncGenerator[int, str]:
        yield 1

    async def a_list_of_streams(self) -> list[AsyncIterator[int]]: ...  # type: ignore[empty-body]

    async def an_unsupported_item(self) -> AsyncIterator[object]:
        yield 1

    def plain(self, pages: AsyncIterator[bytes]) -> None: ...

    async def two_streams(self, pages: AsyncIterator[bytes], lines: AsyncIterator[str]) -> None: ...

    async def stream_with_default(self, pages: AsyncIterator[bytes] = None) -> None: ...  # type: ignore[assignment] # noqa: RUF013

    async def maybe_a_stream(self, pages: AsyncIterator[bytes] | None) -> None: ...

    async def stream(self, pages: AsyncIterator[pathlib.Path]) -> None: ...

    async def no_result(self): ...  # type: ignore[no-untyped-def]  # noqa: ANN201

    async def no_annotation(self, job) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001

    async def variadic(self, *jobs: int) -> None: ...

    async def keywords(self, **jobs: int) -> None: ...

    async def positional(self, job: int, /) -> None: ...

    async def keyword_only(self, *, job: int) -> None: ...

    async def nobody() -> None: ...  # type: ignore[misc]

    async def unknown(self, job: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    async def unknown_result(self) -> list[Missing]: ...  # type: ignore[name-defined, empty-body]  # noqa: F821

    async def unsupported(self, path: pathlib.Path) -> None: ...

    async def unsupported_result(self) -> list[object]:
        return []

    async def nonsense(self, job: 1 + None) -> None: ...  # type: ignore[valid-type]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("generator", "S.generator: a generator is not supported; write async def, which makes it a stream"),
        (
            "yields_a_value",
            "S.yields_a_value: the result: an async generator returns a stream; write AsyncIterator[int]",
        ),
        ("streams_of_anything", "S.streams_of_anything: the result: AsyncIterator is not supported: say what it holds"),
        (
            "takes_answers",
            "S.takes_answers: the result: AsyncGenerator[int, str] is not supported: a stream takes nothing",
        ),
        (
            "a_list_of_streams",
            "S.a_list_of_streams: the result: AsyncIterator[int] is not supported: a stream stands alone",
        ),
        ("an_unsupported_item", "S.an_unsupported_item: the result: object is not supported: of classes, only"),
        ("plain", "S.plain: a plain def runs in a thread and cannot read a stream; write async def"),
        ("two_streams", "S.two_streams: parameter 'lines': 'pages' is a stream already, and one is allowed"),
        ("stream_with_default", "S.stream_with_default: parameter 'pages': a stream cannot have a default"),
        (
            "maybe_a_stream",
            "S.maybe_a_stream: parameter 'pages': AsyncIterator[bytes] | None is not supported: a stream",
        ),
        ("stream", "S.stream: parameter 'pages': Path is not supported: of classes, only attrs classes"),
        ("no_result", "S.no_result: the result has no annotation; write -> None if there is none"),
        ("no_annotation", "S.no_annotation: parameter 'job' has no annotation"),
        ("variadic", "S.variadic: parameter 'jobs': *args is not supported; take a list"),
        ("keywords", "S.keywords: parameter 'jobs': **kwargs is not supported; take a dict"),
        ("positional", "S.positional: parameter 'job': positional-only parameters are not supported; remove the '/'"),
        ("keyword_only", "S.keyword_only: parameter 'job': keyword-only parameters are not supported; remove the '*'"),
        ("nobody", "S.nobody: the first parameter must be self"),
        ("unknown", "S.unknown: parameter 'job': 'Missing' is not defined at module level"),
        ("unknown_result", "S.unknown_result: the result: 'Missing' is not defined at module level"),
        ("unsupported", "S.unsupported: parameter 'path': Path is not supported: of classes, only attrs classes"),
        ("unsupported_result", "S.unsupported_result: the result: object is not supported: of classes"),
        ("nonsense", "S.nonsense: its annotations cannot be read"),
    ],
)
def test_a_signature_that_is_not_supported_is_refused_by_name(method: str, message: str) -> None:
    marked = vars(Signatures)[method]
    assert refused(type("S", (), {method: rpc(marked)})).startswith(message)


def test_a_local_class_that_cannot_be_resolved_is_named() -> None:
    @attrs.frozen
    class Local:
        x: int

    class Service:
        @rpc
        async def hello(self, local: Local) -> None: ...

    assert refused(Service) == (
        "Service.hello: parameter 'local': 'Local' is not defined at module level, so its annotation cannot be read"
    )


class Color(enum.Enum):
    RED = "red"


class Odd(enum.Enum):
    RED = object()


class Nothing(enum.Enum):
    pass


T = TypeVar("T")


@attrs.frozen
class Box(Generic[T]):
    content: T


class Point(NamedTuple):
    x: int


class Movie(TypedDict):
    name: str


@attrs.define
class Holder:
    paths: list[pathlib.Path]


@attrs.define
class Untyped:
    anything = attrs.field()  # type: ignore[var-annotated]


@attrs.frozen
class Dangling:
    x: NotThere  # type: ignore[name-defined]  # noqa: F821


UserId = NewType("UserId", int)


@pytest.mark.parametrize(
    "annotation",
    [
        *(None, bool, int, float, str, bytes, Any, dt.datetime, dt.date, decimal.Decimal, uuid.UUID),
        *(Color, Job, Summary, UserId, Annotated[int, "pages"], Literal["a", 1, True, b"x"] | None),
        *(list[int], set[str], frozenset[bytes], tuple[int, str], tuple[int, ...], dict[str, Job], dict[int, Any]),
        *(Sequence[Job], Mapping[uuid.UUID, list[Color]], set[tuple[int, frozenset[str]]], tuple[()]),
        *(int | None, int | str | bytes | list[int] | Job | None, Job | Summary, str | decimal.Decimal, Any | None),
    ],
)
def test_supported_annotations_are_accepted(annotation: Any) -> None:
    check_annotation(annotation, "here")


REFUSED: list[tuple[Any, str]] = [
    (object, "here: object is not supported: of classes, only attrs classes, dataclasses and enums travel"),
    (pathlib.Path, "here: Path is not supported: of classes"),
    (complex, "here: complex is not supported: of classes"),
    (list, "here: list is not supported: say what it holds, as in list[str]"),
    (dict, "here: dict is not supported: say what it holds, as in dict[str, str]"),
    (tuple, "here: tuple is not supported: say what it holds, as in tuple[str]"),
    (Odd, "here: Odd is not supported: the value of Odd.RED must be a str or an int"),
    (Nothing, "here: Nothing is not supported: an enum needs members"),
    (Box, "here: Box is not supported: generic classes do not travel"),
    (Box[int], "is not supported: generic types other than list"),
    (Point, "here: Point is not supported: write it as an attrs class or a dataclass"),
    (Movie, "here: Movie is not supported: write it as an attrs class or a dataclass"),
    (T, "here: ~T is not supported: it is not a type whose values can travel"),
    (collections.deque[int], "is not supported: generic types other than list"),
    (Literal[Color.RED], "a Literal holds None, bool, int, str or bytes, not <Color.RED: 'red'>"),
    (list[dict[str, object]], "here: object is not supported"),
    (Holder, "here, field Holder.paths: Path is not supported"),
    (list[Holder] | None, "here, field Holder.paths: Path is not supported"),
    (Untyped, "here: Untyped is not supported: Untyped.anything has no annotation"),
    (Dangling, "here: Dangling is not supported: Dangling names 'NotThere', which is not defined at module level"),
    (list[int] | list[str], "list[int] and list[str] cannot be told apart: both are list"),
    (tuple[int, ...] | Sequence[int], "cannot be told apart: both are tuple"),
    (Literal["a"] | str, "Literal['a'] and str cannot be told apart: both are str"),  # noqa: PYI051
    (dict[list[int], int], "here: list[int] is not supported: a dict's key must be a scalar"),
    (dict[None, int], "here: None is not supported: a dict's key must be a scalar"),
    (dict[Any, int], "a dict's key must be a scalar"),
    (dict[object, int], "here: object is not supported: of classes"),
    (set[list[int]], "here: list[int] is not supported: the elements of a set must be hashable"),
    (set[Summary], "here: Summary is not supported: the elements of a set must be hashable"),
    (set[tuple[int, Any]], "the elements of a set must be hashable"),
    (set[object], "here: object is not supported: of classes"),
]


@pytest.mark.parametrize(("annotation", "message"), REFUSED)
def test_other_annotations_are_refused_with_the_rule(annotation: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_annotation(annotation, "here")
    assert message in str(caught.value)


def test_two_classes_of_one_name_in_a_union_are_refused() -> None:
    other = attrs.make_class("Job", {"x": attrs.field(type=int)}, frozen=True)
    with pytest.raises(ConfigError, match="two of its members have the same name"):
        check_annotation(Job | other, "here")


@pytest.mark.parametrize(("annotation", "message"), REFUSED)
def test_what_does_not_travel_is_refused_in_every_place(annotation: Any, message: str) -> None:
    def declare(result: Any = None, raises: Any = (), **parameters: Any) -> str:
        async def method(self: object, value: Any) -> None: ...

        method.__annotations__ = {"value": int, **parameters, "return": result}
        return refused(type("S", (), {"method": rpc(raises=raises)(method)}))

    rule = message.removeprefix("here").lstrip(":, ")
    failure = type("Failure", (ApplicationError,), {"__annotations__": {"value": annotation}})
    for said, place in (
        (declare(value=annotation), "S.method: parameter 'value'"),
        (declare(value=AsyncIterator[annotation]), "S.method: parameter 'value'"),
        (declare(annotation), "S.method: the result"),
        (declare(AsyncIterator[annotation]), "S.method: the result"),
        (declare(raises=[failure]), "S.method: raises Failure"),
    ):
        assert said.startswith(place)
        assert rule in said
