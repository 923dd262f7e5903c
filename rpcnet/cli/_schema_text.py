"""Services as text for a person: what Python code would say, without the code."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ._types import NOTHING, Class, Field, Form, Method, Service, Type, show

__all__ = ["service_text", "signature"]


def signature(method: Method) -> str:
    """Return a method as it is called: name, parameters, result."""
    fields = [_field(parameter) for parameter in method.parameters]
    if method.requests is not None:
        fields.append(f"{method.requests.name}: stream of {show(method.requests.type)}")
    result = show(method.result)
    return f"{method.name}({', '.join(fields)}) -> {f'stream of {result}' if method.streams_results else result}"


def service_text(service: Service, method: str | None = None) -> str:
    """Return a service, or one method of it, with the classes and enums that are used.

    Args:
        service: the service.
        method: the name of the one method to show.
    """
    shown = [found for name, found in service.methods.items() if method in (None, name)]
    lines = [f"service {service.name}, version {service.version}"]
    lines += [f"  {line}" for each in shown for line in _method_lines(each)]
    for definition in _definitions(service, shown):
        lines += ["", *definition]
    return "\n".join(lines)


def _method_lines(method: Method) -> Iterator[str]:
    yield signature(method)
    notes = ["idempotent"] if method.is_idempotent else []
    notes += [f"raises {', '.join(method.raises)}"] if method.raises else []
    if notes:
        yield f"    {'; '.join(notes)}"


def _field(field: Field) -> str:
    text = f"{field.name}: {show(field.type)}"
    if field.is_required:
        return text
    return f"{text} = {'...' if field.default is NOTHING else json.dumps(field.default)}"


def _definitions(service: Service, methods: list[Method]) -> Iterator[list[str]]:
    """Yield the lines of each class and enum that the methods use, in the order in which they come up."""
    waiting = [found for method in methods for found in _types_of(method)]
    seen: set[str] = set()
    while waiting:
        found = waiting.pop(0)
        waiting[:0] = found.parts
        if found.form not in (Form.CLASS, Form.ENUM) or found.name in seen:
            continue
        seen.add(found.name)
        if found.form is Form.ENUM:
            yield [f"enum {found.name}", *(f"  {name} = {value!r}" for name, value in found.values)]
        else:
            definition = service.classes[found.name]
            yield _class_lines(definition)
            waiting += [field.type for field in definition.fields]


def _types_of(method: Method) -> Iterator[Type]:
    yield from (parameter.type for parameter in method.parameters)
    if method.requests is not None:
        yield method.requests.type
    yield method.result
    yield from (Type(Form.CLASS, name) for name in method.raises)


def _class_lines(definition: Class) -> list[str]:
    return [f"class {definition.name}", *(f"  {_field(field)}" for field in definition.fields)]
