"""The failure-detector task: its tick, its view, and what it hears before it judges."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import MockClock

from rpcnet._core.detector import DetectorSnapshot
from rpcnet._signals import OwnVitals, ProbeAnswered, ProbeDue, Stalled
from rpcnet._tasks.bus import Bus, Mailbox
from rpcnet._tasks.failure_detector import FailureDetectorTask
from rpcnet.config import DetectorConfig, GossipConfig
from rpcnet.events import ClusterEvent, LocalDegraded, NodeInfo, NodeJoined, NodeState


@asynccontextmanager
async def running(bus: Bus, *kinds: type[ClusterEvent]) -> AsyncIterator[Mailbox]:
    heard = bus.mailbox("the test", *kinds)
    task = FailureDetectorTask(
        bus=bus, local_id="me", config=DetectorConfig(), gossip=GossipConfig(), rng=random.Random(1)
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(task.run)
        yield heard
        nursery.cancel_scope.cancel(reason="the test is over")


def waiting(heard: Mailbox) -> int:
    return heard.statistics().waiting


async def test_a_loop_that_stops_is_measured_and_the_handler_that_held_it_is_named(autojump_clock: MockClock) -> None:
    for seed in range(20):  # the order in which tasks wake is left to chance
        bus = Bus(64)
        async with running(bus, LocalDegraded, OwnVitals) as heard:
            await trio.sleep(1.03 + seed / 100)
            autojump_clock.jump(2.5)
            bus.publish(Stalled(2.5, "work.crunch", at=trio.current_time()))
            vitals, degraded = await heard.get(), await heard.get()
            assert isinstance(vitals, OwnVitals)
            assert isinstance(degraded, LocalDegraded)
            assert vitals.stall == degraded.stall == 2.0
            assert degraded.handler == "work.crunch"


async def test_a_loop_that_never_stops_says_nothing(autojump_clock: MockClock) -> None:
    async with running(Bus(64), LocalDegraded, OwnVitals) as heard:
        await trio.sleep(100)
        assert waiting(heard) == 0


async def test_the_view_is_posted_once_and_as_of_now(autojump_clock: MockClock) -> None:
    bus = Bus(64)
    async with running(bus, ProbeDue) as heard:
        view = bus.latest(DetectorSnapshot)
        assert view is not None
        assert view.phi("a", trio.current_time()) == float("inf")
        node = NodeInfo(id="a", name="a", address="a:1", boot_id=1, incarnation=0, state=NodeState.ALIVE)
        bus.publish(NodeJoined(node=node, at=trio.current_time()))
        probe = await heard.get()
        assert isinstance(probe, ProbeDue)
        await trio.sleep(0.004)
        bus.publish(ProbeAnswered(node_id="a", seq=probe.seq, at=trio.current_time()))
        await trio.sleep(0.001)
        assert bus.latest(DetectorSnapshot) is view
        assert view.phi("a", trio.current_time()) == 0.0
        assert view.rtt("a") is not None
