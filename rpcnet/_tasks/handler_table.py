"""The methods that a node serves: a table from the numbers on the wire to bound handlers."""

from __future__ import annotations

from collections.abc import Sequence

from rpcnet._core.bodies import MethodEntry, ServiceEntry
from rpcnet._core.values import MethodCodec, compile_method
from rpcnet._net.server_session import IncomingCall
from rpcnet.config import RpcConfig
from rpcnet.errors import ConfigError
from rpcnet.service import MethodDefinition, Shape, definition_of, implementation_of

from .handlers import Handler
from .streaming import streaming

__all__ = ["HandlerTable"]


def _handler(service: object, method: MethodDefinition, codec: MethodCodec, config: RpcConfig) -> Handler:
    function = implementation_of(service, method)
    if method.shape is not Shape.UNARY:
        return Handler(method, codec, None, streaming(method, codec, function, config.stream_window_bytes))

    async def invoke(_: IncomingCall, arguments: list[object]) -> object:
        return await function(*arguments)

    return Handler(method, codec, function, invoke)


class HandlerTable:
    """All methods that a node serves, numbered in the order of their services.

    Args:
        services: the service objects; two with the same name raise :class:`ConfigError`.
        config: limits for values.
    """

    def __init__(self, services: Sequence[object], config: RpcConfig) -> None:
        self._handlers: list[Handler] = []
        self._entries: list[ServiceEntry] = []
        for service in services:
            self._add(service, config)

    def __len__(self) -> int:
        """Return the number of methods."""
        return len(self._handlers)

    def _add(self, service: object, config: RpcConfig) -> None:
        if isinstance(service, type):
            raise ConfigError(f"services: {service.__name__} is a class; pass an object, {service.__name__}()")
        definition = definition_of(service)
        if any(entry.name == definition.name for entry in self._entries):
            raise ConfigError(f"services: two services are named {definition.name!r}")
        methods: list[MethodEntry] = []
        for method in definition.methods.values():
            codec = compile_method(method, max_depth=config.max_depth, max_bytes=config.max_message_bytes)
            methods.append(MethodEntry(method.name, len(self._handlers), method.idempotent, method.shape))
            self._handlers.append(_handler(service, method, codec, config))
        self._entries.append(ServiceEntry(definition.name, definition.version, tuple(methods)))

    @property
    def entries(self) -> tuple[ServiceEntry, ...]:
        """The table as HELLO tells it."""
        return tuple(self._entries)

    @property
    def service_names(self) -> tuple[str, ...]:
        """The names of all services, sorted, as gossip tells them."""
        return tuple(sorted(entry.name for entry in self._entries))

    def get(self, number: int) -> Handler | None:
        """Return the handler of a method's number; None if there is no such method."""
        return self._handlers[number] if number < len(self._handlers) else None
