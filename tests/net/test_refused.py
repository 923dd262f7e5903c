from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from random import Random

import attrs
import pytest
import trio
from trio.testing import MockClock

from rpcnet._core.bodies import Hello
from rpcnet._net.addresses import Address, parse_address
from rpcnet._net.endpoint import Endpoint, Role
from rpcnet._net.identity import Security
from rpcnet._net.membership_port import ReceivedRefusal
from rpcnet._net.memory import MemoryNetwork, MemoryPort, SimulatedEnvironment
from rpcnet._net.ports import DatagramPort
from rpcnet._net.udp import RealEnvironment, UdpPort, _is_refusal
from rpcnet.config import RpcConfig

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what became of a datagram")

IPV4, IPV6 = "127.0.0.1:0", "[::1]:0"
HERE, THERE, ELSEWHERE = ("10.0.0.1", 7946), ("10.0.0.2", 7946), ("10.0.0.3", 7946)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@attrs.frozen
class World:
    """A port, one that listens, and an address on a live host where nobody does."""

    port: DatagramPort
    peer: DatagramPort
    closed: Address

    @property
    def open(self) -> Address:
        return parse_address(self.peer.local_address)


@contextlib.asynccontextmanager
async def real_world(address: str = IPV4) -> AsyncIterator[World]:
    environment = RealEnvironment()
    port, peer, gone = [await environment.bind(address) for _ in range(3)]
    closed = parse_address(gone.local_address)
    gone.close()
    try:
        yield World(port, peer, closed)
    finally:
        port.close()
        peer.close()


@contextlib.asynccontextmanager
async def simulated_world() -> AsyncIterator[World]:
    network = MemoryNetwork(Random(1))
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        port, peer, gone = network.bind(HERE), network.bind(THERE), network.bind(ELSEWHERE)
        gone.close()
        yield World(port, peer, ELSEWHERE)
        nursery.cancel_scope.cancel()


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
WORLDS = [
    pytest.param(real_world, id="IPv4"),
    pytest.param(lambda: real_world(IPV6), marks=needs_ipv6, id="IPv6"),
    pytest.param(simulated_world, id="simulated"),
]
MakeWorld = Callable[[], AbstractAsyncContextManager[World]]


async def hear_refusals(port: DatagramPort) -> list[Address]:
    """Wait, like a reader, until a port has been refused something."""
    with trio.fail_after(5):
        while True:
            await port.wait_readable()
            assert port.receive() is None  # which looks at what else the network has to say
            if refused := port.refused():
                return refused


@pytest.mark.parametrize("make_world", WORLDS)
async def test_a_closed_port_refuses_by_its_address(make_world: MakeWorld) -> None:
    async with make_world() as world:
        world.port.send([(b"anybody", world.closed)])
        assert await hear_refusals(world.port) == [world.closed]
        assert world.port.refused() == []
        assert world.port.statistics().refusals == 1
        assert world.port.statistics().network_errors == 0


@pytest.mark.parametrize("make_world", WORLDS)
async def test_an_open_port_refuses_nothing(make_world: MakeWorld) -> None:
    async with make_world() as world:
        world.port.send([(b"hello", world.open)])
        await world.peer.wait_readable()
        assert world.peer.receive() is not None
        assert world.port.receive() is None
        assert world.port.refused() == []
        assert world.port.statistics().refusals == 0


@pytest.mark.parametrize("make_world", WORLDS)
async def test_an_address_that_refuses_often_is_named_once(make_world: MakeWorld) -> None:
    async with make_world() as world:
        assert world.port.send([(b"anybody", world.closed)] * 5) == 5
        assert await hear_refusals(world.port) == [world.closed]
        assert world.port.statistics().refusals == 5
        assert world.port.statistics().datagrams_refused == 0


@pytest.mark.parametrize("make_world", WORLDS)
async def test_what_is_sent_after_a_refusal_arrives(make_world: MakeWorld) -> None:
    async with make_world() as world:
        for index in range(20):
            datagrams = [(b"anybody", world.closed), (b"%d" % index, world.open)]
            assert world.port.send(datagrams) == 2
        got: list[bytes] = []
        with trio.fail_after(5):
            while len(got) < 20:
                await world.peer.wait_readable()
                while (datagram := world.peer.receive()) is not None:
                    got.append(datagram[0])
        assert got == [b"%d" % index for index in range(20)]


@pytest.mark.parametrize("make_world", WORLDS)
async def test_a_refusal_that_nobody_asks_for_wakes_the_reader_once(make_world: MakeWorld) -> None:
    async with make_world() as world:
        world.port.send([(b"anybody", world.closed)])
        with trio.fail_after(5):
            while not world.port.statistics().refusals:
                await world.port.wait_readable()
                assert world.port.receive() is None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.port.wait_readable)
            await trio.testing.wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 1
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("make_world", WORLDS)
async def test_a_closed_port_has_been_refused_nothing(make_world: MakeWorld) -> None:
    async with make_world() as world:
        world.port.send([(b"anybody", world.closed)])
        world.port.close()
        assert world.port.receive() is None
        assert world.port.refused() == []


# --- real sockets


def is_ready(port: UdpPort) -> bool:
    """Say whether the kernel would wake a reader of the port."""
    poll = select.poll()
    poll.register(port._socket, select.POLLIN)
    return bool(poll.poll(0))


async def test_a_burst_of_refusals_starves_no_reader_and_ends() -> None:
    async with real_world() as world:
        assert isinstance(world.port, UdpPort)
        for _ in range(1000):
            world.port.send([(b"anybody", world.closed)])
        world.peer.send([(b"%d" % index, parse_address(world.port.local_address)) for index in range(10)])
        got: list[bytes] = []
        wakes = 0
        with trio.fail_after(5):
            while len(got) < 10 or is_ready(world.port):
                wakes += 1
                await world.port.wait_readable()
                while (datagram := world.port.receive()) is not None:
                    got.append(datagram[0])
        assert got == [b"%d" % index for index in range(10)]
        assert world.port.refused() == [world.closed]
        assert wakes <= 12
        assert world.port.statistics().refusals > 100


async def test_a_reader_that_found_only_errors_is_not_woken_again() -> None:
    async with real_world() as world:
        assert isinstance(world.port, UdpPort)
        world.port.send([(b"anybody", world.closed)])
        with pytest.raises(OSError, match="refused"):
            world.port._socket.recvfrom(1)  # takes the error away, and leaves the queue
        assert is_ready(world.port)
        await world.port.wait_readable()
        assert world.port.receive() is None
        assert not is_ready(world.port)
        assert world.port.refused() == [world.closed]


async def test_what_the_kernel_itself_refuses_is_no_word_of_the_network() -> None:
    async with real_world(IPV6 if has_ipv6() else IPV4) as world:
        assert isinstance(world.port, UdpPort)
        assert world.port.send([(bytes(70_000), world.open)]) == 0
        while is_ready(world.port):
            await world.port.wait_readable()
            assert world.port.receive() is None
        assert world.port.refused() == []
        assert world.port.statistics().refusals == 0
        assert world.port.statistics().datagrams_refused == 1


async def test_the_number_of_addresses_kept_is_bounded() -> None:
    async with real_world() as world:
        assert isinstance(world.port, UdpPort)
        for index in range(1, 301):
            world.port.send([(b"anybody", (f"127.0.{index // 250}.{index % 250 + 1}", world.closed[1]))])
            world.port._hear_errors()
        assert world.port.statistics().refusals == 300
        assert len(world.port.refused()) == 256


def extended_error(code: int, origin: int, offender: str) -> bytes:
    """Return what Linux tells of a datagram: a sock_extended_err and a socket address."""
    error = struct.pack("=IBBBBII", code, origin, 3, 3, 0, 0, 0)
    if ":" in offender:
        return error + struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, socket.inet_pton(socket.AF_INET6, offender), 0)
    return error + struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_pton(socket.AF_INET, offender))


@pytest.mark.parametrize(
    ("code", "origin", "offender", "host", "is_evidence"),
    [
        (errno.ECONNREFUSED, 2, "10.0.0.2", "10.0.0.2", True),
        (errno.ECONNREFUSED, 3, "fd00::2", "fd00::2", True),
        (errno.ECONNREFUSED, 3, "fe80::2", "fe80::2%eth0", True),
        (errno.ECONNREFUSED, 2, "10.0.0.254", "10.0.0.2", False),
        (errno.ECONNREFUSED, 3, "fd00::fe", "fd00::2", False),
        (errno.ECONNREFUSED, 1, "10.0.0.2", "10.0.0.2", False),
        (errno.EHOSTUNREACH, 2, "10.0.0.2", "10.0.0.2", False),
        (errno.ENETUNREACH, 2, "10.0.0.2", "10.0.0.2", False),
        (errno.EMSGSIZE, 2, "10.0.0.2", "10.0.0.2", False),
    ],
)
def test_only_a_hosts_own_word_that_nobody_listens_counts(
    code: int, origin: int, offender: str, host: str, is_evidence: bool
) -> None:
    data = extended_error(code, origin, offender)
    assert _is_refusal(data, host) is is_evidence
    assert not any(_is_refusal(data[:size], host) for size in range(20))


async def test_a_socket_without_an_error_queue_reports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rpcnet._net.udp._ERROR_QUEUE", 0)
    async with real_world() as world:
        world.port.send([(b"anybody", world.closed)] * 3)
        assert world.port.receive() is None
        assert world.port.refused() == []
        world.peer.send([(b"hello", parse_address(world.port.local_address))])
        await world.port.wait_readable()
        assert world.port.receive() == (b"hello", world.open)


# --- the simulated network


@contextlib.asynccontextmanager
async def running(network: MemoryNetwork) -> AsyncIterator[MemoryNetwork]:
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        yield network
        nursery.cancel_scope.cancel()


async def refusals_after(network: MemoryNetwork, port: MemoryPort, destination: Address) -> list[Address]:
    port.send([(b"anybody", destination)])
    await trio.sleep(10)
    return port.refused()


async def test_a_refusal_takes_the_way_there_and_back(autojump_clock: MockClock) -> None:
    async with running(MemoryNetwork(Random(1), latency=(0.25, 0.25))) as network:
        port = network.bind(HERE)
        network.bind(THERE).close()
        network.set_latency(THERE[0], HERE[0], (0.5, 0.5))
        start = trio.current_time()
        port.send([(b"anybody", THERE)])
        assert await hear_refusals(port) == [THERE]
        assert trio.current_time() - start == pytest.approx(0.75)


async def test_a_host_that_is_gone_or_was_never_there_stays_silent(autojump_clock: MockClock) -> None:
    async with running(MemoryNetwork(Random(1))) as network:
        port = network.bind(HERE)
        network.bind(THERE)
        network.crash(THERE[0])
        assert await refusals_after(network, port, THERE) == []
        assert await refusals_after(network, port, ELSEWHERE) == []
        assert network.statistics().unreachable == 2


async def test_a_process_that_is_killed_leaves_a_host_that_refuses(autojump_clock: MockClock) -> None:
    async with running(MemoryNetwork(Random(1))) as network:
        port, other = network.bind(HERE), network.bind(THERE)
        network.kill(THERE[0])
        assert await refusals_after(network, port, THERE) == [THERE]
        assert await refusals_after(network, other, HERE) == []
        assert other.receive() is None
        network.crash(THERE[0])
        assert await refusals_after(network, port, THERE) == []


async def test_closing_the_port_of_a_crashed_host_does_not_bring_the_host_back(autojump_clock: MockClock) -> None:
    async with running(MemoryNetwork(Random(1))) as network:
        port, other = network.bind(HERE), network.bind(THERE)
        network.crash(THERE[0])
        other.close()
        assert await refusals_after(network, port, THERE) == []
        network.bind(THERE).close()
        assert await refusals_after(network, port, THERE) == [THERE]


async def test_a_refusal_is_lost_like_a_datagram(autojump_clock: MockClock) -> None:
    async with running(MemoryNetwork(Random(1))) as network:
        port = network.bind(HERE)
        network.bind(THERE).close()
        network.block(THERE[0], HERE[0])
        assert await refusals_after(network, port, THERE) == []
        network.repair()
        network.set_loss(THERE[0], HERE[0], 1.0)
        assert await refusals_after(network, port, THERE) == []
        network.set_loss(THERE[0], HERE[0], 0.0)
        assert await refusals_after(network, port, THERE) == [THERE]
        assert network.statistics().refusals == 1
        assert (network.statistics().lost, network.statistics().blocked) == (0, 0)


async def test_who_is_gone_hears_no_refusal(autojump_clock: MockClock) -> None:
    async with running(MemoryNetwork(Random(1))) as network:
        port = network.bind(HERE)
        network.bind(THERE).close()
        port.send([(b"anybody", THERE)])
        port.close()
        await trio.sleep(1)
        assert port.refused() == []
        assert network.statistics().refusals == 0


# --- up to membership


@contextlib.asynccontextmanager
async def endpoint(environment: SimulatedEnvironment, role: Role) -> AsyncIterator[Endpoint]:
    made = Endpoint(
        await environment.bind("10.0.0.1:7946"),
        environment=environment,
        security=Security.shared_secret(bytes(range(32))),
        name="a",
        config=RpcConfig(),
        hello=lambda: Hello(
            protocol_min=1, protocol_max=1, library="", node_id="", boot_id=0, max_calls=1, max_message_bytes=1
        ),
        rng=Random(1),
        role=role,
    )
    async with running(environment.network), trio.open_nursery() as nursery:
        await nursery.start(made.run)
        yield made
        nursery.cancel_scope.cancel()
    made.close()


async def test_membership_hears_which_address_refused_and_when(autojump_clock: MockClock) -> None:
    environment = SimulatedEnvironment(MemoryNetwork(Random(1), latency=(0.25, 0.25)), seed=1)
    environment.network.bind(THERE).close()
    async with endpoint(environment, Role.NODE) as node:
        start = trio.current_time()
        node.membership.send("10.0.0.2:7946", b"ping")
        with trio.fail_after(5):
            refusal = await node.membership.receive()
        assert isinstance(refusal, ReceivedRefusal)
        assert refusal.address == "10.0.0.2:7946"
        assert refusal.at == pytest.approx(start + 0.5)


async def test_membership_hears_the_name_that_it_sent_to(autojump_clock: MockClock) -> None:
    environment = SimulatedEnvironment(MemoryNetwork(Random(1)), seed=1, names={"b.example": ["10.0.0.2"]})
    environment.network.bind(THERE).close()
    async with endpoint(environment, Role.NODE) as node:
        for _ in range(3):  # the first ones find the name unknown
            node.membership.send("b.example:7946", b"ping")
            await trio.sleep(1)
        refusal = node.membership.receive_nowait()
        assert isinstance(refusal, ReceivedRefusal)
        assert refusal.address == "b.example:7946"


async def test_a_server_on_its_own_has_no_use_for_refusals(autojump_clock: MockClock) -> None:
    environment = SimulatedEnvironment(MemoryNetwork(Random(1)), seed=1)
    environment.network.bind(THERE).close()
    async with endpoint(environment, Role.SERVER) as server:
        server.membership.send("10.0.0.2:7946", b"ping")
        await trio.sleep(1)
        assert server.membership.receive_nowait() is None
        assert server.port_statistics().refusals == 1
