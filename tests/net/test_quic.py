from __future__ import annotations

from random import Random

import pytest
import trio
from _quic_pair import CLIENT, LATENCY, SERVER, Pair, Recorder, security
from trio.testing import MockClock

from rpcnet._net.addresses import Address
from rpcnet._net.memory import MemoryNetwork, MemoryPort
from rpcnet._net.quic import (
    CLOSE_HANDSHAKE_TIMEOUT,
    CloseKind,
    LinkClosed,
    QuicEndpoint,
    QuicLink,
    StreamsExhausted,
)
from rpcnet.config import RpcConfig
from rpcnet.testing._run import _deterministic_scheduling

BYE = 0x100


def test_both_sides_are_ready_with_the_verified_name_of_the_other() -> None:
    link, client, server_link, server = Pair().connect()
    assert client.log == [("ready", "b")]
    assert server.log == [("ready", "a")]
    assert link.is_client
    assert not server_link.is_client
    assert link.address == SERVER
    assert server_link.address == CLIENT


def test_the_dialler_is_ready_after_one_round_trip() -> None:
    pair = Pair()
    _, recorder = pair.dial()
    pair.run(2 * LATENCY + 1e-6)
    assert recorder.kinds == ["ready"]


def test_bytes_arrive_in_order_with_their_end_in_both_directions() -> None:
    pair = Pair()
    link, client, server_link, server = pair.connect()
    blob = Random(1).randbytes(300_000)
    stream = link.open_stream()
    for start in range(0, len(blob), 50_000):
        link.send(stream, blob[start : start + 50_000])
    link.send(stream, b"", end=True)
    pair.run(2)
    assert server.received[stream] == blob
    assert server.ended[stream]
    server_link.send(stream, blob[::-1], end=True)
    pair.run(2)
    assert client.received[stream] == blob[::-1]
    assert client.ended[stream]


def test_large_datagrams_are_used_where_the_port_says_so() -> None:
    pair = Pair(max_bytes=8900)
    link, _, _, server = pair.connect()
    stream = link.open_stream()
    link.send(stream, bytes(100_000), end=True)
    pair.run(1)
    assert server.received[stream] == bytes(100_000)
    assert max(size for _, _, size in pair.trace) == 8900


def test_no_datagram_is_larger_than_the_port_says() -> None:
    pair = Pair()
    link, _, _, _ = pair.connect()
    link.send(link.open_stream(), bytes(100_000), end=True)
    pair.run(1)
    assert max(size for _, _, size in pair.trace) == 1200


def test_nothing_is_lost_over_a_lossy_wire() -> None:
    rng = Random(7)
    pair = Pair(drop=lambda *_: rng.random() < 0.2)
    link, _recorder = pair.dial()
    pair.run(4)
    stream = link.open_stream()
    link.send(stream, b"z" * 50_000, end=True)
    pair.run(60)
    assert pair.accepted[0].received[stream] == b"z" * 50_000


def test_a_burst_of_writes_shares_datagrams() -> None:
    pair = Pair()
    link, _, _, server = pair.connect()
    stream = link.open_stream()
    before = len(pair.trace)
    for index in range(100):
        link.send(stream, b"%08d" % index)
    pair.client.flush(pair.now)
    assert len(pair.trace) - before == 1
    pair.run(0.1)
    assert server.received[stream] == b"".join(b"%08d" % index for index in range(100))


def test_on_dirty_is_called_once_until_the_next_flush() -> None:
    pair = Pair()
    link, _, _, _ = pair.connect()
    calls: list[None] = []
    pair.client.on_dirty = lambda: calls.append(None)
    stream = link.open_stream()
    link.send(stream, b"1")
    link.send(stream, b"2")
    assert len(calls) == 1
    pair.client.flush(pair.now)
    link.send(stream, b"3")
    assert len(calls) == 2


def test_buffered_bytes_count_what_is_not_acknowledged() -> None:
    pair = Pair()
    link, client, _, _ = pair.connect()
    stream = link.open_stream()
    assert link.buffered_bytes == 0
    link.send(stream, bytes(5000))
    link.send(stream, bytes(3000))
    assert link.buffered_bytes == 8000
    before = client.progress
    pair.drop = lambda *_: True
    pair.run(0.05)
    assert link.buffered_bytes == 8000
    assert client.progress == before
    pair.drop = None
    pair.run(2)
    assert link.buffered_bytes == 0
    assert client.progress > before


def test_a_reset_frees_what_was_buffered_and_the_peer_hears_its_code() -> None:
    pair = Pair()
    link, client, server_link, server = pair.connect()
    stream = link.open_stream()
    link.send(stream, b"begin")
    pair.run(0.1)
    pair.drop = lambda *_: True
    link.send(stream, bytes(1_000_000))
    pair.run(0.01)
    link.reset(stream, 77)
    assert link.buffered_bytes == 0
    pair.drop = None
    pair.run(1)
    assert server.log[-1] == ("reset", stream, 77)
    server_link.send(stream, b"the other half still works", end=True)
    pair.run(1)
    assert client.received[stream] == b"the other half still works"
    assert link.statistics().open_streams == 0


def test_stop_reaches_the_sender_and_frees_what_it_buffered() -> None:
    pair = Pair()
    link, _, server_link, server = pair.connect()
    stream = link.open_stream()
    link.send(stream, bytes(2_000_000))
    pair.run(0.01)
    server_link.stop(stream, 9)
    pair.run(0.1)
    assert link.buffered_bytes == 0
    assert server.log[-1] == ("reset", stream, 9)


def test_stop_is_heard_with_its_code() -> None:
    pair = Pair()
    link, client, server_link, _ = pair.connect()
    stream = link.open_stream()
    link.send(stream, b"x")
    pair.run(0.1)
    server_link.stop(stream, 5)
    pair.run(0.1)
    assert client.log[-1] == ("stopped", stream, 5)
    link.send(stream, b"dropped without a word")
    assert link.buffered_bytes == 0


def test_verbs_on_streams_that_are_gone_do_nothing() -> None:
    pair = Pair()
    link, _, server_link, _ = pair.connect()
    stream = link.open_stream()
    link.send(stream, b"x", end=True)
    pair.run(0.1)
    server_link.send(stream, b"y", end=True)
    pair.run(0.1)
    for side in (link, server_link):
        side.send(stream, b"late")
        side.reset(stream, 1)
        side.stop(stream, 1)
        side.send(4000, b"never opened")
    pair.run(0.1)
    assert link.is_ready
    assert server_link.is_ready


def test_what_is_written_after_the_end_is_dropped_whether_or_not_the_end_was_acknowledged() -> None:
    pair = Pair()
    link, _, server_link, server = pair.connect()
    stream = link.open_stream()
    for _ in range(3):
        link.send(stream, b"last", end=True)
        link.send(stream, b"late")
        assert link.buffered_at_most <= 4
        pair.run(0.1)
    assert server.received == {stream: b"last"}
    server_link.send(stream, b"answer", end=True)
    pair.run(0.1)
    assert (link.statistics().open_streams, link.is_ready) == (0, True)


def test_no_more_streams_are_opened_than_the_peer_allows_until_some_end() -> None:
    pair = Pair(config=RpcConfig(max_calls_per_connection=200))
    link, _, server_link, _ = pair.connect()
    streams = [link.open_stream() for _ in range(328)]
    with pytest.raises(StreamsExhausted):
        link.open_stream()
    for stream in streams:
        link.send(stream, b"q", end=True)
    pair.run(0.5)
    for stream in streams:
        server_link.send(stream, b"a", end=True)
    pair.run(0.5)
    assert link.open_stream() == 4 * 328


def test_streams_may_be_used_in_any_order_after_opening() -> None:
    pair = Pair()
    link, _, _, server = pair.connect()
    first, second = link.open_stream(), link.open_stream()
    link.send(second, b"2", end=True)
    pair.run(0.1)
    link.send(first, b"1", end=True)
    pair.run(0.1)
    assert server.received == {first: b"1", second: b"2"}


def test_each_side_opens_streams_of_its_own_numbers() -> None:
    pair = Pair()
    link, client, server_link, server = pair.connect()
    assert [link.open_stream(), link.open_stream(unidirectional=True)] == [0, 2]
    assert [server_link.open_stream(), server_link.open_stream(unidirectional=True)] == [1, 3]
    link.send(2, b"one way", end=True)
    server_link.send(3, b"the other", end=True)
    pair.run(0.1)
    assert server.received[2] == b"one way"
    assert client.received[3] == b"the other"


def test_a_link_in_handshake_opens_no_streams() -> None:
    pair = Pair()
    link, _ = pair.dial()
    with pytest.raises(StreamsExhausted):
        link.open_stream()


def test_a_link_that_is_given_up_as_its_handshake_completes_never_begins() -> None:
    pair = Pair()
    link, client = pair.dial()
    pair.run(LATENCY * 1.5)
    pair.now = LATENCY * 2
    pair._deliver()
    link.close(BYE, "given up")
    pair.run(1)
    assert client.kinds == ["closed"]
    assert pair.client.statistics().established == 0


def test_a_close_carries_code_and_message_to_the_other_side() -> None:
    pair = Pair()
    link, client, server_link, server = pair.connect()
    link.close(BYE, "enough")
    pair.run(1)
    assert client.closed == LinkClosed(BYE, "enough", by_peer=False, kind=CloseKind.CLOSED)
    assert server.closed == LinkClosed(BYE, "enough", by_peer=True, kind=CloseKind.CLOSED)
    assert link.closed == client.closed
    assert not server_link.is_ready


def test_what_was_written_before_a_close_is_sent() -> None:
    pair = Pair()
    link, _, _, server = pair.connect()
    stream = link.open_stream()
    link.send(stream, b"last words")
    link.close(BYE, "")
    pair.run(0.1)
    assert server.log[1:] == [("data", stream, b"last words", False), ("closed", CloseKind.CLOSED)]


def test_the_peer_hears_of_a_close_at_once() -> None:
    pair = Pair()
    link, client, _, server = pair.connect()
    link.close(BYE, "x")
    pair.run(LATENCY * 1.01)
    assert client.closed is not None
    assert server.closed is not None


def test_nothing_is_heard_after_a_close_within_a_callback() -> None:
    pair = Pair()
    link, _, _, server = pair.connect()
    server.on_data = lambda served, *_: served.close(BYE, "one is enough")
    for stream in [link.open_stream(), link.open_stream(), link.open_stream()]:
        link.send(stream, b"x", end=True)
    pair.run(0.1)
    assert server.kinds == ["ready", "data", "closed"]


def test_a_lost_close_is_repeated_to_a_peer_that_goes_on() -> None:
    pair = Pair()
    link, _, server_link, server = pair.connect()
    pair.drop = lambda data, source, destination: source == CLIENT
    link.close(BYE, "did you hear")
    pair.run(0.001)
    pair.drop = None
    server_link.send(server_link.open_stream(), b"are you there")
    pair.run(1)
    assert server.closed is not None
    assert server.closed.kind is CloseKind.CLOSED
    assert server.closed.message == "did you hear"


def test_goodbyes_are_bounded() -> None:
    pair = Pair()
    link, _, server_link, _ = pair.connect()
    pair.drop = lambda data, source, destination: source == CLIENT
    link.close(BYE, "")
    pair.client.flush(pair.now)
    before = len(pair.ports[CLIENT].sent)
    for _ in range(50):
        server_link.ping()
        pair.server.flush(pair.now)
    pair.run(LATENCY * 2)
    assert len(pair.ports[CLIENT].sent) - before <= 8


def test_an_end_leaves_nothing_behind() -> None:
    pair = Pair()
    for _ in range(20):
        link, recorder = pair.dial()
        pair.run(0.05)
        link.close(BYE, "")
        pair.run(2)
        assert recorder.closed is not None
    for end in (pair.client, pair.server):
        assert end.statistics().links == 0
        assert end.statistics().accepted == 0
        assert end._routes == {}
        assert end.next_timer() is None


def test_silence_ends_a_link_as_idle() -> None:
    pair = Pair(config=RpcConfig(idle_timeout=5))
    _, client, _, server = pair.connect()
    pair.run(20)
    for recorder in (client, server):
        assert recorder.closed is not None
        assert recorder.closed.kind is CloseKind.IDLE


def test_pings_keep_a_link_from_being_idle() -> None:
    pair = Pair(config=RpcConfig(idle_timeout=5))
    link, client, _, _ = pair.connect()
    for _ in range(6):
        pair.run(3)
        link.ping()
    assert client.closed is None


def test_a_peer_that_falls_silent_while_something_waits_is_lost() -> None:
    pair = Pair(config=RpcConfig(idle_timeout=5))
    link, client, _, server = pair.connect()
    pair.drop = lambda *_: True
    link.send(link.open_stream(), b"anybody?")
    pair.run(30)
    assert client.closed is not None
    assert client.closed.kind is CloseKind.LOST
    assert server.closed is not None
    assert server.closed.kind is CloseKind.IDLE


def test_a_dial_that_nobody_answers_fails_after_connect_timeout() -> None:
    pair = Pair(config=RpcConfig(connect_timeout=3))
    _, recorder = pair.dial(address=("10.0.0.99", 7946))
    pair.run(2.9)
    assert recorder.kinds == []
    pair.run(0.2)
    assert recorder.closed is not None
    assert recorder.closed.kind is CloseKind.HANDSHAKE_FAILED
    assert recorder.closed.code == CLOSE_HANDSHAKE_TIMEOUT
    assert recorder.closed.message == "no handshake with 10.0.0.99:7946 within 3 s"
    assert recorder.kinds == ["closed"]


def test_a_half_open_handshake_is_given_up_after_connect_timeout() -> None:
    pair = Pair(config=RpcConfig(connect_timeout=3))
    pair.drop = lambda data, source, destination: source == SERVER
    pair.dial()
    pair.run(0.01)
    assert pair.server.statistics().handshaking == 1
    pair.run(10)
    assert pair.server.statistics().handshaking == 0
    assert pair.server.statistics().links == 0
    assert pair.server.statistics().handshakes_failed >= 1
    assert pair.accepted == []


def test_a_node_may_dial_itself() -> None:
    pair = Pair()
    link, recorder = pair.dial(expected_name="a", address=CLIENT)
    pair.run(0.05)
    assert recorder.log == [("ready", "a")]
    stream = link.open_stream()
    link.send(stream, b"me", end=True)
    pair.run(0.05)
    assert pair.accepted[0].received == {stream: b"me"}


def test_timers_of_idle_links_cost_nothing() -> None:
    pair = Pair()
    links = [pair.dial()[0] for _ in range(50)]
    pair.run(1)
    stream = links[0].open_stream()
    for _ in range(2000):
        links[0].send(stream, b"tick")
        pair.run(0.005)
    assert len(pair.client._timers) < 64 + 4 * 50 + 2


def test_closing_an_endpoint_says_goodbye_to_everybody_and_takes_nobody_new() -> None:
    pair = Pair()
    _, client, _, server = pair.connect()
    pair.server.close(pair.now, BYE, "going")
    assert server.closed is not None
    pair.run(0.1)
    assert client.closed == LinkClosed(BYE, "going", by_peer=True, kind=CloseKind.CLOSED)
    _, late = pair.dial()
    pair.run(6)
    assert late.kinds == ["closed"]


def test_a_peer_that_moves_keeps_its_connection() -> None:
    pair = Pair()
    link, _, server_link, server = pair.connect()
    moved: Address = ("10.0.0.1", 9999)
    stream = link.open_stream()
    link.send(stream, b"from elsewhere")
    pair.client.flush(pair.now)
    pair.server.receive(pair.ports[CLIENT].sent[-1][0], moved, pair.now)
    pair.server.settle(pair.now)
    assert server.received[stream] == b"from elsewhere"
    assert server_link.address == moved


def lossy_run(seed: int) -> list[tuple[float, str, int]]:
    rng = Random(seed)
    pair = Pair(drop=lambda *_: rng.random() < 0.1)

    def echo(link: QuicLink, stream: int, data: bytes, end: bool) -> None:
        link.send(stream, data * 2, end)

    def prepare(recorder: Recorder) -> None:
        recorder.on_data = echo

    pair.on_accept = prepare
    links = [pair.dial()[0] for _ in range(3)]
    pair.run(3)
    for link in links:
        if link.is_ready:
            for size in range(10):
                link.send(link.open_stream(), bytes(700 * size + 5), end=True)
    pair.run(3)
    return pair.trace


def test_the_same_seed_gives_the_same_datagrams_at_the_same_times() -> None:
    first = lossy_run(5)
    assert len(first) > 200
    assert all(lossy_run(5) == first for _ in range(3))
    assert lossy_run(6) != first


async def drive(endpoint: QuicEndpoint, port: MemoryPort, trace: list[tuple[float, int]]) -> None:
    """Serve one endpoint on one simulated port, as simply as can be."""
    while True:
        timer = endpoint.next_timer()
        with trio.CancelScope(deadline=float("inf") if timer is None else timer):
            await port.wait_readable()
        now = trio.current_time()
        while (got := port.receive()) is not None:
            trace.append((now, len(got[0])))
            endpoint.receive(*got, now)
        endpoint.settle(now)
        endpoint.on_timer(now)
        endpoint.flush(now)


def simulated_run() -> tuple[list[tuple[float, int]], list[tuple[float, int]], bytes]:
    traces: tuple[list[tuple[float, int]], list[tuple[float, int]]] = ([], [])
    server = Recorder()

    async def main() -> None:
        network = MemoryNetwork(Random(1), latency=(0.003, 0.003))
        async with trio.open_nursery() as nursery:
            await nursery.start(network.run)
            ends = []
            for address, name, trace in ((CLIENT, "a", traces[0]), (SERVER, "b", traces[1])):
                port = network.bind(address)
                ends.append(QuicEndpoint(port, security(), name, RpcConfig(), lambda link: server))
                nursery.start_soon(drive, ends[-1], port, trace)
            link = ends[0].dial(SERVER, Recorder(), expected_name="b", now=trio.current_time())
            ends[0].flush(trio.current_time())
            await trio.sleep(0.1)
            for size in (10, 5000, 100_000):
                link.send(link.open_stream(), bytes(size), end=True)
            ends[0].flush(trio.current_time())
            await trio.sleep(5)
            nursery.cancel_scope.cancel()

    with _deterministic_scheduling(1):
        trio.run(main, clock=MockClock(autojump_threshold=0))
    return *traces, b"".join(server.received.values())


def test_a_run_over_the_simulated_network_repeats_datagram_by_datagram() -> None:
    first = simulated_run()
    assert first[2] == bytes(105_010)
    assert len(first[1]) > 80
    assert simulated_run() == first
