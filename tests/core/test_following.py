"""What a program that is no member knows of a cluster, from what nodes tell it."""

from __future__ import annotations

from random import Random

import attrs
import pytest

import rpcnet
from rpcnet._core.following import ClusterNews, Followed, NewsKind, NodeEntry, in_pieces
from rpcnet.events import NodeEvent, NodeInfo, NodeState

ALIVE, SUSPECT, FAILED, LEFT = NodeState.ALIVE, NodeState.SUSPECT, NodeState.FAILED, NodeState.LEFT


def node(name: str = "a", state: NodeState = ALIVE, **fields: object) -> NodeInfo:
    usual = NodeInfo(
        id=f"id of {name}", name=name, address=f"{name}:1", boot_id=1, incarnation=0, state=state, services=("work",)
    )
    return attrs.evolve(usual, **fields)  # type: ignore[arg-type]


def change(*nodes: NodeInfo, **details: object) -> ClusterNews:
    return ClusterNews(NewsKind.CHANGE, [NodeEntry.of(each) for each in nodes], **details)  # type: ignore[arg-type]


def knowing(*nodes: NodeInfo) -> Followed:
    followed = Followed()
    for news in in_pieces(nodes):
        followed.take(news, "teller", 0.0)
    return followed


def told(followed: Followed, *news: ClusterNews) -> list[str]:
    """Return what happened, a word and a name each."""
    events = [event for each in news for event in followed.take(each, "teller", 7.0)]
    assert all(event.at == 7.0 for event in events)
    return [f"{type(event).__name__} {event.node.name}" for event in events if isinstance(event, NodeEvent)]


def test_a_whole_account_joins_who_is_usable_and_remembers_the_others() -> None:
    followed = Followed()
    account = in_pieces([node("a"), node("b", FAILED), node("c", SUSPECT), node("d", LEFT)])
    assert told(followed, *account) == ["NodeJoined a", "NodeJoined c", "NodeSuspected c"]
    assert [each.name for each in followed.snapshot().nodes] == ["a", "b", "c", "d"]


def test_an_account_is_told_in_pieces_of_which_the_last_one_says_so() -> None:
    nodes = [node(f"n{number:03}") for number in range(100)]
    pieces = in_pieces(nodes)
    assert [piece.kind for piece in pieces] == [NewsKind.PIECE] * 6 + [NewsKind.LAST_PIECE]
    assert [entry.info() for piece in pieces for entry in piece.nodes] == nodes
    assert [(piece.kind, piece.nodes) for piece in in_pieces([])] == [(NewsKind.LAST_PIECE, [])]


CHANGES: dict[str, tuple[NodeInfo | None, NodeInfo, list[str]]] = {
    "a new node": (None, node(), ["NodeJoined a"]),
    "a new node that is suspected": (None, node(state=SUSPECT), ["NodeJoined a", "NodeSuspected a"]),
    "a node that failed before anybody heard of it": (None, node(state=FAILED), []),
    "the same again": (node(), node(), []),
    "a suspicion": (node(), node(state=SUSPECT), ["NodeSuspected a"]),
    "a refutation": (node(state=SUSPECT), node(incarnation=1), ["NodeRecovered a"]),
    "a failure": (node(state=SUSPECT), node(state=FAILED), ["NodeFailed a"]),
    "a goodbye": (node(), node(state=LEFT), ["NodeLeft a"]),
    "life after a failure": (node(state=FAILED), node(incarnation=1), ["NodeRecovered a"]),
    "other tags": (node(), node(tags={"x": "1"}, incarnation=1), ["NodeUpdated a"]),
    "other services": (node(), node(services=(), incarnation=1), ["NodeUpdated a"]),
    "another address": (node(), node(address="b:1", incarnation=1), ["NodeUpdated a"]),
    "other tags and a suspicion": (node(), node(state=SUSPECT, tags={"x": "1"}), ["NodeSuspected a", "NodeUpdated a"]),
    "a restart": (node(), node(boot_id=2), ["NodeReplaced a"]),
    "a restart under suspicion": (node(), node(state=SUSPECT, boot_id=2), ["NodeReplaced a", "NodeSuspected a"]),
    "a restart after a failure": (node(state=FAILED), node(boot_id=2), ["NodeJoined a"]),
    "a restart after a goodbye": (node(state=LEFT), node(boot_id=2), ["NodeJoined a"]),
    "a restart that failed": (node(), node(state=FAILED, boot_id=2), ["NodeFailed a"]),
    "life after a failure, under suspicion": (
        node(state=FAILED),
        node(state=SUSPECT),
        ["NodeRecovered a", "NodeSuspected a"],
    ),
    "a second suspicion": (node(state=SUSPECT), node(state=SUSPECT, incarnation=1), ["NodeSuspected a"]),
    "a goodbye after a failure": (node(state=FAILED), node(state=LEFT), ["NodeLeft a"]),
    "a failure after a goodbye": (node(state=LEFT), node(state=FAILED), []),
    "a change of who had failed": (node(state=FAILED), node(state=FAILED, tags={"x": "1"}), []),
    "an older boot": (node(boot_id=2), node(), []),
    "an older incarnation": (node(incarnation=2), node(state=FAILED, incarnation=1), []),
}


@pytest.mark.parametrize(("before", "after", "expected"), CHANGES.values(), ids=CHANGES.keys())
def test_the_events_follow_from_what_was_known(before: NodeInfo | None, after: NodeInfo, expected: list[str]) -> None:
    followed = knowing(*filter(None, [before]))
    assert told(followed, change(after)) == expected
    is_older = before is not None and (before.boot_id, before.incarnation) > (after.boot_id, after.incarnation)
    assert followed.snapshot().get("a") == (before if is_older else after)


def test_events_carry_what_was_told_of_them() -> None:
    followed = knowing(node())
    (suspected,) = followed.take(change(node(state=SUSPECT), phi=3.5, accusers=["x", "y"]), "teller", 1.0)
    assert isinstance(suspected, rpcnet.NodeSuspected)
    assert (suspected.phi, suspected.accusers) == (3.5, ("x", "y"))
    (failed,) = followed.take(change(node(state=FAILED), reason="silent"), "teller", 2.0)
    assert isinstance(failed, rpcnet.NodeFailed)
    assert failed.reason == "silent"
    (back,) = followed.take(change(node(boot_id=2)), "teller", 3.0)
    assert back == rpcnet.NodeJoined(node(boot_id=2), at=3.0)
    (replaced,) = followed.take(change(node(boot_id=3)), "teller", 4.0)
    assert replaced == rpcnet.NodeReplaced(node(boot_id=3), at=4.0, previous=node(boot_id=2))
    (updated,) = followed.take(change(node(boot_id=3, services=())), "teller", 5.0)
    assert updated == rpcnet.NodeUpdated(node(boot_id=3, services=()), at=5.0, previous=node(boot_id=3))


def test_a_failure_of_which_nobody_says_why_was_reported_by_the_teller() -> None:
    (failed,) = knowing(node()).take(change(node(state=FAILED)), "teller", 1.0)
    assert isinstance(failed, rpcnet.NodeFailed)
    assert failed.reason == "reported by teller"


def test_a_node_that_is_forgotten_is_reaped_and_has_failed_if_it_was_usable() -> None:
    followed = knowing(node("a", LEFT), node("b"))
    gone = ClusterNews(NewsKind.CHANGE, [], forgotten=["id of a", "id of b", "id of nobody"])
    assert told(followed, gone) == ["NodeReaped a", "NodeFailed b", "NodeReaped b"]
    assert followed.snapshot().nodes == ()


def test_another_teller_s_account_replaces_the_first_one_s() -> None:
    followed = knowing(node("a"), node("b"), node("c", FAILED))
    followed.begin()
    account = in_pieces([node("a", FAILED), node("d")])
    assert told(followed, *account) == [
        *("NodeFailed a", "NodeJoined d"),
        *("NodeFailed b", "NodeReaped b", "NodeReaped c"),
    ]
    assert [each.name for each in followed.snapshot().nodes] == ["a", "d"]


def test_an_account_that_breaks_off_forgets_nobody() -> None:
    nodes = [node(f"n{number:02}") for number in range(40)]
    followed = knowing(*nodes)
    snapshot = followed.snapshot()
    first, *_ = in_pieces([attrs.evolve(node, state=FAILED) for node in nodes])
    followed.begin()
    assert told(followed, first) == []
    assert followed.snapshot() is snapshot
    followed.begin()
    assert told(followed, *in_pieces(nodes)) == []
    assert followed.snapshot() is snapshot


def test_a_second_account_of_the_same_teller_is_a_whole_one_again() -> None:
    followed = knowing(node("a"), node("b"))
    assert told(followed, change(node("c"))) == ["NodeJoined c"]
    assert told(followed, *in_pieces([node("a"), node("c")])) == ["NodeFailed b", "NodeReaped b"]


def test_whatever_is_told_events_fit_together_and_the_snapshot_is_what_was_told_last() -> None:
    rng = Random(7)
    for _ in range(200):
        followed, alive, latest = Followed(), set[str](), dict[str, NodeInfo]()
        for _ in range(40):
            told_node = node(
                rng.choice("abc"), rng.choice(list(NodeState)), boot_id=rng.randrange(3), incarnation=rng.randrange(3)
            )
            for event in followed.take(change(told_node), "teller", 0.0):
                assert isinstance(event, NodeEvent)
                may_come_from_nothing = (rpcnet.NodeJoined, rpcnet.NodeRecovered, rpcnet.NodeLeft)
                assert isinstance(event, may_come_from_nothing) or event.node.name in alive, event
                if isinstance(event, (rpcnet.NodeFailed, rpcnet.NodeLeft)):
                    alive.discard(event.node.name)
                else:
                    alive.add(event.node.name)
            held = latest.get(told_node.id)
            if held is None or (held.boot_id, held.incarnation) <= (told_node.boot_id, told_node.incarnation):
                latest[told_node.id] = told_node
        assert {each.id: each for each in followed.snapshot().nodes} == latest
        assert alive == {each.name for each in latest.values() if each.is_usable}
