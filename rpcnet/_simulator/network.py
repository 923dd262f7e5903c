"""The simulated network: how long things take, what gets lost, who is cut off from whom, and how many bytes it all is.

The rules of this file:

* A datagram is counted with what sealing (36 bytes) and IPv4 with UDP (28) add, when it is sent, lost or not.
* A stream does not lose anything, it is late: each packet that is lost costs a probe timeout, which doubles. It is
  counted with the headers of its packets, the acknowledgements that they cause, and the handshake of its connection
  when there is none yet; connections are closed when they have been idle for a minute.
"""

from __future__ import annotations

import math
import random

import attrs

from .scenario import Latency

__all__ = ["DATAGRAM_OVERHEAD", "Network", "Traffic"]

DATAGRAM_OVERHEAD = 36 + 28
_PACKET_BYTES = 1200
_PACKET_OVERHEAD = 28 + 12 + 16 + 4
_ACKNOWLEDGEMENT_BYTES = 28 + 12 + 16 + 6
_HANDSHAKE_BYTES = 4000  # measured on the whole stack, with certificates of elliptic curves, both directions
_IDLE_TIMEOUT = 60.0
_FIRST_WINDOW = 10
_FIRST_TIMEOUT = 0.1
_LONGEST_TIMEOUT = 3.2


@attrs.define
class Traffic:
    """Counters of everything that was sent so far."""

    datagrams: int = 0
    """How many."""
    bytes: int = 0
    """In datagrams."""
    stream_bytes: int = 0
    """Over streams."""
    streams: int = 0
    """Exchanges over streams."""


class Network:
    """Delays, losses and cuts between hosts, which are known by number.

    Args:
        rng: where chance comes from.
        latency: how long datagrams take.
        loss: the probability that one is lost.
        duplication: the probability that one arrives a second time.
    """

    def __init__(self, rng: random.Random, latency: Latency, loss: float, duplication: float) -> None:
        self._rng = rng
        self._latency = latency
        self.loss = loss
        self.duplication = duplication
        self.traffic = Traffic()
        self._sides: dict[int, int] = {}
        self._blocked: set[tuple[int, int]] = set()
        self._connections: dict[tuple[int, int], float] = {}
        self.is_cut = False

    # --- cuts

    def partition(self, *groups: tuple[int, ...]) -> None:
        """Let nothing pass between groups; who is in none is in one with the others who are in none."""
        self._sides = {number: side for side, group in enumerate(groups) for number in group}
        self.is_cut = True

    def block(self, source: int, destination: int) -> None:
        """Let nothing pass in one direction."""
        self._blocked.add((source, destination))
        self.is_cut = True

    def unblock(self, source: int, destination: int) -> None:
        """End a block."""
        self._blocked.discard((source, destination))
        self.is_cut = bool(self._sides or self._blocked)

    def repair(self) -> None:
        """End all partitions and blocks."""
        self._sides = {}
        self._blocked = set()
        self.is_cut = False

    def reaches(self, source: int, destination: int) -> bool:
        """Tell whether anything passes in this direction."""
        sides = self._sides
        return sides.get(source, -1) == sides.get(destination, -1) and (source, destination) not in self._blocked

    # --- datagrams

    def delay(self) -> float:
        """Return how long one datagram takes."""
        latency = self._latency
        if latency.shape == "uniform":
            return latency.median * (1.0 + latency.spread * (2.0 * self._rng.random() - 1.0))
        return latency.median * math.exp(self._rng.gauss(0.0, latency.spread))

    def arrivals(self) -> tuple[float, ...]:
        """Return after how many seconds a datagram arrives: once, not at all, or twice."""
        random = self._rng.random
        copies = 1 + (self.duplication > 0.0 and random() < self.duplication)
        if copies == 1:
            return () if self.loss and random() < self.loss else (self.delay(),)
        late = (0.0, random())
        return tuple(self.delay() + after for after in late if random() >= self.loss)

    # --- streams

    def opening(self, source: int, destination: int, now: float) -> float:
        """Return how long it takes until a stream is open; count the handshake if there is no connection."""
        self.traffic.streams += 1
        pair = (min(source, destination), max(source, destination))
        is_open = self._connections.get(pair, -math.inf) > now - _IDLE_TIMEOUT
        self._connections[pair] = now
        if is_open:
            return 0.0
        self.traffic.stream_bytes += _HANDSHAKE_BYTES
        return self._transfer(3) + self._transfer(3)

    def transfer(self, size: int) -> float:
        """Return how long ``size`` bytes take over an open stream, and count them."""
        packets = 1 + size // _PACKET_BYTES
        self.traffic.stream_bytes += size + packets * _PACKET_OVERHEAD + (1 + packets // 2) * _ACKNOWLEDGEMENT_BYTES
        return self._transfer(packets)

    def _transfer(self, packets: int) -> float:
        rounds = 1 + 2 * max(0, math.ceil(math.log2(packets / _FIRST_WINDOW))) if packets > _FIRST_WINDOW else 1
        seconds = rounds * self.delay()
        if not self.loss:
            return seconds
        timeout, lost = _FIRST_TIMEOUT, packets
        while lost:
            lost = sum(self._rng.random() < self.loss for _ in range(min(lost, 1000)))
            if lost:
                seconds += timeout
                timeout = min(2 * timeout, _LONGEST_TIMEOUT)
        return seconds

    def forget_connections(self, number: int) -> None:
        """Drop the connections of a host whose process ended."""
        for pair in [pair for pair in self._connections if number in pair]:
            del self._connections[pair]
