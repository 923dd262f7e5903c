"""User events: told to all, in the order of each sender, none twice, whatever the network does."""

from __future__ import annotations

import contextlib
import random

import attrs
import pytest
from _user_world import UserWorld, info

from rpcnet._core.event_order import EventOrder, Window
from rpcnet._core.messages import MessageError
from rpcnet._core.user_events import Emit, Send, UserEffect, UserState
from rpcnet._core.user_messages import (
    ANSWER_HEAD_BYTES,
    MAX_USER_BYTES,
    Event,
    Identity,
    Missing,
    Question,
    Reply,
    Thanks,
    check_event,
    decode_user,
    encode_event,
    encode_missing,
    encode_question,
    encode_reply,
    encode_thanks,
    with_remaining,
)
from rpcnet._core.user_queue import STRING_OVERHEAD, Key, UserQueue, Waiting
from rpcnet._signals import OrderTaken, Publish
from rpcnet.config import GossipConfig
from rpcnet.errors import ConfigError
from rpcnet.events import NodeState, UserEvent
from rpcnet.selectors import Selector

S, T = "5" * 32, "7" * 32


def event(number: int, *, sender: str = S, boot_id: int = 1, behind: int = 0, payload: bytes = b"") -> Event:
    return Event(Identity(sender, boot_id, number), behind, "e", payload)


def told(effects: list[UserEffect]) -> list[int]:
    return [each.event.number for each in effects if isinstance(each, Emit) and isinstance(each.event, UserEvent)]


def hear(world: UserWorld, *events: Event) -> list[int]:
    """Let node 0 hear events, and return the numbers that it delivers."""
    machine = world.peers[0].machine
    return [number for each in events for number in told(machine.handle(encode_event(each), "n5:1", world.now))]


def taken(effects: list[UserEffect]) -> bool:
    return any(isinstance(each, Emit) and isinstance(each.event, OrderTaken) for each in effects)


def ordered(*, max_senders: int = 9, max_held: int = 8) -> EventOrder:
    return EventOrder(
        gap_timeout=3.0, max_senders=max_senders, max_held=max_held, known={}, patience=lambda: 1.0, interval=0.5
    )


# --- on the wire

QUESTION = Question(Identity(S, 3, 7), 1.5, "a:1", Selector.parse("role=worker"), "q", b"what")
MESSAGES = (
    (event(9, behind=3, payload=b"x"), encode_event(event(9, behind=3, payload=b"x"))),
    (QUESTION, encode_question(QUESTION)),
    (receipt := Reply(Identity(S, 3, 7), T, None, is_relayed=True), encode_reply(receipt)),
    (answer := Reply(Identity(S, 3, 7), T, b""), encode_reply(answer)),
    (thanks := Thanks(Identity(S, 3, 7), T, for_answer=True), encode_thanks(thanks)),
    (missing := Missing(Identity(S, 3, 7), T, 16), encode_missing(missing)),
)


@pytest.mark.parametrize(("message", "data"), MESSAGES)
def test_what_is_encoded_is_decoded(message: object, data: bytes) -> None:
    assert decode_user(data) == message


@pytest.mark.parametrize(("message", "data"), MESSAGES)
def test_a_string_that_is_cut_short_is_refused_or_says_less(message: object, data: bytes) -> None:
    for size in range(len(data)):
        with contextlib.suppress(MessageError):
            assert decode_user(data[:size]) != message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x09",
        b"x" * (MAX_USER_BYTES + 1),
        encode_event(event(0)),
        encode_event(event(1, boot_id=2**63)),
        encode_event(attrs.evolve(event(1), name="")),
        encode_thanks(thanks) + b"x",
        encode_missing(missing) + b"x",
        encode_missing(attrs.evolve(missing, count=0)),
        encode_missing(attrs.evolve(missing, count=17)),
        encode_reply(receipt)[:-1] + b"\x02",
        encode_question(attrs.evolve(QUESTION, address="nowhere")),
        encode_question(attrs.evolve(QUESTION, remaining=3601)),
        encode_question(attrs.evolve(QUESTION, where=Selector.parse("role=~w.*"))),
        encode_question(QUESTION).replace(b"role=worker", b"role=worke,"),
    ],
)
def test_a_malformed_string_is_refused(data: bytes) -> None:
    with pytest.raises(MessageError):
        decode_user(data)


def test_the_largest_event_and_answer_that_can_be_configured_fit_into_a_string() -> None:
    assert len(encode_event(attrs.evolve(event(1), name="ä" * 127, payload=b"x" * (560 - 254)))) <= MAX_USER_BYTES
    assert ANSWER_HEAD_BYTES + 550 == MAX_USER_BYTES
    with pytest.raises(ConfigError, match="max_answer_bytes"):
        GossipConfig(max_answer_bytes=551)
    with pytest.raises(ConfigError, match="max_event_bytes"):
        GossipConfig(max_event_bytes=561)


def test_what_is_too_large_is_refused_with_both_sizes() -> None:
    with pytest.raises(ConfigError, match="513 bytes, at most 512"):
        check_event("e", b"x" * 512, 512)
    with pytest.raises(ConfigError, match="1 to 128 characters, has 129"):
        check_event("e" * 129, b"", 512)
    with pytest.raises(ConfigError, match="must be bytes, not str"):
        check_event("e", "text", 512)  # type: ignore[arg-type]


def test_mutated_strings_leave_the_state_as_it_is_or_are_understood() -> None:
    rng, world = random.Random(3), UserWorld(3)
    machine = world.peers[0].machine
    understood = 0
    for _ in range(5_000):
        data = bytearray(rng.choice(MESSAGES)[1])
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        before, waiting = machine.state(), len(machine)
        try:
            machine.handle(bytes(data), "n5:1", 0.0)
        except MessageError:
            assert machine.state() is before
            assert len(machine) == waiting
        else:
            understood += 1
    assert 250 < understood < 4_750


# --- the queue


def key(number: int) -> Key:
    return ("event", Identity(S, 1, number))


def queue(*sizes: int, **waiting: object) -> UserQueue:
    made = UserQueue(multiplier=4, size=8)
    for number, size in enumerate(sizes, 1):
        made.put(key(number), Waiting(bytes([number]) * size, **waiting))  # type: ignore[arg-type]
    return made


def test_a_string_is_sent_as_often_as_the_limit_says_and_no_more() -> None:
    strings = queue(10)
    assert [len(strings.take(100, 5, 0.0)) for _ in range(10)] == [1] * 8 + [0] * 2
    assert len(strings) == 0


def test_what_was_sent_least_goes_first_and_what_does_not_fit_lets_others_pass() -> None:
    strings = queue(40, 10, 10)
    assert [text[0] for text in strings.take(24, 5, 0.0)] == [2, 3]
    assert [text[0] for text in strings.take(40 + STRING_OVERHEAD, 5, 0.0)] == [1]
    strings.put(key(4), Waiting(b"\x04" * 10))
    assert [text[0] for text in strings.take(12, 5, 0.0)] == [4]


def test_the_queue_says_how_much_room_the_next_string_takes() -> None:
    assert queue().next_bytes == 0
    assert queue(40, 10).next_bytes == 42


def test_too_many_strings_push_out_the_one_sent_most_often() -> None:
    strings = queue(*[10] * 8)
    strings.take(12, 5, 0.0)
    strings.put(key(9), Waiting(b"\x09"))
    assert key(1) not in strings
    assert (len(strings), strings.dropped) == (8, 1)


def test_what_has_a_deadline_leaves_with_what_is_left_of_it_and_not_at_all_afterwards() -> None:
    strings, data = UserQueue(multiplier=4, size=8), encode_question(QUESTION)
    strings.put(("question", QUESTION.identity), Waiting(data, deadline=2.0))
    assert strings.take(500, 5, 0.5) == [data]
    assert strings.take(500, 5, 1.75) == [with_remaining(data, 0.25)]
    assert decode_user(with_remaining(data, 0.25)) == attrs.evolve(QUESTION, remaining=0.25)
    assert strings.take(500, 5, 2.0) == []
    assert len(strings) == 0


# --- the order


def test_events_that_come_in_the_wrong_order_are_delivered_in_the_right_one() -> None:
    world = UserWorld(3)
    assert hear(world, event(1)) == [1]
    assert hear(world, event(4), event(3)) == []
    assert hear(world, event(2)) == [2, 3, 4]


def test_an_event_that_comes_again_is_not_delivered_again() -> None:
    world = UserWorld(3)
    assert hear(world, event(1), event(1), event(3), event(3), event(2), event(2)) == [1, 2, 3]
    assert world.peers[0].machine.statistics().repeated == 3


def test_what_is_missing_is_skipped_after_a_while_and_not_delivered_later() -> None:
    world = UserWorld(3)
    peer = world.peers[0]
    hear(world, event(1), event(4))
    world.now = 2.0
    hear(world, event(3))
    world.now = 2.99
    assert told(peer.machine.on_timer(world.now)) == []
    world.now = 3.0
    assert told(peer.machine.on_timer(world.now)) == [3, 4]
    assert hear(world, event(2)) == []
    assert hear(world, event(5)) == [5]
    assert peer.machine.statistics().skipped == 1


def test_the_sender_is_asked_for_what_gossip_should_have_brought_until_it_is_skipped() -> None:
    order = ordered()
    order.accept(event(1), 0.0)
    order.accept(event(4), 0.5)
    order.accept(event(40, sender=T, behind=30), 0.6)
    asked: list[tuple[float, str, int, int]] = []
    while (now := order.next_timer()) is not None:
        order.due(now)
        asked += [(now, first.sender[0], first.number, count) for first, count in order.missing(now)]
    assert asked[:3] == [(1.5, "5", 2, 2), (1.6, "7", 10, 16), (2.0, "5", 2, 2)]
    assert asked[-1][0] < 3.6
    assert order.skipped == 2 + 30


def test_a_sender_sends_what_is_missing_again_and_bounds_how_much() -> None:
    world = UserWorld(3)
    machine = world.peers[0].machine
    for ticket in range(1, 31):
        world.peers[0].publish(ticket)
    own = Identity(world.peers[0].info.id, 1, 29)

    def sent(identity: Identity, now: float) -> list[int]:
        effects = machine.handle(encode_missing(Missing(identity, T, 16)), "t:1", now)
        messages = [decode_user(effect.data) for effect in effects if isinstance(effect, Send)]
        return [message.identity.number for message in messages]

    assert sent(own, 0.0) == [29, 30]
    assert sent(attrs.evolve(own, boot_id=2), 0.0) == []
    assert sent(attrs.evolve(own, sender=S), 0.0) == []
    assert sum(len(sent(attrs.evolve(own, number=1), 0.1)) for _ in range(9)) == 62
    assert sent(own, 0.2) == [29, 30]


def test_no_event_waits_longer_because_another_one_came() -> None:
    world = UserWorld(3)
    hear(world, event(1), event(9))
    world.now = 2.9
    hear(world, event(5))
    world.now = 3.0
    assert told(world.peers[0].machine.on_timer(world.now)) == [5, 9]


def test_a_joiner_begins_with_what_is_still_being_told_and_not_with_what_was_before() -> None:
    world = UserWorld(3)
    assert hear(world, event(57)) == [57]
    assert hear(world, event(12, sender=T, behind=2)) == []
    assert hear(world, event(10, sender=T, behind=0)) == [10]
    assert hear(world, event(9, sender=T), event(11, sender=T)) == [11, 12]


def test_an_event_says_how_far_back_the_oldest_lies_that_may_still_be_spreading() -> None:
    world = UserWorld(3)
    said: list[int] = []
    for ticket in range(1, 6):
        world.now = float(ticket)
        world.peers[0].publish(ticket)
        (data,) = [text.data for (_, key), text in world.peers[0].machine.state().waiting if key.number == ticket]
        message = decode_user(data)
        assert isinstance(message, Event)
        said.append(message.behind)
    assert said == [0, 1, 2, 3, 3]


def test_a_restarted_sender_begins_anew_and_what_it_said_before_is_over() -> None:
    world = UserWorld(3)
    assert hear(world, event(1), event(2), event(4)) == [1, 2]
    assert hear(world, event(1, boot_id=2)) == [4, 1]
    assert hear(world, event(5), event(2, boot_id=2)) == [2]


def test_an_event_of_its_own_that_comes_back_is_no_news() -> None:
    world = UserWorld(3)
    own = event(1, sender=world.peers[0].info.id, boot_id=7)
    assert hear(world, own) == []
    assert len(world.peers[0].machine) == 0


def test_senders_are_forgotten_when_there_are_too_many_the_silent_ones_first() -> None:
    order = ordered(max_senders=2)
    for number, sender in [(1, "1"), (1, "2"), (2, "1"), (1, "3")]:
        assert order.accept(event(number, sender=sender * 32), 0.0) is not None
    assert [sender[0] for sender in order.heard()] == ["1", "3"]


def test_events_that_wait_are_bounded_and_those_that_waited_longest_go_on() -> None:
    order = ordered(max_held=3)
    order.accept(event(1), 0.0)
    order.accept(event(1, sender=T), 0.0)
    assert order.accept(event(3), 0.1) == []
    assert order.accept(event(3, sender=T), 0.2) == []
    assert order.accept(event(5, sender=T), 0.3) == []
    assert order.accept(event(7, sender=T), 0.4) == [event(3)]
    assert order.skipped == 1


def test_a_window_knows_what_has_come() -> None:
    window: Window | None = Window(1)
    for number, is_new in [
        (1, True),
        (1, False),
        (5, True),
        (3, True),
        (3, False),
        (400, True),
        (5, False),
        (399, True),
    ]:
        assert window is not None
        added = window.add(1, number)
        assert (added is not None) is is_new, number
        window = added or window
    assert window is not None
    assert window.add(0, 1000) is None
    assert window.add(2, 1) == Window(2, 1, 1)


# --- publishing


def test_an_order_that_comes_twice_is_taken_once() -> None:
    machine = UserWorld(3).peers[0].machine
    order = Publish(1, "e", b"x", at=0.0)
    first, second = machine.publish(order, 0.0), machine.publish(order, 0.0)
    assert (told(first), told(second)) == ([1], [])
    assert taken(first)
    assert taken(second)


def test_orders_wait_while_too_much_is_being_told_and_the_node_hears_when_there_is_room() -> None:
    world = UserWorld(3, config=GossipConfig(max_waiting_events=2))
    machine = world.peers[0].machine
    orders = [Publish(ticket, "e", b"", at=0.0) for ticket in (1, 2, 3)]
    assert [told(machine.publish(order, 0.0)) for order in orders] == [[1], [2], []]
    assert machine.next_timer() is None
    for _ in range(8):
        machine.take(100, 3, 0.5)
    assert machine.next_timer() == 0.5
    (effect,) = machine.on_timer(0.5)
    assert effect == Emit(OrderTaken(has_room=True, at=0.5))
    assert told(machine.publish(orders[2], 0.5)) == [3]


def test_alone_in_its_cluster_a_node_publishes_to_itself_and_keeps_nothing() -> None:
    world = UserWorld(1, config=GossipConfig(max_waiting_events=1))
    for ticket in range(1, 5):
        world.peers[0].publish(ticket)
    assert world.peers[0].numbers == [1, 2, 3, 4]
    assert len(world.peers[0].machine) == 0


def test_when_all_others_are_gone_what_waits_for_them_stops_nobody() -> None:
    world = UserWorld(2, config=GossipConfig(max_waiting_events=1))
    world.peers[0].publish(1)
    world.members = (world.members[0], info(1, state=NodeState.FAILED))
    world.peers[0].publish(2)
    assert world.peers[0].numbers == [1, 2]


def test_the_state_is_the_same_until_something_changes() -> None:
    machine = UserWorld(3).peers[0].machine
    state = machine.state()
    machine.on_timer(1.0)
    assert machine.state() is state
    machine.publish(Publish(1, "e", b"", at=0.0), 0.0)
    assert machine.state() is not state


# --- many nodes


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_every_node_hears_what_all_publish_in_the_order_of_each(loss: float) -> None:
    world = UserWorld(10, seed=4, loss=loss, repeat=0.2, latency=0.15)
    for ticket in range(1, 21):
        for peer in world.peers[:3]:
            world.later(ticket * 0.07, lambda peer=peer, ticket=ticket: peer.publish(ticket))  # type: ignore[misc]
    world.run(12)
    heard = 0
    for peer in world.peers:
        for sender in ("", "1", "2"):
            numbers = [number for who, number in peer.user_events if who == sender]
            assert numbers == sorted(set(numbers))
            heard += len(numbers)
        assert len(peer.machine) == 0
    assert heard >= 10 * 3 * 20 * (0.995 if loss else 1)


def test_a_node_that_joins_later_does_not_hear_what_was_before() -> None:
    world = UserWorld(5)
    world.peers[0].publish(1)
    world.run(5)
    joiner = world.join()
    world.peers[0].publish(2)
    world.run(5)
    assert joiner.numbers == [2]


def test_nothing_is_heard_twice_when_tasks_fail_and_start_again() -> None:
    world = UserWorld(8, seed=2, repeat=0.3, latency=0.1)
    for ticket in range(1, 31):
        world.later(ticket * 0.05, lambda ticket=ticket: world.peers[0].publish(ticket))  # type: ignore[misc]
        world.later(ticket * 0.05 + 0.01, world.peers[ticket % 4].crash_task)
    world.run(10)
    for peer in world.peers:
        assert peer.numbers == sorted(set(peer.numbers))
    assert all(peer.numbers == list(range(1, 31)) for peer in world.peers[4:])


def test_what_waited_to_be_told_is_told_by_the_next_machine() -> None:
    world = UserWorld(3)
    world.peers[0].publish(1)
    world.peers[0].crash_task()
    world.run(2)
    assert [peer.numbers for peer in world.peers] == [[1], [1], [1]]


def test_a_restarted_process_counts_from_one_again_and_is_heard() -> None:
    world = UserWorld(4)
    for ticket in (1, 2, 3):
        world.peers[0].publish(ticket)
    world.run(3)
    world.peers[0].restart()
    world.peers[0].publish(1)
    world.run(3)
    assert [peer.numbers for peer in world.peers] == [[1, 2, 3, 1]] * 4


def test_a_flood_of_one_node_is_bounded_at_all_the_others() -> None:
    config = GossipConfig(max_queued_events=16, max_waiting_events=8)
    world = UserWorld(4, config=config)
    for number in range(1, 200):
        hear(world, event(number, payload=b"x" * 500))
    machine = world.peers[0].machine
    assert len(machine) == 16
    assert machine.statistics().dropped == 199 - 16


def test_a_machine_keeps_the_boot_id_of_its_process() -> None:
    world = UserWorld(3)
    peer = world.peers[0]
    peer.info = attrs.evolve(peer.info, boot_id=99)
    peer.crash_task()
    peer.publish(1)
    assert peer.machine.state().boot_id == 1
    assert attrs.evolve(UserState(1), ticket=1).ticket == peer.machine.state().ticket
