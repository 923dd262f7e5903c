"""What a service class declares, as values: services, methods, parameters.

The rules of this file:

* A definition is read from a class once, by ``_signatures.py``, and is immutable.
* The shape and the annotations are the contract and travel. The kind says how one implementation is written, and stays
  at home: a contract may be an ``async def`` and its implementation a plain ``def`` that runs in a thread.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import attrs

from .errors import ApplicationError
from .selectors import Selector

__all__ = ["BUILTIN_PREFIX", "Kind", "MethodDefinition", "Parameter", "Requirement", "ServiceDefinition", "Shape"]


BUILTIN_PREFIX = "rpcnet."
"""What the names of built-in services begin with; a user's service has no dot in its name."""


class Shape(enum.Enum):
    """How many messages go each way in one call."""

    UNARY = "unary"
    """One request, one result."""
    SERVER_STREAMING = "server streaming"
    """One request, any number of results."""
    CLIENT_STREAMING = "client streaming"
    """Any number of request items, one result."""
    BIDIRECTIONAL = "bidirectional"
    """Any number of request items, any number of results."""

    @classmethod
    def of(cls, *, requests: bool, results: bool) -> Shape:
        """Return the shape in which the request, the result or both are streams."""
        if requests:
            return cls.BIDIRECTIONAL if results else cls.CLIENT_STREAMING
        return cls.SERVER_STREAMING if results else cls.UNARY

    @property
    def streams_requests(self) -> bool:
        """Whether the caller sends a stream of items."""
        return self in (Shape.CLIENT_STREAMING, Shape.BIDIRECTIONAL)

    @property
    def streams_results(self) -> bool:
        """Whether the caller gets a stream of items."""
        return self in (Shape.SERVER_STREAMING, Shape.BIDIRECTIONAL)


class Kind(enum.Enum):
    """How a handler is written, and so where it runs."""

    ASYNC = "async"
    """An ``async def`` or an async generator, or a function that returns an async iterator: in Trio."""
    THREAD = "thread"
    """A plain ``def``: in a worker thread."""
    ASYNCIO = "asyncio"
    """An ``async def`` marked with ``@rpc(asyncio=True)``: under trio-asyncio."""


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
    """The parameters after ``self``, in order, without the one that is a stream."""
    result: Any
    """The resolved annotation of the result; of one item where results are a stream."""
    idempotent: bool
    """Whether running it twice does no harm, so that a call may be repeated."""
    kind: Kind = Kind.ASYNC
    """How the handler is written."""
    raises: tuple[type[ApplicationError], ...] = ()
    """The errors that cross the wire as themselves."""
    allow: Selector | None = None
    """What the tags of a caller must match; None if everybody may call it who may connect."""
    requests: Any | None = None
    """The resolved annotation of one item of the request stream; None if there is no such stream."""
    requests_name: str = ""
    """The name of the parameter that is a stream."""
    requests_index: int | None = None
    """Its position among the arguments."""

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

    @property
    def is_builtin(self) -> bool:
        """Whether every node serves it, so that nobody advertises it."""
        return self.name.startswith(BUILTIN_PREFIX)
