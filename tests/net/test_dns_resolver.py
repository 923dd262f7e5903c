"""DNS, asked for real: a small server on the loopback interface answers what it is told to."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

import attrs
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
import trio

from rpcnet._net.dns_resolver import DnsResolver
from rpcnet._net.ports import ServiceRecord
from rpcnet._net.seeds import SeedBook, check_seed
from rpcnet._net.udp import RealEnvironment

Records = dict[tuple[str, str], list[str]]

ZONE: Records = {
    ("nodes.example.", "A"): ["10.0.0.1", "10.0.0.2"],
    ("nodes.example.", "AAAA"): ["fd00::1"],
    ("four.example.", "A"): ["10.0.0.4"],
    ("alias.example.", "CNAME"): ["nodes.example."],
    ("_rpcnet._udp.example.", "SRV"): ["10 0 7001 nodes.example.", "5 0 7002 four.example.", "1 0 1 unknown.example."],
    ("_gone._udp.example.", "SRV"): ["0 0 0 .", "0 0 0 nodes.example.", "0 0 1 ."],
}


@attrs.define(eq=False)
class Server:
    """A DNS server; it truncates over UDP, fails or keeps silent if it is told so."""

    zone: Records
    failing: tuple[str, ...] = ()
    """Kinds of questions to which the answer is SERVFAIL."""
    silent: tuple[str, ...] = ()
    """Kinds of questions to which there is no answer."""
    truncates: bool = False
    garbles: bool = False
    questions: list[str] = attrs.field(factory=list)
    port: int = 0

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncGenerator[DnsResolver, None]:
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
            listeners = await self._bind(sock)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve_udp, sock)
                nursery.start_soon(trio.serve_listeners, self._serve_tcp, listeners)
                yield DnsResolver(["127.0.0.1"], port=self.port, timeout=20.0)
                nursery.cancel_scope.cancel()

    async def _bind(self, sock: trio.socket.SocketType) -> list[trio.SocketListener]:
        """Bind a port that is free for both UDP and TCP."""
        while True:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            self.port = listeners[0].socket.getsockname()[1]
            try:
                await sock.bind(("127.0.0.1", self.port))
            except OSError:
                await listeners[0].aclose()
            else:
                return listeners

    async def _serve_udp(self, sock: trio.socket.SocketType) -> None:
        while True:
            data, client = await sock.recvfrom(4096)
            response = self.answer(data)
            if self.garbles:
                await sock.sendto(data[:2] + b"\xff" * 40, client)
                continue
            if response is not None and self.truncates:
                response.answer = []
                response.flags |= dns.flags.TC
            if response is not None:
                await sock.sendto(response.to_wire(), client)

    async def _serve_tcp(self, stream: trio.SocketStream) -> None:
        data = b""
        while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
            data += await stream.receive_some()
        response = self.answer(data[2:])
        if response is not None:
            wire = response.to_wire()
            await stream.send_all(len(wire).to_bytes(2, "big") + wire)

    def answer(self, data: bytes) -> dns.message.Message | None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        self.questions.append(f"{kind} {name}")
        if kind in self.silent:
            return None
        response = dns.message.make_response(query)
        if kind in self.failing:
            response.set_rcode(dns.rcode.SERVFAIL)
            return response
        for alias in self.zone.get((name, "CNAME"), ()):
            response.answer.append(dns.rrset.from_text(name, 60, "IN", "CNAME", alias))
            name = alias
        if not any(name == known for known, _ in self.zone):
            response.set_rcode(dns.rcode.NXDOMAIN)
        records = self.zone.get((name, kind))
        if records:
            response.answer.append(dns.rrset.from_text(name, 60, "IN", kind, *records))
        return response


async def test_all_addresses_of_a_name_are_found_those_of_ipv4_first() -> None:
    async with Server(ZONE).open() as resolver:
        assert await resolver.addresses("four.example") == ["10.0.0.4"]
        for name in ("nodes.example", "alias.example"):
            *four, six = await resolver.addresses(name)
            assert (sorted(four), six) == (["10.0.0.1", "10.0.0.2"], "fd00::1")


async def test_an_answer_is_not_remembered() -> None:
    server = Server(dict(ZONE))
    async with server.open() as resolver:
        assert await resolver.addresses("four.example") == ["10.0.0.4"]
        server.zone["four.example.", "A"] = ["10.0.0.5"]
        assert await resolver.addresses("four.example") == ["10.0.0.5"]


async def test_a_name_that_does_not_exist_is_an_error_that_names_it() -> None:
    async with Server(ZONE).open() as resolver:
        with pytest.raises(OSError, match=r"no A records of unknown\.example: .*(does )?not exist"):
            await resolver.addresses("unknown.example")
        with pytest.raises(OSError, match=r"no SRV records of unknown\.example"):
            await resolver.services("unknown.example")


async def test_a_name_without_records_of_the_kind_has_none() -> None:
    async with Server(ZONE).open() as resolver:
        assert await resolver.services("nodes.example") == []
        assert await resolver.addresses("_rpcnet._udp.example") == []


async def test_where_one_family_fails_the_other_is_all_there_is() -> None:
    async with Server(ZONE, failing=("AAAA",)).open() as resolver:
        assert sorted(await resolver.addresses("nodes.example")) == ["10.0.0.1", "10.0.0.2"]
    async with Server(ZONE, failing=("A", "AAAA")).open() as resolver:
        with pytest.raises(OSError, match="SERVFAIL"):
            await resolver.addresses("nodes.example")


@pytest.mark.parametrize("name", ["", "a..b", "x" * 64 + ".example", "\udcff.example"])
async def test_what_is_no_name_is_an_error_like_the_others(name: str) -> None:
    async with Server(ZONE).open() as resolver:
        with pytest.raises(OSError, match="no A records of"):
            await resolver.addresses(name)


async def test_a_server_that_keeps_silent_is_given_up() -> None:
    server = Server(ZONE, silent=("SRV",))
    async with server.open():
        resolver = DnsResolver(["127.0.0.1"], port=server.port, timeout=0.05)
        with pytest.raises(TimeoutError, match=r"no SRV records of _rpcnet\._udp\.example: no server answered within"):
            await resolver.services("_rpcnet._udp.example")


async def test_what_is_no_answer_is_an_error_like_the_others() -> None:
    server = Server(ZONE, garbles=True)
    async with server.open():
        resolver = DnsResolver(["127.0.0.1"], port=server.port, timeout=0.2)
        with pytest.raises(OSError, match="no A records of nodes"):
            await resolver.addresses("nodes.example")


async def test_a_service_has_records_and_none_where_it_is_said_not_to_exist() -> None:
    async with Server(ZONE).open() as resolver:
        assert sorted(await resolver.services("_rpcnet._udp.example"), key=lambda record: record.priority) == [
            ServiceRecord(1, 0, 1, "unknown.example"),
            ServiceRecord(5, 0, 7002, "four.example"),
            ServiceRecord(10, 0, 7001, "nodes.example"),
        ]
        assert await resolver.services("_gone._udp.example") == []


async def test_an_answer_too_large_for_a_datagram_is_fetched_over_tcp() -> None:
    many = [f"10.0.{number // 250}.{number % 250 + 1}" for number in range(600)]
    async with Server({("many.example.", "A"): many}, truncates=True).open() as resolver:
        assert sorted(await resolver.addresses("many.example")) == sorted(many)


async def test_seeds_are_found_in_dns_through_the_real_environment() -> None:
    async with Server(ZONE).open() as resolver:
        seeds = [check_seed("seeds", text) for text in ("dns+srv://_rpcnet._udp.example", "dns://alias.example:7946")]
        book = SeedBook(seeds, environment=RealEnvironment(resolver), rng=RealEnvironment().rng())
        service, name = [await book.ask(label) for label in book.labels]
        assert service.addresses[0] == "10.0.0.4:7002"
        assert sorted(service.addresses[1:]) == ["10.0.0.1:7001", "10.0.0.2:7001", "[fd00::1]:7001"]
        assert sorted(name.addresses) == ["10.0.0.1:7946", "10.0.0.2:7946", "[fd00::1]:7946"]
