"""Conversion of single values: plain builtins, dates, numbers, enums, literals, and plain data of any shape.

The rules of this file:

* Nothing is coerced. The one exception is the one of the type system: an int is good for a float.
* datetime, date and Decimal are text, UUID is 16 bytes, enums are their values.
* A mismatch says which type arrived and never which value, unless the value is a name that the peer chose from a list.
* Packing functions take ``(value)``, unpacking functions ``(value, type)``: these are cattrs' signatures. The second
  argument is not looked at.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import uuid
from collections.abc import Callable
from typing import Any

import attrs

from rpcnet._annotations import PLAIN_TYPES, Description, show

__all__ = [
    "LEAVES",
    "NONE",
    "PLAIN",
    "Conversion",
    "Mismatch",
    "Pack",
    "Unpack",
    "any_conversion",
    "enum_conversion",
    "literal_conversion",
]

Pack = Callable[[Any], Any]
Unpack = Callable[[Any, Any], Any]

NONE = type(None)


class Mismatch(Exception):
    """A value is not what its annotation says; ``path`` leads to it from where the conversion began."""

    def __init__(self, problem: str, path: str = "") -> None:
        super().__init__(problem, path)
        self.problem = problem
        self.path = path

    @classmethod
    def of(cls, expected: str, value: object) -> Mismatch:
        """Say what was expected and of which type the value is; never the value itself."""
        got = "None" if value is None else type(value).__name__
        return cls(f"expected {expected}, got {got}")

    def inside(self, step: str) -> Mismatch:
        """Return the same problem seen from one level further out."""
        return Mismatch(self.problem, step + self.path)


@attrs.frozen
class Conversion:
    """How values of one annotation travel."""

    exact: frozenset[type]
    """Values of exactly these types travel as they are, both ways: nothing needs to be called for them."""
    pack: Pack
    """Turns a value into plain data, or raises Mismatch."""
    unpack: Unpack
    """Turns plain data into a value, or raises Mismatch."""


def _plain(kind: type) -> Conversion:
    name = "None" if kind is NONE else kind.__name__

    def pack(value: Any) -> Any:
        if isinstance(value, kind):
            return value
        raise Mismatch.of(name, value)

    def unpack(value: Any, _: Any) -> Any:
        if type(value) is kind:
            return value
        raise Mismatch.of(name, value)

    return Conversion(frozenset({kind}), pack, unpack)


def _int() -> Conversion:
    def pack(value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise Mismatch.of("int", value)

    return Conversion(frozenset({int}), pack, _plain(int).unpack)


def _float() -> Conversion:
    def convert(value: Any, _: Any = None) -> Any:
        if isinstance(value, float):
            return value
        if not isinstance(value, int) or isinstance(value, bool):
            raise Mismatch.of("float", value)
        try:
            return float(value)
        except OverflowError:
            raise Mismatch("expected float, got an int that is too large for one") from None

    return Conversion(frozenset({float}), convert, convert)


def _leaf(kind: type, name: str, wire: type, pack: Pack, read: Callable[[Any], Any]) -> Conversion:
    def checked_pack(value: Any) -> Any:
        if isinstance(value, kind) and not (kind is dt.date and isinstance(value, dt.datetime)):
            return pack(value)
        raise Mismatch.of(kind.__name__, value)

    def unpack(value: Any, _: Any) -> Any:
        if type(value) is not wire:
            raise Mismatch.of(name, value)
        try:
            return read(value)
        except (ValueError, ArithmeticError):
            raise Mismatch(f"expected {name}, got another {wire.__name__}") from None

    return Conversion(frozenset(), checked_pack, unpack)


PLAIN: dict[type, Conversion] = {
    **{kind: _plain(kind) for kind in (NONE, bool, str, bytes)},
    int: _int(),
    float: _float(),
}

LEAVES: dict[type, Conversion] = {
    dt.datetime: _leaf(
        dt.datetime, "datetime in ISO 8601", str, lambda value: value.isoformat(), dt.datetime.fromisoformat
    ),
    dt.date: _leaf(dt.date, "date in ISO 8601", str, lambda value: value.isoformat(), dt.date.fromisoformat),
    decimal.Decimal: _leaf(decimal.Decimal, "Decimal as text", str, str, decimal.Decimal),
    uuid.UUID: _leaf(
        uuid.UUID, "UUID as 16 bytes", bytes, lambda value: value.bytes, lambda value: uuid.UUID(bytes=value)
    ),
}


def any_conversion(max_depth: int) -> Conversion:
    def check(value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in PLAIN_TYPES:
            return value
        if kind not in (list, tuple, dict):
            raise Mismatch.of("plain data", value)
        if depth == 0:
            raise Mismatch(f"nests deeper than {max_depth} levels")
        if kind is dict:
            _check_keys(value)
        for step, inner in value.items() if kind is dict else enumerate(value):
            if type(inner) not in PLAIN_TYPES:
                try:
                    check(inner, depth - 1)
                except Mismatch as mismatch:
                    raise mismatch.inside(f"[{step!r:.40}]") from None
        return value

    return Conversion(
        frozenset(PLAIN_TYPES), lambda value: check(value, max_depth), lambda value, _: check(value, max_depth)
    )


def _check_keys(value: dict[Any, Any]) -> None:
    for key in value:
        if type(key) not in PLAIN_TYPES:
            raise Mismatch.of("a key of plain data", key)


def enum_conversion(cls: type[enum.Enum]) -> Conversion:
    wire = frozenset(type(member.value) for member in cls.__members__.values())

    def pack(value: Any) -> Any:
        if isinstance(value, cls):
            return value.value
        raise Mismatch.of(cls.__name__, value)

    def unpack(value: Any, _: Any) -> Any:
        if type(value) not in wire:
            raise Mismatch.of(f"a value of {cls.__name__}", value)
        try:
            return cls(value)
        except Exception:  # noqa: BLE001 - _missing_ is code of the user's
            raise Mismatch(f"{value!r:.60} is not a value of {cls.__name__}") from None

    return Conversion(frozenset(), pack, unpack)


def literal_conversion(described: Description) -> Conversion:
    allowed = frozenset((type(value), value) for value in described.arguments)

    def convert(value: Any, _: Any = None) -> Any:
        if type(value) in PLAIN_TYPES and (type(value), value) in allowed:
            return value
        raise Mismatch.of(show(described.type), value)

    return Conversion(frozenset(), convert, convert)
