"""Nodes that are killed, stopped or cut off while they have calls in hand."""

from __future__ import annotations

import secrets
import signal
from collections.abc import AsyncIterator, Iterator

import attrs
import pytest
import trio
from _peer import PATIENCE, Peer, config, eventually
from _processes import PeerProcess, Processes, processes

import rpcnet

SECRET = secrets.token_urlsafe(32)
PAUSE = 1.0
"""Seconds for which a process is stopped: well below the two that NodeConfig.local() tolerates."""


@pytest.fixture
def started() -> Iterator[Processes]:
    with processes(SECRET) as opened:
        yield opened


def node(name: str, *seeds: str, services: tuple[object, ...] = ()) -> rpcnet.Node:
    security = rpcnet.Security.shared_secret(SECRET)
    return rpcnet.Node(name, seeds=seeds, services=services, security=security, config=config())


async def start_workers(started: Processes, seed: str, *names: str) -> dict[str, PeerProcess]:
    workers = {name: started.start(name, seed) for name in names}
    for worker in workers.values():
        await worker.address()
    return workers


async def names_until(events: AsyncIterator[rpcnet.ClusterEvent], name: str) -> list[str]:
    """Return the names of the events' nodes, in order, the first one of that name being the last."""
    names: list[str] = []
    async for event in events:
        if isinstance(event, rpcnet.NodeEvent):
            names.append(event.node.name)
            if event.node.name == name:
                break
    return names


@attrs.define
class Load:
    """Calls of ``square`` that follow each other in many tasks until they are told to stop."""

    stub: Peer
    answers: dict[int, int] = attrs.field(factory=dict)
    is_over: bool = False
    begun: int = 0

    async def run(self) -> None:
        while not self.is_over:
            number = self.begun = self.begun + 1
            self.answers[number] = await self.stub.square(number)

    async def reach(self, count: int) -> None:
        await eventually(lambda: len(self.answers) >= count)


async def test_a_worker_killed_under_load_loses_no_idempotent_call(started: Processes) -> None:
    with trio.fail_after(PATIENCE):
        async with node("director") as director:
            workers = await start_workers(started, director.address, "w1", "w2", "w3")
            await director.registry.wait_for(4)
            load = Load(director.stub(Peer))
            async with director.events(rpcnet.NodeFailed) as failures, trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(load.run)
                await load.reach(500)
                workers["w2"].popen.kill()
                assert await names_until(failures, "w2") == ["w2"]
                await load.reach(len(load.answers) + 500)
                load.is_over = True
            counts = {
                info.name: director.client.statistics().per_node[info.id]
                for info in director.registry.nodes()
                if info.name != "director"
            }
    assert load.answers == {number: number * number for number in range(1, load.begun + 1)}
    assert director.client.statistics().failures == 0
    assert director.client.statistics().retries >= counts["w2"].failed > 0
    assert all(counts[name].done > 0 for name in workers)
    assert all(each.active == 0 for each in counts.values())


async def test_a_worker_that_stops_for_a_second_is_not_declared_failed_by_anybody(started: Processes) -> None:
    with trio.fail_after(PATIENCE):
        async with node("director") as director:
            workers = await start_workers(started, director.address, "w1", "w2", "w3")
            await director.registry.wait_for(4)
            async with director.events(rpcnet.NodeSuspected, rpcnet.NodeRecovered, rpcnet.NodeFailed) as events:
                workers["w2"].popen.send_signal(signal.SIGSTOP)
                suspected = False
                with trio.move_on_after(PAUSE):
                    await names_until(events, "w2")
                    suspected = True
                    await trio.sleep_forever()
                workers["w2"].popen.send_signal(signal.SIGCONT)
                assert await director.stub(Peer, node="w2").who() == "w2"
                if suspected:
                    await names_until(events, "w2")
            await director.registry.wait_for(4)
            for name in workers:
                assert await director.stub(Peer, node=name).seen_failing() == []
            assert rpcnet.NodeState.FAILED not in {info.state for info in director.registry.nodes()}


async def test_a_killed_worker_that_is_started_again_is_called_again(started: Processes) -> None:
    with trio.fail_after(PATIENCE):
        async with node("director") as director:
            workers = await start_workers(started, director.address, "w1")
            stub = director.stub(Peer, node="w1")
            assert await stub.who() == "w1"
            before = director.registry.get("w1")
            async with director.events(rpcnet.NodeReplaced, rpcnet.NodeFailed) as events:
                workers["w1"].popen.kill()
                await start_workers(started, director.address, "w1")
                await names_until(events, "w1")
            while (after := director.registry.get("w1")) is None or not after.is_usable:
                await director.registry.wait_for(2)
            assert await stub.who() == "w1"
            assert before is not None
            assert after.boot_id > before.boot_id
            assert after.id == before.id


async def test_a_cancellation_at_the_moment_a_connection_is_cut_harms_nobody() -> None:
    with trio.fail_after(PATIENCE):
        async with node("one", services=(Peer("one"),)) as one, node("two", one.address) as two:
            stub = two.stub(Peer, node="one")

            async def call_while_the_connection_is_cut() -> None:
                two._parts.endpoint.cut("one", one.membership.local.boot_id, "cut by the test")  # type: ignore[union-attr]
                await stub.who()

            for _ in range(20):  # Trio runs the tasks of one turn in either order
                assert await stub.who() == "one"
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(call_while_the_connection_is_cut)
                    await trio.lowlevel.checkpoint()
                    nursery.cancel_scope.cancel()
            assert await stub.who() == "one"
