"""Clusters of separate processes on the loopback interface: they find each other, and everybody calls everybody."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator, Sequence

import attrs
import pytest
import trio
from _peer import PATIENCE, Peer, config, eventually, pattern
from _processes import processes

import rpcnet

MIB = 1 << 20


@attrs.frozen
class Cluster:
    """Three processes, and how to join them."""

    names: Sequence[str]
    seed: str
    security: rpcnet.Security

    def node(self, name: str, services: Sequence[object] = ()) -> rpcnet.Node:
        return rpcnet.Node(name, seeds=[self.seed], services=services, security=self.security, config=config())


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    secret = secrets.token_urlsafe(32)
    with processes(secret) as started:
        seed = started.start("a").read_line()
        for process in [started.start(name, seed) for name in ("b", "c")]:
            process.read_line()
        yield Cluster(("a", "b", "c"), seed, rpcnet.Security.shared_secret(secret))


async def test_every_process_calls_every_other_and_is_told_the_right_name(cluster: Cluster) -> None:
    with trio.fail_after(PATIENCE):
        async with cluster.node("caller", [Peer("caller")]) as node:
            await node.registry.wait_for(4)
            everybody = [*cluster.names, "caller"]
            for caller in cluster.names:
                stub = node.stub(Peer, node=caller)
                assert await stub.who() == caller
                for called in everybody:
                    assert await stub.ask(called) == called


@pytest.mark.parametrize("size", [MIB, 3 * MIB], ids=["1 MiB", "3 MiB"])
async def test_a_large_payload_arrives_whole_each_way(cluster: Cluster, size: int) -> None:
    with trio.fail_after(PATIENCE):
        async with cluster.node("caller") as node:
            await node.registry.wait_for(4)
            data = pattern(size)
            assert await node.stub(Peer, node="a").echo(data) == data
            assert await node.stub(Peer, node="b").send("c", size)


async def test_five_hundred_calls_at_once_each_get_their_own_answer(cluster: Cluster) -> None:
    answers: dict[int, int] = {}
    with trio.fail_after(PATIENCE):
        async with cluster.node("caller") as node:
            await node.registry.wait_for(4)
            stub = node.stub(Peer)

            async def call(number: int) -> None:
                answers[number] = await stub.square(number)

            async with trio.open_nursery() as nursery:
                for number in range(500):
                    nursery.start_soon(call, number)
            counts = node.client.statistics().per_node
    assert answers == {number: number * number for number in range(500)}
    assert sum(each.done for each in counts.values()) == 500
    assert all(each.active == 0 and each.done > 0 for each in counts.values())


@pytest.mark.parametrize("way", ["there", "back"])
async def test_more_large_calls_at_once_than_a_connection_has_streams_all_get_their_answers(
    cluster: Cluster, way: str
) -> None:
    answers: dict[int, bool] = {}
    data = pattern(17_000)  # above what a lane carries
    with trio.fail_after(PATIENCE):
        async with cluster.node("caller") as node:
            await node.registry.wait_for(4)
            stub = node.stub(Peer, node="a")

            async def call(number: int) -> None:
                answer = await stub.echo(data) if way == "there" else await stub.give(len(data))
                answers[number] = answer == data

            async with trio.open_nursery() as nursery:
                for number in range(200):
                    nursery.start_soon(call, number)
    assert answers == dict.fromkeys(range(200), True)


async def test_a_small_call_passes_large_ones_that_have_taken_all_streams() -> None:
    data = pattern(17_000)
    answers: list[int] = []
    with trio.fail_after(PATIENCE):
        async with peer("one", "127.0.0.1:0") as one, peer("two", "127.0.0.1:0", one.address) as two:
            stub = two.stub(Peer, node="one")

            async def hold() -> None:
                answers.append(await stub.hold(data))

            async with trio.open_nursery() as nursery:
                for _ in range(150):
                    nursery.start_soon(hold)
                await eventually(lambda: one.statistics().active_calls >= 100)
                assert await stub.who() == "one"
                await stub.release()
    assert answers == [len(data)] * 150


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def assert_that_they_call_each_other(first: rpcnet.Node, second: rpcnet.Node) -> None:
    for one, other in ((first, second), (second, first)):
        await one.registry.wait_for(2)
        assert await one.stub(Peer, node=other.name).who() == other.name
        assert await one.stub(Peer, node=other.name).give(100_000) == pattern(100_000)


def peer(name: str, bind: str, *seeds: str, advertise: str | None = None) -> rpcnet.Node:
    security = rpcnet.Security.shared_secret("q8ZtL2vXk0Rw7mYpB4sNcHdG")
    services = [Peer(name)]
    return rpcnet.Node(
        name, bind=bind, advertise=advertise, seeds=seeds, services=services, security=security, config=config()
    )


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback address")
async def test_a_cluster_lives_on_ipv6() -> None:
    with trio.fail_after(PATIENCE):
        async with peer("one", "[::1]:0") as one, peer("two", "[::1]:0", one.address) as two:
            assert one.address.startswith("[::1]:")
            await assert_that_they_call_each_other(one, two)


async def test_a_node_on_every_address_is_dialled_where_it_says_and_mixes_with_others() -> None:
    advertised = f"127.0.0.1:{free_port()}"
    with trio.fail_after(PATIENCE):
        async with (
            peer("one", advertised.replace("127.0.0.1", "0.0.0.0"), advertise=advertised) as one,
            peer("two", "127.0.0.1:0", one.address) as two,
        ):
            assert one.address == advertised
            info = two.registry.get("one")
            assert info is not None
            assert info.address == advertised
            await assert_that_they_call_each_other(one, two)


async def test_a_node_that_advertises_a_host_name_gets_datagrams_as_well_as_calls() -> None:
    port = free_port()
    with trio.fail_after(PATIENCE):
        async with (
            peer("one", f"127.0.0.1:{port}", advertise=f"localhost:{port}") as one,
            peer("two", "127.0.0.1:0", one.address) as two,
        ):
            assert one.address == f"localhost:{port}"
            await two.update_tags({"told": "by gossip"})
            await one.registry.wait_for(1, where='told="by gossip"')
            await assert_that_they_call_each_other(one, two)


async def test_a_node_that_binds_a_host_name_is_found_through_that_name() -> None:
    with trio.fail_after(PATIENCE):
        async with peer("one", "localhost:0") as one:
            port = one.address.rpartition(":")[2]
            async with peer("two", "localhost:0", f"localhost:{port}") as two:
                await assert_that_they_call_each_other(one, two)


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback address")
async def test_a_seed_of_another_address_family_is_answered_with_a_join_error_that_names_it() -> None:
    with trio.fail_after(PATIENCE):
        async with peer("one", "[::1]:0") as one:
            node = peer("two", "127.0.0.1:0", one.address)
            node._config = attrs.evolve(config(), join_timeout=1.0)
            with pytest.raises(rpcnet.JoinError) as caught:
                async with node:
                    pytest.fail("it joined")
    assert one.address in str(caught.value)
    assert list(caught.value.answers) == [one.address]
