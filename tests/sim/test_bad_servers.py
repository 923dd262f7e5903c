"""Servers that have the secret and break the rules of streams: their callers get a status, and nobody else notices."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import attrs
import cbor2
import pytest
import trio
from _raw_peer import Connection, RawPeer, hello, open_raw_peer
from _taps import CODECS, LANE, NUMBERS, RESULT, Taps

import rpcnet
from rpcnet._core.bodies import MethodEntry, ServiceEntry
from rpcnet._core.framing import Frame, FrameKind, encode_frame
from rpcnet._net.call_stream import CallStream
from rpcnet._net.client_session import ClientSession
from rpcnet._net.endpoint import Endpoint
from rpcnet._net.stream_values import send_values
from rpcnet.testing import SimulatedCluster, run

TABLE = (
    ServiceEntry("taps", 1, tuple(MethodEntry(name, number, idempotent=False) for name, number in NUMBERS.items())),
)
LARGE = bytes(20_000)
"""A request that has a stream of its own."""

Answer = Callable[[Connection, int, Frame], object]


def result(frame: Frame, value: object = "raw", **changes: int) -> bytes:
    call_id = changes.get("call_id", frame.call_id)
    return encode_frame(FrameKind.RESULT, call_id, body=cbor2.dumps(value))


def error(frame: Frame, body: object, status: int = 5) -> bytes:
    return encode_frame(FrameKind.ERROR, frame.call_id, status, 0, cbor2.dumps(body))


def accept(frame: Frame, amount: int = 100_000) -> bytes:
    return encode_frame(FrameKind.CREDIT, frame.call_id, 0, amount)


def item(frame: Frame, value: object = b"drop") -> bytes:
    return encode_frame(FrameKind.ITEM, frame.call_id, body=cbor2.dumps(value))


@attrs.define(eq=False)
class Bar:
    """Two good nodes and a bad server that one of them calls."""

    endpoint: Endpoint
    peer: RawPeer
    answer: Answer = lambda *_: None

    def on_frame(self, connection: Connection, stream_id: int, frame: Frame) -> None:
        if frame.kind == FrameKind.HELLO:
            connection.control = stream_id
            connection.send(stream_id, hello(services=TABLE))
        elif frame.kind == FrameKind.CALL:
            self.answer(connection, stream_id, frame)

    async def session(self) -> ClientSession:
        return await self.endpoint.connect(self.peer.address)

    async def unary(self, body: bytes = b"\x80") -> object:
        session = await self.session()
        with trio.fail_after(20):
            return cbor2.loads(await session.call(FrameKind.CALL, NUMBERS["who"], body, 0))

    async def open(self, method: str, *args: object) -> tuple[ClientSession, CallStream]:
        session = await self.session()
        body = CODECS[method].encode_arguments(args, {})
        with trio.fail_after(20):
            return session, await session.open_call(FrameKind.CALL, NUMBERS[method], body, 0)

    async def pour(self) -> list[bytes]:
        """Call a method that streams results, and return them all."""
        session, stream = await self.open("pour", 10)
        taken = []
        try:
            with trio.fail_after(20):
                while (body := await stream.receive()) is not None:
                    taken.append(body)
        finally:
            session.close_call(stream)
        return taken

    async def drink(self) -> bytes:
        """Call a method that takes a stream of requests that never ends."""
        session, stream = await self.open("drink", 0.0)
        try:
            with trio.fail_after(20), trio.CancelScope() as scope:
                stream.on_end = scope.cancel
                await send_values(stream, endless(), lambda body: body)
            with trio.fail_after(20):
                return await stream.wait_end()
        finally:
            session.close_call(stream)


async def endless() -> AsyncIterator[bytes]:
    while True:
        await trio.sleep(0.1)
        yield bytes(1000)


def play(scenario: Callable[[Bar], Awaitable[None]]) -> None:
    """Play a scenario; check that a good server's client was served all the time and that nothing is left."""

    async def main(cluster: SimulatedCluster) -> None:
        [node] = await cluster.start(1, services=lambda _: [Taps()])
        [friend] = await cluster.start(1)
        await cluster.converged()
        noticed = len(cluster.trace)
        async with open_raw_peer(cluster.security) as peer, trio.open_nursery() as nursery:
            bar = Bar(friend.node._running.endpoint, peer)
            peer.on_frame = bar.on_frame
            answers: list[str] = []

            async def go_on_calling() -> None:
                while True:
                    with trio.fail_after(0.5):
                        answers.append(await friend.node.stub(Taps, node=node.name).who())
                    await trio.sleep(0.5)

            nursery.start_soon(go_on_calling)
            await scenario(bar)
            before = len(answers)
            await trio.sleep(5)
            assert len(answers) > before + 5
            for session in [each for each in bar.endpoint.sessions() if each.peer_name == "raw"]:
                assert session.calls_in_flight == 0
                assert [stream.kind for stream in session._streams.values() if stream.call_id is not None] == []
            nursery.cancel_scope.cancel()
        assert cluster.trace[noticed:] == ()
        assert set(friend.node.statistics().restarts.values()) == {0}

    run(main, limit=1200)


async def broken_by(bar: Bar, call: Callable[[], Awaitable[object]], rule: str, name: str) -> None:
    """Make a call and check that it fails because the server broke a rule, and that the server was told which."""
    before = len(bar.peer.accepted)
    with pytest.raises(rpcnet.Unavailable):
        await call()
    await trio.sleep(1)
    connection = bar.peer.accepted[-1]
    assert connection.closed is not None, name
    assert connection.closed.by_peer
    assert connection.closed.message.startswith(rule), (name, connection.closed.message)
    assert len(bar.peer.accepted) <= before + 1
    await trio.sleep(15)  # until the address may be dialled again


RULES_OF_LANES: dict[str, tuple[Answer, str]] = {
    "an item": (lambda c, s, f: c.send(s, item(f)), "ITEM frame on a lane stream"),
    "credit": (lambda c, s, f: c.send(s, accept(f)), "CREDIT frame on a lane stream"),
    "the end of requests": (lambda c, s, f: c.send(s, encode_frame(FrameKind.END, 1)), "END frame on a lane stream"),
    "a call": (lambda c, s, f: c.send(s, encode_frame(FrameKind.CALL, 1)), "CALL frame on a lane stream"),
    "an error of garbage": (lambda c, s, f: c.send(s, error(f, 5)), "ERROR frame: the body must be"),
    "a reset": (lambda c, s, f: c.reset(s), "the peer reset a LANE stream"),
    "a stop": (lambda c, s, f: c.stop(s), "the peer stopped a LANE stream"),
    "an end": (lambda c, s, f: c.send(s, b"", end=True), "the server closed a LANE stream"),
    "the control stream's reset": (lambda c, s, f: c.reset(c.control), "the peer reset a CONTROL stream"),
    "a call on a stream of its own": (lambda c, s, f: c.open(LANE), "the server may not open a LANE stream"),
    "a result in both directions": (lambda c, s, f: c.open(RESULT + result(f)), "RESULT stream that is bidirectional"),
}


def test_a_server_that_says_on_a_lane_what_has_no_place_there_loses_its_connection() -> None:
    async def scenario(bar: Bar) -> None:
        for name, (answer, rule) in RULES_OF_LANES.items():
            bar.answer = answer
            await broken_by(bar, bar.unary, rule, name)
        bar.answer = lambda c, s, f: c.send(s, result(f))
        assert await bar.unary() == "raw"

    play(scenario)


RULES_OF_STREAMS: dict[str, tuple[str, Answer, str]] = {
    "an item on a unary call": ("unary", lambda c, s, f: c.send(s, item(f)), "ITEM frame on a call stream"),
    "credit on a unary call": ("unary", lambda c, s, f: c.send(s, accept(f)), "CREDIT frame on a call stream"),
    "items that nobody asked for": (
        "drink",
        lambda c, s, f: c.send(s, accept(f) + item(f, bytes(9000)) * 40),
        "ITEM frame without",
    ),
    "a goaway": ("pour", lambda c, s, f: c.send(s, encode_frame(FrameKind.GOAWAY, 1)), "GOAWAY frame on a call stream"),
    "an error of garbage": (
        "pour",
        lambda c, s, f: c.send(s, accept(f) + error(f, {})),
        "ERROR frame: the body must be",
    ),
    "an error whose hops are none": (
        "pour",
        lambda c, s, f: c.send(s, accept(f) + error(f, ["m", None, {"hops": [5]}])),
        "ERROR frame: a hop must be",
    ),
}


def test_a_server_that_says_on_a_calls_stream_what_has_no_place_there_loses_its_connection() -> None:
    async def scenario(bar: Bar) -> None:
        for name, (method, answer, rule) in RULES_OF_STREAMS.items():
            bar.answer = answer
            calls = {"unary": lambda: bar.unary(LARGE), "pour": bar.pour, "drink": bar.drink}
            await broken_by(bar, calls[method], rule, name)

    play(scenario)


AFTER: dict[str, Callable[[Frame], bytes]] = {
    "a second result": result,
    "an error": lambda frame: error(frame, ["late", None]),
    "an item": item,
    "credit": accept,
}


@pytest.mark.parametrize("is_error", [False, True])
def test_what_comes_after_the_answer_of_a_stream_loses_the_connection_and_not_the_answer(is_error: bool) -> None:
    async def scenario(bar: Bar) -> None:
        for name, after in AFTER.items():
            bar.answer = lambda c, s, f, after=after: c.send(  # type: ignore[misc]
                s, accept(f) + item(f) + (error(f, ["why", None]) if is_error else result(f)) + after(f)
            )
            if is_error:
                with pytest.raises(rpcnet.NotFound, match="why"):
                    await bar.pour()
            else:
                assert await bar.pour() == [cbor2.dumps(b"drop")]
            await trio.sleep(1)
            closed = bar.peer.accepted[-1].closed
            assert closed is not None, name
            assert closed.message.endswith("frame after the answer")
            await trio.sleep(15)

    play(scenario)


def test_answers_to_calls_that_nobody_made_are_old_news() -> None:
    async def scenario(bar: Bar) -> None:
        bar.answer = lambda c, s, f: c.send(
            s,
            result(f, call_id=777) + encode_frame(FrameKind.ERROR, 778, 5, 0, cbor2.dumps(["m", None])) + result(f) * 2,
        )
        for _ in range(5):
            assert await bar.unary() == "raw"
        assert len(bar.peer.accepted) == 1

        def in_streams(connection: Connection, stream_id: int, frame: Frame) -> None:
            for call_id in range(500, 600):
                connection.open(RESULT + result(frame, call_id=call_id), unidirectional=True, end=True)
            connection.send(stream_id, result(frame))

        bar.answer = in_streams
        assert await bar.unary() == "raw"
        assert len(bar.peer.accepted) == 1

    play(scenario)


def test_an_answer_on_the_stream_of_another_call_loses_the_connection() -> None:
    async def scenario(bar: Bar) -> None:
        streams: list[int] = []

        def answer(connection: Connection, stream_id: int, frame: Frame) -> None:
            streams.append(stream_id)
            if len(frame.body) < 100:  # the small call, which came on a lane, is answered for the large one
                connection.send(stream_id, result(frame, call_id=frame.call_id - 1))

        bar.answer = answer
        outcomes = []

        async def call(body: bytes) -> None:
            with pytest.raises(rpcnet.Unavailable) as caught:
                await bar.unary(body)
            outcomes.append(str(caught.value))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, LARGE)
            await trio.sleep(1)
            nursery.start_soon(call, b"\x80")
        assert len(outcomes) == 2
        await trio.sleep(1)
        closed = bar.peer.accepted[0].closed
        assert closed is not None
        assert closed.message == "RESULT frame on a LANE stream for a call on another"

    play(scenario)


def send_and(then: Callable[[int], None], connection: Connection, stream_id: int, data: bytes) -> None:
    connection.send(stream_id, data)
    then(stream_id)


def test_a_server_that_resets_stops_or_ends_a_calls_stream_ends_that_call_and_no_other() -> None:
    async def scenario(bar: Bar) -> None:
        moments: list[Answer] = [
            lambda c, s, f: c.reset(s),
            lambda c, s, f: c.send(s, b"", end=True),
            lambda c, s, f: send_and(c.reset, c, s, accept(f)),
            lambda c, s, f: send_and(c.reset, c, s, accept(f) + item(f)[:9]),
            lambda c, s, f: c.send(s, accept(f) + item(f), end=True),
        ]
        for answer in moments:
            bar.answer = answer
            with pytest.raises(rpcnet.Unavailable, match=r"the call's stream"):
                await bar.pour()
            with pytest.raises(rpcnet.Unavailable, match=r"the call's stream"):
                await bar.drink()
        bar.answer = lambda c, s, f: send_and(c.stop, c, s, accept(f))
        with pytest.raises(trio.TooSlowError):
            await bar.drink()  # it goes on waiting for the answer, and sends into the void
        bar.answer = lambda c, s, f: c.send(s, result(f))
        assert await bar.unary() == "raw"
        assert len(bar.peer.accepted) == 1

    play(scenario)


def test_a_server_that_drains_at_any_moment_ends_no_call_and_gets_no_other() -> None:
    goaway = encode_frame(FrameKind.GOAWAY, 0)

    async def scenario(bar: Bar) -> None:
        def during(connection: Connection, stream_id: int, frame: Frame) -> None:
            connection.send(stream_id, accept(frame))
            connection.send(connection.control, goaway)
            connection.send(stream_id, item(frame))
            connection.send(connection.control, goaway)
            connection.send(stream_id, result(frame))
            connection.send(connection.control, goaway)

        bar.answer = during
        assert await bar.pour() == [cbor2.dumps(b"drop")]
        with pytest.raises(rpcnet.Unavailable, match="draining") as caught:
            await bar.unary()
        assert caught.value.never_ran
        connection = bar.peer.accepted[0]
        assert not connection.ended.is_set()
        connection.send(connection.control, encode_frame(FrameKind.STATE, 0))
        await connection.ended.wait()
        assert connection.closed is not None
        assert connection.closed.message == "STATE frame on a control stream"

    play(scenario)


def test_a_server_that_drains_before_hello_loses_its_connection() -> None:
    async def scenario(bar: Bar) -> None:
        bar.peer.on_frame = lambda c, s, f: c.send(s, encode_frame(FrameKind.GOAWAY, 0))
        with pytest.raises(rpcnet.Unavailable, match="GOAWAY frame on a control stream before HELLO"):
            await bar.unary()

    play(scenario)


def test_an_error_of_books_arrives_cut() -> None:
    book = "x" * 200_000
    more = {"hops": [[book, book, book]] * 2, "app": ["Lost", b"f" * 100], "tb": book}

    async def scenario(bar: Bar) -> None:
        bar.answer = lambda c, s, f: c.open(RESULT + error(f, [book, book, more]), unidirectional=True, end=True)
        with pytest.raises(rpcnet.NotFound) as caught:
            await bar.unary()
        assert len(caught.value.message) == 8192
        assert len(str(caught.value)) < 10_000
        assert len(caught.value.remote_traceback or "") == 65536

    play(scenario)


@pytest.mark.parametrize("number", [1 << 32, (1 << 64) - 1])
def test_a_server_of_wild_numbers_is_called_like_any_other(number: int) -> None:
    async def scenario(bar: Bar) -> None:
        def on_frame(connection: Connection, stream_id: int, frame: Frame) -> None:
            if frame.kind != FrameKind.HELLO:
                connection.send(stream_id, result(frame))
                return
            wild = dict.fromkeys(
                ("max_calls", "max_message_bytes", "max_request_bytes", "stream_window_bytes", "boot_id"), number
            )
            connection.send(stream_id, hello(services=TABLE, **wild))

        bar.peer.on_frame = on_frame
        assert [await bar.unary() for _ in range(3)] == ["raw"] * 3
        assert await bar.unary(LARGE) == "raw"

    play(scenario)
