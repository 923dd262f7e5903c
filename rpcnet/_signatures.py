"""From a marked function to the definition of a method: what its signature may be.

The rules of this file:

* Whatever is not supported is refused with the names of class, method and parameter, and with the rule.
* The shape follows from the annotations. One parameter at most is a stream of request items; it has no default. The
  result is a stream where its annotation is ``AsyncIterator``, ``AsyncIterable`` or ``AsyncGenerator``.
* A plain ``def`` runs in a thread, so it takes and returns values, no streams; one that returns an async iterator does
  not block and runs where an ``async def`` does.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from ._annotations import Unsupported, check_annotation, class_fields, is_stream, show, stream_item
from ._definitions import Kind, MethodDefinition, Parameter, Requirement, Shape
from ._direct import answers_with_stream, is_covered, written
from .errors import ApplicationError, ConfigError
from .selectors import Selector

__all__ = ["MAX_NAME_LENGTH", "Mark", "both", "check_name", "check_override", "define", "is_ours"]

MAX_NAME_LENGTH = 128
"""Characters of a service's or a method's name: names travel with every call."""


@attrs.frozen
class Mark:
    """What ``@rpc`` says of a method."""

    idempotent: bool = False
    """Whether running it twice does no harm."""
    raises: tuple[type[ApplicationError], ...] = ()
    """The errors that it declares."""
    asyncio: bool = False
    """Whether it runs under trio-asyncio."""
    allow: Selector | None = None
    """What the tags of a caller must match."""


def define(cls: type, service_name: str, name: str, member: types.FunctionType, mark: Mark) -> MethodDefinition:
    """Read the definition of one marked method of a class.

    Raises:
        ConfigError: its name, its signature, an annotation or a declared error is not supported.
    """
    where = f"{cls.__name__}.{name}"
    check_name(name, where)
    if name.startswith("_"):
        raise ConfigError(f"{where}: the name of an rpc must not begin with an underscore")
    if is_covered(member):
        raise ConfigError(f"{where}: another decorator stands above @rpc; put @rpc on top")
    function = written(member)
    hints = _resolve(cls, function, where)
    result, streams_results = _result(function, hints, where)
    parameters, stream = _parameters(function, hints, where)
    shape = Shape.of(requests=stream is not None, results=streams_results)
    _check_errors(mark.raises, where)
    return MethodDefinition(
        name=name,
        service_name=service_name,
        shape=shape,
        parameters=parameters,
        result=result,
        idempotent=mark.idempotent,
        kind=_kind(function, shape, mark, where),
        raises=mark.raises,
        allow=mark.allow,
        requests=None if stream is None else stream[1].annotation,
        requests_name="" if stream is None else stream[1].name,
        requests_index=None if stream is None else stream[0],
    )


def check_name(name: object, where: str) -> None:
    """Refuse a service's or a method's name that is no identifier, or too long."""
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigError(f"{where} {name!r}: must be letters, digits and underscores, not beginning with a digit")
    if len(name) > MAX_NAME_LENGTH:
        raise ConfigError(f"{where}: {len(name)} characters long, at most {MAX_NAME_LENGTH} are allowed")


def is_ours(cls: type) -> bool:
    """Whether a class belongs to rpcnet itself, and so may have a name with a dot, which no user's service has."""
    return cls.__module__.partition(".")[0] == "rpcnet"


# --- annotations


def _resolve(cls: type, function: Callable[..., Any], where: str) -> dict[str, Any]:
    # Methods are left out of the namespace: one called "list" must not hide the type from its neighbours.
    inner = {name: member for name, member in vars(cls).items() if isinstance(member, type)}
    try:
        return typing.get_type_hints(function, localns={**inner, cls.__name__: cls})
    except NameError as error:
        word = re.compile(rf"\b{re.escape(str(error.name))}\b")
        texts = function.__annotations__.items()
        holders = [name for name, text in texts if isinstance(text, str) and word.search(text)]
        place = _place(where, holders[0]) if holders else where
        raise ConfigError(
            f"{place}: {error.name!r} is not defined at module level, so its annotation cannot be read"
        ) from None
    except (TypeError, SyntaxError) as error:
        raise ConfigError(f"{where}: its annotations cannot be read: {error}") from None


def _place(where: str, name: str) -> str:
    return f"{where}: the result" if name == "return" else f"{where}: parameter {name!r}"


def _result(function: Callable[..., Any], hints: Mapping[str, Any], where: str) -> tuple[Any, bool]:
    """Return the annotation of the result, or of one item of it, and whether it is a stream."""
    place = _place(where, "return")
    if inspect.isgeneratorfunction(function):
        raise ConfigError(f"{where}: a generator is not supported; write async def, which makes it a stream")
    if "return" not in hints:
        raise ConfigError(f"{place} has no annotation; write -> None if there is none")
    annotation = hints["return"]
    streams = is_stream(annotation)
    if inspect.isasyncgenfunction(function) and not streams:
        raise ConfigError(f"{place}: an async generator returns a stream; write AsyncIterator[{show(annotation)}]")
    result = stream_item(annotation, place) if streams else annotation
    check_annotation(result, place)
    return result, streams


def _kind(function: Callable[..., Any], shape: Shape, mark: Mark, where: str) -> Kind:
    if mark.asyncio:
        if shape is not Shape.UNARY or not inspect.iscoroutinefunction(function):
            raise ConfigError(f"{where}: asyncio=True is for an async def that takes and returns values, no streams")
        return Kind.ASYNCIO
    if shape.streams_results or inspect.iscoroutinefunction(function):
        return Kind.ASYNC
    if shape.streams_requests:
        raise ConfigError(f"{where}: a plain def runs in a thread and cannot read a stream; write async def")
    return Kind.THREAD


# --- parameters


_SELF_KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)

_KIND_RULES = {
    inspect.Parameter.VAR_POSITIONAL: "*args is not supported; take a list",
    inspect.Parameter.VAR_KEYWORD: "**kwargs is not supported; take a dict",
    inspect.Parameter.POSITIONAL_ONLY: "positional-only parameters are not supported; remove the '/'",
    inspect.Parameter.KEYWORD_ONLY: "keyword-only parameters are not supported; remove the '*'",
}


def _parameters(
    function: Callable[..., Any], hints: Mapping[str, Any], where: str
) -> tuple[tuple[Parameter, ...], tuple[int, Parameter] | None]:
    """Return the parameters that are values, and the one that is a stream with its position."""
    declared = list(inspect.signature(function).parameters.values())
    if not declared or declared[0].kind not in _SELF_KINDS:
        raise ConfigError(f"{where}: the first parameter must be self")
    values: list[Parameter] = []
    stream: tuple[int, Parameter] | None = None
    for index, parameter in enumerate(declared[1:]):
        read = _parameter(parameter, hints, where)
        if not is_stream(hints[parameter.name]):
            values.append(read)
        elif stream is None:
            stream = index, read
        else:
            raise ConfigError(f"{_place(where, read.name)}: {stream[1].name!r} is a stream already, and one is allowed")
    return tuple(values), stream


def _parameter(parameter: inspect.Parameter, hints: Mapping[str, Any], where: str) -> Parameter:
    place = _place(where, parameter.name)
    if parameter.kind in _KIND_RULES:
        raise ConfigError(f"{place}: {_KIND_RULES[parameter.kind]}")
    if parameter.name not in hints:
        raise ConfigError(f"{place} has no annotation")
    annotation = hints[parameter.name]
    missing = parameter.default is inspect.Parameter.empty
    if is_stream(annotation):
        annotation = stream_item(annotation, place)
        if not missing:
            raise ConfigError(f"{place}: a stream cannot have a default")
    check_annotation(annotation, place)
    return Parameter(parameter.name, annotation, Requirement.REQUIRED if missing else parameter.default)


# --- errors


def _check_errors(errors: Iterable[type[ApplicationError]], where: str) -> None:
    names: dict[str, None] = {}
    for error in errors:
        if error.__name__ in names:
            raise ConfigError(f"{where}: raises: two errors are called {error.__name__}")
        names[error.__name__] = None
        place = f"{where}: raises {error.__name__}"
        try:
            fields = class_fields(error)
        except Unsupported as problem:
            raise ConfigError(f"{place}: {problem}") from None
        for name, annotation in fields.items():
            if name == "message" and annotation is not str:
                raise ConfigError(f"{place}: field 'message' must be a str")
            check_annotation(annotation, f"{place}, field {name!r}")


# --- overrides


def check_override(cls: type, contract: type, method: MethodDefinition, marks: Sequence[Mark]) -> MethodDefinition:
    """Return the definition of a method as a class serves it that overrides it and is no contract of its own.

    The kind is that of the override. What ``allow`` says of it holds on top of what the contract says.

    Args:
        cls: the class.
        contract: the class that declares the method.
        method: the method as declared.
        marks: what ``@rpc`` says on the override and on what it overrides in turn, below the contract; the latest
            first.

    Raises:
        ConfigError: the override does not fit the contract.
    """
    where = f"{cls.__name__}.{method.name}"
    member = getattr(cls, method.name)
    if not isinstance(member, types.FunctionType) or is_covered(member):
        raise ConfigError(f"{where}: must be a plain method, with no decorator above @rpc")
    function = written(member)
    _check_fit(function, method, f"as in {contract.__name__}", where, is_wrapped=member is not function)
    mark = marks[0] if marks else Mark(asyncio=method.kind is Kind.ASYNCIO)
    _check_promises(mark, method, contract.__name__, where)
    kind = _kind(function, method.shape, mark, where)
    allow = functools.reduce(both, [mark.allow for mark in marks], method.allow)
    return attrs.evolve(method, kind=kind, allow=allow)


def both(first: Selector | None, second: Selector | None) -> Selector | None:
    """Return the selector that asks for all that two ask for."""
    if first is None or second is None:
        return second if first is None else first
    return Selector(first.terms + second.terms)


def _check_fit(
    function: Callable[..., Any], method: MethodDefinition, like: str, where: str, *, is_wrapped: bool
) -> None:
    streams = answers_with_stream(function)
    if method.shape.streams_results:
        if "return" in function.__annotations__ and streams is False:
            raise ConfigError(f"{where}: must be an async generator or return an async iterator, {like}")
    elif streams or not (
        # A plain def that @rpc has not made awaitable is so only on the server.
        inspect.iscoroutinefunction(function) or is_wrapped or method.kind is Kind.THREAD
    ):
        raise ConfigError(f"{where}: must be an async def, {like}")


def _check_promises(mark: Mark, method: MethodDefinition, contract: str, where: str) -> None:
    """Refuse an override that promises to callers what they cannot know."""
    if mark.idempotent and not method.idempotent:
        raise ConfigError(f"{where}: idempotent=True belongs to {contract}.{method.name}, where callers see it")
    for error in mark.raises:
        if error not in method.raises:
            raise ConfigError(f"{where}: {error.__name__} belongs to {contract}.{method.name}, where callers see it")
