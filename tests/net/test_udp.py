from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio

from rpcnet._net.addresses import parse_address
from rpcnet._net.environment import current_environment, set_environment
from rpcnet._net.udp import RealEnvironment, UdpPort
from rpcnet.errors import ConfigError


@contextlib.asynccontextmanager
async def bound(address: str = "127.0.0.1:0") -> AsyncIterator[UdpPort]:
    port = await RealEnvironment().bind(address)
    try:
        yield port
    finally:
        port.close()


async def read(port: UdpPort) -> tuple[bytes, tuple[str, int]]:
    with trio.fail_after(5):
        while (got := port.receive()) is None:
            await port.wait_readable()
    return got


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.mark.parametrize("address", ["127.0.0.1:0", pytest.param("[::1]:0", marks=needs_ipv6), "localhost:0"])
async def test_datagrams_cross_between_two_ports(address: str) -> None:
    async with bound(address) as a, bound(address) as b:
        to, back = parse_address(b.local_address), parse_address(a.local_address)
        assert to[1] > 0
        assert a.send([(b"one", to), (b"two", to)]) == 2
        assert await read(b) == (b"one", back)
        assert await read(b) == (b"two", back)
        assert b.receive() is None
        assert b.send([(b"back", back)]) == 1
        assert await read(a) == (b"back", to)
        sent, got = a.statistics(), b.statistics()
        assert (sent.datagrams_sent, sent.bytes_sent) == (2, 6)
        assert (got.datagrams_received, got.bytes_received) == (2, 6)


async def test_an_empty_datagram_is_a_datagram() -> None:
    async with bound() as a, bound() as b:
        a.send([(b"", parse_address(b.local_address))])
        assert (await read(b))[0] == b""


async def test_what_the_kernel_refuses_is_lost_and_the_rest_is_sent() -> None:
    async with bound() as a, bound() as b:
        to = parse_address(b.local_address)
        too_long = bytes(70_000)
        assert a.send([(b"1", to), (too_long, to), (b"2", ("::1", 9)), (b"3", to)]) == 2
        assert (await read(b))[0] == b"1"
        assert (await read(b))[0] == b"3"
        assert a.statistics().datagrams_refused == 2


async def test_a_full_buffer_loses_datagrams_and_never_blocks() -> None:
    async with bound() as a, bound() as b:
        to = parse_address(b.local_address)
        for _ in range(60):
            a.send([(bytes(8000), to)] * 50)
        assert a.statistics().datagrams_sent + a.statistics().datagrams_refused == 3000


async def test_a_port_that_refuses_harms_nothing() -> None:
    async with bound() as a, bound() as b:
        gone = await RealEnvironment().bind("127.0.0.1:0")
        nobody = parse_address(gone.local_address)
        gone.close()
        for _ in range(3):
            a.send([(b"anybody", nobody)])
        b.send([(b"hello", parse_address(a.local_address))])
        assert (await read(a))[0] == b"hello"


async def test_a_taken_port_is_refused_by_name() -> None:
    async with bound() as a:
        with pytest.raises(ConfigError, match="address already in use") as caught:
            await RealEnvironment().bind(a.local_address)
        assert a.local_address in str(caught.value)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("192.0.2.1:0", "cannot assign requested address"),
        ("no-such-host.invalid:0", "no-such-host.invalid:0"),
        ("nonsense", "has no port"),
        ("a..b:0", "is not a host name"),
    ],
)
async def test_an_address_that_is_not_here_is_refused_by_name(address: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        await RealEnvironment().bind(address)


async def test_closing_wakes_the_reader() -> None:
    async with bound() as port, trio.open_nursery() as nursery:
        woken = trio.Event()

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await port.wait_readable()
            woken.set()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        port.close()
        port.close()
        with trio.fail_after(5):
            await woken.wait()
        with pytest.raises(trio.ClosedResourceError):
            await port.wait_readable()
        assert port.receive() is None
        assert port.send([(b"x", ("127.0.0.1", 9))]) == 0


async def test_waiting_is_a_checkpoint_even_when_something_waits() -> None:
    async with bound() as a, bound() as b:
        a.send([(b"x", parse_address(b.local_address))])
        await b.wait_readable()
        with trio.testing.assert_checkpoints():
            await b.wait_readable()


async def test_large_datagrams_go_over_loopback_only() -> None:
    async with bound() as a, bound() as b:
        assert a.max_datagram_bytes("10.1.2.3") == 1200
        assert a.max_datagram_bytes("example.org") == 1200
        size = a.max_datagram_bytes("127.0.0.1")
        a.send([(bytes(size), parse_address(b.local_address))])
        assert await read(b) == (bytes(size), parse_address(a.local_address))


@pytest.mark.parametrize(("mtu", "size"), [("65536\n", 16383), ("1500\n", 1452), ("600\n", 1200), ("", 1200)])
async def test_the_size_over_loopback_follows_the_kernels_mtu(
    mtu: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "mtu"
    told.write_text(mtu)
    monkeypatch.setattr("rpcnet._net.udp._LOOPBACK_MTU_FILE", told)
    async with bound() as port:
        assert port.max_datagram_bytes("127.0.0.1") == size


async def test_without_the_kernels_word_datagrams_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rpcnet._net.udp._LOOPBACK_MTU_FILE", tmp_path / "missing")
    async with bound() as port:
        assert port.max_datagram_bytes("127.0.0.1") == 1200


async def test_names_are_resolved_and_addresses_pass_through() -> None:
    environment = RealEnvironment()
    assert await environment.resolve("192.0.2.7") == ["192.0.2.7"]
    assert await environment.resolve("::1") == ["::1"]
    found = await environment.resolve("localhost")
    assert "127.0.0.1" in found or "::1" in found
    assert len(found) == len(set(found))
    with pytest.raises(OSError, match=r"."):
        await environment.resolve("no-such-host.invalid")


async def test_resolving_is_a_checkpoint() -> None:
    with trio.testing.assert_checkpoints():
        await RealEnvironment().resolve("192.0.2.7")


async def test_the_real_environment_is_random() -> None:
    environment = RealEnvironment()
    assert environment.token_bytes(16) != environment.token_bytes(16)
    assert environment.rng().random() != environment.rng().random()
    assert environment.wall_clock() > 1_700_000_000
    assert environment.hostname() == socket.gethostname()


async def test_a_run_lives_in_the_real_environment_unless_it_says_otherwise() -> None:
    assert isinstance(current_environment(), RealEnvironment)


def test_an_environment_is_set_for_one_run_only() -> None:
    other = RealEnvironment()

    async def set_it() -> bool:
        set_environment(other)
        return current_environment() is other

    async def look() -> bool:
        return current_environment() is other

    def run(what: Callable[[], object]) -> object:
        return trio.run(what)  # type: ignore[arg-type]

    assert run(set_it) is True
    assert run(look) is False
