"""The bus: nobody waits to send, nobody who is slow ends in an untrue state."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._signals import Accused, PeerHeard, ProbeDue, TagsChanged, Verdict
from rpcnet._tasks.bus import Bus, Mailbox
from rpcnet._tasks.subscriptions import EventStream, SubscriptionHub
from rpcnet.events import (
    ClusterEvent,
    EventsDropped,
    NodeEvent,
    NodeFailed,
    NodeInfo,
    NodeJoined,
    NodeLeft,
    NodeReaped,
    NodeState,
    NodeUpdated,
)

NODES = [f"{number:032x}" for number in range(6)]


def info(node_id: str, incarnation: int = 0, state: NodeState = NodeState.ALIVE) -> NodeInfo:
    return NodeInfo(node_id, node_id[-2:], "10.0.0.1:7946", 1, incarnation, state)


def event_of(node_id: str, incarnation: int, kind: type[NodeEvent]) -> NodeEvent:
    node = info(node_id, incarnation)
    if kind is NodeUpdated:
        return NodeUpdated(node, previous=node, at=0.0)
    if kind is NodeFailed:
        return NodeFailed(node, reason="silence", at=0.0)
    return kind(node, at=0.0)


def drain(mailbox: Mailbox) -> list[ClusterEvent]:
    """Take everything that waits; never waits."""
    taken: list[ClusterEvent] = []

    async def take() -> None:
        with trio.CancelScope() as scope:
            while True:
                if not mailbox.statistics().waiting and not mailbox._missed:
                    scope.cancel()
                taken.append(await mailbox.get())

    trio.run(take)
    return taken


# --- one mailbox


@given(
    st.integers(1, 4),
    st.lists(
        st.tuples(
            st.sampled_from(NODES), st.sampled_from([NodeJoined, NodeUpdated, NodeFailed, NodeLeft]), st.integers(0, 2)
        ),
        max_size=40,
    ),
)
@settings(deadline=None)
def test_whatever_the_interleaving_a_reader_ends_with_the_last_event_of_every_node(
    size: int, steps: list[tuple[str, type[NodeEvent], int]]
) -> None:
    async def scenario() -> None:
        mailbox = Mailbox(size, (NodeEvent,))
        put: dict[str, NodeEvent] = {}
        got: dict[str, NodeEvent] = {}
        delivered = dropped = 0

        async def take() -> None:
            nonlocal delivered, dropped
            event = await mailbox.get()
            if isinstance(event, EventsDropped):
                dropped += event.count
            elif isinstance(event, NodeEvent):
                delivered += 1
                before = got.get(event.node.id)
                assert before is None or before.node.incarnation < event.node.incarnation, "an older event came later"
                got[event.node.id] = event

        for number, (node_id, kind, takes) in enumerate(steps):
            put[node_id] = event_of(node_id, number, kind)
            mailbox.put(put[node_id])
            for _ in range(takes):
                if mailbox.statistics().waiting:
                    await take()
        while mailbox.statistics().waiting:
            await take()
        assert got == put
        assert delivered <= len(steps)
        assert dropped == mailbox.statistics().dropped
        assert dropped >= len(steps) - delivered

    trio.run(scenario)


def test_a_mailbox_that_is_not_full_delivers_everything_in_order() -> None:
    mailbox = Mailbox(10, (ClusterEvent,))
    events = [event_of(NODES[0], number, NodeUpdated) for number in range(10)]
    for event in events:
        mailbox.put(event)
    assert drain(mailbox) == events
    assert mailbox.statistics().dropped == 0


def test_a_full_mailbox_says_what_was_dropped_before_what_was_merged() -> None:
    mailbox = Mailbox(2, (ClusterEvent,))
    events = [event_of(NODES[number % 3], number, NodeUpdated) for number in range(8)]
    for event in events:
        mailbox.put(event)
    first, second, dropped, *merged = drain(mailbox)
    assert [first, second] == events[:2]
    assert isinstance(dropped, EventsDropped)
    assert dropped.count == 6
    assert merged == events[5:]


def test_a_slow_reader_hears_of_every_node_however_many_there_are() -> None:
    mailbox = Mailbox(2, (NodeEvent,))
    nodes = [f"{number:032x}" for number in range(50)]
    for node_id in nodes:
        mailbox.put(event_of(node_id, 0, NodeJoined))
    heard = [event.node.id for event in drain(mailbox) if isinstance(event, NodeEvent)]
    assert heard == nodes


def test_what_waits_of_forgotten_nodes_and_of_orders_is_bounded() -> None:
    mailbox = Mailbox(4, (ClusterEvent,))
    for number in range(1000):
        node_id = f"{number:032x}"
        mailbox.put(event_of(node_id, 0, NodeJoined))
        mailbox.put(event_of(node_id, 0, NodeReaped))
        mailbox.put(ProbeDue(node_id, 1, number, at=0.0))
    assert mailbox.statistics().waiting <= 8
    assert len(drain(mailbox)) <= 9


def test_a_node_that_comes_back_after_it_was_forgotten_is_not_lost() -> None:
    mailbox = Mailbox(1, (NodeEvent,))
    mailbox.put(event_of(NODES[1], 0, NodeJoined))
    mailbox.put(event_of(NODES[0], 0, NodeReaped))
    mailbox.put(event_of(NODES[0], 1, NodeJoined))
    assert drain(mailbox)[-1] == event_of(NODES[0], 1, NodeJoined)


SAME_SUBJECT: list[tuple[str, Callable[[float], ClusterEvent]]] = [
    ("tags", lambda at: TagsChanged({"at": str(at)}, at=at)),
    ("verdicts on one node", lambda at: Verdict(NODES[0], 1, 1, "silence", at=at)),
    ("accusations by one node", lambda at: Accused(NODES[0], 1, 1, NODES[1], at, at=at)),
    ("packets of one node", lambda at: PeerHeard(NODES[0], at=at)),
]


@pytest.mark.parametrize("make", [make for _, make in SAME_SUBJECT], ids=[name for name, _ in SAME_SUBJECT])
def test_of_orders_about_one_thing_the_latest_is_kept(make: Callable[[float], ClusterEvent]) -> None:
    mailbox = Mailbox(1, (ClusterEvent,))
    mailbox.put(event_of(NODES[0], 0, NodeJoined))
    for at in range(5):
        mailbox.put(make(float(at)))
    _, dropped, *rest = drain(mailbox)
    assert isinstance(dropped, EventsDropped)
    assert rest == [make(4.0)]


def test_different_probes_and_different_accusers_are_different_things() -> None:
    mailbox = Mailbox(1, (ClusterEvent,))
    orders: list[ClusterEvent] = [
        ProbeDue(NODES[0], 1, 1, at=0.0),
        ProbeDue(NODES[0], 1, 2, at=0.0),
        Accused(NODES[0], 1, 1, NODES[1], 2.0, at=0.0),
        Accused(NODES[0], 1, 1, NODES[2], 2.0, at=0.0),
    ]
    mailbox = Mailbox(4, (ClusterEvent,))
    for _ in range(4):
        mailbox.put(event_of(NODES[0], 0, NodeJoined))
    for order in orders:
        mailbox.put(order)
    assert drain(mailbox)[-4:] == orders


def test_after_the_reader_has_caught_up_events_come_one_by_one_again() -> None:
    mailbox = Mailbox(1, (ClusterEvent,))
    for number in range(3):
        mailbox.put(event_of(NODES[0], number, NodeUpdated))
    drain(mailbox)
    again = event_of(NODES[0], 3, NodeUpdated)
    mailbox.put(again)
    assert drain(mailbox) == [again]


def test_a_closed_mailbox_gives_what_waits_then_the_end_and_takes_nothing_more() -> None:
    async def scenario() -> None:
        mailbox = Mailbox(1, (ClusterEvent,))
        for number in range(3):
            mailbox.put(event_of(NODES[number], number, NodeJoined))
        mailbox.close()
        mailbox.put(event_of(NODES[3], 3, NodeJoined))
        kinds = [type(await mailbox.get()) for _ in range(4)]
        assert kinds == [NodeJoined, EventsDropped, NodeJoined, NodeJoined]
        with pytest.raises(trio.EndOfChannel):
            await mailbox.get()
        mailbox.put(event_of(NODES[3], 3, NodeJoined))

    trio.run(scenario)


async def test_a_cancelled_get_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    mailbox = Mailbox(4, (ClusterEvent,))
    event = event_of(NODES[0], 0, NodeJoined)
    for at in (0.9, 1.0, 1.1):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def put_later() -> None:
                await trio.sleep(1.0)
                mailbox.put(event)

            with trio.move_on_after(at) as scope:
                assert await mailbox.get() == event
            await trio.sleep(0.5)
            if scope.cancelled_caught:
                assert await mailbox.get() == event
        assert mailbox.statistics().waiting == 0


# --- the bus


@attrs.frozen
class Snapshot:
    number: int


def test_publishing_reaches_those_who_asked_for_the_class_and_nobody_else() -> None:
    bus = Bus(8)
    nodes, failures, tags = (
        bus.mailbox("nodes", NodeEvent),
        bus.mailbox("failures", NodeFailed),
        bus.mailbox("tags", TagsChanged),
    )
    joined, failed = event_of(NODES[0], 0, NodeJoined), event_of(NODES[0], 1, NodeFailed)
    bus.publish(joined, failed)
    assert drain(nodes) == [joined, failed]
    assert drain(failures) == [failed]
    assert drain(tags) == []


def test_a_restarted_task_finds_what_waited_in_its_mailbox() -> None:
    bus = Bus(8)
    bus.mailbox("registry", NodeEvent)
    event = event_of(NODES[0], 0, NodeJoined)
    bus.publish(event)
    assert drain(bus.mailbox("registry", NodeEvent)) == [event]
    assert bus.position("registry") == 1


def test_of_snapshots_the_last_is_kept() -> None:
    bus = Bus(8)
    assert bus.latest(Snapshot) is None
    bus.post(Snapshot(1))
    bus.post(Snapshot(2))
    assert bus.latest(Snapshot) == Snapshot(2)


def test_a_full_inbox_delays_no_other() -> None:
    bus = Bus(2)
    stuck, quick = bus.mailbox("stuck", NodeEvent), bus.mailbox("quick", NodeEvent)
    heard: list[ClusterEvent] = []
    for number in range(100):
        bus.publish(event_of(NODES[0], number, NodeUpdated))
        heard += drain(quick)
    assert len(heard) == 100
    assert stuck.statistics().waiting == 3
    assert stuck.statistics().dropped == 98


# --- subscriptions


async def test_a_subscription_begins_with_the_usable_nodes_known() -> None:
    hub = SubscriptionHub(8)
    states = [NodeState.ALIVE, NodeState.SUSPECT, NodeState.FAILED, NodeState.LEFT]
    known = [info(node_id, 0, state) for node_id, state in zip(NODES, states, strict=False)]
    mailbox = hub.subscribe((ClusterEvent,), known)
    hub.close()
    heard = [event async for event in EventStream(mailbox)]
    assert [event.node for event in heard if isinstance(event, NodeJoined)] == known[:2]
    assert len(heard) == 2


async def test_a_subscription_to_failures_only_begins_empty() -> None:
    hub = SubscriptionHub(8)
    mailbox = hub.subscribe((NodeFailed,), [info(NODES[0])])
    hub.publish(event_of(NODES[0], 1, NodeUpdated))
    failed = event_of(NODES[0], 2, NodeFailed)
    hub.publish(failed)
    assert await mailbox.get() == failed


async def test_a_subscription_to_failures_is_told_when_some_were_merged() -> None:
    hub = SubscriptionHub(1)
    mailbox = hub.subscribe((NodeFailed,), [])
    for number in range(3):
        hub.publish(event_of(NODES[number], 0, NodeFailed))
    kinds = [type(await mailbox.get()) for _ in range(4)]
    assert kinds == [NodeFailed, EventsDropped, NodeFailed, NodeFailed]


async def test_the_iteration_ends_when_the_hub_is_closed() -> None:
    hub = SubscriptionHub(8)
    stream = EventStream(hub.subscribe((ClusterEvent,), [info(NODES[0])]))
    hub.close()
    assert len([event async for event in stream]) == 1
    late = EventStream(hub.subscribe((ClusterEvent,), []))
    assert [event async for event in late] == []


async def test_who_has_unsubscribed_gets_nothing_more() -> None:
    hub = SubscriptionHub(8)
    mailbox = hub.subscribe((ClusterEvent,), [])
    hub.unsubscribe(mailbox)
    hub.publish(event_of(NODES[0], 0, NodeJoined))
    with pytest.raises(trio.EndOfChannel):
        await mailbox.get()


async def test_a_cancelled_iteration_loses_nothing() -> None:
    hub = SubscriptionHub(8)
    stream = EventStream(hub.subscribe((ClusterEvent,), [info(NODES[0])]))
    with trio.CancelScope() as scope:
        scope.cancel()
        await anext(stream)
    assert scope.cancelled_caught
    assert isinstance(await anext(stream), NodeJoined)
