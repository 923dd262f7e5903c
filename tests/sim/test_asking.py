"""Queries through the whole stack: asked on one node, answered by all whose tags match."""

from __future__ import annotations

import attrs
import pytest
import trio
from _talk import Listener, listeners

import rpcnet
from rpcnet._core.user_events import UserEventMachine
from rpcnet.testing import SimulatedCluster, run


def test_all_answer_and_the_query_ends_with_the_last_answer() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        async with trio.open_nursery() as nursery:
            nodes, _ = await listeners(cluster, nursery, 5)
            began = trio.current_time()
            answers = await nodes[0].node.query("who", b"?")
            assert trio.current_time() - began < 2.0
            assert dict(answers) == {f"n{i}": b"n%d:?" % i for i in range(5)}
            assert answers[nodes[3].node.id] == b"n3:?"
            assert (answers.silent, answers.unreached) == ((), ())
            nursery.cancel_scope.cancel()

    run(scenario)


def test_at_30_percent_loss_all_answers_come_in_time() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        async with trio.open_nursery() as nursery:
            nodes, _ = await listeners(cluster, nursery, 6)
            for source in nodes:
                for destination in nodes:
                    if source is not destination:
                        cluster.set_loss(source, destination, 0.3)
            for number in range(10):
                answers = await nodes[number % 6].node.query("who", b"%d" % number)
                assert sorted(answers) == [f"n{i}" for i in range(6)]
            nursery.cancel_scope.cancel()

    run(scenario, seed=5)


def test_who_is_silent_and_who_was_not_reached_is_named() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        async with trio.open_nursery() as nursery:
            nodes, found = await listeners(cluster, nursery, 4)
            found[1].answers = False
            cluster.partition(nodes[:3], nodes[3:])
            began = trio.current_time()
            answers = await nodes[0].node.query("who", timeout=2.0)
            assert 2.0 <= trio.current_time() - began < 2.1
            assert sorted(answers) == ["n0", "n2"]
            assert (answers.silent, answers.unreached) == (("n1",), ("n3",))
            assert sorted(answers.received) == ["n0", "n1", "n2"]
            nursery.cancel_scope.cancel()

    run(scenario)


def test_only_nodes_whose_tags_match_are_asked() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(4, tags=lambda name: {"zone": "eu" if name in ("n1", "n2") else "us"})
        await cluster.converged()
        async with trio.open_nursery() as nursery:
            found = [Listener(handle.node) for handle in nodes]
            for listener in found:
                await nursery.start(listener.run)
            answers = await nodes[0].node.query("who", where="zone=eu")
            assert sorted(answers) == ["n1", "n2"]
            assert [len(listener.questions) for listener in found] == [0, 1, 1, 0]
            assert len(await nodes[0].node.query("who", where="zone=asia")) == 0
            nursery.cancel_scope.cancel()

    run(scenario)


@pytest.mark.parametrize("room", [64, 2])
def test_many_queries_at_once_get_each_its_own_answers(room: int) -> None:
    config = rpcnet.NodeConfig(gossip=rpcnet.GossipConfig(max_waiting_events=room))

    async def scenario(cluster: SimulatedCluster) -> None:
        async with trio.open_nursery() as nursery:
            nodes, _ = await listeners(cluster, nursery, 3, config)
            done: list[int] = []

            async def ask(number: int) -> None:
                answers = await nodes[number % 3].node.query("who", b"%d" % number, timeout=30)
                assert dict(answers) == {f"n{i}": b"n%d:%d" % (i, number) for i in range(3)}
                done.append(number)

            async with trio.open_nursery() as askers:
                for number in range(30):
                    askers.start_soon(ask, number)
            assert sorted(done) == list(range(30))
            nursery.cancel_scope.cancel()

    run(scenario)


def test_a_question_takes_one_answer_of_each_node_while_it_stands() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        async with trio.open_nursery() as nursery:
            nodes, found = await listeners(cluster, nursery, 2)
            found[1].answers = False
            node = nodes[1].node

            async def ask() -> None:
                assert dict(await nodes[0].node.query("who", timeout=5.0)) == {"n0": b"n0:", "n1": b"mine"}

            async with trio.open_nursery() as askers:
                askers.start_soon(ask)
                await trio.sleep(1)
                (question,) = found[1].questions
                with pytest.raises(rpcnet.ConfigError, match="takes 513 bytes, at most 512"):
                    await node.respond(question, b"x" * 513)
                await node.respond(question, b"mine")
                with pytest.raises(rpcnet.FailedPrecondition, match="has been answered"):
                    await node.respond(question, b"again")
            foreign = attrs.evolve(question, number=77)
            with pytest.raises(rpcnet.FailedPrecondition, match="not put to this node"):
                await node.respond(foreign, b"x")
            with pytest.raises(rpcnet.ConfigError, match="must be a QueryReceived"):
                await node.respond("who", b"x")  # type: ignore[arg-type]
            await trio.sleep(5)
            with pytest.raises(rpcnet.DeadlineExceeded):
                await node.respond(question, b"late")
            nursery.cancel_scope.cancel()

    run(scenario)


def test_wrong_arguments_are_refused_before_anything_is_sent() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        (handle,) = await cluster.start(1)
        node = handle.node
        with pytest.raises(rpcnet.ConfigError, match="at most max_query_timeout = 60"):
            await node.query("who", timeout=61)
        with pytest.raises(rpcnet.ConfigError, match="regular expressions"):
            await node.query("who", where="version=~1.*")
        with pytest.raises(rpcnet.ConfigError, match="column 6"):
            await node.query("who", where="zone=")
        with pytest.raises(rpcnet.ConfigError, match="take 513 bytes, at most 512"):
            await node.query("who", b"x" * 510)
        with pytest.raises(rpcnet.ConfigError, match="at most 600 are allowed"):
            await node.query("who", b"x" * 500, where="gpu!=" + "a" * 100)

    run(scenario)


def test_a_query_that_is_cancelled_leaves_nothing_behind() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        async with trio.open_nursery() as nursery:
            nodes, found = await listeners(cluster, nursery, 3)
            for listener in found:
                listener.answers = False
            with trio.move_on_after(0.5):
                await nodes[0].node.query("who")
            for listener in found:
                listener.answers = True
            assert len(await nodes[0].node.query("who")) == 3
            nursery.cancel_scope.cancel()

    run(scenario)


def test_a_query_outlives_the_task_that_asks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    original, left = UserEventMachine.ask, {"failures": 1}

    def fail_first(self: UserEventMachine, *args: object) -> object:
        if left["failures"]:
            left["failures"] -= 1
            raise ZeroDivisionError
        return original(self, *args)  # type: ignore[arg-type]

    async def scenario(cluster: SimulatedCluster) -> None:
        async with trio.open_nursery() as nursery:
            nodes, found = await listeners(cluster, nursery, 3)
            monkeypatch.setattr(UserEventMachine, "ask", fail_first)
            answers = await nodes[0].node.query("who")
            assert sorted(answers) == ["n0", "n1", "n2"]
            assert [len(listener.questions) for listener in found] == [1, 1, 1]
            nursery.cancel_scope.cancel()

    run(scenario)


def test_whoever_waits_when_the_node_ends_is_told() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        async with trio.open_nursery() as nursery:
            nodes, found = await listeners(cluster, nursery, 2)
            found[1].answers = False
            raised: list[str] = []

            async def ask() -> None:
                try:
                    await nodes[0].node.query("who", timeout=60)
                except RuntimeError as error:
                    raised.append(str(error))

            nursery.start_soon(ask)
            await trio.sleep(1)
            await cluster.stop(nodes[0])
            await trio.sleep(1)
            assert raised == ["the node has stopped"]
            nursery.cancel_scope.cancel()

    run(scenario)
