"""The failure detector: helpers, refusals, connections, links, coordinates, stalls, and its own isolation."""

from __future__ import annotations

import itertools
import math

import pytest
from _detector_bench import Bench, cycle_of, info, names, of, probes, suspicions

from rpcnet._core.coordinates import ORIGIN
from rpcnet._signals import (
    LeaseExpired,
    OwnVitals,
    PeerHeard,
    PeerUnreachable,
    ProbeDue,
    ProbeNacked,
    ProbeRefused,
    Suspicion,
    Verdict,
    VitalsHeard,
)
from rpcnet.events import (
    ClusterEvent,
    LinkDegraded,
    NodeFailed,
    NodeJoined,
    NodeRecovered,
    NodeState,
    SelfIsolated,
)


def verdict_at(bench: Bench, name: str, within: float = 60.0) -> float:
    start = bench.now
    while bench.now < start + within:
        for verdict in of(Verdict, bench.run(0.05)):
            if verdict.node_id == name:
                return bench.now - start
    raise AssertionError("no verdict")


# --- helpers and connections


def test_a_connection_is_asked_once_per_cycle_and_not_for_a_mere_delay() -> None:
    bench = Bench(names(10))
    bench.run(30)
    bench.silent = {"n00"}
    assert [probe.fallback for probe in cycle_of(bench, "n00")] == [False, False, False, False, False, True]


def test_helpers_of_different_zones_are_asked_first() -> None:
    bench = Bench([])
    for i in range(12):
        zone = {"zone": "far"} if i == 11 else {"zone": "near"}
        bench.hear(NodeJoined(node=info(f"n{i:02}", tags=zone), at=0.0))
    bench.silent = {f"n{i:02}" for i in range(11)}
    bench.run(40)
    asked = [probe.helpers for probe in of(ProbeDue, bench.said) if probe.helpers and len(probe.helpers) == 3]
    with_far = [helpers for helpers in asked if "n11" in helpers]
    assert len(with_far) > len(asked) * 0.4


def lossy(seed: int = 1) -> Bench:
    bench = Bench(names(20), seed=seed, suspicion_phi=2.5)
    bench.run(60)
    for _ in range(400):
        bench.machine._prober.loss.observe(lost=3)
    bench.silent = {"n00"}
    return bench


def test_helpers_that_say_they_got_no_answer_make_a_failed_cycle_say_more() -> None:
    def latest(*, nacks: bool) -> float:
        bench = lossy()
        for probe in cycle_of(bench, "n00"):
            for helper in probe.helpers if nacks else ():
                nacked = ProbeNacked(node_id="n00", seq=probe.seq, helper=helper, refused=False, at=bench.now)
                bench.hear(nacked)
        while "n00" in bench.cycles and bench.cycles["n00"].seqs:
            bench.run(0.001)
        return bench.machine._evidence.latest("n00")

    assert latest(nacks=True) > latest(nacks=False) + 0.3


def test_only_helpers_that_were_asked_may_say_that_they_got_no_answer() -> None:
    bench = lossy()
    cycle_of(bench, "n00")
    before = list(bench.cycles["n00"].trials)
    for name in names(20):
        bench.hear(ProbeNacked(node_id="n00", seq=1, helper=name, refused=True, at=bench.now))
    bench.hear(ProbeNacked(node_id="stranger", seq=1, helper="n01", refused=True, at=bench.now))
    assert bench.cycles["n00"].trials == before
    assert not bench.cycles["n00"].is_refused


# --- refusals


def refuse(bench: Bench, name: str) -> None:
    bench.hear(ProbeRefused(node_id=name, at=bench.now))


def test_a_refused_cycle_is_told_as_such_and_is_worth_three() -> None:
    bench = lossy()
    cycle_of(bench, "n00")
    refuse(bench, "n00")
    (suspicion,) = suspicions(bench.run(0.5))
    assert suspicion.refused
    assert suspicion.phi == pytest.approx(3.0)


def test_a_helper_that_was_refused_counts_too() -> None:
    bench = lossy()
    probe = next(probe for probe in cycle_of(bench, "n00") if probe.helpers)
    bench.hear(ProbeNacked(node_id="n00", seq=probe.seq, helper=probe.helpers[0], refused=True, at=bench.now))
    (suspicion,) = suspicions(bench.run(0.5))
    assert suspicion.refused


def test_a_refusal_out_of_a_cycle_says_nothing_and_starts_nothing() -> None:
    bench = Bench(names(10))
    bench.run(10)
    assert bench.hear(ProbeRefused(node_id="n03", at=bench.now)) == []
    assert "n03" not in bench.cycles
    assert suspicions(bench.run(5)) == []


def test_an_answer_after_a_refusal_is_an_answer() -> None:
    bench = Bench(names(10))
    bench.run(30)
    bench.silent = {"n00"}
    probe = cycle_of(bench, "n00")[-1]
    refuse(bench, "n00")
    bench.silent = set()
    bench.answer(probe)
    assert suspicions(bench.run(10)) == []


def test_made_up_refusals_cause_a_few_probes_per_period_and_no_more() -> None:
    bench = Bench(names(10))
    bench.run(10)
    start = len(bench.said)
    for i in range(1000):
        refuse(bench, f"n{i % 10:02}")
    assert len(of(ProbeDue, bench.said[start:])) <= 8
    assert len(of(ProbeDue, bench.run(10))) <= 10 * 9


def test_three_refused_accusers_of_ten_convict_without_waiting_for_a_pause() -> None:
    bench = Bench(names(9))
    bench.miss("n00", "n01")
    for accuser in ("me", "n01", "n02"):
        bench.accuse("n00", accuser, refused=True)
    spread = bench.case("n00").spread
    assert spread < 2.0
    assert verdict_at(bench, "n00") == pytest.approx(spread, abs=0.15)


def test_who_accuses_nobody_lets_the_accusers_go_first_and_then_asks_the_suspect_itself() -> None:
    bench = Bench(names(20))
    bench.suspect("n00", "n01", "n02", "n03")
    bench.silent.add("n00")
    case = bench.case("n00")
    due = case.verdict_at
    bench.run(due + 3 * case.spread - 0.1)
    assert of(Verdict, bench.said) == []
    (verdict, *_) = of(Verdict, bench.run(3.0))
    assert verdict.at > due + 3 * case.spread


def test_a_suspect_that_answers_this_node_is_not_convicted_by_it_whatever_others_say() -> None:
    bench = Bench(names(20))
    bench.suspect("n00", "n01", "n02", "n03")
    assert of(Verdict, bench.run(60)) == []


def test_an_accuser_probes_the_suspect_again_shortly_before_its_verdict() -> None:
    bench = Bench(names(20))
    bench.miss("n00", "n01", "n02")
    due = bench.case("n00").verdict_at
    bench.run(due - 0.8)
    before = len(probes(bench.said, "n00"))
    bench.run(0.2)
    assert len(probes(bench.said, "n00")) > before
    bench.silent.clear()
    assert of(Verdict, bench.run(5)) == []


def test_one_refused_accuser_convicts_nobody_where_others_can_be_asked() -> None:
    bench = Bench(["a", "b"])
    bench.suspect("a")
    bench.accuse("a", "me", refused=True)
    assert bench.case("a").patience > 5


def test_where_nobody_else_can_be_asked_one_refusal_suffices_together_with_silence() -> None:
    bench = Bench(["a"])
    bench.run(20)
    bench.silent = {"a"}
    start = bench.now
    while not of(Verdict, bench.said):
        for probe in of(ProbeDue, bench.run(0.01)):
            refuse(bench, probe.node_id)
        for suspicion in suspicions(bench.said[-1:]):
            bench.suspect("a", phi=suspicion.phi)
            bench.accuse("a", "me", suspicion.phi, refused=suspicion.refused)
    assert bench.now - start < 4.0


# --- who was heard needs no probe


def test_who_is_heard_on_a_connection_is_not_probed_and_the_others_are_probed_instead() -> None:
    bench = Bench(names(10))
    said: list[ClusterEvent] = []
    for _ in range(100):
        for name in ("n00", "n01", "n02"):
            bench.hear(PeerHeard(node_id=name, at=bench.now))
        said += bench.run(1)
    due = of(ProbeDue, said)
    assert {probe.node_id for probe in due} == set(names(10)[3:])
    assert 98 <= len(due) <= 102


def test_where_everybody_is_heard_somebody_is_probed_now_and_then_to_keep_on_measuring() -> None:
    bench = Bench(["a"])
    said: list[ClusterEvent] = []
    for _ in range(100):
        bench.hear(PeerHeard(node_id="a", at=bench.now))
        said += bench.run(1)
    assert 8 <= len(of(ProbeDue, said)) <= 11


def test_who_falls_silent_is_probed_again() -> None:
    bench = Bench(["a"])
    for _ in range(5):
        bench.hear(PeerHeard(node_id="a", at=bench.now))
        bench.run(1)
    assert len(of(ProbeDue, bench.run(4))) >= 3


# --- leases


def test_a_member_whose_lease_expires_is_probed_now_and_many_of_them_in_turn() -> None:
    bench = Bench(names(100))
    bench.run(5)
    start = len(bench.said)
    for name in names(100):
        bench.hear(LeaseExpired(node_id=name, at=bench.now))
    bench.hear(LeaseExpired(node_id="stranger", at=bench.now))
    assert len(of(ProbeDue, bench.said[start:])) == 8
    bench.run(1)
    assert len(of(ProbeDue, bench.said[start:])) <= 18
    bench.run(12)
    assert {probe.node_id for probe in of(ProbeDue, bench.said[start:])} == set(names(100))


# --- links


class OneWay(Bench):
    """A member that answers helpers, but not this node."""

    def run(self, seconds: float) -> list[ClusterEvent]:
        start, end = len(self.said), self.now + seconds
        while self.now < end:
            for probe in of(ProbeDue, super().run(0.002)):
                if probe.helpers:
                    self.answer(probe, via=probe.helpers[0])
        return self.said[start:]


def one_way(n: int = 10) -> OneWay:
    bench = OneWay(names(n))
    bench.run(30)
    bench.silent = {"n00"}
    return bench


def test_a_member_that_answers_only_others_is_named_once_and_never_suspected() -> None:
    bench = one_way()
    said = bench.run(60)
    (link,) = of(LinkDegraded, said)
    assert (link.node.id, link.observer) == ("n00", "me")
    assert suspicions(said) == []
    assert bench.phi("n00") == 0.0


def test_it_takes_more_than_three_periods_of_direct_silence() -> None:
    bench = one_way()
    said = bench.run(60)
    (link,) = of(LinkDegraded, said)
    first = probes(said, "n00")[0].at
    assert 3.0 < link.at - first < 5.0


def test_a_direct_answer_ends_the_doubt() -> None:
    bench = one_way()
    while not probes(bench.run(0.01), "n00"):
        pass
    bench.run(2)
    bench.silent = set()
    assert of(LinkDegraded, bench.run(60)) == []
    bench.silent = {"n00"}
    assert len(of(LinkDegraded, bench.run(60))) == 1


def test_a_one_way_link_does_not_make_this_node_think_that_much_is_lost() -> None:
    bench = one_way()
    bench.run(60)
    assert bench.machine._prober.loss.round_trip < 0.05


def test_what_arrives_on_a_connection_has_come_directly() -> None:
    bench = one_way()
    while not probes(bench.run(0.01), "n00"):
        pass
    for _ in range(20):
        bench.hear(PeerHeard(node_id="n00", at=bench.now))
        assert of(LinkDegraded, bench.run(1)) == []


def fail_calls(bench: Bench, count: int) -> list[ClusterEvent]:
    said = []
    for _ in range(count):
        said += bench.hear(PeerUnreachable(node_id="n00", reason="handshake timed out", at=bench.now))
        said += bench.run(1)
    return said


def test_calls_that_fail_while_pings_are_answered_are_the_links_fault() -> None:
    bench = Bench(names(5))
    bench.run(10)
    (link,) = of(LinkDegraded, fail_calls(bench, 8))
    assert link.reason == "calls fail, though pings are answered: handshake timed out"
    bench.hear(PeerHeard(node_id="n00", at=bench.now))
    assert len(of(LinkDegraded, fail_calls(bench, 3))) == 1


def test_a_failed_call_makes_this_node_look_at_once() -> None:
    bench = Bench(names(5))
    bench.run(10)
    assert [type(event) for event in fail_calls(bench, 1)[:1]] == [ProbeDue]


def test_calls_that_fail_because_the_node_does_not_answer_at_all_are_not() -> None:
    bench = Bench(names(5))
    bench.run(10)
    bench.silent = {"n00"}
    said = fail_calls(bench, 8)
    assert of(LinkDegraded, said) == []
    assert suspicions(said)


# --- being cut off


def alone(n: int = 20) -> tuple[Bench, list[ClusterEvent]]:
    bench = Bench(names(n))
    bench.run(3 * n)
    bench.silent = set(names(n))
    said: list[ClusterEvent] = []
    while not of(SelfIsolated, said):
        for event in bench.run(0.05):
            said.append(event)
            if isinstance(event, Suspicion):
                bench.follow(event)
    return bench, said


def test_a_node_that_reaches_nobody_says_so_once_and_accuses_nobody() -> None:
    bench, before = alone()
    assert bench.now - 60 < 12
    assert len(suspicions(before)) <= 4
    said = bench.run(20)
    assert suspicions(said) == []
    assert of(SelfIsolated, said) == []


def test_after_a_while_it_gives_up_all_of_them_and_tells_nobody() -> None:
    bench, _ = alone()
    said = bench.run(35)
    verdicts = of(Verdict, said)
    assert {verdict.node_id for verdict in verdicts} == set(names(20))
    assert all(verdict.is_local for verdict in verdicts)
    for name in names(20):
        bench.hear(NodeFailed(node=info(name, state=NodeState.FAILED), reason="", at=bench.now))
    assert bench.machine.next_timer() is None
    bench.silent = set()
    for name in names(20):
        bench.hear(NodeRecovered(node=info(name), at=bench.now))
    assert of(ProbeDue, bench.run(3))
    assert not bench.machine._evidence.isolation.is_on


def test_it_ends_when_probes_succeed_and_running_suspicions_begin_anew() -> None:
    bench, _ = alone()
    bench.run(10)
    suspected = list(bench.machine._docket)
    assert suspected
    bench.silent = set()
    bench.run(10)
    assert not bench.machine._evidence.isolation.is_on
    assert all(bench.case(name).started_at > 70 for name in suspected)
    bench.silent = {"n00"}
    assert any(event.node_id == "n00" for event in suspicions(bench.run(40)))


def test_a_node_that_hears_others_accuse_the_same_ones_is_not_cut_off() -> None:
    bench, _ = alone()
    for name in names(20)[:12]:
        bench.suspect(name, "n19")
    assert not bench.machine._evidence.isolation.is_on
    assert suspicions(bench.run(10))


def test_one_of_two_that_is_lost_is_convicted_in_the_others_name() -> None:
    bench = Bench(["a"])
    bench.run(20)
    bench.silent = {"a"}
    said: list[ClusterEvent] = []
    while not of(Verdict, said):
        for event in bench.run(0.05):
            said.append(event)
            if isinstance(event, Suspicion):
                bench.follow(event)
    assert of(SelfIsolated, said) == []
    assert not of(Verdict, said)[0].is_local


# --- coordinates


def far_and_near() -> Bench:
    bench = Bench(names(20))
    bench.stands = dict.fromkeys(names(20), (0.0, 0.0, 0.0001, 0.1))
    return bench


def test_others_hear_where_this_node_stands_and_then_nothing_while_it_stays() -> None:
    bench = far_and_near()
    told = of(OwnVitals, bench.run(5))
    assert told
    bench.run(200)
    assert len(of(OwnVitals, bench.run(100))) <= 3
    assert told[0].stall == 0.0


def test_changes_are_told_at_most_once_a_second() -> None:
    bench = far_and_near()
    told = of(OwnVitals, bench.run(30))
    assert all(later.at - earlier.at >= 1.0 for earlier, later in itertools.pairwise(told))


def test_a_round_trip_is_measured_or_foretold_or_not_known() -> None:
    bench = far_and_near()
    snapshot = bench.machine.snapshot()
    assert snapshot.rtt("n00") is None
    bench.silent = {"n19"}
    bench.run(100)
    assert snapshot.rtt("n00") == pytest.approx(0.001, rel=0.1)
    assert snapshot.rtt("n19") is None
    bench.hear(VitalsHeard(node_id="n19", coordinates=(0.1, 0.0, 1e-4, 0.1), stall=0.0, at=bench.now))
    assert snapshot.rtt("n19") == pytest.approx(0.1, rel=0.1)
    assert snapshot.rtt("stranger") is None
    bench.hear(VitalsHeard(node_id="n19", coordinates=ORIGIN, stall=0.0, at=bench.now))
    assert snapshot.rtt("n19") is None


def test_a_far_member_that_was_never_probed_is_given_the_time_that_coordinates_foretell() -> None:
    bench = far_and_near()
    bench.run(100)
    bench.hear(NodeJoined(node=info("far"), at=bench.now))
    bench.hear(VitalsHeard(node_id="far", coordinates=(0.05, 0.0, 1e-4, 0.1), stall=0.0, at=bench.now))
    bench.silent = {"far"}
    first, second, *_ = cycle_of(bench, "far")
    assert second.at - first.at > 0.04


def test_a_member_that_claims_to_be_on_the_moon_is_not_waited_for() -> None:
    bench = far_and_near()
    bench.run(100)
    bench.hear(NodeJoined(node=info("moon"), at=bench.now))
    bench.hear(VitalsHeard(node_id="moon", coordinates=(9.0, 9.0, 9.0, 0.0), stall=0.0, at=bench.now))
    bench.silent = {"moon"}
    assert any(event.node_id == "moon" for event in suspicions(bench.run(60)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1e30])
def test_coordinates_that_cannot_be_are_not_kept(bad: float) -> None:
    bench = far_and_near()
    bench.run(10)
    bench.hear(VitalsHeard(node_id="n00", coordinates=(bad, 0.0, 0.0, 0.1), stall=0.0, at=bench.now))
    bench.stands = dict.fromkeys(names(20), (0.0, bad, 0.0, 0.1))
    bench.run(40)
    assert all(math.isfinite(value) for value in bench.machine._prober.position.coordinates)
    assert bench.machine.snapshot().rtt("n00") == pytest.approx(0.001, rel=0.5)
