"""Programs for a peer that knows the protocol and does with it what it likes, against either end of a connection.

A program is a string of bytes; each step takes the ones it needs. After the last step it is checked that the session
has forgotten everything: calls, streams, bytes. Whatever is raised on the way is a bug of the session.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from random import Random

import attrs
import cbor2
import trio
import trio.testing
from _session_bench import CODECS, NUMBERS, SMALL, Choices, Link, Pump, as_pump, table

import rpcnet
from rpcnet._core.bodies import (
    Hello,
    encode_error,
    encode_hello,
    encode_metadata,
    join_metadata,
)
from rpcnet._core.framing import Frame, FrameKind, FrameReader, StreamKind, encode_frame
from rpcnet._net.call_stream import CallStream
from rpcnet._net.client_session import ClientSession
from rpcnet._net.endpoint import CallQueue
from rpcnet._net.server_session import IncomingCall, ServerSession, StateRequest
from rpcnet._net.session import InboundStream, Session
from rpcnet._net.stream_values import send_values
from rpcnet._tasks.dispatch import Dispatcher

TABLE = table()
HELLO = Hello(
    protocol_min=1,
    protocol_max=1,
    library="bench",
    node_id="",
    boot_id=1,
    max_calls=SMALL.max_calls_per_connection,
    max_message_bytes=SMALL.max_message_bytes,
    max_request_bytes=SMALL.max_request_bytes,
    stream_window_bytes=SMALL.stream_window_bytes,
    services=TABLE.entries,
)
GREETING = encode_frame(FrameKind.HELLO, 0, body=encode_hello(attrs.evolve(HELLO, services=())))
WILD = (0, 1, 2, 77, 1 << 20, (1 << 32) - 1)
ARGUMENTS: Mapping[str, tuple[tuple[object, ...], ...]] = {
    "add": ((3,),),
    "blob": ((bytes(70), 100), (bytes(700), 1500), (bytes(70), 1500), (bytes(70), 5000)),
    "wait": ((),),
    "fail": (("why",), ("\U0001f9ff" * 500,)),
    "count": ((30,), (400,)),
    "total": ((),),
    "double": ((0.25,),),
}
BODIES = (
    b"",
    b"\x80",
    b"\x01",
    b"\xff" * 9,
    cbor2.dumps(7),
    cbor2.dumps(b"x" * 300),
    cbor2.dumps([b"x" * 4000, 5000]),
    encode_error(rpcnet.NotFound("why", hops=(rpcnet.Hop("n", "m"),))),
    cbor2.dumps(["m", None, {"hops": [1], "app": [2], "tb": 3}]),
    GREETING[15:],
    bytes(5000),
)
NAMES = ("wait", *CODECS)


@attrs.define(eq=False)
class Driver:
    """The peer: what it has opened, and its steps."""

    choices: Choices
    link: Link
    pump: Pump
    session: Session
    ids: list[int] = attrs.field(factory=list)
    rest: dict[int, bytes] = attrs.field(factory=dict)
    """Ends of frames that were begun."""
    opened: int = 0

    async def run(self, after: Callable[[], object]) -> None:
        """Take every step of the program."""
        likely = (self.plausible, self.plausible, self.plausible, self.call, self.open, self.acknowledge)
        rare = (self.cut, self.go_on, self.end, self.reset, self.stop, self.expire, self.stall)
        steps = likely * 6 + rare * 2 + (self.frame, self.raw)
        while self.choices and self.link.closed is None:
            step = self.choices.below(len(steps) + 2)
            if step >= len(steps):
                await trio.sleep((0.001, 0.3, 3.0, 30.0)[self.choices.below(4)])
            else:
                steps[step]()
            await self.settle(after)

    async def settle(self, after: Callable[[], object]) -> None:
        """Flush, and let everybody run until nobody can."""
        self.pump.finish()
        after()
        await trio.testing.wait_all_tasks_blocked()
        self.pump.finish()
        self.link.flush()
        self.check()
        await trio.testing.wait_all_tasks_blocked()

    def check(self) -> None:
        """See that what the peer can make the session hold is bounded."""
        limit = SMALL.stream_window_bytes + SMALL.max_message_bytes + 64
        for stream in self.session._streams.values():
            assert stream.reader.buffered_bytes <= (1 << 20) + 15
            assert stream.channel is None or stream.channel.unread_bytes <= limit

    # --- what is written

    def any_frame(self) -> bytes:
        choices = self.choices
        body = BODIES[choices.below(len(BODIES))]
        a, b = choices.below(8), WILD[choices.below(len(WILD))]
        return encode_frame(choices.below(11), choices.below(8), a, b, body)

    def any_call_on_a_lane(self) -> int:
        """Return the number of a call that waits for its answer, mostly of one that went out on a lane."""
        waiting = self.session._calls._waiting if isinstance(self.session, ClientSession) else {}
        known = [number for number, waiter in waiting.items() if getattr(waiter, "lane", -1) >= 0]
        known = known if known and self.choices.below(16) else [*waiting, 77]
        return known[self.choices.below(len(known))]

    def any_call(self) -> bytes:
        choices = self.choices
        name = NAMES[choices.below(len(NAMES))]
        arguments = ARGUMENTS[name]
        body = CODECS[name].encode_arguments(arguments[choices.below(len(arguments))], {})
        kind = FrameKind.CALL
        match choices.below(64):
            case 60 | 61 | 62:
                kind, body = FrameKind.CALL_WITH_METADATA, join_metadata(encode_metadata({"k": "v"}, 100), body)
            case 63:
                kind = FrameKind.CALL_WITH_METADATA
        return encode_frame(kind, choices.below(256), NUMBERS[name], (0, 0, 0, 1, 2000)[choices.below(5)], body)

    def pick(self) -> int | None:
        """Return a stream to write on, mostly one that is no control stream."""
        link = self.link
        streams = [stream_id for stream_id, half in link.theirs.items() if not half.is_over]
        if len(streams) > 1 and self.choices.below(16):
            streams.remove(0)
        return streams[self.choices.below(len(streams))] if streams else None

    def pick_to_end(self) -> int | None:
        """Return a stream to end, mostly one that does not last as long as the connection."""
        stream_id = self.pick()
        stream = None if stream_id is None else self.session._streams.get(stream_id)
        is_lasting = stream is not None and stream.kind in (StreamKind.CONTROL, StreamKind.LANE)
        return None if is_lasting and self.choices.below(16) else stream_id

    def say(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Write on a stream, mostly after the end of a frame that was begun there."""
        rest = self.rest.pop(stream_id, b"") if self.choices.below(64) < 63 else b""
        self.link.take(stream_id, rest + data, end=end)

    def open_with(self, data: bytes, *, end: bool = False) -> None:
        unidirectional = (self.choices.below(64) == 63) != self.link.is_client
        stream_id = 4 * self.opened + 2 * unidirectional + self.link.is_client
        self.opened += 1
        self.ids.append(stream_id)
        self.link.take(stream_id, data, end=end)

    # --- the steps

    def open(self) -> None:
        kinds = (
            (StreamKind.LANE, StreamKind.CALL, StreamKind.STATE) if not self.link.is_client else (StreamKind.RESULT,)
        )
        kind = kinds[self.choices.below(len(kinds))] if self.choices.below(8) else self.choices.below(256)
        more = encode_frame(FrameKind.STATE, 1, body=b"state") if kind == StreamKind.STATE else b""
        size = self.choices.below(20) if self.choices.below(6) == 5 else 100
        self.open_with((bytes([kind]) + more)[:size], end=self.choices.below(8) == 7)

    def call(self) -> None:
        if not self.link.is_client:
            self.open_with(bytes([StreamKind.CALL]) + self.any_call(), end=self.choices.below(4) == 3)
        else:
            answer = encode_frame(FrameKind.RESULT, self.any_call_on_a_lane(), body=bytes(300))
            self.open_with(bytes([StreamKind.RESULT]) + answer, end=self.choices.below(4) == 3)

    def frame(self) -> None:
        if (stream_id := self.pick()) is not None:
            count = 1 + self.choices.below(3)
            self.say(stream_id, b"".join(self.any_frame() for _ in range(count)))

    def plausible(self) -> None:
        """Say something that has its place there, or nearly so."""
        if (stream_id := self.pick()) is None or (stream := self.session._streams.get(stream_id)) is None:
            return
        if not self.choices.below(64):
            frames: tuple[bytes, ...] = (self.any_call(), self.any_frame())
        elif isinstance(self.session, ServerSession):
            frames = self.of_a_client(stream)
        else:
            frames = self.of_a_server(stream)
        count = 1 + self.choices.below(2)
        data = b"".join(frames[self.choices.below(len(frames))] for _ in range(count) if frames)
        may_end = stream.kind in (StreamKind.CALL, StreamKind.STATE, StreamKind.RESULT)
        self.say(stream_id, data, end=may_end and self.choices.below(6) == 5)

    def of_a_client(self, stream: InboundStream) -> tuple[bytes, ...]:
        """Return frames that a client might write on a stream now."""
        number = stream.call_id or 0
        if stream.channel is not None:
            end = encode_frame(FrameKind.END, number)
            return (*self.values(number), encode_frame(FrameKind.ERROR, number, 5, 0, BODIES[7]), end)
        if stream.kind is StreamKind.LANE:
            running = list(self.running) or [1]
            cancel = encode_frame(FrameKind.CANCEL, running[self.choices.below(len(running))])
            return self.any_call(), self.any_call(), cancel
        if stream.kind is StreamKind.STATE and stream.call_id is None:
            return (encode_frame(FrameKind.STATE, 1, body=b"state"),)
        return (self.any_call(),) if stream.kind is StreamKind.CALL and stream.call_id is None else ()

    def of_a_server(self, stream: InboundStream) -> tuple[bytes, ...]:
        """Return frames that a server might write on a stream now."""
        if stream.kind is StreamKind.CONTROL:
            return () if self.choices.below(16) else (encode_frame(FrameKind.GOAWAY, 0),)
        is_lasting = stream.kind in (StreamKind.LANE, StreamKind.RESULT)
        number = self.any_call_on_a_lane() if is_lasting else stream.call_id or 0
        error = encode_frame(FrameKind.ERROR, number, 5, 0, BODIES[7])
        if stream.kind is StreamKind.STATE:
            return encode_frame(FrameKind.STATE, number, body=b"state"), error
        result = encode_frame(FrameKind.RESULT, number, body=cbor2.dumps(5))
        return (result, error) if stream.channel is None else (*self.values(number), result, error)

    def values(self, number: int) -> tuple[bytes, ...]:
        """Return frames of a stream under way."""
        credit = encode_frame(FrameKind.CREDIT, number, 0, WILD[self.choices.below(len(WILD))])
        items = (encode_frame(FrameKind.ITEM, number, body=body) for body in (cbor2.dumps(7), cbor2.dumps(b"x" * 300)))
        return (credit, *items, credit)

    @property
    def running(self) -> dict[int, IncomingCall]:
        """The calls that the server has in hand."""
        return self.session._incoming._running if isinstance(self.session, ServerSession) else {}

    def raw(self) -> None:
        if (stream_id := self.pick()) is not None:
            self.say(stream_id, self.choices.chunk(40))

    def cut(self) -> None:
        if (stream_id := self.pick()) is not None and stream_id not in self.rest:
            frame = self.any_call() if self.choices.below(2) else self.any_frame()
            at = 1 + self.choices.below(len(frame) - 1)
            self.rest[stream_id] = frame[at:]
            self.link.take(stream_id, frame[:at])

    def go_on(self) -> None:
        if self.rest:
            self.say(next(iter(self.rest)), b"")

    def end(self) -> None:
        if (stream_id := self.pick_to_end()) is not None:
            self.say(stream_id, b"", end=True)

    def reset(self) -> None:
        if (stream_id := self.pick_to_end()) is not None:
            self.link.take_reset(stream_id)

    def stop(self) -> None:
        if (stream_id := self.pick_to_end()) is not None:
            self.link.take_stop(stream_id)

    def acknowledge(self) -> None:
        self.link.acknowledge()

    def expire(self) -> None:
        self.session.expire_streams(20.0)

    def stall(self) -> None:
        """Let it seem that much was sent and nothing acknowledged."""
        self.link.buffered_bytes += 70_000


def frames_of(link: Link, stream_id: int) -> list[Frame]:
    """Return what the session wrote on a stream; it must be whole frames."""
    data = bytes(link.sent.get(stream_id, b""))
    if stream_id & 1 != link.is_client:
        data = data[1:]  # it opened the stream, with its kind
    reader = FrameReader(1 << 20)
    frames = reader.feed(data)
    assert reader.is_between_frames or link.ours[stream_id].was_stopped
    return frames


# --- a server


async def against_a_server(program: bytes) -> None:
    """Play a client against a server session that really runs handlers."""
    pump, queue, link = Pump(), CallQueue(), Link(is_client=False)
    states: list[StateRequest] = []
    async with trio.open_nursery() as nursery:
        dispatcher = Dispatcher(nursery, pump=as_pump(pump), queue=queue, table=TABLE, max_running=100, rng=Random(0))
        session = ServerSession(as_pump(pump), SMALL, HELLO, calls=queue, states=states.append, on_end=lambda _: None)
        session.attach(link)  # type: ignore[arg-type]
        link.attach(session)
        choices = Choices(program)
        driver = Driver(choices, link, pump, session)
        if choices.below(16):
            driver.ids.append(0)
            driver.opened = 1
            link.take(0, bytes([StreamKind.CONTROL]) + GREETING)

        def after() -> None:
            dispatcher.on_calls()
            while states:
                states.pop().reply(b"state")

        await driver.run(after)
        await _give_everything_up(driver, after)
        if link.closed is None:
            assert session.calls_in_flight == 0
            assert session._request_bytes == 0
            assert not session._own_streams
            assert not session._held
        link.take_close()
        await driver.settle(after)
        assert queue.active == 0
        for stream_id in link.sent:
            frames_of(link, stream_id)
        nursery.cancel_scope.cancel()


async def _give_everything_up(driver: Driver, after: Callable[[], object]) -> None:
    link = driver.link
    link.acknowledge()
    await driver.settle(after)
    if driver.session.peer_hello is not None:
        driver.open_with(bytes([StreamKind.LANE]) + b"".join(encode_frame(FrameKind.CANCEL, n) for n in range(256)))
    for stream_id in driver.ids:
        if driver.session._streams.get(stream_id) is None or stream_id:
            link.take_reset(stream_id)
    for _ in range(3):
        await driver.settle(after)
        link.acknowledge()
    await trio.sleep(40)
    await driver.settle(after)


# --- a client


async def _values() -> AsyncIterator[bytes]:
    for number in range(20):
        yield cbor2.dumps(number)
        if number % 7 == 6:
            await trio.sleep(0.2)


async def _stream(session: ClientSession, name: str) -> None:
    body = CODECS[name].encode_arguments(ARGUMENTS[name][0], {})
    stream = await session.open_call(FrameKind.CALL, NUMBERS[name], body, 0)
    try:
        async with trio.open_nursery() as nursery:
            if name != "count":
                nursery.start_soon(_send, stream)
            if name == "total":
                await stream.wait_end()
            else:
                while await stream.receive() is not None:
                    pass
            nursery.cancel_scope.cancel()
    finally:
        session.close_call(stream)


async def _send(stream: CallStream) -> None:
    await send_values(stream, _values(), lambda body: body)
    stream.send_end()


async def _call(session: ClientSession, turn: int) -> None:
    match turn % 5:
        case 0:
            await session.call(FrameKind.CALL, NUMBERS["add"], b"\x81\x03", 0)
        case 1:
            await session.call(FrameKind.CALL, NUMBERS["blob"], bytes(1000), 0)
        case 2:
            await session.exchange_state(b"state")
        case 3:
            await _stream(session, "count")
        case _:
            await _stream(session, ("total", "double")[turn % 2])


def _bare(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


async def _keep_calling(session: ClientSession, number: int, done: list[int]) -> None:
    try:
        for turn in range(number, number + 5):
            with trio.move_on_after(3.0 + number):
                try:
                    await session.wait_open()
                    await _call(session, turn)
                except* rpcnet.RpcNetError:
                    pass
    finally:
        done.append(number)


async def against_a_client(program: bytes) -> None:
    """Play a server against a client session with callers of all shapes."""
    pump, link = Pump(), Link(is_client=True)
    session = ClientSession(as_pump(pump), SMALL, attrs.evolve(HELLO, services=()), on_end=lambda: None)
    session.attach(link)  # type: ignore[arg-type]
    link.attach(session)
    done: list[int] = []
    async with trio.open_nursery() as nursery:
        choices = Choices(program)
        driver = Driver(choices, link, pump, session)
        for number in range(6):
            nursery.start_soon(_keep_calling, session, number, done)
        if choices.below(16):
            link.take(0, encode_frame(FrameKind.HELLO, 0, body=encode_hello(HELLO)))
        await driver.settle(_nothing)
        await driver.run(_nothing)
        await _end_of_callers(driver)
        assert len(done) == 6
        assert session.calls_in_flight == 0
        assert not session._slots
        assert session._room_for_requests._taken == 0
        kinds = [stream.kind for stream in session._streams.values() if stream.call_id is not None]
        assert kinds == []


async def _end_of_callers(driver: Driver) -> None:
    for _ in range(20):
        await trio.sleep(10)
        await driver.settle(_nothing)
    if not driver.choices.below(2):
        driver.link.take_close()
        await driver.settle(_nothing)


def _nothing() -> None: ...


__all__ = ["against_a_client", "against_a_server"]
