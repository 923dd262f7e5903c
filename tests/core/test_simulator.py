"""The simulator itself: that it notices what must never happen, repeats exactly, and measures what it says."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import xml.etree.ElementTree as ET

import attrs
import pytest
from _membership_world import Town, settled

from rpcnet import ConfigError
from rpcnet._core.messages import MAX_PAYLOAD_BYTES, encode_age, encode_datagram, encode_head, encode_update
from rpcnet._core.swim import Emit, SendDatagram
from rpcnet._signals import ProbeDue
from rpcnet._simulator import beliefs
from rpcnet._simulator.beliefs import BeliefLog
from rpcnet._simulator.figures import statistic
from rpcnet._simulator.network import DATAGRAM_OVERHEAD
from rpcnet._simulator.watching import InvariantBroken
from rpcnet.events import NodeFailed, NodeState
from rpcnet.testing import (
    SCENARIOS,
    Block,
    HostGone,
    Latency,
    Partition,
    Requirement,
    Scenario,
    plot,
    scenario_from_json,
    scenario_to_json,
    simulate,
)

SMALL = Scenario(name="small", nodes=8, loss=0.2, seconds=25, faults=(HostGone(at=5, node=3),))


# --- what must never happen


def test_the_world_notices_when_somebody_else_raises_an_incarnation() -> None:
    town = settled(1, 3)
    forged = encode_age(0.0) + encode_update(attrs.evolve(town.hosts[1].local, incarnation=9))
    datagram = SendDatagram(town.address(2), encode_datagram(encode_head(None), [forged]))
    town.perform(town.hosts[0], [datagram])
    with pytest.raises(InvariantBroken, match="raised by somebody else"):
        town.run(1)


def test_the_world_notices_when_somebody_else_raises_a_version_of_tags() -> None:
    town = settled(1, 3)
    forged = encode_age(0.0) + encode_update(attrs.evolve(town.hosts[1].local, meta_version=9))
    datagram = SendDatagram(town.address(2), encode_datagram(encode_head(None), [forged]))
    town.perform(town.hosts[0], [datagram])
    with pytest.raises(InvariantBroken, match="raised by somebody else"):
        town.run(1)


def test_the_world_notices_a_datagram_that_is_too_large() -> None:
    town = settled(1, 2)
    with pytest.raises(InvariantBroken, match="at most"):
        town.perform(town.hosts[0], [SendDatagram(town.address(1), bytes(MAX_PAYLOAD_BYTES + 1))])


def test_the_world_notices_an_update_that_is_sent_too_often() -> None:
    queue = settled(1, 3).hosts[0].machines.swim._queue
    queue.put("ab" * 16, b"\xab" * 16 + bytes(60), 0.0)

    def forget_the_count() -> None:
        queue._levels[:] = [{subject: update for level in queue._levels for subject, update in level.items()}]
        queue._sent.update(dict.fromkeys(queue._levels[0], 0))

    for _ in range(queue.transmit_limit(3)):
        assert queue.take(1000, 3, now=0.0)
        forget_the_count()
        queue._levels[0].setdefault("ab" * 16, (b"\xab" * 16 + bytes(60), 0.0))
        queue._sent.setdefault("ab" * 16, 0)
    with pytest.raises(InvariantBroken, match="more than"):
        queue.take(1000, 3, now=0.0)


def test_the_world_notices_a_failure_of_a_node_that_never_joined() -> None:
    town = Town(1, 3)
    town.start(0)
    stranger = attrs.evolve(town.hosts[0].local.info(), id="ab" * 16, state=NodeState.FAILED)
    with pytest.raises(InvariantBroken, match="out of order"):
        town.perform(town.hosts[0], [Emit(NodeFailed(stranger, "no reason", at=town.now))])


def test_the_world_notices_events_that_go_back_in_time() -> None:
    town = settled(1, 3)
    old = attrs.evolve(town.hosts[1].local.info(), state=NodeState.FAILED, boot_id=0)
    with pytest.raises(InvariantBroken, match="out of order"):
        town.perform(town.hosts[0], [Emit(NodeFailed(old, "no reason", at=town.now))])


def test_the_world_notices_a_node_that_waits_too_long_for_a_probe() -> None:
    town = settled(1, 3)
    town.hosts[0].gaps.excuse(town.now - 6.0)
    due = ProbeDue(town.hosts[1].id, 1, 5, at=town.now)
    with pytest.raises(InvariantBroken, match="waited"):
        town.perform(town.hosts[0], [due])


def test_the_world_notices_at_the_end_who_was_probed_no_more() -> None:
    town = settled(1, 3)
    town.check_probes()
    town.hosts[0].gaps.excuse(-100.0)
    with pytest.raises(InvariantBroken, match="no more"):
        town.check_probes()


# --- the same seed


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    first = simulate(SMALL, seed=1)
    assert simulate(SMALL, seed=1) == first
    assert simulate(SMALL, seed=2).trace_hash != first.trace_hash


def test_a_run_does_not_depend_on_the_hashes_of_strings() -> None:
    code = (
        "from rpcnet.testing import *\n"
        "scenario = Scenario(name='x', nodes=8, loss=0.2, seconds=25, faults=(HostGone(5, 3),))\n"
        "print(simulate(scenario, seed=1).trace_hash)"
    )
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True, text=True)
    assert int(told.stdout) == simulate(SMALL, seed=1).trace_hash


# --- the network


def test_traffic_is_counted_with_sealing_and_headers() -> None:
    town = Town(1, 2)
    town.start(0)
    before = attrs.evolve(town.network.traffic)
    town.perform(town.hosts[0], [SendDatagram(town.address(1), bytes(100))])
    assert town.network.traffic.datagrams == before.datagrams + 1
    assert town.network.traffic.bytes == before.bytes + 100 + 36 + 28
    assert DATAGRAM_OVERHEAD == 64


def test_loss_and_duplication_are_as_frequent_as_they_should_be() -> None:
    town = Town(1, 2, loss=0.3, duplication=0.5)
    arrivals = [len(town.network.arrivals()) for _ in range(20_000)]
    assert sum(arrivals) / 20_000 == pytest.approx(1.5 * 0.7, abs=0.03)


@pytest.mark.parametrize("shape", ["uniform", "lognormal"])
def test_latencies_lie_around_their_median(shape: str) -> None:
    latency = Latency(median=0.05, spread=0.3, shape="uniform" if shape == "uniform" else "lognormal")
    town = Town(1, 2)
    town.network._latency = latency
    delays = sorted(town.network.delay() for _ in range(5000))
    assert delays[2500] == pytest.approx(0.05, rel=0.05)
    assert delays[0] > 0.0
    assert (delays[-1] <= 0.065) is (shape == "uniform")


# --- measuring


def test_statistics_are_of_nearest_rank() -> None:
    samples = {"spread": tuple(float(i) for i in range(1, 101))}
    wanted = {"p50": 50, "p95": 95, "p99": 99, "p9999": 100, "max": 100, "min": 1, "mean": 50.5, "sum": 5050}
    assert {kind: statistic(f"spread.{kind}", samples) for kind in wanted} == wanted
    assert math.isnan(statistic("healed.p50", samples))


def test_who_changes_its_mind_again_does_not_count_as_knowing() -> None:
    log = BeliefLog(3, converged=True)
    for at, observer, state in (
        (1.0, 0, beliefs.FAILED),
        (2.0, 1, beliefs.FAILED),
        (3.0, 0, beliefs.ALIVE),
        (4.0, 0, beliefs.FAILED),
    ):
        log.add(at, observer, 2, state, 1)
    assert log.since(2, (beliefs.FAILED,), after=0.0) == {0: 4.0, 1: 2.0}


def test_the_first_moment_is_when_the_last_pair_agrees_and_starting_anew_forgets() -> None:
    log = BeliefLog(2, converged=True)
    assert log.first_moment(lambda o, s: True, lambda c: c.state == beliefs.ALIVE, after=1.0, initially=True) == 1.0
    log.forget(2.0, 0)
    log.add(3.0, 0, 1, beliefs.ALIVE, 2)
    assert log.first_moment(lambda o, s: True, lambda c: c.state == beliefs.ALIVE, after=2.5, initially=True) == 3.0
    log.forget(4.0, 0)
    assert log.first_moment(lambda o, s: True, lambda c: c.state == beliefs.ALIVE, after=4.5, initially=True) is None


def test_what_nobody_could_know_in_time_counts_as_never() -> None:
    result = simulate(attrs.evolve(SMALL, seconds=6.0))
    assert result.value("all_know.max") == math.inf
    assert result.value("false_deaths.sum") == 0


def test_a_live_node_that_is_declared_failed_is_counted() -> None:
    town = settled(1, 4)
    failed = attrs.evolve(town.hosts[1].local.info(), state=NodeState.FAILED)
    town.perform(town.hosts[0], [Emit(NodeFailed(failed, "no reason", at=town.now))])
    assert len(town.false_deaths) == 1


def test_whoever_is_cut_off_may_be_declared_failed() -> None:
    town = settled(1, 4)
    town.partition([0], [1, 2, 3])
    failed = attrs.evolve(town.hosts[1].local.info(), state=NodeState.FAILED)
    town.perform(town.hosts[0], [Emit(NodeFailed(failed, "cut off", at=town.now))])
    assert town.false_deaths == set()


# --- scenarios as JSON


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_scenario_survives_json(scenario: Scenario) -> None:
    assert scenario_from_json(scenario_to_json(scenario)) == scenario


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "JSON object"),
        ("{}", "'name' is missing"),
        ('{"name": 3}', "expected str @ name"),
        ('{"name": "x", "nodes": 1.5}', "expected int @ nodes"),
        ('{"name": "x", "nods": 3}', "nods"),
        ('{"name": "x", "loss": 2}', "loss = 2"),
        ('{"name": "x", "seconds": NaN}', "seconds = nan"),
        ('{"name": "x", "profile": "moon"}', "moon"),
        ('{"name": "x", "faults": [{"kind": "Flood", "at": 6}]}', "Flood"),
        ('{"name": "x", "faults": [{"kind": "HostGone", "at": 6, "node": 10}]}', "HostGone.node = 10"),
        ('{"name": "x", "faults": [{"kind": "HostGone", "at": 1, "node": 1}]}', "HostGone.at = 1"),
        ('{"name": "x", "faults": [{"kind": "Partition", "at": 6, "groups": [1], "seconds": 5}]}', "add up to 10"),
        ('{"name": "x", "required": [{"measure": "luck.p50"}]}', "luck.p50"),
    ],
)
def test_what_is_no_scenario_is_refused_in_one_line(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        scenario_from_json(text)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bound_says_what_it_is() -> None:
    assert str(Requirement("all_know.p50", at_most=9)) == "<= 9"
    assert str(Requirement("degraded.min", at_least=1)) == ">= 1"
    assert str(Requirement("degraded.min", at_least=1, at_most=1)) == "= 1"
    assert not Requirement("all_know.p50", at_most=9).is_met(math.nan)


# --- pictures


@pytest.mark.parametrize(
    "scenario",
    [
        SMALL,
        attrs.evolve(SMALL, faults=(Block(5, 1, 2, 10), Partition(6, (5, 3), 15)), nodes=8, seconds=30),
        Scenario(name="joining <&>", title="joining <&>", nodes=5, start="joining", seconds=8),
    ],
    ids=["one gone", "many lost", "joining"],
)
def test_a_run_is_drawn_as_well_formed_svg(scenario: Scenario) -> None:
    root = ET.fromstring(plot(simulate(scenario)))
    assert root.tag.endswith("svg")
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert any((scenario.title or scenario.name) in (text or "") for text in texts)
    colours = {element.get("fill") for element in root.iter() if element.tag.endswith("rect")}
    assert len(colours) >= 4


def test_a_run_whose_beliefs_were_not_kept_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="keeps_beliefs"):
        plot(simulate(SMALL, keeps_beliefs=False))
