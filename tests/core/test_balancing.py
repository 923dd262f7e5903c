"""Strategies share calls as they promise."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._core.balancing import LeastConnections, LoadBalancingStrategy, Random, RoundRobin, WorkerView
from rpcnet.events import NodeInfo, NodeState


def workers(*names: str) -> tuple[NodeInfo, ...]:
    return tuple(
        NodeInfo(id=name, name=name, address="127.0.0.1:1", boot_id=1, incarnation=0, state=NodeState.ALIVE)
        for name in names
    )


def view(nodes: tuple[NodeInfo, ...], rng: random.Random | None = None, **active: int) -> WorkerView:
    return WorkerView(nodes, active, rng or random.Random(1))


def test_a_view_counts_the_calls_of_each_node() -> None:
    seen = view(workers("a", "b"), a=3)
    assert seen.active_calls("a") == 3
    assert seen.active_calls("b") == 0


def test_round_robin_serves_all_before_it_serves_one_again() -> None:
    strategy, nodes, rng = RoundRobin(), workers("a", "b", "c"), random.Random(4)
    for _ in range(10):
        assert sorted(strategy.select(view(nodes, rng)).name for _ in range(3)) == ["a", "b", "c"]


def test_round_robin_is_fair_to_sets_that_take_turns() -> None:
    strategy, rng = RoundRobin(), random.Random(4)
    some, others = workers("a", "b"), workers("a", "c")
    counts: Counter[str] = Counter()
    for _ in range(10):
        counts["some:" + strategy.select(view(some, rng)).name] += 1
        counts["others:" + strategy.select(view(others, rng)).name] += 1
    assert set(counts.values()) == {5}
    assert len(counts) == 4


def test_round_robin_goes_on_when_a_new_snapshot_has_the_same_nodes() -> None:
    strategy, rng = RoundRobin(), random.Random(4)
    chosen = [strategy.select(view(workers("a", "b", "c"), rng)).name for _ in range(6)]
    assert chosen[:3] == chosen[3:]
    assert sorted(chosen[:3]) == ["a", "b", "c"]


def test_round_robins_do_not_all_begin_with_the_same_worker() -> None:
    nodes, rng = workers("a", "b", "c"), random.Random(4)
    assert {RoundRobin().select(view(nodes, rng)).name for _ in range(30)} == {"a", "b", "c"}


def test_round_robin_remembers_a_bounded_number_of_sets() -> None:
    strategy, rng = RoundRobin(), random.Random(4)
    for number in range(1000):
        strategy.select(view(workers("a", f"b{number}"), rng))
    assert len(strategy._rotations) <= 256
    assert len(strategy._known) <= 256


def test_least_connections_chooses_the_least_loaded() -> None:
    strategy = LeastConnections()
    assert strategy.select(view(workers("a", "b", "c"), a=2, b=1, c=2)).name == "b"
    assert strategy.select(view(workers("a", "b", "c"), a=2, b=1)).name == "c"


@pytest.mark.parametrize("strategy", [Random(), LeastConnections()])
def test_idle_workers_share_evenly(strategy: LoadBalancingStrategy) -> None:
    nodes, rng = workers("a", "b", "c", "d"), random.Random(7)
    counts = Counter(strategy.select(view(nodes, rng)).name for _ in range(4000))
    assert all(900 < counts[name] < 1100 for name in "abcd")


def test_equally_loaded_workers_share_what_the_busy_one_does_not_get() -> None:
    nodes, rng = workers("a", "b", "c"), random.Random(7)
    counts = Counter(LeastConnections().select(view(nodes, rng, a=1)).name for _ in range(2000))
    assert counts["a"] == 0
    assert 900 < counts["b"] < 1100


@settings(deadline=None)
@given(
    st.sets(st.sampled_from("abcdefgh"), min_size=1).map(sorted),
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 5)),
    st.integers(0, 1000),
)
def test_every_strategy_chooses_one_of_the_candidates(names: list[str], active: dict[str, int], seed: int) -> None:
    nodes = workers(*names)
    for strategy in (RoundRobin(), Random(), LeastConnections()):
        chosen = strategy.select(WorkerView(nodes, active, random.Random(seed)))
        assert chosen in nodes
    assert active.get(chosen.id, 0) == min(active.get(node.id, 0) for node in nodes)


@pytest.mark.parametrize("kind", [RoundRobin, Random, LeastConnections])
def test_the_same_seed_gives_the_same_choices(kind: type[LoadBalancingStrategy]) -> None:
    nodes = workers("a", "b", "c", "d", "e")
    runs = []
    for _ in range(2):
        strategy, rng = kind(), random.Random(11)
        runs.append([strategy.select(view(nodes, rng)).name for _ in range(20)])
    assert runs[0] == runs[1]
