"""The short ways of our engine: what they share with the inherited code, and that they are taken."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from _engine_wire import LATENCY, SERVER, Wire, check_accounts
from _quic_pair import SERVER as PAIR_SERVER
from _quic_pair import EarlyRecorder, Pair
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.stream import QuicStream, QuicStreamReceiver, QuicStreamSender
from aioquic.tls import Epoch

import rpcnet._net.quic_fast
from rpcnet._net.quic_engine import Engine
from rpcnet._net.quic_fast_packets import PacketKeys
from rpcnet._net.quic_fast_recovery import Recovery
from rpcnet._net.quic_fast_streams import StreamSender

MEGABYTE = 1 << 20
SOURCES = sorted(Path(rpcnet._net.quic_fast.__file__).parent.glob("quic_fast*.py"))


@contextmanager
def long_ways(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count how often our engines leave a datagram, or a flush, to the inherited code."""
    taken: Counter[str] = Counter()

    def count(name: str) -> None:
        inherited = getattr(QuicConnection, name)

        def counted(self: QuicConnection, *args: object, **named: object) -> object:
            taken[name] += isinstance(self, Engine)
            return inherited(self, *args, **named)

        monkeypatch.setattr(QuicConnection, name, counted)

    with monkeypatch.context():
        for name in ("receive_datagram", "datagrams_to_send", "_payload_received"):
            count(name)
        yield taken


def engines(wire: Wire) -> tuple[Engine, Engine]:
    client, server = wire.ends
    assert isinstance(client, Engine)
    assert isinstance(server, Engine)
    return client, server


def send(wire: Wire, side: int, data: bytes, *, end: bool = True) -> int:
    """Open a one-way stream, write to it, and return its number."""
    stream_id = wire.ends[side].get_next_available_stream_id(is_unidirectional=True)
    wire.ends[side].send_stream_data(stream_id, data, end)
    return stream_id


@pytest.mark.parametrize("ours", ["client", "server", "both"])
def test_a_large_transfer_takes_the_short_ways(ours: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(ours, window_bytes=8 << 20)
    data = Random(1).randbytes(MEGABYTE)
    with long_ways(monkeypatch) as taken:
        streams = [send(wire, side, data) for side in (0, 1)]
        wire.run(5)
    assert bytes(wire.heard[1][streams[0]].data) == data
    assert bytes(wire.heard[0][streams[1]].data) == data
    assert wire.count > 1500
    assert taken["receive_datagram"] == 0
    assert taken["datagrams_to_send"] == 0
    assert taken["_payload_received"] == 0


def test_a_handshake_takes_small_datagrams_also_where_large_ones_pass() -> None:
    wire = Wire(max_datagram_bytes=16383)
    sent = [end._network_paths[0].bytes_sent for end in wire.ends]
    assert max(sent) < 4 * 1200
    send(wire, 0, bytes(MEGABYTE))
    before = wire.count
    wire.run(1.0)
    assert wire.count - before < MEGABYTE // 1200, "larger ones are used as soon as it is over"


def test_a_question_and_its_answer_take_the_short_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire()
    client, server = engines(wire)
    stream_id = client.open_stream(unidirectional=False)
    assert stream_id is not None
    with long_ways(monkeypatch) as taken:
        before = wire.count
        for _ in range(50):
            client.write(stream_id, b"?", end=False)
            wire.run(LATENCY * 1.5)
            server.write(stream_id, b"!", end=False)
            wire.run(LATENCY * 1.5)
        assert wire.count - before == 100, "more than a datagram each way"
    assert wire.heard[1][stream_id].data == b"?" * 50
    assert wire.heard[0][stream_id].data == b"!" * 50
    assert sum(taken.values()) == 0


@pytest.mark.parametrize("updater", [0, 1])
def test_the_short_ways_are_taken_again_after_a_change_of_keys(updater: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire("server" if updater == 0 else "client")
    wire.ends[updater].request_key_update()
    send(wire, updater, b"with new keys")
    wire.run(0.1)
    assert all(end._cryptos[Epoch.ONE_RTT].recv.key_phase == 1 for end in wire.ends)
    with long_ways(monkeypatch) as taken:
        streams = [send(wire, side, bytes(50_000)) for side in (0, 1)]
        wire.run(1)
    assert len(wire.heard[1][streams[0]].data) == len(wire.heard[0][streams[1]].data) == 50_000
    assert sum(taken.values()) == 0


def test_our_own_change_of_keys_is_understood() -> None:
    wire = Wire("client")
    wire.client.request_key_update()
    stream_id = send(wire, 0, b"with new keys")
    wire.run(0.1)
    assert wire.heard[1][stream_id].data == b"with new keys"
    assert wire.server._cryptos[Epoch.ONE_RTT].recv.key_phase == 1


def test_the_short_ways_are_taken_again_after_the_client_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire()
    wire.client_address = ("10.0.0.1", 9999)
    send(wire, 0, b"from elsewhere")
    wire.run(0.5)
    assert wire.server.get_peer_address() == wire.client_address
    with long_ways(monkeypatch) as taken:
        streams = [send(wire, side, bytes(50_000)) for side in (0, 1)]
        wire.run(1)
    assert len(wire.heard[1][streams[0]].data) == len(wire.heard[0][streams[1]].data) == 50_000
    assert sum(taken.values()) == 0


@pytest.mark.parametrize("accepts_early", [True, False])
def test_a_connection_that_began_early_takes_the_short_ways(
    accepts_early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(accepts_early=accepts_early)
    first, *_ = pair.connect()
    first.close(0x100, "")
    pair.run(1)
    recorder = EarlyRecorder(on_early=lambda link: link.send(link.open_stream(), bytes(5000), end=True))
    link = pair.client.dial(PAIR_SERVER, recorder, expected_name="b", now=pair.now, early=recorder)
    pair.run(0.5)
    assert link.is_ready
    with long_ways(monkeypatch) as taken:
        stream = link.open_stream()
        link.send(stream, bytes(100_000), end=True)
        pair.run(1)
    assert len(pair.accepted[-1].received[stream]) == 100_000
    assert sum(taken.values()) == 0


def test_a_datagram_that_comes_twice_counts_once() -> None:
    wire = Wire(duplication=1.0)
    stream_id = send(wire, 0, bytes(20_000))
    wire.run(1)
    assert len(wire.heard[1][stream_id].data) == 20_000
    assert wire.heard[1][stream_id].ended


def test_a_datagram_that_comes_again_asks_for_no_second_acknowledgement() -> None:
    wire = Wire()
    client, server = engines(wire)
    send(wire, 0, b"x")
    [(data, _)] = client.datagrams_to_send(wire.now)
    server.receive_datagram(data, wire.client_address, wire.now)
    assert len(server.datagrams_to_send(wire.now + 0.01)) == 1
    server.receive_datagram(data, wire.client_address, wire.now + 0.01)
    assert not server.owes_acknowledgement(wire.now + 1)
    assert server.datagrams_to_send(wire.now + 1) == []


def test_a_small_stream_does_not_wait_for_each_of_many_large_ones() -> None:
    wire = Wire(window_bytes=8 << 20)
    for _ in range(100):
        send(wire, 0, bytes(MEGABYTE // 8))
    wire.run(LATENCY / 2)
    small = send(wire, 0, b"small")
    while small not in wire.heard[1]:
        wire.run(0.001)
    assert wire.heard[1][small].ended
    assert sum(len(heard.data) for heard in wire.heard[1].values()) < 40_000


def test_a_stream_that_never_rests_leaves_room_for_a_large_one() -> None:
    wire = Wire(window_bytes=8 << 20)
    client, _ = engines(wire)
    large = send(wire, 0, bytes(MEGABYTE))
    chatty = client.open_stream(unidirectional=False)
    assert chatty is not None
    for _ in range(2000):
        client.write(chatty, bytes(1100), end=False)
        wire.run(0.001)
    wire.run(0.01)
    assert len(wire.heard[1][large].data) > 200_000
    assert len(wire.heard[1][chatty].data) > 200_000


def test_large_streams_share_the_way_evenly() -> None:
    wire = Wire(window_bytes=8 << 20)
    streams = [send(wire, 0, bytes(100_000)) for _ in range(10)]
    while sum(len(wire.heard[1][stream_id].data) for stream_id in streams if stream_id in wire.heard[1]) < 500_000:
        wire.run(0.001)
    sizes = [len(wire.heard[1][stream_id].data) for stream_id in streams]
    assert max(sizes) - min(sizes) <= 3 * 1200


def test_streams_that_have_ended_are_put_away_without_a_flush() -> None:
    wire = Wire()
    client, server = engines(wire)
    for _ in range(20):
        send(wire, 0, b"x")
    wire.run(0.1)
    assert client.open_streams == server.open_streams == 0


def test_a_side_that_only_receives_keeps_no_endless_list_of_its_acknowledgements() -> None:
    wire = Wire(window_bytes=8 << 20)
    send(wire, 0, bytes(4 * MEGABYTE))
    longest = 0

    def look(wire: Wire) -> None:
        nonlocal longest
        longest = max(longest, len(wire.server._spaces[Epoch.ONE_RTT].sent_packets))

    wire.on_step = look
    wire.run(20)
    assert wire.count > 3600
    assert 16 < longest < 100


def test_a_gap_is_acknowledged_at_once() -> None:
    wire = Wire()
    client, server = engines(wire)
    for _ in range(2):
        send(wire, 0, b"x")
        [(data, _)] = client.datagrams_to_send(wire.now)
    server.receive_datagram(data, wire.client_address, wire.now)
    assert server.owes_acknowledgement(wire.now)


def test_what_arrives_in_order_waits_a_little_for_an_answer() -> None:
    wire = Wire()
    client, server = engines(wire)
    send(wire, 0, b"x")
    [(data, _)] = client.datagrams_to_send(wire.now)
    server.receive_datagram(data, wire.client_address, wire.now)
    assert not server.owes_acknowledgement(wire.now)
    assert server.owes_acknowledgement(wire.now + 0.008)


def test_more_bytes_are_granted_only_on_streams_that_received_some() -> None:
    wire = Wire(window_bytes=100_000)
    for _ in range(5):
        send(wire, 0, b"x", end=False)
    large = send(wire, 0, bytes(60_000), end=False)
    wire.run(1)
    granted = {stream_id: stream.max_stream_data_local_sent for stream_id, stream in wire.server._streams.items()}
    assert {stream_id for stream_id, limit in granted.items() if limit != 100_000} == {large}
    assert wire.client._streams[large].max_stream_data_remote == 200_000


def test_a_lost_grant_is_given_again() -> None:
    wire = Wire(window_bytes=100_000)
    large = send(wire, 0, bytes(90_000), end=False)
    wire.run(LATENCY * 20)
    wire.server._streams[large].max_stream_data_local_sent = 0
    wire.server._on_max_stream_data_delivery(QuicDeliveryState.LOST, wire.server._streams[large])
    wire.client._streams[large].max_stream_data_remote = 100_000
    wire.run(0.1)
    assert wire.client._streams[large].max_stream_data_remote == 200_000


def test_a_quiet_connection_has_no_output_and_says_so() -> None:
    wire = Wire()
    wire.run(1)
    for engine in engines(wire):
        assert not engine.has_output
        assert engine.datagrams_to_send(wire.now) == []
        assert engine.paced_until is None


def test_written_bytes_are_output_until_they_are_sent() -> None:
    wire = Wire()
    wire.run(1)
    client, _ = engines(wire)
    send(wire, 0, b"x")
    before = client.has_output
    client.datagrams_to_send(wire.now)
    assert (before, client.has_output) == (True, False)
    assert client.unacknowledged_bytes == 1


def test_a_violation_on_the_short_way_closes_as_it_ever_did() -> None:
    wire = Wire("server", window_bytes=2000)
    stream_id = send(wire, 0, b"", end=False)
    wire.client._remote_max_data = wire.client._streams[stream_id].max_stream_data_remote = MEGABYTE
    wire.client.send_stream_data(stream_id, bytes(5000))
    wire.run(0.1)
    assert isinstance(wire.server, Engine)
    assert wire.server.ended is not None
    assert (wire.server.ended.code, wire.server.ended.message) == (3, "Over stream data limit")


def test_a_blocked_stream_goes_on_when_the_peer_grants_more() -> None:
    wire = Wire(window_bytes=2000)
    data = Random(2).randbytes(200_000)
    stream_id = send(wire, 0, data)
    wire.run(20)
    assert bytes(wire.heard[1][stream_id].data) == data
    assert wire.heard[1][stream_id].ended


def test_nothing_new_is_sent_beyond_the_congestion_window() -> None:
    wire = Wire(window_bytes=8 << 20)
    client, _ = engines(wire)
    send(wire, 0, bytes(MEGABYTE))
    sent = 0
    for _ in range(100):
        sent += sum(len(data) for data, _ in client.datagrams_to_send(wire.now))
        wire.now += 0.001
    assert sent == client.bytes_in_flight <= client.congestion_window
    assert sent > client.congestion_window - 1200


def test_lost_bytes_are_sent_again_before_new_ones() -> None:
    wire = Wire(window_bytes=8 << 20)
    client, _ = engines(wire)
    stream_id = send(wire, 0, bytes(8000), end=False)
    first = client.datagrams_to_send(wire.now)
    while len(first) < 5:
        wire.now += 0.0001
        first += client.datagrams_to_send(wire.now)
    wire.server.receive_datagram(first[-1][0], wire.client_address, wire.now)
    [(acknowledgement, _)] = wire.server.datagrams_to_send(wire.now)
    client.write(stream_id, b"new", end=False)
    client.receive_datagram(acknowledgement, SERVER, wire.now)
    sender = client._streams[stream_id].sender
    assert sender.next_offset == 0
    check_accounts(client)
    wire.run(1)
    assert wire.heard[1][stream_id].data == bytes(8000) + b"new"


# --- private names of the engine


def _private_names() -> set[str]:
    """Return the private names that the short ways use and do not define themselves."""
    used: set[str] = set()
    defined: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                used.add(node.attr)
    defined |= {name for cls in Engine.__mro__ if cls.__module__.startswith("rpcnet") for name in vars(cls)}
    own = {"_table", "_established", "_has_new_ids", "_unsent", "_number", "_owes_waiting", "_turn_of_waiting"}
    own |= {"_lost", "_islands"}
    defined |= {name for cls in (PacketKeys, Recovery, StreamSender) for name in vars(cls) if name != "next_offset"}
    return {name for name in used - defined - own if not name.startswith("__")}


def test_every_private_name_that_the_short_ways_use_exists() -> None:
    wire = Wire("none")
    connection = wire.client
    stream_id = send(wire, 0, b"x", end=False)
    pair, stream = connection._cryptos[Epoch.ONE_RTT], connection._streams[stream_id]
    assert pair.send.aead is not None
    assert pair.send.hp is not None
    space = connection._spaces[Epoch.ONE_RTT]
    objects = [connection, pair, pair.send, pair.send.aead, pair.send.hp, connection._loss, connection._loss._pacer]
    objects += [connection._loss._cc, space, space.ack_queue, stream, stream.sender, stream.receiver]
    names = _private_names()
    assert len(names) > 60
    assert [name for name in sorted(names) if not any(hasattr(thing, name) for thing in objects)] == []


OVERRIDDEN = {
    QuicConnection: (
        *("receive_datagram", "datagrams_to_send", "get_timer", "_initialize", "_replenish_connection_ids"),
        *("_on_new_connection_id_delivery", "_on_max_stream_data_delivery"),
    ),
    QuicStreamSender: (*("next_offset", "write", "get_frame", "on_data_delivery", "reset", "on_reset_delivery"),),
    QuicStreamReceiver: ("handle_frame", "handle_reset", "stop", "on_stop_sending_delivery"),
    QuicStream: ("is_finished",),
}


@pytest.mark.parametrize(("owner", "name"), [(owner, name) for owner, names in OVERRIDDEN.items() for name in names])
def test_what_is_overridden_is_there_to_be_overridden(owner: type, name: str) -> None:
    assert name in vars(owner)
