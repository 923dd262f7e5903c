"""Servers, connections and clients of clusters on real sockets, in both families of addresses, and in processes."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio
from _peer import PATIENCE, Peer, config, eventually
from _processes import Processes, processes

import rpcnet
from _pki import GOSSIP_KEY, Authority, Files, root
from rpcnet._net.environment import set_environment
from rpcnet._net.udp import RealEnvironment

SECRET = secrets.token_urlsafe(32)
SERVER = (str(Path(__file__).with_name("_server.py")),)
QUICK = rpcnet.RpcConfig(silence_timeout=0.5, connect_timeout=20.0)
LOOPBACK = ("127.0.0.1:0", "[::1]:0")


@pytest.fixture
def started() -> Iterator[Processes]:
    with processes(SECRET) as opened:
        yield opened


def security(secret: str = SECRET) -> rpcnet.Security:
    return rpcnet.Security.shared_secret(secret)


def server(name: str = "server", bind: str = LOOPBACK[0]) -> rpcnet.Server:
    return rpcnet.Server([Peer(name)], name=name, bind=bind, security=security())


def node(name: str, *seeds: str, bind: str = LOOPBACK[0]) -> rpcnet.Node:
    return rpcnet.Node(name, bind=bind, seeds=seeds, services=[Peer(name)], security=security(), config=config())


class Named(RealEnvironment):
    """The machine, with a name that stands for addresses of both families."""

    def __init__(self, *ips: str) -> None:
        self.ips = list(ips)

    async def resolve(self, host: str) -> list[str]:
        if host == "both.example":
            await trio.lowlevel.checkpoint()
            return list(self.ips)
        return await super().resolve(host)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# --- both families


@pytest.mark.parametrize("bind", LOOPBACK)
async def test_a_server_is_called_over_either_family(bind: str) -> None:
    with trio.fail_after(PATIENCE):
        async with server(bind=bind) as served, rpcnet.connect(served.address, security=security()) as connection:
            stub = connection.stub(Peer)
            assert await stub.who() == "server"
            assert await stub.echo(bytes(300_000)) == bytes(300_000)
            its_port = connection._parts.endpoint.address
            assert its_port.startswith(bind.removesuffix("0"))  # the loopback interface, and nothing else


@pytest.mark.parametrize("bind", LOOPBACK)
async def test_a_cluster_is_formed_and_followed_over_either_family(bind: str) -> None:
    with trio.fail_after(PATIENCE):
        async with node("a", bind=bind) as a, node("b", a.address, bind=bind) as b:
            await a.registry.wait_for(2)
            async with rpcnet.connect_cluster([b.address], security=security()) as client:
                await client.registry.wait_for(2)
                assert {await client.stub(Peer).who() for _ in range(20)} == {"a", "b"}
                assert [info.address for info in client.registry.nodes()] == [a.address, b.address]


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0"])
async def test_a_server_at_every_address_of_a_family_is_reached_at_any(bind: str) -> None:
    host = "127.0.0.1" if "." in bind else "[::1]"
    with trio.fail_after(PATIENCE):
        advertised = f"{host}:7000"
        async with rpcnet.Server([Peer("s")], bind=bind, advertise=advertised, security=security()) as served:
            assert served.address == advertised
            port = served._running.endpoint.address.rpartition(":")[2]
            async with rpcnet.connect(f"{host}:{port}", security=security()) as connection:
                assert await connection.stub(Peer).who() == "s"


async def test_a_name_of_this_machine_is_dialled() -> None:
    with trio.fail_after(PATIENCE):
        async with server() as served:
            address = served.address.replace("127.0.0.1", "localhost")
            async with rpcnet.connect(address, security=security()) as connection:
                assert await connection.stub(Peer).who() == "server"
            async with (
                node("a") as a,
                rpcnet.connect_cluster([a.address.replace("127.0.0.1", "localhost")], security=security()) as client,
            ):
                assert await client.stub(Peer).who() == "a"


@pytest.mark.parametrize("bind", LOOPBACK)
@pytest.mark.parametrize("ips", [("127.0.0.1", "::1"), ("::1", "127.0.0.1")])
async def test_of_a_name_with_addresses_of_both_families_the_one_that_answers_is_used(
    bind: str, ips: tuple[str, str]
) -> None:
    set_environment(Named(*ips))
    with trio.fail_after(PATIENCE):
        async with server(bind=bind) as served:
            async with rpcnet.connect(served.address, security=security()):
                as_many = open_files()
            address = f"both.example:{served.address.rpartition(':')[2]}"
            async with rpcnet.connect(address, security=security()) as connection:
                assert await connection.stub(Peer).who() == "server"
                (endpoint,) = connection._parts.endpoints
                assert endpoint.address.startswith(bind.removesuffix("0"))
                await eventually(lambda: open_files() <= as_many)  # the other family's port is closed


async def test_of_both_families_that_answer_the_first_one_is_used() -> None:
    with trio.fail_after(PATIENCE):
        async with server("four") as four:
            port = four.address.rpartition(":")[2]
            async with server("six", bind=f"[::1]:{port}"):
                for ips, name in ((("::1", "127.0.0.1"), "six"), (("127.0.0.1", "::1"), "four")):
                    set_environment(Named(*ips))
                    async with rpcnet.connect(f"both.example:{port}", security=security()) as connection:
                        assert connection.server == name


async def test_where_one_family_refuses_and_the_other_is_silent_the_refusal_is_told() -> None:
    set_environment(Named("::1", "127.0.0.1"))
    with trio.fail_after(PATIENCE):
        async with server() as served:
            address = f"both.example:{served.address.rpartition(':')[2]}"
            settings = rpcnet.RpcConfig(connect_timeout=1.0)
            with pytest.raises(rpcnet.Unauthenticated, match="is node 'server', not 'bank'"):
                async with rpcnet.connect(address, server="bank", security=security(), config=settings):
                    pass


# --- who may


async def test_a_secret_of_this_user_reaches_this_machine_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RPCNET_SECRET", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with trio.fail_after(PATIENCE):
        async with rpcnet.Server([Peer("s")]) as served, rpcnet.connect(served.address) as connection:
            assert await connection.stub(Peer).who() == "s"
        with pytest.raises(rpcnet.SecurityError, match="set RPCNET_SECRET"):
            async with rpcnet.connect("192.0.2.1:7000"):
                pass
        with pytest.raises(rpcnet.SecurityError, match="set RPCNET_SECRET"):
            async with rpcnet.Server([Peer("s")], bind="0.0.0.0:0"):
                pass


def write(folder: Path, authority: Authority, name: str) -> rpcnet.Security:
    return Files(folder / name).write(ca=authority.pem, leaf=authority.leaf(name)).security()


async def test_certificates_of_an_organisation_need_no_keys_for_gossip_and_give_the_names(tmp_path: Path) -> None:
    authority = root()
    ours, theirs = write(tmp_path, authority, "shop"), write(tmp_path, authority, "till")
    with trio.fail_after(PATIENCE):
        async with (
            rpcnet.Server([Peer("s")], security=ours) as served,
            rpcnet.connect(served.address, server="shop", security=theirs) as connection,
        ):
            assert (served.name, connection.name, connection.server) == ("shop", "till", "shop")
            assert await connection.stub(Peer).who() == "s"
            for make in (
                lambda: rpcnet.connect(served.address, name="other", security=theirs),
                lambda: rpcnet.Server([Peer("s")], name="other", security=theirs),
            ):
                with pytest.raises(rpcnet.SecurityError, match="the certificate stands for node 'till'"):
                    async with make():
                        pass


async def test_a_node_without_a_name_of_its_own_has_the_one_in_its_certificate(tmp_path: Path) -> None:
    authority = root()
    files = Files(tmp_path / "shop").write(ca=authority.pem, leaf=authority.leaf("shop"), keys=GOSSIP_KEY)
    with trio.fail_after(PATIENCE):
        async with rpcnet.Node(services=[Peer("p")], security=files.security(), config=config()) as shop:
            assert shop.name == "shop"


async def test_a_taken_port_is_named() -> None:
    with trio.fail_after(PATIENCE):
        async with server() as served:
            with pytest.raises(rpcnet.ConfigError, match=served.address):
                async with server(bind=served.address):
                    pass


async def test_nothing_is_left_open() -> None:
    with trio.fail_after(PATIENCE):
        async with server() as served, rpcnet.connect(served.address, security=security()) as connection:
            addresses = [served.address, connection._parts.endpoint.address]
        for address in addresses:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                host, _, port = address.rpartition(":")
                probe.bind((host, int(port)))


# --- processes that are killed


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

    def is_right(self) -> bool:
        return self.answers == {number: number * number for number in range(1, self.begun + 1)}


async def test_calls_go_on_after_a_server_process_was_killed_and_started_again_at_its_address(
    started: Processes,
) -> None:
    with trio.fail_after(PATIENCE):
        first = started.start("first", "127.0.0.1:0", program=SERVER)
        address = await first.address()
        async with rpcnet.connect(address, security=security(), config=QUICK) as connection:
            load = Load(connection.stub(Peer))
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(load.run)
                await load.reach(200)
                assert connection.server == "first"
                first.popen.kill()
                first.popen.wait()
                assert await started.start("second", address, program=SERVER).address() == address
                await load.reach(len(load.answers) + 200)
                load.is_over = True
            assert load.is_right()
            assert connection.server == "second"
            assert connection.statistics().failures == 0


async def test_a_call_that_may_not_run_twice_is_lost_with_its_server_and_the_next_one_is_not(
    started: Processes,
) -> None:
    with trio.fail_after(PATIENCE):
        first = started.start("first", "127.0.0.1:0", program=SERVER)
        address = await first.address()
        async with rpcnet.connect(address, security=security(), config=QUICK) as connection:
            stub = connection.stub(Peer)

            async def hold() -> None:
                with pytest.raises(rpcnet.Unavailable, match="no sign of life") as lost:
                    await stub.hold(b"x")
                assert not lost.value.never_ran

            async with trio.open_nursery() as nursery:
                nursery.start_soon(hold)
                await eventually(lambda: connection.statistics().active_calls == 1)
                assert await stub.who() == "first"
                first.popen.kill()
            started.start("second", address, program=SERVER)
            assert await stub.echo(b"x") == b"x"
            assert connection.server == "second"


async def test_a_client_of_a_cluster_moves_on_when_the_process_is_killed_that_it_follows(started: Processes) -> None:
    with trio.fail_after(PATIENCE):
        a = started.start("a")
        seed = await a.address()
        others = [started.start(name, seed) for name in ("b", "c")]
        for other in others:
            await other.address()
        settings = rpcnet.RpcConfig(silence_timeout=0.5)
        async with rpcnet.connect_cluster([seed], security=security(), config=settings) as client:
            await client.registry.wait_for(3)
            load = Load(client.stub(Peer))
            async with client.events(rpcnet.NodeFailed) as failures, trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(load.run)
                await load.reach(300)
                a.popen.kill()
                async for event in failures:
                    if isinstance(event, rpcnet.NodeFailed) and event.node.name == "a":
                        break
                await load.reach(len(load.answers) + 300)
                load.is_over = True
            assert load.is_right()
            assert client.statistics().failures == 0
            assert [info.name for info in client.registry.alive()] == ["b", "c"]
