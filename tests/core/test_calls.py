"""The tables of calls at both ends of a connection."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet import errors
from rpcnet._core.bodies import encode_error
from rpcnet._core.calls import IncomingCalls, OutgoingCalls, refuse_unexpected, status_error_of
from rpcnet._core.framing import Frame, FrameKind
from rpcnet.errors import NotFound, ProtocolError, Status, StatusError, Unknown


@given(st.lists(st.booleans(), max_size=60), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_no_two_calls_in_flight_have_the_same_number_and_each_ends_once(steps: list[bool], rng: object) -> None:
    table = OutgoingCalls[str]()
    waiting: dict[int, str] = {}
    for turn, begins in enumerate(steps):
        if begins or not waiting:
            number = table.begin(f"call {turn}")
            assert number not in waiting
            waiting[number] = f"call {turn}"
        else:
            number = next(iter(waiting))
            assert table.end(number) == waiting.pop(number)
            assert table.end(number) is None
        assert len(table) == len(waiting)
    assert list(table.end_all()) == list(waiting.values())
    assert len(table) == 0


def test_numbers_begin_again_after_the_last_and_step_over_those_in_flight() -> None:
    table = OutgoingCalls[str]()
    first = table.begin("first")
    table._last = 0xFFFF_FFFE
    assert table.begin("last number") == 0xFFFF_FFFF
    assert table.begin("after the last") == first + 1


def test_zero_is_never_the_number_of_a_call() -> None:
    table = OutgoingCalls[str]()
    table._last = 0xFFFF_FFFF
    assert table.begin("call") == 1


def test_a_number_given_up_is_not_used_again_at_once() -> None:
    table = OutgoingCalls[str]()
    number = table.begin("given up")
    table.end(number)
    assert table.begin("next") != number


def test_an_answer_to_a_call_that_was_given_up_is_old_news() -> None:
    table = OutgoingCalls[str]()
    number = table.begin("call")
    assert table.end(number) == "call"
    assert table.end(number) is None


def test_a_server_takes_as_many_calls_as_it_advertised_and_no_more() -> None:
    table = IncomingCalls[str](2)
    assert table.begin(1, "one")
    assert table.begin(2, "two")
    assert not table.begin(3, "three")
    assert table.get(3) is None
    table.end(1)
    assert table.begin(3, "three")
    assert list(table.values()) == ["two", "three"]


def test_a_number_in_flight_may_not_be_used_a_second_time() -> None:
    table = IncomingCalls[str](2)
    table.begin(7, "first")
    with pytest.raises(ProtocolError, match="call 7 is in flight already"):
        table.begin(7, "second")
    table.end(7)
    assert table.begin(7, "again")


def test_the_end_of_a_connection_ends_every_call_oldest_first() -> None:
    table = IncomingCalls[str](9)
    for number in (5, 3, 4):
        table.begin(number, f"call {number}")
    assert list(table.end_all()) == ["call 5", "call 3", "call 4"]
    assert len(table) == 0


def test_every_status_comes_back_as_its_own_class() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, StatusError)]
    for kind in kinds:
        if kind in (StatusError, errors.ApplicationError):
            continue
        sent = Frame(FrameKind.ERROR, 1, kind.status, 1, encode_error(kind("why", call_id="abc")))
        error = status_error_of(sent)
        assert type(error) is kind
        assert (error.message, error.call_id, error.never_ran) == ("why", "abc", True)
    assert {kind.status for kind in kinds} >= set(Status) - {Status.OK}


def test_a_status_that_nobody_knows_becomes_unknown_with_its_number() -> None:
    error = status_error_of(Frame(FrameKind.ERROR, 1, 99, 0, encode_error(NotFound("why"))))
    assert type(error) is Unknown
    assert "99" in str(error)
    assert not error.never_ran


def test_an_error_frame_with_a_body_of_something_else_is_out_of_place() -> None:
    with pytest.raises(ProtocolError, match="ERROR frame"):
        status_error_of(Frame(FrameKind.ERROR, 1, NotFound.status, 0, b"\x80"))


@pytest.mark.parametrize("kind", list(FrameKind))
def test_a_frame_out_of_place_is_refused_by_its_name(kind: FrameKind) -> None:
    error = refuse_unexpected(Frame(kind, 1, 0, 0, b""), "lane")
    assert str(error) == f"{kind.name} frame on a lane stream"
