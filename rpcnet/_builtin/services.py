"""The table of what a node serves: the services it was given, and those that every node has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import trio

from rpcnet._middleware import Middleware
from rpcnet._tasks.handler_table import HandlerTable
from rpcnet._tasks.handlers import Host
from rpcnet.config import RpcConfig

from .health import HealthBoard, HealthService
from .reflection import ReflectionService

__all__ = ["served"]


def served(
    services: Sequence[object],
    config: RpcConfig,
    host: Host,
    middleware: Iterable[Middleware[Any]],
    draining: Callable[[], trio.Event],
    *,
    more: Sequence[object] = (),
) -> tuple[HandlerTable, HealthBoard]:
    """Return the table of services with the built-in ones, and where the application says how it is.

    Args:
        services: the application's service objects.
        config: limits.
        host: who serves.
        middleware: what the calls of the application's services are run through; the built-in ones are not.
        draining: returns what is set when the node takes no new calls.
        more: built-in service objects that not every server has.

    Raises:
        ConfigError: a service is none, or two have one name.
    """
    board = HealthBoard(draining)
    builtin = [HealthService(board), ReflectionService(lambda: table.definitions)]
    table = HandlerTable([*services, *builtin, *more], config, host, middleware)
    board.know(table.service_names)
    return table, board
