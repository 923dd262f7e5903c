"""Contracts of services whose classes are not here, made from what a server tells of a method.

The rules of this file:

* Values stay as they travel: every annotation is Any, and whoever calls knows from the description what they mean.
* The contract is the server's own, so it fits that server without a question, and is compared as any other with a
  server that has another one by now.
* Declared errors arrive as classes of their names. Code is generated for the fields of these, so what is no plain name
  makes no field: such an error arrives as its status.
"""

from __future__ import annotations

import keyword
import re
import types
from collections.abc import Mapping
from typing import Any

from rpcnet.errors import ApplicationError, ConfigError, Status
from rpcnet.service import MethodDefinition, Parameter, Requirement, ServiceDefinition, Shape

from .contracts import remember_told
from .schema import ABSENT, ErrorDescription, FieldDescription, MethodDescription, read_description

__all__ = ["described_service"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")


def described_service(description: Mapping[str, Any]) -> type:
    """Return a service class with the one method of a description, to make a stub of.

    Args:
        description: what ``describe_method`` said, at the server.

    Raises:
        ValueError: it is no description of a method.
    """
    method = read_description(description)
    definition = MethodDefinition(
        name=method.name,
        service_name=method.service,
        shape=_shape(method),
        parameters=tuple(map(_parameter, method.parameters)),
        result=Any,
        idempotent=method.idempotent,
        raises=tuple(error for name, told in method.errors.items() if (error := _error(name, told)) is not None),
        requests=None if method.requests is None else Any,
        requests_name=method.requests_name,
        requests_index=method.requests_index,
    )
    contract = type("Described", (), {"__doc__": f"The service {method.service}, as a server has described it."})
    service = ServiceDefinition(method.service, 1, types.MappingProxyType({method.name: definition}), contract)
    contract.__rpcnet_service__ = service  # type: ignore[attr-defined]
    remember_told(service, {method.name: description})
    return contract


def _shape(method: MethodDescription) -> Shape:
    shape = Shape(method.shape)
    index = method.requests_index
    has_requests = method.requests is not None and index is not None and 0 <= index <= len(method.parameters)
    if has_requests is not shape.streams_requests:
        raise ValueError(f"not the description of a method: {method.shape}, with requests = {has_requests}")
    return shape


def _parameter(field: FieldDescription) -> Parameter:
    default = None if field.default is ABSENT else field.default
    return Parameter(field.name, Any, Requirement.REQUIRED if field.required else default)


def _error(name: str, told: ErrorDescription) -> type[ApplicationError] | None:
    names = [field.name for field in told.fields]
    if told.status not in Status.__members__ or not all(map(_is_plain, (name, *names))):
        return None
    body = {"__annotations__": dict.fromkeys(names, Any), "status": Status[told.status]}
    try:
        return type(name, (ApplicationError,), body)
    except ConfigError:
        return None


def _is_plain(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and not keyword.iskeyword(name) and name != "self"
