"""A client of a cluster for programs that are no members of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import cast

import attrs
import trio

from ._assembly.client_port import ClientSettings, Route, open_client_port
from ._assembly.cluster_link import ClusterLink
from ._assembly.common import check_seeds
from ._clients.middleware import ClientCall
from ._core.balancing import LoadBalancingStrategy
from ._core.resilience import RetryPolicy
from ._middleware import Middleware
from ._net.environment import current_environment
from ._net.identity import Security
from ._net.seeds import Seed, SeedBook, SeedSource
from ._tasks.lifetime import serving
from .client import ClusterClient
from .config import RpcConfig
from .errors import ConfigError, JoinError

__all__ = ["connect_cluster"]

_ASK_INTERVAL = 30.0
"""Seconds after which sources of seeds are asked again, give or take a fifth."""


def connect_cluster(
    seeds: Sequence[str | SeedSource],
    *,
    name: str | None = None,
    security: Security | None = None,
    config: RpcConfig | None = None,
    balancing: LoadBalancingStrategy | None = None,
    retry: RetryPolicy | None = None,
    middleware: Iterable[Middleware[ClientCall]] = (),
) -> AbstractAsyncContextManager[ClusterClient]:
    """Open a client of a cluster without becoming a member of it.

    ``async with rpcnet.connect_cluster(["10.0.0.1:7946"]) as client: printing = client.stub(Printing)``. The client is
    the same as a node's: it sees every node and what it serves, balances, retries and avoids who is suspected. But
    nobody sees it: it takes no part in gossip, is probed by nobody, and has a UDP port of its own only to dial from.

    Entering follows the first seed that answers: each has half a second's head start before the next one is dialled as
    well. It is a checkpoint. From then on the client knows what that node knows, a moment later. When that node drains,
    dies or cannot be reached, the client follows another one, any that it knows to be alive and then the seeds; until
    it has found one it calls the nodes that it knew last. It never gives up. Leaving closes all connections, and waits
    for nothing.

    When a node fails, calls on it end as soon as the node that is followed says so, or after
    ``config.silence_timeout``; those that may be repeated are made elsewhere. A node that could not be reached is
    dialled again in the background, while calls go to others.

    Args:
        seeds: where to find nodes: addresses, ``"host:port"``, and all else that :class:`Node` takes. Names, files and
            other sources are asked while entering, for at most ``config.connect_timeout``, and every 30 seconds from
            then on. All nodes have addresses of one family, IPv4 or IPv6; which one is found out while entering, too.
        name: the name that the client's certificate proves; default ``"client-<6 random letters>"`` or, with
            :meth:`Security.files`, the one in the certificate.
        security: what is shown and checked; default :meth:`Security.default`.
        config: limits and timeouts.
        balancing: chooses among the workers that match; default ``LeastConnections()``.
        retry: when a failed attempt is followed by another; default ``RetryPolicy()``.
        middleware: what runs around every call, the outermost first; see :class:`Middleware`.

    Raises:
        ConfigError: an argument is wrong; raised when this is called.
        SecurityError: the security settings do not permit this address or this name.
        JoinError: no seed could be followed; the message names each with what it answered.
        NodeCrashed: the client failed inside, which is a bug.
    """
    checked = check_seeds(seeds)
    if not checked:
        raise ConfigError("seeds: must name at least one node")
    settings = ClientSettings.checked(name=name, security=security, config=config, retry=retry, middleware=middleware)
    return _connected(checked, settings, balancing)


@attrs.define(eq=False, kw_only=True)
class _SeededLink(ClusterLink):
    """A link that asks the sources of its seeds again, for ever."""

    book: SeedBook | None = None

    def start_more(self, nursery: trio.Nursery) -> None:
        """Begin to follow, and to ask."""
        super().start_more(nursery)
        if self.book is not None and not self.book.is_static:
            nursery.start_soon(self._ask_again, self.book, name="rpcnet seeds of a client")

    async def _ask_again(self, book: SeedBook) -> None:
        while True:
            await trio.sleep(_ASK_INTERVAL * self.rng.uniform(0.8, 1.2))
            routes = [Route(self.endpoint, address) for address in await book.addresses()]
            if routes and len(self.endpoints) == 1:
                self.seeds = routes


@asynccontextmanager
async def _connected(
    seeds: list[Seed], settings: ClientSettings, balancing: LoadBalancingStrategy | None
) -> AsyncGenerator[ClusterClient, None]:
    environment = current_environment()
    rng = environment.rng()
    book = SeedBook(seeds, environment=environment, rng=rng)
    addresses = await book.addresses(within=settings.config.connect_timeout)
    routes, failures, _ = await open_client_port(addresses, settings, environment, rng)
    answers = book.answers() | failures
    if not routes:
        listed = "; ".join(f"{seed}: {answer}" for seed, answer in answers.items())
        raise JoinError(f"no node of the cluster could be reached: {listed}", answers)
    link = cast("_SeededLink", _SeededLink.make(routes, answers, settings.config, rng))
    link.book = book
    async with serving(link, link.enter):
        yield ClusterClient(link, balancing=balancing, retry=settings.retry, middleware=settings.middleware)
