"""The same seed gives the same trace: with faults and calls, in another process, whatever the hash seed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
import trio._core._run as trio_scheduler
from _world import World, stub
from trio.testing import MockClock

import rpcnet
from rpcnet.testing import SimulatedCluster, TraceEntry, run
from rpcnet.testing._run import _deterministic_scheduling

HERE = Path(__file__).parent


def busy(seed: int) -> list[str]:
    """Run a scenario with everything in it, and return what happened, the answers of the calls included."""
    answers: list[str] = []

    async def scenario(cluster: SimulatedCluster) -> None:
        rng = Random(seed)
        world = World(cluster)
        nodes = await world.start(5, tags=lambda name: {"name": name, "a": "b"})
        for one in nodes:
            for other in nodes:
                cluster.set_latency(one, other, 0.001, 0.02)
                cluster.set_loss(one, other, 0.02)

        async def call(number: int) -> None:
            caller = rng.choice(nodes)
            await trio.sleep(rng.random() * 5)
            try:
                with trio.move_on_after(8):
                    answer: object = await stub(caller).again(f"{number}", rng.random() * 2)
                    if number % 5 == 0:
                        answer = await stub(caller).measure(b"x" * 40_000, 0.1)
                    answers.append(f"{trio.current_time():.9f} {number} {answer}")
            except (rpcnet.RpcNetError, RuntimeError) as error:
                answers.append(f"{trio.current_time():.9f} {number} {error!r}")

        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(call, number)
            await trio.sleep(1)
            await cluster.crash(nodes[1])
            cluster.partition(nodes[:3], nodes[3:])
            await trio.sleep(2)
            await nodes[0].node.update_tags({"a": "c"})
        await trio.sleep(20)
        cluster.repair()
        await world.bounce(nodes[1])
        await cluster.converged(within=20)
        await cluster.stop(nodes[4])
        await trio.sleep(5)

    return [str(entry) for entry in run(scenario, seed=seed)] + answers


first_of = cache(busy)
"""The first run of a seed in this process."""


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_same_seed_gives_the_same_trace_and_the_same_answers(seed: int) -> None:
    first = first_of(seed)
    assert len(first) > 60
    trio_scheduler._r.random()
    assert busy(seed) == first


def test_different_seeds_give_different_traces() -> None:
    assert first_of(1) != first_of(2)


def test_a_trace_does_not_depend_on_the_process_nor_on_its_hash_seed() -> None:
    script = "import sys; sys.path.insert(0, sys.argv[1]); import test_determinism as t; print(*t.busy(7), sep='\\n')"
    outputs = []
    for hash_seed in ("0", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", script, str(HERE)], env=environment, capture_output=True, text=True, check=True
        )
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
    assert outputs[0].splitlines() == first_of(7)


# --- the means


@contextmanager
def scheduling(*, is_deterministic: bool, seed: int) -> Iterator[None]:
    scheduler: Any = trio_scheduler
    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = is_deterministic
    scheduler._r.seed(seed)
    try:
        yield
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before


def order_of_tasks() -> tuple[int, ...]:
    """Return the order in which Trio ran tasks that were all runnable at once, over and over."""
    order: list[int] = []

    async def task(number: int) -> None:
        for _ in range(5):
            order.append(number)
            await trio.lowlevel.checkpoint()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(task, number)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    return tuple(order)


def test_trio_still_has_the_two_names_that_make_its_scheduler_repeat() -> None:
    scheduler: Any = trio_scheduler
    assert isinstance(scheduler._ALLOW_DETERMINISTIC_SCHEDULING, bool)
    assert isinstance(scheduler._r, Random)


def test_trio_still_orders_tasks_by_its_generator_when_it_is_told_to() -> None:
    """Fails when the names exist but mean something else: the order must follow from the seed, and change with it."""
    orders = []
    for seed in (1, 1, 2):
        with _deterministic_scheduling(seed):
            orders.append(order_of_tasks())
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    batches = [orders[0][start : start + 20] for start in range(0, 100, 20)]
    assert all(sorted(batch) == list(range(20)) for batch in batches)
    assert len(set(batches)) > 2, "a batch is shuffled, not only reversed"


def test_a_run_leaves_trios_scheduler_as_it_was() -> None:
    scheduler: Any = trio_scheduler
    for allowed in (False, True):
        with scheduling(is_deterministic=allowed, seed=3):
            state = scheduler._r.getstate()
            run(lambda cluster: cluster.start(2), seed=5)
            assert scheduler._ALLOW_DETERMINISTIC_SCHEDULING is allowed
            assert scheduler._r.getstate() == state


# --- the harness itself


def test_a_scenario_that_waits_for_ever_is_ended_and_says_so() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start(2)
        await trio.sleep_forever()

    with pytest.raises(TimeoutError, match=r"not done after 60\.0 virtual seconds \(seed 9\)"):
        run(scenario, seed=9, limit=60.0)


def test_an_error_of_a_scenario_comes_out_bare() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start(2)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(scenario)


def test_a_deadline_of_the_scenarios_own_is_its_own_affair() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        with trio.fail_after(1):
            await trio.sleep_forever()

    with pytest.raises(trio.TooSlowError):
        run(scenario)


def test_a_cluster_that_does_not_converge_says_who_sees_what() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(3)
        await cluster.converged()
        await cluster.crash(nodes[2])
        await cluster.converged(within=0.5)

    with pytest.raises(AssertionError, match=r"n0 does not see \[\], still sees \['n2'\]"):
        run(scenario)


def test_a_trace_tells_who_noticed_what_when() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(2)
        await cluster.converged()
        await cluster.crash(nodes[1])

    trace = run(scenario)
    assert [entry.what.split()[0] for entry in trace if entry.node == "n1"][-1] == "crashes"
    assert all(isinstance(entry, TraceEntry) for entry in trace)
    assert sorted(trace, key=lambda entry: entry.at) == list(trace)
    assert "n1" in str(trace[-1])
