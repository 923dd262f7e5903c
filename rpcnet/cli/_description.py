"""What a node tells of a service, as the commands use it.

The rules of this file:

* A node may be newer than this program, or hostile: what cannot be read is refused, and what is extra is ignored.
* :func:`show` writes a type as a Python annotation. That members of a union travel with names is not shown: whoever
  must write the names is told so when he has not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from rpcnet._core.schema import MethodDescription, TypeDescription, literal_value, read_description
from rpcnet.service import Shape

__all__ = ["ServiceDescription", "Unreadable", "read_method", "read_service", "show"]


class Unreadable(Exception):
    """What a node tells of itself is no description; the message says what of."""


@attrs.frozen
class ServiceDescription:
    """One service."""

    name: str
    """Its name."""
    version: int
    """The version of its contract."""
    methods: Mapping[str, MethodDescription] = attrs.field(hash=False)
    """Its methods by name."""


def read_service(told: Mapping[str, Any]) -> ServiceDescription:
    """Return the service that a node describes.

    Raises:
        Unreadable: it is no description of a service.
    """
    match told:
        case {"name": str() as name, "version": int() as version, "methods": dict() as methods}:
            return ServiceDescription(
                name, version, {method: read_method(each, f"{name}.{method}") for method, each in methods.items()}
            )
    raise Unreadable("the node's answer is no description of a service")


def read_method(told: Any, full_name: str) -> MethodDescription:
    """Return the method that a node describes.

    Raises:
        Unreadable: it is no description of that method.
    """
    try:
        read = read_description(told)
        Shape(read.shape)
    except (ValueError, TypeError) as error:
        raise Unreadable(f"what the node tells of {full_name} cannot be read: {error}") from None
    if read.full_name != full_name:
        raise Unreadable(f"the node was asked for {full_name}, and tells of {read.full_name}")
    return read


_WORDS = {"none": "None", "any": "Any", "decimal": "Decimal", "uuid": "UUID"}


def show(described: TypeDescription) -> str:
    """Return a type as an annotation."""
    items = [show(item) for item in described.items]
    match described.type:
        case "union":
            return " | ".join(items)
        case "enum" | "class":
            return described.name
        case "literal":
            return f"Literal[{', '.join(repr(literal_value(value)) for value in described.values)}]"
        case "tuple" if not items:
            return "tuple[()]"
    word = _WORDS.get(described.type, described.type)
    return f"{word}[{', '.join(items)}]" if items else word
