"""Two QUIC engines on a wire in memory that loses, delays and repeats: time is a number, chance is seeded.

Either end may be ours or an unmodified ``QuicConnection``; both are driven by the verbs they have in common.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Callable, Iterator
from random import Random

import attrs
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import (
    ConnectionTerminated,
    HandshakeCompleted,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

from rpcnet._net.identity import Credentials, Security
from rpcnet._net.quic_engine import Configuration, Engine, configure
from rpcnet._net.quic_fast_streams import Stream

Address = tuple[str, int]
CLIENT: Address = ("10.0.0.1", 7946)
SERVER: Address = ("10.0.0.2", 7946)
LATENCY = 0.002
_SHORTEST_SLEEP = 0.0001  # a timer may come again at the very moment it was due, for want of digits


@functools.cache
def credentials() -> Credentials:
    return Security.shared_secret("n3Vv8ZyTq0-Lk2wXbR7mHd", cluster="rpcnet").issue("a")


def settings_of(*, is_client: bool, max_datagram_bytes: int, window_bytes: int) -> Configuration:
    return configure(
        credentials(),
        is_client=is_client,
        max_datagram_bytes=max_datagram_bytes,
        window_bytes=window_bytes,
        idle_timeout=1000,
    )


@attrs.define(eq=False)
class Heard:
    """What one end heard of one stream."""

    data: bytearray = attrs.field(factory=bytearray)
    ended: bool = False
    reset: int | None = None
    stopped: int | None = None


@attrs.define(eq=False)
class Wire:
    """A client, a server, and what lies between them."""

    ours: str = "both"
    """Which ends are ours: both, client, server or none."""
    max_datagram_bytes: int = 1200
    window_bytes: int = 1 << 20
    rng: Random = attrs.field(factory=lambda: Random(0))
    loss: float = 0.0
    """The part of datagrams that is lost, once the handshake is over."""
    duplication: float = 0.0
    """The part that arrives twice."""
    jitter: float = 0.0
    """Up to how many seconds more than the latency a datagram takes."""
    now: float = 0.0
    client_address: Address = CLIENT
    on_step: Callable[[Wire], None] | None = None
    count: int = 0
    ends: list[QuicConnection] = attrs.field(factory=list)
    heard: tuple[dict[int, Heard], dict[int, Heard]] = attrs.field(factory=lambda: ({}, {}))
    closed: list[ConnectionTerminated] = attrs.field(factory=list)
    events: tuple[list[QuicEvent], list[QuicEvent]] = attrs.field(factory=lambda: ([], []))
    _heap: list[tuple[float, int, bytes, int, Address]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.ends.append(self._make(is_client=True, original_destination=None))
        self.client.connect(SERVER, self.now)
        first = self.client.datagrams_to_send(self.now)
        self.ends.append(self._make(is_client=False, original_destination=first[0][0][6:14]))
        for data, _ in first:
            self.server.receive_datagram(data, CLIENT, self.now)
        chances = self.loss, self.duplication, self.jitter
        self.loss = self.duplication = self.jitter = 0.0
        self.run(0.2)
        self.loss, self.duplication, self.jitter = chances
        assert all(any(isinstance(event, HandshakeCompleted) for event in events) for events in self.events)

    def _make(self, *, is_client: bool, original_destination: bytes | None) -> QuicConnection:
        settings = settings_of(
            is_client=is_client, max_datagram_bytes=self.max_datagram_bytes, window_bytes=self.window_bytes
        )
        if self.ours in ("both", "client" if is_client else "server"):
            return Engine(settings, lambda cid: None, original_destination=original_destination)
        return QuicConnection(configuration=settings, original_destination_connection_id=original_destination)

    @property
    def client(self) -> QuicConnection:
        return self.ends[0]

    @property
    def server(self) -> QuicConnection:
        return self.ends[1]

    @property
    def engines(self) -> Iterator[Engine]:
        """The ends that are ours."""
        return (end for end in self.ends if isinstance(end, Engine))

    def run(self, seconds: float) -> None:
        """Let that much time pass."""
        until = self.now + seconds
        while True:
            at = self.step(until)
            if at >= until:
                self.now = until
                return

    def step(self, until: float) -> float:
        """Flush both ends, then go on to what happens next; return when that is."""
        self._flush()
        timers = [end.get_timer() for end in self.ends]
        moments = [*(timer for timer in timers if timer is not None), *(entry[0] for entry in self._heap[:1])]
        at = max(self.now + _SHORTEST_SLEEP, min(moments, default=until))
        if at >= until:
            return at
        self.now = at
        self._deliver()
        for end in self.ends:
            timer = end.get_timer()
            if timer is not None and timer <= self.now:
                end.handle_timer(self.now)
        self._listen()
        if self.on_step is not None:
            self.on_step(self)
        return at

    def _flush(self) -> None:
        for side, end in enumerate(self.ends):
            for _ in range(100):
                datagrams = end.datagrams_to_send(self.now)
                for data, destination in datagrams:
                    self._carry(side, data, destination)
                if not datagrams or end._pacing_at is None or end._pacing_at > self.now:
                    break

    def _carry(self, side: int, data: bytes, destination: Address) -> None:
        copies = 2 if self.rng.random() < self.duplication else 1
        for _ in range(copies):
            if self.rng.random() >= self.loss:
                self.count += 1
                at = self.now + LATENCY + self.rng.random() * self.jitter
                source = SERVER if side else self.client_address
                if side == 0 or destination == self.client_address:
                    heapq.heappush(self._heap, (at, self.count, data, 1 - side, source))

    def _deliver(self) -> None:
        while self._heap and self._heap[0][0] <= self.now:
            _, _, data, side, source = heapq.heappop(self._heap)
            self.ends[side].receive_datagram(data, source, self.now)

    def _listen(self) -> None:
        for side, end in enumerate(self.ends):
            while (event := end.next_event()) is not None:
                self.events[side].append(event)
                if isinstance(event, ConnectionTerminated):
                    self.closed.append(event)
                elif isinstance(event, StreamDataReceived):
                    heard = self.heard[side].setdefault(event.stream_id, Heard())
                    assert not heard.ended
                    heard.data += event.data
                    heard.ended = event.end_stream
                elif isinstance(event, StreamReset):
                    self.heard[side].setdefault(event.stream_id, Heard()).reset = event.error_code
                elif isinstance(event, StopSendingReceived):
                    self.heard[side].setdefault(event.stream_id, Heard()).stopped = event.error_code


def check_accounts(engine: Engine) -> None:
    """Compare what an engine counts as it goes with what a walk over its streams finds."""
    table = engine._table
    streams = [stream for stream in table.values() if isinstance(stream, Stream)]
    assert len(streams) == len(table)
    senders = [stream.sender for stream in streams]
    assert engine.unacknowledged_bytes == sum(sender._buffer_stop - sender._buffer_start for sender in senders)
    assert all(len(sender._buffer) == sender._buffer_stop - sender._buffer_start for sender in senders)
    queued = [stream.stream_id or 0 for stream in (*table.fresh, *table.waiting)]
    assert sorted(queued) == sorted(stream.stream_id or 0 for stream in streams if not stream.sender.buffer_is_empty)
    for stream in streams:
        assert not stream.is_finished, "a stream that has ended was not put away"
        wants_control = stream.sender.reset_pending or stream.receiver.stop_pending
        assert not wants_control or stream.stream_id in table.controls
        assert not stream.owes_limit or stream.stream_id in table.limits
    assert set(table) >= {*table.controls, *table.limits}
