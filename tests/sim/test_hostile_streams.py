"""Clients that have the secret and do to streams what no client does: it is told, it is bounded, and nothing is left.

Each scenario ends with the same checks (``_taps.play``): a good client was served all the time, every handler is over,
no call and no connection of the hostile peer is left, and no task of the node has failed.

What bad input gets, and the tests that see to it:

===================================================== =====================================================
garbage, truncated, replayed, foreign datagrams       ``test_bad_datagrams.py``, ``e2e/test_bad_input.py``
no certificate, wrong CA, expired, wrong name         ``e2e/test_security.py``, ``net/test_quic_identity.py``
unknown method, wrong arguments                       ``test_calls_that_make_no_sense_are_refused_one_by_one``,
                                                      ``e2e/test_bad_input.py``
a message above the limit                             ``test_a_value_above_the_limit...`` (``test_streams.py``),
                                                      ``test_a_request_above_the_limit...`` (``e2e``)
CBOR bombs                                            ``core/test_values_limits.py``, ``core/test_fuzz_decoders.py``
streams that say nothing                              ``test_streams_that_say_nothing_are_reset_after_a_while``
many streams                                          ``test_ten_thousand_streams_*``
a peer that reads, acknowledges or grants nothing     ``test_hostile_pressure.py``, ``e2e/test_bad_input.py``
a peer that sends, grants or announces too much       ``test_hostile_pressure.py``
a frame out of place                                  ``test_what_has_no_place_on_a_stream_*``, ``test_bad_peers.py``
resets and stops                                      ``test_a_call_is_cancelled_when_its_stream_is_*``
metadata                                              ``test_metadata_that_*``
wild numbers in HELLO                                 ``test_a_hello_of_wild_numbers_*``
servers that do any of this                           ``test_bad_servers.py``
any of this in any order                              ``core/test_fuzz_sessions.py``
a handler that raises, hangs, blocks or errs           ``test_errors.py``, ``tasks/test_dispatch_endings.py``
a wrong setting, address, selector or key             ``e2e/test_node_settings.py``, ``net/test_certificate_files.py``
===================================================== =====================================================
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import cbor2
import pytest
import trio
from _raw_peer import Connection, hello
from _taps import CALL, CONTROL, LANE, NUMBERS, STATE, Scene, call, credit, engine_of, item, play

import rpcnet
from rpcnet._core.bodies import encode_metadata, join_metadata
from rpcnet._core.calls import status_error_of
from rpcnet._core.framing import FrameKind, encode_frame
from rpcnet._net.quic import CloseKind
from rpcnet._net.session import CLOSE_PROTOCOL_ERROR

END = encode_frame(FrameKind.END, 1)
ERROR = encode_frame(FrameKind.ERROR, 1, 5, 0, cbor2.dumps(["gone", None]))


def kind_only(kind: FrameKind) -> bytes:
    return encode_frame(kind, 1, body=b"\x80")


# --- frames out of place


OUT_OF_PLACE: dict[str, tuple[str, bytes, str]] = {
    "an item without credit": ("drink", item(bytes(60_000)) * 8, "ITEM frame without credit"),
    "an item for a method without requests": ("pour", item(), "ITEM frame without credit"),
    "an item after the end": ("drink", END + item(b""), "ITEM frame on a call stream"),
    "a second end": ("drink", END + END, "END frame on a call stream"),
    "an error after the end": ("drink", END + ERROR, "ERROR frame on a call stream"),
    "an item after an error": ("drink", ERROR + item(b""), "ITEM frame on a call stream"),
    "an error of garbage": ("drink", encode_frame(FrameKind.ERROR, 1, 5, 0, b"\xff"), "ERROR frame: the body is not"),
    "a second call": ("drink", call(2), "CALL frame on a call stream"),
    "a call of the same number": ("drink", call(1), "CALL frame on a call stream"),
    "a result": ("drink", kind_only(FrameKind.RESULT), "RESULT frame on a call stream"),
    "a cancel": ("drink", kind_only(FrameKind.CANCEL), "CANCEL frame on a call stream"),
    "a hello": ("drink", hello(), "HELLO frame on a call stream"),
    "a goaway": ("drink", kind_only(FrameKind.GOAWAY), "GOAWAY frame on a call stream"),
    "a state": ("drink", kind_only(FrameKind.STATE), "STATE frame on a call stream"),
    "a frame above the limit": ("drink", b"\x7f" + bytes(14), "CALL frame of 2130706432 bytes on a stream limited to"),
    "a frame of no kind": ("drink", bytes(4) + b"\x63" + bytes(10), "frame of unknown kind 99"),
}


def test_what_has_no_place_on_a_stream_under_way_ends_its_connection() -> None:
    async def scenario(scene: Scene) -> None:
        for name, (method, said, rule) in OUT_OF_PLACE.items():
            connection = await scene.connect()
            stream = connection.open(CALL + call(1, method, *((1.0,) if method == "drink" else (10,))))
            await trio.sleep(0.1)
            assert connection.frames(stream)[0].kind == FrameKind.CREDIT
            connection.send(stream, said)
            assert (await scene.told(connection)).startswith(rule), name
            assert connection.closed is not None
            assert connection.closed.code == CLOSE_PROTOCOL_ERROR

    play(scenario)


UNACCEPTED: dict[str, tuple[bytes, str]] = {
    "credit before acceptance": (CALL + call(1, "drink", 1.0) + credit(100), "CREDIT frame on a call stream"),
    "an item before acceptance": (CALL + call(1, "drink", 1.0) + item(b""), "ITEM frame on a call stream"),
    "the end before acceptance": (CALL + call(1, "drink", 1.0) + END, "END frame on a call stream"),
    "an item for a call of one request": (CALL + call(1, "hold", b"", 9.0) + item(b""), "ITEM frame on a call stream"),
    "credit for a call of one result": (CALL + call(1, "hold", b"", 9.0) + credit(9), "CREDIT frame on a call stream"),
    "an item instead of a call": (CALL + item(b""), "ITEM frame on a call stream"),
    "an item on a lane": (LANE + item(b""), "ITEM frame on a lane stream"),
    "the end on a lane": (LANE + END, "END frame on a lane stream"),
    "credit on a lane": (LANE + credit(100), "CREDIT frame on a lane stream"),
    "an error on a lane": (LANE + ERROR, "ERROR frame on a lane stream"),
    "an item on a state": (STATE + item(b""), "ITEM frame on a state stream"),
    "a second state": (
        STATE + encode_frame(FrameKind.STATE, 1) + encode_frame(FrameKind.STATE, 2),
        "STATE frame on a state stream",
    ),
    "metadata that is longer than its frame": (
        LANE + encode_frame(FrameKind.CALL_WITH_METADATA, 1, 0, 0, b"\xff\xff\xff\xff"),
        "CALL_WITH_METADATA frame: the metadata is longer than the frame",
    ),
    "metadata in a frame too short for its length": (
        LANE + encode_frame(FrameKind.CALL_WITH_METADATA, 1, 0, 0, b"\0"),
        "CALL_WITH_METADATA frame: the metadata is longer than the frame",
    ),
}


def test_what_has_no_place_on_a_stream_before_acceptance_ends_its_connection() -> None:
    async def scenario(scene: Scene) -> None:
        for name, (said, rule) in UNACCEPTED.items():
            connection = await scene.connect()
            connection.open(said)
            assert (await scene.told(connection)).startswith(rule), name

    play(scenario)


def lanes(connection: Connection) -> None:
    for _ in range(65):
        connection.open(LANE)


def states(connection: Connection) -> None:
    for _ in range(5):
        connection.open(STATE + encode_frame(FrameKind.STATE, 1, body=b"garbage"))


ABUSED: dict[str, tuple[Callable[[Connection], object], str]] = {
    "a unidirectional lane": (lambda c: c.open(LANE, unidirectional=True), "LANE stream that is unidirectional"),
    "a unidirectional call": (
        lambda c: c.open(CALL + call(1), unidirectional=True, end=True),
        "CALL stream that is unidirectional",
    ),
    "a unidirectional control stream": (lambda c: c.open(CONTROL, unidirectional=True), "a second CONTROL stream"),
    "65 lanes": (lanes, "more than 64 LANE streams"),
    "5 exchanges of states that nobody answers": (states, "STATE frame: more than 4 exchanges at once"),
    "a control stream that is reset": (lambda c: c.reset(c.control), "the peer reset a CONTROL stream"),
    "a control stream that is stopped": (lambda c: c.stop(c.control), "the peer stopped a CONTROL stream"),
}


def test_a_stream_that_is_used_as_none_is_ends_its_connection() -> None:
    async def scenario(scene: Scene) -> None:
        for abuse, rule in ABUSED.values():
            connection = await scene.connect()
            abuse(connection)
            assert await scene.told(connection) == rule
        for way, done in (("reset", "reset"), ("stop", "stopped")):
            connection = await scene.connect()
            lane = connection.open(LANE + call(1))
            await trio.sleep(0.1)
            getattr(connection, way)(lane)
            assert await scene.told(connection) == f"the peer {done} a LANE stream"

    play(scenario)


# --- calls that are over


def test_requests_for_a_call_that_was_answered_are_dropped_up_to_its_window_and_no_further() -> None:
    async def scenario(scene: Scene) -> None:
        connection = await scene.connect()
        stream = connection.open(CALL + call(1, "first"))
        await trio.sleep(0.1)
        connection.send(stream, item() * 3)
        await trio.sleep(0.1)
        assert [frame.kind for frame in connection.frames(stream)] == [FrameKind.CREDIT, FrameKind.RESULT]
        assert stream in connection.stops
        await trio.sleep(1)
        assert connection.closed is None
        assert scene.session.calls_in_flight == 0

    play(scenario)


def test_requests_for_a_call_that_was_refused_end_the_connection() -> None:
    async def scenario(scene: Scene) -> None:
        connection = await scene.connect()
        stream = connection.open(CALL + encode_frame(FrameKind.CALL, 1, 60_000, 0, b"\x80"))
        await trio.sleep(0.1)
        assert [(frame.kind, frame.a) for frame in connection.frames(stream)] == [
            (FrameKind.ERROR, rpcnet.Unimplemented.status)
        ]
        connection.send(stream, item())
        assert await scene.told(connection) == "ITEM frame on a call stream"

    play(scenario)


def test_a_streaming_method_on_a_lane_is_refused_by_itself() -> None:
    async def scenario(scene: Scene) -> None:
        connection = await scene.connect()
        lane = connection.open(LANE + call(1, "pour", 10) + call(2))
        await trio.sleep(0.1)
        refused, answered = connection.frames(lane)
        assert (refused.kind, refused.a) == (FrameKind.ERROR, rpcnet.InvalidArgument.status)
        assert answered.kind == FrameKind.RESULT
        assert connection.closed is None

    play(scenario)


def test_items_that_are_no_values_of_the_method_fail_their_call_and_nothing_else() -> None:
    async def scenario(scene: Scene) -> None:
        connection = await scene.connect()
        stream = connection.open(CALL + call(1, "double"))
        await trio.sleep(0.1)
        connection.send(stream, item() + encode_frame(FrameKind.ITEM, 1, body=cbor2.dumps("text")))
        await trio.sleep(0.1)
        accepted, first, error = connection.frames(stream)
        assert (accepted.kind, first.kind, error.kind) == (FrameKind.CREDIT, FrameKind.ITEM, FrameKind.ERROR)
        assert error.a == rpcnet.InvalidArgument.status
        assert connection.closed is None

    play(scenario)


# --- resets and stops


MOMENTS: dict[str, tuple[bytes, float, bytes]] = {
    "at once": (CALL + call(1, "double"), 0.0, b""),
    "after acceptance": (CALL + call(1, "double"), 0.1, b""),
    "in mid-frame": (CALL + call(1, "double"), 0.1, item() + item()[:9]),
    "in mid-body": (CALL + call(1, "drink", 1.0), 0.1, item(bytes(5000))[:1000]),
    "while results flow": (CALL + call(1, "pour", 100), 0.5, b""),
    "after the end of the requests": (CALL + call(1, "drink", 50.0), 0.1, item(b"") * 9 + END),
    "while a request is held": (CALL + call(1, "hold", bytes(20_000), 50.0), 0.1, b""),
    "before a whole call": (CALL + call(1, "hold", bytes(20_000), 50.0)[:5000], 0.1, b""),
    "before a call": (CALL, 0.1, b""),
}


@pytest.mark.parametrize("way", ["reset", "stop"])
def test_a_call_is_cancelled_when_its_stream_is_given_up_in_either_way(way: str) -> None:
    async def scenario(scene: Scene) -> None:
        connection = await scene.connect()
        await trio.sleep(0.1)
        session = scene.session
        for name, (opening, pause, more) in MOMENTS.items():
            stream = connection.open(opening)
            await trio.sleep(pause)
            if more:
                connection.send(stream, more)
                await trio.sleep(0.1)
            getattr(connection, way)(stream)
            await trio.sleep(0.5)
            assert session.calls_in_flight == 0, name
            assert sorted(scene.taps.begun) == sorted(scene.taps.ended), name
            if way == "stop":
                connection.reset(stream)
                await trio.sleep(0.5)
            assert session._request_bytes == 0, name
            assert session.link.statistics().open_streams <= 1, name
            assert list(session._streams) == [connection.control], name
        lane = connection.open(LANE + call(2))
        await trio.sleep(0.1)
        assert [frame.kind for frame in connection.frames(lane)] == [FrameKind.RESULT]
        assert scene.taps.begun == ["double", "double", "drink", "pour", "drink", "hold"]

    play(scenario)


# --- streams that say nothing


NOTHING: dict[str, bytes] = {
    "no byte": b"",
    "one byte": CALL,
    "half a header": CALL + call(1)[:7],
    "half a body": CALL + call(1, "hold", bytes(900), 1.0)[:500],
    "half a state": STATE + encode_frame(FrameKind.STATE, 1, body=bytes(900))[:500],
}


def test_streams_that_say_nothing_are_reset_after_a_while() -> None:
    async def scenario(scene: Scene) -> None:
        connections = {name: await scene.connect() for name in NOTHING}
        streams = {name: [connections[name].open(said) for _ in range(20)] for name, said in NOTHING.items()}
        for _ in range(5):
            await trio.sleep(10)
            for connection in connections.values():
                assert connection.link is not None
                connection.link.ping()  # so that it is not idle
            scene.peer.pump.flush()
        for name, connection in connections.items():
            assert connection.closed is None
            assert not NOTHING[name] or set(connection.resets) == set(connection.stops) == set(streams[name])
        for session in scene.sessions():
            assert (len(session._streams), len(session._silent), session._request_bytes) == (1, 0, 0)

    play(scenario)


def test_a_lane_that_stops_in_mid_frame_loses_its_connection_after_a_while() -> None:
    async def scenario(scene: Scene) -> None:
        connection = await scene.connect()
        connection.open(LANE + call(1) + call(2)[:9])
        await trio.sleep(0.1)
        with trio.move_on_after(50):
            while True:
                await trio.sleep(10)
                if connection.closed:
                    break
                connection.open(CALL + call(9), end=True)
        assert await scene.told(connection) == "LANE stream: a frame was begun and not completed"

    play(scenario)


def test_a_request_that_stops_in_mid_value_is_cancelled_after_a_while() -> None:
    async def scenario(scene: Scene) -> None:
        connection = await scene.connect()
        connection.open(CALL + call(1, "drink", 0.1))
        stream = connection.open(CALL + call(2, "drink", 0.1))
        await trio.sleep(0.1)
        connection.send(stream, item(bytes(900), 2)[:500])
        await trio.sleep(50)
        assert scene.taps.ended == ["drink"]
        assert scene.session.calls_in_flight == 1
        assert stream in connection.resets

    play(scenario)


def test_ten_thousand_streams_at_once_end_their_connection_and_cost_little_memory() -> None:
    async def scenario(scene: Scene) -> None:
        connection = await scene.connect()
        engine_of(connection.link)._remote_max_streams_bidi = 1 << 40
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for number in range(10_000):
                connection.open((b"", CALL, CALL + call(1)[:7])[number % 3])
                if number % 500 == 0:
                    await trio.sleep(0.01)
                if connection.closed is not None:
                    break
            rule = await scene.told(connection)
            now, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert "Too many streams open" in rule
        assert connection.closed is not None
        assert connection.closed.kind is CloseKind.PROTOCOL
        assert now - before < 60_000_000  # the sender's side, mostly

    play(scenario)


def test_ten_thousand_streams_one_after_the_other_leave_nothing_behind() -> None:
    async def scenario(scene: Scene) -> None:
        connection = await scene.connect()
        await trio.sleep(0.1)
        session, most, count = scene.session, 0, 0
        while count < 10_000:
            for _ in range(100):
                match count % 4:
                    case 0:
                        connection.open(b"", end=True)
                    case 1:
                        connection.reset(connection.open(b""))
                    case 2:
                        connection.open(CALL + call(count), end=True)
                    case _:
                        stream = connection.open(CALL + call(count, "pour", 10_000))
                        connection.reset(stream)
                count += 1
            for _ in range(20):
                await trio.sleep(0.0005)
                most = max(most, session.link.statistics().open_streams)
            await trio.sleep(0.05)
            assert connection.closed is None
        await trio.sleep(1)
        assert 50 < most <= 128 + 8
        assert session.link.statistics().open_streams == 1
        assert (len(session._streams), len(session._silent), len(session._given_up)) == (1, 0, 0)
        assert (session._request_bytes, session.calls_in_flight) == (0, 0)

    play(scenario, rpc=rpcnet.RpcConfig(max_calls_per_connection=8))


# --- metadata


def test_metadata_that_is_too_large_or_no_text_is_refused_call_by_call() -> None:
    cases = [
        (b"\xa1\x61k\x59\x27\x10" + bytes(10_000), rpcnet.ResourceExhausted, "metadata of 10006 bytes is above"),
        (b"\xff", rpcnet.InvalidArgument, "metadata: not valid CBOR"),
        (cbor2.dumps([1]), rpcnet.InvalidArgument, "metadata: must be a map"),
        (cbor2.dumps({"k": 1}), rpcnet.InvalidArgument, "metadata: names and values must be text"),
        (cbor2.dumps({b"k": "v"}), rpcnet.InvalidArgument, "metadata: names and values must be text"),
        (b"\x81" * 100 + b"\x80", rpcnet.InvalidArgument, "metadata: not valid CBOR"),
        (b"\xa2\x61k\x61v\x61k\x61w", rpcnet.InvalidArgument, "metadata: not valid CBOR"),
        (b"\xbf\xff", rpcnet.InvalidArgument, "metadata: not valid CBOR"),
    ]

    async def scenario(scene: Scene) -> None:
        connection = await scene.connect()
        lane = connection.open(LANE)
        for metadata, _, _ in cases:
            body = join_metadata(metadata, b"\x80")
            connection.send(lane, encode_frame(FrameKind.CALL_WITH_METADATA, 1, NUMBERS["who"], 0, body))
            await trio.sleep(0.1)
        good = join_metadata(encode_metadata({"k": "v"}, 100), b"\x80")
        connection.send(lane, encode_frame(FrameKind.CALL_WITH_METADATA, 1, NUMBERS["who"], 0, good))
        await trio.sleep(0.1)
        *refused, answered = connection.frames(lane)
        for frame, (_, kind, message) in zip(refused, cases, strict=True):
            error = status_error_of(frame)
            assert type(error) is kind
            assert error.message.startswith(message)
            assert error.never_ran
        assert answered.kind == FrameKind.RESULT

    play(scenario)


# --- HELLO


@pytest.mark.parametrize("number", [1 << 32, (1 << 64) - 1])
def test_a_hello_of_wild_numbers_costs_nothing_and_is_served(number: int) -> None:
    async def scenario(scene: Scene) -> None:
        connection = await scene.peer.dial(scene.node.address)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            await connection.greet(
                max_calls=number,
                max_message_bytes=number,
                max_request_bytes=number,
                stream_window_bytes=number,
                boot_id=number,
                protocol_max=number,
            )
            lane = connection.open(LANE + call(1))
            await trio.sleep(0.1)
            now, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert [frame.kind for frame in connection.frames(lane)] == [FrameKind.RESULT]
        assert now - before < 2_000_000

    play(scenario)


def test_a_hello_of_versions_with_thousands_of_digits_is_refused_and_ends_nobody() -> None:
    async def scenario(scene: Scene) -> None:
        connection = await scene.peer.dial(scene.node.address)
        connection.open(CONTROL + hello(protocol_min=1 << 8000, protocol_max=1 << 8000))
        assert await scene.told(connection) == "HELLO frame: a field is missing, of the wrong type or out of range"

    play(scenario)
