"""Records, machines and datagrams for tests of the membership machine."""

from __future__ import annotations

import random
from collections.abc import Sequence

import attrs

from rpcnet._core.members import MemberRecord
from rpcnet._core.messages import (
    Accusation,
    Datagram,
    Head,
    Ping,
    Status,
    Update,
    decode_datagram,
    encode_datagram,
    encode_head,
    encode_state,
    encode_update,
)
from rpcnet._core.swim import Effect, Emit, SendDatagram, SwimMachine
from rpcnet.config import GossipConfig
from rpcnet.events import (
    ClusterEvent,
    NodeState,
)

ALIVE, SUSPECT, FAILED, LEFT = NodeState.ALIVE, NodeState.SUSPECT, NodeState.FAILED, NodeState.LEFT


def record(letter: str, **changes: object) -> MemberRecord:
    base = MemberRecord(id=letter * 32, name=letter, address=f"{letter}:1", boot_id=1)
    return attrs.evolve(base, **changes)  # type: ignore[arg-type]


A, B, C, D = (record(letter) for letter in "abcd")


def machine(
    local: MemberRecord = A,
    *others: MemberRecord,
    known: Sequence[MemberRecord] = (),
    seeds: Sequence[str] = (),
    **config: float,
) -> SwimMachine:
    swim = SwimMachine(
        local=local,
        config=GossipConfig(**config),  # type: ignore[arg-type]
        rng=random.Random(1),
        now=0.0,
        seeds=seeds,
        known=known,
    )
    tell(swim, *others)
    return swim


def tell(
    swim: SwimMachine, *records: MemberRecord, by: Sequence[Accusation] = (), now: float = 1.0
) -> list[ClusterEvent]:
    told: list[ClusterEvent] = []
    for item in records:
        told += events(swim.handle_datagram(datagram(None, Update(item, tuple(by))), "x:1", now))
    return told


def datagram(head: Head | None, *news: Update) -> bytes:
    return encode_datagram(encode_head(head), [encode_update(item.record, item.accusations) for item in news])


def events(effects: list[Effect]) -> list[ClusterEvent]:
    return [effect.event for effect in effects if isinstance(effect, Emit)]


def kinds(found: list[ClusterEvent]) -> list[type[ClusterEvent]]:
    return [type(event) for event in found]


def sent(effects: list[Effect]) -> dict[str, Datagram]:
    return {effect.address: decode_datagram(effect.payload) for effect in effects if isinstance(effect, SendDatagram)}


def state_of(swim: SwimMachine, name: str) -> NodeState:
    return next(info.state for info in swim.members() if info.name == name)


def quiet(swim: SwimMachine, now: float = 2.0) -> None:
    """Let everything that is queued be told, so that later datagrams carry only what the test is about."""
    while swim._queue and swim._roster.peers():
        swim._gossip_round(now)


def ping_from(sender: MemberRecord, target: MemberRecord, seq: int = 7) -> Ping:
    return Ping(seq, sender.id, target.id, Status.of(target))


def state(*records: MemberRecord) -> bytes:
    return encode_state(list(records))
