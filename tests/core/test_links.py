"""Links that are degraded while both ends live."""

from __future__ import annotations

from rpcnet._core.links import LinkWatch
from rpcnet.events import LinkDegraded, NodeInfo, NodeState


def info(name: str) -> NodeInfo:
    return NodeInfo(id=name, name=name, address=f"{name}:1", boot_id=1, incarnation=0, state=NodeState.ALIVE)


def indirect(links: LinkWatch, *times: float, name: str = "a") -> list[bool]:
    return [bool(links.answered_through_others(info(name), now - 0.4, now)) for now in times]


def failed_calls(links: LinkWatch, *times: float, is_answering: bool = True) -> list[bool]:
    return [bool(links.call_failed(info("a"), "no route", now, is_answering=is_answering)) for now in times]


def test_a_member_that_answers_only_others_is_tried_again_until_more_than_three_periods_have_passed() -> None:
    links = LinkWatch("me", 1.0)
    assert indirect(links, 0.4, 1.4, 2.4) == [False] * 3
    assert links.is_to_be_tried_again("a")
    (event,) = links.answered_through_others(info("a"), 3.0, 3.4)
    assert event == LinkDegraded(node=info("a"), observer="me", reason="it answers others, but not this node", at=3.4)
    assert not links.is_to_be_tried_again("a")


def test_it_is_said_once_until_it_answers_directly() -> None:
    links = LinkWatch("me", 1.0)
    assert indirect(links, 0.4, 4.0, 9.0, 50.0) == [False, True, False, False]
    links.answered_directly("a")
    assert indirect(links, 60.0, 64.0) == [False, True]


def test_the_time_for_which_this_node_stood_still_does_not_count() -> None:
    links = LinkWatch("me", 1.0)
    indirect(links, 0.4)
    links.delay(30.0)
    assert indirect(links, 31.0) == [False]
    assert indirect(links, 33.8) == [True]


def test_three_failed_calls_within_sixty_periods_are_too_many() -> None:
    links = LinkWatch("me", 1.0)
    assert failed_calls(links, 0, 1, 2, 3, 4) == [False, False, True, False, False]


def test_failed_calls_far_apart_say_nothing() -> None:
    links = LinkWatch("me", 1.0)
    assert failed_calls(links, 0, 40, 80, 120) == [False] * 4


def test_failed_calls_to_a_member_that_does_not_answer_either_are_no_matter_of_the_link() -> None:
    links = LinkWatch("me", 1.0)
    assert failed_calls(links, 0, 1, 2, 3, is_answering=False) == [False] * 4
    assert failed_calls(links, 4) == [True]


def test_calls_may_fail_anew_after_the_member_was_heard_on_a_connection() -> None:
    links = LinkWatch("me", 1.0)
    failed_calls(links, 0, 1, 2)
    links.heard("a")
    assert failed_calls(links, 3, 4, 5) == [False, False, True]


def test_what_is_noted_is_bounded_and_forgotten_with_the_member() -> None:
    links = LinkWatch("me", 1.0)
    for i in range(3000):
        indirect(links, 0.4, name=str(i))
    assert len(links._indirect) == 1024
    indirect(links, 0.4)
    links.forget("a")
    assert indirect(links, 4.0) == [False]
