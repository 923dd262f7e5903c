"""A connection of a program that is no member: made, lost, waited for and made again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from _servers import Served, serve
from _world import Work

import rpcnet
from rpcnet._net.addresses import parse_address
from rpcnet._net.environment import current_environment
from rpcnet._net.identity import Security
from rpcnet._net.ports import DatagramPort
from rpcnet.testing import SimulatedCluster, run

Scenario = Callable[[SimulatedCluster, trio.Nursery], Awaitable[None]]
ADDRESS = "10.9.9.9:7000"


def play(scenario: Scenario, seed: int = 0) -> None:
    """Run a scenario with a nursery for its servers, which end with it."""

    async def main(cluster: SimulatedCluster) -> None:
        async with trio.open_nursery() as nursery:
            await scenario(cluster, nursery)
            nursery.cancel_scope.cancel()

    run(main, seed=seed)


def open_names() -> dict[str, list[str]]:
    """Return the table of host names of the simulation, to be changed."""
    names: dict[str, list[str]] = current_environment().network._names  # type: ignore[attr-defined]
    return names


# --- entering


def test_the_name_of_the_server_and_of_the_client_are_those_in_their_certificates() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served = await serve(nursery, cluster)
        async with rpcnet.connect(served.address, security=cluster.security) as connection:
            assert connection.server == "server"
            assert connection.address == served.address
            assert connection.is_connected
            name = connection.name
            assert name.startswith("client-")
            (session,) = served.server._running.endpoint.sessions()
            assert session.peer_name == name
            assert repr(connection) == f"<rpcnet.Connection of {name!r} with 'server' at {served.address}>"

    play(scenario)


def test_a_node_is_called_as_a_server_is() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        one, other = await cluster.start(2, services=lambda name: [Work(name)])
        await cluster.converged()
        async with rpcnet.connect(other.address, security=cluster.security) as connection:
            assert [await connection.stub(Work).who() for _ in range(3)] == ["n1"] * 3
            assert await connection.call("work.measure", b"12345", 0.0) == 5
        assert len(one.node.registry.nodes()) == 2

    play(scenario)


def test_nobody_at_the_address_is_unavailable_after_the_connect_timeout() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        config = rpcnet.RpcConfig(connect_timeout=3.0)
        with pytest.raises(rpcnet.Unavailable, match=r"10\.9\.9\.9:7000") as failed:
            async with rpcnet.connect(ADDRESS, security=cluster.security, config=config):
                pass
        assert failed.value.never_ran
        assert trio.current_time() == pytest.approx(3.0, abs=0.01)

    play(scenario)


def test_a_name_that_does_not_resolve_is_unavailable_at_once() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        with pytest.raises(rpcnet.Unavailable, match=r"nowhere\.example does not resolve"):
            async with rpcnet.connect("nowhere.example:7000", security=cluster.security):
                pass
        assert trio.current_time() < 0.1

    play(scenario)


def test_a_server_with_another_secret_is_unauthenticated() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served = await serve(nursery, cluster)
        stranger = Security.shared_secret(bytes(range(32)), cluster="simulation")
        with pytest.raises(rpcnet.Unauthenticated):
            async with rpcnet.connect(served.address, security=stranger):
                pass
        assert trio.current_time() < 1.0

    play(scenario)


def test_a_server_of_another_name_than_the_one_wanted_is_unauthenticated() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served = await serve(nursery, cluster)
        async with rpcnet.connect(served.address, server="server", security=cluster.security) as connection:
            assert await connection.stub(Work).who() == "server"
        with pytest.raises(rpcnet.Unauthenticated, match="is node 'server', not 'bank'"):
            async with rpcnet.connect(served.address, server="bank", security=cluster.security):
                pass

    play(scenario)


def test_a_server_that_drains_can_be_entered_and_asked_how_it_is() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served = await serve(nursery, cluster)
        await served.server.drain()
        config = rpcnet.RpcConfig(connect_timeout=2.0)
        async with rpcnet.connect(served.address, security=cluster.security, config=config) as connection:
            assert (await connection.stub(rpcnet.Health).check()).draining
            begun = trio.current_time()
            with pytest.raises(rpcnet.Unavailable, match="is draining") as refused:
                await connection.stub(Work).who()
            assert refused.value.never_ran
            assert trio.current_time() - begun == pytest.approx(2.0, abs=0.1)
        assert served.work.runs["who"] == 0

    play(scenario)


def test_of_several_addresses_of_a_name_the_next_one_is_dialled_when_one_does_not_answer() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        one = await serve(nursery, cluster, bind=ADDRESS, name="one")
        await serve(nursery, cluster, bind="10.9.9.10:7000", name="other")
        open_names()["two.example"] = ["10.9.9.9", "10.9.9.10"]
        config = rpcnet.RpcConfig(connect_timeout=2.0, silence_timeout=2.0)
        async with rpcnet.connect("two.example:7000", security=cluster.security, config=config) as connection:
            assert await connection.stub(Work).who() == "one"
            await one.stop()
            with pytest.raises(rpcnet.Unavailable):
                await connection.stub(Work).who()
            assert await connection.stub(Work).who() == "other"

    play(scenario)


MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "no port": (lambda: rpcnet.connect("host"), "address: address 'host': has no port"),
    "nothing to dial": (lambda: rpcnet.connect("0.0.0.0:7000"), "nobody can dial it"),
    "port zero": (lambda: rpcnet.connect("127.0.0.1:0"), "nobody can dial it"),
    "no name": (lambda: rpcnet.connect(ADDRESS, name=7), "name = 7"),  # type: ignore[arg-type]
    "no server": (lambda: rpcnet.connect(ADDRESS, server=7), "server = 7"),  # type: ignore[arg-type]
    "settings of a node": (lambda: rpcnet.connect(ADDRESS, config=rpcnet.NodeConfig()), "must be an RpcConfig"),  # type: ignore[arg-type]
    "no retry policy": (lambda: rpcnet.connect(ADDRESS, retry=3), "retry = 3"),  # type: ignore[arg-type]
    "a secret": (lambda: rpcnet.connect(ADDRESS, security="s"), "must be a Security, not str"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("make", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_wrong_argument_is_refused_at_once(make: Callable[[], object], message: str) -> None:
    with pytest.raises(rpcnet.ConfigError, match=message):
        make()


def test_a_longest_pause_below_the_shortest_is_refused() -> None:
    with pytest.raises(rpcnet.ConfigError, match="must not be below reconnect_min = 2"):
        rpcnet.RpcConfig(reconnect_min=2.0, reconnect_max=1.0)


# --- losing it


def test_calls_go_on_after_a_server_was_killed_and_started_again() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served = await serve(nursery, cluster, bind=ADDRESS)
        async with rpcnet.connect(ADDRESS, security=cluster.security) as connection:
            stub = connection.stub(Work)
            assert await stub.who() == "server"
            await served.kill()
            answers: list[str] = []

            async def call(method: Callable[[str, float], Awaitable[str]], key: str) -> None:
                try:
                    answers.append(await method(key, 0.0))
                except rpcnet.Unavailable as lost:
                    answers.append(f"lost, never ran: {lost.never_ran}")

            async with trio.open_nursery() as calls:
                calls.start_soon(call, stub.again, "again")
                calls.start_soon(call, stub.once, "once")
                await trio.sleep(1)
                await serve(nursery, cluster, bind=ADDRESS, name="next")
            assert sorted(answers) == ["lost, never ran: False", "next"]
            assert trio.current_time() < 10.2  # the silence timeout, and what it takes to dial
            assert await stub.once("after", 0.0) == "next"
            assert connection.server == "next"
            assert connection.statistics().retries == 1

    play(scenario)


def test_calls_made_while_the_server_is_away_wait_for_it() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served = await serve(nursery, cluster, bind=ADDRESS)
        async with rpcnet.connect(ADDRESS, security=cluster.security) as connection:
            await served.stop()
            answers: list[str] = []

            async def call(number: int) -> None:
                answers.append(await connection.stub(Work).once(f"call {number}", 0.0))

            async with trio.open_nursery() as calls:
                for number in range(20):
                    calls.start_soon(call, number)
                await trio.sleep(2)
                assert not connection.is_connected
                again = await serve(nursery, cluster, bind=ADDRESS, name="next")
            assert answers == ["next"] * 20
            assert set(again.work.runs.values()) == {1}
            statistics = connection.statistics()
            assert (statistics.failures, statistics.retries) == (0, 0)
            assert statistics.quic.established == 2

    play(scenario)


def test_a_call_waits_no_longer_than_the_connect_timeout_and_is_not_tried_again() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served = await serve(nursery, cluster, bind=ADDRESS)
        async with rpcnet.connect(ADDRESS, security=cluster.security) as connection:
            await served.stop()
            for _ in range(3):
                begun = trio.current_time()
                with pytest.raises(rpcnet.Unavailable) as failed:
                    await connection.stub(Work).once("key", 0.0)
                assert failed.value.never_ran
                assert trio.current_time() - begun == pytest.approx(5.0, abs=0.1)
            assert connection.statistics().retries == 0
            assert connection.statistics().active_calls == 0

    play(scenario)


def test_a_call_waits_no_longer_than_its_deadline() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served = await serve(nursery, cluster, bind=ADDRESS)
        async with rpcnet.connect(ADDRESS, security=cluster.security) as connection:
            await served.stop()
            begun = trio.current_time()
            with pytest.raises(trio.TooSlowError), trio.fail_after(1.5):
                await connection.stub(Work).who()
            assert trio.current_time() - begun == pytest.approx(1.5, abs=0.01)

    play(scenario)


def test_thousands_of_calls_dial_an_address_that_refuses_only_once_in_a_while() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served = await serve(nursery, cluster, bind=ADDRESS)
        async with rpcnet.connect(ADDRESS, server="server", security=cluster.security) as connection:
            await served.stop()
            await serve(nursery, cluster, bind=ADDRESS, name="squatter")
            refused = 0

            async def call() -> None:
                nonlocal refused
                with pytest.raises(rpcnet.Unauthenticated):
                    await connection.stub(Work).who()
                refused += 1

            begun = trio.current_time()
            async with trio.open_nursery() as calls:
                for _ in range(1000):
                    calls.start_soon(call)
                    await trio.sleep(0.01)
            assert refused == 1000
            assert trio.current_time() - begun < 20
            dials = connection.statistics().quic.unauthenticated
            assert 3 <= dials <= 9  # 0.1 s, 0.2 s, 0.4 s and so on, in ten seconds

    play(scenario)


def test_nothing_is_dialled_while_nobody_wants_anything() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served = await serve(nursery, cluster, bind=ADDRESS)
        async with rpcnet.connect(ADDRESS, security=cluster.security) as connection:
            await served.stop()
            with pytest.raises(rpcnet.Unavailable):
                await connection.stub(Work).who()
            again = await serve(nursery, cluster, bind=ADDRESS, name="next")
            await trio.sleep(1000)
            assert again.server.statistics().quic.links == 0
            assert await connection.stub(Work).who() == "next"

    play(scenario)


def test_a_connection_that_was_idle_is_made_again_by_the_next_call() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        await serve(nursery, cluster, bind=ADDRESS)
        async with rpcnet.connect(ADDRESS, security=cluster.security) as connection:
            assert await connection.stub(Work).who() == "server"
            await trio.sleep(100)
            assert not connection.is_connected
            assert "not connected" in repr(connection)
            assert connection.server == "server"
            assert await connection.stub(Work).who() == "server"
            assert connection.statistics().retries == 0

    play(scenario)


def test_a_server_that_is_slow_to_answer_is_not_taken_for_dead() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        await serve(nursery, cluster, bind=ADDRESS)
        async with rpcnet.connect(ADDRESS, security=cluster.security) as connection:
            assert await connection.stub(Work).once("slow", 500.0) == "server"

    play(scenario)


@pytest.mark.parametrize("cut", [1.0, 5.0, 6.0])
def test_a_cut_that_is_shorter_than_the_silence_timeout_loses_no_call(cut: float) -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        await serve(nursery, cluster, bind=ADDRESS)
        async with rpcnet.connect(ADDRESS, security=cluster.security) as connection:
            ours = parse_address(connection._parts.endpoint.address)[0]

            async def call() -> None:
                assert await connection.stub(Work).once("across", 20.0) == "server"

            async with trio.open_nursery() as calls:
                calls.start_soon(call)
                await trio.sleep(3)
                cluster._network.partition([ours], ["10.9.9.9"])
                await trio.sleep(cut)
                cluster._network.repair()
            assert connection.statistics().quic.established == 1

    play(scenario)


def test_a_silent_server_is_given_up_after_the_silence_timeout() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served = await serve(nursery, cluster, bind=ADDRESS)
        config = rpcnet.RpcConfig(silence_timeout=4.0)
        async with rpcnet.connect(ADDRESS, security=cluster.security, config=config) as connection:
            begun = 0.0

            async def call() -> None:
                with pytest.raises(rpcnet.Unavailable, match="no sign of life for 4 s") as lost:
                    await connection.stub(Work).once("key", 100.0)
                assert not lost.value.never_ran
                assert 2.9 <= trio.current_time() - begun <= 4.0

            async with trio.open_nursery() as calls:
                calls.start_soon(call)
                await trio.sleep(20)
                begun = trio.current_time()
                await served.kill()

    play(scenario)


def test_a_client_with_the_name_of_a_node_neither_keeps_it_alive_nor_dies_with_it() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        nodes = await cluster.start(2, services=lambda name: [Work(name)])
        await cluster.converged()
        async with rpcnet.connect(nodes[0].address, name="n1", security=cluster.security) as connection:
            async with trio.open_nursery() as calls:
                calls.start_soon(connection.stub(Work).once, "long", 100.0)
                await trio.sleep(1)
                await cluster.crash(nodes[1])
                crashed_at = trio.current_time() + 0.1
                for _ in range(300):
                    assert await connection.stub(Work).who() == "n0"
                    await trio.sleep(0.1)
                info = nodes[0].node.registry.get("n1")
                assert info is not None
                assert info.state is rpcnet.NodeState.FAILED
                endpoint = nodes[0].node._running.endpoint
                assert [session.peer_name for session in endpoint.heard_since(crashed_at)] == []
            assert connection.statistics().failures == 0

    play(scenario)


def test_a_call_refused_by_a_server_that_drains_is_answered_by_the_one_that_takes_its_place() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served = await serve(nursery, cluster, bind=ADDRESS)
        async with rpcnet.connect(ADDRESS, security=cluster.security) as connection:
            answers: list[str] = []

            async def call(key: str, seconds: float) -> None:
                answers.append(await connection.stub(Work).once(key, seconds))

            async def replace() -> None:
                await served.stop()
                await serve(nursery, cluster, bind=ADDRESS, name="next")

            async with trio.open_nursery() as calls:
                calls.start_soon(call, "long", 3.0)
                await trio.sleep(1)
                calls.start_soon(replace)
                for number in range(10):
                    calls.start_soon(call, f"late {number}", 0.0)
                    await trio.sleep(0.1)
            assert answers == ["server"] + ["next"] * 10
            assert served.work.runs == {"long": 1}

    play(scenario)


def test_who_gives_up_waiting_leaves_the_connection_to_the_others() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served = await serve(nursery, cluster, bind=ADDRESS)
        async with rpcnet.connect(ADDRESS, security=cluster.security) as connection:
            await served.stop()
            answers: list[str] = []

            async def call(patience: float) -> None:
                with trio.move_on_after(patience):
                    answers.append(await connection.stub(Work).who())

            async with trio.open_nursery() as calls:
                for patience in (0.5, 1.0, 60.0, 60.0):
                    calls.start_soon(call, patience)
                await trio.sleep(2)
                await serve(nursery, cluster, bind=ADDRESS, name="next")
            assert answers == ["next", "next"]

    play(scenario)


# --- leaving


def test_leaving_closes_the_connection_at_once_and_cancels_what_runs_at_the_server() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served = await serve(nursery, cluster)
        async with (
            rpcnet.connect(served.address, security=cluster.security) as connection,
            trio.open_nursery() as calls,
        ):
            calls.start_soon(connection.stub(Work).once, "long", 100.0)
            await trio.sleep(1)
            calls.cancel_scope.cancel()
        left_at = trio.current_time()
        assert left_at == pytest.approx(1.0, abs=0.1)
        await trio.sleep(0.1)
        assert [key for _, key in served.work.cancelled] == ["long"]
        assert served.server.statistics().quic.links == 0
        with pytest.raises(rpcnet.Unavailable, match="the client has stopped"):
            await connection.stub(Work).who()

    play(scenario)


def test_errors_of_the_body_come_out_bare() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        served: Served = await serve(nursery, cluster)
        with pytest.raises(KeyError):
            async with rpcnet.connect(served.address, security=cluster.security):
                raise KeyError

    play(scenario)


def test_the_port_is_given_back_however_entering_ends() -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        before = len(cluster._network._ports)
        open_names()["both.example"] = ["fd00::9", "10.9.9.9"]
        with trio.move_on_after(1.0):
            async with rpcnet.connect("both.example:7000", security=cluster.security):
                raise AssertionError("nobody is there")
        assert trio.current_time() == pytest.approx(1.0, abs=0.1)
        assert len(cluster._network._ports) == before

    play(scenario)


def test_no_port_is_left_open_when_another_one_cannot_be_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        before = len(cluster._network._ports)
        open_names()["both.example"] = ["fd00::9", "10.9.9.9"]
        environment = current_environment()
        bind = environment.bind

        async def bind_ipv6_only(address: str) -> DatagramPort:
            if address.startswith("0.0.0.0"):
                raise MemoryError
            return await bind(address)

        monkeypatch.setattr(environment, "bind", bind_ipv6_only)
        with pytest.raises(MemoryError):
            async with rpcnet.connect("both.example:7000", security=cluster.security):
                pass
        assert len(cluster._network._ports) == before

    play(scenario)


def test_a_run_with_losses_and_restarts_repeats_exactly() -> None:
    def trace(seed: int) -> list[tuple[float, str]]:
        seen: list[tuple[float, str]] = []

        async def scenario(cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
            served = await serve(nursery, cluster, bind=ADDRESS)
            async with rpcnet.connect(ADDRESS, security=cluster.security) as connection:
                cluster._network.set_loss(parse_address(connection._parts.endpoint.address)[0], "10.9.9.9", 0.2)
                for number in range(30):
                    if number == 10:
                        await served.kill()
                        await serve(nursery, cluster, bind=ADDRESS, name="next")
                    seen.append((trio.current_time(), await connection.stub(Work).again("key", 0.1)))

        play(scenario, seed=seed)
        return seen

    assert trace(3) == trace(3)
    assert trace(3) != trace(4)
