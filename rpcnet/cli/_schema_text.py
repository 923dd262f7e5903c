"""Services as text for a person: what Python code would say, without the code."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from rpcnet._core.schema import (
    ABSENT,
    FieldDescription,
    MethodDescription,
    NamedDescription,
    TypeDescription,
)
from rpcnet.service import Shape

from ._description import ServiceDescription, show

__all__ = ["service_text", "signature"]


def signature(method: MethodDescription) -> str:
    """Return a method as it is called: name, parameters, result."""
    fields = [_field(parameter) for parameter in method.parameters]
    if method.requests is not None:
        place = len(fields) if method.requests_index is None else method.requests_index
        fields.insert(place, f"{method.requests_name}: stream of {show(method.requests)}")
    result, streams = show(method.result), Shape(method.shape).streams_results
    return f"{method.name}({', '.join(fields)}) -> {f'stream of {result}' if streams else result}"


def service_text(service: ServiceDescription) -> str:
    """Return a service, with the classes, enums and errors that its methods use."""
    shown = service.methods.values()
    lines = [f"service {service.name}, version {service.version}"]
    lines += [f"  {line}" for each in shown for line in _method_lines(each)]
    seen: dict[str, None] = {}
    for each in shown:
        for definition in _definitions(each):
            seen.setdefault("\n".join(definition))
    return "\n\n".join(["\n".join(lines), *seen])


def _method_lines(method: MethodDescription) -> Iterator[str]:
    yield signature(method)
    notes = ["idempotent"] if method.idempotent else []
    notes += [f"raises {', '.join(method.errors)}"] if method.errors else []
    if notes:
        yield f"    {'; '.join(notes)}"


def _field(field: FieldDescription) -> str:
    text = f"{field.name}: {show(field.type)}"
    if field.required:
        return text
    return f"{text} = {'...' if field.default is ABSENT else json.dumps(field.default)}"


def _definitions(method: MethodDescription) -> Iterator[list[str]]:
    """Yield the lines of each class, enum and error of a method, in the order in which they come up."""
    types = [parameter.type for parameter in method.parameters]
    types += [method.result] if method.requests is None else [method.requests, method.result]
    seen: dict[str, None] = {}
    yield from _reached(method, types, seen)
    for name, error in method.errors.items():
        yield [f"error {name}, {error.status}", *_lines(error.fields)]
        yield from _reached(method, [field.type for field in error.fields], seen)


def _reached(method: MethodDescription, types: Iterable[TypeDescription], seen: dict[str, None]) -> Iterator[list[str]]:
    waiting = list(types)
    while waiting:
        found = waiting.pop(0)
        waiting[:0] = found.items
        if found.name and found.name not in seen:
            seen[found.name] = None
            definition = method.definitions[found.name]
            yield _definition_lines(found.name, definition)
            waiting += [field.type for field in definition.fields]


def _definition_lines(name: str, definition: NamedDescription) -> list[str]:
    values = [f"  {member} = {value!r}" for member, value in definition.values.items()]
    return [f"{definition.kind} {name}", *(_lines(definition.fields) if definition.kind == "class" else values)]


def _lines(fields: Iterable[FieldDescription]) -> list[str]:
    return [f"  {_field(field)}" for field in fields]
