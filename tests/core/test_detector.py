"""The failure detector."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import pytest
from _detector_bench import Bench, info, names, non_juror_of, of, probes, suspicions

from rpcnet._signals import PeerHeard, ProbeAnswered, ProbeDue, Suspicion, Verdict, VitalsHeard
from rpcnet.events import (
    ClusterEvent,
    NodeFailed,
    NodeJoined,
    NodeLeft,
    NodeRecovered,
    NodeReplaced,
    NodeState,
    NodeUpdated,
)

# --- probing


def test_one_node_is_probed_per_period_and_everyone_in_turn() -> None:
    bench = Bench(names(10))
    bench.run(3)
    said = bench.run(100)
    assert all(isinstance(event, ProbeDue) for event in said)
    assert 99 <= len(said) <= 101
    assert {len(probes(said, name)) for name in names(10)} <= {9, 10, 11}


def test_there_is_nothing_to_do_while_there_is_nobody_else() -> None:
    bench = Bench([])
    assert bench.machine.next_timer() is None
    bench.hear(NodeJoined(node=info("me"), at=0.0))
    assert bench.machine.next_timer() is None
    bench.hear(NodeJoined(node=info("b"), at=0.0))
    assert bench.run(3)
    bench.hear(NodeLeft(node=info("b", state=NodeState.LEFT), at=3.0))
    assert bench.machine.next_timer() is None


def test_a_silent_node_is_pinged_again_and_then_through_others() -> None:
    bench = Bench(names(10))
    bench.run(60)
    bench.silent = {"n00"}
    said = probes(bench.run(30), "n00")
    cycle = said[:6]
    assert [len(probe.helpers) for probe in cycle] == [0, 0, 0, 0, 3, 3]
    assert all("n00" not in probe.helpers and "me" not in probe.helpers for probe in cycle)
    gaps = [b.at - a.at for a, b in itertools.pairwise(cycle)]
    assert gaps == pytest.approx([0.01, 0.02, 0.04, 0.08, 0.16])
    assert cycle[0].remaining == pytest.approx(0.63)


def test_a_suspect_is_not_asked_to_help() -> None:
    bench = Bench(["a", "b", "c"])
    bench.suspect("b", "c")
    bench.silent = {"a", "b"}
    helpers = {helper for probe in probes(bench.run(10), "a") for helper in probe.helpers}
    assert helpers == {"c"}


def test_an_answer_ends_the_cycle_and_is_phi_zero() -> None:
    bench = Bench(["a"])
    bench.silent = {"a"}
    while not probes(bench.run(0.001), "a"):
        pass
    first = probes(bench.said, "a")[0]
    bench.hear(ProbeAnswered(node_id="a", seq=first.seq, at=bench.now))
    assert bench.cycles == {}
    assert bench.phi("a") == 0.0


def test_an_answer_with_a_wrong_number_or_of_another_node_ends_nothing() -> None:
    bench = Bench(["a", "b"])
    bench.silent = {"a", "b"}
    while not bench.cycles:
        bench.run(0.001)
    (target,) = bench.cycles
    other = "b" if target == "a" else "a"
    seq = probes(bench.said, target)[0].seq
    bench.hear(ProbeAnswered(node_id=target, seq=seq + 77, at=bench.now))
    bench.hear(ProbeAnswered(node_id=other, seq=seq, at=bench.now))
    bench.hear(ProbeAnswered(node_id="stranger", seq=seq, at=bench.now))
    assert list(bench.cycles) == [target]


def test_an_answer_through_a_helper_counts_but_is_no_measure_of_the_round_trip() -> None:
    bench = Bench(["a", "b"])
    bench.silent = {"a", "b"}
    while not bench.cycles:
        bench.run(0.001)
    (target,) = bench.cycles
    before = bench.machine._prober.round_trips.q90(target)
    bench.now += 0.1
    bench.hear(ProbeAnswered(node_id=target, seq=probes(bench.said, target)[0].seq, via="h", at=bench.now))
    assert bench.phi(target) == 0.0
    assert bench.machine._prober.round_trips.q90(target) == before
    assert suspicions(bench.run(0.4)) == []


def test_a_packet_on_a_connection_cancels_the_probe() -> None:
    bench = Bench(["a"])
    bench.silent = {"a"}
    while not bench.cycles:
        bench.run(0.001)
    bench.hear(PeerHeard(node_id="a", at=bench.now))
    assert bench.cycles == {}
    bench.hear(PeerHeard(node_id="stranger", at=bench.now))


def test_numbers_stay_below_those_of_relays() -> None:
    bench = Bench(["a"])
    bench.machine._prober._seq = 2**31 - 2
    assert [probe.seq for probe in probes(bench.run(3), "a")][:3] == [2**31 - 1, 0, 1]


def test_a_late_answer_teaches_the_model_and_clears_phi() -> None:
    bench = Bench(names(10))
    bench.run(30)
    bench.silent = {"n00"}
    while not suspicions(bench.run(0.1)):
        pass
    assert bench.phi("n00") > 2
    late = probes(bench.said, "n00")[-1]
    before = bench.machine._prober.round_trips.q90("n00")
    bench.hear(ProbeAnswered(node_id="n00", seq=late.seq, at=bench.now))
    assert bench.phi("n00") == 0.0
    assert bench.machine._prober.round_trips.q90("n00") > before


# --- suspicion


def test_a_healthy_observer_suspects_a_silent_node_after_one_cycle_with_phi_two_to_three() -> None:
    bench = Bench(names(20))
    bench.run(60)
    bench.silent = {"n07"}
    said = bench.run(40)
    (first, *_) = suspicions(said)
    assert (first.node_id, first.boot_id, first.incarnation) == ("n07", 1, 0)
    assert 2.0 <= first.phi <= 3.0
    assert bench.phi("n07") == pytest.approx(first.phi, abs=0.5)
    assert len(probes(said[: said.index(first)], "n07")) == 6


def test_one_missing_answer_in_a_cluster_of_two_is_enough() -> None:
    bench = Bench(["a"])
    bench.run(20)
    bench.silent = {"a"}
    assert suspicions(bench.run(2))[0].phi >= 2.0


def test_an_observer_whose_probes_all_fail_hardly_believes_itself() -> None:
    bench = Bench(names(20))
    bench.run(60)
    bench.silent = set(names(20))
    said = suspicions(bench.run(19))
    assert len(said) <= 4


def test_targets_that_others_accuse_do_not_lower_the_own_credibility() -> None:
    def suspected(*, supported: bool) -> float:
        bench = Bench(names(20))
        bench.run(60)
        bench.silent = {"n00", "n01", "n02"}
        if supported:
            for name in ("n01", "n02"):
                bench.suspect(name, "n10")
        bench.run(45)
        return bench.machine._evidence.latest("n00")

    assert suspected(supported=True) > suspected(supported=False) + 0.3


def test_failing_again_adds_half_a_point() -> None:
    bench = Bench(names(5))
    bench.run(20)
    bench.silent = {"n00"}
    said: list[Suspicion] = []
    while len(said) < 3:
        for suspicion in suspicions(bench.run(0.1)):
            said.append(suspicion)
            bench.follow(suspicion)
    steps = [b.phi - a.phi for a, b in itertools.pairwise(said)]
    assert steps == pytest.approx([0.5, 0.5], abs=0.2)


def test_a_cycle_that_failed_for_loss_alone_is_repeated_in_the_next_period_and_the_silences_multiply() -> None:
    bench = Bench(names(3), indirect_probes=0)
    for _ in range(400):
        bench.machine._prober.loss.observe(lost=3)
    bench.run(10)
    for _ in range(400):
        bench.machine._prober.loss.observe(lost=3)
    bench.silent = {"n00"}
    said: list[ClusterEvent] = []
    while not suspicions(said):
        said += bench.run(0.1)
    started = [probe.at for probe in probes(said, "n00")]
    assert len(started) > 6
    assert suspicions(said)[0].phi >= 2.0


# --- the jury


def test_a_juror_checks_at_once_and_adds_its_own_suspicion() -> None:
    bench = Bench(["a", "b"])
    bench.run(10)
    bench.silent = {"a"}
    said = bench.suspect("a", "b")
    assert [event.node_id for event in said if isinstance(event, ProbeDue)] == ["a"]
    assert [suspicion.node_id for suspicion in suspicions(bench.run(0.7))] == ["a"]


def test_a_juror_that_reaches_the_suspect_adds_nothing() -> None:
    bench = Bench(["a", "b"])
    bench.run(10)
    bench.suspect("a", "b")
    assert suspicions(bench.run(0.9)) == []


def test_who_is_not_on_the_jury_waits_for_its_turn() -> None:
    bench = Bench(names(50))
    bystander = next(name for name in names(50) if non_juror_of(name, 51))
    bench.silent = {bystander}
    assert bench.suspect(bystander, "n01") == []


def test_a_suspicion_without_accusers_is_checked_by_all_who_hear_it() -> None:
    bench = Bench(names(50))
    bystander = next(name for name in names(50) if non_juror_of(name, 51))
    bench.silent = {bystander}
    assert [type(event) for event in bench.suspect(bystander)] == [ProbeDue]


def test_the_accuser_itself_does_not_check_again() -> None:
    bench = Bench(["a", "b"])
    bench.silent = {"a"}
    assert bench.suspect("a", "me") == []


# --- verdicts


def verdict_after(bench: Bench, name: str, within: float) -> float | None:
    start = bench.now
    while bench.now < start + within:
        for event in bench.run(0.05):
            if isinstance(event, Verdict):
                assert event.node_id == name
                return bench.now - start
    return None


def test_a_verdict_comes_when_the_suspect_had_time_to_refute() -> None:
    bench = Bench(names(20))
    bench.miss("n00", "n01", "n02")
    patience = bench.case("n00").patience
    assert patience == pytest.approx(5.0 + 0.2 * (math.log(21) + 4.61) / (1.5 * math.sqrt(0.95)), abs=0.05)
    assert verdict_after(bench, "n00", 60) == pytest.approx(patience, rel=0.05)


def test_without_enough_accusers_it_takes_four_times_as_long() -> None:
    bench = Bench(names(20))
    bench.miss("n00")
    patience = bench.case("n00").patience
    assert verdict_after(bench, "n00", 60) == pytest.approx(4 * patience, abs=0.1)


def test_evidence_that_comes_late_convicts_when_it_comes() -> None:
    bench = Bench(names(20))
    bench.miss("n00")
    bench.run(15)
    assert of(Verdict, bench.said) == []
    bench.accuse("n00", "n02")
    bench.accuse("n00", "n03")
    verdict = verdict_after(bench, "n00", 1)
    assert verdict is not None


def test_the_same_accuser_twice_is_one_accuser() -> None:
    bench = Bench(names(20))
    bench.suspect("n00", "n01")
    for _ in range(10):
        bench.accuse("n00", "n01")
    assert bench.case("n00").evidence == 3.0


def test_an_accusation_of_an_older_incarnation_does_not_count() -> None:
    bench = Bench(names(20))
    bench.suspect("n00", "n01", incarnation=2)
    bench.accuse("n00", "n02", incarnation=1)
    assert bench.case("n00").evidence == 3.0


def test_a_verdict_names_the_incarnation_and_the_reason() -> None:
    bench = Bench(names(20))
    bench.miss("n00", "n01", "n02", incarnation=4)
    (verdict, *_) = of(Verdict, bench.run(10))
    assert isinstance(verdict, Verdict)
    assert (verdict.node_id, verdict.boot_id, verdict.incarnation) == ("n00", 1, 4)
    assert "3 accusers" in verdict.reason


def test_a_verdict_that_membership_does_not_follow_is_repeated_once_a_period() -> None:
    bench = Bench(names(20))
    bench.miss("n00", "n01", "n02")
    assert 3 <= len(of(Verdict, bench.run(10))) <= 5


@pytest.mark.parametrize(
    "end",
    [
        NodeRecovered(node=info("n00", incarnation=1), at=0.0),
        NodeReplaced(node=info("n00", boot_id=2), previous=info("n00"), at=0.0),
        NodeFailed(node=info("n00", state=NodeState.FAILED), reason="", at=0.0),
        NodeLeft(node=info("n00", state=NodeState.LEFT), at=0.0),
    ],
)
def test_whatever_ends_the_suspicion_ends_its_clock(end: ClusterEvent) -> None:
    bench = Bench(names(20))
    bench.miss("n00", "n01", "n02")
    bench.run(3)
    bench.hear(end)
    assert of(Verdict, bench.run(30)) == []


def test_new_tags_do_not_end_a_suspicion() -> None:
    bench = Bench(names(20))
    bench.miss("n00", "n01", "n02")
    node = info("n00", state=NodeState.SUSPECT, meta_version=1)
    bench.hear(NodeUpdated(node=node, previous=info("n00"), at=0.0))
    assert of(Verdict, bench.run(10))


# --- who is late itself


def test_a_stalled_node_voids_its_cycles_and_suspects_nobody() -> None:
    bench = Bench(["a"])
    bench.run(20)
    bench.silent = {"a"}
    while not bench.cycles:
        bench.run(0.001)
    bench.silent = set()
    bench.now += 2.0
    assert suspicions(bench.run(0.9)) == []
    assert bench.phi("a") == 0.0


def test_a_short_stall_stops_the_clocks_for_as_long_as_it_lasted() -> None:
    bench = Bench(names(20))
    bench.miss("n00", "n01", "n02")
    bench.run(5)
    bench.now += 3.0
    patience = bench.case("n00").patience
    assert verdict_after(bench, "n00", 20) == pytest.approx(patience - 5.0, abs=1.1)


def test_after_a_long_stall_the_clocks_start_again() -> None:
    bench = Bench(names(20))
    bench.miss("n00", "n01", "n02")
    bench.run(5)
    bench.now += 30.0
    patience = bench.case("n00").patience
    assert verdict_after(bench, "n00", 20) == pytest.approx(patience, rel=0.05)


def test_a_stall_is_noticed_also_when_an_event_comes_before_the_timer() -> None:
    bench = Bench(names(20))
    bench.suspect("n00", "n01", "n02", "n03")
    bench.run(5)
    bench.now += 30.0
    bench.hear(PeerHeard(node_id="n05", at=bench.now))
    assert of(Verdict, bench.machine.on_timer(bench.now)) == []


# --- snapshots


def test_phi_says_how_a_node_stands() -> None:
    bench = Bench(names(20))
    assert bench.phi("n00") == 0.0
    assert bench.phi("me") == 0.0
    assert bench.phi("nobody") == math.inf
    bench.suspect("n00", "n01", "n02", "n03")
    rising = [bench.phi("n00")]
    for _ in range(6):
        bench.run(1)
        rising.append(bench.phi("n00"))
    assert rising == sorted(rising)
    assert rising[0] < 1
    assert rising[-1] > 7
    bench.hear(NodeFailed(node=info("n00", state=NodeState.FAILED), reason="", at=bench.now))
    assert bench.phi("n00") == math.inf


def test_a_snapshot_is_always_the_same_object_and_as_of_now() -> None:
    bench = Bench(names(3))
    before = bench.machine.snapshot()
    bench.hear(NodeFailed(node=info("n00", state=NodeState.FAILED), reason="", at=0.0))
    assert bench.machine.snapshot() is before
    assert before.phi("n00", 0.0) == math.inf


def test_reset_takes_in_the_whole_and_keeps_suspicions_that_still_hold() -> None:
    bench = Bench(["a", "b", "c", "d"])
    bench.suspect("a", "c", "d")
    bench.suspect("b", "c", "d")
    running = bench.case("a")
    bench.run(1)
    suspect = NodeState.SUSPECT
    nodes = [
        info("me"),
        info("a", state=suspect),
        info("b", incarnation=1),
        info("d", state=NodeState.FAILED),
        info("e", state=suspect),
        info("f"),
    ]
    bench.machine.reset(nodes, bench.now)
    assert bench.case("a") is running
    assert sorted(bench.machine._docket) == ["a", "e"]
    assert sorted(bench.machine._peers) == ["a", "b", "e", "f"]
    assert bench.phi("c") == bench.phi("d") == math.inf


def test_a_reset_with_a_new_incarnation_starts_the_suspicion_anew() -> None:
    bench = Bench(["a", "b"])
    bench.suspect("a", "b")
    running = bench.case("a")
    bench.run(1)
    bench.machine.reset([info("a", state=NodeState.SUSPECT, incarnation=1), info("b")], bench.now)
    assert bench.case("a") is not running
    assert bench.case("a").accusers == {}


def test_the_same_seed_and_input_give_the_same_orders() -> None:
    def run(seed: int) -> list[ClusterEvent]:
        bench = Bench(names(10), seed=seed)
        bench.silent = {"n03"}
        return bench.run(60)

    assert run(5) == run(5)
    assert run(5) != run(6)


def test_a_quiet_member_costs_a_place_in_a_few_tables_and_no_object() -> None:
    nodes = [info(name) for name in (f"node {i}" for i in range(3000))]
    tracemalloc.start()
    try:
        bench = Bench([])
        before = tracemalloc.get_traced_memory()[0]
        bench.machine.reset(nodes, 0.0)
        for node in nodes:
            place = VitalsHeard(node_id=node.id, coordinates=(0.01, 0.02, 0.001, 0.1), stall=0.0, at=0.0)
            bench.machine.handle(place, 0.0)
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert used / len(nodes) < 120
