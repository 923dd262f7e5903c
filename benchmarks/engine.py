"""Our QUIC engine beside plain aioquic: processor time in memory, without sockets, Trio or anything above.

Both ends of a connection are in this process and time is a number, so nothing but the engines is measured. Each load
runs on either kind in turn (A B A B); the table shows medians and their ratio. Content is compared. Plain aioquic gets
our settings, and acknowledges with every flush.
"""

# ruff: noqa: SLF001 - plain aioquic tells some of what is asked here nowhere else

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import attrs
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import StreamDataReceived
from aioquic.tls import Epoch
from measure import machine, versions

from rpcnet._net.identity import Credentials, Security
from rpcnet._net.quic_engine import Engine, configure

CLIENT, SERVER = ("10.0.0.1", 1), ("10.0.0.2", 1)
WINDOW_BYTES = 8 << 20
ACK_DELAY = 0.008
LATENCY = 0.0001
BLOCK = bytes(range(256)) * 4096


class Plain(QuicConnection):
    """An unmodified connection, whose acknowledgements ride along with data."""

    def __init__(self, settings: object, original_destination: bytes | None) -> None:
        super().__init__(configuration=settings, original_destination_connection_id=original_destination)  # type: ignore[arg-type]
        self._ack_delay = ACK_DELAY

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, object]]:
        """Return what is to be sent; acknowledgements ride along with data."""
        space = self._spaces.get(Epoch.ONE_RTT)
        if space is not None and space.ack_at is not None:
            space.ack_at = min(space.ack_at, now)
        return super().datagrams_to_send(now)


def ours(settings: object, original_destination: bytes | None) -> QuicConnection:
    """Make a connection of our kind."""
    return Engine(settings, lambda _: None, original_destination=original_destination)  # type: ignore[arg-type]


KINDS: dict[str, Callable[[object, bytes | None], QuicConnection]] = {"plain": Plain, "ours": ours}


@attrs.define(eq=False)
class Pair:
    """Two connected ends."""

    kind: str
    credentials: Credentials
    max_datagram_bytes: int
    now: float = 1.0
    ends: list[QuicConnection] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        make = KINDS[self.kind]
        client = make(self._settings(is_client=True), None)
        client.connect(SERVER, self.now)
        first = client.datagrams_to_send(self.now)
        server = make(self._settings(is_client=False), first[0][0][6:14])
        self.ends = [client, server]
        for data, _ in first:
            server.receive_datagram(data, CLIENT, self.now)
        for _ in range(20):
            self.now += LATENCY
            self.move(1)
            self.move(0)
        self.take(0)
        self.take(1)

    def _settings(self, *, is_client: bool) -> object:
        return configure(
            self.credentials,
            is_client=is_client,
            max_datagram_bytes=self.max_datagram_bytes,
            window_bytes=WINDOW_BYTES,
            idle_timeout=60,
        )

    def move(self, side: int) -> int:
        """Carry what one end has to send to the other; return how many datagrams that were."""
        sender, receiver = self.ends[side], self.ends[1 - side]
        source = (CLIENT, SERVER)[side]
        count = empty = 0
        while empty < 2:
            datagrams = sender.datagrams_to_send(self.now)
            for data, _ in datagrams:
                receiver.receive_datagram(data, source, self.now)
            count += len(datagrams)
            empty = 0 if datagrams else empty + 1
            if sender._pacing_at is None:
                break
            self.now = max(self.now, sender._pacing_at)
        return count

    def turn(self) -> None:
        """Let both ends send, and their timers fire when they have nothing to send."""
        self.now += LATENCY
        if not self.move(0) + self.move(1):
            timers = [(end, end.get_timer()) for end in self.ends]
            self.now = max(self.now, min(at for _, at in timers if at is not None))
            for end, at in timers:
                if at is not None and at <= self.now:
                    end.handle_timer(self.now)

    def take(self, side: int) -> list[StreamDataReceived]:
        """Return the data that arrived at one end."""
        found = []
        while (event := self.ends[side].next_event()) is not None:
            if isinstance(event, StreamDataReceived):
                found.append(event)
        return found


def calls(pair: Pair, at_once: int, rounds: int) -> float:
    """Return processor microseconds per round trip of so many 64-byte messages, on one stream, of both ends."""
    client, server = pair.ends
    stream_id = client.get_next_available_stream_id()

    def once(number: int) -> None:
        messages = [b"%064d" % (number * at_once + index) for index in range(at_once)]
        for message in messages:
            client.send_stream_data(stream_id, message)
        pair.now += LATENCY
        pair.move(0)
        asked = b"".join(event.data for event in pair.take(1))
        server.get_timer()
        server.send_stream_data(stream_id, asked)
        pair.now += LATENCY
        pair.move(1)
        client.get_timer()
        if b"".join(event.data for event in pair.take(0)) != b"".join(messages):
            raise ValueError("the answer is not what was asked")

    for number in range(50):
        once(number)
    began = time.process_time()
    for number in range(rounds):
        once(number)
    return (time.process_time() - began) / rounds * 1e6


def bulk(pair: Pair, streams: int, size: int, at_once: int) -> float:
    """Return microseconds of both ends per KiB of one-way streams of that size, so many of them at a time."""
    want = BLOCK[:size]
    began = time.process_time()
    left = streams
    while left:
        batch = min(left, at_once)
        left -= batch
        received: dict[int, list[bytes]] = {}
        for _ in range(batch):
            stream_id = pair.ends[0].get_next_available_stream_id(is_unidirectional=True)
            received[stream_id] = []
            pair.ends[0].send_stream_data(stream_id, want, end_stream=True)
        while batch:
            pair.turn()
            for event in pair.take(1):
                received[event.stream_id].append(event.data)
                batch -= event.end_stream
            pair.take(0)
        if any(b"".join(parts) != want for parts in received.values()):
            raise ValueError("what arrived is not what was sent")
    return (time.process_time() - began) * 1e6 / (streams * size / 1024)


LOADS: dict[str, tuple[int, Callable[[Pair], float]]] = {
    "round trip of 64 B, us": (8900, lambda pair: calls(pair, 1, 1000)),
    "round trip of 64 times 64 B, us": (8900, lambda pair: calls(pair, 64, 200)),
    **{
        f"1 MiB at {size} B, us per KiB": (size, lambda pair: bulk(pair, 4, 1 << 20, 1))
        for size in (1200, 1452, 8900, 16383)
    },
    "120 streams of 64 KiB in turn, us per KiB": (1200, lambda pair: bulk(pair, 120, 64 << 10, 1)),
    "120 streams of 64 KiB at once, us per KiB": (1200, lambda pair: bulk(pair, 120, 64 << 10, 120)),
}


def main() -> None:
    """Run the loads and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    credentials = Security.shared_secret("a secret of the benchmark, no other", cluster="bench").issue("bench")
    figures: dict[str, dict[str, float]] = {}
    for name, (max_datagram_bytes, load) in LOADS.items():
        found: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(arguments.rounds):
            for kind, values in found.items():
                values.append(load(Pair(kind, credentials, max_datagram_bytes)))
        figures[name] = {kind: statistics.median(values) for kind, values in found.items()}
        if not arguments.json:
            plain, mine = figures[name]["plain"], figures[name]["ours"]
            print(f"{name:44} plain {plain:8.2f}   ours {mine:8.2f}   ratio {plain / mine:5.2f}", flush=True)
    if arguments.json:
        print(json.dumps({"machine": machine(), "versions": versions(["aioquic", "cryptography"]), "figures": figures}))


if __name__ == "__main__":
    main()
