"""Scenarios as JSON, there and back.

A scenario file holds one object with the fields of :class:`~rpcnet._simulator.scenario.Scenario`; a fault is an object
with its class under ``"kind"``, as in ``{"kind": "HostGone", "at": 5, "node": 3}``. What is left out has its default.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from cattrs import Converter, transform_error
from cattrs.errors import BaseValidationError
from cattrs.strategies import configure_tagged_union
from cattrs.v import format_exception

from rpcnet.errors import ConfigError

from .scenario import Fault, Scenario

__all__ = ["scenario_from_json", "scenario_to_json"]

MAX_JSON_BYTES = 1 << 20


def _number(value: Any, kind: type) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a number")  # noqa: TRY004 - collected as what is wrong with a file
    if kind is int and value != int(value):
        raise ValueError(f"{value!r} is not a whole number")
    return kind(value)


def _text(value: Any, _kind: type) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")  # noqa: TRY004 - as above
    return value


@cache
def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True, omit_if_default=True)
    converter.register_structure_hook(int, _number)
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook(str, _text)
    configure_tagged_union(Fault, converter, tag_name="kind")
    return converter


def scenario_from_json(text: str | bytes) -> Scenario:
    """Read a scenario.

    Raises:
        ConfigError: it is no JSON or no scenario; the text says what and where, in one line.
    """
    if len(text) > MAX_JSON_BYTES:
        raise ConfigError(f"a scenario of {len(text)} bytes, at most {MAX_JSON_BYTES} are read")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError("a scenario is a JSON object")
    try:
        return _converter().structure(data, Scenario)
    except ConfigError:
        raise
    except (BaseValidationError, KeyError, TypeError, ValueError) as error:
        raise ConfigError("; ".join(_reasons(error))) from None


def _reasons(error: BaseException) -> list[str]:
    if not isinstance(error, BaseValidationError):
        return [_reason(error, None)]
    return [reason.replace("$.", "").replace(" @ $", "") for reason in transform_error(error, format_exception=_reason)]


def _reason(error: BaseException, kind: type | None) -> str:
    match error:
        case KeyError():
            return f"{error.args[0]!r} is missing, or not one of the kinds of faults"
        case ConfigError():
            return str(error)
        case _:
            return format_exception(error, kind)


def scenario_to_json(scenario: Scenario) -> str:
    """Write a scenario, without what has its default."""
    data = _converter().unstructure(scenario, Scenario)
    return json.dumps(data, indent=2)
