"""The shape of a call follows from the annotations, and an implementation may be written in its own way."""

from __future__ import annotations

import abc
import functools
import pathlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from typing import Annotated, Any

import attrs
import pytest

from rpcnet.errors import ApplicationError, ConfigError, Status
from rpcnet.selectors import Selector
from rpcnet.service import (
    Kind,
    MethodDefinition,
    Parameter,
    Shape,
    definition_of,
    implementation_of,
    rpc,
    service,
)


class OutOfPaper(ApplicationError):
    tray: int


class Jammed(ApplicationError):
    pages: list[str] = attrs.field(factory=list)


Lines = AsyncIterator[str]


@service
class Printing:
    @rpc
    async def submit(self, job: int) -> str:
        return str(job)

    @rpc
    async def progress(self, job: int) -> AsyncIterator[float]:
        yield job / 2

    @rpc
    async def pages(self) -> AsyncGenerator[bytes, None]:
        yield b""

    @rpc(idempotent=True)
    async def upload(self, job: int, pages: AsyncIterator[bytes], copies: int = 1) -> int:
        return len([page async for page in pages])

    @rpc
    async def chat(self, lines: AsyncIterable[str]) -> AsyncIterator[int]:
        async for line in lines:
            yield len(line)

    @rpc
    async def alias(self, lines: Annotated[Lines, "of a page"]) -> Lines:
        async for line in lines:
            yield line

    @rpc
    def iterator(self, job: int) -> AsyncIterator[float]:
        return self.progress_of(job)

    @rpc
    async def awaited_iterator(self, job: int) -> AsyncIterable[float]:
        return self.progress_of(job)

    @rpc(raises=[OutOfPaper, Jammed], allow="role=admin")
    def render(self, document: bytes) -> bytes:
        return document

    @rpc(asyncio=True)
    async def lookup(self, key: str) -> str:
        return key

    async def progress_of(self, job: int) -> AsyncIterator[float]:
        yield job


def method(name: str) -> MethodDefinition:
    return definition_of(Printing).methods[name]


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        ("submit", Shape.UNARY, Kind.ASYNC),
        ("progress", Shape.SERVER_STREAMING, Kind.ASYNC),
        ("pages", Shape.SERVER_STREAMING, Kind.ASYNC),
        ("upload", Shape.CLIENT_STREAMING, Kind.ASYNC),
        ("chat", Shape.BIDIRECTIONAL, Kind.ASYNC),
        ("alias", Shape.BIDIRECTIONAL, Kind.ASYNC),
        ("iterator", Shape.SERVER_STREAMING, Kind.ASYNC),
        ("awaited_iterator", Shape.SERVER_STREAMING, Kind.ASYNC),
        ("render", Shape.UNARY, Kind.THREAD),
        ("lookup", Shape.UNARY, Kind.ASYNCIO),
    ],
)
def test_shape_and_kind_follow_from_how_a_method_is_written(name: str, shape: Shape, kind: Kind) -> None:
    assert (method(name).shape, method(name).kind) == (shape, kind)
    assert method(name).shape.streams_results is (shape in (Shape.SERVER_STREAMING, Shape.BIDIRECTIONAL))
    assert method(name).shape.streams_requests is (shape in (Shape.CLIENT_STREAMING, Shape.BIDIRECTIONAL))


def test_a_stream_is_no_parameter_and_its_items_have_the_annotation() -> None:
    upload = method("upload")
    assert upload.parameters == (Parameter("job", int), Parameter("copies", int, 1))
    assert (upload.requests, upload.requests_name, upload.requests_index) == (bytes, "pages", 1)
    assert upload.result is int
    progress = method("progress")
    assert (progress.requests, progress.requests_name, progress.requests_index) == (None, "", None)
    assert progress.result is float
    assert method("pages").result is bytes
    assert (method("alias").requests, method("alias").result) == (str, str)


def test_a_method_declares_its_errors_and_who_may_call() -> None:
    assert method("render").raises == (OutOfPaper, Jammed)
    assert method("render").allow == Selector.parse("role = admin")
    assert (method("submit").raises, method("submit").allow) == ((), None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"raises": OutOfPaper}, "must be a list of subclasses of ApplicationError"),
        ({"raises": [ValueError]}, "must be a list of subclasses of ApplicationError"),
        ({"raises": [ApplicationError]}, "must be a list of subclasses of ApplicationError"),
        ({"raises": [OutOfPaper(3)]}, "must be a list of subclasses of ApplicationError"),
        ({"asyncio": 1}, "rpc: asyncio = 1 of hello: must be True or False"),
        ({"allow": "role="}, "rpc: allow of hello: selector 'role=', column 6: expected a value"),
        ({"allow": 7}, "rpc: allow of hello: selector 7: must be text"),
    ],
)
def test_a_wrong_option_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    async def hello(self: object) -> None: ...

    hello.__qualname__ = "hello"
    with pytest.raises(ConfigError) as caught:
        rpc(**options)(hello)
    assert message in str(caught.value)


def refused(function: Callable[..., Any], **options: Any) -> str:
    marked = rpc(**options)(function) if options else rpc(function)
    with pytest.raises(ConfigError) as caught:
        service(type("S", (), {function.__name__: marked}))
    return str(caught.value)


def test_errors_that_cannot_travel_are_refused_by_name() -> None:
    async def hello(self: object) -> None: ...

    class Lost(ApplicationError):
        where: pathlib.Path

    class Untyped(ApplicationError):
        anything = attrs.field()

    class Numbered(ApplicationError):
        message: int  # type: ignore[assignment]

    other = type("OutOfPaper", (ApplicationError,), {})
    assert refused(hello, raises=[Lost]).startswith("S.hello: raises Lost, field 'where': Path is not supported")
    assert refused(hello, raises=[Untyped]) == "S.hello: raises Untyped: Untyped.anything has no annotation"
    assert refused(hello, raises=[Numbered]) == "S.hello: raises Numbered: field 'message' must be a str"
    assert refused(hello, raises=[OutOfPaper, other]) == "S.hello: raises: two errors are called OutOfPaper"


def test_only_an_async_def_without_streams_runs_under_asyncio() -> None:
    def plain(self: object) -> None: ...

    async def upload(self: object, pages: AsyncIterator[bytes]) -> None: ...

    async def progress(self: object) -> AsyncIterator[int]:
        yield 1

    for function in (plain, upload, progress):
        message = refused(function, asyncio=True)
        assert (
            message
            == f"S.{function.__name__}: asyncio=True is for an async def that takes and returns values, no streams"
        )


def test_a_decorator_above_rpc_is_refused_where_it_would_hide_the_method() -> None:
    def render(self: object) -> bytes:
        return b""

    marked = rpc(render)

    @functools.wraps(marked)
    def outer(*args: Any) -> Any:
        return marked(*args)

    with pytest.raises(ConfigError, match=r"^S.render: another decorator stands above @rpc; put @rpc on top$"):
        service(type("S", (), {"render": outer}))


# --- contracts and their implementations


@service(name="remote")
class Remote:
    @rpc
    async def hello(self, name: str) -> str: ...  # type: ignore[empty-body]

    @rpc
    async def progress(self, job: int) -> AsyncIterator[float]: ...  # type: ignore[empty-body]

    @rpc
    def numbers(self) -> AsyncIterator[int]: ...  # type: ignore[empty-body]

    @rpc
    def render(self, document: bytes) -> bytes: ...  # type: ignore[empty-body]

    @rpc(asyncio=True)
    async def lookup(self, key: str) -> str: ...  # type: ignore[empty-body]


@service
class Abstract(abc.ABC):
    @rpc(allow="role=admin", raises=[OutOfPaper])
    @abc.abstractmethod
    async def hello(self, name: str) -> str: ...

    @rpc
    @abc.abstractmethod
    async def progress(self, job: int) -> AsyncIterator[float]: ...


def test_a_contract_needs_no_body_and_no_generator() -> None:
    methods = definition_of(Remote).methods
    assert {name: method.shape for name, method in methods.items() if method.shape is not Shape.UNARY} == {
        "numbers": Shape.SERVER_STREAMING,
        "progress": Shape.SERVER_STREAMING,
    }
    assert methods["render"].kind is Kind.THREAD
    assert Abstract.__abstractmethods__ == {"hello", "progress"}
    with pytest.raises(TypeError, match="abstract"):
        Abstract()  # type: ignore[abstract]


class Served(Remote):
    @rpc
    def hello(self, name: str) -> str:
        return name

    @rpc
    async def progress(self, job: int) -> AsyncIterator[float]:
        yield job

    @rpc
    async def render(self, document: bytes) -> bytes:
        return document


class ServedPlainly(Remote):
    async def hello(self, name: str) -> str:
        return name

    async def progress(self, job: int) -> AsyncIterator[float]:  # type: ignore[override]
        yield job

    async def numbers(self) -> AsyncIterator[int]:  # type: ignore[override]
        yield 1

    def render(self, document: bytes) -> bytes:  # type: ignore[override]
        return document


def test_an_implementation_has_its_own_kinds_and_the_shapes_of_the_contract() -> None:
    kinds = {name: method.kind for name, method in definition_of(Served()).methods.items()}
    assert kinds == {
        "hello": Kind.THREAD,
        "lookup": Kind.ASYNCIO,
        "numbers": Kind.ASYNC,
        "progress": Kind.ASYNC,
        "render": Kind.ASYNC,
    }
    assert definition_of(Served) is definition_of(Served())
    assert definition_of(Served).contract is Remote
    assert definition_of(Remote).methods["hello"].kind is Kind.ASYNC
    assert definition_of(ServedPlainly()) is definition_of(Remote)  # nothing in it differs


def test_the_implementation_is_what_its_author_wrote() -> None:
    for served in (Served(), ServedPlainly()):
        definition = definition_of(served)
        for name in ("hello", "progress", "render"):
            found = implementation_of(served, definition.methods[name])
            assert found.__self__ is served  # type: ignore[attr-defined]
            raw = vars(type(served))[name]
            assert found.__func__ is getattr(raw, "__wrapped__", raw)  # type: ignore[attr-defined]
    printing = Printing()
    assert implementation_of(printing, method("submit")) == printing.submit
    assert implementation_of(printing, method("render"))(b"x") == b"x"


def test_what_stands_on_the_object_itself_is_its_implementation() -> None:
    printing = Printing()
    substitute = lambda document: document * 2  # noqa: E731
    printing.render = substitute  # type: ignore[method-assign]
    assert implementation_of(printing, method("render")) is substitute


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        ("hello", lambda self, name: name, "Wrong.hello: must be an async def, as in Remote"),
        ("progress", "unary", "Wrong.progress: must be an async generator or return an async iterator, as in Remote"),
        ("hello", "generator", "Wrong.hello: must be an async def, as in Remote"),
        ("render", "generator", "Wrong.render: must be an async def, as in Remote"),
        ("lookup", "generator", "Wrong.lookup: must be an async def, as in Remote"),
        ("hello", staticmethod(lambda name: name), "Wrong.hello: must be an async def, as in Remote"),
        ("hello", 7, "Wrong.hello: must be a plain method, with no decorator above @rpc"),
    ],
)
def test_an_override_that_does_not_fit_is_refused(name: str, function: Any, message: str) -> None:
    async def unary(self: object, job: int) -> float:
        return 1.0

    async def generator(self: object, name: str) -> AsyncIterator[str]:
        yield name

    chosen = {"unary": unary, "generator": generator}.get(function, function) if isinstance(function, str) else function
    with pytest.raises(ConfigError) as caught:
        definition_of(type("Wrong", (Remote,), {name: chosen}))
    assert str(caught.value) == message


def test_an_override_cannot_promise_what_callers_do_not_see() -> None:
    class Promises(Abstract):
        @rpc(idempotent=True)
        async def hello(self, name: str) -> str:
            return name

    class Raises(Abstract):
        @rpc(raises=[OutOfPaper, Jammed])
        async def hello(self, name: str) -> str:
            return name

    with pytest.raises(ConfigError, match=r"^Promises.hello: idempotent=True belongs to Abstract.hello, where callers"):
        definition_of(Promises)
    with pytest.raises(ConfigError, match=r"^Raises.hello: Jammed belongs to Abstract.hello, where callers see it$"):
        definition_of(Raises)


def test_an_override_may_narrow_who_calls_and_cannot_widen_it() -> None:
    class Bare(Abstract):
        @rpc(raises=[OutOfPaper])
        async def hello(self, name: str) -> str:
            return name

        @rpc(allow="zone=eu")
        async def progress(self, job: int) -> AsyncIterator[float]:
            yield 1.0

    class Below(Bare):
        @rpc(allow="gpu")
        async def hello(self, name: str) -> str:
            return name

        async def progress(self, job: int) -> AsyncIterator[float]:  # type: ignore[override]
            yield 1.0

    assert definition_of(Bare).methods["hello"].allow == Selector.parse("role=admin")
    assert definition_of(Bare).methods["hello"].raises == (OutOfPaper,)
    assert definition_of(Below).methods["hello"].allow == Selector.parse("gpu,role=admin")
    assert definition_of(Below).methods["progress"].allow == Selector.parse("zone=eu")

    decorated = service(name="again")(type("Again", (Below,), {}))
    assert definition_of(decorated).methods["hello"].allow == Selector.parse("gpu,role=admin")
    assert definition_of(decorated).methods["progress"].allow == Selector.parse("zone=eu")


def test_a_decorated_subclass_may_override_without_a_mark() -> None:
    @service
    class Again(Remote):
        def render(self, document: bytes) -> bytes:  # type: ignore[override]
            return document

        async def progress(self, job: int) -> AsyncIterator[float]:  # type: ignore[override]
            yield job

    definition = definition_of(Again)
    assert definition.contract is Again
    assert definition.methods["progress"].shape is Shape.SERVER_STREAMING
    assert implementation_of(Again(), definition.methods["render"])(b"x") == b"x"
    assert Again.progress is not implementation_of(Again(), definition.methods["progress"]).__func__  # type: ignore[attr-defined]


def test_an_error_says_its_status() -> None:
    class Gone(ApplicationError):
        status = Status.NOT_FOUND

    assert Gone().status is Status.NOT_FOUND
    assert OutOfPaper(1).status is Status.FAILED_PRECONDITION
