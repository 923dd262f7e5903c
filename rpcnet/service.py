"""Services: a class is the contract, its annotations are the schema.

The rules of this file:

* ``@rpc`` marks a method and changes nothing else; ``@service`` reads the marked methods, checks every annotation and
  leaves a :class:`ServiceDefinition` on the class. What a type checker sees of the class does not change.
* Whatever is not supported is refused here, when the class is made, with the names of class, method and parameter.
* A subclass of a decorated class, protocol or abstract class serves the contract it inherits. Decorated again, it has
  a contract of its own: the inherited methods and its own.
"""

from __future__ import annotations

import enum
import functools
import inspect
import re
import types
import typing
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, ParamSpec, TypeVar, overload

import attrs

from ._annotations import check_annotation, show
from .errors import ConfigError

__all__ = [
    "MethodDefinition",
    "Parameter",
    "Requirement",
    "ServiceDefinition",
    "Shape",
    "definition_of",
    "rpc",
    "service",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_C = TypeVar("_C", bound=type[Any])

_MARK = "__rpcnet_rpc__"
_DEFINITION = "__rpcnet_service__"

MAX_NAME_LENGTH = 128
"""Characters of a service's or a method's name: names travel with every call."""


class Shape(enum.Enum):
    """How many messages go each way in one call."""

    UNARY = "unary"
    """One request, one result."""


class Requirement(enum.Enum):
    """Stands where a parameter has no default."""

    REQUIRED = "required"
    """The caller must pass the parameter."""


@attrs.frozen
class Parameter:
    """One parameter of a method."""

    name: str
    """The name, for keyword arguments and for errors."""
    annotation: Any
    """The resolved annotation."""
    default: Any = Requirement.REQUIRED
    """The default, or ``Requirement.REQUIRED``."""

    @property
    def is_required(self) -> bool:
        """Whether the caller must pass it."""
        return self.default is Requirement.REQUIRED


@attrs.frozen
class MethodDefinition:
    """One method of a service, as its class declares it."""

    name: str
    """The name of the method."""
    service_name: str
    """The name of the service it belongs to."""
    shape: Shape
    """How many messages go each way."""
    parameters: tuple[Parameter, ...]
    """The parameters after ``self``, in order."""
    result: Any
    """The resolved annotation of the result."""
    idempotent: bool
    """Whether running it twice does no harm, so that a call may be repeated."""

    @property
    def full_name(self) -> str:
        """The name as calls give it, ``"service.method"``."""
        return f"{self.service_name}.{self.name}"


@attrs.frozen
class ServiceDefinition:
    """A service, as its class declares it."""

    name: str
    """The name under which nodes advertise it."""
    version: int
    """The version of the contract, for people; calls do not compare it."""
    methods: Mapping[str, MethodDefinition] = attrs.field(hash=False)
    """The methods by name, sorted."""
    contract: type
    """The decorated class."""


@attrs.frozen
class _Mark:
    idempotent: bool


@overload
def rpc(method: Callable[_P, Coroutine[Any, Any, _R]], /) -> Callable[_P, Coroutine[Any, Any, _R]]: ...


@overload
def rpc(
    *, idempotent: bool = False
) -> Callable[[Callable[_P, Coroutine[Any, Any, _R]]], Callable[_P, Coroutine[Any, Any, _R]]]: ...


def rpc(method: Callable[..., Any] | None = None, /, *, idempotent: bool = False) -> Callable[..., Any]:
    """Mark a method of a service as callable from other nodes.

    Used as ``@rpc`` or as ``@rpc(idempotent=True)``. The method itself is returned unchanged.

    Args:
        method: the method, an ``async def`` with an annotation on every parameter and on the result.
        idempotent: running it twice does no harm, so that a call whose fate is unknown may be repeated elsewhere.

    Raises:
        ConfigError: what is marked is not a plain function.
    """
    if method is None:
        return functools.partial(_mark, idempotent=idempotent)
    return _mark(method, idempotent=idempotent)


def _mark(method: Callable[_P, _R], *, idempotent: bool) -> Callable[_P, _R]:
    if not isinstance(method, types.FunctionType):
        raise ConfigError(f"rpc: {method!r} is not a method written with def")
    if not isinstance(idempotent, bool):
        raise ConfigError(f"rpc: idempotent = {idempotent!r} of {method.__qualname__}: must be True or False")
    setattr(method, _MARK, _Mark(idempotent))
    return method


@overload
def service(cls: _C, /) -> _C: ...


@overload
def service(*, name: str | None = None, version: int = 1) -> Callable[[_C], _C]: ...


def service(cls: Any = None, /, *, name: str | None = None, version: int = 1) -> Any:
    """Declare a class, a protocol or an abstract class as the contract of a service.

    Used as ``@service`` or as ``@service(name=..., version=...)``. The class itself is returned unchanged, except for
    its new attribute ``__rpcnet_service__``.

    Args:
        cls: the class, with at least one method marked with :func:`rpc`.
        name: the name that nodes advertise; the name of the class by default.
        version: the version of the contract, from 1.

    Raises:
        ConfigError: a name, a signature or an annotation is not supported; the message names class, method,
            parameter and rule.
    """
    if cls is None:
        return functools.partial(_declare, name=name, version=version)
    return _declare(cls, name=name, version=version)


def _declare(cls: Any, *, name: str | None, version: Any) -> type:
    if not isinstance(cls, type):
        raise ConfigError(f"service: {cls!r} is not a class")
    chosen = cls.__name__ if name is None else name
    _check_name(chosen, f"service {cls.__name__}: name")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ConfigError(f"service {cls.__name__}: version = {version!r}: must be a whole number from 1")
    marked = _marked_methods(cls)
    if not marked:
        raise ConfigError(f"service {cls.__name__}: no method is marked with @rpcnet.rpc")
    methods = {method: _define(cls, chosen, method, *marked[method]) for method in sorted(marked)}
    setattr(cls, _DEFINITION, ServiceDefinition(chosen, version, types.MappingProxyType(methods), cls))
    return cls


def definition_of(service: object) -> ServiceDefinition:
    """Return the definition of a service class, or of the class of a service object.

    Raises:
        ConfigError: neither the class nor a class it derives from is decorated with :func:`service`, or it overrides
            a method of the contract with something that is not an ``async def``.
    """
    cls = service if isinstance(service, type) else type(service)
    definition = getattr(cls, _DEFINITION, None)
    if not isinstance(definition, ServiceDefinition):
        raise ConfigError(f"{cls.__name__} is not a service: decorate the class with @rpcnet.service")
    if cls is not definition.contract:
        for method in definition.methods:
            if not inspect.iscoroutinefunction(getattr(cls, method)):
                raise ConfigError(
                    f"{cls.__name__}.{method}: must be an async def, as in {definition.contract.__name__}"
                )
    return definition


def _marked_methods(cls: type) -> dict[str, tuple[types.FunctionType, _Mark]]:
    """Return what the class defines under each marked name; an override keeps the mark of what it overrides."""
    marks: dict[str, _Mark] = {}
    defined: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, member in vars(base).items():
            mark = getattr(getattr(member, "__func__", member), _MARK, None)
            if isinstance(mark, _Mark):
                marks[name] = mark
            if name in marks:
                defined[name] = member
    for name, member in defined.items():
        if not isinstance(member, types.FunctionType):
            raise ConfigError(f"{cls.__name__}.{name}: an rpc must be a plain method, not {type(member).__name__}")
    return {name: (defined[name], mark) for name, mark in marks.items()}


def _define(cls: type, service_name: str, name: str, method: types.FunctionType, mark: _Mark) -> MethodDefinition:
    where = f"{cls.__name__}.{name}"
    _check_name(name, where)
    if name.startswith("_"):
        raise ConfigError(f"{where}: the name of an rpc must not begin with an underscore")
    hints = _resolve(cls, method, where)
    _check_shape(method, hints, where)
    return MethodDefinition(
        name=name,
        service_name=service_name,
        shape=Shape.UNARY,
        parameters=_parameters(method, hints, where),
        result=hints["return"],
        idempotent=mark.idempotent,
    )


def _check_name(name: object, where: str) -> None:
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigError(f"{where} {name!r}: must be letters, digits and underscores, not beginning with a digit")
    if len(name) > MAX_NAME_LENGTH:
        raise ConfigError(f"{where}: {len(name)} characters long, at most {MAX_NAME_LENGTH} are allowed")


def _resolve(cls: type, method: types.FunctionType, where: str) -> dict[str, Any]:
    # Methods are left out of the namespace: one called "list" must not hide the type from its neighbours.
    inner = {name: member for name, member in vars(cls).items() if isinstance(member, type)}
    try:
        return typing.get_type_hints(method, localns={**inner, cls.__name__: cls})
    except NameError as error:
        word = re.compile(rf"\b{re.escape(str(error.name))}\b")
        holders = [name for name, text in method.__annotations__.items() if isinstance(text, str) and word.search(text)]
        place = _place(where, holders[0]) if holders else where
        raise ConfigError(
            f"{place}: {error.name!r} is not defined at module level, so its annotation cannot be read"
        ) from None
    except (TypeError, SyntaxError) as error:
        raise ConfigError(f"{where}: its annotations cannot be read: {error}") from None


def _place(where: str, name: str) -> str:
    return f"{where}: the result" if name == "return" else f"{where}: parameter {name!r}"


def _check_shape(method: types.FunctionType, hints: Mapping[str, Any], where: str) -> None:
    if inspect.isasyncgenfunction(method):
        raise ConfigError(f"{where}: an async generator is not supported; return the values as a list")
    if not inspect.iscoroutinefunction(method):
        raise ConfigError(f"{where}: must be an async def")
    if "return" not in hints:
        raise ConfigError(f"{_place(where, 'return')} has no annotation; write -> None if there is none")
    check_annotation(hints["return"], _place(where, "return"))


_SELF_KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)


def _parameters(method: types.FunctionType, hints: Mapping[str, Any], where: str) -> tuple[Parameter, ...]:
    declared = list(inspect.signature(method).parameters.values())
    if not declared or declared[0].kind not in _SELF_KINDS:
        raise ConfigError(f"{where}: the first parameter must be self")
    return tuple(_parameter(parameter, hints, where) for parameter in declared[1:])


_KIND_RULES = {
    inspect.Parameter.VAR_POSITIONAL: "*args is not supported; take a list",
    inspect.Parameter.VAR_KEYWORD: "**kwargs is not supported; take a dict",
    inspect.Parameter.POSITIONAL_ONLY: "positional-only parameters are not supported; remove the '/'",
    inspect.Parameter.KEYWORD_ONLY: "keyword-only parameters are not supported; remove the '*'",
}


def _parameter(parameter: inspect.Parameter, hints: Mapping[str, Any], where: str) -> Parameter:
    place = _place(where, parameter.name)
    if parameter.kind in _KIND_RULES:
        raise ConfigError(f"{place}: {_KIND_RULES[parameter.kind]}")
    if parameter.name not in hints:
        raise ConfigError(f"{place} has no annotation")
    annotation = hints[parameter.name]
    if typing.get_origin(annotation) in (AsyncIterator, AsyncIterable) or annotation in (AsyncIterator, AsyncIterable):
        raise ConfigError(f"{place}: {show(annotation)} is not supported: a stream of arguments; take a list")
    check_annotation(annotation, place)
    missing = parameter.default is inspect.Parameter.empty
    return Parameter(parameter.name, annotation, Requirement.REQUIRED if missing else parameter.default)
