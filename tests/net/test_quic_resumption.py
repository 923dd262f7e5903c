"""Nodes that meet again without certificates: who is believed to be whom, for how long, and what makes tickets void."""

from __future__ import annotations

import time
from pathlib import Path

import attrs
import pytest
from _quic_pair import CLIENT, SERVER, Pair, Recorder
from aioquic import tls
from aioquic.quic.connection import MAX_EARLY_DATA

from _pki import GOSSIP_KEY, Files, root
from rpcnet._net.quic import CloseKind, QuicEndpoint, QuicLink
from rpcnet._net.quic_identity import EndpointIdentity
from rpcnet._net.quic_tickets import Proof, Ticket, TicketStore
from rpcnet.config import RpcConfig

DAY = 86400.0
BYE = 0x100


def again(pair: Pair, expected_name: str | None = "b") -> tuple[QuicLink, Recorder, Recorder]:
    """Dial and run the handshake; return the link, and the recorders of both sides."""
    link, recorder = pair.dial(expected_name=expected_name)
    pair.run(0.05)
    return link, recorder, pair.accepted[-1]


def resumed(pair: Pair) -> tuple[int, int]:
    return pair.client.statistics().resumed, pair.server.statistics().resumed


def test_the_second_connection_needs_no_certificates_and_has_the_verified_names() -> None:
    pair = Pair()
    pair.connect()
    assert resumed(pair) == (0, 0)
    link, client, server = again(pair)
    assert resumed(pair) == (1, 1)
    assert client.log == [("ready", "b")]
    assert server.log == [("ready", "a")]
    assert link.engine.peer_certificates == (None, [])
    stream = link.open_stream()
    link.send(stream, b"as ever", end=True)
    pair.run(0.05)
    assert server.received == {stream: b"as ever"}


def test_each_connection_brings_the_ticket_for_the_next_one() -> None:
    pair = Pair()
    pair.connect()
    for count in range(1, 5):
        again(pair)
        assert resumed(pair) == (count, count)
    assert pair.server.statistics().established == 5


def test_a_ticket_is_used_once() -> None:
    pair = Pair()
    pair.connect()
    first, second = pair.dial(expected_name="b"), pair.dial(expected_name="b")
    pair.run(0.05)
    assert first[1].kinds == second[1].kinds == ["ready"]
    assert first[0].engine.is_resumed
    assert not second[0].engine.is_resumed
    assert resumed(pair) == (1, 1)


def test_a_server_that_was_started_anew_asks_for_the_certificates() -> None:
    pair = Pair()
    pair.connect()
    pair.restart_server()
    link, client, server = again(pair)
    assert client.log == [("ready", "b")]
    assert server.log == [("ready", "a")]
    assert resumed(pair) == (0, 0)
    assert link.engine.peer_certificates[0] is not None
    again(pair)
    assert resumed(pair) == (1, 1)


def test_a_ticket_is_good_for_the_name_it_was_obtained_for_only() -> None:
    pair = Pair()
    pair.connect()
    link, client, _ = again(pair, expected_name=None)
    assert client.log == [("ready", "b")]
    assert not link.engine.is_resumed
    _, other = pair.dial(expected_name="c")
    pair.run(0.05)
    assert other.closed is not None
    assert other.closed.kind is CloseKind.UNAUTHENTICATED
    assert resumed(pair) == (0, 0)
    link, client, _ = again(pair, expected_name=None)
    assert client.log == [("ready", "b")]
    assert link.engine.is_resumed


def test_a_ticket_is_shown_at_the_address_it_was_obtained_at_only() -> None:
    pair = Pair()
    pair.connect()
    address = ("10.0.0.3", 7946)
    pair.ends[address] = pair.ends.pop(SERVER)
    pair.ports[SERVER]._address = address
    link, recorder = pair.dial(expected_name="b", address=address)
    pair.run(0.05)
    assert recorder.kinds == ["ready"]
    assert not link.engine.is_resumed


def test_a_refused_client_has_no_ticket_that_is_good() -> None:
    pair = Pair()
    pair.client._identity.security = pair.server._identity.security
    link, recorder = pair.dial(expected_name="c")
    pair.run(0.05)
    assert recorder.closed is not None
    assert link.proof is None
    _, recorder = pair.dial(expected_name="c")
    pair.run(0.05)
    assert recorder.closed is not None
    assert resumed(pair) == (0, 0)


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_ticket_is_good_for_its_lifetime(side: str) -> None:
    pair = Pair(config=RpcConfig(ticket_lifetime=100.0))
    endpoint: QuicEndpoint = getattr(pair, side)
    other = pair.server if side == "client" else pair.client
    other._identity._config = attrs.evolve(pair.config, ticket_lifetime=DAY)
    pair.connect()
    pair.run(90)
    again(pair)
    assert resumed(pair) == (1, 1)
    pair.run(101)
    _, client, server = again(pair)
    assert resumed(pair) == (1, 1)
    assert client.log == [("ready", "b")]
    assert server.log == [("ready", "a")]
    assert endpoint.statistics().established == 3


@pytest.mark.parametrize("side", ["client", "server"])
def test_no_ticket_outlives_the_certificate_it_stands_for(side: str) -> None:
    pair = Pair()
    pair.connect()
    again(pair)
    assert resumed(pair) == (1, 1)
    identity: EndpointIdentity = getattr(pair, side)._identity
    identity.wall_clock = lambda: time.time() + 6.9 * DAY
    again(pair)
    assert resumed(pair) == (2, 2)
    identity.wall_clock = lambda: time.time() + 7.1 * DAY
    again(pair)
    assert resumed(pair) == (2, 2)
    assert pair.server.statistics().established == 4


def test_tickets_are_bounded_on_both_sides() -> None:
    pair = Pair(config=RpcConfig(max_tickets=2, max_resumable_peers=3))
    pair.connect()
    for name in (None, "b", None, "b", None):
        pair.dial(expected_name=name)
        pair.dial(expected_name=name)
        pair.run(0.05)
    assert len(pair.client._identity._obtained) == 2
    assert len(pair.server._identity._given) == 3


def test_without_resumption_there_are_no_tickets() -> None:
    pair = Pair(config=RpcConfig(resumption=False))
    pair.connect()
    again(pair)
    assert resumed(pair) == (0, 0)
    assert len(pair.client._identity._obtained) == 0
    assert len(pair.server._identity._given) == 0


@pytest.mark.parametrize("side", [CLIENT, SERVER])
def test_one_side_alone_cannot_resume(side: tuple[str, int]) -> None:
    pair = Pair()
    pair.ends[side]._config = RpcConfig(resumption=False)
    pair.ends[side]._identity._config = RpcConfig(resumption=False)
    pair.connect()
    _, client, server = again(pair)
    assert client.log == [("ready", "b")]
    assert server.log == [("ready", "a")]
    assert resumed(pair) == (0, 0)


def test_what_was_remembered_comes_back_with_the_ticket() -> None:
    pair = Pair()
    link, _, _, _ = pair.connect()
    assert link.remembered is None
    link.remember("the first")
    link, _, _ = again(pair)
    assert link.remembered == "the first"
    link.remember("the second")
    link, _, _ = again(pair)
    assert link.remembered == "the second"
    pair.restart_server()
    link, _, _ = again(pair)
    link, _, _ = again(pair)
    assert link.remembered is None


def test_a_resumed_handshake_survives_a_lossy_wire() -> None:
    for lost in range(8):
        pair = Pair()
        pair.connect()
        count = [0]

        def drop(*_: object, count: list[int] = count, lost: int = lost) -> bool:
            count[0] += 1
            return count[0] == lost + 1

        pair.drop = drop
        link, client = pair.dial(expected_name="b")
        pair.run(3)
        assert client.log == [("ready", "b")]
        assert link.engine.is_resumed
        assert resumed(pair) == (1, 1)


def test_resumed_handshakes_have_the_same_sizes_every_time() -> None:
    traces = set()
    for _ in range(5):
        pair = Pair()
        pair.connect()
        again(pair)
        again(pair)
        traces.add(tuple(pair.trace))
    assert len(traces) == 1


# --- keys and authorities that change


@attrs.define
class FilesPair:
    pair: Pair
    client: Files
    server: Files


@pytest.fixture
def by_files(tmp_path: Path) -> FilesPair:
    old = root("old")
    client = Files(tmp_path / "a").write(ca=old.pem, leaf=old.leaf("a"), keys=GOSSIP_KEY)
    server = Files(tmp_path / "b").write(ca=old.pem, leaf=old.leaf("b", kind="p256"), keys=GOSSIP_KEY)
    pair = Pair(client_security=client.security(), server_security=server.security(), wall_clock=time.time)
    return FilesPair(pair, client, server)


def test_connections_by_files_are_resumed(by_files: FilesPair) -> None:
    by_files.pair.connect()
    again(by_files.pair)
    assert resumed(by_files.pair) == (1, 1)


@pytest.mark.parametrize("side", ["client", "server"])
def test_new_files_make_every_ticket_void_and_leave_open_connections_alone(by_files: FilesPair, side: str) -> None:
    pair = by_files.pair
    link, first, _, server = pair.connect()
    new = root("new")
    both = by_files.client.ca.read_bytes() + new.pem
    by_files.client.write(ca=both)
    by_files.server.write(ca=both)
    pair.run(2)
    again(pair)
    assert resumed(pair) == (0, 0)
    again(pair)
    assert resumed(pair) == (1, 1)
    files: Files = getattr(by_files, side)
    files.write(leaf=new.leaf("a" if side == "client" else "b"))
    pair.run(2)
    renewed, client, accepted = again(pair)
    assert client.log == [("ready", "b")]
    assert accepted.log == [("ready", "a")]
    assert resumed(pair) == (1, 1)
    other = renewed if side == "server" else accepted.link
    assert other is not None
    shown, _ = other.engine.peer_certificates
    assert shown is not None
    assert shown.issuer == new.own.certificate.subject
    link.send(link.open_stream(), b"still here")
    pair.run(0.05)
    assert list(server.received.values()) == [b"still here"]
    assert first.closed is None


def test_a_peer_of_an_authority_that_is_not_trusted_any_more_cannot_come_back(by_files: FilesPair) -> None:
    pair = by_files.pair
    pair.connect()
    new = root("new")
    by_files.server.write(ca=new.pem, leaf=new.leaf("b"))
    pair.run(2)
    _, client = pair.dial(expected_name="b")
    pair.run(0.05)
    assert client.closed is not None
    assert client.closed.kind is CloseKind.UNAUTHENTICATED
    pair.client._identity.security = by_files.server.security()
    assert resumed(pair) == (0, 0)
    assert len(pair.accepted) == 1


def test_chains_and_keys_of_every_kind_are_shown_in_handshakes(tmp_path: Path) -> None:
    for kind in ("ed25519", "p256", "p384", "rsa2048"):
        top = root(kind="rsa2048")
        lowest = top.authority("one", kind="rsa2048").authority("two", kind="p384")
        ends = [Files(tmp_path / f"{kind}{name}").write(ca=top.pem, leaf=lowest.leaf(name, kind=kind)) for name in "ab"]
        client, server = (files.security() for files in ends)
        Pair(client_security=client, server_security=server, wall_clock=time.time).connect()


def test_a_node_needs_a_certificate_of_its_own_name(tmp_path: Path) -> None:
    top = root()
    files = Files(tmp_path / "c").write(ca=top.pem, leaf=top.leaf("c"))
    with pytest.raises(Exception, match="node name 'a': the certificate stands for node 'c'"):
        Pair(client_security=files.security())


# --- the store


def ticket(name: str, expires_at: float = 100.0, proved_until: float = 100.0) -> Ticket:
    session = tls.SessionTicket(
        age_add=0,
        cipher_suite=tls.CipherSuite.AES_128_GCM_SHA256,
        not_valid_after=tls.utcnow().replace(year=2999),
        not_valid_before=tls.utcnow().replace(year=2000),
        resumption_secret=b"the secret of a ticket",
        server_name="",
        ticket=name.encode(),
        max_early_data_size=MAX_EARLY_DATA,
    )
    return Ticket(session, Proof(name, proved_until), expires_at)


def test_a_store_keeps_the_newest_and_gives_each_once() -> None:
    store: TicketStore[str] = TicketStore(2)
    for name in "abac":
        store.put(name, ticket(name))
    assert len(store) == 2
    assert store.take("b", 0.0, 0.0) is None
    taken = store.take("a", 0.0, 0.0)
    assert taken is not None
    assert taken.proof.name == "a"
    assert store.take("a", 0.0, 0.0) is None
    store.clear()
    assert store.take("c", 0.0, 0.0) is None


def test_a_store_gives_nothing_that_is_too_old() -> None:
    store: TicketStore[str] = TicketStore(9)
    for now, wall_now, is_good in ((99.0, 99.0, True), (100.0, 0.0, False), (0.0, 100.0, False)):
        store.put("a", ticket("a"))
        assert (store.take("a", now, wall_now) is not None) is is_good


def test_no_secret_of_a_ticket_is_shown() -> None:
    assert "secret of" not in repr(ticket("a"))
