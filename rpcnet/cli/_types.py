"""Types of a service as the command line knows them: from what a node tells, without the classes behind it.

The rules of this file:

* A :class:`Type` says what can travel, as annotations do for the code that has them. A class is referred to by its
  name, so that it may contain itself.
* :func:`show` writes a type as a Python annotation.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import attrs

__all__ = ["NOTHING", "Absence", "Class", "Field", "Form", "Method", "Service", "Type", "show"]


class Absence(enum.Enum):
    """Stands where there is no default, or none that JSON can hold."""

    NOTHING = "nothing"


NOTHING = Absence.NOTHING


class Form(enum.Enum):
    """What kind of type it is; the value is how it is written."""

    ANY = "Any"
    NONE = "None"
    BOOL = "bool"
    INT = "int"
    FLOAT = "float"
    STR = "str"
    BYTES = "bytes"
    DATETIME = "datetime"
    DATE = "date"
    DECIMAL = "Decimal"
    UUID = "UUID"
    ENUM = "enum"
    LITERAL = "Literal"
    LIST = "list"
    SET = "set"
    TUPLE = "tuple"
    """A tuple of fixed length; one of any length is a list, as which it travels."""
    DICT = "dict"
    UNION = "|"
    CLASS = "class"


@attrs.frozen
class Type:
    """One level of a type."""

    form: Form
    """What kind it is."""
    name: str = ""
    """The name of an enum or of a class."""
    parts: tuple[Type, ...] = ()
    """The elements, key and value, or members."""
    values: tuple[tuple[str, object], ...] = ()
    """Name and value of each member of an enum; the values of a Literal, without names."""
    tags: tuple[str, ...] = ()
    """The names under which the members of a union travel, None under an empty one; nothing if they travel bare."""


@attrs.frozen
class Field:
    """A parameter of a method, or a field of a class."""

    name: str
    """Its name."""
    type: Type
    """What it holds."""
    is_required: bool = True
    """Whether it must be given."""
    default: Any = NOTHING
    """What holds otherwise, as JSON; :data:`NOTHING` if that cannot be said."""


@attrs.frozen
class Class:
    """A class whose values travel, or an error that a method declares."""

    name: str
    """Its name."""
    fields: tuple[Field, ...]
    """Its fields, in order."""


@attrs.frozen
class Method:
    """One method of a service."""

    service: str
    """The name of the service."""
    name: str
    """The name of the method."""
    parameters: tuple[Field, ...]
    """The parameters in order, without the one that is a stream."""
    result: Type
    """What it returns; what each result is, if they are a stream."""
    requests: Field | None = None
    """The parameter that is a stream, with the type of its items."""
    streams_results: bool = False
    """Whether the results are a stream."""
    is_idempotent: bool = False
    """Whether running it twice does no harm."""
    raises: tuple[str, ...] = ()
    """The names of the errors it declares."""

    @property
    def full_name(self) -> str:
        """The name as calls give it."""
        return f"{self.service}.{self.name}"


@attrs.frozen
class Service:
    """One service, with the classes that its methods use."""

    name: str
    """Its name."""
    version: int
    """The version of its contract."""
    methods: Mapping[str, Method] = attrs.field(hash=False)
    """Its methods by name."""
    classes: Mapping[str, Class] = attrs.field(factory=dict, hash=False)
    """Classes and declared errors by name."""


def show(described: Type) -> str:
    """Return a type as an annotation."""
    parts = [show(part) for part in described.parts]
    match described.form:
        case Form.UNION:
            return " | ".join(parts)
        case Form.ENUM | Form.CLASS:
            return described.name
        case Form.LITERAL:
            return f"Literal[{', '.join(repr(value) for _, value in described.values)}]"
        case Form.TUPLE if not parts:
            return "tuple[()]"
        case _:
            return f"{described.form.value}[{', '.join(parts)}]" if parts else described.form.value
