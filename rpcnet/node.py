"""A node: one member of a cluster, for as long as its block lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from random import Random
from types import TracebackType
from typing import Self, TypeVar

import trio

from ._assembly.asking import Asking, QueryAnswers
from ._assembly.common import advertised, check_seeds, checked, checked_security, child, hello_of, random_name
from ._assembly.keys import ClusterKeys, KeyHost
from ._assembly.membership import NodeParts
from ._builtin.cluster import ClusterService
from ._builtin.health import HealthBoard
from ._builtin.keys import KeysService
from ._builtin.services import served
from ._builtin_contracts import Keys
from ._core.bodies import Hello
from ._core.members import MemberRecord, check_metadata
from ._core.naming import node_id_of
from ._core.user_events import UserState, UserStatistics
from ._middleware import Middleware
from ._net.addresses import check_setting
from ._net.endpoint import Endpoint
from ._net.environment import current_environment
from ._net.identity import Security
from ._net.ports import Environment
from ._net.seeds import SeedBook, SeedSource
from ._net.snapshot_file import SnapshotFile, next_boot_id
from ._signals import TagsChanged
from ._tasks.bus import Bus
from ._tasks.joining import Joiner
from ._tasks.lifetime import serving
from ._tasks.service_lifetimes import ServiceLifetimes
from ._tasks.snapshots import MembershipSnapshot
from ._tasks.subscriptions import EventStream, SubscriptionHub
from ._tasks.supervisor import Supervisor
from .call import CallHost, ServerCall
from .client import ClientHost, ClusterClient
from .config import NodeConfig
from .errors import ConfigError, NotFound
from .events import ClusterEvent, NodeState, QueryReceived
from .selectors import Selector
from .statistics import NodeStatistics
from .views import ClusterMembership, NodeRegistry, WorkerRegistry

__all__ = ["Node"]

T = TypeVar("T")


class Node:
    """One member of a cluster; ``async with`` makes it join, serve and, at the end of the block, leave.

    Entering binds the port, starts the tasks and contacts the seeds; it returns when the node has joined, or at once
    if there are no seeds. Leaving drains (running calls get ``config.drain_timeout`` seconds), says goodbye and closes,
    all within bounded time, also when the block is cancelled. Errors of the body come out bare.

    Services that are async context managers are entered before the node joins and left after it has drained, in reverse
    order, all in one task; they have ``config.drain_timeout`` seconds for that. What one raises when it is entered
    comes out bare. What fails later, a nursery that it holds open or its leaving, ends the node with ``NodeCrashed``.

    Args:
        name: unique in the cluster, at most 128 characters; default ``"<hostname>-<6 random letters>"``.
        bind: the UDP address for gossip and QUIC; port 0 takes any free one.
        advertise: what others dial, when it differs from ``bind``.
        seeds: where to find nodes to join through: addresses, ``"host:port"``; names in DNS, ``"dns://name:port"``,
            each of whose addresses is one, and services in DNS, ``"dns+srv://_rpcnet._udp.example.org"``, with the
            extra ``rpcnet[dns]``; files with an address per line, ``"file:///path"``; and objects with the method of
            :class:`SeedSource`. All but addresses are asked again for ever. The node's own address is skipped; one
            whose seeds name nobody else is the first node of its cluster.
        tags: what selectors of others look at; with the names of the services at most
            ``config.gossip.max_metadata_bytes`` encoded. Up to 512 bytes travel with gossip, more are fetched.
        services: objects of classes decorated with :func:`rpcnet.service`.
        middleware: what runs around every call that the node serves, the outermost first; see :class:`Middleware`.
        security: who may join; default :meth:`Security.default`.
        config: settings; default :meth:`NodeConfig.lan`.
        snapshot: path of a small file in which the node keeps whom it knew and which boot it was, so that it finds back
            without seeds after a restart, and is taken for a new start even if the clock has gone back. It needs a
            name of its own. A file that is missing or damaged is logged and written anew.

    Raises:
        ConfigError: an argument is wrong, or the port is taken; the message names it.
        SecurityError: the security settings do not permit this address.
        JoinError: no seed answered within ``config.join_timeout``.
        NameConflict: another live node has this name.
        NodeCrashed: a task of the node failed too often.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        bind: str = "127.0.0.1:0",
        advertise: str | None = None,
        seeds: Sequence[str | SeedSource] = (),
        tags: Mapping[str, str] | None = None,
        services: Iterable[object] = (),
        middleware: Iterable[Middleware[ServerCall]] = (),
        security: Security | None = None,
        config: NodeConfig | None = None,
        snapshot: str | None = None,
    ) -> None:
        self._name = name
        self._bind = bind
        self._advertise = advertise
        self._seeds = check_seeds(seeds)
        self._tags = dict(checked("tags", {} if tags is None else tags, Mapping))
        self._config = checked("config", config or NodeConfig.lan(), NodeConfig)
        self._bus = Bus(self._config.supervision.inbox_size)
        self._asking = Asking(self._bus, self._config.gossip)
        self._hub = SubscriptionHub(self._config.supervision.subscription_size)
        self._registry = NodeRegistry(self._bus, self._hub)
        host = CallHost(self, self._registry.get, lambda: self._running.endpoint.draining, self._config.rpc)
        self._services = list(checked("services", services, Iterable))
        self._cluster = ClusterService(self._hub, self._registry.nodes)
        self._table, self._health = served(
            self._services,
            self._config.rpc,
            host,
            middleware,
            lambda: self._running.endpoint.draining,
            more=[self._cluster, KeysService(lambda: self._running.endpoint.keys.desk)],
        )
        self._security = checked_security(security)
        check_setting("bind", bind, is_dialled=False)
        if advertise is not None:
            check_setting("advertise", advertise, is_dialled=True)
        self._snapshot = None if snapshot is None else checked("snapshot", snapshot, str)
        if name is not None:
            self._check_metadata(name, self._tags)
        self._supervisor = Supervisor(self._config.supervision, self._bus)
        self._membership = ClusterMembership(self._bus)
        self._keys = ClusterKeys(self._key_host)
        self._client: ClusterClient | None = None
        self._parts: NodeParts | None = None
        self._lifetime: AbstractAsyncContextManager[None] | None = None
        self._is_entered = False

    def __repr__(self) -> str:
        """Return name, address and whether it runs."""
        state = "not running" if self._parts is None else f"at {self._parts.address}"
        return f"<rpcnet.Node {self._name!r} {state}>"

    async def __aenter__(self) -> Self:
        """Bind, start, join."""
        if self._is_entered:
            raise RuntimeError("a node can be entered once; make a new one to start again")
        self._is_entered = True
        environment = current_environment()
        security = self._security or Security.default()
        security.check_bind(self._bind)
        self._parts = parts = await self._assemble(environment, security)
        self._client = ClusterClient(self)
        self._lifetime = serving(parts, parts.enter)
        try:
            await self._lifetime.__aenter__()
        except BaseException:
            parts.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Drain, say goodbye, close."""
        if self._lifetime is None:
            raise RuntimeError("the node was not entered")
        try:
            return await self._lifetime.__aexit__(kind, error, traceback)
        finally:
            self._asking.close()

    async def _assemble(self, environment: Environment, security: Security) -> NodeParts:
        rng = environment.rng()
        if self._name is None:
            self._name = security.name or self._random_name(environment, rng)
            self._check_metadata(self._name, self._tags)
        file = None
        if self._snapshot is not None:
            file = SnapshotFile(self._snapshot, environment, security.cluster, self._name)
        last = None if file is None else await file.load()
        port = await environment.bind(self._bind)
        try:
            address = self._advertise or await advertised(port.local_address, environment)
            local = MemberRecord(
                id=node_id_of(security.cluster, self._name),
                name=self._name,
                address=address,
                boot_id=next_boot_id(last, environment.wall_clock()),
                incarnation=0,
                state=NodeState.ALIVE,
                meta_version=1,
                tags=self._tags,
                services=self._table.service_names,
            )
            endpoint = Endpoint(
                port,
                environment=environment,
                security=security,
                name=self._name,
                config=self._config.rpc,
                hello=lambda: self._hello(local),
                rng=child(rng),
            )
        except BaseException:
            port.close()
            raise
        known = [] if last is None else check_seeds([peer.address for peer in last.peers])
        joining = child(rng)
        self._book = SeedBook(
            [*self._seeds, *known],
            environment=environment,
            rng=joining,
            own=(address, port.local_address),
            is_ipv6=port.local_address.startswith("["),
        )
        return self._parts_of(local, endpoint, file, Joiner(self._bus, endpoint, local, self._config, joining), rng)

    def _parts_of(
        self, local: MemberRecord, endpoint: Endpoint, file: SnapshotFile | None, joiner: Joiner, rng: Random
    ) -> NodeParts:
        return NodeParts(
            name=local.name,
            address=local.address,
            bus=self._bus,
            hub=self._hub,
            followers=self._cluster,
            supervisor=self._supervisor,
            endpoint=endpoint,
            table=self._table,
            local=local,
            config=self._config,
            rng=rng,
            joiner=joiner,
            seeds=self._book,
            must_join=bool(self._seeds),
            file=file,
            lifetimes=ServiceLifetimes(self._services, self._table.contexts),
        )

    def _random_name(self, environment: Environment, rng: Random) -> str:
        if self._snapshot is not None:
            raise ConfigError(f"snapshot = {self._snapshot!r}: needs a name, by which the node knows its file again")
        return random_name(environment.hostname(), rng)

    def _check_metadata(self, name: str, tags: Mapping[str, str]) -> None:
        check_metadata(name, tags, self._table.service_names, self._config.gossip.max_metadata_bytes)

    def _hello(self, first: MemberRecord) -> Hello:
        snapshot = self._bus.latest(MembershipSnapshot)
        local = first if snapshot is None else snapshot.local
        return hello_of(self._config.rpc, node_id=local.id, boot_id=local.boot_id, services=self._table.entries)

    @property
    def _running(self) -> NodeParts:
        if self._parts is None:
            raise RuntimeError("the node is not running: use it inside its `async with` block")
        return self._parts

    def _kill(self) -> None:
        """See to it that the end of the block says no goodbye, as if the process were killed; for simulations."""
        if self._parts is not None:
            self._parts.is_killed = True

    def _client_host(self) -> ClientHost:
        parts = self._running
        return ClientHost(self._registry, parts.endpoint, self._config.rpc, child(parts.rng), self._membership.rtt)

    def _key_host(self) -> KeyHost:
        parts, client = self._running, ClusterClient(self)
        return KeyHost(
            name=parts.name,
            endpoint=parts.endpoint,
            nodes=self._registry.nodes,
            stub=lambda node: client.stub(Keys, node=node.id),
            rng=child(parts.rng),
        )

    @property
    def name(self) -> str:
        """The node's name."""
        return self._running.name

    @property
    def id(self) -> str:
        """The node's id, 32 hexadecimal digits."""
        return self._running.local.id

    @property
    def address(self) -> str:
        """The address that others dial, ``"host:port"``."""
        return self._running.address

    @property
    def tags(self) -> Mapping[str, str]:
        """The node's tags as it tells them."""
        return self._membership.local.tags

    @property
    def config(self) -> NodeConfig:
        """The node's settings."""
        return self._config

    @property
    def membership(self) -> ClusterMembership:
        """The read side of SWIM."""
        return self._membership

    @property
    def registry(self) -> NodeRegistry:
        """Every node with state and metadata."""
        return self._registry

    @property
    def health(self) -> HealthBoard:
        """Where the application says how it is; others ask the built-in service :class:`rpcnet.Health`."""
        return self._health

    @property
    def keys(self) -> ClusterKeys:
        """The keys of membership datagrams, listed and changed on all nodes of the cluster."""
        return self._keys

    @property
    def workers(self) -> WorkerRegistry:
        """The nodes that serve something."""
        return self.client.workers

    @property
    def client(self) -> ClusterClient:
        """The default client: least connections, three attempts."""
        if self._client is None:
            raise RuntimeError("the node is not running: use it inside its `async with` block")
        return self._client

    def stub(
        self,
        service: Callable[..., T],
        *,
        where: str | Selector = "",
        node: str | None = None,
        wait_for_worker: float = 0.0,
        metadata: Mapping[str, str] | None = None,
    ) -> T:
        """Return a typed proxy for a service; see :meth:`ClusterClient.stub`."""
        return self.client.stub(service, where=where, node=node, wait_for_worker=wait_for_worker, metadata=metadata)

    def events(self, *kinds: type[ClusterEvent]) -> AbstractAsyncContextManager[EventStream]:
        """Open a subscription: first a ``NodeJoined`` for each member known, then every change, without a gap.

        ``async with node.events(NodeFailed) as events: async for event in events: ...``. Without kinds, all events. A
        subscriber that does not read delays nobody: beyond ``config.supervision.subscription_size`` its events are
        merged per node, and ``EventsDropped`` says so. The iteration ends when the node does.
        """
        return self._registry.subscribe(*kinds)

    async def publish(self, name: str, payload: bytes = b"") -> None:
        """Tell every node of the cluster something small, this one included: a ``UserEvent`` at each of them.

        Of one sender the events arrive in the order in which it published them, none twice. They travel by gossip and
        nobody confirms them: whoever hears a later one asks for what is missing, but the last before a silence may not
        reach somebody under heavy loss. A node that joins more than ``config.gossip.event_gap_timeout`` seconds later
        does not hear them. Returns when the event is on its way, and waits before that while as many as
        ``config.gossip.max_waiting_events`` are still being told. A checkpoint; what is cancelled may have been
        published, or not.

        Args:
            name: 1 to 128 characters.
            payload: together with the name at most ``config.gossip.max_event_bytes``.

        Raises:
            ConfigError: the name is no good, or both are too large; the message names the sizes. Nothing was sent.
            RuntimeError: the node does not run, or has left.
        """
        await self._asker.publish(name, payload)

    async def query(
        self,
        name: str,
        payload: bytes = b"",
        *,
        where: str | Selector = "",
        timeout: float | None = None,  # noqa: ASYNC109 - it travels with the question
    ) -> QueryAnswers:
        """Ask every node whose tags match, this one included, and collect the answers.

        Each of them hears a ``QueryReceived`` and answers with :meth:`respond`. Returns as soon as all have answered
        that this node knows and that do not fail meanwhile, and otherwise with what has come when the time is over;
        that is no error. Question and answers are repeated until they are confirmed, so losses cost time only. A
        checkpoint; cancelling gives the query up.

        Args:
            name: 1 to 128 characters.
            payload: together with the name at most ``config.gossip.max_event_bytes``.
            where: a selector over tags, without regular expressions, which others would have to run.
            timeout: seconds, at most ``config.gossip.max_query_timeout``; by default it grows with the cluster, see
                ``config.gossip.query_timeout_factor``.

        Raises:
            ConfigError: an argument is wrong, or the question is too large; the message names the sizes.
            RuntimeError: the node does not run, or has left.
        """
        return await self._asker.query(name, payload, where, timeout)

    async def respond(self, query: QueryReceived, payload: bytes) -> None:
        """Answer a question that this node heard. A checkpoint; what is cancelled may have been answered, or not.

        Args:
            query: the event.
            payload: at most ``config.gossip.max_answer_bytes``.

        Raises:
            ConfigError: the answer is too large, or ``query`` is no question.
            DeadlineExceeded: the question takes no answers any more.
            FailedPrecondition: it was answered before, or was not put to this node.
            RuntimeError: the node does not run, or has left.
        """
        await self._asker.respond(query, payload)

    @property
    def _asker(self) -> Asking:
        if self._running.record.state is NodeState.LEFT:
            raise RuntimeError("the node has left; make a new one to come back")
        return self._asking

    async def update_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags and tell the cluster; those not named stay. A checkpoint; cancelling does not take them back.

        Raises:
            ConfigError: the tags are too large or not strings; nothing changed.
        """
        await self._set_tags({**self._tags, **tags})

    async def remove_tags(self, *names: str) -> None:
        """Remove tags and tell the cluster; unknown names are ignored. A checkpoint; cancelling changes nothing."""
        await self._set_tags({key: value for key, value in self._tags.items() if key not in names})

    async def _set_tags(self, tags: dict[str, str]) -> None:
        self._check_metadata(self.name, tags)
        self._tags = tags
        await self._running.order(
            lambda: TagsChanged(dict(self._tags), at=trio.current_time()),
            lambda local: dict(local.tags) == self._tags,
        )
        await trio.lowlevel.checkpoint()

    async def join(self, seeds: Sequence[str | SeedSource]) -> None:
        """Join the cluster of other nodes, now. A checkpoint; cancelling gives up.

        The seeds may be whatever the node itself takes as seeds; once it has joined they are not asked again.

        Raises:
            JoinError: none of them answered within ``config.join_timeout``.
            NameConflict: another live node has this name.
            RuntimeError: the node has left; it takes a new one to come back.
        """
        parts = self._running
        if parts.record.state is NodeState.LEFT:
            raise RuntimeError("the node has left; make a new one to come back")
        await parts.joiner.join(self._book.others(check_seeds(seeds)))

    async def drain(self) -> None:
        """Take no new calls, tell the cluster so, and wait for the running ones; membership goes on. A checkpoint."""
        await self._running.drain()

    async def leave(self) -> None:
        """Drain and say goodbye, within bounded time; the block goes on without a cluster. A checkpoint."""
        await self._running.leave()

    def rtt(self, node: str) -> float | None:
        """Return the round trip to another node, by name or id, in seconds; see :meth:`ClusterMembership.rtt`.

        Raises:
            NotFound: no such node is known.
        """
        found = self._registry.get(node)
        if found is None:
            raise NotFound(f"no node {node!r} is known")
        return self._membership.rtt(found.id)

    def statistics(self) -> NodeStatistics:
        """Return every counter of the node, frozen."""
        parts = self._running
        users = self._bus.latest(UserState)
        return NodeStatistics(
            user=UserStatistics() if users is None else users.statistics,
            restarts=dict(self._supervisor.restarts),
            port=parts.endpoint.port_statistics(),
            pump=parts.endpoint.pump.statistics(),
            quic=parts.endpoint.quic_statistics(),
            membership=parts.endpoint.membership.statistics(),
            sealing=parts.endpoint.sealing_statistics(),
            active_calls=parts.endpoint.calls.active,
            client=self.client.statistics(),
        )
