"""What a node tells of the keys that it seals and opens membership datagrams with."""

from __future__ import annotations

from collections.abc import Callable

from rpcnet._builtin_contracts import KeyListing, Keys
from rpcnet._core.key_desk import KeyDesk
from rpcnet.service import rpc

__all__ = ["KeysService"]


class KeysService(Keys):
    """What every node serves as ``rpcnet.Keys``.

    Args:
        desk: returns where the node's ring is.
    """

    def __init__(self, desk: Callable[[], KeyDesk]) -> None:
        self._desk = desk

    @rpc(idempotent=True)
    async def list(self) -> KeyListing:
        """Return what may be told of the node's keys."""
        return self._desk().listing()
