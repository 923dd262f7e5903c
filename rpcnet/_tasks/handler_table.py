"""The methods that a node serves: a table from the numbers on the wire to bound handlers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio

from rpcnet._core.bodies import MethodEntry, ServiceEntry
from rpcnet._core.contracts import contract_of
from rpcnet._core.values import MethodCodec
from rpcnet._middleware import Call, Middleware, check_middleware
from rpcnet._net.server_session import IncomingCall
from rpcnet.config import RpcConfig
from rpcnet.errors import ConfigError
from rpcnet.service import (
    BUILTIN_PREFIX,
    Kind,
    MethodDefinition,
    ServiceDefinition,
    Shape,
    definition_of,
    implementation_of,
)

from .asyncio_handlers import AsyncioLoop
from .handlers import Handler, Host
from .invoking import direct, guard_of, threaded, with_middleware
from .streaming import streaming

__all__ = ["HandlerTable"]


class HandlerTable:
    """All methods that a node serves, numbered in the order of their services.

    Args:
        services: the service objects; two with the same name raise :class:`ConfigError`.
        config: limits for values and threads.
        host: who serves, for what handlers may know.
        middleware: what every call is run through, the outermost first.
    """

    def __init__(
        self, services: Sequence[object], config: RpcConfig, host: Host, middleware: Iterable[Middleware[Any]] = ()
    ) -> None:
        self._handlers: list[Handler] = []
        self._entries: list[ServiceEntry] = []
        self._definitions: list[ServiceDefinition] = []
        self._config = config
        self._host = host
        self._middleware = check_middleware(middleware)
        self._limiter = trio.CapacityLimiter(config.max_threads)
        self._asyncio: AsyncioLoop | None = None
        for service in services:
            self._add(service)

    def __len__(self) -> int:
        """Return the number of methods."""
        return len(self._handlers)

    def _add(self, service: object) -> None:
        if isinstance(service, type):
            raise ConfigError(f"services: {service.__name__} is a class; pass an object, {service.__name__}()")
        definition = definition_of(service)
        if any(entry.name == definition.name for entry in self._entries):
            raise ConfigError(f"services: two services are named {definition.name!r}")
        methods: list[MethodEntry] = []
        contract = contract_of(definition)
        codecs = contract.codecs(self._config.max_depth, self._config.max_message_bytes)
        for name, method in definition.methods.items():
            methods.append(
                MethodEntry(name, len(self._handlers), method.idempotent, method.shape, contract.hashes[name])
            )
            self._handlers.append(self._handler(service, method, codecs[name]))
        self._definitions.append(definition)
        self._entries.append(ServiceEntry(definition.name, definition.version, tuple(methods)))

    def _handler(self, service: object, method: MethodDefinition, codec: MethodCodec) -> Handler:
        function = implementation_of(service, method)
        plain: Callable[..., Any] | None = None
        if method.shape is not Shape.UNARY:
            invoke = streaming(method, codec, function, self._config.stream_window_bytes)
        elif method.kind is Kind.THREAD:
            invoke = threaded(function, self._limiter)
        elif method.kind is Kind.ASYNCIO:
            self._asyncio = self._asyncio or AsyncioLoop(method.full_name)
            invoke = self._asyncio.invoking(function)
        else:
            plain, invoke = function, direct(function)
        handler = Handler(method, codec, plain, invoke, guard_of(method, self._host))
        if not self._middleware or handler.is_builtin:
            return handler
        return with_middleware(handler, self._middleware, self.call_of)

    @property
    def contexts(self) -> tuple[AbstractAsyncContextManager[None], ...]:
        """What has to be entered before calls are served, and left after the last one."""
        return () if self._asyncio is None else (self._asyncio.open(),)

    @property
    def definitions(self) -> tuple[ServiceDefinition, ...]:
        """The services as their classes declare them."""
        return tuple(self._definitions)

    @property
    def entries(self) -> tuple[ServiceEntry, ...]:
        """The table as HELLO tells it."""
        return tuple(self._entries)

    @property
    def service_names(self) -> tuple[str, ...]:
        """The names of the services but for the built-in ones, sorted, as gossip tells them."""
        return tuple(sorted(entry.name for entry in self._entries if not entry.name.startswith(BUILTIN_PREFIX)))

    def get(self, number: int) -> Handler | None:
        """Return the handler of a method's number; None if there is no such method."""
        return self._handlers[number] if number < len(self._handlers) else None

    def call_of(self, call: IncomingCall) -> Call:
        """Return what a handler and middleware see of a call to one of these methods, the same for all who ask.

        Raises:
            InvalidArgument: its metadata is malformed.
            ResourceExhausted: its metadata is too large.
        """
        seen = call.context
        if not isinstance(seen, Call):
            seen = call.context = self._host.call_of(call, self._handlers[call.number])
        return seen
