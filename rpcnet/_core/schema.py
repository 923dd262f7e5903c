"""Schemas: what a method takes and gives, as plain data that can be printed, sent and compared.

The rules of this file:

* A description says everything that decides what is on the wire, and nothing that is not needed for it: no docstrings,
  no modules, no difference between what travels in the same way, as list and Sequence do.
* Classes and enums stand under ``definitions`` by name, and types refer to them, so a class may contain itself. Two
  classes of one name get two names, the same ones in all methods of a service.
* A description is complete in itself: that of a service holds one for each method, with its own definitions.
* The same classes write descriptions and read them, also from a peer: what does not fit is refused with its place.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import attrs

from rpcnet._annotations import Description, Form, class_fields, describe, union_tags
from rpcnet.service import MethodDefinition, Parameter, Requirement, ServiceDefinition

from .conversion import Conversions
from .scalars import Mismatch

__all__ = [
    "ErrorDescription",
    "FieldDescription",
    "MethodDescription",
    "NamedDescription",
    "TypeDescription",
    "describe_method",
    "describe_service",
    "every_type",
    "literal_value",
    "read_description",
]

_MAX_DEPTH = 64
_MAX_PLACE = 120
"""Characters of what a message tells of a description that is none."""
_PARTS = {"list": 1, "set": 1, "dict": 2}
_SCALARS = ("any", "none", "bool", "int", "float", "str", "bytes", "datetime", "date", "decimal", "uuid")
_TYPES = (*_SCALARS, "literal", "enum", "class", "list", "set", "tuple", "dict", "union")


class _Absent(enum.Enum):
    ABSENT = "absent"


ABSENT = _Absent.ABSENT
"""Stands where there is no default, or none that plain data can say."""


@attrs.frozen
class TypeDescription:
    """A type, in one word and what belongs to it."""

    type: str
    """Which kind of type it is. Sets travel as lists, and so do tuples."""
    name: str = ""
    """Of an enum and of a class: its name among the definitions."""
    items: tuple[TypeDescription, ...] = ()
    """What it is made of: the elements of a list or a set, the elements of a tuple one by one, key and value of a dict,
    the members of a union."""
    tags: tuple[str, ...] = ()
    """Of a union whose members CBOR cannot tell apart: the name beside each member. An empty one is that of None, which
    travels bare."""
    values: tuple[Any, ...] = ()
    """Of a literal: what it may be; bytes as ``{"bytes": "6162"}``, a float as ``{"float": "1.5"}``."""

    def __attrs_post_init__(self) -> None:
        """Refuse a description that says too much or too little."""
        if self.type not in _TYPES:
            raise ValueError(f"no type is called {self.type!r:.60}")
        if len(self.items) != _PARTS.get(self.type, len(self.items) if self.type in ("tuple", "union") else 0):
            raise ValueError(f"{self.type} with {len(self.items)} items")
        if self.tags and len(self.tags) != len(self.items):
            raise ValueError(f"{len(self.items)} items with {len(self.tags)} tags")


@attrs.frozen
class FieldDescription:
    """A parameter of a method, or a field of a class or of an error."""

    name: str
    """Its name."""
    type: TypeDescription
    """Its type."""
    required: bool
    """Whether it must be there."""
    default: Any = ABSENT
    """What stands for it, as it would travel; absent where JSON cannot say it."""


@attrs.frozen
class NamedDescription:
    """A class or an enum."""

    kind: Literal["class", "enum", "flag"]
    """A flag is an enum whose values are sums."""
    fields: tuple[FieldDescription, ...] = ()
    """Of a class: its fields. Others are ignored by who reads it."""
    values: dict[str, int | str] = attrs.field(factory=dict)
    """Of an enum: the values by name; the values travel."""
    open: bool = False
    """Of a flag: whether it takes any number."""


@attrs.frozen
class ErrorDescription:
    """A declared error."""

    status: str
    """The name of its status."""
    fields: tuple[FieldDescription, ...] = ()
    """Its fields."""


@attrs.frozen
class MethodDescription:
    """A method."""

    name: str
    """Its name."""
    service: str
    """The name of its service."""
    shape: str
    """``unary``, ``server streaming``, ``client streaming`` or ``bidirectional``."""
    idempotent: bool
    """Whether a call may be repeated."""
    parameters: tuple[FieldDescription, ...]
    """The parameters that travel as arguments, in order."""
    result: TypeDescription
    """The type of the result, or of one item of it."""
    requests: TypeDescription | None = None
    """The type of one item of the request stream."""
    requests_name: str = ""
    """The name of the parameter that is a stream."""
    requests_index: int | None = None
    """Its position among the arguments."""
    errors: dict[str, ErrorDescription] = attrs.field(factory=dict)
    """The declared errors by name."""
    definitions: dict[str, NamedDescription] = attrs.field(factory=dict)
    """The classes and enums by name."""

    @property
    def full_name(self) -> str:
        """The name as calls give it, ``"service.method"``."""
        return f"{self.service}.{self.name}"


def describe_method(definition: MethodDefinition) -> dict[str, Any]:
    """Describe a method as plain data that JSON can hold; see :class:`MethodDescription`."""
    described: dict[str, Any] = _plain(_Describer({}).method(definition))
    return described


def describe_service(definition: ServiceDefinition) -> dict[str, Any]:
    """Describe a service as plain data: its name, its version and its methods by name."""
    names: dict[type, str] = {}
    methods = {name: _plain(_Describer(names).method(method)) for name, method in definition.methods.items()}
    return {"name": definition.name, "version": definition.version, "methods": methods}


def read_description(description: Mapping[str, Any]) -> MethodDescription:
    """Read the description of a method, which may come from a stranger.

    Raises:
        ValueError: it is no description; the message names the place.
    """
    try:
        read = _conversions().of(MethodDescription).unpack(dict(description), None)
    except Mismatch as mismatch:
        place = mismatch.path[:_MAX_PLACE] or "it"
        raise ValueError(f"not the description of a method: {place}: {mismatch.problem[:_MAX_PLACE]}") from None
    _check_names(read)
    return read  # type: ignore[no-any-return]


def _check_names(read: MethodDescription) -> None:
    for inner in every_type(read):
        if inner.type in ("class", "enum"):
            named = read.definitions.get(inner.name)
            if named is None or (named.kind == "class") is not (inner.type == "class"):
                raise ValueError(f"not the description of a method: no {inner.type} is called {inner.name!r:.60}")
        for value in inner.values:
            literal_value(value)


@functools.cache
def _conversions() -> Conversions:
    return Conversions(_MAX_DEPTH)


def every_type(method: MethodDescription) -> Iterator[TypeDescription]:
    """Yield every type in a description, also those of the definitions, with what they are made of."""
    fields = [*method.parameters]
    for error in method.errors.values():
        fields += error.fields
    for named in method.definitions.values():
        fields += named.fields
    waiting = [method.result, *(field.type for field in fields)]
    if method.requests is not None:
        waiting.append(method.requests)
    while waiting:
        found = waiting.pop()
        yield found
        waiting += found.items


def literal_value(value: Any) -> Any:
    """Return the value that a description of a literal stands for.

    Raises:
        ValueError: it stands for none.
    """
    match value:
        case {"bytes": str() as text, **others} if not others:
            return bytes.fromhex(text)
        case {"float": str() as text, **others} if not others:
            return float(text)
        case None | bool() | int() | str():
            return value
    raise ValueError(f"not the value of a literal: {value!r:.60}")


def _literal(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    return {"float": repr(value)} if isinstance(value, float) else value


def _plain(description: Any) -> Any:
    """Turn a description into plain data, without what stands there by default."""
    if attrs.has(type(description)):
        fields = ((field, getattr(description, field.name)) for field in attrs.fields(type(description)))
        return {field.name: _plain(value) for field, value in fields if value != _standing(field.default)}
    if isinstance(description, dict):
        return {name: _plain(value) for name, value in description.items()}
    return [_plain(value) for value in description] if isinstance(description, (list, tuple)) else description


def _standing(default: Any) -> Any:
    return {} if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]


class _Describer:
    """Describes one method, and collects the classes and enums that it meets; ``names`` is kept for a whole service."""

    def __init__(self, names: dict[type, str]) -> None:
        self._names = names
        self._definitions: dict[str, NamedDescription] = {}

    def method(self, definition: MethodDefinition) -> MethodDescription:
        parameters = tuple(map(self._parameter, definition.parameters))
        requests = None if definition.requests is None else self.read(definition.requests)
        result = self.read(definition.result)
        errors = {
            error.__name__: ErrorDescription(error.status.name, self._fields(error)) for error in definition.raises
        }
        return MethodDescription(
            name=definition.name,
            service=definition.service_name,
            shape=definition.shape.value,
            idempotent=definition.idempotent,
            parameters=parameters,
            result=result,
            requests=requests,
            requests_name=definition.requests_name,
            requests_index=definition.requests_index,
            errors=errors,
            definitions=self._definitions,
        )

    def read(self, annotation: Any) -> TypeDescription:
        described = describe(annotation)
        match described.form:
            case Form.ANY:
                return TypeDescription("any")
            case Form.PLAIN | Form.LEAF:
                return TypeDescription("none" if described.type is type(None) else described.type.__name__.lower())
            case Form.ENUM | Form.CLASS:
                return TypeDescription(described.form.value, name=self._named(described))
            case Form.LITERAL:
                return TypeDescription("literal", values=tuple(map(_literal, described.arguments)))
            case Form.UNION:
                return self._union(described)
            case form:
                word = "list" if form is Form.RUN else form.value
                return TypeDescription(word, items=tuple(map(self.read, described.arguments)))

    def _union(self, described: Description) -> TypeDescription:
        tags = union_tags(described.arguments)
        return TypeDescription(
            "union",
            items=tuple(map(self.read, described.arguments)),
            tags=tuple(tags.get(member, "") for member in described.arguments) if tags else (),
        )

    def _named(self, described: Description) -> str:
        cls: type = described.type
        if cls not in self._names:
            taken, number = dict.fromkeys(self._names.values()), 1
            self._names[cls] = name = cls.__name__
            while self._names[cls] in taken:
                number += 1
                self._names[cls] = f"{name}_{number}"
        name = self._names[cls]
        if name not in self._definitions:
            self._definitions[name] = NamedDescription("class")  # holds the place, for a class that contains itself
            self._definitions[name] = self._define(cls)
        return name

    def _define(self, cls: type) -> NamedDescription:
        if not issubclass(cls, enum.Enum):
            return NamedDescription("class", fields=self._fields(cls))
        values = {name: member.value for name, member in cls.__members__.items()}
        if not issubclass(cls, enum.Flag):
            return NamedDescription("enum", values=values)
        return NamedDescription("flag", values=values, open=cls._boundary_ is not enum.STRICT)  # type: ignore[attr-defined]

    def _parameter(self, parameter: Parameter) -> FieldDescription:
        default = parameter.default
        said = ABSENT if default is Requirement.REQUIRED else _default(parameter.annotation, default)
        return FieldDescription(parameter.name, self.read(parameter.annotation), parameter.is_required, said)

    def _fields(self, cls: type) -> tuple[FieldDescription, ...]:
        defaults = _defaults(cls)
        return tuple(
            FieldDescription(
                name,
                self.read(annotation),
                required=name not in defaults,
                default=_default(annotation, defaults[name]) if name in defaults else ABSENT,
            )
            for name, annotation in class_fields(cls).items()
        )


def _defaults(cls: type) -> dict[str, Any]:
    """Return the defaults of a class's fields by name; ``ABSENT`` for one that a factory makes."""
    found: dict[str, Any] = {}
    if attrs.has(cls):
        for field in attrs.fields(cls):
            if field.default is not attrs.NOTHING:
                found[field.name] = ABSENT if isinstance(field.default, attrs.Factory) else field.default  # type: ignore[arg-type]
        return found
    for other in dataclasses.fields(cls):
        if other.default is not dataclasses.MISSING:
            found[other.name] = other.default
        elif other.default_factory is not dataclasses.MISSING:
            found[other.name] = ABSENT
    return found


def _default(annotation: Any, default: Any) -> Any:
    """Return a default as it would travel; ``ABSENT`` where JSON cannot hold that."""
    try:
        packed = _conversions().of(annotation).pack(default)
    except (Mismatch, RecursionError):
        return ABSENT
    return packed if _is_json(packed) else ABSENT


def _is_json(value: Any) -> bool:
    match value:
        case None | bool() | int() | str():
            return True
        case float():
            return math.isfinite(value)
        case list() | tuple():
            return all(map(_is_json, value))
        case dict():
            return all(isinstance(key, str) and _is_json(inner) for key, inner in value.items())
    return False
