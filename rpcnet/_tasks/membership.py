"""The membership task: owns the member records, and with them the gossip side of the port.

The rules of this file:

* It drives three machines: who is in the cluster (``swim.py``), what applications tell all (``user_events.py``), and,
  through a watch, whether the cluster has fallen apart. Which of them has said what, nobody outside needs to know.
* Effects are performed at once and in order. What needs a stream runs beside, in a bounded number of tasks.
* A node that has lost its name to another one ends, a moment after its application was told.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Hashable, Sequence

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from rpcnet._core import user_messages as user
from rpcnet._core.exchanges import AskerExchange, encode_fetch
from rpcnet._core.members import MemberRecord
from rpcnet._core.messages import MessageError
from rpcnet._core.partition import PartitionSnapshot
from rpcnet._core.swim import (
    AskOverStream,
    Deliver,
    Effect,
    Emit,
    FetchMetadata,
    OpenSync,
    SendDatagram,
    SwimMachine,
)
from rpcnet._core.user_events import UserEventMachine, UserState
from rpcnet._net.alarm import Alarm
from rpcnet._net.membership_port import MembershipPort, ReceivedDatagram, ReceivedRecords, ReceivedRefusal
from rpcnet._net.server_session import StateRequest
from rpcnet._signals import (
    Ask,
    Collected,
    Draining,
    Leaving,
    OwnVitals,
    PeerHeard,
    ProbeDue,
    Publish,
    Respond,
    SeedsResolved,
    Suspicion,
    TagsChanged,
    Verdict,
)
from rpcnet.config import NodeConfig
from rpcnet.errors import NameConflict, RpcNetError
from rpcnet.events import ClusterEvent, EventsDropped, NameConflictDetected, NodeInfo, SelfIsolated

from .bus import Bus
from .partition_watch import PartitionWatch
from .snapshots import MembershipSnapshot

__all__ = ["MembershipTask"]

log = logging.getLogger("rpcnet.membership")
_MAX_STREAMS = 8
_MAX_DIALS = 1
_STREAM_TIMEOUT = 10.0
_LOG_INTERVAL = 10.0
_LAST_MOMENT = 0.1


class MembershipTask:
    """Receives datagrams, requests and signals, drives the machines, performs their effects.

    Args:
        bus: where it hears what the detector, the RPC server and the node say, and says ``Node*`` and all the rest.
        port: its side of the UDP port.
        local: this node's record at the start of the process.
        config: all settings.
        rng: the node's source of chance.
    """

    def __init__(
        self,
        *,
        bus: Bus,
        port: MembershipPort,
        local: MemberRecord,
        config: NodeConfig,
        rng: random.Random,
    ) -> None:
        self._bus = bus
        self._port = port
        self._mailbox = bus.mailbox(
            "membership",
            *(ProbeDue, Suspicion, Verdict, OwnVitals, SelfIsolated),
            PeerHeard,
            *(TagsChanged, Draining, Leaving, SeedsResolved),
            *(Publish, Ask, Respond, Collected),
        )
        last, now = bus.latest(MembershipSnapshot), trio.current_time()
        self._user = UserEventMachine(
            local=self._local,
            members=self._members,
            config=config.gossip,
            rng=rng,
            now=now,
            known=bus.latest(UserState) or UserState(local.boot_id),
        )
        again = local if last is None else attrs.evolve(last.local, incarnation=last.local.incarnation + 1)
        self._swim = SwimMachine(
            local=again,
            config=config.gossip,
            rng=rng,
            now=now,
            known=() if last is None else last.records,
            user=self._user,
            started=local.boot_id,
        )
        if (seeds := bus.latest(SeedsResolved)) is not None:
            self._swim.seeds_resolved(seeds.addresses)
        self._watch = PartitionWatch(bus=bus, local=again.info(), config=config, rearm=self._rearm)
        self._alarm = Alarm(self._next_timer, self._on_timer)
        self._streams: dict[Hashable, None] = {}
        self._nursery: trio.Nursery | None = None
        self._log_at = now

    def _local(self) -> NodeInfo:
        return self._swim.local.info()

    def _members(self) -> tuple[NodeInfo, ...]:
        return self._swim.members()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._post()
            nursery.start_soon(self._hear_port, name="rpcnet membership port")
            nursery.start_soon(self._hear_bus, name="rpcnet membership inbox")
            nursery.start_soon(self._alarm.run, name="rpcnet membership timer")
            nursery.start_soon(self._watch.run, name="rpcnet membership lease")
            task_status.started()

    # --- hearing

    @enable_ki_protection
    async def _hear_port(self) -> None:
        while True:
            item = await self._port.receive()
            now = trio.current_time()
            try:
                match item:
                    case ReceivedDatagram():
                        self._perform(self._swim.handle_datagram(item.payload, item.source, item.at))
                    case ReceivedRefusal():
                        self._perform(self._swim.refused(item.address, item.at))
                    case ReceivedRecords():
                        try:
                            self._perform(self._swim.joined(item.records, item.address, now))
                        finally:
                            item.taken.set()
                    case StateRequest():
                        reply, effects = self._swim.answer_exchange(item.payload, now)
                        self._perform(effects)
                        item.reply(reply)
            except MessageError as error:
                self._drop(error)

    def _drop(self, error: MessageError) -> None:
        self._port.count_malformed()
        now = trio.current_time()
        if now >= self._log_at:
            self._log_at = now + _LOG_INTERVAL
            log.warning("dropped a malformed membership message: %s", error)

    @enable_ki_protection
    async def _hear_bus(self) -> None:
        while True:
            event = await self._mailbox.get()
            now = trio.current_time()
            if isinstance(event, Publish | Ask | Respond | Collected):
                self._perform(self._order(event, now), now)
            else:
                self._perform(self._decide(event, now))

    def _decide(self, event: ClusterEvent, now: float) -> list[Effect]:
        machine = self._swim
        match event:
            case ProbeDue():
                return machine.probe_due(event, now)
            case Suspicion():
                return machine.suspicion(event, now)
            case Verdict():
                return machine.verdict(event, now)
            case OwnVitals():
                return machine.own_vitals(event, now)
            case PeerHeard():
                return machine.peer_heard(event, now)
            case SelfIsolated():
                self._bus.publish(*self._watch.take([event], now))
                machine.isolated(now)
            case SeedsResolved():
                machine.seeds_resolved(event.addresses)
            case TagsChanged():
                return machine.update_local(now, tags=event.tags)
            case Draining():
                return machine.update_local(now, services=())
            case Leaving():
                return machine.leave(now)
            case EventsDropped():
                log.warning("%d orders to membership were merged", event.count)
        return []

    def _order(self, order: Publish | Ask | Respond | Collected, now: float) -> list[user.UserEffect]:
        match order:
            case Publish():
                return self._user.publish(order, now)
            case Ask():
                return self._user.ask(order, now)
            case Respond():
                return self._user.respond(order, now)
            case Collected():
                return self._user.collected(order)

    # --- timers

    def _next_timer(self) -> float | None:
        timers = (self._swim.next_timer(), self._user.next_timer(), self._watch.next_timer())
        return min((timer for timer in timers if timer is not None), default=None)

    def _on_timer(self, now: float) -> None:
        self._perform([*self._user.on_timer(now), *self._swim.on_timer(now)], now)
        self._bus.publish(*self._watch.on_timer(now))
        self._tell_halt(now)

    def _rearm(self) -> None:
        self._tell_halt(trio.current_time())
        self._alarm.rearm()

    # --- doing

    def _perform(self, effects: Sequence[Effect | user.UserEffect], at: float | None = None) -> None:
        now = trio.current_time() if at is None else at
        events: list[ClusterEvent] = []
        for effect in effects:
            match effect:
                case SendDatagram():
                    self._port.send(effect.address, effect.payload)
                case Emit() | user.Emit():
                    events.append(effect.event)
                case Deliver():
                    events += self._deliver(effect, now)
                case user.Send():
                    self._send_user(effect, now)
                case _:
                    self._open_stream(effect)
        self._post()
        said = self._watch.take(events, now)
        self._bus.publish(*events, *said)
        self._tell_halt(now)
        if self._swim.is_leave_spread:
            self._port.left.set()
        self._alarm.rearm()
        self._check_name(events)

    def _tell_halt(self, now: float) -> None:
        """Tell the others when this side of a partition may not go on, and when it may again."""
        told, seen = self._swim.local.vitals, self._bus.latest(PartitionSnapshot)
        if seen is not None and (told.is_halted, told.is_following) != (seen.is_halted, seen.is_following):
            effects = self._swim.halted(now, is_halted=seen.is_halted, is_following=seen.is_following)
            if effects:
                self._perform(effects, now)

    def _deliver(self, delivery: Deliver, now: float) -> list[ClusterEvent]:
        events: list[ClusterEvent] = []
        for text in delivery.strings:
            try:
                effects = self._user.handle(text, delivery.source, now)
            except MessageError as error:
                self._drop(error)
                continue
            for effect in effects:
                if isinstance(effect, user.Send):
                    self._send_user(effect, now)
                else:
                    events.append(effect.event)
        return events

    def _send_user(self, effect: user.Send, now: float) -> None:
        for sent in self._swim.send_user(effect.node_id, effect.address, effect.data, now):
            self._port.send(sent.address, sent.payload)

    def _check_name(self, events: Sequence[ClusterEvent]) -> None:
        for event in events:
            if isinstance(event, NameConflictDetected) and event.is_lost:
                error = NameConflict(
                    f"the name {event.node.name!r} belongs to a node at {event.address} that started earlier than "
                    f"this one, at {event.node.address}"
                )
                if self._nursery is not None:
                    self._nursery.start_soon(_end, error, name="rpcnet membership end")

    def _post(self) -> None:
        machine, last = self._swim, self._bus.latest(MembershipSnapshot)
        nodes = machine.members()
        if last is None or last.nodes is not nodes or last.local is not machine.local:
            self._bus.post(MembershipSnapshot(machine.local, machine.records(), nodes))
        state = self._user.state()
        if state is not self._bus.latest(UserState):
            self._bus.post(state)

    # --- over streams

    def _open_stream(self, effect: OpenSync | FetchMetadata | AskOverStream) -> None:
        match effect:
            case OpenSync():
                self._start(("sync", effect.address), self._sync, effect)
            case FetchMetadata():
                if not self._start(("fetch", effect.address), self._fetch, effect):
                    self._swim.fetched(effect.fetch, None, trio.current_time())
            case AskOverStream():
                self._open_ask(effect)

    def _open_ask(self, effect: AskOverStream) -> None:
        """Ask over the connection that there is; few are dialled for it, since it is many who miss one node."""
        if self._port.is_connected(effect.address, effect.name):
            self._start(("ask", effect.node_id), self._ask, effect)
        else:
            n_dials = sum(isinstance(key, tuple) and key[0] == "dial" for key in self._streams)
            if n_dials < _MAX_DIALS:
                self._start(("dial", effect.node_id), self._ask, effect)

    def _start(self, key: Hashable, run: Callable[..., Awaitable[None]], effect: Effect) -> bool:
        if self._nursery is None or key in self._streams or len(self._streams) >= _MAX_STREAMS:
            return False
        self._streams[key] = None
        self._nursery.start_soon(self._run, key, run, effect, name=f"rpcnet membership {key}")
        return True

    @enable_ki_protection
    async def _run(self, key: Hashable, run: Callable[..., Awaitable[None]], effect: Effect) -> None:
        try:
            with trio.move_on_after(_STREAM_TIMEOUT):
                await run(effect)
        except MessageError as error:
            self._drop(error)
        except RpcNetError as error:
            log.debug("no %s: %s", key, error)
        finally:
            del self._streams[key]

    async def _sync(self, effect: OpenSync) -> None:
        exchange = self._swim.exchange()
        request: bytes | None = exchange.start(trio.current_time())
        while request is not None:
            reply = await self._port.exchange(effect.address, request)
            now = trio.current_time()
            request = exchange.handle(reply, now)
            self._perform(self._swim.hear(exchange.records, now))

    async def _fetch(self, effect: FetchMetadata) -> None:
        reply = None
        try:
            reply = await self._port.exchange(effect.address, encode_fetch(effect.fetch.digests))
        finally:
            self._perform(self._swim.fetched(effect.fetch, reply, trio.current_time()))

    async def _ask(self, effect: AskOverStream) -> None:
        empty = AskerExchange.show(self._swim, ())
        await self._port.exchange(effect.address, empty.start(trio.current_time()), effect.name)
        self._bus.publish(PeerHeard(effect.node_id, at=trio.current_time()))


async def _end(error: NameConflict) -> None:
    """Raise an error when whoever listens to events has had time to hear why."""
    await trio.sleep(_LAST_MOMENT)
    raise error
