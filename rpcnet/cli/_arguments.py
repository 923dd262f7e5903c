"""The arguments of a call, from ``key=value`` words and a JSON text to the array that travels.

The rules of this file:

* Arguments travel by position, without the one that is a stream. Trailing ones that are not given are not sent, so that
  the node's own defaults apply; a gap before one that is given is filled with the default that the node told.
* A mistake names the method, the parameter, and what is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rpcnet._core.schema import ABSENT, FieldDescription, MethodDescription

from ._description import show
from ._schema_text import signature
from ._values import Misfit, Values, read_json

__all__ = ["arguments"]


def arguments(method: MethodDescription, values: Values, words: Sequence[str], data: str | None = None) -> list[Any]:
    """Return the arguments of a call, as they travel.

    Args:
        method: what is called.
        values: values of its types.
        words: each ``key=value``.
        data: JSON: an object by name or an array by position.

    Raises:
        Misfit: they do not fit the method; the message names method and parameter.
    """
    try:
        given = {} if data is None else _from_data(data, values, method)
        _add_words(given, words, values, method)
        return _in_order(given, method.parameters)
    except Misfit as misfit:
        raise Misfit(f"{method.full_name}: {misfit}") from None


def _add_words(given: dict[str, Any], words: Sequence[str], values: Values, method: MethodDescription) -> None:
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise Misfit(f"{word!r}: write key=value")
        if name in given:
            raise Misfit("is given twice", f".{name}")
        given[name] = _converted(values.from_text, text, name, method)


def _from_data(data: str, values: Values, method: MethodDescription) -> dict[str, Any]:
    found = read_json(data)
    if isinstance(found, list):
        if len(found) > len(method.parameters):
            raise Misfit(f"takes {len(method.parameters)} arguments, got {len(found)}")
        found = {field.name: value for field, value in zip(method.parameters, found, strict=False)}
    if not isinstance(found, dict):
        raise Misfit("the data must be an object by name, or an array by position")
    return {name: _converted(values.from_json, value, name, method) for name, value in found.items()}


def _converted(convert: Any, value: Any, name: str, method: MethodDescription) -> Any:
    if method.requests is not None and name == method.requests_name:
        raise Misfit("is a stream: it comes from standard input, a JSON value per line", f".{name}")
    parameter = next((parameter for parameter in method.parameters if parameter.name == name), None)
    if parameter is None:
        raise Misfit(f"has no parameter {name!r}; it is {signature(method)}")
    try:
        return convert(value, parameter.type)
    except Misfit as misfit:
        raise misfit.inside(f".{name}") from None


def _in_order(given: dict[str, Any], parameters: Sequence[FieldDescription]) -> list[Any]:
    last = max((number for number, parameter in enumerate(parameters) if parameter.name in given), default=-1)
    ordered: list[Any] = []
    for number, parameter in enumerate(parameters):
        if parameter.name in given:
            ordered.append(given[parameter.name])
        elif parameter.required:
            raise Misfit(f"is missing: {show(parameter.type)}", f".{parameter.name}")
        elif number < last and parameter.default is ABSENT:
            raise Misfit("must be given too: its default is known to the node alone", f".{parameter.name}")
        elif number < last:
            ordered.append(parameter.default)
    return ordered
