"""Many timers of one machine."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._core.timers import Timers


def test_the_first_that_is_due_comes_first_and_none_before_its_time() -> None:
    timers = Timers()
    for key, at in (("c", 3.0), ("a", 1.0), ("b", 2.0)):
        timers.set(key, at)
    assert timers.pop(0.5) is None
    assert [timers.pop(2.5), timers.pop(2.5), timers.pop(2.5)] == [("a", 1.0), ("b", 2.0), None]
    assert timers.next() == 3.0


def test_a_timer_that_is_set_again_comes_only_then() -> None:
    timers = Timers()
    timers.set("a", 1.0)
    timers.set("a", 5.0)
    assert timers.pop(4.0) is None
    timers.set("a", 2.0)
    assert timers.pop(9.0) == ("a", 2.0)
    assert timers.pop(9.0) is None


@given(st.lists(st.tuples(st.sampled_from(["set", "cancel", "pop"]), st.integers(0, 4), st.integers(0, 9))))
@settings(max_examples=300, deadline=None)
def test_it_is_a_table_of_times(steps: list[tuple[str, int, int]]) -> None:
    timers, table = Timers(), dict[str, float]()
    for step, number, at in steps:
        key = str(number)
        if step == "set":
            timers.set(key, at)
            table[key] = at
        elif step == "cancel":
            timers.cancel(key)
            table.pop(key, None)
        else:
            got = timers.pop(at)
            due = [time for time in table.values() if time <= at]
            assert (got is None) == (not due)
            if got is not None:
                assert got[1] == min(due) == table.pop(got[0])
        assert timers.next() == min(table.values(), default=None)
        assert len(timers) == len(table)


def test_timers_that_are_set_again_and_again_take_no_room() -> None:
    timers = Timers()
    timers.set("early", 0.0)
    for i in range(10_000):
        timers.set("a", 10.0 + i)
    assert len(timers._heap) < 200
    assert timers.next() == 0.0
