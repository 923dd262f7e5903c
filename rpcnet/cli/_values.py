"""Values between a person and the wire: text and JSON in, JSON out, by the types of a service.

The rules of this file:

* JSON stands for what travels: bytes are base64, dates and decimals are text, a UUID is text, a class is an object, a
  set is a list, a float that is no number is ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``. Keys that are no text are
  written as JSON within the key.
* An enum is its value; its name is taken too. A member of a union that travels under a name is ``[name, value]``; the
  value alone is taken too where only one member fits.
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
import json
import math
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from ._types import Class, Form, Type, show

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
    """Values of the types of one service.

    Args:
        classes: the service's classes, by name.
    """

    def __init__(self, classes: Mapping[str, Class]) -> None:
        self._classes = classes

    # --- to the wire

    def from_text(self, text: str, kind: Type) -> Any:
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

    def from_json(self, value: Any, kind: Type) -> Any:
        """Return what JSON stands for, as it travels.

        Raises:
            Misfit: it does not fit the type.
        """
        try:
            return self._from_json(value, kind)
        except RecursionError:
            raise Misfit("a value that nests too deeply") from None

    def _from_json(self, value: Any, kind: Type) -> Any:
        match kind.form:
            case Form.LIST | Form.SET:
                items = _of_type(list, value, kind)
                return [_at(f"[{number}]", self._from_json, item, kind.parts[0]) for number, item in enumerate(items)]
            case Form.TUPLE:
                items = _of_type(list, value, kind)
                if len(items) != len(kind.parts):
                    raise Misfit(f"expected {len(kind.parts)} elements, got {len(items)}")
                pairs = zip(items, kind.parts, strict=True)
                return [_at(f"[{number}]", self._from_json, *pair) for number, pair in enumerate(pairs)]
            case Form.DICT:
                key_type, value_type = kind.parts
                return {
                    self._key(key, key_type): _at(f"[{key!r:.40}]", self._from_json, item, value_type)
                    for key, item in _of_type(dict, value, kind).items()
                }
            case Form.UNION:
                return self._union_from_json(value, kind)
            case Form.CLASS:
                return self._class_from_json(value, kind)
            case Form.ENUM | Form.LITERAL:
                return _choice(value, kind)
            case _:
                return _SCALARS[kind.form](value, kind)

    def _key(self, text: str, kind: Type) -> Any:
        try:
            return self._from_json(text, kind)
        except Misfit:
            return _at(f"[{text!r:.40}]", self.from_text, text, kind)

    def _class_from_json(self, value: Any, kind: Type) -> dict[str, Any]:
        found = _of_type(dict, value, kind)
        fields = {field.name: field for field in self._classes[kind.name].fields}
        for name in found:
            if name not in fields:
                raise Misfit(f"{kind.name} has no field {name!r}; it has {', '.join(fields) or 'none'}")
        for name, field in fields.items():
            if field.is_required and name not in found:
                raise Misfit(f"{kind.name} needs the field {name!r}: {show(field.type)}")
        return {name: _at(f".{name}", self._from_json, item, fields[name].type) for name, item in found.items()}

    def _union_from_json(self, value: Any, kind: Type) -> Any:
        if not kind.tags:
            return self._first_that_fits(value, kind)
        tagged = {tag: member for tag, member in zip(kind.tags, kind.parts, strict=True) if tag}
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

    def _first_that_fits(self, value: Any, kind: Type) -> Any:
        for member in sorted(kind.parts, key=lambda member: _LOOSE.index(member.form) if member.form in _LOOSE else -1):
            for wire in self._attempt(value, member):
                return wire
        raise _misfit(value, kind)

    def _attempt(self, value: Any, kind: Type) -> list[Any]:
        try:
            return [self._from_json(value, kind)]
        except Misfit:
            return []

    # --- from the wire

    def to_json(self, value: Any, kind: Type) -> Any:
        """Return data from the wire as JSON; what does not fit the type is shown as plain data."""
        if type(value) not in _WIRE_TYPES.get(kind.form, (type(value),)):
            return plain(value)
        match kind.form:
            case Form.UUID if len(value) == 16:
                return str(uuid.UUID(bytes=value))
            case Form.LIST | Form.SET:
                return [self.to_json(item, kind.parts[0]) for item in value]
            case Form.TUPLE if len(value) == len(kind.parts):
                return [self.to_json(*pair) for pair in zip(value, kind.parts, strict=True)]
            case Form.DICT:
                key_type, value_type = kind.parts
                return {
                    _key_text(self.to_json(key, key_type)): self.to_json(item, value_type)
                    for key, item in value.items()
                }
            case Form.CLASS:
                types = {field.name: field.type for field in self._classes[kind.name].fields}
                return {name: self.to_json(item, types.get(name, _ANY)) for name, item in value.items()}
            case Form.UNION:
                return self._union_to_json(value, kind)
            case _:
                return plain(value)

    def _union_to_json(self, value: Any, kind: Type) -> Any:
        if kind.tags:
            match value:
                case [str() as tag, inner] if tag in kind.tags:
                    return [tag, self.to_json(inner, kind.parts[kind.tags.index(tag)])]
            return plain(value)
        for member in kind.parts:
            if type(value) in _WIRE_TYPES.get(member.form, ()):
                return self.to_json(value, member)
        return plain(value)


_ANY = Type(Form.ANY)
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_LOOSE = (Form.STR, Form.BYTES, Form.ANY)
"""What is tried last for a member of a union, in this order: these take almost any text."""

_WIRE_TYPES: dict[Form, tuple[type, ...]] = {
    Form.UUID: (bytes,),
    Form.BYTES: (bytes,),
    Form.LIST: (list,),
    Form.SET: (list,),
    Form.TUPLE: (list,),
    Form.DICT: (dict,),
    Form.CLASS: (dict,),
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


def _misfit(value: Any, kind: Type) -> Misfit:
    return Misfit(f"expected {show(kind)}, got {_got(value)}")


def _of_type(wanted: type, value: Any, kind: Type) -> Any:
    if type(value) is not wanted:
        raise _misfit(value, kind)
    return value


def _choice(value: Any, kind: Type) -> Any:
    for _, member in kind.values:
        written = plain(member)
        if type(written) is type(value) and written == value:
            return member
    for name, member in kind.values:
        if name and name == value:
            return member
    choices = ", ".join(json.dumps(plain(member)) for _, member in kind.values)
    raise Misfit(f"expected {show(kind)}, one of {choices}, got {_got(value)}")


def _float(value: Any, kind: Type) -> float:
    if isinstance(value, str) and value in _NOT_FINITE.values():
        return float(value)
    if type(value) not in (int, float, decimal.Decimal):
        raise _misfit(value, kind)
    try:
        return float(value)
    except OverflowError:
        raise Misfit("expected float, got an int that is too large for one") from None


def _decimal(value: Any, kind: Type) -> str:
    if type(value) not in (int, str, decimal.Decimal):
        raise _misfit(value, kind)
    return str(decimal.Decimal(value))


def _bytes(value: Any, kind: Type) -> bytes:
    try:
        return base64.b64decode(_of_type(str, value, kind), validate=True)
    except binascii.Error:
        raise Misfit(f"expected bytes in base64, got {_got(value)}") from None


def _any(value: Any, _: Type) -> Any:
    match value:
        case decimal.Decimal():
            return float(value)
        case list():
            return [_any(item, _ANY) for item in value]
        case dict():
            return {key: _any(item, _ANY) for key, item in value.items()}
        case _:
            return value


def _exactly(wanted: type) -> Callable[[Any, Type], Any]:
    return lambda value, kind: _of_type(wanted, value, kind)


def _read_with(read: Callable[[Any, Type], Any]) -> Callable[[Any, Type], Any]:
    def convert(value: Any, kind: Type) -> Any:
        try:
            return read(value, kind)
        except (ValueError, ArithmeticError):
            raise _misfit(value, kind) from None

    return convert


_SCALARS: dict[Form, Callable[[Any, Type], Any]] = {
    Form.ANY: _any,
    Form.NONE: _exactly(type(None)),
    Form.BOOL: _exactly(bool),
    Form.INT: _exactly(int),
    Form.FLOAT: _float,
    Form.STR: _exactly(str),
    Form.BYTES: _bytes,
    Form.DATETIME: _read_with(lambda value, kind: dt.datetime.fromisoformat(_of_type(str, value, kind)).isoformat()),
    Form.DATE: _read_with(lambda value, kind: dt.date.fromisoformat(_of_type(str, value, kind)).isoformat()),
    Form.DECIMAL: _read_with(_decimal),
    Form.UUID: _read_with(lambda value, kind: uuid.UUID(_of_type(str, value, kind)).bytes),
}
