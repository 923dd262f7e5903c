"""The membership task: owns the member records, and with them the gossip side of the port."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from rpcnet._core.members import MemberRecord
from rpcnet._core.messages import MessageError
from rpcnet._core.swim import Effect, Emit, OpenSync, SendDatagram, SwimMachine
from rpcnet._net.alarm import Alarm
from rpcnet._net.membership_port import MembershipPort, ReceivedDatagram, ReceivedState
from rpcnet._net.server_session import StateRequest
from rpcnet._signals import Draining, Leaving, PeerHeard, ProbeDue, Suspicion, TagsChanged, Verdict
from rpcnet.config import GossipConfig
from rpcnet.errors import RpcNetError
from rpcnet.events import ClusterEvent, EventsDropped

from .bus import Bus
from .snapshots import MembershipSnapshot

__all__ = ["MembershipTask"]

log = logging.getLogger("rpcnet.membership")
_MAX_SYNCS = 8
_SYNC_TIMEOUT = 10.0
_LOG_INTERVAL = 10.0


class MembershipTask:
    """Receives datagrams, states and signals, drives the SWIM machine, performs its effects.

    Args:
        bus: where it hears ``ProbeDue``, ``Suspicion``, ``Verdict``, ``PeerHeard``, ``TagsChanged``, ``Draining`` and
            ``Leaving``, and says ``Node*``, ``ProbeAnswered`` and ``Accused``.
        port: its side of the UDP port.
        local: this node's record at the start of the process.
        config: gossip settings.
        rng: the node's source of chance.
        seeds: addresses to try again, for ever, while nodes are missing.
    """

    def __init__(
        self,
        *,
        bus: Bus,
        port: MembershipPort,
        local: MemberRecord,
        config: GossipConfig,
        rng: random.Random,
        seeds: Sequence[str],
    ) -> None:
        self._bus = bus
        self._port = port
        self._mailbox = bus.mailbox(
            "membership", ProbeDue, Suspicion, Verdict, PeerHeard, TagsChanged, Draining, Leaving
        )
        last = bus.latest(MembershipSnapshot)
        now = trio.current_time()
        if last is None:
            self._machine = SwimMachine(local=local, config=config, rng=rng, now=now, seeds=seeds)
        else:
            again = attrs.evolve(last.local, incarnation=last.local.incarnation + 1)
            self._machine = SwimMachine(local=again, config=config, rng=rng, now=now, seeds=seeds, known=last.records)
        self._alarm = Alarm(self._machine.next_timer, self._on_timer)
        self._syncing: dict[str, None] = {}
        self._nursery: trio.Nursery | None = None
        self._log_at = now

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._post()
            nursery.start_soon(self._hear_port, name="rpcnet membership port")
            nursery.start_soon(self._hear_bus, name="rpcnet membership inbox")
            nursery.start_soon(self._alarm.run, name="rpcnet membership timer")
            task_status.started()

    @enable_ki_protection
    async def _hear_port(self) -> None:
        while True:
            item = await self._port.receive()
            try:
                match item:
                    case ReceivedDatagram():
                        self._perform(self._machine.handle_datagram(item.payload, item.source, item.at))
                    case ReceivedState():
                        try:
                            self._perform(self._machine.handle_state(item.payload, trio.current_time()))
                        finally:
                            item.taken.set()
                    case StateRequest():
                        effects = self._machine.handle_state(item.payload, trio.current_time())
                        self._perform(effects)
                        item.reply(self._machine.state_payload())
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
            self._perform(self._decide(await self._mailbox.get(), trio.current_time()))

    def _decide(self, event: ClusterEvent, now: float) -> list[Effect]:
        machine = self._machine
        match event:
            case ProbeDue():
                return machine.probe_due(event, now)
            case Suspicion():
                return machine.suspicion(event, now)
            case Verdict():
                return machine.verdict(event, now)
            case PeerHeard():
                return machine.peer_heard(event, now)
            case TagsChanged():
                return machine.update_local(now, tags=event.tags)
            case Draining():
                return machine.update_local(now, services=())
            case Leaving():
                return machine.leave(now)
            case EventsDropped():
                log.warning("%d orders to membership were merged", event.count)
        return []

    def _on_timer(self, now: float) -> None:
        self._perform(self._machine.on_timer(now))

    def _perform(self, effects: list[Effect]) -> None:
        events: list[ClusterEvent] = []
        for effect in effects:
            match effect:
                case SendDatagram():
                    self._port.send(effect.address, effect.payload)
                case Emit():
                    events.append(effect.event)
                case OpenSync():
                    self._open_sync(effect.address)
        self._post()
        self._bus.publish(*events)
        if self._machine.is_leave_spread:
            self._port.left.set()
        self._alarm.rearm()

    def _post(self) -> None:
        machine = self._machine
        last = self._bus.latest(MembershipSnapshot)
        nodes = machine.members()
        if last is None or last.nodes is not nodes or last.local is not machine.local:
            self._bus.post(MembershipSnapshot(machine.local, machine.records(), nodes))

    def _open_sync(self, address: str) -> None:
        if self._nursery is not None and address not in self._syncing and len(self._syncing) < _MAX_SYNCS:
            self._syncing[address] = None
            self._nursery.start_soon(self._sync, address, name=f"rpcnet sync with {address}")

    @enable_ki_protection
    async def _sync(self, address: str) -> None:
        try:
            with trio.move_on_after(_SYNC_TIMEOUT):
                payload = await self._port.exchange_state(address, self._machine.state_payload())
                self._perform(self._machine.handle_state(payload, trio.current_time()))
        except RpcNetError as error:
            log.debug("no exchange of state with %s: %s", address, error)
        finally:
            del self._syncing[address]
