"""Nobody is heard who has not proved to be a node of the cluster; also the guards of the engine's private names."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import ssl
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import attrs
import pytest
from _quic_pair import CLIENT, LATENCY, SERVER, Pair, TrustingSecurity, security
from aioquic import tls
from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicConnectionError, QuicReceiveContext
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from rpcnet._net.identity import Credentials
from rpcnet._net.quic import CLOSE_UNAUTHENTICATED, CloseKind
from rpcnet.config import RpcConfig

DAY = 86400.0
OTHER_SECRET = "Gq7_bYt2-VnXw5Zr9KdLm1"


@attrs.define(eq=False)
class RawClient:
    """aioquic itself against the pair's server: it shows what it is told to, and sends data as early as it can."""

    pair: Pair
    certificate: Any = None
    private_key: Any = None
    chain: Sequence[x509.Certificate] = ()
    alpn: list[str] | None = attrs.field(factory=lambda: ["rpcnet/1"])
    ciphers: list[tls.CipherSuite] | None = None
    ticket: tls.SessionTicket | None = None
    tickets: list[tls.SessionTicket] = attrs.field(factory=list)
    events: list[object] = attrs.field(factory=list)
    connection: QuicConnection = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        configuration = QuicConfiguration(
            alpn_protocols=self.alpn,
            certificate=self.certificate,
            certificate_chain=list(self.chain),
            cipher_suites=self.ciphers,
            private_key=self.private_key,
            session_ticket=self.ticket,
            verify_mode=ssl.CERT_NONE,
        )
        self.connection = QuicConnection(configuration=configuration, session_ticket_handler=self.tickets.append)
        self.pair.ends[CLIENT] = self  # type: ignore[assignment]
        self.connection.connect(SERVER, self.pair.now)

    def run(self) -> RawClient:
        self.pair.run(8)
        return self

    @property
    def terminated(self) -> ConnectionTerminated:
        [event] = [event for event in self.events if isinstance(event, ConnectionTerminated)]
        return event

    def receive(self, data: bytes, source: object, now: float) -> None:
        self.connection.receive_datagram(data, source, now)
        while (event := self.connection.next_event()) is not None:
            self.events.append(event)
            if isinstance(event, HandshakeCompleted):
                self.connection.send_stream_data(0, b"evil", end_stream=True)

    def settle(self, now: float) -> None:
        while (event := self.connection.next_event()) is not None:
            self.events.append(event)

    def flush(self, now: float) -> int:
        return self.pair.ports[CLIENT].send(self.connection.datagrams_to_send(now))

    def next_timer(self) -> float | None:
        timer = self.connection.get_timer()
        return None if timer is None else max(timer, self.pair.now + 0.0001)

    def on_timer(self, now: float) -> None:
        timer = self.connection.get_timer()
        if timer is not None and timer <= now:
            self.connection.handle_timer(now)


def own() -> Credentials:
    return security().issue("mallory")


def assert_nothing_ran(pair: Pair) -> None:
    assert pair.accepted == []
    assert pair.server.statistics().established == 0
    assert pair.server.statistics().links == 0
    assert pair.server._routes == {}


def test_a_raw_client_with_good_credentials_is_heard_so_the_refusals_below_mean_something() -> None:
    pair = Pair()
    good = own()
    RawClient(pair, good.certificate, good.private_key).run()
    [server] = pair.accepted
    assert server.log == [("ready", "mallory"), ("data", 0, b"evil", True)]


def test_a_client_without_a_certificate_is_refused_before_anything_runs() -> None:
    pair = Pair()
    client = RawClient(pair).run()
    assert_nothing_ran(pair)
    assert pair.server.statistics().unauthenticated == 1
    assert client.terminated.error_code == CLOSE_UNAUTHENTICATED
    assert client.terminated.reason_phrase == "the peer sent no certificate"


def foreign_leaf() -> Credentials:
    return security(OTHER_SECRET).issue("mallory")


def leaf_of_another_cluster() -> Credentials:
    return security(cluster="other").issue("mallory")


def expired_leaf() -> Credentials:
    return security().issue("mallory", now=time.time() - 30 * DAY)


def leaf_of_the_future() -> Credentials:
    return security().issue("mallory", now=time.time() + 30 * DAY)


def self_signed() -> Credentials:
    key = Ed25519PrivateKey.generate()
    good = security().issue("mallory").certificate
    moment = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(
        issuer_name=good.issuer,
        subject_name=good.subject,
        public_key=key.public_key(),
        serial_number=5,
        not_valid_before=moment - dt.timedelta(hours=1),
        not_valid_after=moment + dt.timedelta(hours=1),
        extensions=list(good.extensions),
    )
    return Credentials(builder.sign(key, None), key, 0.0)


def the_authority_itself() -> Credentials:
    secure = security()
    return Credentials(secure._authority, secure._ca, 0.0)


@pytest.mark.parametrize(
    ("forge", "why"),
    [
        (foreign_leaf, "was not issued for cluster 'rpcnet' with this secret"),
        (leaf_of_another_cluster, "was not issued for cluster 'rpcnet' with this secret"),
        (expired_leaf, "has expired"),
        (leaf_of_the_future, "is not valid yet"),
        (self_signed, "was not issued for cluster 'rpcnet' with this secret"),
        (the_authority_itself, "is that of an authority"),
    ],
)
def test_a_client_with_a_wrong_certificate_is_refused_with_the_reason(
    forge: Callable[[], Credentials], why: str
) -> None:
    pair = Pair()
    wrong = forge()
    client = RawClient(pair, wrong.certificate, wrong.private_key).run()
    assert_nothing_ran(pair)
    assert client.terminated.error_code == CLOSE_UNAUTHENTICATED
    assert client.terminated.frame_type is None
    assert why in client.terminated.reason_phrase


def test_a_client_whose_key_does_not_match_its_certificate_is_refused() -> None:
    pair = Pair()
    stolen = own().certificate
    client = RawClient(pair, stolen, Ed25519PrivateKey.generate()).run()
    assert_nothing_ran(pair)
    assert pair.server.statistics().unauthenticated == 1
    assert client.terminated.error_code == 0x100 + tls.AlertDescription.decrypt_error


def test_a_chain_with_another_authority_is_refused() -> None:
    pair = Pair()
    good = own()
    client = RawClient(pair, good.certificate, good.private_key, [security(OTHER_SECRET)._authority]).run()
    assert_nothing_ran(pair)
    assert "chain names another authority" in client.terminated.reason_phrase


def test_a_certificate_that_the_engine_cannot_read_harms_only_its_own_connection() -> None:
    class Mangled:
        def public_bytes(self, encoding: Encoding) -> bytes:
            der = own().certificate.public_bytes(encoding)
            return der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1)  # X.509 version 8

    pair = Pair()
    RawClient(pair, Mangled(), own().private_key).run()
    assert_nothing_ran(pair)
    assert pair.server.statistics().engine_errors == 1


def test_a_client_of_another_protocol_is_refused() -> None:
    pair = Pair()
    good = own()
    client = RawClient(pair, good.certificate, good.private_key, alpn=["h3"]).run()
    assert_nothing_ran(pair)
    assert client.terminated.error_code == 0x100 + tls.AlertDescription.no_application_protocol


def test_a_client_that_names_no_protocol_is_refused() -> None:
    pair = Pair()
    good = own()
    RawClient(pair, good.certificate, good.private_key, alpn=None).run()
    assert_nothing_ran(pair)
    assert pair.server.statistics().handshakes_failed == 1


def raw_ticket(pair: Pair) -> tls.SessionTicket:
    """Return a ticket that the server gave to a good client, which is gone."""
    good = own()
    client = RawClient(pair, good.certificate, good.private_key).run()
    client.connection.close(0x100)
    pair.run(1)
    [server] = pair.accepted
    assert server.log == [("ready", "mallory"), ("data", 0, b"evil", True), ("closed", CloseKind.CLOSED)]
    pair.accepted.clear()
    [ticket] = client.tickets
    return ticket


def test_a_raw_client_with_its_ticket_is_who_it_was_so_the_refusals_below_mean_something() -> None:
    pair = Pair()
    RawClient(pair, ticket=raw_ticket(pair)).run()
    [server] = pair.accepted
    assert server.log == [("ready", "mallory"), ("data", 0, b"evil", True)]
    assert pair.server.statistics().resumed == 1


def without_its_secret(ticket: tls.SessionTicket) -> tls.SessionTicket:
    return dataclasses.replace(ticket, resumption_secret=os.urandom(len(ticket.resumption_secret)))


def under_another_name(ticket: tls.SessionTicket) -> tls.SessionTicket:
    return dataclasses.replace(ticket, ticket=os.urandom(64))


def without_a_name(ticket: tls.SessionTicket) -> tls.SessionTicket:
    return dataclasses.replace(ticket, ticket=b"")


@pytest.mark.parametrize("spoil", [without_its_secret, under_another_name, without_a_name])
@pytest.mark.parametrize("early", [False, True])
def test_a_client_with_a_ticket_that_is_not_its_own_is_refused_before_anything_runs(
    spoil: Callable[[tls.SessionTicket], tls.SessionTicket], early: bool
) -> None:
    pair = Pair(accepts_early=True)
    ticket = spoil(raw_ticket(pair))
    client = RawClient(pair, ticket=ticket if early else dataclasses.replace(ticket, max_early_data_size=None))
    if early:
        client.connection.send_stream_data(0, b"evil")
    client.run()
    assert pair.accepted == []
    statistics = pair.server.statistics()
    assert (statistics.established, statistics.resumed, statistics.early, statistics.links) == (1, 0, 0, 0)
    assert client.terminated.error_code in (CLOSE_UNAUTHENTICATED, 0x100 + tls.AlertDescription.handshake_failure)


def test_a_ticket_of_another_cipher_does_not_stand_in_for_a_certificate() -> None:
    pair = Pair()
    ticket = dataclasses.replace(raw_ticket(pair), cipher_suite=tls.CipherSuite.CHACHA20_POLY1305_SHA256)
    RawClient(pair, ticket=ticket).run()
    assert pair.accepted == []
    assert pair.server.statistics().resumed == 0


def test_a_ticket_is_not_taken_by_a_server_that_chooses_another_cipher() -> None:
    pair = Pair()
    ticket = raw_ticket(pair)
    client = RawClient(pair, ticket=ticket, ciphers=[tls.CipherSuite.AES_256_GCM_SHA384]).run()
    assert pair.accepted == []
    assert pair.server.statistics().resumed == 0
    assert client.terminated.error_code == CLOSE_UNAUTHENTICATED


def test_the_dialler_learns_why_the_server_refused_it() -> None:
    pair = Pair(client_security=security(OTHER_SECRET))
    # the client must believe the server, so that the server's word is the one that decides
    pair.client._identity.security = TrustingSecurity(security(OTHER_SECRET))  # type: ignore[assignment]
    _, recorder = pair.dial()
    pair.run(1)
    assert_nothing_ran(pair)
    assert recorder.closed is not None
    assert recorder.closed.kind is CloseKind.UNAUTHENTICATED
    assert recorder.closed.by_peer
    assert recorder.closed.message == (
        "10.0.0.2:7946 refused this node: the peer's certificate was not issued for cluster 'rpcnet' with this secret"
    )


def test_a_server_of_another_secret_is_refused_by_the_dialler() -> None:
    pair = Pair(server_security=security(OTHER_SECRET))
    link, recorder = pair.dial()
    pair.run(1)
    assert_nothing_ran(pair)
    assert recorder.kinds == ["closed"]
    assert recorder.closed is not None
    assert recorder.closed.kind is CloseKind.UNAUTHENTICATED
    assert not recorder.closed.by_peer
    assert link.peer_name is None


def test_a_server_of_another_name_is_refused_by_the_dialler() -> None:
    pair = Pair()
    _, recorder = pair.dial(expected_name="c")
    pair.run(1)
    assert recorder.kinds == ["closed"]
    assert recorder.closed is not None
    assert recorder.closed.kind is CloseKind.UNAUTHENTICATED
    assert recorder.closed.message == "10.0.0.2:7946 is node 'b', not 'c'"
    assert_nothing_ran(pair)


def test_a_server_with_an_expired_certificate_is_refused_by_the_dialler() -> None:
    pair = Pair()
    expired = security().issue("b", now=time.time() - 30 * DAY)
    pair.server._identity.credentials = attrs.evolve(expired, renew_after=float("inf"))
    _, recorder = pair.dial()
    pair.run(1)
    assert recorder.closed is not None
    assert recorder.closed.message == "the peer's certificate has expired"
    assert_nothing_ran(pair)


def test_a_certificate_is_renewed_for_new_connections_and_old_ones_stay() -> None:
    pair = Pair()
    link, first, _, _ = pair.connect()
    before = pair.client._identity.credentials
    assert before is not None
    pair.connect()
    assert pair.client._identity.credentials is before
    pair.client._identity.wall_clock = lambda: before.renew_after
    pair.connect()
    after = pair.client._identity.credentials
    assert after is not None
    assert after.certificate != before.certificate
    link.send(link.open_stream(), b"old connection")
    pair.run(0.1)
    assert pair.accepted[0].received == {0: b"old connection"}
    assert first.closed is None


def test_handshakes_have_the_same_sizes_every_time() -> None:
    traces = set()
    for _ in range(5):
        pair = Pair()
        pair.connect()
        traces.add(tuple(pair.trace))
    assert len(traces) == 1


# --- guards of the engine's private names: what must stay true of aioquic


def test_the_engine_makes_one_key_pair_per_handshake() -> None:
    pair = Pair()
    link, _, server_link, _ = pair.connect()
    for side in (link, server_link):
        assert side.engine.tls._x25519_private_key is not None
        assert side.engine.tls._ec_private_keys == []
        assert side.engine.tls._x448_private_key is None


def test_the_engine_asks_clients_for_certificates_only_by_the_private_switch() -> None:
    context = tls.Context(is_client=False)
    assert context._request_client_certificate is False


def test_the_cheapest_cipher_is_chosen() -> None:
    link, _, _, _ = Pair().connect()
    schedule = link.engine.tls.key_schedule
    assert schedule is not None
    assert schedule.cipher_suite is tls.CipherSuite.AES_128_GCM_SHA256


def test_streams_of_one_datagram_are_served_in_an_order_that_repeats() -> None:
    noise = Random(1)
    junk: list[bytearray] = []
    logs = set()
    for _ in range(6):
        junk += [bytearray(noise.randrange(400)) for _ in range(500)]
        del junk[::3]  # so that objects lie elsewhere in memory each time
        pair = Pair()
        link, _, _, server = pair.connect()
        streams = [link.open_stream() for _ in range(8)]
        for _ in range(4):
            for stream in streams:
                link.send(stream, b"some")
            pair.run(0.1)
        logs.add(tuple(server.log))
    assert len(logs) == 1


def test_a_handshake_cannot_make_a_connection_hold_more_than_its_bound() -> None:
    pair = Pair()
    link, _ = pair.dial()
    frame = Buffer(capacity=64)
    for number in (40_000, 8):
        frame.push_uint_var(number)
    frame.push_bytes(bytes(8))
    frame.seek(0)
    context = QuicReceiveContext(
        epoch=tls.Epoch.INITIAL,
        host_cid=b"",
        network_path=link.engine._network_paths[0],
        quic_logger_frames=None,
        time=0.0,
        version=1,
    )
    with pytest.raises(QuicConnectionError, match="too long"):
        link.engine._handle_crypto_frame(context, 6, frame)


def test_the_bound_of_a_handshake_is_held_by_the_frame_table_of_the_engine() -> None:
    pair = Pair()
    client = RawClient(pair)
    stream = client.connection._crypto_streams[tls.Epoch.INITIAL]
    stream.sender._pending.subtract(0, 1)  # a gap, so that everything behind it must be held
    stream.sender.write(os.urandom(40_000))
    client.run()
    assert_nothing_ran(pair)
    assert client.terminated.error_code == 0x0D  # CRYPTO_BUFFER_EXCEEDED


def test_a_peers_close_is_known_as_soon_as_it_arrives() -> None:
    pair = Pair()
    link, _, server_link, _ = pair.connect()
    link.close(0x100, "x")
    pair.client.flush(pair.now)
    pair.run(LATENCY * 1.01)
    assert server_link.engine.ended is not None
    assert server_link.engine.ended.by_peer


def test_new_connection_ids_are_routed_before_the_peer_can_use_them() -> None:
    pair = Pair()
    link, _, server_link, server = pair.connect()
    issued = set(server_link.engine.connection_ids)
    assert len(issued) == 8
    assert issued <= set(pair.server._routes)
    pair.run(0.1)
    link.engine.change_connection_id()
    link.send(link.open_stream(), b"by another name")
    pair.run(0.5)
    assert server.received == {0: b"by another name"}
    assert len(issued - set(pair.server._routes)) == 1
    assert set(server_link.engine.connection_ids) <= set(pair.server._routes)


def test_a_hundred_refused_clients_leave_nothing_behind() -> None:
    pair = Pair(config=RpcConfig(max_unauthenticated=8))
    for _ in range(100):
        RawClient(pair)
        pair.run(0.02)
    pair.run(10)
    assert_nothing_ran(pair)
    assert pair.server.statistics().unauthenticated == 100
