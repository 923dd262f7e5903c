"""Stubs: an object with a service's methods, each of which makes a call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from rpcnet._core.contracts import Contract, contract_of
from rpcnet._core.values import MethodCodec
from rpcnet.config import RpcConfig
from rpcnet.service import Shape, definition_of

from .caller import Caller, Target
from .middleware import guarded, guarded_stream
from .streams import StreamCall

__all__ = ["Stub", "TargetMaker", "caller_of", "make_stub"]


class TargetMaker(Protocol):
    """Makes the target of one method: everything but what the method itself says is the stub's."""

    def __call__(
        self, *, name: tuple[str, str], codec: MethodCodec, shape: Shape, idempotent: bool, contract: Contract
    ) -> Target:
        """Return the target."""


class Stub:
    """A typed proxy of a service; it has the service's methods and nothing else."""

    def __init__(self, service: str, methods: Mapping[str, object]) -> None:
        self.__dict__.update(methods)
        self.__service = service

    def __repr__(self) -> str:
        """Return the service's name."""
        return f"<rpcnet stub of {self.__service}>"


def make_stub(caller: Caller[Any], service: Callable[..., Any], config: RpcConfig, make_target: TargetMaker) -> Stub:
    """Return a stub whose methods call through ``caller``.

    Raises:
        ConfigError: the class is no service.
    """
    definition = definition_of(service)
    contract = contract_of(definition)
    codecs = contract.codecs(config.max_depth, config.max_message_bytes)
    methods: dict[str, object] = {}
    for method in definition.methods.values():
        target = make_target(
            name=(definition.name, method.name),
            codec=codecs[method.name],
            shape=method.shape,
            idempotent=method.idempotent,
            contract=contract,
        )
        methods[method.name] = caller_of(caller, target, config)
    return Stub(definition.name, methods)


def caller_of(caller: Caller[Any], target: Target, config: RpcConfig) -> Callable[..., Any]:
    """Return the function that makes a call of the target's shape, through the caller's middleware if it has any."""
    has_middleware = bool(caller.middleware)
    if target.shape.streams_results:
        make = functools.partial(StreamCall, caller)
        return guarded_stream(caller, target, config, make) if has_middleware else _stream_of(caller, target)
    step = caller.send_all if target.shape.streams_requests else caller.call
    return guarded(caller, target, config, step) if has_middleware else functools.partial(step, target)


def _stream_of(caller: Caller[Any], target: Target) -> Callable[..., Any]:
    def stream(*args: object, **kwargs: object) -> StreamCall[Any]:
        return StreamCall(caller, target, args, kwargs)

    return stream
