"""The failure detector: stalls, this node's own and others', late timers, jumping clocks, and how fast news spreads."""

from __future__ import annotations

import pytest
from _detector_bench import Bench, cycle_of, info, names, of, suspicions

from rpcnet._signals import NewsAged, OwnVitals, PeerHeard, Stalled, Verdict, VitalsHeard
from rpcnet.events import ClusterEvent, LocalDegraded, NodeState, NodeSuspected

# --- stalls


def test_a_node_that_says_it_stops_for_long_is_given_that_long() -> None:
    bench = Bench(names(20))
    bench.hear(VitalsHeard(node_id="n00", coordinates=None, stall=8.0, at=0.0))
    for name in ("n00", "n01"):
        node = info(name, state=NodeState.SUSPECT, stall=8.0 if name == "n00" else 0.0)
        bench.hear(NodeSuspected(node=node, phi=3.0, accusers=("n05",), at=0.0))
    assert bench.case("n00").patience == pytest.approx(bench.case("n01").patience - 5.0 + 16.0)


def test_nobody_is_given_more_than_a_minute() -> None:
    bench = Bench(names(20))
    node = info("n00", state=NodeState.SUSPECT, stall=64.0)
    bench.hear(NodeSuspected(node=node, phi=3.0, accusers=("n05",), at=0.0))
    assert 60.0 < bench.case("n00").patience < 63.0


def test_an_own_stall_is_told_to_others_and_to_the_application_with_the_handlers_name() -> None:
    bench = Bench(names(5))
    bench.run(5)
    bench.hear(Stalled(2.2, "work.crunch", at=bench.now))
    vitals, local = bench.machine.on_tick(2.1, bench.now)
    assert isinstance(vitals, OwnVitals)
    assert vitals.stall == 2.0
    assert local == LocalDegraded(stall=2.0, handler="work.crunch", at=bench.now)
    assert bench.machine.on_tick(2.1, bench.now + 1) == []


def test_a_stall_between_two_timers_voids_what_was_measured_across_it() -> None:
    bench = Bench(["a"])
    bench.run(20)
    bench.silent = {"a"}
    cycle_of(bench, "a")
    end = bench.cycles["a"].ends_at
    bench.now = end - 0.36
    bench.machine.on_tick(0.0, bench.now)
    bench.now = end - 0.001
    bench.machine.on_tick(0.259, bench.now)
    assert suspicions(bench.run(0.3)) == []
    assert suspicions(bench.run(0.8))


def nearly_convicted(bench: Bench, left: float) -> float:
    """Let time pass until ``left`` seconds before a node is convicted that nobody reaches; return when it is due."""
    bench.miss("n00", "n01", "n02")
    while bench.now < bench.case("n00").verdict_at - left - 0.005:
        bench.run(0.005)
    return bench.case("n00").verdict_at


def test_a_timer_that_comes_in_time_is_late_when_the_tick_is_late() -> None:
    bench = Bench(names(20))
    due = nearly_convicted(bench, 0.05)
    bench.machine.on_tick(0.0, bench.now - 0.15)
    bench.now = due
    assert of(Verdict, bench.machine.on_timer(bench.now)) == []
    bench.machine.on_tick(0.1, bench.now)
    assert of(Verdict, bench.run(0.2))


# --- time


def test_a_cycle_whose_end_comes_late_is_judged_only_after_the_socket_could_be_read() -> None:
    bench = Bench(["a"])
    bench.run(20)
    bench.silent = {"a"}
    last = cycle_of(bench, "a")[-1]
    bench.now = bench.cycles["a"].ends_at + 0.1
    assert suspicions(bench.machine.on_timer(bench.now)) == []
    bench.now += 0.05
    bench.answer(last)
    assert suspicions(bench.run(0.5)) == []


def test_a_verdict_that_comes_late_is_given_only_after_the_socket_could_be_read() -> None:
    bench = Bench(names(20))
    due = nearly_convicted(bench, 0.01)
    bench.now = due + 0.1
    assert of(Verdict, bench.machine.on_timer(bench.now)) == []
    assert of(Verdict, bench.run(0.2))


@pytest.mark.parametrize("lag", [0.3, 0.6, 3.0, 30.0])
def test_after_an_own_lag_nothing_is_judged_before_the_socket_could_be_read(lag: float) -> None:
    bench = Bench(names(20))
    bench.suspect("n00", "n01", "n02", "n03")
    bench.run(bench.case("n00").verdict_at - 0.001)
    bench.silent = set(names(20))
    bench.now += lag
    assert of(Verdict, bench.run(0.24)) == []
    assert suspicions(bench.said) == []


def test_a_node_that_is_always_a_little_late_judges_nevertheless() -> None:
    bench = Bench(names(20))
    bench.run(40)
    bench.silent = {"n00"}
    said: list[ClusterEvent] = []
    while not suspicions(said) and bench.now < 120:
        timer = bench.machine.next_timer()
        assert timer is not None
        bench.now = max(bench.now, timer) + 0.08
        said += bench._take(bench.machine.on_timer(bench.now))
    assert suspicions(said)


def test_answers_that_waited_while_this_node_stood_still_measure_nothing() -> None:
    bench = Bench(names(5))
    bench.run(60)
    bench.silent = {"n00"}
    probe = cycle_of(bench, "n00")[0]
    before = bench.machine._prober.round_trips.q90("n00")
    bench.now += 20.0
    bench.machine.on_timer(bench.now)
    bench.answer(probe)
    assert bench.machine._prober.round_trips.q90("n00") == before


def test_a_clock_that_jumps_back_breaks_nothing() -> None:
    bench = Bench(names(10))
    bench.run(100)
    bench.now -= 50
    bench.silent = {"n00"}
    bench.machine.handle(PeerHeard(node_id="n01", at=bench.now), bench.now)
    bench.machine.on_tick(0.0, bench.now)
    assert bench.machine.on_timer(bench.now) == []
    said = bench.run(100)
    assert any(event.node_id == "n00" for event in suspicions(said))
    assert {event.node_id for event in suspicions(said)} == {"n00"}


def test_a_clock_that_jumps_ahead_is_an_own_lag() -> None:
    bench = Bench(names(10))
    bench.suspect("n00", "n01", "n02", "n03", "n04")
    bench.run(3)
    bench.now += 1e6
    assert of(Verdict, bench.run(5)) == []


# --- news


def test_the_patience_follows_how_fast_news_is_seen_to_spread() -> None:
    slow, fast = Bench(names(20)), Bench(names(20))
    for _ in range(200):
        slow.hear(NewsAged(age=3.0, at=0.0))
        fast.hear(NewsAged(age=0.5, at=0.0))
    for bench in (slow, fast):
        bench.suspect("n00", "n01")
    assert slow.case("n00").patience > fast.case("n00").patience + 1.0
