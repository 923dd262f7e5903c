"""Checks values against CDDL: as much of RFC 8610 as the schemas of services use, on the syntax tree of cddlparser."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from cddlparser import ast, parse

PRELUDE: dict[str, Callable[[Any], bool]] = {
    "any": lambda value: True,
    "null": lambda value: value is None,
    "bool": lambda value: isinstance(value, bool),
    "true": lambda value: value is True,
    "false": lambda value: value is False,
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, float),
    "tstr": lambda value: isinstance(value, str),
    "bstr": lambda value: isinstance(value, bytes),
}


class Schema:
    """The rules of one text.

    Args:
        text: CDDL; what does not parse, or names a rule that is not there, is an error.
    """

    def __init__(self, text: str) -> None:
        self.rules: dict[str, Any] = {}
        for rule in parse(text).rules:
            assert rule.name.name not in self.rules, f"{rule.name.name} is there twice"
            assert rule.name.name not in PRELUDE
            self.rules[rule.name.name] = rule.type
        waiting: list[Any] = list(self.rules.values())
        while waiting:
            node = waiting.pop()
            waiting += node.getChildren()
            is_label = isinstance(node, ast.Memberkey) and node.hasColon
            if is_label:
                waiting.remove(node.type)
            if isinstance(node, ast.Typename):
                assert node.name in self.rules or node.name in PRELUDE, f"no rule {node.name}"

    def matches(self, rule: str, value: Any) -> bool:
        """Return whether a value is what a rule says."""
        return self._matches(self.rules[rule], value)

    def _matches(self, node: Any, value: Any) -> bool:
        match node:
            case ast.Type():
                return any(self._matches(one, value) for one in node.types)
            case ast.Array():
                return isinstance(value, list) and self._array(_entries(node), value)
            case ast.Map():
                return isinstance(value, dict) and self._map(_entries(node), value)
            case ast.Group():  # parentheses around a choice
                return self._matches(_entries(node)[0].type, value)
            case ast.Typename():
                rule = self.rules.get(node.name)
                return PRELUDE[node.name](value) if rule is None else self._matches(rule, value)
            case ast.Value():
                said = _value(node)
                return type(said) is type(value) and bool(said == value)
            case ast.Range():
                return type(value) is int and _value(node.min) <= value <= _value(node.max)
            case ast.Operator():
                assert node.name.literal == "size"
                return self._matches(node.type, value) and len(value) == _value(node.controller)
        raise NotImplementedError(type(node).__name__)

    def _array(self, entries: list[Any], values: list[Any]) -> bool:
        if len(entries) == 1 and entries[0].occurrence is not None:
            return all(self._matches(entries[0].type, value) for value in values)
        assert not any(entry.occurrence for entry in entries)
        return len(entries) == len(values) and all(
            self._matches(entry.type, value) for entry, value in zip(entries, values, strict=True)
        )

    def _map(self, entries: list[Any], found: dict[Any, Any]) -> bool:
        left = dict(found)
        for entry in entries:
            if entry.key.hasColon:  # a member with this key, which nothing else may match then
                key = _value(entry.key.type)
                if key not in left:
                    if entry.occurrence is None:
                        return False
                elif not self._matches(entry.type, left.pop(key)):
                    return False
            else:
                assert entry.occurrence.n == 0
                left = {
                    key: value
                    for key, value in left.items()
                    if not (self._matches(entry.key.type, key) and self._matches(entry.type, value))
                }
        return not left


def _entries(group: Any) -> list[Any]:
    assert len(group.groupChoices) <= 1
    return [entry for choice in group.groupChoices for entry in choice.groupEntries]


def _value(node: Any) -> Any:
    match node.type:
        case "text":
            return json.loads(f'"{node.value}"')
        case "hex":
            return bytes.fromhex(node.value)
        case "number":
            return float(node.value) if set(node.value) & set(".e") else int(node.value)
    raise NotImplementedError(node.type)
