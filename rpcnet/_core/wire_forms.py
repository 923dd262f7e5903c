"""What the types of a description are on the wire.

The rules of this file:

* An item has a kind: one of CBOR's, as ``conversion.py`` tells them apart. A union asks the member whose kind
  it is to read an item; an int goes to a float where no member is an int.
* A type with few values is the list of these; any other is of one kind.
* A member that travels with its name is a pair of that name and the value.
"""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from .schema import MethodDescription, NamedDescription, TypeDescription, every_type, literal_value

__all__ = ["KINDS", "VALUE_KINDS", "Side", "alternatives", "flatten", "mask_of", "show", "tag_of"]

KINDS = {
    "int": "int",
    "float": "float",
    "any": "any",
    "str": "text",
    "bytes": "bytes",
    "uuid": "bytes",
    **dict.fromkeys(("datetime", "date", "decimal"), "text"),
    **dict.fromkeys(("list", "set", "tuple"), "list"),
    **dict.fromkeys(("dict", "class"), "map"),
}
VALUE_KINDS = {type(None): "none", bool: "bool", int: "int", float: "float", str: "text", bytes: "bytes"}


@attrs.frozen(eq=False)
class Side:
    """One of the two, and what its types are on the wire."""

    who: str
    """``client`` or ``server``."""
    method: MethodDescription
    """Its description."""

    def named(self, found: TypeDescription) -> NamedDescription:
        """Return the class or the enum that a type refers to."""
        return self.method.definitions[found.name]

    def is_flag(self, found: TypeDescription) -> bool:
        """Return whether a type is an enum whose values are sums."""
        return found.type == "enum" and self.named(found).kind == "flag"

    def finite(self, found: TypeDescription) -> tuple[Any, ...] | None:
        """Return all values of a type as they travel; None if they cannot be listed."""
        match found.type:
            case "none":
                return (None,)
            case "bool":
                return (False, True)
            case "literal":
                return tuple(map(literal_value, found.values))
            case "enum" if not self.is_flag(found):
                return tuple(self.named(found).values.values())
        return None

    def kinds(self, found: TypeDescription) -> list[str]:
        """Return the kinds of CBOR items that values of a type are."""
        values = self.finite(found)
        if values is not None:
            return [VALUE_KINDS[type(value)] for value in values]
        return ["int" if self.is_flag(found) else KINDS[found.type]]

    def readers(self, found: TypeDescription, kind: str) -> list[TypeDescription]:
        """Return the alternatives of a type that are asked to read an item of a kind."""
        options = alternatives(found)
        chosen = [one for one in options if kind in self.kinds(one)]
        if not chosen and kind == "int":
            return [one for one in options if one.type == "float"]
        return chosen

    def takes(self, found: TypeDescription, value: Any) -> bool:
        """Return whether a type reads one scalar."""
        return any(self._takes(one, value) for one in self.readers(found, VALUE_KINDS[type(value)]))

    def _takes(self, found: TypeDescription, value: Any) -> bool:
        values = self.finite(found)
        if values is not None:
            return any(type(value) is type(one) and value == one for one in values)
        if self.is_flag(found):
            return _flag_takes(self.named(found), value)
        parse = _PARSERS.get(found.type)
        if parse is None:
            return True
        try:
            parse(value)
        except (ValueError, ArithmeticError):
            return False
        return True

    def reads_other_keys(self) -> bool:
        """Return whether dicts with keys other than text and bytes are read, as ``values.py`` decides it."""
        return any(
            found.type == "any" or (found.type == "dict" and found.items[0].type not in ("str", "bytes"))
            for found in every_type(self.method)
        )

    def has_other_keys(self, found: TypeDescription, classes: Mapping[str, None]) -> bool:
        """Return whether values of a type hold dicts with keys other than text and bytes.

        Args:
            found: the type.
            classes: those of whom it is known, from :meth:`classes_with_other_keys`.
        """
        return any(
            (one.type == "class" and one.name in classes)
            or (one.type == "dict" and not {"text", "bytes"}.issuperset(self.kinds(one.items[0])))
            for one in flatten(found)
        )

    def classes_with_other_keys(self) -> Mapping[str, None]:
        """Return the names of the classes whose values hold such dicts, also in the classes of their fields."""
        holders: dict[str, list[str]] = {}
        waiting: list[str] = []
        for name, named in self.method.definitions.items():
            for field in named.fields:
                if self.has_other_keys(field.type, {}):
                    waiting.append(name)
                for inner in flatten(field.type):
                    if inner.type == "class":
                        holders.setdefault(inner.name, []).append(name)
        found: dict[str, None] = {}
        while waiting:
            name = waiting.pop()
            if name not in found:
                found[name] = None
                waiting += holders.get(name, ())
        return found


def flatten(found: TypeDescription) -> Iterator[TypeDescription]:
    """Yield a type and whatever it is made of, without the fields of classes."""
    waiting = [found]
    while waiting:
        one = waiting.pop()
        yield one
        waiting += one.items


def alternatives(found: TypeDescription) -> Sequence[TypeDescription]:
    """Return what a value of a type may be on the wire; what travels with a name is a pair."""
    if found.type != "union":
        return (found,)
    if not found.tags:
        return found.items
    return [
        TypeDescription("tuple", items=(TypeDescription("literal", values=(tag,)), member)) if tag else member
        for tag, member in zip(found.tags, found.items, strict=True)
    ]


def tag_of(found: TypeDescription) -> str | None:
    """Return the name with which a pair travels; None if it is none."""
    if found.type == "tuple" and len(found.items) == 2 and len(found.items[0].values) == 1:
        tag = found.items[0].values[0]
        return tag if isinstance(tag, str) else None
    return None


_PARSERS: dict[str, Callable[[Any], object]] = {
    "datetime": dt.datetime.fromisoformat,
    "date": dt.date.fromisoformat,
    "decimal": decimal.Decimal,
    "uuid": lambda value: uuid.UUID(bytes=value),
}


def mask_of(flag: NamedDescription) -> int:
    """Return the bits that a flag knows."""
    mask = 0
    for value in flag.values.values():
        mask |= value if isinstance(value, int) else 0
    return mask


def _flag_takes(flag: NamedDescription, value: int) -> bool:
    mask = mask_of(flag)
    bits = (1 << mask.bit_length()) - 1
    return flag.open or (~bits <= value <= bits and not value & (bits ^ mask))


_WORDS = {"none": "None", "any": "Any", "decimal": "Decimal", "uuid": "UUID"}


def show(found: TypeDescription) -> str:
    """Return a type as a person would write it."""
    match found.type:
        case "union":
            return " | ".join(map(show, found.items)) + (", each with its name" if found.tags else "")
        case "tuple" if tag_of(found) is not None:
            return f"{show(found.items[1])} with its name"
        case "literal":
            return f"Literal[{', '.join(repr(literal_value(value)) for value in found.values)}]"
        case "class" | "enum":
            return found.name
        case _ if found.items:
            return f"{found.type}[{', '.join(map(show, found.items))}]"
    return _WORDS.get(found.type, found.type)
