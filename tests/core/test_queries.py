"""Queries: the question reaches everybody who should answer, and every answer comes back, whatever the network does."""

from __future__ import annotations

import math
from collections.abc import Iterable

import attrs
import pytest
from _user_world import Peer, UserWorld, info

from rpcnet._core.user_events import Send
from rpcnet._core.user_messages import Identity, Question, Reply, Thanks, decode_user, encode_question, encode_reply
from rpcnet._signals import Ask, Collected, Respond
from rpcnet.config import GossipConfig
from rpcnet.events import NodeState, QueryReceived
from rpcnet.selectors import Selector


def by_name(peer: Peer, _query: QueryReceived) -> tuple[bytes, float]:
    """Answer with one's name, soon."""
    return peer.info.name.encode(), 0.05


def default_timeout(n: int) -> float:
    return 16 * 0.2 * math.ceil(math.log10(n + 1))


def names(ids: Iterable[str]) -> list[int]:
    return sorted(int(node_id, 16) for node_id in ids)


def test_all_are_asked_and_all_answer_the_one_that_asks_included() -> None:
    world = UserWorld(6, answer=by_name)
    world.peers[0].ask(1, 5.0, payload=b"who?")
    world.run(2)
    asked = world.peers[0].asked(1)
    assert asked.is_ended
    assert asked.answers == {peer.info.id: peer.info.name.encode() for peer in world.peers}
    assert all([query.payload for query in peer.questions] == [b"who?"] for peer in world.peers)


def test_a_query_ends_as_soon_as_all_have_answered() -> None:
    world = UserWorld(6, answer=by_name)
    world.peers[0].ask(1, 60.0)
    while not world.peers[0].asked(1).is_ended:
        world.run(0.01)
    assert world.now < 1.0
    assert not len(world.peers[0].machine)


def test_a_query_ends_in_time_when_somebody_is_silent_and_says_who() -> None:
    world = UserWorld(5, answer=lambda peer, query: None if peer.info.name == "n3" else by_name(peer, query))
    world.peers[0].ask(1, 3.0)
    world.run(2.99)
    assert not world.peers[0].asked(1).is_ended
    world.run(0.02)
    asked = world.peers[0].asked(1)
    assert asked.is_ended
    assert names(asked.answers) == [0, 1, 2, 4]
    assert names(asked.receipts) == [0, 1, 2, 3, 4]


def test_who_is_down_has_not_got_the_question() -> None:
    world = UserWorld(5, answer=by_name)
    world.peers[3].is_up = False
    world.peers[0].ask(1, 3.0)
    world.run(3.1)
    asked = world.peers[0].asked(1)
    assert names(asked.receipts) == [0, 1, 2, 4]
    assert names(asked.expected) == [0, 1, 2, 3, 4]


def test_who_fails_meanwhile_is_not_waited_for() -> None:
    world = UserWorld(5, answer=by_name)
    world.peers[3].is_up = False
    world.peers[0].ask(1, 60.0)
    world.run(3)
    assert not world.peers[0].asked(1).is_ended
    world.members = tuple(
        attrs.evolve(node, state=NodeState.FAILED) if node.name == "n3" else node for node in world.members
    )
    world.run(1)
    assert world.peers[0].asked(1).is_ended


def test_only_those_whose_tags_match_are_asked_and_the_others_stay_silent() -> None:
    world = UserWorld(8, answer=by_name, tags=lambda index: {"zone": "a" if index % 2 else "b"})
    world.peers[0].ask(1, 5.0, where="zone=a")
    world.run(2)
    asked = world.peers[0].asked(1)
    assert asked.is_ended
    assert names(asked.answers) == [1, 3, 5, 7]
    assert [len(peer.questions) for peer in world.peers] == [0, 1] * 4


def test_a_question_for_nobody_ends_at_once() -> None:
    world = UserWorld(3, answer=by_name)
    world.peers[0].ask(1, 5.0, where="gpu")
    assert world.peers[0].asked(1).is_ended
    assert not len(world.peers[0].machine)


def test_a_node_alone_asks_itself() -> None:
    world = UserWorld(1, answer=by_name)
    world.peers[0].ask(1, 5.0)
    world.run(0.1)
    assert world.peers[0].asked(1).answers == {world.peers[0].info.id: b"n0"}


@pytest.mark.parametrize(("n", "seeds"), [(3, 50), (12, 30), (40, 15)])
def test_of_a_thousand_answers_at_most_one_is_missing_at_30_percent_loss(n: int, seeds: int) -> None:
    answers = receipts = 0
    for seed in range(seeds):
        world = UserWorld(n, seed=seed, loss=0.3, repeat=0.05, latency=0.02, answer=by_name)
        world.peers[0].ask(1, default_timeout(n))
        while not world.peers[0].asked(1).is_ended:
            world.run(0.2)
        answers += len(world.peers[0].asked(1).answers)
        receipts += len(world.peers[0].asked(1).receipts)
    assert answers >= 0.999 * n * seeds
    assert receipts >= answers


def test_without_losses_every_reply_is_sent_once() -> None:
    world = UserWorld(2, answer=lambda _peer, _query: (b"x", 1.9))
    world.peers[0].ask(1, 5.0)
    world.run(1.8)
    told, receipts = 8 + 8, 2  # each node tells the question eight times; a receipt, and thanks for it
    assert world.datagrams == told + receipts
    world.run(1)
    assert world.datagrams == told + receipts + 2
    assert world.peers[0].asked(1).is_ended


def test_each_node_hears_a_question_once_however_often_it_comes() -> None:
    world = UserWorld(6, repeat=0.5, latency=0.1)
    world.peers[0].ask(1, 4.0)
    for peer in world.peers:
        world.later(0.7, peer.crash_task)
    world.run(6)
    assert [len(peer.questions) for peer in world.peers] == [1] * 6


def test_questions_and_answers_outlive_the_machines() -> None:
    world = UserWorld(6, answer=lambda peer, _query: (peer.info.name.encode(), 0.6))
    world.peers[0].ask(1, 6.0)
    for at in (0.1, 0.55, 0.65, 0.8):
        for peer in world.peers:
            world.later(at, peer.crash_task)
    world.run(6.1)
    assert len(world.peers[0].asked(1).answers) == 6


def test_an_order_to_ask_that_comes_twice_is_taken_once_and_in_any_order() -> None:
    world = UserWorld(3)
    for number in (2, 1, 2, 1):
        world.peers[0].ask(number, 3.0)
    world.run(2)
    assert [sorted(query.number for query in peer.questions) for peer in world.peers] == [[1, 2]] * 3


def test_only_the_first_answer_of_a_node_counts() -> None:
    world = UserWorld(2)
    world.peers[0].ask(1, 5.0)
    world.run(1)
    (query,) = world.peers[1].questions
    world.peers[1].respond(query, b"first")
    world.peers[1].respond(query, b"second")
    world.run(1)
    assert world.peers[0].asked(1).answers == {world.peers[1].info.id: b"first"}


def test_an_answer_after_the_deadline_is_ignored_counted_and_thanked_for() -> None:
    world = UserWorld(2)
    peer = world.peers[0]
    peer.ask(1, 1.0)
    world.run(1.1)
    identity = Identity(peer.info.id, 1, 1)
    effects = peer.machine.handle(encode_reply(Reply(identity, world.peers[1].info.id, b"late")), "n1:1", world.now)
    assert peer.asked(1).answers == {}
    assert peer.machine.statistics().late_answers == 1
    (thanks,) = [decode_user(effect.data) for effect in effects if isinstance(effect, Send)]
    assert thanks == Thanks(identity, world.peers[1].info.id, for_answer=True)


def test_answers_to_the_questions_of_an_earlier_boot_are_ignored() -> None:
    world = UserWorld(2)
    peer = world.peers[0]
    peer.ask(1, 5.0)
    reply = Reply(Identity(peer.info.id, 0, 1), world.peers[1].info.id, b"old")
    assert peer.machine.handle(encode_reply(reply), "n1:1", world.now) == []
    assert peer.asked(1).answers == {}


def test_replies_of_nodes_that_nobody_knows_are_bounded() -> None:
    world = UserWorld(2)
    peer = world.peers[0]
    peer.ask(1, 5.0)
    for index in range(500):
        reply = Reply(Identity(peer.info.id, 1, 1), info(1000 + index).id, b"forged")
        peer.machine.handle(encode_reply(reply), "n1:1", world.now)
    assert len(peer.asked(1).receipts) == 2 + 64
    assert peer.machine.statistics().late_answers > 400


def test_a_node_passes_a_reply_on_once_when_it_is_asked_to() -> None:
    world = UserWorld(3)
    reply = Reply(Identity(info(1).id, 1, 1), info(2).id, b"x", is_relayed=True)
    machine = world.peers[0].machine
    (send,) = machine.handle(encode_reply(reply), "n2:1", 0.0)
    assert isinstance(send, Send)
    assert (send.node_id, decode_user(send.data)) == (info(1).id, attrs.evolve(reply, is_relayed=False))
    assert machine.handle(send.data, "n2:1", 0.0) == []


def test_a_question_loses_time_on_its_way_and_is_over_when_none_is_left() -> None:
    world = UserWorld(3)
    machine = world.peers[0].machine
    question = Question(Identity(info(1).id, 1, 1), 1.0, "n1:1", Selector(), "q", b"")
    machine.handle(encode_question(question), "n1:1", 0.0)
    (passed_on,) = machine.take(500, 3, 0.75)
    assert decode_user(passed_on) == attrs.evolve(question, remaining=0.25)
    over = attrs.evolve(question, identity=Identity(info(1).id, 1, 2), remaining=0.0)
    assert machine.handle(encode_question(over), "n1:1", 0.75) == []


def test_what_is_owed_is_forgotten_at_the_deadline() -> None:
    world = UserWorld(3)
    machine = world.peers[0].machine
    question = Question(Identity(info(1).id, 1, 1), 1.0, "n1:1", Selector(), "q", b"")
    machine.handle(encode_question(question), "n1:1", 0.0)
    assert [standing.identity for standing in machine.state().queries.standing] == [question.identity]
    machine.on_timer(1.0)
    assert machine.state().queries.standing == ()
    assert machine.next_timer() is None
    order = Respond(info(1).id, 1, 1, b"late", at=1.0)
    assert not [effect for effect in machine.respond(order, 1.0) if isinstance(effect, Send)]


def test_questions_that_stand_are_bounded() -> None:
    world = UserWorld(3, config=GossipConfig(max_queued_events=4, max_waiting_events=2))
    machine = world.peers[0].machine
    for number in range(1, 8):
        question = Question(Identity(info(1).id, 1, number), 9.0, "n1:1", Selector(), "q", b"")
        machine.handle(encode_question(question), "n1:1", 0.0)
    assert len(machine.state().queries.standing) == 4
    assert machine.statistics().refused_questions == 3


def test_a_question_that_does_not_fit_with_its_selector_ends_with_the_reason() -> None:
    world = UserWorld(3)
    world.peers[0].ask(1, 5.0, where="zone=" + "z" * 240, payload=b"x" * 500)
    asked = world.peers[0].asked(1)
    assert asked.is_ended
    assert "at most 600 are allowed" in asked.problem


def test_a_question_waits_for_room_like_an_event() -> None:
    world = UserWorld(3, config=GossipConfig(max_waiting_events=1))
    peer = world.peers[0]
    peer.publish(1)
    order = Ask(1, "q", b"", "", 9.0, at=0.0)
    assert peer.machine.ask(order, 0.0) == []
    assert peer.machine.state().queries.asked == ()


def test_what_was_collected_is_forgotten_and_what_was_given_up_is_asked_no_more() -> None:
    world = UserWorld(3)
    peer = world.peers[0]
    peer.ask(1, 5.0)
    assert len(peer.machine) == 1
    peer.machine.collected(Collected(1, at=0.0))
    assert peer.machine.state().queries.asked == ()
    assert len(peer.machine) == 0


def test_who_answers_for_the_first_time_near_the_deadline_takes_all_ways_at_once() -> None:
    world = UserWorld(6)
    machine = world.peers[0].machine
    question = Question(Identity(info(1).id, 1, 1), 9.0, "n1:1", Selector(), "q", b"")
    machine.handle(encode_question(question), "n1:1", 0.0)

    def sent(at: float) -> int:
        effects = machine.respond(Respond(info(1).id, 1, 1, b"x", at=at), at)
        return sum(isinstance(effect, Send) for effect in effects)

    assert sent(8.5) == 3
    other = attrs.evolve(question, identity=Identity(info(1).id, 1, 2))
    receipts = machine.handle(encode_question(other), "n1:1", 0.0)
    assert sum(isinstance(effect, Send) for effect in receipts) == 1
