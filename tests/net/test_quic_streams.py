"""How many streams a peer may have open: few until it is verified, then as many as it may have calls, and for ever."""

from __future__ import annotations

from random import Random

import pytest
from _engine_wire import Wire, check_accounts
from _quic_pair import LATENCY, Pair, TrustingSecurity, security
from aioquic.quic.packet import QuicErrorCode

from rpcnet._net.quic import CloseKind, QuicLink, StreamsExhausted
from rpcnet._net.quic_engine import Engine
from rpcnet.config import RpcConfig

FIRST = 128


def open_all(link: QuicLink, *, unidirectional: bool = False) -> list[int]:
    """Open streams until the peer allows no more."""
    streams: list[int] = []
    while True:
        try:
            streams.append(link.open_stream(unidirectional=unidirectional))
        except StreamsExhausted:
            return streams


@pytest.mark.parametrize("unidirectional", [False, True])
def test_a_verified_peer_may_have_as_many_streams_as_calls_and_128(unidirectional: bool) -> None:
    pair = Pair(config=RpcConfig(max_calls_per_connection=1000))
    link, _, server_link, _ = pair.connect()
    assert len(open_all(link, unidirectional=unidirectional)) == 1128
    assert len(open_all(server_link, unidirectional=unidirectional)) == 1128


def test_fewer_streams_than_128_more_are_allowed_when_the_first_are_used_up() -> None:
    pair = Pair(config=RpcConfig(max_calls_per_connection=3))
    link, *_ = pair.connect()
    opened = []
    for _ in range(3):
        for stream in open_all(link):
            link.send(stream, b"x")
            opened.append(stream)
        pair.run(0.1)
    assert len(opened) == 131


def test_a_peer_that_is_not_verified_may_open_128_streams() -> None:
    stranger = security("Zk9pQw3mLr5tYx8vBn2cHj")
    pair = Pair(config=RpcConfig(max_calls_per_connection=1_000_000), client_security=stranger)
    pair.client._identity.security = TrustingSecurity(stranger)  # type: ignore[assignment]
    pair.dial()
    pair.run(1.5 * LATENCY)
    [link] = pair.server._links
    pair.run(1)
    assert link.closed is not None
    assert (link.closed.kind, link.closed.by_peer) == (CloseKind.UNAUTHENTICATED, False)
    limits = link.engine._local_max_streams_bidi, link.engine._local_max_streams_uni
    assert [(limit.value, limit.sent) for limit in limits] == [(FIRST, FIRST)] * 2


def test_one_stream_too_many_ends_the_connection() -> None:
    pair = Pair(config=RpcConfig(max_calls_per_connection=1000))
    link, client, server_link, _ = pair.connect()
    link.engine._remote_max_streams_bidi = 1 << 40
    for _ in range(1128):
        link.send(link.open_stream(), b"x")
    pair.run(1)
    assert server_link.statistics().open_streams == 1128
    link.send(link.open_stream(), b"x")
    pair.run(1)
    assert client.closed is not None
    assert (client.closed.code, client.closed.message) == (QuicErrorCode.STREAM_LIMIT_ERROR, "Too many streams open")


@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_streams_that_end_make_place_for_others_for_ever(loss: float) -> None:
    wire = Wire(rng=Random(4), loss=loss)
    client, server = wire.ends
    assert isinstance(client, Engine)
    assert isinstance(server, Engine)
    server.allow_more_streams(200)
    wire.run(2)
    count = 0
    for _ in range(20):
        streams = []
        for _ in range(2):  # places are announced when fewer are left than have become free
            while (stream_id := client.open_stream(unidirectional=False)) is not None:
                client.write(stream_id, b"question", end=True)
                streams.append(stream_id)
            wire.run(3)
        assert server.open_streams == len(streams) == FIRST + 200
        for stream_id in streams:
            server.write(stream_id, b"answer", end=True)
        wire.run(3)
        assert (client.open_streams, server.open_streams) == (0, 0)
        count += len(streams)
    assert len(wire.heard[1]) == len(wire.heard[0]) == count == 20 * (FIRST + 200)
    for engine in wire.engines:
        check_accounts(engine)


def test_the_engine_begins_with_128_streams() -> None:
    for end in Wire("none").ends:
        for limit in (end._local_max_streams_bidi, end._local_max_streams_uni):
            assert (limit.value, limit.sent, limit.used) == (FIRST, FIRST, 0)
