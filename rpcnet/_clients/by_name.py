"""Calls by name, ``"service.method"``, for callers that have no contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from rpcnet._core.bodies import encode_metadata
from rpcnet._core.values import MethodCodec, compile_method
from rpcnet.config import RpcConfig
from rpcnet.errors import ConfigError
from rpcnet.selectors import Selector
from rpcnet.service import MethodDefinition, Parameter, Shape

from .caller import Target

__all__ = ["MethodsByName", "split_name"]

_MAX_CODECS = 256


def split_name(full_name: object) -> tuple[str, str]:
    """Return the names of service and method; that of a built-in service has a dot itself.

    Raises:
        ConfigError: it is no ``"service.method"``.
    """
    service, _, method = full_name.rpartition(".") if isinstance(full_name, str) else ("", "", "")
    if not service or not method:
        raise ConfigError(f"method = {full_name!r}: must be 'service.method'")
    return service, method


class MethodsByName:
    """Makes the targets of unary methods that are known by name only.

    Arguments are converted by their own classes; results are plain values, with classes as dictionaries.

    Args:
        config: limits for values.
    """

    def __init__(self, config: RpcConfig) -> None:
        self._config = config
        self._codecs: dict[object, MethodCodec] = {}

    def target(
        self,
        full_name: str,
        args: tuple[object, ...],
        *,
        where: str | Selector = "",
        node: str | None = None,
        wait_for_worker: float = 0.0,
        metadata: Mapping[str, str] | None = None,
    ) -> Target:
        """Return what a call of a method with these arguments is made to.

        Raises:
            ConfigError: the name or the selector is malformed.
        """
        service, method = split_name(full_name)
        annotations = tuple(type(arg) if attrs.has(type(arg)) else Any for arg in args)
        codec = self._codecs.get((full_name, annotations))
        if codec is None:
            if len(self._codecs) >= _MAX_CODECS:
                self._codecs.clear()
            codec = self._codecs[full_name, annotations] = self._compile(service, method, annotations)
        return Target(
            name=(service, method),
            codec=codec,
            shape=Shape.UNARY,
            idempotent=None,
            where=Selector.parse(where),
            node=node,
            wait_for_worker=wait_for_worker,
            metadata=encode_metadata(metadata or {}, self._config.max_metadata_bytes),
        )

    def _compile(self, service: str, method: str, annotations: tuple[Any, ...]) -> MethodCodec:
        parameters = tuple(Parameter(f"argument {i}", kind) for i, kind in enumerate(annotations, 1))
        definition = MethodDefinition(method, service, Shape.UNARY, parameters, Any, idempotent=False)
        return compile_method(definition, max_depth=self._config.max_depth, max_bytes=self._config.max_message_bytes)
