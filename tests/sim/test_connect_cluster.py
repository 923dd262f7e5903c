"""A client of a cluster that is no member: how it enters, what it sees and is told, how it leaves."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
import trio
from _followers import event_of, follow, followed, followers, names, until
from _servers import serve
from _world import Work, World

import rpcnet
from rpcnet._net.addresses import parse_address
from rpcnet._net.identity import Security
from rpcnet.testing import SimulatedCluster, run

# --- entering


def test_a_client_sees_and_calls_every_node_and_no_node_sees_it() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(4, tags=lambda name: {"zone": "eu" if name < "n2" else "us"})
        async with follow(cluster, nodes[0]) as client:
            assert names(client) == ["n0", "n1", "n2", "n3"]
            assert client.registry.nodes() == nodes[0].node.registry.nodes()
            assert {await client.stub(Work).who() for _ in range(40)} == {"n0", "n1", "n2", "n3"}
            assert {await client.stub(Work, where="zone=us").who() for _ in range(40)} == {"n2", "n3"}
            assert await client.stub(Work, node="n1").who() == "n1"
            assert await client.call_worker("work.who", node="n2") == "n2"
            everybody = await client.call_all_workers("work.who")
            assert {node.name: answer for node, answer in everybody.items()} == {n: n for n in names(client)}
            assert client.workers.worker_count("zone=eu") == 2
            await trio.sleep(30)
            assert all(len(node.node.registry.nodes()) == 4 for node in nodes)

    run(scenario)


def test_built_in_services_are_no_workers() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        (node,) = await cluster.start()
        async with follow(cluster, node) as client:
            assert client.workers.worker_count() == node.node.workers.worker_count() == 0
            assert client.registry.nodes()[0].services == ()
            assert (await client.stub(rpcnet.Health, node="n0").check()).ready

    run(scenario)


def test_a_seed_that_does_not_answer_costs_half_a_second() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        (node,) = await world.start(1)
        begun = trio.current_time()
        seeds = ["10.8.8.8:7946", "10.8.8.9:7946", node.address]
        async with rpcnet.connect_cluster(seeds, security=cluster.security) as client:
            assert trio.current_time() - begun == pytest.approx(1.0, abs=0.1)
            assert await client.stub(Work).who() == "n0"

    run(scenario)


def test_when_no_seed_can_be_followed_the_error_names_each_with_its_answer() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        async with trio.open_nursery() as nursery:
            served = await serve(nursery, cluster)
            stranger = Security.shared_secret(bytes(range(32)), cluster="simulation")
            async with rpcnet.Node("stranger", bind="10.8.8.7:7946", security=stranger):
                seeds = ["10.8.8.8:7946", served.address, "nowhere.example:7946", "10.8.8.7:7946"]
                with pytest.raises(rpcnet.JoinError) as failed:
                    async with rpcnet.connect_cluster(seeds, security=cluster.security):
                        pass
            assert list(failed.value.answers) == sorted(seeds, key=list(failed.value.answers).index)
            answers = failed.value.answers
            assert "no handshake" in answers[seeds[0]] or "nobody answered" in answers[seeds[0]]
            assert answers[seeds[1]] == "server does not serve rpcnet.Cluster.watch"
            assert answers[seeds[2]].startswith("nowhere.example does not resolve")
            assert "not issued for cluster" in answers[seeds[3]]
            assert all(f"{seed}: {answer}" in str(failed.value) for seed, answer in answers.items())
            nursery.cancel_scope.cancel()

    run(scenario)


def test_a_seed_that_drains_is_not_followed() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(2)
        await nodes[0].node.drain()
        async with follow(cluster, *nodes) as client:
            assert followed(world) == ["n1"]
            assert await client.stub(Work).who() == "n1"
        with pytest.raises(rpcnet.JoinError, match="draining"):
            async with follow(cluster, nodes[0]):
                pass

    run(scenario)


def test_a_seed_that_accepts_a_follower_and_tells_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(2)
        monkeypatch.setattr("rpcnet._builtin.cluster.in_pieces", lambda known: [])
        with pytest.raises(rpcnet.JoinError, match="told nothing within 5 s"):
            async with follow(cluster, nodes[0]):
                pass
        monkeypatch.undo()
        await trio.sleep(0.1)
        assert followers(nodes[0]) == 0
        async with follow(cluster, nodes[0]) as client:
            assert names(client) == ["n0", "n1"]

    run(scenario)


MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "one string": (lambda: rpcnet.connect_cluster("10.0.0.1:7946"), "not one string"),
    "no seeds": (lambda: rpcnet.connect_cluster([]), "must name at least one node"),
    "no port": (lambda: rpcnet.connect_cluster(["host"]), "seeds: address 'host': has no port"),
    "settings of a node": (lambda: rpcnet.connect_cluster(["h:1"], config=rpcnet.NodeConfig()), "must be an RpcConfig"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("make", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_wrong_argument_is_refused_at_once(make: Callable[[], object], message: str) -> None:
    with pytest.raises(rpcnet.ConfigError, match=message):
        make()


def test_the_deadline_of_whoever_enters_does_not_end_what_is_followed() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(1)
        with trio.fail_after(5) as entering:
            async with follow(cluster, nodes[0]) as client:
                entering.deadline = float("inf")
                await trio.sleep(100)
                assert followers(nodes[0]) == 1
                await world.start(1)
                assert names(client) == ["n0", "n1"]
                assert nodes[0].node.statistics().quic.accepted == 2  # the client's, and the new node's

    run(scenario)


# --- following


def test_a_subscription_tells_what_is_known_and_then_every_change() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(2)
        async with follow(cluster, nodes[0]) as client, client.events() as events:
            assert {(await anext(events)).node.name for _ in range(2)} == {"n0", "n1"}  # type: ignore[attr-defined]
            await nodes[1].node.update_tags({"gpu": "1"})
            updated = await event_of(events, rpcnet.NodeUpdated, "n1")
            assert updated.node.tags == {"gpu": "1"}
            (joined,) = await world.start(1)
            await event_of(events, rpcnet.NodeJoined, "n2")
            await cluster.crash(joined)
            suspected = await event_of(events, rpcnet.NodeSuspected, "n2")
            assert isinstance(suspected, rpcnet.NodeSuspected)
            assert suspected.phi > 0
            assert suspected.accusers
            failed = await event_of(events, rpcnet.NodeFailed, "n2")
            assert isinstance(failed, rpcnet.NodeFailed)
            assert failed.reason
            await world.bounce(joined)
            await event_of(events, rpcnet.NodeJoined, "n2")
            await cluster.stop(joined)
            await event_of(events, rpcnet.NodeLeft, "n2")
            assert client.registry.nodes() == nodes[0].node.registry.nodes()

    run(scenario)


def test_waiting_for_nodes_and_for_a_worker_works_as_on_a_node() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await cluster.start(1)
        async with follow(cluster, nodes[0]) as client:
            answers: list[str] = []

            async def call() -> None:
                answers.append(await client.stub(Work, wait_for_worker=60).who())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await trio.sleep(1)
                await world.start(1)
                assert [node.name for node in await client.registry.wait_for(2)] == ["n0", "n1"]
            assert answers == ["n1"]
            with pytest.raises(rpcnet.NoWorkers):
                await client.call_worker("nothing.at_all")

    run(scenario)


def test_calls_on_a_node_that_fails_end_as_soon_as_that_is_told() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(3)
        config = rpcnet.RpcConfig(silence_timeout=100.0)
        async with follow(cluster, nodes[0], config=config) as client, client.events(rpcnet.NodeFailed) as events:
            answers: list[str] = []

            async def once() -> None:
                with pytest.raises(rpcnet.Unavailable, match="n2 was declared failed"):
                    await client.stub(Work, node="n2").once("once", 50.0)
                answers.append("lost")

            async def again() -> None:
                answers.append(await client.stub(Work).again("again", 1.0))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(once)
                for _ in range(9):
                    nursery.start_soon(again)
                await trio.sleep(0.5)
                await cluster.crash(nodes[2])
                await event_of(events, rpcnet.NodeFailed, "n2")
            assert answers.count("lost") == 1
            assert set(answers) == {"lost", "n0", "n1"}
            assert len(answers) == 10
            assert client.statistics().failures == 1

    run(scenario)


def test_a_call_that_waits_for_a_dial_goes_elsewhere_as_soon_as_the_node_has_failed() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(2)
        config = rpcnet.RpcConfig(connect_timeout=100.0, silence_timeout=100.0)
        async with follow(cluster, nodes[0], config=config) as client, client.events(rpcnet.NodeFailed) as events:
            await cluster.crash(nodes[1])
            answers: list[str] = []

            async def call() -> None:
                answers.append(await client.stub(Work).once("key", 0.1))

            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(call)
                failed = await event_of(events, rpcnet.NodeFailed, "n1")
            assert trio.current_time() - failed.at < 1.0
            assert answers == ["n0"] * 4
            assert client.statistics().retries == 2

    run(scenario)


def test_a_follower_that_reads_nothing_is_told_everything_anew_when_it_reads() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        config = attrs.evolve(rpcnet.NodeConfig.lan(), supervision=rpcnet.SupervisionConfig(subscription_size=4))
        nodes = await world.start(2, config=config)
        async with follow(cluster, nodes[0], config=rpcnet.RpcConfig(stream_window_bytes=1024)) as client:
            ours = parse_address(client._host.endpoint.address)[0]
            cluster._network.partition([ours], [nodes[0].host])
            for number in range(50):
                await nodes[1].node.update_tags({"number": str(number)})
                await trio.sleep(0.1)
            cluster._network.repair()
            await until(lambda: client.registry.nodes() == nodes[0].node.registry.nodes())
            assert client.registry.get("n1").tags == {"number": "49"}  # type: ignore[union-attr]

    run(scenario)


def test_after_lost_events_followers_are_told_everything_anew() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(2)
        async with follow(cluster, nodes[0]) as client:
            hub = nodes[0].node._hub
            mailboxes, hub._mailboxes = hub._mailboxes, {}
            await nodes[1].node.update_tags({"lost": "1"})
            await trio.sleep(5)
            hub._mailboxes = mailboxes
            assert client.registry.get("n1").tags == {}  # type: ignore[union-attr]
            hub.publish(rpcnet.EventsDropped(at=trio.current_time(), count=1))
            await until(lambda: client.registry.nodes() == nodes[0].node.registry.nodes())
            assert client.registry.get("n1").tags == {"lost": "1"}  # type: ignore[union-attr]

    run(scenario)


# --- leaving


def test_the_end_of_the_block_ends_subscriptions_and_leaves_nothing_at_the_nodes() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        world = World(cluster)
        nodes = await world.start(2)
        seen: list[rpcnet.ClusterEvent] = []

        async def listen(client: rpcnet.ClusterClient) -> None:
            async with client.events() as events:
                async for event in events:
                    seen.append(event)  # noqa: PERF401 - they come one by one

        async with trio.open_nursery() as nursery, follow(cluster, nodes[0]) as client:
            nursery.start_soon(listen, client)
            await trio.sleep(1)
        assert len(seen) == 2
        await trio.sleep(0.1)
        assert followers(nodes[0]) == 0
        assert nodes[0].node.statistics().active_calls == 0
        with pytest.raises(RuntimeError, match="the client was closed"):
            await client.registry.wait_for(3)

    run(scenario)


@pytest.mark.parametrize("after", [0.0, 0.001, 0.002, 0.003, 0.004, 0.006, 0.3])
def test_a_cancelled_client_is_gone_at_once(after: float) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(2)
        ports = len(cluster._network._ports)
        begun = trio.current_time()
        with trio.move_on_after(after):
            async with follow(cluster, *nodes):
                await trio.sleep_forever()
        assert trio.current_time() - begun == pytest.approx(after, abs=0.01)
        assert len(cluster._network._ports) == ports
        await trio.sleep(0.1)
        assert followers(nodes[0]) == 0

    run(scenario)


def test_errors_of_the_body_come_out_bare() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start(1)
        with pytest.raises(KeyError):
            async with follow(cluster, nodes[0]):
                raise KeyError

    run(scenario)


def test_a_run_with_crashes_repeats_exactly() -> None:
    def trace(seed: int) -> list[tuple[float, str]]:
        seen: list[tuple[float, str]] = []

        async def scenario(cluster: SimulatedCluster) -> None:
            world = World(cluster)
            nodes = await world.start(3)
            async with follow(cluster, nodes[0]) as client:
                for number in range(40):
                    if number == 10:
                        await cluster.crash(nodes[0])
                    seen.append((trio.current_time(), await client.stub(Work).again("key", 0.1)))

        run(scenario, seed=seed)
        return seen

    assert trace(3) == trace(3)
    assert trace(3) != trace(4)
