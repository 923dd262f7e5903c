"""The simulated world: hosts with machines, a network between them, and one heap of what happens when.

The rules of this file:

* Everything happens in virtual time, one thing after the other; the same seed gives the same run. A running hash of all
  that happens is the proof.
* One entry in the heap per datagram under way and per armed timer. A timer is armed anew only when it moves forward;
  one that fires too early looks again.
* A host that stands still keeps what arrives, as much as a socket's buffer holds, and wakes in the worst order: its
  overdue timers first, then what arrived.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from zlib import crc32

import attrs

from rpcnet._core.members import MemberRecord
from rpcnet._core.swim import AskOverStream, Deliver, Emit, FetchMetadata, OpenSync, SendDatagram
from rpcnet._signals import PeerHeard, ProbeDue, Signal
from rpcnet.config import NodeConfig
from rpcnet.events import (
    ClusterEvent,
    NodeEvent,
    NodeFailed,
    NodeInfo,
    NodeReaped,
    NodeState,
    NodeSuspected,
    NodeUpdated,
)

from . import beliefs
from .machines import Machines, Outcome
from .network import DATAGRAM_OVERHEAD, Network
from .scenario import Latency
from .streams import Streams
from .watching import InvariantBroken, Order, Position, ProbeGaps, check_size, watch

__all__ = ["Host", "Note", "World", "id_of"]

_BACKLOG = 256  # datagrams in a socket's buffer of 208 KiB, Linux's default, which counts 832 bytes for each
_OVER_STREAMS = frozenset({OpenSync, FetchMetadata, AskOverStream})
_HINDSIGHT = 30.0


def id_of(name: str) -> str:
    """Return the id of a node."""
    return hashlib.blake2b(f"simulated/{name}".encode(), digest_size=16).hexdigest()


@attrs.frozen
class Note:
    """Something that a node noticed and that is not about one other node's state."""

    at: float
    observer: int
    event: ClusterEvent


@attrs.define(eq=False, slots=True)
class Host:
    """One process on one host; a restart makes another one with the same number."""

    number: int
    address: str
    id: str
    machines: Machines
    order: Order
    gaps: ProbeGaps
    started_at: float
    armed: float = math.inf
    is_up: bool = True
    refuses: bool = False
    """Whether the host answers for the dead process that nobody has the port."""
    is_paused: bool = False
    stalled_at: float = 0.0
    ill_until: float = -math.inf
    """Until when it is no mistake to take it for dead."""
    backlog: list[Callable[[], None]] = attrs.field(factory=list)
    streams: dict[Hashable, None] = attrs.field(factory=dict)
    """What it has under way over streams."""
    is_joined: bool = False
    """Whether a seed has answered it."""

    @property
    def local(self) -> MemberRecord:
        """The node's own record."""
        return self.machines.swim.local


class World:
    """Hosts on a network.

    Args:
        seed: decides everything that is left to chance.
        n_nodes: how many numbers of nodes there are.
        config: settings of all nodes.
        latency: how long datagrams take.
        loss: the probability that a datagram is lost.
        duplication: the probability that one arrives twice.
        zones: how many values the tag ``zone`` has; with 1 there is no such tag.
    """

    def __init__(
        self,
        seed: int,
        n_nodes: int,
        *,
        config: NodeConfig | None = None,
        latency: Latency | None = None,
        loss: float = 0.0,
        duplication: float = 0.0,
        zones: int = 1,
        converged: bool = False,
    ) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self.n_nodes = n_nodes
        self.config = config or NodeConfig()
        self.network = Network(random.Random(self.rng.random()), latency or Latency(), loss, duplication)
        self.hosts: dict[int, Host] = {}
        self.log = beliefs.BeliefLog(n_nodes, converged=converged)
        self.notes: list[Note] = []
        self.updates: list[tuple[float, int, int, int]] = []
        self.suspicions: set[tuple[int, int, int]] = set()
        self.false_deaths: set[tuple[int, int, int]] = set()
        self.tap: Callable[[int, ClusterEvent], None] | None = None
        self._zones = zones
        self._numbers = {id_of(self.name(i)): i for i in range(n_nodes)}
        self._by_address: dict[str, Host] = {}
        self._starts = [0] * n_nodes
        self._known: dict[str, Position] = {}
        self._heap: list[tuple[float, int, Host | None, object, object]] = []
        self._count = 0
        self._trace = 0
        self._cut_until = -math.inf
        self._streams = Streams(self)
        if converged:
            self._start_all()

    # --- names

    @staticmethod
    def name(number: int) -> str:
        """Return the name of a node."""
        return f"n{number}"

    @staticmethod
    def address(number: int) -> str:
        """Return the address of a node; the longest that IPv4 has, so that datagrams are not too small."""
        return f"10.{100 + number // 10000}.{100 + number // 100 % 100}.{100 + number % 100}:17946"

    def number(self, node_id: str) -> int:
        """Return the number of a node by its id."""
        return self._numbers[node_id]

    @property
    def trace_hash(self) -> int:
        """A hash of all that happened so far; equal for equal runs."""
        return self._trace

    def live(self) -> list[Host]:
        """Return the hosts whose process runs, in order of their numbers."""
        return [host for _, host in sorted(self.hosts.items()) if host.is_up]

    # --- starting

    def _record(self, number: int) -> MemberRecord:
        tags = {"zone": f"zone-{number * self._zones // self.n_nodes}"} if self._zones > 1 else {}
        name = self.name(number)
        return MemberRecord(
            id=id_of(name), name=name, address=self.address(number), boot_id=self._starts[number], tags=tags
        )

    def _start_all(self) -> None:
        """Start all nodes at once, each knowing all others; what they know is shared, and nobody has news."""
        self._starts = [1] * self.n_nodes
        records = [self._record(number) for number in range(self.n_nodes)]
        nodes = [record.info() for record in records]
        self._known = {record.id: (record.boot_id, record.incarnation, record.meta_version) for record in records}
        for number in range(self.n_nodes):
            self._add(number, records[number], self._seeds(number), records, nodes)

    def _seeds(self, number: int) -> list[str]:
        return [self.address(seed) for seed in range(min(3, self.n_nodes)) if seed != number]

    def start(self, number: int, *, seeds: Iterable[int] = ()) -> Host:
        """Start a node that knows nothing but addresses, for the first time or again."""
        self._starts[number] += 1
        addresses = [self.address(seed) for seed in seeds]
        self.log.forget(self.now, number)
        host = self._add(number, self._record(number), addresses, (), ())
        self._streams.join(host, addresses)
        return host

    def _add(
        self,
        number: int,
        local: MemberRecord,
        seeds: Sequence[str],
        known: Sequence[MemberRecord],
        nodes: Sequence[NodeInfo],
    ) -> Host:
        machines = Machines(
            local=local,
            config=self.config,
            rng=random.Random(self.rng.random()),
            now=self.now,
            seeds=seeds,
            known=known,
            nodes=nodes,
        )
        host = Host(
            number=number,
            address=local.address,
            id=local.id,
            machines=machines,
            order=Order(self._known if known else {}),
            gaps=ProbeGaps(self.n_nodes, self.config.detector.probe_interval, self.now),
            started_at=self.now,
        )
        watch(machines, self._owner)
        self.hosts[number] = self._by_address[local.address] = host
        self._arm(host)
        return host

    def _owner(self, node_id: str) -> MemberRecord:
        return self.hosts[self._numbers[node_id]].machines.swim.local

    # --- what befalls nodes

    def crash(self, number: int) -> None:
        """Let a host vanish with its node."""
        self.hosts[number].is_up = False
        self.network.forget_connections(number)

    def kill(self, number: int) -> None:
        """End a process; its host refuses what arrives for it."""
        self.crash(number)
        self.hosts[number].refuses = True

    def pause(self, number: int, seconds: float, *, handler: str | None = None) -> None:
        """Let a process stand still; when ``handler`` is given, that holds its loop."""
        host = self.hosts[number]
        if host.is_paused or not host.is_up:
            return
        host.is_paused = True
        host.stalled_at = self.now
        if seconds > self.config.detector.pause_tolerance:
            host.ill_until = self.now + seconds + _HINDSIGHT
        self.at(self.now + seconds, lambda: self._resume(host, handler))

    def partition(self, *groups: Iterable[int]) -> None:
        """Let nothing pass between groups of nodes."""
        self.network.partition(*map(tuple, groups))
        self._cut_until = math.inf

    def block(self, source: int, destination: int) -> None:
        """Let nothing pass from one node to another."""
        self.network.block(source, destination)

    def repair(self) -> None:
        """End all partitions and blocks."""
        self.network.repair()
        self._cut_until = min(self._cut_until, self.now + _HINDSIGHT)

    def leave(self, number: int) -> None:
        """Let a node say goodbye; it ends when that is told, or after its ``leave_timeout``."""
        host = self.hosts[number]
        self.perform(host, host.machines.swim.leave(self.now))
        deadline = self.now + self.config.leave_timeout

        def end() -> None:
            if host.machines.swim.is_leave_spread or self.now >= deadline:
                self.crash(number)
            else:
                self.at(self.now + 0.05, end)

        self.at(self.now + 0.05, end)

    def update_tags(self, number: int) -> int:
        """Let a node change a tag; return the version of its metadata."""
        host = self.hosts[number]
        tags = {**host.local.tags, "changed": f"{self.now:.3f}"}
        self.perform(host, host.machines.swim.update_local(self.now, tags=tags))
        return host.local.meta_version

    def restart_membership(self, number: int) -> None:
        """Replace the membership machine of a running node, as its supervisor does."""
        host = self.hosts[number]
        host.machines.restart_membership(self.now)
        watch(host.machines, self._owner)
        self._arm(host)

    # --- time

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Let something happen at a time."""
        self._count += 1
        heapq.heappush(self._heap, (time, self._count, None, action, None))

    def run(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        self.run_to(self.now + seconds)

    def run_to(self, end: float) -> None:
        """Let time pass until ``end``."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= end:
            self.now, _, host, what, detail = pop(heap)
            if host is None:
                what()  # type: ignore[operator]
            elif what is None:
                self._fire(host, detail)
            else:
                self._arrive(host, what, detail)  # type: ignore[arg-type]
        self.now = end

    def run_until(self, condition: Callable[[], bool], *, within: float, step: float = 0.1) -> float:
        """Let time pass until ``condition`` holds; return how long that took.

        Raises:
            AssertionError: it does not hold within that many seconds.
        """
        start = self.now
        while not condition():
            if self.now - start >= within:
                raise AssertionError(f"not within {within} s")
            self.run(step)
        return self.now - start

    def _arm(self, host: Host) -> None:
        due = host.machines.next_timer()
        if due < host.armed:
            due = max(due, self.now)
            host.armed = due
            self._count += 1
            heapq.heappush(self._heap, (due, self._count, host, None, due))

    def _fire(self, host: Host, due: object) -> None:
        if host.armed != due or host.is_paused or not host.is_up:
            return
        host.armed = math.inf
        self._trace = hash((self._trace, self.now, host.number))
        self.perform(host, host.machines.on_timer(self.now))

    def _resume(self, host: Host, handler: str | None) -> None:
        if not host.is_up:
            return
        host.is_paused = False
        host.armed = math.inf
        host.gaps.excuse(self.now)
        self.perform(host, host.machines.on_timer(self.now))
        self.perform(host, host.machines.stalled(self.now - host.stalled_at, self.now, handler))
        backlog, host.backlog = host.backlog, []
        for arrive in backlog:
            arrive()

    # --- what is under way

    def _send(self, host: Host, address: str, payload: bytes) -> None:
        check_size(payload)
        network = self.network
        traffic = network.traffic
        traffic.datagrams += 1
        traffic.bytes += len(payload) + DATAGRAM_OVERHEAD
        receiver = self._by_address.get(address)
        if receiver is None or (network.is_cut and not network.reaches(host.number, receiver.number)):
            return
        for delay in network.arrivals():
            self._count += 1
            heapq.heappush(self._heap, (self.now + delay, self._count, receiver, payload, host))

    def _arrive(self, host: Host, payload: bytes, sender: Host) -> None:
        if not host.is_up:
            current = self.hosts[host.number]
            if current is not host:
                self._arrive(current, payload, sender)
            elif host.refuses:
                self._refuse(host, sender)
            return
        if host.is_paused:
            if len(host.backlog) < _BACKLOG:
                host.backlog.append(lambda: self._arrive(host, payload, sender))
            return
        self._trace = hash((self._trace, self.now, host.number, crc32(payload)))
        self.perform(host, host.machines.receive(payload, sender.address, self.now))

    def _refuse(self, host: Host, sender: Host) -> None:
        """Say to a sender that nobody has the port, if that gets through."""
        if self.network.is_cut and not self.network.reaches(host.number, sender.number):
            return
        for delay in self.network.arrivals()[:1]:
            self.at(self.now + delay, lambda: self._hear_refusal(sender, host.address))

    def _hear_refusal(self, host: Host, address: str) -> None:
        if not host.is_up:
            return
        if host.is_paused:
            host.backlog.append(lambda: self._hear_refusal(host, address))
            return
        self.mark(host.number, 0)
        self.perform(host, host.machines.refused(address, self.now))

    def deliver(self, source: Host, destination: Host, delay: float, action: Callable[[], None]) -> None:
        """Let something happen at a host after a while, unless the way there is cut or its process gone.

        While it stands still, it waits.
        """
        if self.network.is_cut and not self.network.reaches(source.number, destination.number):
            return

        def arrive() -> None:
            if not destination.is_up:
                return
            if destination.is_paused:
                destination.backlog.append(arrive)
            else:
                action()

        self.at(self.now + delay, arrive)

    def host_at(self, address: str) -> Host | None:
        """Return who is at an address, dead or alive."""
        return self._by_address.get(address)

    def mark(self, *what: int) -> None:
        """Put something that happens into the hash of the run."""
        self._trace = hash((self._trace, self.now, *what))

    # --- at the end

    def check_probes(self) -> None:
        """Check that no live member waits for a probe of another one for too long already.

        Raises:
            InvariantBroken: one does.
        """
        live = [host for host in self.live() if self.now - host.started_at > host.gaps.bound]
        for host in live:
            alive = {node.id for node in host.machines.swim.members() if node.state is NodeState.ALIVE}
            for other in live:
                if other is not host and other.id in alive and host.gaps.is_overdue(other.number, self.now):
                    raise InvariantBroken(f"{host.local.name} probes {other.local.name} no more, at {self.now}")

    # --- driving a host

    def perform(self, host: Host, outcomes: Iterable[Outcome]) -> None:
        """Perform effects, and everything that follows from them at once."""
        todo = list(outcomes)
        now, machines = self.now, host.machines
        for outcome in todo:  # grows while it is walked
            kind = type(outcome)
            if kind is SendDatagram:
                self._send(host, outcome.address, outcome.payload)  # type: ignore[union-attr]
            elif kind in _OVER_STREAMS:
                self._streams.open(host, outcome)  # type: ignore[arg-type]
            elif kind is not Deliver:
                event: ClusterEvent = outcome.event if kind is Emit else outcome  # type: ignore[union-attr,assignment]
                if isinstance(event, Signal):
                    if kind is ProbeDue:
                        host.gaps.check(self._numbers[event.node_id], now)  # type: ignore[attr-defined]
                    elif kind is PeerHeard:  # as good as an answer to a probe
                        host.gaps.met(self._numbers[event.node_id], now)  # type: ignore[attr-defined]
                else:
                    self._note(host, event)
                if self.tap is not None:
                    self.tap(host.number, event)
                todo += machines.route(event, now)
        self._arm(host)

    def _note(self, host: Host, event: ClusterEvent) -> None:
        if not isinstance(event, NodeEvent):
            self.notes.append(Note(self.now, host.number, event))
            return
        node = event.node
        if node.id == host.id:
            return
        host.order.check(event)
        observer, subject = host.number, self._numbers[node.id]
        state = beliefs.UNKNOWN if isinstance(event, NodeReaped) else beliefs.CODES[node.state]
        self.log.add(self.now, observer, subject, state, node.boot_id)
        if state == beliefs.ALIVE and not isinstance(event, NodeUpdated):
            host.gaps.met(subject, self.now)
        match event:
            case NodeUpdated():
                self.updates.append((self.now, observer, subject, node.meta_version))
            case NodeSuspected():
                self.suspicions.add((subject, node.boot_id, node.incarnation))
            case NodeFailed() if self._is_false(host, self.hosts[subject], node):
                self.false_deaths.add((subject, node.boot_id, node.incarnation))

    def _is_false(self, observer: Host, subject: Host, node: NodeInfo) -> bool:
        """Tell whether a node was declared failed that runs, was not paused for too long, and is not cut off."""
        has_left = subject.local.state is NodeState.LEFT
        if node.boot_id != subject.local.boot_id or not (subject.is_up or has_left):
            return False
        return max(subject.ill_until, observer.ill_until, self._cut_until) < self.now
