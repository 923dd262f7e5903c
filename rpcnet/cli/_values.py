"""Values between a person and the wire: text and JSON in, JSON out, by the types of a method.

The rules of this file:

* JSON stands for what travels: bytes are base64, dates and decimals are text, a UUID is text, a class is an object, a
  set is a list, a float that is no number is ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``. Keys that are no text are
  written as JSON within the key.
* An enum is its value; its name is taken too, and for a flag ``"READ|WRITE"``. A member of a union that travels under a
  name is ``[name, value]``; the value alone is taken too where only one member fits.
* A text of the command line is JSON if that fits the type, else the text itself: ``7`` is a number where one is wanted
  and a text where one is wanted.
* What goes out must fit and is refused with the place and both sides. What came in is shown even if it does not fit:
  the node may be newer than what it told.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import decimal
import functools
import json
import math
import operator
import uuid
from collections.abc import Callable
from typing import Any

from rpcnet._core.schema import MethodDescription, TypeDescription
from rpcnet._core.wire_forms import Side

from ._description import show

__all__ = ["Misfit", "Values", "plain", "read_json"]


class Misfit(Exception):
    """A value does not fit a type; ``path`` leads to it."""

    def __init__(self, problem: str, path: str = "") -> None:
        super().__init__(problem, path)
        self.problem = problem
        self.path = path

    def inside(self, step: str) -> Misfit:
        """Return the same problem seen from one level further out."""
        return Misfit(self.problem, step + self.path)

    def __str__(self) -> str:
        """Return path and problem."""
        return f"{self.path.lstrip('.')}: {self.problem}" if self.path else self.problem


def read_json(text: str) -> Any:
    """Return what JSON holds; numbers with a point are Decimals, so that no digit is lost.

    Raises:
        Misfit: it is no JSON, or an object has a key twice.
    """
    try:
        return json.loads(text, parse_float=decimal.Decimal, object_pairs_hook=_object)
    except RecursionError:
        raise Misfit("JSON that nests too deeply") from None
    except ValueError as error:
        raise Misfit(f"no JSON: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a key twice")
    return found


def plain(value: Any) -> Any:
    """Return data from the wire as JSON can hold it, without knowing its type."""
    match value:
        case bytes():
            return base64.b64encode(value).decode()
        case float() if not math.isfinite(value):
            return _NOT_FINITE.get(str(value), "NaN")
        case list():
            return [plain(each) for each in value]
        case dict():
            return {_key_text(plain(key)): plain(each) for key, each in value.items()}
        case _:
            return value


class Values:
    """Values of the types of one method.

    Args:
        method: what the node tells of it.
    """

    def __init__(self, method: MethodDescription) -> None:
        self._side = Side("server", method)

    # --- to the wire

    def from_text(self, text: str, kind: TypeDescription) -> Any:
        """Return what a text of the command line stands for, as it travels.

        Raises:
            Misfit: neither the JSON in it nor the text itself fits.
        """
        try:
            found = read_json(text)
        except Misfit:
            return self.from_json(text, kind)
        try:
            return self.from_json(found, kind)
        except Misfit as misfit:
            try:
                return self.from_json(text, kind)
            except Misfit:
                raise misfit from None

    def from_json(self, value: Any, kind: TypeDescription) -> Any:
        """Return what JSON stands for, as it travels.

        Raises:
            Misfit: it does not fit the type.
        """
        try:
            return self._from_json(value, kind)
        except RecursionError:
            raise Misfit("a value that nests too deeply") from None

    def _from_json(self, value: Any, kind: TypeDescription) -> Any:
        match kind.type:
            case "list" | "set":
                items = _of_type(list, value, kind)
                return [_at(f"[{number}]", self._from_json, item, kind.items[0]) for number, item in enumerate(items)]
            case "tuple":
                items = _of_type(list, value, kind)
                if len(items) != len(kind.items):
                    raise Misfit(f"expected {len(kind.items)} elements, got {len(items)}")
                pairs = zip(items, kind.items, strict=True)
                return [_at(f"[{number}]", self._from_json, *pair) for number, pair in enumerate(pairs)]
            case "dict":
                key_type, value_type = kind.items
                return {
                    self._key(key, key_type): _at(f"[{key!r:.40}]", self._from_json, item, value_type)
                    for key, item in _of_type(dict, value, kind).items()
                }
            case "union":
                return self._union_from_json(value, kind)
            case "class":
                return self._class_from_json(value, kind)
            case "enum" | "literal":
                return self._choice(value, kind)
            case _:
                return _SCALARS[kind.type](value, kind)

    def _key(self, text: str, kind: TypeDescription) -> Any:
        try:
            return self._from_json(text, kind)
        except Misfit:
            return _at(f"[{text!r:.40}]", self.from_text, text, kind)

    def _class_from_json(self, value: Any, kind: TypeDescription) -> dict[str, Any]:
        found = _of_type(dict, value, kind)
        fields = {field.name: field for field in self._side.named(kind).fields}
        for name in found:
            if name not in fields:
                raise Misfit(f"{kind.name} has no field {name!r}; it has {', '.join(fields) or 'none'}")
        for name, field in fields.items():
            if field.required and name not in found:
                raise Misfit(f"{kind.name} needs the field {name!r}: {show(field.type)}")
        return {name: _at(f".{name}", self._from_json, item, fields[name].type) for name, item in found.items()}

    def _choice(self, value: Any, kind: TypeDescription) -> Any:
        if self._side.is_flag(kind):
            return self._flag(value, kind)
        members = self._side.finite(kind) or ()
        for member in members:
            written = plain(member)
            if type(written) is type(value) and written == value:
                return member
        if isinstance(value, str) and kind.name and value in self._side.named(kind).values:
            return self._side.named(kind).values[value]
        choices = ", ".join(json.dumps(plain(member)) for member in members)
        raise Misfit(f"expected {show(kind)}, one of {choices}, got {_got(value)}")

    def _flag(self, value: Any, kind: TypeDescription) -> int:
        names = self._side.named(kind).values
        total = value
        if isinstance(value, str):
            bits = [names.get(word.strip()) for word in value.split("|")]
            numbers = [bit for bit in bits if isinstance(bit, int)]
            total = functools.reduce(operator.or_, numbers) if numbers and len(numbers) == len(bits) else None
        if type(total) is int and self._side.takes(kind, total):
            return total
        raise Misfit(f"expected {show(kind)}, a sum of {', '.join(names)}, got {_got(value)}")

    def _union_from_json(self, value: Any, kind: TypeDescription) -> Any:
        if not kind.tags:
            return self._first_that_fits(value, kind)
        tagged = {tag: member for tag, member in zip(kind.tags, kind.items, strict=True) if tag}
        match value:
            case None if "" in kind.tags:
                return None
            case [str() as tag, inner] if tag in tagged:
                return [tag, _at("[1]", self._from_json, inner, tagged[tag])]
        fitting = {tag: wire for tag, member in tagged.items() for wire in self._attempt(value, member)}
        if len(fitting) != 1:
            which = "fits" if fitting else "does not fit"
            raise Misfit(
                f"{_got(value)} {which} {' and '.join(fitting) or show(kind)}: write [name, value], "
                f"the name being one of {', '.join(tagged)}"
            )
        return list(*fitting.items())

    def _first_that_fits(self, value: Any, kind: TypeDescription) -> Any:
        for member in sorted(kind.items, key=lambda member: _LOOSE.index(member.type) if member.type in _LOOSE else -1):
            for wire in self._attempt(value, member):
                return wire
        raise _misfit(value, kind)

    def _attempt(self, value: Any, kind: TypeDescription) -> list[Any]:
        try:
            return [self._from_json(value, kind)]
        except Misfit:
            return []

    # --- from the wire

    def to_json(self, value: Any, kind: TypeDescription) -> Any:
        """Return data from the wire as JSON; what does not fit the type is shown as plain data."""
        if type(value) not in _WIRE_TYPES.get(kind.type, (type(value),)):
            return plain(value)
        match kind.type:
            case "uuid" if len(value) == 16:
                return str(uuid.UUID(bytes=value))
            case "list" | "set":
                return [self.to_json(item, kind.items[0]) for item in value]
            case "tuple" if len(value) == len(kind.items):
                return [self.to_json(*pair) for pair in zip(value, kind.items, strict=True)]
            case "dict":
                key_type, value_type = kind.items
                return {
                    _key_text(self.to_json(key, key_type)): self.to_json(item, value_type)
                    for key, item in value.items()
                }
            case "class":
                types = {field.name: field.type for field in self._side.named(kind).fields}
                return {
                    _key_text(plain(name)): self.to_json(item, types.get(name, _ANY)) for name, item in value.items()
                }
            case "union":
                return self._union_to_json(value, kind)
            case _:
                return plain(value)

    def _union_to_json(self, value: Any, kind: TypeDescription) -> Any:
        if kind.tags:
            match value:
                case [str() as tag, inner] if tag in kind.tags:
                    return [tag, self.to_json(inner, kind.items[kind.tags.index(tag)])]
            return plain(value)
        for member in kind.items:
            if type(value) in _WIRE_TYPES.get(member.type, ()):
                return self.to_json(value, member)
        return plain(value)


_ANY = TypeDescription("any")
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_LOOSE = ("str", "bytes", "any")
"""What is tried last for a member of a union, in this order: these take almost any text."""

_WIRE_TYPES: dict[str, tuple[type, ...]] = {
    "uuid": (bytes,),
    "bytes": (bytes,),
    "list": (list,),
    "set": (list,),
    "tuple": (list,),
    "dict": (dict,),
    "class": (dict,),
}
"""What values have become on the wire, for the forms that JSON writes in another way."""


def _at(step: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Misfit as misfit:
        raise misfit.inside(step) from None


def _key_text(key: Any) -> str:
    return key if isinstance(key, str) else json.dumps(key)


def _got(value: Any) -> str:
    return {dict: "an object", list: "a list", type(None): "null", decimal.Decimal: f"{value}"}.get(
        type(value), f"{json.dumps(value, default=str):.60}"
    )


def _misfit(value: Any, kind: TypeDescription) -> Misfit:
    return Misfit(f"expected {show(kind)}, got {_got(value)}")


def _of_type(wanted: type, value: Any, kind: TypeDescription) -> Any:
    if type(value) is not wanted:
        raise _misfit(value, kind)
    return value


def _float(value: Any, kind: TypeDescription) -> float:
    if isinstance(value, str) and value in _NOT_FINITE.values():
        return float(value)
    if type(value) not in (int, float, decimal.Decimal):
        raise _misfit(value, kind)
    try:
        return float(value)
    except OverflowError:
        raise Misfit("expected float, got an int that is too large for one") from None


def _decimal(value: Any, kind: TypeDescription) -> str:
    if type(value) not in (int, str, decimal.Decimal):
        raise _misfit(value, kind)
    return str(decimal.Decimal(value))


def _bytes(value: Any, kind: TypeDescription) -> bytes:
    try:
        return base64.b64decode(_of_type(str, value, kind), validate=True)
    except binascii.Error:
        raise Misfit(f"expected bytes in base64, got {_got(value)}") from None


def _any(value: Any, _: TypeDescription) -> Any:
    match value:
        case decimal.Decimal():
            return float(value)
        case list():
            return [_any(item, _ANY) for item in value]
        case dict():
            return {key: _any(item, _ANY) for key, item in value.items()}
        case _:
            return value


def _exactly(wanted: type) -> Callable[[Any, TypeDescription], Any]:
    return lambda value, kind: _of_type(wanted, value, kind)


def _read_with(read: Callable[[Any, TypeDescription], Any]) -> Callable[[Any, TypeDescription], Any]:
    def convert(value: Any, kind: TypeDescription) -> Any:
        try:
            return read(value, kind)
        except (ValueError, ArithmeticError):
            raise _misfit(value, kind) from None

    return convert


_SCALARS: dict[str, Callable[[Any, TypeDescription], Any]] = {
    "any": _any,
    "none": _exactly(type(None)),
    "bool": _exactly(bool),
    "int": _exactly(int),
    "float": _float,
    "str": _exactly(str),
    "bytes": _bytes,
    "datetime": _read_with(lambda value, kind: dt.datetime.fromisoformat(_of_type(str, value, kind)).isoformat()),
    "date": _read_with(lambda value, kind: dt.date.fromisoformat(_of_type(str, value, kind)).isoformat()),
    "decimal": _read_with(_decimal),
    "uuid": _read_with(lambda value, kind: uuid.UUID(_of_type(str, value, kind)).bytes),
}
