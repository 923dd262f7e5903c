"""The schema of a service as CDDL (RFC 8610), for programs in other languages and for people.

The rules of this file:

* The text says what is on the wire and no more: arguments are an array, from whose end optional ones may
  be missing; classes are maps by the names of their fields; sets are arrays; dates and decimals are text.
* Each method has a rule for its arguments and one for its result, for one item of a stream, and for each error.
* A map may hold fields that the class does not know, because who reads it ignores them.
* CDDL names are of ASCII and not those of its prelude. A name that is taken by something else gets a number.
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Iterator, Mapping
from typing import Any

from .schema import (
    FieldDescription,
    MethodDescription,
    NamedDescription,
    TypeDescription,
    literal_value,
    read_description,
)
from .wire_forms import mask_of

__all__ = ["to_cddl"]

_LETTERS = frozenset(string.ascii_letters + string.digits + "_")

_PRELUDE = (
    *("any", "uint", "nint", "int", "bstr", "bytes", "tstr", "text", "tdate", "time", "number", "biguint", "bignint"),
    *("bigint", "integer", "unsigned", "decfrac", "bigfloat", "eb64url", "eb64legacy", "eb16", "uri", "b64url"),
    *("b64legacy", "regexp", "float16", "float32", "float64", "float", "false", "true", "bool", "nil", "null"),
    "undefined",
)
"""Names that CDDL gives a meaning to, as far as Python could use them."""

_OWN = {
    "datetime": "tstr  ; ISO 8601, with an offset or without one",
    "date": "tstr  ; ISO 8601",
    "decimal": "tstr  ; the digits, as in 1.50",
    "uuid": "bstr .size 16",
    "plain": "null / bool / integer / float / tstr / bstr / [* plain] / {* plain-key => plain}",
    "plain-key": "null / bool / integer / float / tstr / bstr",
}
"""Rules of our own, for those who use them. An integer is also read where a float stands."""

_WORDS = {
    "any": "plain",
    "none": "null",
    "bool": "bool",
    "int": "integer",
    "float": "float",
    "str": "tstr",
    "bytes": "bstr",
    **{name: name for name in ("datetime", "date", "decimal", "uuid")},
}


def to_cddl(description: Mapping[str, Any]) -> str:
    """Return the schema of a service as CDDL.

    Args:
        description: what ``describe_service`` says.

    Raises:
        ValueError: it is no description of a service.
    """
    methods = description.get("methods")
    found = [read_description(method) for method in methods.values()] if isinstance(methods, Mapping) else []
    if not found:
        raise ValueError("not the description of a service: it has no methods")
    writer = _Writer()
    rules = [rule for method in found for rule in writer.method(method)]
    head = f"; service {_comment(description.get('name'))}, version {_comment(description.get('version'))}"
    return "\n".join([head, *rules, *writer.rest()]) + "\n"


def _comment(value: object) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))


class _Writer:
    """Writes the rules of one service; a class that several methods use is written once."""

    def __init__(self) -> None:
        self._taken = dict.fromkeys((*_PRELUDE, *_OWN))
        self._names: dict[str, str] = {}
        self._named: list[str] = []
        self._own: dict[str, None] = {}

    def method(self, method: MethodDescription) -> Iterator[str]:
        """Yield the rules of one method."""
        types = _MethodTypes(self, method)
        name = self.fresh(method.full_name)
        doing = f", {'idempotent' if method.idempotent else 'not idempotent'}"
        yield f"\n; {_comment(method.full_name)}, {_comment(method.shape)}{doing}"
        yield f"{name}.arguments = {types.arguments()}"
        if method.requests is not None:
            yield f"{name}.item = {types.of(method.requests)}"
        yield f"{name}.result = {types.of(method.result)}"
        for error, described in method.errors.items():
            yield f"{name}.error.{_identifier(error)} = {types.record(described.fields)}"

    def fresh(self, wanted: str) -> str:
        """Return a name that nothing has yet."""
        base = name = ".".join(map(_identifier, wanted.split(".")))
        number = 2
        while name in self._taken:
            name, number = f"{base}_{number}", number + 1
        self._taken[name] = None
        return name

    def named(self, method: MethodDescription, name: str) -> str:
        """Return the name of the rule of a class or an enum, and write that where it is new."""
        meaning = _meaning(method, name)
        if meaning not in self._names:
            self._names[meaning] = rule = self.fresh(name)
            place = len(self._named)
            self._named.append("")
            self._named[place] = f"{rule} = {_MethodTypes(self, method).definition(method.definitions[name])}"
        return self._names[meaning]

    def word(self, kind: str) -> str:
        """Return the word for a scalar type, and note what it needs."""
        word = _WORDS[kind]
        if word in _OWN:
            self._own[word] = None
            if word == "plain":
                self._own["plain-key"] = None
        return word

    def rest(self) -> Iterator[str]:
        """Yield the rules that the methods need."""
        yield from (f"\n{rule}" for rule in self._named)
        yield from (f"\n{word} = {_OWN[word]}" for word in self._own)


class _MethodTypes:
    """Writes the types of one method, whose definitions they refer to."""

    def __init__(self, writer: _Writer, method: MethodDescription) -> None:
        self._writer = writer
        self._method = method

    def arguments(self) -> str:
        """Return the array of the arguments, once for each optional one that may be left out with those behind it."""
        parameters = self._method.parameters
        entries = [f"{_identifier(one.name)}: {self.of(one.type)}" for one in parameters]
        least = sum(one.required for one in parameters)
        return "\n  / ".join(f"[{', '.join(entries[:count])}]" for count in range(least, len(entries) + 1))

    def record(self, fields: tuple[FieldDescription, ...]) -> str:
        """Return the map that a class with these fields is."""
        entries = [
            f"  {'' if field.required else '? '}{json.dumps(field.name, ensure_ascii=False)}: {self.of(field.type)},\n"
            for field in fields
        ]
        return f"{{\n{''.join(entries)}  * tstr => any,\n}}"

    def definition(self, named: NamedDescription) -> str:
        """Return what a class or an enum is."""
        if named.kind == "class":
            return self.record(named.fields)
        if named.kind == "enum":
            return " / ".join(map(_value, dict.fromkeys(named.values.values())))
        bits = (1 << mask_of(named).bit_length()) - 1
        return "integer" if named.open or not 0 < bits < 1 << 64 else f"0..{bits}"

    def of(self, found: TypeDescription) -> str:
        """Return a type as an expression."""
        items = list(map(self.of, found.items))
        match found.type:
            case "class" | "enum":
                return self._writer.named(self._method, found.name)
            case "literal":
                return " / ".join(_value(literal_value(value)) for value in found.values)
            case "list" | "set":
                return f"[* {items[0]}]"
            case "tuple":
                return f"[{', '.join(items)}]"
            case "dict":
                key = f"({items[0]})" if "/" in items[0] else items[0]
                return f"{{* {key} => {items[1]}}}"
            case "union" if found.tags:
                pairs = zip(found.tags, items, strict=True)
                return " / ".join(f"[{_value(tag)}, {item}]" if tag else item for tag, item in pairs)
            case "union":
                return " / ".join(items)
        return self._writer.word(found.type)


def _meaning(method: MethodDescription, name: str) -> str:
    """Return a text that is the same for two definitions if all that they refer to is the same."""
    reached: dict[str, str] = {}
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one in reached:
            continue
        definition = method.definitions[one]
        reached[one] = repr(definition)
        types = [field.type for field in definition.fields]
        while types:
            found = types.pop()
            types += found.items
            if found.name:
                waiting.append(found.name)
    return repr((name, reached))


def _identifier(name: str) -> str:
    plain = "".join(letter if letter in _LETTERS else f"u{ord(letter):04x}" for letter in name)
    return plain if plain and not plain[0].isdigit() else f"_{plain}"


def _value(value: Any) -> str:
    match value:
        case str():
            return json.dumps(value, ensure_ascii=False)
        case bytes():
            return f"h'{value.hex()}'"
        case float():
            return repr(value) if math.isfinite(value) else "float"
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
    return str(value) if abs(value) < 1 << 63 else "integer"
