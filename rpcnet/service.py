"""Services: a class is the contract, its annotations are the schema.

The rules of this file:

* ``@rpc`` marks a method and gives it the type that callers see, on a stub and on the service object alike: a plain
  ``def`` is awaited, a method that answers with a stream is entered with ``async with``. Other methods stay
  as they are.
* ``@service`` reads the marked methods, checks every annotation and leaves a :class:`ServiceDefinition` on the class.
* Whatever is not supported is refused here, when the class is made, with the names of class, method and parameter.
* A subclass of a decorated class, protocol or abstract class serves the contract it inherits, each method in the way in
  which the subclass writes it. Decorated again, it has a contract of its own: the inherited methods and its own.
* ``allow`` only ever narrows: whoever overrides a method, decorated or not, cannot open it to more callers.
"""

from __future__ import annotations

import functools
import types
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, ParamSpec, Protocol, TypeAlias, TypeVar, overload

import attrs

from ._definitions import BUILTIN_PREFIX, Kind, MethodDefinition, Parameter, Requirement, ServiceDefinition, Shape
from ._direct import direct, written
from ._signatures import Mark, both, check_name, check_override, define, is_ours
from .errors import ApplicationError, ConfigError
from .selectors import Selector

__all__ = [
    "BUILTIN_PREFIX",
    "Kind",
    "MethodDefinition",
    "Parameter",
    "Requirement",
    "ServiceDefinition",
    "Shape",
    "definition_of",
    "implementation_of",
    "rpc",
    "service",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_C = TypeVar("_C", bound=type[Any])
_Stream: TypeAlias = AbstractAsyncContextManager[AsyncIterator[_R]]

_MARK = "__rpcnet_rpc__"
_DEFINITION = "__rpcnet_service__"
_SERVED = "__rpcnet_served__"


# The overloads go from the particular to the general: an async generator is also a function that returns something.


class _Decorator(Protocol):
    """What ``@rpc(...)`` does to the type of a method."""

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, method: Callable[_P, AsyncIterable[_R]], /
    ) -> Callable[_P, _Stream[_R]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, method: Callable[_P, Coroutine[Any, Any, AsyncIterable[_R]]], /
    ) -> Callable[_P, _Stream[_R]]: ...
    @overload
    def __call__(self, method: Callable[_P, Coroutine[Any, Any, _R]], /) -> Callable[_P, Coroutine[Any, Any, _R]]: ...
    @overload
    def __call__(self, method: Callable[_P, _R], /) -> Callable[_P, Coroutine[Any, Any, _R]]: ...


class _AsyncioDecorator(Protocol):
    """What ``@rpc(asyncio=True)`` does to the type of a method."""

    def __call__(self, method: Callable[_P, Coroutine[Any, Any, _R]], /) -> Callable[_P, Coroutine[Any, Any, _R]]: ...


@overload
def rpc(  # type: ignore[overload-overlap]
    method: Callable[_P, AsyncIterable[_R]], /
) -> Callable[_P, _Stream[_R]]: ...
@overload
def rpc(  # type: ignore[overload-overlap]
    method: Callable[_P, Coroutine[Any, Any, AsyncIterable[_R]]], /
) -> Callable[_P, _Stream[_R]]: ...
@overload
def rpc(method: Callable[_P, Coroutine[Any, Any, _R]], /) -> Callable[_P, Coroutine[Any, Any, _R]]: ...
@overload
def rpc(method: Callable[_P, _R], /) -> Callable[_P, Coroutine[Any, Any, _R]]: ...
@overload
def rpc(
    *,
    idempotent: bool = False,
    raises: Sequence[type[ApplicationError]] = (),
    asyncio: Literal[False] = False,
    allow: str | Selector | None = None,
) -> _Decorator: ...
@overload
def rpc(
    *,
    idempotent: bool = False,
    raises: Sequence[type[ApplicationError]] = (),
    asyncio: Literal[True],
    allow: str | Selector | None = None,
) -> _AsyncioDecorator: ...


def rpc(
    method: Callable[..., Any] | None = None,
    /,
    *,
    idempotent: bool = False,
    raises: Sequence[type[ApplicationError]] = (),
    asyncio: bool = False,
    allow: str | Selector | None = None,
) -> Callable[..., Any]:
    """Mark a method of a service as callable from other nodes.

    Used as ``@rpc`` or as ``@rpc(idempotent=True)``. Every parameter and the result need an annotation.

    ==============================================  =================================================================
    written as                                      what callers do
    ==============================================  =================================================================
    ``async def f(self, n: int) -> int``            ``await stub.f(7)``
    ``def f(self, n: int) -> int``                  ``await stub.f(7)``; it runs in a worker thread
    ``async def f(self) -> AsyncIterator[int]``     ``async with stub.f() as values: async for value in values: ...``
    ``async def f(self, n: AsyncIterator[int])``    ``await stub.f(any_async_iterable)``
    ==============================================  =================================================================

    A stream is an async generator, or a function, ``async`` or not, that returns an async iterator. On the service
    object itself the method is called in the same way as on a stub; nothing is converted or sent then. A method with
    ``asyncio=True`` stays as it is: called on the object itself, it wants an asyncio loop.

    Args:
        method: the method.
        idempotent: running it twice does no harm, so that a call whose fate is unknown may be repeated elsewhere.
        raises: the :class:`ApplicationError` classes that callers get as themselves, with distinct names.
        asyncio: the method is an ``async def`` that runs under trio-asyncio, so that asyncio-only libraries work.
        allow: a selector over the verified tags of the caller; others get ``PermissionDenied``.

    Raises:
        ConfigError: what is marked is not a plain function, or an option is wrong; a bad selector with its column.
    """
    if method is None:
        return functools.partial(_mark, idempotent=idempotent, raises=raises, asyncio=asyncio, allow=allow)
    return _mark(method, idempotent=idempotent, raises=raises, asyncio=asyncio, allow=allow)


def _mark(method: object, *, idempotent: bool, raises: Any, asyncio: bool, allow: Any) -> Callable[..., Any]:
    if not isinstance(method, types.FunctionType):
        raise ConfigError(f"rpc: {method!r} is not a method written with def")
    name = method.__qualname__
    for option, value in (("idempotent", idempotent), ("asyncio", asyncio)):
        if not isinstance(value, bool):
            raise ConfigError(f"rpc: {option} = {value!r} of {name}: must be True or False")
    if not isinstance(raises, (list, tuple)) or not all(map(_is_declarable, raises)):
        raise ConfigError(f"rpc: raises = {raises!r} of {name}: must be a list of subclasses of ApplicationError")
    try:
        selector = None if allow is None else Selector.parse(allow)
    except ConfigError as error:
        raise ConfigError(f"rpc: allow of {name}: {error}") from None
    setattr(method, _MARK, Mark(idempotent, tuple(raises), asyncio, selector))
    return direct(method)


def _is_declarable(error: object) -> bool:
    return isinstance(error, type) and issubclass(error, ApplicationError) and error is not ApplicationError


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
    if not is_ours(cls) or chosen != f"{BUILTIN_PREFIX}{cls.__name__}":
        check_name(chosen, f"service {cls.__name__}: name")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ConfigError(f"service {cls.__name__}: version = {version!r}: must be a whole number from 1")
    marked = _marked_methods(cls)
    if not marked:
        raise ConfigError(f"service {cls.__name__}: no method is marked with @rpcnet.rpc")
    methods = {method: define(cls, chosen, method, *marked[method]) for method in sorted(marked)}
    for method, definition in methods.items():
        member, _ = marked[method]
        if written(member) is member:  # an override without a mark of its own is called as what it overrides
            seen = direct(member, streams=definition.shape.streams_results)
            if seen is not member:
                setattr(cls, method, seen)
    setattr(cls, _DEFINITION, ServiceDefinition(chosen, version, types.MappingProxyType(methods), cls))
    return cls


def definition_of(service: object) -> ServiceDefinition:
    """Return the definition of a service class, or of the class of a service object.

    A class that implements a contract and is not decorated itself has the contract's definition, with the kinds of its
    own methods.

    Raises:
        ConfigError: neither the class nor a class it derives from is decorated with :func:`service`, or it overrides
            a method of the contract with something that does not fit.
    """
    cls = service if isinstance(service, type) else type(service)
    definition = getattr(cls, _DEFINITION, None)
    if not isinstance(definition, ServiceDefinition):
        raise ConfigError(f"{cls.__name__} is not a service: decorate the class with @rpcnet.service")
    if cls is definition.contract:
        return definition
    served = vars(cls).get(_SERVED)
    if not isinstance(served, ServiceDefinition):
        served = _served_by(cls, definition)
        setattr(cls, _SERVED, served)
    return served


def implementation_of(service: object, method: MethodDefinition) -> Callable[..., Any]:
    """Return the method of a service object as its author wrote it, bound to the object: what a server runs.

    Depending on the definition's kind and shape, calling it gives a coroutine, an async generator, an async iterator,
    or, in a thread, the result.
    """
    member = getattr(service, method.name)
    function = getattr(member, "__func__", None)
    inner = member if function is None else written(function)
    return member if inner is function or function is None else types.MethodType(inner, member.__self__)


def _served_by(cls: type, definition: ServiceDefinition) -> ServiceDefinition:
    contract = definition.contract
    below = cls.__mro__[: cls.__mro__.index(contract)]
    methods: dict[str, MethodDefinition] = {}
    for name, method in definition.methods.items():
        members = [vars(base)[name] for base in below if name in vars(base)]
        marks = [mark for mark in map(_mark_of, members) if mark is not None]
        methods[name] = check_override(cls, contract, method, marks) if members else method
    if methods == definition.methods:
        return definition
    return attrs.evolve(definition, methods=types.MappingProxyType(methods))


def _mark_of(member: object) -> Mark | None:
    mark = getattr(getattr(member, "__func__", member), _MARK, None)
    return mark if isinstance(mark, Mark) else None


def _marked_methods(cls: type) -> dict[str, tuple[types.FunctionType, Mark]]:
    """Return what the class defines under each marked name; an override keeps the mark of what it overrides."""
    marks: dict[str, Mark] = {}
    defined: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, member in vars(base).items():
            mark = _mark_of(member)
            if mark is not None:
                before = marks.get(name)
                marks[name] = attrs.evolve(mark, allow=both(before.allow, mark.allow)) if before else mark
            if name in marks:
                defined[name] = member
    for name, member in defined.items():
        if not isinstance(member, types.FunctionType):
            raise ConfigError(f"{cls.__name__}.{name}: an rpc must be a plain method, not {type(member).__name__}")
    return {name: (defined[name], mark) for name, mark in marks.items()}
