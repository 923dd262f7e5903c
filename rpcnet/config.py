"""Settings: what each costs, its sane range, and how it relates to the others.

The rules of this file:

* Durations are seconds, sizes are bytes; every field is checked on construction and says its rule when it is broken.
* A profile (:meth:`NodeConfig.local`, :meth:`NodeConfig.lan`, :meth:`NodeConfig.wan`) is a starting point;
  ``attrs.evolve`` changes single fields.
"""

from __future__ import annotations

from typing import Any, Literal

import attrs

from .errors import ConfigError
from .quorum import KeepMajority, QuorumStrategy

__all__ = ["DetectorConfig", "GossipConfig", "NodeConfig", "PartitionConfig", "RpcConfig", "SupervisionConfig"]

_LEAST_HANDSHAKE_BYTES = 32 << 10


def _is_bool(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{type(instance).__name__}.{attribute.name} = {value!r}: must be True or False")


def _between(low: float, high: float) -> Any:
    def check(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        is_whole = attribute.type in (int, "int")
        kinds = (int,) if is_whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            owner, number = type(instance).__name__, "whole number" if is_whole else "number"
            raise ConfigError(f"{owner}.{attribute.name} = {value!r}: must be a {number} from {low} to {high}")

    return check


@attrs.frozen(kw_only=True)
class GossipConfig:
    """How news spreads (SWIM, section 4)."""

    gossip_interval: float = attrs.field(default=0.2, validator=_between(0.01, 10))
    """Seconds between gossip rounds while there is news; silent otherwise.

    SWIM's dissemination, apart from probing as in its successors. News reaches nearly everybody in some ten times this;
    the datagrams of a busy moment are in inverse proportion. 0.1 on one machine, 0.2 in a data centre, 0.5 across
    oceans; not above ``pause_tolerance``.
    """
    gossip_fanout: int = attrs.field(default=3, validator=_between(1, 16))
    """How many nodes each round goes to.

    Costs and speeds up as a shorter interval does, but all at one moment. 3 or 4; with 1 news may die out.
    """
    transmit_multiplier: int = attrs.field(default=4, validator=_between(1, 16))
    """A node sends one update ``max(8, transmit_multiplier * ceil(log10(N + 1)))`` times, N being the cluster size.

    SWIM's lambda. What gossip misses at 4 is repaired by exchanges; higher costs that much more with every change.
    """
    sync_interval: float = attrs.field(default=30.0, validator=_between(1, 3600))
    """Seconds between comparisons of the whole table with one random node; repairs what gossip missed.

    Half a kilobyte each when nothing differs. Above 32 members it grows with each doubling. 15 to 60.
    """
    heal_interval: float = attrs.field(default=10.0, validator=_between(0.5, 3600))
    """Seconds between attempts to reach a seed or a failed node again, for ever: this is what ends a partition.

    A cluster that was cut comes together within one or two of it. Shorter costs a handshake each while nodes are gone.
    """
    refresh_interval: float = attrs.field(default=60.0, validator=_between(1, 86400))
    """Seconds between the signs of life that a node says of itself; they ride on probes and answers.

    25 bytes, six times per node that hears it. Of whom nothing was heard for three times as long is probed out of turn.
    """
    refresh_per_member: float = attrs.field(default=1.0, validator=_between(0.01, 60))
    """Seconds of that for each member, if that is more: so all members together say about one per second at most.

    Lower makes idle traffic grow with the size of a large cluster.
    """
    dead_reap_after: float = attrs.field(default=86400.0, validator=_between(10, 31536000))
    """Seconds a failed or departed node is remembered, so that old news cannot revive it.

    A node that was cut off for longer must be reachable itself for the others to believe what it knew. Costs half a
    kilobyte for each node that has gone. Never less than ``4 * refresh_per_member`` for each member; should be above
    four times ``refresh_interval``.
    """
    max_members: int = attrs.field(default=100_000, validator=_between(2, 10_000_000))
    """More records than this are not taken in: bounds the memory a misbehaving member can make others hold."""
    max_metadata_bytes: int = attrs.field(default=64 << 10, validator=_between(512, 128 << 10))
    """Encoded tags and services of one node; the same on all nodes, as others do not ask for what is above their own.

    Up to 512 bytes travel in gossip. What is larger is told by digest and fetched by every member once after each
    change, so a change of 64 KiB costs a cluster of a thousand 64 MB. One node keeps at most 64 MiB of such metadata.
    """
    max_event_bytes: int = attrs.field(default=512, validator=_between(16, 560))
    """Bytes of name and payload of one user event or question together. It travels in one string of a datagram.

    A question shares the 600 bytes of that string with its selector and the address of who asks.
    """
    max_answer_bytes: int = attrs.field(default=512, validator=_between(0, 550))
    """The largest answer to a question."""
    max_waiting_events: int = attrs.field(default=64, validator=_between(1, 10_000))
    """Own events and questions still being told, beyond which ``publish`` waits; below ``max_queued_events``."""
    max_queued_events: int = attrs.field(default=1024, validator=_between(2, 100_000))
    """Events and questions of all nodes that one passes on at once, and as many that it holds back for order.

    Each takes up to 600 bytes. Beyond it the one told most often is dropped, and counted.
    """
    event_gap_timeout: float = attrs.field(default=3.0, validator=_between(0.05, 600))
    """Seconds an event waits for an earlier one of the same sender, which then counts as skipped.

    Should be what news takes to reach everybody: some fifteen times ``gossip_interval``.
    """
    max_event_senders: int = attrs.field(default=4096, validator=_between(1, 1_000_000))
    """Senders of which it is remembered what has come, some 200 bytes each; who was silent longest goes first."""
    query_timeout_factor: float = attrs.field(default=16.0, validator=_between(1, 1000))
    """A query without a timeout waits ``query_timeout_factor * gossip_interval * ceil(log10(N + 1))`` seconds."""
    max_query_timeout: float = attrs.field(default=60.0, validator=_between(0.1, 3600))
    """The longest that a query may wait."""
    query_relays: int = attrs.field(default=2, validator=_between(0, 8))
    """Other nodes through which a reply travels too, from the second attempt on, when who asks did not confirm it."""
    max_query_answers: int = attrs.field(default=100_000, validator=_between(1, 10_000_000))
    """Replies to one query that are kept; never more than there are members, and 64 that are not known yet."""

    def __attrs_post_init__(self) -> None:
        """Check the fields against each other."""
        if self.max_waiting_events >= self.max_queued_events:
            raise ConfigError(
                f"GossipConfig.max_waiting_events = {self.max_waiting_events}: must be below "
                f"max_queued_events = {self.max_queued_events}"
            )


@attrs.frozen(kw_only=True)
class DetectorConfig:
    """How a silent node is told from a slow one (SWIM, section 4.2; Lifeguard; Hayashibara's phi)."""

    probe_interval: float = attrs.field(default=1.0, validator=_between(0.05, 60))
    """Seconds between probes: each node probes one other per interval, whatever the cluster's size.

    SWIM's protocol period, T. Shorter finds failures sooner and costs more: a ping and its answer are some 250 bytes
    per interval and node. It should be some ten round trips at least; 0.5 on one machine, 1 in a data centre, 3 across
    oceans. Not above ``pause_tolerance``.
    """
    indirect_probes: int = attrs.field(default=3, validator=_between(0, 16))
    """How many other nodes are asked, twice, to probe a node that did not answer twice.

    SWIM's k. Costs nothing while nodes answer, then some ten datagrams per helper. With 0 a single broken link looks
    like a failed node; above 4 it adds little. 3 in SWIM's successors, 4 across oceans.
    """
    pause_tolerance: float = attrs.field(default=5.0, validator=_between(0.1, 120))
    """A node that stops for up to this long (garbage collection, SIGSTOP) and comes back is never declared failed.

    P; it is what a failure takes to be noticed, plus the second or two that news needs. A node that says of itself that
    it stops for longer at times is given that long, up to 60. Not below ``probe_interval``: a pause is to be seen as
    one by more than one probe. 2 on one machine, 5 in a data centre, 10 across oceans.
    """
    suspicion_phi: float = attrs.field(default=2.0, validator=_between(0.5, 16))
    """Evidence of one observer at which it suspects: 2 is one chance in a hundred that the silence means nothing.

    One observer never has more than 3 from one cycle of probes, so above that it takes several cycles. Lower suspects
    sooner and more often without reason, which costs gossip. From 1.5 to 3; not above ``conviction_phi``.
    """
    conviction_phi: float = attrs.field(default=8.0, validator=_between(1, 32))
    """Joint evidence at which a suspect is declared failed, before the term that grows with the cluster's size.

    The usual threshold of accrual detectors, of which three or four accusers bring as much as is needed. Higher takes
    more accusers, and four times the patience when there are not enough of them. From 6 to 12.
    """
    tick_interval: float = attrs.field(default=0.1, validator=_between(0.01, 10))
    """Seconds between looks at whether this node's own event loop is late.

    A node measures its own stalls by it, and tells them to others. Costs one turn of the scheduler per interval. From
    0.05 to 0.25; not above ``pause_tolerance``, or stalls that others have to be patient with would go unseen.
    """

    def __attrs_post_init__(self) -> None:
        """Check the fields against each other."""
        if self.suspicion_phi > self.conviction_phi:
            raise ConfigError(
                f"DetectorConfig.suspicion_phi = {self.suspicion_phi}: must not be above "
                f"conviction_phi = {self.conviction_phi}"
            )
        if self.tick_interval > self.pause_tolerance:
            raise ConfigError(
                f"DetectorConfig.tick_interval = {self.tick_interval}: must not be above "
                f"pause_tolerance = {self.pause_tolerance}"
            )


@attrs.frozen(kw_only=True)
class RpcConfig:
    """Limits of the RPC layer; all are enforced before anything is decoded."""

    max_message_bytes: int = attrs.field(default=4 << 20, validator=_between(1024, 1 << 30))
    """The largest encoded request or result."""
    max_depth: int = attrs.field(default=64, validator=_between(4, 500))
    """How deep values may nest."""
    lane_limit_bytes: int = attrs.field(default=16 << 10, validator=_between(256, 1 << 20))
    """A call with a larger body has a QUIC stream of its own, so that nothing small waits behind it."""
    lanes: int = attrs.field(default=4, validator=_between(1, 64))
    """How many long-lived streams carry the small calls of one connection."""
    max_calls_per_connection: int = attrs.field(default=1024, validator=_between(1, 1_000_000))
    """Calls one peer may have in flight here; it is told so, and keeps the rest waiting on its side."""
    max_running_handlers: int = attrs.field(default=10_000, validator=_between(1, 1_000_000))
    """Handlers that may be suspended at once on this node; further calls wait in the queue."""
    max_threads: int = attrs.field(default=40, validator=_between(1, 10_000))
    """Handlers written as plain ``def`` that run at once on this node, each in a thread; further calls wait."""
    blocked_warning: float = attrs.field(default=1.0, validator=_between(0.001, 3600))
    """Seconds for which a handler may keep the event loop busy before a warning in the log names it."""
    max_connections: int = attrs.field(default=4096, validator=_between(1, 1_000_000))
    """Connections that others may open to this node."""
    max_unauthenticated: int = attrs.field(default=256, validator=_between(1, 1_000_000))
    """Connections in mid-handshake; the newest is refused beyond that.

    A quarter of them may come from addresses that nobody has proved to be the sender's. Beyond that, newcomers are sent
    a token first, which costs them a round trip. One address may have a quarter as well.
    """
    max_unauthenticated_bytes: int = attrs.field(default=16 << 20, validator=_between(65536, 1 << 40))
    """Bytes of datagrams that connections in mid-handshake may make this node hold, in equal shares.

    Must be at least 32 KiB times ``max_unauthenticated``. Each such connection costs some 60 KiB besides.
    """
    max_connections_per_address: int = attrs.field(default=1024, validator=_between(1, 1_000_000))
    """Connections that others may open to this node from one IP address, or from one /64 of IPv6."""
    max_handshakes_per_second: float = attrs.field(default=300.0, validator=_between(1, 1_000_000))
    """Handshakes that may begin per second from one address, and from all that nobody has proved to be the sender's.

    Beyond the latter a newcomer is sent a token first, beyond the former it is refused and tries again. A handshake
    costs about 1.5 ms of a core.
    """
    send_watermark_bytes: int = attrs.field(default=4 << 20, validator=_between(65536, 1 << 30))
    """A sender waits while more than this is unacknowledged on one connection."""
    stream_window_bytes: int = attrs.field(default=256 << 10, validator=_between(1024, 1 << 30))
    """Bytes of one stream of requests or results that wait here to be read; the sender waits beyond it.

    Each value counts 64 bytes more than its encoding. One value more may arrive, so a stream holds at most this and
    ``max_message_bytes``.
    """
    max_request_bytes: int = attrs.field(default=64 << 20, validator=_between(65536, 1 << 40))
    """Bytes of requests above ``lane_limit_bytes`` that one peer may have in flight here; it keeps the rest waiting."""
    max_metadata_bytes: int = attrs.field(default=8192, validator=_between(0, 1 << 20))
    """The largest encoded metadata of a call."""
    tracebacks: bool = attrs.field(default=False, validator=_is_bool)
    """Whether tracebacks of failing handlers are sent to callers, and asked for; both sides must say yes."""
    connect_timeout: float = attrs.field(default=5.0, validator=_between(0.05, 300))
    """Seconds for the handshake of a new connection."""
    idle_timeout: float = attrs.field(default=60.0, validator=_between(1, 3600))
    """Seconds after which a connection without traffic is closed; calls in flight keep it alive."""
    silence_timeout: float = attrs.field(default=10.0, validator=_between(0.2, 3600))
    """Seconds without a sign of life, while calls wait, after which a client that is no node gives a connection up.

    It asks for one four times in that time, so three quarters of it may be enough. A node of a cluster is told by its
    failure detector instead.
    """
    reconnect_min: float = attrs.field(default=0.1, validator=_between(0.001, 600))
    """Seconds after a failed dial in which an address is not dialled again, at first: a random half to the whole."""
    reconnect_max: float = attrs.field(default=10.0, validator=_between(0.001, 3600))
    """The most that they grow to, doubling with every failure; not below ``reconnect_min``."""
    resumption: bool = attrs.field(default=True, validator=_is_bool)
    """Whether tickets are given and used, with which two nodes meet again without showing their certificates."""
    early_data: bool = attrs.field(default=True, validator=_is_bool)
    """Whether a ticket allows to send before the handshake is complete, which saves a round trip."""
    ticket_lifetime: float = attrs.field(default=7200.0, validator=_between(1, 86400))
    """Seconds that a ticket is good for; never longer than the certificate that it stands for."""
    max_tickets: int = attrs.field(default=1024, validator=_between(1, 1_000_000))
    """Tickets that are kept for dialling others again, 2 KiB each; the oldest goes first."""
    max_resumable_peers: int = attrs.field(default=4096, validator=_between(1, 1_000_000))
    """Tickets of this node that others may come back with, 2 KiB each; the oldest goes first."""

    def __attrs_post_init__(self) -> None:
        """Check the fields against each other."""
        if self.max_unauthenticated_bytes < _LEAST_HANDSHAKE_BYTES * self.max_unauthenticated:
            raise ConfigError(
                f"RpcConfig.max_unauthenticated_bytes = {self.max_unauthenticated_bytes}: must be at least "
                f"{_LEAST_HANDSHAKE_BYTES} times max_unauthenticated = {self.max_unauthenticated}"
            )
        if self.lane_limit_bytes > self.max_message_bytes:
            raise ConfigError(
                f"RpcConfig.lane_limit_bytes = {self.lane_limit_bytes}: must not be above "
                f"max_message_bytes = {self.max_message_bytes}"
            )
        if self.reconnect_max < self.reconnect_min:
            raise ConfigError(
                f"RpcConfig.reconnect_max = {self.reconnect_max}: must not be below "
                f"reconnect_min = {self.reconnect_min}"
            )


@attrs.frozen(kw_only=True)
class SupervisionConfig:
    """When a failing task of a node ends the node."""

    max_restarts: int = attrs.field(default=3, validator=_between(0, 1000))
    """More restarts of one task than this within ``restart_window`` end the node with ``NodeCrashed``."""
    restart_window: float = attrs.field(default=60.0, validator=_between(0.1, 86400))
    """Seconds over which restarts are counted."""
    inbox_size: int = attrs.field(default=4096, validator=_between(16, 1_000_000))
    """Events that may wait for one task; beyond that they are merged per node and counted."""
    subscription_size: int = attrs.field(default=1000, validator=_between(1, 1_000_000))
    """Events that may wait for one subscriber; beyond that they are merged per node and counted."""


@attrs.frozen(kw_only=True)
class PartitionConfig:
    """When a loss of many nodes is a partition, and which side of it may go on."""

    strategy: QuorumStrategy | None = attrs.field(factory=KeepMajority)
    """Which side may go on, the same on every node; with None every side may, and partitions are only told."""
    stable_after: float | None = attrs.field(default=None)
    """Seconds without a change after which a partition is declared, from 0.1 to 3600.

    None is ``10 * log10(N)`` and at least 5 (7 for 5 nodes, 20 for 100, 30 for 1000), times ``pause_tolerance / 5``.
    Shorter than a suspicion lasts, and the two sides may disagree on who is on which.
    """
    least_lost: int = attrs.field(default=2, validator=_between(1, 10_000))
    """So many members must be lost at once before a partition is suspected; one that dies is no partition."""
    lost_share: float = attrs.field(default=0.2, validator=_between(0, 1))
    """And this share of all members.

    Members that die by and by have no vote after each stable point. With ``least_lost=1`` and ``lost_share=0`` every
    failed member keeps its vote until it is back, has left, or is forgotten after ``dead_reap_after``: safer where
    nodes that were cut off may come back while others go, but every crash counts until it is repaired.
    """
    zone_tag: str = attrs.field(default="zone")
    """The tag that says where a node stands; values that were lost whole are named in the events."""

    def __attrs_post_init__(self) -> None:
        """Check what is not a plain number."""
        if self.strategy is not None and not isinstance(self.strategy, QuorumStrategy):
            raise ConfigError(
                f"PartitionConfig.strategy = {self.strategy!r}: must be a strategy such as KeepMajority()"
            )
        after = self.stable_after
        if after is not None and (isinstance(after, bool) or not isinstance(after, (int, float))):
            raise ConfigError(f"PartitionConfig.stable_after = {after!r}: must be a number or None")
        if after is not None and not 0.1 <= after <= 3600:
            raise ConfigError(f"PartitionConfig.stable_after = {after!r}: must be from 0.1 to 3600")
        if not isinstance(self.zone_tag, str):
            raise ConfigError(f"PartitionConfig.zone_tag = {self.zone_tag!r}: must be the name of a tag")


@attrs.frozen(kw_only=True)
class NodeConfig:
    """All settings of a node."""

    gossip: GossipConfig = attrs.field(factory=GossipConfig)
    """How news spreads."""
    detector: DetectorConfig = attrs.field(factory=DetectorConfig)
    """How failures are detected."""
    partition: PartitionConfig = attrs.field(factory=PartitionConfig)
    """When the cluster counts as fallen apart, and who may go on."""
    rpc: RpcConfig = attrs.field(factory=RpcConfig)
    """Limits of the RPC layer."""
    supervision: SupervisionConfig = attrs.field(factory=SupervisionConfig)
    """When a failing task ends the node."""
    join: Literal["required", "background"] = attrs.field(default="required")
    """``"required"``: entering fails with ``JoinError`` when no seed answers. ``"background"``: keep trying."""
    join_timeout: float = attrs.field(default=10.0, validator=_between(0.05, 3600))
    """Seconds within which one seed must have answered."""
    drain_timeout: float = attrs.field(default=10.0, validator=_between(0, 3600))
    """Seconds that running handlers get to finish when the node leaves."""
    leave_timeout: float = attrs.field(default=2.0, validator=_between(0, 60))
    """Seconds for spreading the goodbye."""

    def __attrs_post_init__(self) -> None:
        """Check the fields against each other."""
        parts = {
            "gossip": GossipConfig,
            "detector": DetectorConfig,
            "partition": PartitionConfig,
            "rpc": RpcConfig,
            "supervision": SupervisionConfig,
        }
        for name, kind in parts.items():
            if not isinstance(getattr(self, name), kind):
                raise ConfigError(f"NodeConfig.{name} = {getattr(self, name)!r}: must be a {kind.__name__}")
        if self.join not in ("required", "background"):
            raise ConfigError(f"NodeConfig.join = {self.join!r}: must be 'required' or 'background'")
        if self.detector.pause_tolerance < self.detector.probe_interval:
            raise ConfigError(
                f"DetectorConfig.pause_tolerance = {self.detector.pause_tolerance}: must not be below "
                f"probe_interval = {self.detector.probe_interval}"
            )
        if self.gossip.gossip_interval > self.detector.pause_tolerance:
            raise ConfigError(
                f"GossipConfig.gossip_interval = {self.gossip.gossip_interval}: must not be above "
                f"DetectorConfig.pause_tolerance = {self.detector.pause_tolerance}"
            )

    @classmethod
    def local(cls) -> NodeConfig:
        """Return the profile for processes on one machine: fast, and tolerant of pauses of two seconds."""
        return cls(
            gossip=GossipConfig(gossip_interval=0.1, sync_interval=15.0, heal_interval=5.0, event_gap_timeout=1.5),
            detector=DetectorConfig(probe_interval=0.5, pause_tolerance=2.0),
        )

    @classmethod
    def lan(cls) -> NodeConfig:
        """Return the profile for one data centre; this is the default."""
        return cls()

    @classmethod
    def wan(cls) -> NodeConfig:
        """Return the profile for nodes with an ocean between them."""
        return cls(
            gossip=GossipConfig(gossip_interval=0.5, gossip_fanout=4, sync_interval=60.0, event_gap_timeout=8.0),
            detector=DetectorConfig(probe_interval=3.0, indirect_probes=4, pause_tolerance=10.0),
        )
