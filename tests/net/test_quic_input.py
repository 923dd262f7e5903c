"""What strangers and floods get from a QUIC endpoint: nothing, at no cost."""

from __future__ import annotations

import os
from random import Random

import pytest
from _quic_pair import CLIENT, SERVER, Pair
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet.config import RpcConfig

BYE = 0x100


def initial(version: int = 1, cid: bytes = b"c" * 8, source: bytes = b"s" * 8, first: int = 0xC0) -> bytes:
    head = bytes([first]) + version.to_bytes(4, "big") + bytes([len(cid)]) + cid + bytes([len(source)]) + source
    return head + os.urandom(1200 - len(head))


def test_max_connections_is_enforced_and_a_place_becomes_free() -> None:
    pair = Pair(config=RpcConfig(max_connections=2, connect_timeout=1))
    links = [pair.dial() for _ in range(3)]
    pair.run(0.5)
    assert [recorder.kinds for _, recorder in links] == [["ready"], ["ready"], []]
    assert pair.server.statistics().refused > 0
    pair.run(1)
    assert links[2][1].kinds == ["closed"]
    links[0][0].close(BYE, "")
    pair.run(0.5)
    _, fourth = pair.dial()
    pair.run(0.5)
    assert fourth.kinds == ["ready"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x40",
        b"\xc0",
        b"\x00" * 1200,
        b"\x80" * 1200,
        os.urandom(3),
        initial()[:1199],
        initial(version=0),
        initial(cid=b"short"),
        initial(cid=b"l" * 21),
        initial(),
        b"\xc0\x00\x00\x00\x01\xff",
    ],
    ids=[f"data {number}" for number in range(12)],
)
def test_garbage_is_counted_and_gets_neither_memory_nor_answer(data: bytes) -> None:
    pair = Pair()
    pair.server.receive(data, CLIENT, 0.0)
    pair.run(1)
    statistics = pair.server.statistics()
    assert statistics.garbage + statistics.unknown_connection == 1
    assert statistics.links == 0
    assert pair.ports[SERVER].sent == []
    assert pair.server._routes == {}


@given(data=st.binary(max_size=64), first=st.integers(0x40, 0xFF), pad=st.booleans())
@settings(deadline=None, max_examples=200)
def test_no_datagram_raises(data: bytes, first: int, pad: bool) -> None:
    pair = Pair()
    datagram = bytes([first]) + data
    pair.server.receive(datagram.ljust(1200, b"\0") if pad else datagram, CLIENT, 0.0)
    pair.server.settle(0.0)
    pair.server.flush(0.0)
    assert pair.server.statistics().links == 0


def test_mangled_datagrams_of_a_live_connection_harm_nothing() -> None:
    rng = Random(3)
    pair = Pair()
    link, client, _, server = pair.connect()
    before = pair.ports[CLIENT].sent[-1][0]
    for _ in range(300):
        mangled = bytearray(before)
        mangled[rng.randrange(9, len(mangled))] ^= rng.randrange(1, 256)
        pair.server.receive(bytes(mangled), CLIENT, pair.now)
    stream = link.open_stream()
    link.send(stream, b"still here", end=True)
    pair.run(0.2)
    assert server.received[stream] == b"still here"
    assert client.closed is None


def test_an_unknown_version_is_answered_with_ours_and_nothing_is_kept() -> None:
    pair = Pair()
    pair.server.receive(initial(version=0xBABABABA), CLIENT, 0.0)
    [(answer, destination)] = pair.ports[SERVER].sent
    assert destination == CLIENT
    assert answer[0] & 0xC0 == 0xC0
    assert answer[1:5] == bytes(4)
    assert answer[5:23] == bytes([8]) + b"s" * 8 + bytes([8]) + b"c" * 8
    assert answer[23:] == b"\x00\x00\x00\x01"
    assert pair.server.statistics().unknown_version == 1
    assert pair.server._routes == {}


def test_a_small_datagram_of_an_unknown_version_gets_no_answer() -> None:
    pair = Pair()
    pair.server.receive(initial(version=0xBABABABA)[:1199], CLIENT, 0.0)
    assert pair.ports[SERVER].sent == []
