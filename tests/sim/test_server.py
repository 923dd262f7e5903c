"""A server on its own: what it takes, what it refuses, how it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio
from _raw_peer import open_raw_peer
from _servers import Served, serve
from _world import Work

import rpcnet
from rpcnet._net.addresses import parse_address
from rpcnet._net.environment import current_environment
from rpcnet.testing import SimulatedCluster, run

Scenario = Callable[[SimulatedCluster, trio.Nursery], Awaitable[None]]


def play(scenario: Scenario, **settings: int) -> None:
    """Run a scenario with a nursery for its servers, which end with it."""

    async def main(cluster: SimulatedCluster) -> None:
        async with trio.open_nursery() as nursery:
            await scenario(cluster, nursery)
            nursery.cancel_scope.cancel()

    run(main, **settings)


@rpcnet.service
class Streams:
    @rpcnet.rpc
    async def count(self, most: int) -> AsyncIterator[int]:
        for number in range(most):
            yield number

    @rpcnet.rpc
    async def add(self, numbers: AsyncIterator[int]) -> int:
        return sum([number async for number in numbers])

    @rpcnet.rpc
    async def double(self, numbers: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in numbers:
            yield 2 * number


async def numbers(most: int) -> AsyncIterator[int]:
    for number in range(most):
        yield number


def test_calls_of_every_shape_are_served() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        async with (
            rpcnet.Server([Streams(), Work("s")], security=cluster.security) as server,
            rpcnet.connect(server.address, security=cluster.security) as connection,
        ):
            stub = connection.stub(Streams)
            assert await connection.stub(Work).who() == "s"
            assert await stub.add(numbers(100)) == 4950
            async with stub.count(5) as counted:
                assert [number async for number in counted] == [0, 1, 2, 3, 4]
            async with stub.double(numbers(3)) as doubled:
                assert [number async for number in doubled] == [0, 2, 4]
            assert server.statistics().active_calls == 0

    play(scenario)


def test_a_handler_knows_its_server_and_a_caller_that_is_no_member() -> None:
    seen: list[object] = []

    @rpcnet.service
    class Curious:
        @rpcnet.rpc
        async def look(self) -> None:
            call = rpcnet.current_call()
            seen.extend([call.node, call.peer.name, call.peer.is_member, dict(call.metadata), call.draining.is_set()])

    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        async with (
            rpcnet.Server([Curious()], security=cluster.security) as server,
            rpcnet.connect(server.address, security=cluster.security, name="visitor") as connection,
        ):
            await connection.stub(Curious, metadata={"trace": "7"}).look()
            assert seen == [server, "visitor", False, {"trace": "7"}, False]

    play(scenario)


def test_middleware_runs_around_the_calls_of_both_sides() -> None:
    passed: list[str] = []

    def noting(where: str) -> rpcnet.Middleware[rpcnet.Call]:
        async def middleware(call: rpcnet.Call, proceed: Callable[[], Awaitable[Any]]) -> Any:
            passed.append(f"{where} {call.method}")
            return await proceed()

        return middleware

    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        async with (
            rpcnet.Server([Work("s")], security=cluster.security, middleware=[noting("server")]) as server,
            rpcnet.connect(server.address, security=cluster.security, middleware=[noting("client")]) as connection,
        ):
            assert await connection.stub(Work).who() == "s"
            assert await connection.call("work.who") == "s"

    play(scenario)
    assert passed == ["client work.who", "server work.who"] * 2


def test_the_end_of_the_block_lets_running_calls_finish_and_refuses_new_ones() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served = await serve(nursery, cluster)
        async with rpcnet.connect(served.address, security=cluster.security) as connection:
            stub = connection.stub(Work)
            answers: list[str] = []

            async def call() -> None:
                answers.append(await stub.once("long", 3.0))

            async with trio.open_nursery() as calls:
                calls.start_soon(call)
                await trio.sleep(1)
                calls.start_soon(served.stop)
                await trio.sleep(0.1)
                with pytest.raises(rpcnet.Unavailable, match="is draining") as refused:
                    await stub.once("late", 0.0)
            assert answers == ["server"]
            assert refused.value.never_ran
            assert served.work.runs["late"] == 0

    play(scenario)


def test_a_call_that_outlives_the_drain_timeout_is_ended() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served = await serve(nursery, cluster, drain_timeout=2.0)
        async with rpcnet.connect(served.address, security=cluster.security) as connection:
            async with trio.open_nursery() as calls:

                async def call() -> None:
                    with pytest.raises(rpcnet.Unavailable) as lost:
                        await connection.stub(Work).once("long", 100.0)
                    assert not lost.value.never_ran

                calls.start_soon(call)
                await trio.sleep(1)
                begun = trio.current_time()
                await served.stop()
                assert trio.current_time() - begun == pytest.approx(2.0, abs=0.1)
            assert [key for _, key in served.work.cancelled] == ["long"]

    play(scenario)


def test_draining_by_hand_waits_for_the_running_calls_only() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served = await serve(nursery, cluster)
        async with (
            rpcnet.connect(served.address, security=cluster.security) as connection,
            trio.open_nursery() as calls,
        ):
            calls.start_soon(connection.stub(Work).once, "long", 3.0)
            await trio.sleep(1)
            begun = trio.current_time()
            await served.server.drain()
            assert trio.current_time() - begun == pytest.approx(2.0, abs=0.1)
            status = await connection.stub(rpcnet.Health).check()
            assert (status.live, status.ready, status.draining) == (True, False, True)

    play(scenario)


def test_health_is_told_by_a_server_as_by_a_node() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served = await serve(nursery, cluster)
        async with rpcnet.connect(served.address, security=cluster.security) as connection:
            health = connection.stub(rpcnet.Health)
            assert (await health.check("work")).ready
            served.server.health.set_ready(False, "work")
            assert not (await health.check("work")).ready
            assert {each.name for each in await connection.stub(rpcnet.Reflection).services()} >= {"work"}

    play(scenario)


def test_what_membership_sends_to_a_server_is_dropped_and_counted() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served = await serve(nursery, cluster)
        (node,) = await cluster.start()
        async with open_raw_peer(cluster.security) as peer:
            for _ in range(5):
                peer.pump.send_sealed(b"hello", parse_address(served.address))
            await trio.sleep(1)
        statistics = served.server.statistics().sealing
        assert (statistics.opened, statistics.unknown_key + statistics.forged) == (0, 5)
        async with rpcnet.connect(served.address, security=cluster.security) as connection:
            assert await connection.stub(Work).who() == "server"
        assert len(node.node.registry.nodes()) == 1

    play(scenario)


def test_a_node_that_takes_a_server_for_a_seed_is_told_that_it_is_no_node() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served = await serve(nursery, cluster)
        with pytest.raises(rpcnet.JoinError, match="is no node of a cluster"):
            async with rpcnet.Node("n", seeds=[served.address], security=cluster.security):
                pass

    play(scenario)


def test_a_server_that_does_not_know_membership_answers_an_exchange_of_state_by_nothing() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served = await serve(nursery, cluster)
        async with rpcnet.connect(served.address, security=cluster.security) as connection:
            session = await connection._parts.endpoint.connect(served.address)
            assert await session.exchange_state(b"a state") == b""
            assert served.server._running.endpoint.membership.receive_nowait() is None

    play(scenario)


def test_a_client_takes_no_connections() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served = await serve(nursery, cluster)
        async with rpcnet.connect(served.address, security=cluster.security) as connection:
            its_port = connection._parts.endpoint.address
            with pytest.raises(rpcnet.Unavailable):
                async with rpcnet.connect(its_port, security=cluster.security, config=quick()):
                    pass
            assert await connection.stub(Work).who() == "server"

    play(scenario)


def quick() -> rpcnet.RpcConfig:
    return rpcnet.RpcConfig(connect_timeout=1.0)


def break_task(server: rpcnet.Server) -> None:
    server._running.bus.mailbox("RPC server").put(rpcnet.NodeLeft(None, at=0.0))  # type: ignore[arg-type]


def test_a_server_whose_task_fails_goes_on() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served = await serve(nursery, cluster)
        async with rpcnet.connect(served.address, security=cluster.security) as connection:
            for failures in (1, 2, 3):
                break_task(served.server)
                await trio.sleep(0.1)
                assert served.server.statistics().restarts == failures
                assert await connection.stub(Work).who() == "server"

    play(scenario)


def test_a_server_whose_task_fails_again_and_again_crashes() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        async def body() -> None:
            async with rpcnet.Server([Work("s")], security=cluster.security) as server:
                for _ in range(4):
                    break_task(server)
                    await trio.sleep(0.1)
                raise AssertionError("it goes on")

        with pytest.raises(rpcnet.NodeCrashed):
            await body()

    play(scenario)


def test_a_cancelled_block_ends_in_bounded_time_and_lets_the_port_go() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served = await serve(nursery, cluster, bind="10.9.9.9:7000", drain_timeout=1.0)
        async with rpcnet.connect(served.address, security=cluster.security) as connection:
            nursery.start_soon(swallow, connection.stub(Work).once, "long", 1000.0)
            await trio.sleep(0.5)
            begun = trio.current_time()
            await served.stop()
            assert trio.current_time() - begun < 1.5
        (await current_environment().bind("10.9.9.9:7000")).close()

    play(scenario)


async def swallow(call: Callable[..., Awaitable[object]], *args: object) -> None:
    with pytest.raises(rpcnet.Unavailable):
        await call(*args)


def test_errors_of_the_body_come_out_bare() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        with pytest.raises(KeyError):
            async with rpcnet.Server([Work()], security=cluster.security):
                raise KeyError

    play(scenario)


def test_a_server_is_entered_once_and_used_inside_its_block() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        server = rpcnet.Server([Work()], security=cluster.security)
        assert "not running" in repr(server)
        with pytest.raises(RuntimeError, match="not running"):
            _ = server.address
        async with server:
            assert repr(server) == f"<rpcnet.Server {server.name!r} at {server.address}>"
            assert server.name.startswith("simulated-")
            with pytest.raises(RuntimeError, match="entered once"):
                await server.__aenter__()

    play(scenario)


MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "no services": (lambda: rpcnet.Server(7), "services = 7"),  # type: ignore[arg-type]
    "a class": (lambda: rpcnet.Server([Work]), "pass an object"),
    "two of a name": (lambda: rpcnet.Server([Work(), Work()]), "two services are named 'work'"),
    "no address": (lambda: rpcnet.Server([Work()], bind="7000"), "bind: address '7000'"),
    "nothing to dial": (lambda: rpcnet.Server([Work()], advertise="0.0.0.0:7000"), "advertise: address"),
    "the settings of a node": (lambda: rpcnet.Server([Work()], config=rpcnet.NodeConfig()), "must be an RpcConfig"),  # type: ignore[arg-type]
    "a secret for a security": (lambda: rpcnet.Server([Work()], security="s"), "security: must be a Security, not str"),  # type: ignore[arg-type]
    "a long drain": (
        lambda: rpcnet.Server([Work()], drain_timeout=4000.0),
        "^drain_timeout = 4000.0: must be",
    ),
}


@pytest.mark.parametrize(("make", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_wrong_argument_is_refused_at_once(make: Callable[[], object], message: str) -> None:
    with pytest.raises(rpcnet.ConfigError, match=message):
        make()


def test_an_address_of_ipv6_is_served_and_dialled() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served: Served = await serve(nursery, cluster, bind="[fd00::7]:7946")
        assert served.address == "[fd00::7]:7946"
        async with rpcnet.connect("[fd00::7]:7946", security=cluster.security) as connection:
            assert await connection.stub(Work).who() == "server"

    play(scenario)


def test_every_address_of_a_family_is_advertised_as_one_of_that_family() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        cluster.set_name("simulated", ["10.1.2.3", "fd00::1"])
        async with rpcnet.Server([Work()], bind="[::]:7000", security=cluster.security) as server:
            assert server.address == "[fd00::1]:7000"
        cluster.set_name("simulated", ["10.1.2.3"])
        with pytest.raises(rpcnet.ConfigError, match="say what others should dial with advertise="):
            async with rpcnet.Server([Work()], bind="[::]:7000", security=cluster.security):
                pass

    play(scenario)
