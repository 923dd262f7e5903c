"""Seeds that change: names and services in DNS, files, and sources of the user's, through the whole stack."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
import trio
from _followers import names, until
from _world import Work, World

import rpcnet
from rpcnet._net.addresses import parse_address
from rpcnet._net.seeds import SeedSource
from rpcnet.testing import SimulatedCluster, run

NAME, SERVICE = "dns://nodes.example:7946", "dns+srv://_rpcnet._udp.example"
BACKGROUND = rpcnet.NodeConfig(join="background")


@attrs.define(eq=False)
class Registry:
    """A source of the user's: each answer once, the last one for ever."""

    answers: list[Sequence[str] | Exception]
    asked: list[float] = attrs.field(factory=list)

    def __repr__(self) -> str:
        return "<the registry>"

    async def addresses(self) -> Sequence[str]:
        self.asked.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@attrs.define(eq=False)
class Silent:
    """A source that never answers."""

    cancelled: int = 0

    def __repr__(self) -> str:
        return "<silence>"

    async def addresses(self) -> Sequence[str]:
        try:
            await trio.sleep_forever()
        finally:
            self.cancelled += 1
        raise AssertionError


def node(
    cluster: SimulatedCluster, *seeds: str | SeedSource, name: str = "late", config: rpcnet.NodeConfig | None = None
) -> rpcnet.Node:
    return rpcnet.Node(name, seeds=seeds, security=cluster.security, config=config)


def host(address: str) -> str:
    return parse_address(address)[0]


async def refused(cluster: SimulatedCluster, *seeds: str | SeedSource) -> rpcnet.JoinError:
    with pytest.raises(rpcnet.JoinError) as caught:
        async with node(cluster, *seeds):
            pass
    for seed, answer in caught.value.answers.items():
        assert f"{seed}: {answer}" in str(caught.value)
    return caught.value


# --- joining


def test_a_node_joins_through_a_file_whose_contents_appear_while_it_waits(tmp_path: Path) -> None:
    path = tmp_path / "seeds"

    async def scenario(cluster: SimulatedCluster) -> None:
        (first,) = await cluster.start(1)

        async def write_later() -> None:
            await trio.sleep(3)
            path.write_text("# nobody yet\n")
            await trio.sleep(3)
            path.write_text(f"# the first node\n{first.address}  # since noon\n")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_later)
            async with node(cluster, path.as_uri()) as late:
                assert 6 <= trio.current_time() <= 8.5
                assert [info.name for info in late.registry.alive()] == ["late", "n0"]

    run(scenario)


def test_a_node_joins_through_a_name_whose_addresses_change_while_it_waits() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        (first,) = await cluster.start(1)
        cluster.set_name("nodes.example", ["10.9.9.1", "10.9.9.2"])

        async def move() -> None:
            await trio.sleep(4)
            cluster.set_name("nodes.example", ["10.9.9.2", first.host])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(move)
            async with node(cluster, NAME) as late:
                assert 4 <= trio.current_time() <= 6.5
                assert [info.name for info in late.registry.alive()] == ["late", "n0"]

    run(scenario)


def test_every_address_of_a_name_is_a_seed() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        (first,) = await cluster.start(1)
        cluster.set_name("nodes.example", ["10.9.9.1", "fd00::1", first.host])
        async with node(cluster, NAME):
            assert trio.current_time() < 1

    run(scenario)


def test_a_node_joins_through_a_service_whose_records_say_the_port() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        async with node(cluster, name="first") as first:
            port = parse_address(first.address)[1]
            cluster.set_service("_rpcnet._udp.example", [(0, 0, 1, "gone.example"), (10, 5, port, "first.example")])
            cluster.set_name("first.example", ["10.9.9.1", host(first.address)])
            async with node(cluster, SERVICE) as late:
                assert trio.current_time() < 1
                assert [info.name for info in late.registry.alive()] == ["first", "late"]

    run(scenario)


def test_a_node_joins_through_a_source_that_first_fails(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        (first,) = await cluster.start(1)
        source = Registry([LookupError("not up yet"), LookupError("not up yet"), [], [first.address]])
        with caplog.at_level(logging.WARNING, "rpcnet"):
            async with node(cluster, source):
                assert len(source.asked) >= 4
        assert [record.getMessage() for record in caplog.records if "registry" in record.getMessage()] == [
            "no seeds from <the registry>: LookupError: not up yet"
        ]

    run(scenario)


def test_a_source_that_hangs_keeps_neither_the_others_nor_the_node_waiting() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        (first,) = await cluster.start(1)
        silent = Silent()
        cluster.set_name("nodes.example", [first.host])
        async with node(cluster, silent, NAME):
            assert trio.current_time() < 1
        assert silent.cancelled == 1

    run(scenario)


def test_joining_in_the_background_asks_the_sources_until_it_works() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        source = Registry([["10.9.9.1:7946"], OSError("down")])
        async with node(cluster, source, config=BACKGROUND) as late:
            await trio.sleep(60)
            (first,) = await cluster.start(1)
            source.answers = [[first.address]]
            with trio.fail_after(15):
                await late.registry.wait_for(2)

    run(scenario)


def test_joining_by_hand_takes_sources() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        (first,) = await cluster.start(1)
        async with node(cluster) as late:
            with pytest.raises(rpcnet.ConfigError, match="unknown scheme"):
                await late.join(["http://nodes.example"])
            await late.join([Registry([[late.address, first.address]])])
            assert [info.name for info in late.registry.alive()] == ["late", "n0"]

    run(scenario)


def test_joining_by_hand_through_nothing_says_so() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        async with node(cluster) as late:
            with pytest.raises(rpcnet.JoinError, match="there are no seeds"):
                await late.join([])

    run(scenario)


# --- the first node


@pytest.mark.parametrize("own", ["10.0.0.1:7946", NAME, SERVICE, "a file", "a source"])
def test_a_node_whose_seeds_name_nobody_else_is_the_first_one(own: str, tmp_path: Path) -> None:
    (tmp_path / "seeds").write_text("10.0.0.1:7946\n")
    seeds: dict[str, str | SeedSource] = {
        "a file": (tmp_path / "seeds").as_uri(),
        "a source": Registry([["10.0.0.1:7946"]]),
    }

    async def scenario(cluster: SimulatedCluster) -> None:
        cluster.set_name("nodes.example", ["10.0.0.1"])
        cluster.set_service("_rpcnet._udp.example", [(0, 0, 7946, "nodes.example")])
        async with node(cluster, seeds.get(own, own)) as first:
            assert first.address == "10.0.0.1:7946"
            assert trio.current_time() < 0.1
            assert [info.name for info in first.registry.alive()] == ["late"]

    run(scenario)


def test_a_node_that_answers_itself_under_another_name_is_the_first_one() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        cluster.set_name("nodes.example", ["10.0.0.1"])
        async with node(cluster, "nodes.example:7946"):
            assert trio.current_time() < 1

    run(scenario)


def test_a_node_that_answers_itself_has_not_joined_the_others() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        cluster.set_name("nodes.example", ["10.0.0.1"])
        error = await refused(cluster, "nodes.example:7946", "10.9.9.1:7946")
        assert error.answers["nodes.example:7946"] == "is this node itself"
        assert "no connection" in error.answers["10.9.9.1:7946"]

    run(scenario)


def test_a_source_that_fails_may_know_others_so_the_node_is_not_the_first_one() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        error = await refused(cluster, "10.0.0.1:7946", Registry([LookupError("down")]))
        assert error.answers == {
            "10.0.0.1:7946": "is this node itself",
            "<the registry>": "LookupError: down",
        }

    run(scenario)


# --- what an error says


def test_an_error_names_every_source_and_every_address_with_what_it_answered(tmp_path: Path) -> None:
    path = tmp_path / "seeds"
    path.write_text("10.9.9.3\n10.9.9.4:7946\n")

    async def scenario(cluster: SimulatedCluster) -> None:
        cluster.set_name("nodes.example", ["10.9.9.1", "10.9.9.2"])
        missing = (tmp_path / "missing").as_uri()
        sources = (Registry([[]]), Silent())
        error = await refused(
            cluster, NAME, "dns://unknown.example:1", path.as_uri(), missing, *sources, "10.9.9.5:7946"
        )
        answers = error.answers
        assert [*answers] == [
            *(NAME, "10.9.9.1:7946", "10.9.9.2:7946"),
            "dns://unknown.example:1",
            *(path.as_uri(), "10.9.9.4:7946"),
            *(missing, "<the registry>", "<silence>", "10.9.9.5:7946"),
        ]
        assert answers[NAME] == "names 2 addresses"
        assert "unknown.example" in answers["dns://unknown.example:1"]
        assert answers[path.as_uri()] == "names 1 address"
        assert answers[missing] == "cannot be read: No such file or directory"
        assert answers["<the registry>"] == "names no address"
        assert answers["<silence>"] == "no answer"
        for number in (1, 2, 4, 5):
            assert "no connection" in answers[f"10.9.9.{number}:7946"]

    run(scenario)


def test_an_error_names_what_a_name_stands_for_at_the_end_and_not_what_it_did_before() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        cluster.set_name("nodes.example", ["10.9.9.1"])

        async def move() -> None:
            await trio.sleep(4)
            cluster.set_name("nodes.example", ["10.9.9.2"])
            await trio.sleep(4)
            cluster.set_name("nodes.example", [])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(move)
            error = await refused(cluster, NAME)
        assert [*error.answers] == [NAME, "10.9.9.2:7946"]
        assert "unknown" in error.answers[NAME]

    run(scenario)


def test_two_sources_of_one_name_are_told_apart() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        one, other = Registry([[]]), Registry([LookupError("down")])
        error = await refused(cluster, one, other, one)
        assert error.answers == {"<the registry>": "names no address", "<the registry> (2)": "LookupError: down"}

    run(scenario)


def test_a_refusal_for_good_is_not_asked_for_again_though_the_source_names_it_again() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        (first,) = await cluster.start(1)
        stranger = rpcnet.Security.shared_secret("another secret, long enough", cluster="simulation")
        source = Registry([[first.address]])
        late = rpcnet.Node("late", seeds=[source], security=stranger)
        with pytest.raises(rpcnet.JoinError, match="certificate"):
            await late.__aenter__()
        assert len(source.asked) > 5
        quic = first.node.statistics().quic
        assert quic.handshakes_failed + quic.unauthenticated == 1

    run(scenario)


# --- healing


def test_a_node_that_lost_everybody_finds_where_a_name_leads_by_then() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        (old,) = await cluster.start(1)
        cluster.set_name("nodes.example", [old.host])
        async with node(cluster, NAME) as late:
            await cluster.crash(old)
            await late.registry.wait_for(1, state=rpcnet.NodeState.FAILED)
            (new,) = await cluster.start(1)
            await trio.sleep(60)
            assert [info.name for info in late.registry.alive()] == ["late"]
            cluster.set_name("nodes.example", [new.host])
            with trio.fail_after(120):
                await late.registry.wait_for(2)

    run(scenario)


def test_a_first_node_that_a_file_named_alone_meets_another_when_the_file_names_both(tmp_path: Path) -> None:
    path = tmp_path / "seeds"

    async def scenario(cluster: SimulatedCluster) -> None:
        path.write_text("10.0.0.1:7946")
        async with node(cluster, path.as_uri(), name="one") as one:
            path.write_text("10.0.0.2:7946")
            async with node(cluster, path.as_uri(), name="other") as other:
                await trio.sleep(30)
                assert (len(one.registry.alive()), len(other.registry.alive())) in ((1, 1), (2, 2))
                path.write_text("10.0.0.1:7946\n10.0.0.2:7946")
                with trio.fail_after(120):
                    await one.registry.wait_for(2)
                    await other.registry.wait_for(2)

    run(scenario)


# --- clients


def test_a_client_follows_a_cluster_through_sources() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        nodes = await World(cluster).start(2)
        cluster.set_name("nodes.example", [node.host for node in nodes])
        begun = trio.current_time()
        async with rpcnet.connect_cluster([NAME], security=cluster.security) as client:
            assert trio.current_time() - begun < 1
            assert {await client.stub(Work).who() for _ in range(20)} == {"n0", "n1"}

    run(scenario)


def test_a_client_that_lost_everybody_finds_where_a_name_leads_by_then() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        (old,) = await World(cluster).start(1)
        cluster.set_name("nodes.example", [old.host])
        async with rpcnet.connect_cluster([NAME], security=cluster.security) as client:
            await cluster.crash(old)
            (new,) = await cluster.start(1)
            await trio.sleep(90)
            assert names(client) == ["n0"]  # as it was, since nobody says otherwise
            cluster.set_name("nodes.example", [new.host])
            await until(lambda: names(client) == ["n1"])

    run(scenario)


def test_a_client_that_nobody_answers_names_every_source() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        several: list[str | SeedSource] = [Registry([["10.9.9.1:7946"]]), "dns://unknown.example:1"]
        for seeds in (several, [Registry([[]])], [Silent()]):
            with pytest.raises(rpcnet.JoinError) as caught:
                async with rpcnet.connect_cluster(seeds, security=cluster.security):
                    pass
            answers = caught.value.answers
            if seeds is several:
                assert answers["<the registry>"] == "names 1 address"
                assert "10.9.9.1" in answers["10.9.9.1:7946"]
                assert "unknown.example" in answers["dns://unknown.example:1"]
            else:
                assert answers in ({"<the registry>": "names no address"}, {"<silence>": "no answer"})

    run(scenario)
