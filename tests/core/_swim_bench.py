"""Records, machines, datagrams and exchanges for tests of the membership machine."""

from __future__ import annotations

import random
from collections.abc import Sequence

import attrs

from rpcnet._core.composer import UserData
from rpcnet._core.exchanges import Hearsay
from rpcnet._core.members import MemberRecord, Vitals
from rpcnet._core.messages import (
    Accusation,
    Datagram,
    Head,
    Ping,
    Status,
    Update,
    decode_datagram,
    encode_age,
    encode_datagram,
    encode_head,
    encode_refresh,
    encode_update,
)
from rpcnet._core.swim import Effect, Emit, OpenSync, SendDatagram, SwimMachine
from rpcnet._signals import NewsAged
from rpcnet.config import GossipConfig
from rpcnet.events import ClusterEvent, NodeState

ALIVE, SUSPECT, FAILED, LEFT = NodeState.ALIVE, NodeState.SUSPECT, NodeState.FAILED, NodeState.LEFT


def record(letter: str, **changes: object) -> MemberRecord:
    base = MemberRecord(id=letter * 32, name=letter, address=f"{letter}:1", boot_id=1)
    return attrs.evolve(base, **changes)  # type: ignore[arg-type]


A, B, C, D = (record(letter) for letter in "abcd")


class NoChance(random.Random):
    """Chance that never makes a refresh news and never tries to heal unless it must."""

    def random(self) -> float:
        return 0.999


def machine(
    local: MemberRecord = A,
    *others: MemberRecord,
    known: Sequence[MemberRecord] = (),
    seeds: Sequence[str] = (),
    user: UserData | None = None,
    started: int | None = None,
    rng: random.Random | None = None,
    **config: float,
) -> SwimMachine:
    swim = SwimMachine(
        local=local,
        config=GossipConfig(**config),  # type: ignore[arg-type]
        rng=rng or random.Random(1),
        now=0.0,
        seeds=seeds,
        known=known,
        user=user,
        started=started,
    )
    for other in others:
        if other.state is SUSPECT:  # nobody believes in a suspect that was never heard of
            tell(swim, attrs.evolve(other, state=ALIVE))
        tell(swim, other)
    return swim


def tell(
    swim: SwimMachine, *records: MemberRecord, by: Sequence[Accusation] = (), now: float = 1.0, age: float = 0.0
) -> list[ClusterEvent]:
    """Let news come, each in a datagram of its own; what would be a sample of spreading is left out."""
    told: list[ClusterEvent] = []
    for item in records:
        told += events(swim.handle_datagram(datagram(None, Update(item, tuple(by), age)), "x:1", now))
    return [event for event in told if not isinstance(event, NewsAged)]


def datagram(
    head: Head | None, *news: Update, refreshes: Sequence[tuple[MemberRecord, float]] = (), user: Sequence[bytes] = ()
) -> bytes:
    return encode_datagram(
        encode_head(head),
        [encode_age(item.age) + encode_update(item.record, item.accusations) for item in news],
        [encode_age(age) + encode_refresh(item) for item, age in refreshes],
        user,
    )


def events(effects: list[Effect]) -> list[ClusterEvent]:
    return [effect.event for effect in effects if isinstance(effect, Emit)]


def kinds(found: list[ClusterEvent]) -> list[type[ClusterEvent]]:
    return [type(event) for event in found]


def sent(effects: list[Effect]) -> dict[str, Datagram]:
    return {effect.address: decode_datagram(effect.payload) for effect in effects if isinstance(effect, SendDatagram)}


def synced(effects: list[Effect]) -> list[str]:
    return [effect.address for effect in effects if isinstance(effect, OpenSync)]


def state_of(swim: SwimMachine, name: str) -> NodeState:
    return next(info.state for info in swim.members() if info.name == name)


def record_of(swim: SwimMachine, name: str) -> MemberRecord:
    return next(item for item in swim.records() if item.name == name)


def knows(swim: SwimMachine, name: str) -> bool:
    return any(info.name == name for info in swim.members())


def quiet(swim: SwimMachine, now: float = 2.0) -> None:
    """Let everything that is queued be told, so that later datagrams carry only what the test is about."""
    while swim._queue and swim._roster.peers():
        swim._gossip_round(now)


def wait(swim: SwimMachine, until: float) -> list[tuple[float, Effect]]:
    """Let timers run until a time; return what they caused, and when."""
    caused: list[tuple[float, Effect]] = []
    while (timer := swim.next_timer()) is not None and timer <= until:
        caused += [(timer, effect) for effect in swim.on_timer(timer)]
    return caused


def ping_from(sender: MemberRecord, target: MemberRecord, seq: int = 7) -> Ping:
    return Ping(seq, sender.id, target.id, Status.of(target))


def placed(item: MemberRecord, epoch: int, stall: float = 0.0, x: float = 0.25) -> MemberRecord:
    """Return a record with vitals, of values that the wire carries exactly."""
    return attrs.evolve(item, vitals=Vitals(epoch, stall, (x, -0.5, 0.125, 0.5)))


def show(swim: SwimMachine, *records: MemberRecord, now: float = 3.0, age: float = 0.0) -> list[ClusterEvent]:
    """Let an exchange teach records, all of one age."""
    return events(swim.hear([Hearsay(item, age) for item in records], now))


def exchange(asker: SwimMachine, answerer: SwimMachine, now: float) -> None:
    """Run a whole exchange over what would be a stream."""
    asking = asker.exchange()
    request: bytes | None = asking.start(now)
    while request is not None:
        reply, _ = answerer.answer_exchange(request, now)
        request = asking.handle(reply, now)
        asker.hear(asking.records, now)


def snapshot(swim: SwimMachine) -> object:
    """Return everything that a datagram could change in a machine, to compare it."""
    return (
        swim.records(),
        swim.hashes.encode(),
        swim.next_timer(),
        len(swim._queue),
        len(swim._refreshes),
        len(swim._checks),
        [(member.heard_at, dict(member.accusations), member.told_at) for member in swim._roster.members()],
    )
