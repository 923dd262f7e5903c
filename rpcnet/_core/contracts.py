"""What is derived from a service's contract, made once for each class: codecs, descriptions, hashes.

The rules of this file:

* Making a stub is cheap from the second time on, so that ``node.stub(Service)`` may stand inside a loop.
* A contract is remembered as long as its class lives.
* A contract that a server has told is that server's word for word: its descriptions are those that were told.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import attrs

from rpcnet.service import ServiceDefinition

from .schema import describe_method
from .schema_hash import schema_hash
from .values import MethodCodec, compile_service

__all__ = ["Contract", "contract_of", "remember_told"]


@attrs.define(eq=False)
class Contract:
    """What is derived from one service definition."""

    definition: ServiceDefinition
    """The service as its class declares it."""
    _codecs: dict[tuple[int, int], Mapping[str, MethodCodec]] = attrs.field(factory=dict)
    _told: Mapping[str, Mapping[str, Any]] | None = None

    def codecs(self, max_depth: int, max_bytes: int) -> Mapping[str, MethodCodec]:
        """Return the codec of each method, by name."""
        key = (max_depth, max_bytes)
        found = self._codecs.get(key)
        if found is None:
            found = self._codecs[key] = compile_service(self.definition, max_depth=max_depth, max_bytes=max_bytes)
        return found

    @functools.cached_property
    def descriptions(self) -> Mapping[str, Mapping[str, Any]]:
        """The description of each method, by name."""
        if self._told is not None:
            return self._told
        return {name: describe_method(method) for name, method in self.definition.methods.items()}

    @functools.cached_property
    def hashes(self) -> Mapping[str, str]:
        """The hash of each method's description, by name."""
        return {name: schema_hash(description) for name, description in self.descriptions.items()}


_contracts: WeakKeyDictionary[type, Contract] = WeakKeyDictionary()


def contract_of(definition: ServiceDefinition) -> Contract:
    """Return what is derived from a service definition."""
    found = _contracts.get(definition.contract)
    if found is None or found.definition is not definition:
        found = _contracts[definition.contract] = Contract(definition)
    return found


def remember_told(definition: ServiceDefinition, descriptions: Mapping[str, Mapping[str, Any]]) -> None:
    """Let the contract of a definition say of its methods what a server has told of them."""
    _contracts[definition.contract] = Contract(definition, told=descriptions)
