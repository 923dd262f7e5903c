"""A short name for what a method is on the wire: equal where two descriptions say the same.

The rules of this file:

* What does not travel is left out: the names of methods, services, classes and enum members, and defaults. The names of
  parameters do not travel either, but stay: two parameters that change places must be noticed.
* Whatever has no order on the wire is sorted: fields, values, members of a union, errors.
* Classes are numbered as they are met, so that one may contain itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from .schema import FieldDescription, MethodDescription, TypeDescription, read_description
from .wire_forms import VALUE_KINDS, Side, mask_of

__all__ = ["schema_hash"]


def schema_hash(description: Mapping[str, Any]) -> str:
    """Return 16 hex digits that are the same wherever ``describe_method`` says the same of the wire.

    Two descriptions with equal hashes fit; two with different ones may fit, too.

    Raises:
        ValueError: it is no description of a method.
    """
    method = read_description(description)
    try:
        text = json.dumps(_Canon(method).method(), separators=(",", ":"), sort_keys=True)
    except RecursionError:
        raise ValueError("not the description of a method: it nests too deep") from None
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Canon:
    """Says a description in one way only."""

    def __init__(self, method: MethodDescription) -> None:
        self._side = Side("", method)
        self._numbers: dict[str, int] = {}

    def method(self) -> Any:
        method = self._side.method
        return {
            "shape": method.shape,
            "parameters": [[one.name, one.required, self._type(one.type)] for one in method.parameters],
            "requests": None if method.requests is None else self._type(method.requests),
            "result": self._type(method.result),
            "errors": {name: self._fields(error.fields) for name, error in sorted(method.errors.items())},
        }

    def _fields(self, fields: Iterable[FieldDescription]) -> Any:
        ordered = sorted(fields, key=lambda field: field.name)
        return [[field.name, field.required, self._type(field.type)] for field in ordered]

    def _type(self, found: TypeDescription) -> Any:
        match found.type:
            case "class":
                if found.name in self._numbers:
                    return ["class", self._numbers[found.name]]
                self._numbers[found.name] = len(self._numbers)
                return ["class", self._fields(self._side.named(found).fields)]
            case "enum" if self._side.is_flag(found):
                flag = self._side.named(found)
                return ["flag", mask_of(flag), flag.open]
            case "enum" | "literal":
                values = self._side.finite(found) or ()
                return ["one of", sorted({f"{VALUE_KINDS[type(value)]} {value!r}" for value in values})]
            case "union" if found.tags:
                members = sorted(zip(found.tags, found.items, strict=True), key=lambda pair: pair[0])
                return ["named", [[tag, self._type(member)] for tag, member in members]]
            case "union":
                members_by_kind = sorted(found.items, key=lambda member: sorted(self._side.kinds(member)))
                return ["union", list(map(self._type, members_by_kind))]
        return [found.type, *map(self._type, found.items)]
