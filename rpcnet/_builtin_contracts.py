"""The contracts of the built-in services that everybody may call: health, reflection and the list of gossip keys.

They are contracts only; what a node serves under their names is in ``_builtin``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import attrs

from .service import rpc, service

__all__ = ["Health", "HealthStatus", "KeyInfo", "KeyListing", "Keys", "Reflection", "ServiceSummary"]


@attrs.frozen
class HealthStatus:
    """What a node says of itself or of one of its services."""

    live: bool
    """Whether the process works at all: an orchestrator should restart it otherwise."""
    ready: bool
    """Whether calls should be sent to it: it does not drain, and nobody has said that it is not ready."""
    draining: bool
    """Whether it takes no new calls, because it is about to end."""


@service(name="rpcnet.Health")
class Health:
    """The built-in service that tells how a node or a server is; ``stub(rpcnet.Health, node=...)``.

    Every node and every server has it, also while it drains. What it says of readiness is set with ``node.health``.
    """

    @rpc(idempotent=True)
    async def check(self, service: str = "") -> HealthStatus:
        """Return how the node is, or one of its services.

        Raises:
            NotFound: the node has no such service.
        """
        raise NotImplementedError

    @rpc(idempotent=True)
    async def watch(self, service: str = "") -> AsyncIterator[HealthStatus]:
        """Return how the node is now, and again whenever that changes; ends when the node begins to drain.

        Raises:
            NotFound: the node has no such service.
        """
        raise NotImplementedError


@attrs.frozen
class ServiceSummary:
    """One service that a node serves."""

    name: str
    """Its name."""
    version: int
    """The version that its author gave it."""
    methods: list[str]
    """The names of its methods, sorted."""


@service(name="rpcnet.Reflection")
class Reflection:
    """The built-in service that tells what a node or a server serves; ``stub(rpcnet.Reflection, node=...)``.

    Every node and every server has it, also while it drains. It tells about the built-in services, too.
    """

    @rpc(idempotent=True)
    async def services(self) -> list[ServiceSummary]:
        """Return all services, sorted by name."""
        raise NotImplementedError

    @rpc(idempotent=True)
    async def describe(self, name: str) -> dict[str, Any]:
        """Return the description of a service or, for ``"service.method"``, of one method, as plain data.

        Raises:
            NotFound: there is no such service or method.
        """
        raise NotImplementedError


@attrs.frozen
class KeyInfo:
    """What may be told of a key of membership datagrams."""

    key_id: int
    """Its id in datagrams."""
    fingerprint: str
    """16 hexadecimal digits; the same ones on two nodes are the same key."""
    is_in_use: bool
    """Whether it seals."""


@attrs.frozen
class KeyListing:
    """What a node tells of its key ring."""

    changes: int
    """How often the ring has been changed since it was what nodes are configured with; of two, the greater one wins."""
    keys: list[KeyInfo]
    """Its keys, the one in use first."""


@service(name="rpcnet.Keys")
class Keys:
    """The built-in service that tells which keys a node has; ``stub(rpcnet.Keys, node=...)``.

    Every node has it, also while it drains. Ids and fingerprints give no key away, so whoever may connect may ask. Keys
    are changed by a member of the cluster, with ``node.keys``, and by nobody else.
    """

    @rpc(idempotent=True)
    async def list(self) -> KeyListing:
        """Return what may be told of the node's keys."""
        raise NotImplementedError
