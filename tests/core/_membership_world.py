"""A small world for pairs of membership and failure-detector machines, in virtual time.

Datagrams have latency and may be lost; full exchanges are reliable messages that take a few latencies; hosts crash,
pause, restart and are cut off from each other. What must hold in every run is checked as it goes:

* no datagram above the limit, and nothing gossiped more often than the transmit limit;
* only the owner of a record raises its boot id, incarnation and meta version;
* per subject and listener: joined first, failed and left only after it, and never back in time.

The same seed gives the same run.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import deque
from collections.abc import Callable, Container, Iterable

import attrs

from rpcnet._core.detector import DetectorMachine
from rpcnet._core.gossip import GossipQueue
from rpcnet._core.members import MemberRecord
from rpcnet._core.messages import MAX_PAYLOAD_BYTES, decode_datagram, decode_state
from rpcnet._core.swim import Effect, Emit, OpenSync, SendDatagram, SwimMachine
from rpcnet._signals import PeerHeard, ProbeDue, Suspicion, Verdict
from rpcnet.config import DetectorConfig, GossipConfig
from rpcnet.events import (
    ClusterEvent,
    NodeEvent,
    NodeFailed,
    NodeJoined,
    NodeLeft,
    NodeReaped,
    NodeReplaced,
    NodeState,
)

STREAM_LATENCIES = 3


def node_id(name: str) -> str:
    return hashlib.blake2b(f"test/{name}".encode(), digest_size=16).hexdigest()


class CheckedQueue(GossipQueue):
    """A gossip queue that counts what it hands out."""

    def __init__(self, *, multiplier: int, max_subjects: int) -> None:
        super().__init__(multiplier=multiplier, max_subjects=max_subjects)
        self.counts: dict[str, int] = {}

    def put(self, subject: str, update: bytes) -> None:
        self.counts[subject] = 0
        super().put(subject, update)

    def take(
        self, budget_bytes: int, n_members: int, first_about: str | None = None, *, without: Container[str] = ()
    ) -> list[bytes]:
        taken = super().take(budget_bytes, n_members, first_about, without=without)
        for update in taken:
            subject = update[:16].hex()
            self.counts[subject] += 1
            assert self.counts[subject] <= self.transmit_limit(n_members), "told more often than the limit"
        assert sum(map(len, taken)) <= budget_bytes
        return taken


@attrs.define(eq=False)
class Host:
    name: str
    swim: SwimMachine
    detector: DetectorMachine
    events: list[ClusterEvent] = attrs.field(factory=list)
    probes: list[tuple[float, str]] = attrs.field(factory=list)
    is_up: bool = True
    is_paused: bool = False
    backlog: list[Callable[[], None]] = attrs.field(factory=list)
    armed: float | None = None
    listed: dict[str, tuple[int, int, int]] = attrs.field(factory=dict)

    @property
    def address(self) -> str:
        return self.swim.local.address

    @property
    def id(self) -> str:
        return self.swim.local.id

    def states(self) -> dict[str, NodeState]:
        return {info.name: info.state for info in self.swim.members()}

    def alive(self) -> set[str]:
        return {name for name, state in self.states().items() if state is NodeState.ALIVE}

    def heard(self, kind: type[NodeEvent], name: str | None = None) -> list[NodeEvent]:
        return [event for event in self.events if isinstance(event, kind) and name in (None, event.node.name)]


class World:
    """Hosts on a network, driven by one heap of timed actions."""

    def __init__(
        self,
        seed: int,
        *,
        gossip: GossipConfig | None = None,
        detector: DetectorConfig | None = None,
        latency: float = 0.001,
        loss: float = 0.0,
        duplication: float = 0.0,
    ) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self.gossip = gossip or GossipConfig()
        self.detector = detector or DetectorConfig()
        self.latency = latency
        self.loss = loss
        self.duplication = duplication
        self.hosts: dict[str, Host] = {}
        self.by_address: dict[str, Host] = {}
        self.side: dict[str, int] = {}
        self.blocked: set[tuple[str, str]] = set()
        self.trace: list[tuple[float, str, str]] = []
        self.datagrams = 0
        self.bytes = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    # --- verbs

    def start(self, name: str, *, seeds: Iterable[str] = (), boot_id: int = 1) -> Host:
        address = f"{name}:7946"
        local = MemberRecord(id=node_id(name), name=name, address=address, boot_id=boot_id)
        seeds = [f"{seed}:7946" for seed in seeds]
        swim = SwimMachine(
            local=local, config=self.gossip, rng=random.Random(self.rng.random()), now=self.now, seeds=seeds
        )
        swim._queue = CheckedQueue(multiplier=self.gossip.transmit_multiplier, max_subjects=1000)
        swim._queue_local()
        detector = DetectorMachine(
            local_id=local.id,
            config=self.detector,
            gossip=self.gossip,
            rng=random.Random(self.rng.random()),
            now=self.now,
        )
        host = Host(name, swim, detector)
        self.hosts[name] = self.by_address[address] = host
        self.perform(host, swim.join(seeds, self.now))
        return host

    def start_many(self, n: int, *, interval: float = 0.0) -> list[Host]:
        """Start ``n`` hosts, all joining through the first."""
        hosts = [self.start("n0")]
        for i in range(1, n):
            self.run(interval)
            hosts.append(self.start(f"n{i}", seeds=["n0"]))
        return hosts

    def restart_membership(self, name: str) -> None:
        """Replace the membership machine of a running host, as its supervisor does after a crash of the task."""
        host = self.hosts[name]
        old = host.swim
        local = attrs.evolve(old.local, boot_id=old.local.boot_id + 1, incarnation=0)
        host.swim = SwimMachine(
            local=local,
            config=self.gossip,
            rng=random.Random(self.rng.random()),
            now=self.now,
            known=old.records(),
        )
        host.detector.reset(host.swim.members(), self.now)
        self._arm(host)

    def crash(self, name: str) -> None:
        self.hosts[name].is_up = False

    def pause(self, name: str, seconds: float) -> None:
        self.hosts[name].is_paused = True
        self.at(self.now + seconds, lambda: self._resume(self.hosts[name]))

    def partition(self, *sides: Iterable[str]) -> None:
        self.side = {name: i for i, side in enumerate(sides) for name in side}

    def block(self, sender: str, receiver: str) -> None:
        """Let nothing through from one host to another, in this direction only."""
        self.blocked.add((sender, receiver))

    def repair(self) -> None:
        self.side = {}
        self.blocked = set()

    def run(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.now, _, action = heapq.heappop(self._heap)
            action()
        self.now = end

    def run_until(self, condition: Callable[[], bool], *, within: float, step: float = 0.1) -> float:
        """Let time pass until ``condition`` holds; return how long that took."""
        start = self.now
        while not condition():
            assert self.now - start < within, f"not within {within} s"
            self.run(step)
        return self.now - start

    def live(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.is_up]

    def at(self, time: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (time, self._count, action))

    # --- the network

    def _reaches(self, a: Host, b: Host) -> bool:
        return self.side.get(a.name, -1) == self.side.get(b.name, -1) and (a.name, b.name) not in self.blocked

    def _deliver(self, sender: Host, address: str, delay: float, action: Callable[[Host], None]) -> None:
        receiver = self.by_address.get(address)
        if receiver is None or not self._reaches(sender, receiver):
            return

        def arrive() -> None:
            if not receiver.is_up or self.by_address[address] is not receiver:
                return
            if receiver.is_paused:
                receiver.backlog.append(arrive)
            else:
                action(receiver)

        self.at(self.now + delay, arrive)

    def _send(self, host: Host, effect: SendDatagram) -> None:
        assert len(effect.payload) <= MAX_PAYLOAD_BYTES
        self.datagrams += 1
        self.bytes += len(effect.payload)
        for update in decode_datagram(effect.payload).updates:
            self._check_owner(update.record)
        source = host.address

        def receive(receiver: Host) -> None:
            self.perform(receiver, receiver.swim.handle_datagram(effect.payload, source, self.now))

        copies = 1 + (self.rng.random() < self.duplication)
        for copy in range(copies):
            if self.rng.random() >= self.loss:
                delay = self.latency * self.rng.uniform(0.8, 1.2) + copy * self.rng.random()
                self._deliver(host, effect.address, delay, receive)

    def _sync(self, host: Host, address: str) -> None:
        delay = self.latency * STREAM_LATENCIES
        request = host.swim.state_payload()
        for record in decode_state(request):
            self._check_owner(record)

        def answer(receiver: Host) -> None:
            self.perform(receiver, receiver.swim.handle_state(request, self.now))
            reply = receiver.swim.state_payload()
            self._deliver(
                receiver,
                host.address,
                delay,
                lambda asker: self.perform(asker, asker.swim.handle_state(reply, self.now)),
            )

        self._deliver(host, address, delay, answer)

    # --- driving a host

    def perform(self, host: Host, effects: Iterable[Effect | ClusterEvent]) -> None:
        """Perform effects, and everything that follows from them at once."""
        todo: deque[Effect | ClusterEvent] = deque(effects)
        while todo:
            match todo.popleft():
                case SendDatagram() as effect:
                    self._send(host, effect)
                case OpenSync(address):
                    self._sync(host, address)
                case Emit(event):
                    self._note(host, event)
                    todo.extend(host.detector.handle(event, self.now))
                case ProbeDue() as due:
                    host.probes.append((self.now, due.node_id))
                    todo.extend(host.swim.probe_due(due, self.now))
                case Suspicion() as suspicion:
                    todo.extend(host.swim.suspicion(suspicion, self.now))
                case Verdict() as verdict:
                    todo.extend(host.swim.verdict(verdict, self.now))
                case PeerHeard() as heard:
                    todo.extend(host.swim.peer_heard(heard, self.now))
                    todo.extend(host.detector.handle(heard, self.now))
        self._arm(host)

    def _arm(self, host: Host) -> None:
        timers = (host.swim.next_timer(), host.detector.next_timer())
        due = max(self.now, min(timer for timer in timers if timer is not None))
        if host.armed is None or due < host.armed:
            host.armed = due
            self.at(due, lambda: self._fire(host, due))

    def _fire(self, host: Host, due: float) -> None:
        if host.armed != due or host.is_paused or not host.is_up:
            return
        host.armed = None
        self._run_timers(host)

    def _run_timers(self, host: Host) -> None:
        self.perform(host, host.swim.on_timer(self.now))
        self.perform(host, host.detector.on_timer(self.now))

    def _resume(self, host: Host) -> None:
        """Wake a host: its overdue timers first, which is the worst order, then what waits in its socket."""
        host.is_paused = False
        host.armed = None
        self._run_timers(host)
        backlog, host.backlog = host.backlog, []
        for arrive in backlog:
            arrive()

    # --- what must hold in every run

    def _check_owner(self, record: MemberRecord) -> None:
        owner = self.hosts[record.name].swim.local
        claimed = (record.boot_id, record.incarnation)
        assert claimed <= (owner.boot_id, owner.incarnation), f"{record.name} was raised by somebody else"
        assert (record.boot_id, record.meta_version) <= (owner.boot_id, owner.meta_version)

    def _note(self, host: Host, event: ClusterEvent) -> None:
        self.trace.append((self.now, host.name, repr(event)))
        if not isinstance(event, NodeEvent):
            return
        host.events.append(event)
        if event.node.id == host.id:
            return
        node = event.node
        position = (node.boot_id, node.incarnation, node.meta_version)
        if not isinstance(event, NodeJoined):
            assert node.id in host.listed, f"{type(event).__name__} before NodeJoined"
            before = host.listed[node.id]
            assert position[:2] >= before[:2], "events went back in time"
            assert position[0] > before[0] or position[2] >= before[2]
        if isinstance(event, NodeReplaced):
            assert node.boot_id > event.previous.boot_id
        if isinstance(event, NodeFailed | NodeLeft):
            assert node.state in (NodeState.FAILED, NodeState.LEFT)
        host.listed[node.id] = position
        if isinstance(event, NodeReaped):
            del host.listed[node.id]
