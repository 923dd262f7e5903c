"""What a node tells of the services that it serves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rpcnet._builtin_contracts import Reflection, ServiceSummary
from rpcnet._core.contracts import contract_of
from rpcnet._core.schema import describe_service
from rpcnet.errors import NotFound
from rpcnet.service import ServiceDefinition, rpc

__all__ = ["ReflectionService"]


class ReflectionService(Reflection):
    """What every node serves as ``rpcnet.Reflection``.

    Args:
        served: says what the node serves.
    """

    def __init__(self, served: Callable[[], Iterable[ServiceDefinition]]) -> None:
        self._served = served

    @property
    def _definitions(self) -> dict[str, ServiceDefinition]:
        return {definition.name: definition for definition in self._served()}

    @rpc(idempotent=True)
    async def services(self) -> list[ServiceSummary]:
        """Return all services, sorted by name."""
        found = sorted(self._definitions.values(), key=lambda definition: definition.name)
        return [ServiceSummary(each.name, each.version, sorted(each.methods)) for each in found]

    @rpc(idempotent=True)
    async def describe(self, name: str) -> dict[str, Any]:
        """Return the description of a service or a method."""
        definition = self._definitions.get(name)
        if definition is not None:
            return describe_service(definition)
        service_name, _, method = name.rpartition(".")
        definition = self._definitions.get(service_name)
        if definition is None or method not in definition.methods:
            raise NotFound(f"nothing called {name!r} is served here; there is: {', '.join(sorted(self._definitions))}")
        return dict(contract_of(definition).descriptions[method])
