"""The registry keeps the newest state of every node and answers selections from it."""

from __future__ import annotations

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._core.registry import RegistryMachine, RegistrySnapshot
from rpcnet.events import (
    ClusterEvent,
    EventsDropped,
    NodeEvent,
    NodeFailed,
    NodeInfo,
    NodeJoined,
    NodeLeft,
    NodeReaped,
    NodeRecovered,
    NodeState,
    NodeSuspected,
    NodeUpdated,
)
from rpcnet.selectors import Selector

EVERYWHERE = Selector()


def node(name: str, **changes: object) -> NodeInfo:
    base = NodeInfo(
        id=name.encode().hex().zfill(32),
        name=name,
        address="127.0.0.1:1",
        boot_id=1,
        incarnation=0,
        state=NodeState.ALIVE,
        services=("Echo",),
    )
    return attrs.evolve(base, **changes)  # type: ignore[arg-type]


def registry(*nodes: NodeInfo) -> RegistryMachine:
    machine = RegistryMachine()
    for one in nodes:
        assert machine.apply(NodeJoined(node=one, at=0.0))
    return machine


def names(nodes: tuple[NodeInfo, ...]) -> list[str]:
    return [one.name for one in nodes]


def test_nodes_are_sorted_by_name_whatever_order_they_joined_in() -> None:
    snapshot = registry(node("c"), node("a"), node("b")).snapshot()
    assert names(snapshot.nodes) == ["a", "b", "c"]


def test_a_node_is_found_by_id_and_by_name() -> None:
    a = node("a")
    snapshot = registry(a).snapshot()
    assert snapshot.get("a") is a
    assert snapshot.get(a.id) is a
    assert snapshot.get("b") is None


def test_a_snapshot_stays_as_it_was() -> None:
    machine = registry(node("a"))
    before = machine.snapshot()
    machine.apply(NodeFailed(node=node("a", state=NodeState.FAILED), reason="gone", at=1.0))
    assert before.alive() == (node("a"),)
    assert machine.snapshot().alive() == ()


def test_the_snapshot_is_the_same_object_until_something_changes() -> None:
    machine = registry(node("a"))
    assert machine.snapshot() is machine.snapshot()
    before = machine.snapshot()
    assert not machine.apply(NodeUpdated(node=node("a"), previous=node("a"), at=1.0))
    assert machine.snapshot() is before
    assert machine.apply(NodeJoined(node=node("b"), at=1.0))
    assert machine.snapshot() is not before


def test_an_event_older_than_what_is_known_changes_nothing() -> None:
    machine = registry(node("a", boot_id=2, incarnation=5))
    late = node("a", boot_id=2, incarnation=4, state=NodeState.FAILED)
    assert not machine.apply(NodeFailed(node=late, reason="late", at=1.0))
    assert not machine.apply(NodeReaped(node=node("a", boot_id=1, incarnation=9), at=1.0))
    assert names(machine.snapshot().alive()) == ["a"]


def test_a_reaped_node_is_forgotten() -> None:
    machine = registry(node("a"), node("b"))
    assert machine.apply(NodeReaped(node=node("a"), at=1.0))
    assert names(machine.snapshot().nodes) == ["b"]
    assert not machine.apply(NodeReaped(node=node("a"), at=2.0))


def test_events_that_are_not_about_a_node_change_nothing() -> None:
    assert not registry(node("a")).apply(EventsDropped(count=3, at=1.0))


def test_a_reset_replaces_everything() -> None:
    machine = registry(node("a"), node("b"))
    assert machine.reset([node("c"), node("b")])
    assert names(machine.snapshot().nodes) == ["b", "c"]
    assert not machine.reset([node("b"), node("c")])
    assert machine.apply(NodeReaped(node=node("c"), at=1.0))
    assert names(machine.snapshot().nodes) == ["b"]


def test_nodes_are_filtered_by_tags_and_state() -> None:
    eu = node("a", tags={"zone": "eu"})
    gone = node("b", tags={"zone": "eu"}, state=NodeState.LEFT)
    us = node("c", tags={"zone": "us"})
    snapshot = registry(eu, gone, us).snapshot()
    assert snapshot.where(Selector.parse("zone=eu")) == (eu, gone)
    assert snapshot.where(Selector.parse("zone=eu"), NodeState.ALIVE) == (eu,)
    assert snapshot.alive() == (eu, us)


def test_workers_serve_what_was_asked_for() -> None:
    snapshot = registry(
        node("a", services=("Cache", "Echo")), node("b", services=("Cache",)), node("c", services=())
    ).snapshot()
    assert names(snapshot.workers("Cache", EVERYWHERE)) == ["a", "b"]
    assert names(snapshot.workers("Echo", EVERYWHERE)) == ["a"]
    assert names(snapshot.workers(None, EVERYWHERE)) == ["a", "b"]
    assert snapshot.workers("Nothing", EVERYWHERE) == ()
    assert list(snapshot.services()) == ["Cache", "Echo"]


def test_a_suspected_worker_is_used_only_when_no_alive_one_is_left() -> None:
    machine = registry(node("a"), node("b"))
    machine.apply(NodeSuspected(node=node("a", state=NodeState.SUSPECT), phi=2.0, accusers=(), at=1.0))
    assert names(machine.snapshot().workers("Echo", EVERYWHERE)) == ["b"]
    machine.apply(NodeFailed(node=node("b", state=NodeState.FAILED), reason="gone", at=2.0))
    assert names(machine.snapshot().workers("Echo", EVERYWHERE)) == ["a"]
    machine.apply(NodeRecovered(node=node("b", incarnation=1), at=3.0))
    assert names(machine.snapshot().workers("Echo", EVERYWHERE)) == ["b"]


def test_failed_and_departed_workers_are_never_chosen() -> None:
    machine = registry(node("a"), node("b"))
    machine.apply(NodeFailed(node=node("a", state=NodeState.FAILED), reason="gone", at=1.0))
    machine.apply(NodeLeft(node=node("b", state=NodeState.LEFT), at=1.0))
    assert machine.snapshot().workers("Echo", EVERYWHERE) == ()


def test_the_same_question_to_the_same_snapshot_gives_the_same_tuple() -> None:
    snapshot = registry(node("a", tags={"zone": "eu"})).snapshot()
    once = snapshot.workers("Echo", Selector.parse("zone=eu"))
    assert snapshot.workers("Echo", Selector.parse(" zone == eu")) is once


def test_selections_that_are_made_up_per_call_do_not_grow_a_snapshot_for_ever() -> None:
    snapshot = registry(node("a")).snapshot()
    for number in range(1000):
        assert names(snapshot.workers("Echo", Selector.parse(f"k!={number}"))) == ["a"]
    assert len(snapshot._selected) <= 256


NAMES = st.sampled_from("abcdef")
EVENTS = st.builds(
    lambda kind, name, boot, incarnation, state, services: kind(
        node=node(name, boot_id=boot, incarnation=incarnation, state=state, services=services), at=0.0
    ),
    st.sampled_from([NodeJoined, NodeLeft, NodeRecovered, NodeReaped]),
    NAMES,
    st.integers(1, 2),
    st.integers(0, 3),
    st.sampled_from(NodeState),
    st.sampled_from([(), ("Echo",), ("Cache", "Echo")]),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(EVENTS, max_size=25))
def test_applying_events_one_by_one_gives_what_a_reset_to_the_result_gives(events: list[NodeEvent]) -> None:
    machine = RegistryMachine()
    expected: dict[str, NodeInfo] = {}
    for event in events:
        before = machine.snapshot()
        changed = machine.apply(event)
        _model(expected, event)
        after = machine.snapshot()
        assert changed == (after is not before) == (after.nodes != before.nodes)
        assert after.nodes == RegistrySnapshot(expected.values()).nodes
    other = RegistryMachine()
    other.reset(expected.values())
    assert other.snapshot().nodes == machine.snapshot().nodes
    workers = machine.snapshot().workers("Echo", EVERYWHERE)
    assert len({one.state for one in workers}) <= 1
    assert all(one.is_usable and "Echo" in one.services for one in workers)


def _model(nodes: dict[str, NodeInfo], event: ClusterEvent) -> None:
    assert isinstance(event, NodeEvent)
    held = nodes.get(event.node.id)
    if held is not None and (event.node.boot_id, event.node.incarnation) < (held.boot_id, held.incarnation):
        return
    if isinstance(event, NodeReaped):
        nodes.pop(event.node.id, None)
    else:
        nodes[event.node.id] = event.node


def test_workers_that_stall_are_left_alone_while_there_are_others() -> None:
    quick, slow = node("quick"), node("slow", stall=2.0)
    suspect = node("suspect", state=NodeState.SUSPECT)
    assert names(RegistrySnapshot([quick, slow, suspect]).workers("Echo", EVERYWHERE)) == ["quick"]
    assert names(RegistrySnapshot([slow, suspect]).workers("Echo", EVERYWHERE)) == ["slow"]
    assert names(RegistrySnapshot([suspect]).workers("Echo", EVERYWHERE)) == ["suspect"]
