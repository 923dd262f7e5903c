"""Clients that have the secret and grant, read, acknowledge or send as no client does: what a node holds is bounded.

Each scenario ends with the checks of ``_taps.play``. The map from what bad input gets to its tests is in
``test_hostile_streams.py``.
"""

from __future__ import annotations

import pytest
import trio
from _raw_peer import Connection
from _taps import CALL, LANE, Scene, Taps, call, credit, engine_of, item, play

import rpcnet
from rpcnet._core.calls import status_error_of
from rpcnet._core.framing import FrameKind
from rpcnet._net.environment import current_environment
from rpcnet._net.stream_values import BATCH

MIB = 1 << 20
SMALL = rpcnet.RpcConfig(
    stream_window_bytes=64 << 10, send_watermark_bytes=128 << 10, max_request_bytes=128 << 10, max_message_bytes=100_000
)


def test_a_client_that_grants_no_credit_is_sent_what_it_said_and_one_value() -> None:
    async def scenario(scene: Scene) -> None:
        connection = await scene.connect(stream_window_bytes=10_000)
        stream = connection.open(CALL + call(1, "pour", 3_000))
        await trio.sleep(30)
        items = [frame for frame in connection.frames(stream) if frame.kind == FrameKind.ITEM]
        assert len(items) == 4  # 3,067 each
        assert scene.taps.made == 5
        assert scene.session.link.buffered_bytes == 0
        connection.send(stream, credit(3_067))
        await trio.sleep(1)
        assert scene.taps.made == 6
        connection.reset(stream)

    play(scenario)


@pytest.mark.parametrize(("rpc", "size"), [(rpcnet.RpcConfig(), 1_000_000), (SMALL, 90_000), (SMALL, 100)])
def test_a_client_that_grants_all_there_is_and_reads_nothing_costs_the_watermark_and_little_more(
    rpc: rpcnet.RpcConfig, size: int
) -> None:
    async def scenario(scene: Scene) -> None:
        connection = await scene.connect(stream_window_bytes=1, max_message_bytes=MIB)
        streams = [connection.open(CALL + call(number, "pour", size)) for number in range(1, 5)]
        await trio.sleep(0.1)
        link = scene.session.link
        assert [len(connection.frames(stream)) for stream in streams] == [2] * 4  # accepted, and one value
        engine_of(connection.link)._local_max_data.used = -(1 << 40)  # it never lets QUIC grant more
        engine_of(link)._remote_max_data = engine_of(link)._remote_max_data_used + 20_000
        for _ in range(100):
            for number, stream in enumerate(streams, 1):
                connection.send(stream, credit(0xFFFF_FFFF, number))
        await trio.sleep(15)
        assert rpc.send_watermark_bytes < link.buffered_bytes
        assert link.buffered_bytes <= rpc.send_watermark_bytes + 4 * min(size + 100, MIB) + 4 * BATCH * min(
            size + 20, 16 << 10
        )
        made = scene.taps.made
        await trio.sleep(20)
        assert scene.taps.made == made
        assert await scene.told(connection) == "the peer takes nothing of what is sent"

    play(scenario, rpc=rpc)


def test_a_client_that_acknowledges_nothing_is_let_go() -> None:
    async def scenario(scene: Scene) -> None:
        connection = await scene.connect()
        connection.open(LANE + call(1, "hold", b"", 1.0))
        await trio.sleep(0.5)
        network = current_environment().network  # type: ignore[attr-defined]
        network.block(scene.node.host, "10.7.7.7")
        for _ in range(30):
            await trio.sleep(5)
            assert connection.link is not None
            connection.link.ping()
            connection.pump.flush()
            if not scene.sessions():
                break
        assert scene.sessions() == []
        assert trio.current_time() < 120

    play(scenario)


@pytest.mark.parametrize("last_word", ["crash", "flood"])
def test_a_client_that_vanishes_in_mid_stream_is_let_go_after_the_idle_timeout(last_word: str) -> None:
    async def scenario(scene: Scene) -> None:
        connection = await scene.connect()
        stream = connection.open(CALL + call(1, "drink", 0.5))
        connection.open(CALL + call(2, "pour", 1000))
        await trio.sleep(0.2)
        if last_word == "flood":
            connection.send(stream, item(bytes(1000)) * 200)
            await trio.sleep(0.5)
        network = current_environment().network  # type: ignore[attr-defined]
        network.partition(["10.7.7.7"], [scene.node.host])
        await trio.sleep(1)
        assert scene.session.calls_in_flight == 2
        await trio.sleep(85)  # it is counted from the last sign that was asked for
        assert scene.sessions() == []
        assert sorted(scene.taps.ended) == ["drink", "pour"]

    play(scenario)


def test_a_client_that_floods_a_slow_handler_makes_the_node_hold_the_window_and_one_value() -> None:
    async def scenario(scene: Scene) -> None:
        connection = await scene.connect()
        stream = connection.open(CALL + call(1, "drink", 1.0))
        await trio.sleep(0.1)
        most = sent = 0
        for _ in range(100):
            granted = sum(frame.b for frame in connection.frames(stream) if frame.kind == FrameKind.CREDIT)
            while sent < granted:  # as far as the rules allow
                size = 99_000 if sent + 5_000 > granted else 4_000
                connection.send(stream, item(bytes(size)))
                sent += size + 5 + 64
            await trio.sleep(0.5)
            (inbound,) = [each for each in scene.session._streams.values() if each.channel is not None]
            assert inbound.channel is not None
            most = max(most, inbound.channel.unread_bytes)
        assert SMALL.stream_window_bytes < most <= SMALL.stream_window_bytes + SMALL.max_message_bytes + 64
        connection.reset(stream)

    play(scenario, rpc=SMALL)


# --- large requests


def test_large_requests_beyond_what_hello_allows_are_refused_and_a_good_client_waits_its_turn() -> None:
    async def scenario(scene: Scene) -> None:
        connection = await scene.connect()
        streams = []
        for number in range(1, 6):
            streams.append(connection.open(CALL + call(number, "hold", bytes(50_000), 5.0), end=True))
            await trio.sleep(0.2)
        answers = [connection.frames(stream) for stream in streams]
        assert [len(frames) for frames in answers] == [0, 0, 1, 1, 1]
        message = "more than 131072 bytes of requests in flight on one connection"
        for (refused,) in answers[2:]:
            assert status_error_of(refused).message == message
            assert status_error_of(refused).never_ran
        results: list[int] = []

        async def ask() -> None:
            results.append(await scene.friend.node.stub(Taps).hold(bytes(50_000), 1.0))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(ask)
        assert results == [50_000] * 8
        await trio.sleep(2)
        assert scene.session._request_bytes == 0

    play(scenario, rpc=SMALL)


def test_values_of_streams_take_no_room_from_large_requests() -> None:
    async def scenario(scene: Scene) -> None:
        connection = await scene.connect()
        streams = [connection.open(CALL + call(number, "drink", 0.0)) for number in (1, 2)]
        await trio.sleep(0.1)
        for number, stream in enumerate(streams, 1):
            connection.send(stream, item(bytes(99_000), number)[:90_000])
        await trio.sleep(0.5)
        held = connection.open(CALL + call(3, "hold", bytes(90_000), 1.0), end=True)
        await trio.sleep(2)
        assert [frame.kind for frame in connection.frames(held)] == [FrameKind.RESULT]
        for stream in streams:
            connection.reset(stream)
        await trio.sleep(0.1)
        assert scene.session._request_bytes == 0

    play(scenario, rpc=SMALL)


def send_ahead(connection: Connection, stream_id: int, offset: int) -> None:
    """Send one byte of a stream at an offset, as if all before it had been sent and taken."""
    sender = engine_of(connection.link)._streams[stream_id].sender
    sender._buffer_start = sender._buffer_stop = sender._unsent = sender.highest_offset = offset
    connection.send(stream_id, b"x")


def test_a_client_that_sends_far_ahead_of_what_is_missing_costs_a_bounded_number_of_bytes() -> None:
    """The engine sets memory aside for what is missing: a packet of forty bytes could cost all there is."""

    async def scenario(scene: Scene) -> None:
        window = 8 * MIB
        for name in ("one stream", "many streams"):
            connection = await scene.connect()
            await trio.sleep(0.1)
            table = engine_of(scene.session.link)._streams
            stream, offset, most = connection.open(CALL), window // 2, 0
            for _ in range(50):
                send_ahead(connection, stream, offset - 2)
                await trio.sleep(0.05)
                most = max(most, sum(len(each.receiver._buffer) for each in table.values()))
                if connection.closed is not None:
                    break
                if name == "one stream":
                    offset += offset // 2
                else:
                    stream = connection.open(CALL)
            assert await scene.told(connection) == "too many bytes out of order", name
            assert 2 * window <= most <= 4 * window, name

    play(scenario)
