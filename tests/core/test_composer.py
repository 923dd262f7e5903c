"""What rides on a datagram, in which shares, and that it never grows too large."""

from __future__ import annotations

import random

import attrs
import pytest
from _swim_bench import SUSPECT, A, B, C, datagram, machine, ping_from, placed, quiet, record, sent, tell

from rpcnet._core.composer import Composer
from rpcnet._core.gossip import GossipQueue, RefreshQueue
from rpcnet._core.members import MAX_BOOT_ID, MAX_INCARNATION, MemberRecord, Vitals
from rpcnet._core.messages import (
    MAX_PAYLOAD_BYTES,
    Accusation,
    Ack,
    Claim,
    Datagram,
    Head,
    Nack,
    Ping,
    PingReq,
    Status,
    Update,
    decode_datagram,
    encode_refresh,
    encode_update,
)
from rpcnet._core.roster import Roster
from rpcnet._core.user_messages import MAX_USER_BYTES, Identity
from rpcnet._core.user_queue import UserQueue, Waiting

PING = Ping(1, A.id, B.id, Status.of(B))
LONG_ADDRESS = "h" * 249 + ":65535"
LARGE_STATUS = Status(MAX_BOOT_ID, MAX_INCARNATION, SUSPECT, MAX_INCARNATION)
HEADS: tuple[Head | None, ...] = (
    None,
    PING,
    Ack(1, A.id, A.id, Status.of(A)),
    Ack(1, A.id, B.id, LARGE_STATUS, you=LARGE_STATUS),
    Ack(1, A.id, A.id, LARGE_STATUS, is_stranger=True, asked=C.id),
    PingReq(1, A.id, B.id, LARGE_STATUS, 1.0, LONG_ADDRESS),
    Nack(1, A.id, B.id, refused=True),
    Claim(A.id, LARGE_STATUS, MAX_BOOT_ID, LONG_ADDRESS),
)


@attrs.define(eq=False)
class Bench:
    """A composer and what it fills its datagrams from."""

    queue: GossipQueue = attrs.field(factory=lambda: GossipQueue(multiplier=4, max_subjects=10_000))
    refreshes: RefreshQueue = attrs.field(factory=RefreshQueue)
    user: UserQueue = attrs.field(factory=lambda: UserQueue(multiplier=4, size=1000))
    composer: Composer = attrs.field(init=False)
    count: int = 0

    def __attrs_post_init__(self) -> None:
        roster = Roster(A, [B, C], max_members=100, now=0.0)
        self.composer = Composer(roster, self.queue, self.refreshes, self.user)

    def add_news(self, number: int, size: int = 0) -> None:
        for _ in range(number):
            self.count += 1
            item = MemberRecord(id=f"{self.count:032x}", name="n", address="n:1", boot_id=1, tags={"k": "v" * size})
            self.queue.put(item.id, encode_update(item), 0.0)

    def add_signs(self, number: int) -> None:
        for i in range(number):
            item = placed(record("b", id=f"{i:016x}" * 2), 1)
            self.refreshes.put(item.id, encode_refresh(item), 0.0)

    def add_user(self, number: int, size: int) -> None:
        for _ in range(number):
            self.count += 1
            self.user.put(("event", Identity(A.id, 1, self.count)), Waiting(b"u" * size))

    def send(self, head: Head | None = None, *first: Update, private: tuple[bytes, ...] = ()) -> Datagram:
        effect = self.composer.send("b:1", head, 0.0, first=first, private=private)
        assert len(effect.payload) <= MAX_PAYLOAD_BYTES
        return decode_datagram(effect.payload)


def n_user(sent_: Datagram) -> int:
    return sum(len(text) + 2 for text in sent_.user)


# --- user data


def test_user_data_has_a_quarter_when_news_waits() -> None:
    bench = Bench()
    bench.add_news(500)
    bench.add_user(500, 60)
    shares = [n_user(bench.send()) for _ in range(20)]
    assert all(200 < share < 400 for share in shares)
    assert 0.22 < sum(shares) / 20 / MAX_PAYLOAD_BYTES < 0.26


def test_user_data_has_everything_when_no_news_waits() -> None:
    bench = Bench()
    bench.add_user(500, 60)
    assert n_user(bench.send(PING)) > MAX_PAYLOAD_BYTES - 60 - 62 - 5


def test_news_has_everything_when_no_user_data_waits() -> None:
    bench = Bench()
    bench.add_news(500)
    assert len(bench.send(PING).updates) >= 20


def test_a_string_above_a_quarter_goes_with_the_datagram_for_which_its_claims_suffice() -> None:
    bench = Bench()
    bench.add_news(500)
    bench.add_user(1, MAX_USER_BYTES)
    went = [n_user(bench.send()) for _ in range(12)]
    assert [size > 0 for size in went[:3]] == [False, False, True]
    assert sum(went) / 12 / MAX_PAYLOAD_BYTES <= 0.25


def test_claims_end_with_the_user_data_and_are_not_saved_for_later() -> None:
    bench = Bench()
    bench.add_news(500)
    for _ in range(50):
        bench.send()
    bench.add_user(2, MAX_USER_BYTES)
    assert [n_user(bench.send()) > 0 for _ in range(5)] == [False, False, True, False, True]


def test_what_is_for_the_receiver_alone_is_always_in_it() -> None:
    bench = Bench()
    bench.add_news(500)
    bench.add_user(500, 100)
    for head in HEADS[:3]:
        assert bench.send(head, private=(b"p" * MAX_USER_BYTES,)).user[0] == b"p" * MAX_USER_BYTES


# --- news and signs of life


def test_refreshes_ride_on_probes_and_answers_only() -> None:
    carried = {}
    for head in HEADS:
        bench = Bench()
        bench.add_signs(3)
        carried[type(head).__name__, id(head)] = len(bench.send(head).refreshes)
    assert {kind for (kind, _), count in carried.items() if count == 3} == {"Ping", "Ack"}
    assert {kind for (kind, _), count in carried.items() if count == 0} == {"NoneType", "PingReq", "Nack", "Claim"}


def test_news_goes_before_signs_of_life() -> None:
    bench = Bench()
    bench.add_news(500)
    bench.add_signs(16)
    assert len(bench.send(PING).refreshes) <= 2
    bench = Bench()
    bench.add_news(1)
    bench.add_signs(30)
    full = bench.send(PING)
    assert (len(full.updates), len(full.refreshes)) == (1, 16)


def test_what_must_be_in_a_datagram_is_first_and_not_said_twice() -> None:
    bench = Bench()
    bench.queue.put(B.id, encode_update(B), 0.0)
    bench.queue.put(C.id, encode_update(C), 0.0)
    out = bench.send(PING, Update(B))
    assert [update.record for update in out.updates] == [B, C]


def test_news_about_the_receiver_goes_first_so_that_it_can_refute() -> None:
    swim = machine(A, B)
    quiet(swim)
    for letter in "cdef123456789":
        tell(swim, record(letter, tags={"k": "v" * 300}))
    tell(swim, record("b", state=SUSPECT), by=[Accusation(C.id, 2.0)])
    reply = sent(swim.handle_datagram(datagram(ping_from(B, A)), "b:1", 3.0))["b:1"]
    assert reply.updates[0] == Update(record("b", state=SUSPECT), (Accusation(C.id, 2.0),), 2.0)


# --- size


@pytest.mark.parametrize("head", HEADS)
def test_no_datagram_is_too_large_whatever_rides_along(head: Head | None) -> None:
    rng = random.Random(5)
    bench = Bench()
    fullest = 0
    for _ in range(300):
        bench.add_news(rng.randrange(3), rng.choice((0, 20, 150, 480)))
        bench.add_signs(rng.randrange(20))
        bench.add_user(rng.randrange(3), rng.choice((1, 50, 300, MAX_USER_BYTES)))
        private = (b"p" * MAX_USER_BYTES,) if rng.random() < 0.2 else ()
        effect = bench.composer.send("b:1", head, 0.0, private=private)
        assert len(effect.payload) <= MAX_PAYLOAD_BYTES
        fullest = max(fullest, len(effect.payload))
        decode_datagram(effect.payload)
    assert fullest > MAX_PAYLOAD_BYTES - 100


@pytest.mark.parametrize("head", HEADS[:5])
def test_the_largest_record_goes_with_every_head_that_it_may_have_to_go_with(head: Head | None) -> None:
    vitals = Vitals(MAX_INCARNATION, 128.0, (1.0, 1.0, 1.0, 1.0))
    largest = record("b", name="\u00e9" * 127 + "x", address=LONG_ADDRESS, tags={"k": "v" * 504}, vitals=vitals)
    bench = Bench()
    bench.add_news(10)
    bench.add_signs(10)
    assert bench.send(head, Update(largest)).updates[0].record == largest


def test_a_composer_without_user_data_says_none() -> None:
    roster = Roster(A, [B], max_members=100, now=0.0)
    composer = Composer(roster, GossipQueue(multiplier=4, max_subjects=10), RefreshQueue(), None)
    assert decode_datagram(composer.send("b:1", PING, 0.0).payload) == Datagram(PING)
