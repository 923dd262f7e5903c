"""What ``node.keys`` does: the keys of membership datagrams, changed on all nodes of a cluster.

The rules of this file:

* A cluster changes its key in three steps: install, use, remove. A step is refused while a live node has not done the
  one before it, so at each moment every node can open what any other seals.
* A step is a new ring, made of the newest one that any node has. It is made on this node first and then compared with
  every other: whoever has an older one takes it over. Nothing is lost if an order arrives late, twice or not at all.
* When two operators make a step at the same time, one of the two rings wins everywhere. The other operator notices, and
  makes the step again, out of what is there now.
* Everything is bounded: nodes at once, time per node, time as a whole. Who could not be asked stands in the report with
  the reason, and takes the ring over in the next exchange of state with anybody.
* Secrets never enter the RPC layer: rings are compared on the connection's own stream, RPC lists ids and fingerprints.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection, Mapping, Sequence
from random import Random

import attrs
import trio

from rpcnet._builtin_contracts import KeyInfo, KeyListing, Keys
from rpcnet._core.keyring import GossipKey, KeyRing
from rpcnet._net.endpoint import Endpoint
from rpcnet._net.key_exchange import KeyExchange
from rpcnet.errors import Aborted, ConfigError, DeadlineExceeded, FailedPrecondition, RpcNetError, SecurityError
from rpcnet.events import NodeInfo

__all__ = ["ClusterKeys", "KeyHost", "KeyReport", "KeyUse", "NodeKeys"]

_AT_ONCE = 32
_NODE_TIMEOUT = 5.0
_TIMEOUT, _TIMEOUT_PER_NODE = 30.0, 0.1
_MAX_PASSES = 3
_MAX_ATTEMPTS = 5
_PAUSE = 0.2
_MAX_NAMED = 5


@attrs.frozen
class NodeKeys:
    """What one node of a report has."""

    keys: tuple[KeyInfo, ...] = ()
    """Its keys, the one in use first; none if it could not be asked."""
    changes: int = 0
    """How often its ring was changed."""
    error: RpcNetError | None = attrs.field(default=None, eq=False)
    """Why it could not be asked, or could not be given the new ring."""

    @property
    def in_use(self) -> int | None:
        """The id of the key that it seals with; None if it could not be asked."""
        return self.keys[0].key_id if self.keys else None

    def has(self, key: KeyInfo) -> bool:
        """Tell whether it has a key, in use or not."""
        return any(own.fingerprint == key.fingerprint for own in self.keys)


@attrs.frozen
class KeyUse:
    """How far a key has come."""

    key_id: int
    """Its id in datagrams."""
    fingerprint: str
    """16 hexadecimal digits that tell it from all others."""
    have: int
    """How many nodes have it."""
    use: int
    """How many nodes seal with it."""


@attrs.frozen
class KeyReport:
    """Who has which keys, as all live nodes said when they were asked."""

    nodes: Mapping[str, NodeKeys] = attrs.field(hash=False)
    """By the name of each live node, this one first."""

    @property
    def is_complete(self) -> bool:
        """Whether every live node has answered, and all have the same ring."""
        rings = {(node.changes, node.keys[:1], frozenset(node.keys)) for node in self.nodes.values()}
        return len(rings) == 1 and all(node.keys and node.error is None for node in self.nodes.values())

    @property
    def keys(self) -> tuple[KeyUse, ...]:
        """Every key that any node has: those in use on most nodes first, then those that most nodes have."""
        seen = {key.fingerprint: key.key_id for node in self.nodes.values() for key in node.keys}
        counted = [self._count(key_id, fingerprint) for fingerprint, key_id in seen.items()]
        return tuple(sorted(counted, key=lambda key: (-key.use, -key.have, key.fingerprint)))

    def _count(self, key_id: int, fingerprint: str) -> KeyUse:
        rings = [[key.fingerprint for key in node.keys] for node in self.nodes.values()]
        use = sum(ring[:1] == [fingerprint] for ring in rings)
        return KeyUse(key_id, fingerprint, sum(fingerprint in ring for ring in rings), use)

    @property
    def errors(self) -> Mapping[str, RpcNetError]:
        """By name, why nodes could not be asked, or could not be given the new ring."""
        return {name: node.error for name, node in self.nodes.items() if node.error is not None}


@attrs.frozen(eq=False)
class KeyHost:
    """The node, as far as its keys go."""

    name: str
    """Its name."""
    endpoint: Endpoint
    """Where connections live."""
    nodes: Callable[[], Sequence[NodeInfo]]
    """Returns every node that it knows."""
    stub: Callable[[NodeInfo], Keys]
    """Returns how to ask a node for its list of keys."""
    rng: Random
    """For the pauses between attempts."""

    @property
    def exchange(self) -> KeyExchange:
        """Where this node's ring is."""
        return self.endpoint.keys


class ClusterKeys:
    """The keys of membership datagrams, on all nodes of the cluster; ``node.keys``.

    A new key takes three steps, each of which is made on every live node and reported::

        report = await node.keys.install(secrets.token_bytes(32))
        report = await node.keys.use(key_id)
        report = await node.keys.remove(old_key_id)

    No connection, call or member suffers from it. Nodes that could not be reached take the ring over when they exchange
    state with any other, and nodes that start do so before they show themselves. Rings are kept in memory: when all
    nodes of a cluster have been restarted at once, they have the keys again that they are configured with.

    Every node of the cluster may change keys, and no client: the ring is taken from whoever proves by its certificate
    to be a node of that name and besides knows a key that the ring has or had. To shut a node out for good, take away
    its certificate before its key.

    Args:
        host: makes the node that it belongs to.
    """

    def __init__(self, host: Callable[[], KeyHost]) -> None:
        self._make_host = host
        self._made: KeyHost | None = None
        self._changing = trio.Lock()

    @property
    def _host(self) -> KeyHost:
        if self._made is None:
            self._made = self._make_host()
        return self._made

    async def list(self, *, timeout: float | None = None) -> KeyReport:  # noqa: ASYNC109 - what comes late is in the report
        """Ask every live node for its keys. A checkpoint.

        Args:
            timeout: seconds for all of them together; by default 30, and a tenth of one for each. Who has not
                answered then stands in the report as an error.

        Raises:
            ConfigError: the timeout is no number above 0.
            RuntimeError: the node does not run.
        """
        return await self._ask_all(trio.current_time() + self._timeout(timeout), is_given=False)

    async def install(
        self,
        secret: bytes | str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - what comes late is in the report
    ) -> KeyReport:
        """Let every node open what is sealed with one key more. A checkpoint; cancelling leaves it half done.

        Args:
            secret: 32 random bytes, or the same as base64, as ``openssl rand -base64 32`` prints.
            timeout: seconds for all nodes together; by default 30, and a tenth of one for each. Who has not
                answered then stands in the report as an error.

        Raises:
            SecurityError: it is no such secret, there are three keys already, or another one has the same id.
            Aborted: others change keys at the same time, again and again.
            ConfigError: the timeout is no number above 0.
            RuntimeError: the node does not run.
        """
        key = _key_of(secret)
        return await self._change(lambda ring: ring.install(key), None, timeout)

    async def use(self, key_id: int, *, force: bool = False, timeout: float | None = None) -> KeyReport:  # noqa: ASYNC109
        """Let every node seal with an installed key. A checkpoint; cancelling leaves it half done.

        Args:
            key_id: the id of the key.
            force: whether to do it although live nodes do not have the key, or do not answer; they are deaf then until
                they have taken the ring over.
            timeout: seconds for all nodes together; by default 30, and a tenth of one for each. Who has not
                answered then stands in the report as an error.

        Raises:
            SecurityError: there is no such key.
            FailedPrecondition: not all live nodes have it; the message names those that lack it.
            Aborted: others change keys at the same time, again and again.
            ConfigError: the timeout is no number above 0.
            RuntimeError: the node does not run.
        """

        def check(before: KeyReport) -> None:
            key = self._key(key_id)
            lack = [name for name, node in before.nodes.items() if key is None or not node.has(key)]
            if lack and not force:
                raise FailedPrecondition(
                    f"the key with the id {key_id} is not used: {_listed(lack)} did not say to have it; "
                    "install it again, or use force=True"
                )

        return await self._change(lambda ring: ring.use(key_id), check, timeout)

    async def remove(self, key_id: int, *, force: bool = False, timeout: float | None = None) -> KeyReport:  # noqa: ASYNC109
        """Let no node open any more what is sealed with a key. A checkpoint; cancelling leaves it half done.

        Args:
            key_id: the id of the key; one that no node has is ignored.
            force: whether to do it although live nodes still seal with it, or do not answer; they are not heard then
                until they have taken the ring over.
            timeout: seconds for all nodes together; by default 30, and a tenth of one for each. Who has not
                answered then stands in the report as an error.

        Raises:
            SecurityError: it is the key in use.
            FailedPrecondition: not all live nodes use another one; the message names those.
            Aborted: others change keys at the same time, again and again.
            ConfigError: the timeout is no number above 0.
            RuntimeError: the node does not run.
        """

        def check(before: KeyReport) -> None:
            in_use = self._host.exchange.desk.listing().keys[0]
            late = [name for name, node in before.nodes.items() if node.keys[:1] != (in_use,)]
            if late and not force:
                raise FailedPrecondition(
                    f"the key with the id {key_id} is not removed: {_listed(late)} did not say to use another one; "
                    f"use {in_use.key_id} again, or use force=True"
                )

        return await self._change(lambda ring: ring.remove(key_id), check, timeout)

    # --- changing

    async def _change(
        self,
        step: Callable[[KeyRing], KeyRing],
        check: Callable[[KeyReport], None] | None,
        timeout: float | None,  # noqa: ASYNC109 - what comes late is in the report
    ) -> KeyReport:
        """Make a step on all nodes, until it holds."""
        host, seconds = self._host, self._timeout(timeout)
        desk = host.exchange.desk
        async with self._changing:
            deadline = trio.current_time() + seconds
            for attempt in range(_MAX_ATTEMPTS):
                now = trio.current_time()
                before = await self._settle(now + (deadline - now) / 2)
                ring = step(desk.ring)
                if check is not None:
                    check(before)
                desk.change(ring)
                report = await self._ask_all(deadline, is_given=True, last=before.errors)
                if step(desk.ring) is desk.ring:
                    return report
                await trio.sleep(_PAUSE * (attempt + host.rng.random()))
        raise Aborted(f"others change keys at the same time; this was tried {_MAX_ATTEMPTS} times")

    async def _settle(self, deadline: float) -> KeyReport:
        """Let all nodes have the newest ring that any of them has, and return who has what then."""
        desk = self._host.exchange.desk
        for _ in range(_MAX_PASSES):
            version = desk.version
            report = await self._ask_all(deadline, is_given=True)
            if desk.version == version:
                break
        return report

    def _key(self, key_id: int) -> KeyInfo | None:
        return next((key for key in self._host.exchange.desk.listing().keys if key.key_id == key_id), None)

    # --- asking

    def _timeout(self, timeout: object) -> float:
        if timeout is None:
            return _TIMEOUT + _TIMEOUT_PER_NODE * len(self._host.nodes())
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
            raise ConfigError(f"timeout = {timeout!r}: must be a number above 0")
        return timeout

    async def _ask_all(self, deadline: float, *, is_given: bool, last: Collection[str] = ()) -> KeyReport:
        """Ask every live node, and those that join meanwhile.

        Args:
            deadline: when to give up those that have not answered.
            is_given: whether those whose ring is older are given that of this node.
            last: who is asked after all others, since it has not answered lately.
        """
        host = self._host
        host.exchange.look()
        answers: dict[str, NodeKeys] = {}
        late = NodeKeys(error=DeadlineExceeded("the time was over before the node had answered"))
        with trio.move_on_at(deadline):
            while others := [node for node in host.nodes() if self._is_to_be_asked(node, answers)]:
                answers.update((node.name, late) for node in others)
                others.sort(key=lambda node: node.name in last)
                await self._ask_each(others, answers, is_given=is_given)
        await trio.lowlevel.checkpoint()
        return KeyReport({host.name: _answer(host.exchange.desk.listing()), **answers})

    def _is_to_be_asked(self, node: NodeInfo, asked: Collection[str]) -> bool:
        return node.is_usable and node.name != self._host.name and node.name not in asked

    async def _ask_each(self, nodes: Sequence[NodeInfo], answers: dict[str, NodeKeys], *, is_given: bool) -> None:
        waiting = iter(nodes)

        async def ask_some() -> None:
            for node in waiting:
                answers[node.name] = await self._ask(node, is_given=is_given)

        async with trio.open_nursery() as nursery:
            for _ in range(min(_AT_ONCE, len(nodes))):
                nursery.start_soon(ask_some)

    async def _ask(self, node: NodeInfo, *, is_given: bool) -> NodeKeys:
        host, error = self._host, None
        try:
            with trio.fail_after(_NODE_TIMEOUT):
                if is_given:
                    try:
                        await host.exchange.compare(await host.endpoint.connect(node.address, node.name))
                    except SecurityError as stranger:
                        error = stranger
                return _answer(await host.stub(node).list(), error)
        except RpcNetError as failure:
            return NodeKeys(error=failure)
        except trio.TooSlowError:
            return NodeKeys(error=DeadlineExceeded(f"no answer within {_NODE_TIMEOUT} s"))


def _answer(listing: KeyListing, error: RpcNetError | None = None) -> NodeKeys:
    return NodeKeys(tuple(listing.keys), listing.changes, error)


def _key_of(secret: bytes | str) -> GossipKey:
    if isinstance(secret, str):
        try:
            secret = base64.b64decode(secret.strip(), validate=True)
        except (binascii.Error, ValueError):
            secret = b""
    if not isinstance(secret, bytes):
        raise SecurityError(f"a key must be bytes, or text in base64, not {type(secret).__name__}")
    return GossipKey.of(secret)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
