"""Calls to one peer at one address.

The rules of this file:

* There is nobody else to call, so a patient caller waits for the connection to come back, and for a server that drains
  to be replaced. The dialling does that, not the retries: a call that has waited in vain is not tried again.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any

import attrs

from rpcnet._core.resilience import RetryPolicy, RetryState
from rpcnet._middleware import Middleware
from rpcnet._net.endpoint import Endpoint, Pause

from .caller import Caller, OpenCall, Target

__all__ = ["OnePeer", "OnePeerCaller"]


@attrs.frozen
class OnePeer:
    """Whoever answers at an address."""

    address: str
    """``"host:port"``."""
    name: str = ""
    """The name that it must prove; empty if anybody of the cluster will do."""

    @property
    def id(self) -> str:
        """Tells peers apart."""
        return self.address


class OnePeerCaller(Caller[OnePeer]):
    """Calls methods of one peer.

    Args:
        endpoint: where the connection lives.
        peer: whom to call.
        retry: when a failed attempt is followed by another.
        rng: for the pauses between attempts.
        middleware: what runs around every call, the outermost first.
        is_patient: whether calls wait for a connection, as long as ``connect_timeout``.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        peer: OnePeer,
        retry: RetryPolicy,
        rng: Random,
        middleware: Iterable[Middleware[Any]] = (),
        *,
        is_patient: bool = False,
    ) -> None:
        super().__init__(endpoint, retry, rng, middleware)
        self._peer = peer
        self._is_patient = is_patient
        self._key = (peer.address, peer.name)
        self.active = 0
        """Attempts under way."""

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many calls were begun, how many attempts there were beyond the first of each, how many calls failed."""
        return self._calls, self._retries, self._failures

    def _select(self, target: Target, state: RetryState | None = None) -> OnePeer | None:
        return None if state is not None and self._key in self._endpoint.unreachable else self._peer

    async def _wait_for_peer(self, target: Target) -> OnePeer:
        return self._peer

    def _begin(self, peer: OnePeer) -> None:
        self.active += 1

    def _end(self, peer: OnePeer, *, done: bool) -> None:
        self.active -= 1

    async def _call_slowly(self, target: Target, peer: OnePeer, body: bytes, deadline: float) -> bytes:
        await self._wait_for_connection(target, is_early=bool(target.idempotent))
        return await super()._call_slowly(target, peer, body, deadline)

    async def _try_to_open(self, target: Target, peer: OnePeer, body: bytes, deadline: float) -> OpenCall[OnePeer]:
        await self._wait_for_connection(target, is_early=False)
        return await super()._try_to_open(target, peer, body, deadline)

    async def _wait_for_connection(self, target: Target, *, is_early: bool) -> None:
        """Wait for a connection that will do; a built-in service may be called while its server drains."""
        if self._is_patient:
            await self._endpoint.connect(
                *self._key, pause=Pause.AGAIN, even_draining=target.is_builtin, is_early=is_early
            )
