"""Which annotations a service may use, and what each of them is made of.

The rules of this file:

* A value crosses the wire as its annotation says, so an annotation that does not say enough is refused when the
  service is declared, with the name of the place that holds it.
* :func:`describe` looks at one level. :func:`check_annotation` and :func:`parts` follow it down, also through classes
  that contain themselves.
* The members of a union must have different Python types, because that is how a value finds its member.
* A stream is not a value: it stands alone, as one parameter or as the result, and its items are values.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime as dt
import decimal
import enum
import types
import typing
import uuid
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from .errors import ConfigError

__all__ = [
    "LEAF_TYPES",
    "PLAIN_TYPES",
    "Description",
    "Form",
    "Unsupported",
    "check_annotation",
    "class_fields",
    "describe",
    "is_stream",
    "parts",
    "runtime_types",
    "show",
    "stream_item",
    "strip",
    "union_tags",
    "wire_types",
]


class Form(enum.Enum):
    """What kind of annotation it is."""

    ANY = "any"
    """Plain data: None, bool, int, float, str, bytes, and lists and dicts of these."""
    PLAIN = "plain"
    """One of None, bool, int, float, str, bytes."""
    LEAF = "leaf"
    """One of datetime, date, Decimal, UUID."""
    ENUM = "enum"
    LITERAL = "literal"
    CLASS = "class"
    """An attrs class or a dataclass."""
    LIST = "list"
    """A list, or any sequence that is sent as one."""
    SET = "set"
    TUPLE = "tuple"
    """A tuple of fixed length."""
    RUN = "run"
    """A tuple of any length with elements of one type."""
    DICT = "dict"
    """A dict, or any mapping that is sent as one."""
    UNION = "union"


@attrs.frozen
class Description:
    """One level of an annotation."""

    form: Form
    """What kind of annotation it is."""
    type: Any
    """The runtime type of its values; for LITERAL and UNION the annotation itself."""
    arguments: tuple[Any, ...] = ()
    """Elements, key and value, members, or the values of a Literal."""


class Unsupported(Exception):
    """An annotation that a service cannot use; the message is the rule.

    It leaves the package as a ConfigError, which adds the place.
    """


PLAIN_TYPES: tuple[type, ...] = (type(None), bool, int, float, str, bytes)
LEAF_TYPES: tuple[type, ...] = (dt.datetime, dt.date, decimal.Decimal, uuid.UUID)

_CONTAINERS: dict[Any, tuple[Form, type, int]] = {
    list: (Form.LIST, list, 1),
    collections.abc.Sequence: (Form.LIST, collections.abc.Sequence, 1),
    set: (Form.SET, set, 1),
    frozenset: (Form.SET, frozenset, 1),
    dict: (Form.DICT, dict, 2),
    collections.abc.Mapping: (Form.DICT, collections.abc.Mapping, 2),
}

_KEY_FORMS = (Form.PLAIN, Form.LEAF, Form.ENUM, Form.LITERAL)


def strip(annotation: Any) -> Any:
    """Return what stands behind NewType, Annotated and a ``type`` alias."""
    while True:
        if annotation is None:
            return type(None)
        if isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif typing.get_origin(annotation) is typing.Annotated:
            annotation = annotation.__origin__
        elif type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        else:
            return annotation


_STREAMS = (collections.abc.AsyncIterator, collections.abc.AsyncIterable, collections.abc.AsyncGenerator)


def is_stream(annotation: Any) -> bool:
    """Return whether an annotation is an async iterator, iterable or generator, whether or not it says of what."""
    annotation = strip(annotation)
    return (typing.get_origin(annotation) or annotation) in _STREAMS


def stream_item(annotation: Any, where: str) -> Any:
    """Return the annotation of a stream's items.

    Raises:
        ConfigError: it does not say what the items are, or is a generator that takes something.
    """
    stripped = strip(annotation)
    arguments = typing.get_args(stripped)
    if not arguments:
        raise ConfigError(f"{where}: {show(annotation)} is not supported: say what it holds, as in AsyncIterator[str]")
    if len(arguments) > 1 and strip(arguments[1]) is not type(None):
        raise ConfigError(f"{where}: {show(annotation)} is not supported: a stream takes nothing; write AsyncIterator")
    return arguments[0]


def describe(annotation: Any) -> Description:
    """Describe one level of an annotation.

    Raises:
        Unsupported: the annotation says too little, or something no value on the wire can be.
    """
    annotation = strip(annotation)
    if annotation is Any:
        return Description(Form.ANY, Any)
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return _describe_union(annotation)
    if origin is typing.Literal:
        return _describe_literal(annotation)
    if origin is tuple:
        return _describe_tuple(annotation)
    if origin in _CONTAINERS:
        form, runtime, _ = _CONTAINERS[origin]
        return Description(form, runtime, typing.get_args(annotation))
    if is_stream(annotation):
        raise Unsupported("a stream stands alone, as one parameter or as the result")
    if origin is not None:
        raise Unsupported("generic types other than list, set, frozenset, tuple, dict, Sequence, Mapping do not travel")
    if isinstance(annotation, type):
        return _describe_class(annotation)
    raise Unsupported("it is not a type whose values can travel")


def _describe_class(cls: type) -> Description:
    if cls in PLAIN_TYPES:
        return Description(Form.PLAIN, cls)
    if cls in LEAF_TYPES:
        return Description(Form.LEAF, cls)
    if cls in _CONTAINERS or cls is tuple:
        raise Unsupported(f"say what it holds, as in {cls.__name__}[{', '.join(['str'] * _arity(cls))}]")
    if issubclass(cls, enum.Enum):
        return _describe_enum(cls)
    if attrs.has(cls) or dataclasses.is_dataclass(cls):
        if getattr(cls, "__parameters__", ()):
            raise Unsupported("generic classes do not travel")
        return Description(Form.CLASS, cls)
    if typing.is_typeddict(cls) or (issubclass(cls, tuple) and hasattr(cls, "_fields")):
        raise Unsupported("write it as an attrs class or a dataclass")
    raise Unsupported("of classes, only attrs classes, dataclasses and enums travel")


def _arity(cls: Any) -> int:
    return _CONTAINERS[cls][2] if cls in _CONTAINERS else 1


def _describe_enum(cls: type[enum.Enum]) -> Description:
    members = list(cls.__members__.values())
    if not members:
        raise Unsupported("an enum needs members")
    for member in members:
        if type(member.value) not in (str, int):
            raise Unsupported(f"the value of {cls.__name__}.{member.name} must be a str or an int")
    return Description(Form.ENUM, cls)


def _describe_literal(annotation: Any) -> Description:
    values = typing.get_args(annotation)
    for value in values:
        if type(value) not in PLAIN_TYPES:
            raise Unsupported(f"a Literal holds None, bool, int, str or bytes, not {value!r}")
    return Description(Form.LITERAL, annotation, values)


def _describe_tuple(annotation: Any) -> Description:
    arguments = typing.get_args(annotation)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return Description(Form.RUN, tuple, arguments[:1])
    return Description(Form.TUPLE, tuple, arguments)


def _describe_union(annotation: Any) -> Description:
    members = tuple(strip(member) for member in typing.get_args(annotation))
    if Any in members:
        return Description(Form.ANY, Any)
    flat: list[Any] = []
    for member in members:
        inner = describe(member)
        if inner.form is Form.ANY:
            return inner
        flat.extend(inner.arguments if inner.form is Form.UNION else [member])
    claimed: dict[type, Any] = {}
    for member in flat:
        for runtime in runtime_types(member):
            if runtime in claimed:
                other = claimed[runtime]
                raise Unsupported(f"{show(other)} and {show(member)} cannot be told apart: both are {runtime.__name__}")
            claimed[runtime] = member
    tags = union_tags(flat)
    if len(set(tags.values())) < len(tags):
        raise Unsupported("two of its members have the same name")
    return Description(Form.UNION, annotation, tuple(flat))


def union_tags(members: Sequence[Any]) -> dict[Any, str]:
    """Return the name that each member of a union travels under; empty when CBOR's own types tell them apart."""
    kinds = [kind for member in members for kind in wire_types(member)]
    if len(kinds) == len(set(kinds)):
        return {}
    named = [member for member in members if member is not type(None)]
    return {member: getattr(describe(member).type, "__name__", "Literal") for member in named}


def wire_types(annotation: Any) -> tuple[type, ...]:
    """Return the types that values of an annotation have between packing and unpacking."""
    described = describe(annotation)
    match described.form:
        case Form.PLAIN:
            return (described.type,)
        case Form.LEAF:
            return (bytes,) if described.type is uuid.UUID else (str,)
        case Form.ENUM:
            return tuple({type(member.value): None for member in described.type.__members__.values()})
        case Form.LITERAL:
            return runtime_types(annotation)
        case Form.CLASS | Form.DICT:
            return (dict,)
        case _:
            return (list,)


def runtime_types(annotation: Any) -> tuple[type, ...]:
    """Return the exact Python types that values of a union's member have."""
    described = describe(annotation)
    if described.form is Form.LITERAL:
        return tuple({type(value): None for value in described.arguments})
    if described.type is collections.abc.Sequence:
        return (list, tuple)
    if described.type is collections.abc.Mapping:
        return (dict,)
    return (described.type,)


_FIELDS: weakref.WeakKeyDictionary[type, dict[str, Any]] = weakref.WeakKeyDictionary()


def class_fields(cls: type) -> Mapping[str, Any]:
    """Return the fields of an attrs class or dataclass that travel, with their resolved annotations.

    They are resolved once, when the class is met first: by then its module knows the names, and a class that is given
    the name of another module later keeps them.

    Raises:
        Unsupported: an annotation is missing, or names something that cannot be found.
    """
    fields = _FIELDS.get(cls)
    if fields is None:
        fields = _FIELDS[cls] = _resolved_fields(cls)
    return fields


def _resolved_fields(cls: type) -> dict[str, Any]:
    try:
        hints = typing.get_type_hints(cls)
        if attrs.has(cls):
            attrs.resolve_types(cls)  # for cattrs, which would do it later
    except NameError as error:
        raise Unsupported(f"{cls.__name__} names {error.name!r}, which is not defined at module level") from None
    found = attrs.fields(cls) if attrs.has(cls) else dataclasses.fields(cls)
    fields: dict[str, Any] = {}
    for field in found:
        if field.init:
            if field.name not in hints:
                raise Unsupported(f"{cls.__name__}.{field.name} has no annotation")
            fields[field.name] = hints[field.name]
    return fields


def show(annotation: Any) -> str:
    """Return an annotation as a person would write it."""
    if annotation is type(None):
        return "None"
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("collections.abc.", "")


def parts(annotation: Any) -> Iterator[Description]:
    """Yield the description of an annotation and of everything in it, each class once.

    Raises:
        Unsupported: something in it is not supported.
    """
    for _, described in _walk("", annotation, {}):
        yield described


def check_annotation(annotation: Any, where: str) -> None:
    """Refuse an annotation that a service cannot use.

    Args:
        annotation: the annotation, already resolved from its string.
        where: the place for the message, as in ``"Printing.submit: parameter 'job'"``.

    Raises:
        ConfigError: names the place, the part of the annotation, and the rule.
    """
    for _ in _walk(where, annotation, {}):
        pass


def _walk(where: str, annotation: Any, seen: dict[Any, None]) -> Iterator[tuple[str, Description]]:
    try:
        described = describe(annotation)
        fields = class_fields(described.type) if described.form is Form.CLASS and described.type not in seen else {}
    except Unsupported as error:
        raise ConfigError(f"{where}: {show(annotation)} is not supported: {error}") from None
    yield where, described
    if described.form is Form.CLASS:
        seen[described.type] = None
        for name, inner in fields.items():
            yield from _walk(f"{where}, field {described.type.__name__}.{name}", inner, seen)
    elif described.form is not Form.LITERAL:
        if described.form is Form.DICT:
            _check_key(where, described.arguments[0])
        if described.form is Form.SET:
            _check_hashable(where, described.arguments[0])
        for inner in described.arguments:
            yield from _walk(where, inner, seen)


def _check_key(where: str, key: Any) -> None:
    try:
        form = describe(key).form
    except Unsupported:
        return  # the walk reaches it next and says why
    if form not in _KEY_FORMS or strip(key) is type(None):
        raise ConfigError(f"{where}: {show(key)} is not supported: a dict's key must be a scalar")


def _check_hashable(where: str, element: Any) -> None:
    try:
        described = describe(element)
    except Unsupported:
        return  # as above
    if described.form in (Form.TUPLE, Form.RUN, Form.UNION):
        for argument in described.arguments:
            _check_hashable(where, argument)
    elif described.form is Form.ANY or getattr(described.type, "__hash__", None) is None:
        raise ConfigError(f"{where}: {show(element)} is not supported: the elements of a set must be hashable")
