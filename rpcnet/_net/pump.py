"""The pump: who reads the one UDP port, who flushes, and the one timer.

The rules of this file:

* Reading is a role, not a task. The pump's own reader has it by default. While calls flow, the worker that runs the
  handlers takes it (``take_reading``) and gives it back (``release_reading``), so that a call needs no task switch
  between the socket, its handler and the answer.
* What is written since the last flush goes out together. Whoever is about to sleep flushes; when nobody is, the
  flusher does, one turn of the scheduler after the first writer.
* Membership datagrams are handed on before QUIC is looked at, so that an ack never waits for a handler.
* One timer serves all connections; nothing polls.
* Ctrl-C strikes in the application's code, never in here: a node's tasks are protected, so that it can say goodbye.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs
import trio
from trio.lowlevel import Abort, RaiseCancelT, current_task, enable_ki_protection, reschedule, wait_task_rescheduled

from .alarm import Alarm
from .ports import Address, DatagramPort
from .quic import QuicEndpoint
from .sealing import Sealer

__all__ = ["DatagramSink", "PortPump", "PumpStatistics", "RefusalSink", "Writer"]

DatagramSink = Callable[[bytes, Address, float], None]
"""Takes an opened membership datagram, its source and when it was read; must not raise."""
RefusalSink = Callable[[Address, float], None]
"""Takes an address at which nobody listens, and when that was read; must not raise."""

_SEALED_FIRST, _SEALED_LAST = 0x20, 0x3F
_MIN_BURST, _MAX_BURST = 4, 64


class Writer(Protocol):
    """Something that collects what it has to send until the pump flushes."""

    def write_out(self) -> None:
        """Hand everything collected to QUIC."""


@attrs.frozen
class PumpStatistics:
    """Counters of a pump since it was made."""

    datagrams_read: int
    """Datagrams taken from the port."""
    datagrams_dropped: int
    """Datagrams whose first byte belongs to neither QUIC nor membership."""
    flushes: int
    """How often something was flushed."""


class PortPump:
    """Moves datagrams between a port, QUIC and membership.

    Args:
        port: the UDP port, real or simulated.
        quic: all QUIC connections of the port.
        sealer: opens membership datagrams.
        on_membership: takes what was opened.
        on_refused: takes what the network says of closed ports; None if nobody wants to know.
    """

    def __init__(
        self,
        port: DatagramPort,
        quic: QuicEndpoint,
        sealer: Sealer,
        on_membership: DatagramSink,
        on_refused: RefusalSink | None = None,
    ) -> None:
        self._port = port
        self._quic = quic
        self._sealer = sealer
        self._on_membership = on_membership
        self._on_refused = on_refused
        self._writers: list[Writer] = []
        self._quic_dirty = False
        self._burst = _MIN_BURST
        self._read = self._dropped = self._flushes = 0
        self._reader_taken = False
        self._parked_reader: trio.lowlevel.Task | None = None
        self._parked_flusher: trio.lowlevel.Task | None = None
        self._alarm = Alarm(quic.next_timer, self._on_timer)
        self.busy = False
        """True while somebody processes input and will flush when done; writers then need not ask for a flush."""
        self.on_calls: Callable[[], None] | None = None
        """Called by the pump's own reader after a burst: the RPC server wakes a worker, which may take the role."""
        quic.on_dirty = self._on_quic_dirty

    def statistics(self) -> PumpStatistics:
        """Return the counters."""
        return PumpStatistics(self._read, self._dropped, self._flushes)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the port until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_by_default, name="rpcnet port reader")
            nursery.start_soon(self._flush_on_request, name="rpcnet port flusher")
            nursery.start_soon(self._alarm.run, name="rpcnet port timer")
            task_status.started()

    # --- reading

    async def wait_and_read(self) -> None:
        """Wait until the port is readable, read a burst and hand everything on; only for who holds the reading role.

        A checkpoint. Afterwards the pump is busy: the caller processes what arrived and calls :meth:`finish`.
        """
        await self._port.wait_readable()
        self.busy = True
        self.read_burst()

    def finish(self) -> None:
        """End being busy, and send what was written meanwhile."""
        self.busy = False
        if self._writers:
            self.flush()
        elif self._quic_dirty:
            self._wake_flusher()
        self._alarm.rearm()

    def read_burst(self) -> None:
        """Read what waits, up to a number of datagrams that adapts, and hand everything on."""
        now = trio.current_time()
        receive, quic_receive = self._port.receive, self._quic.receive
        count, touched = 0, False
        while count < self._burst:
            got = receive()
            if got is None:
                break
            count += 1
            data, source = got
            first = data[0] if data else 0
            if first & 0x40:
                quic_receive(data, source, now)
                touched = True
            elif _SEALED_FIRST <= first <= _SEALED_LAST:
                payload = self._sealer.open(data)
                if payload is not None:
                    self._on_membership(payload, source, now)
            else:
                self._dropped += 1
        if self._on_refused is not None:
            for address in self._port.refused():
                self._on_refused(address, now)
        self._read += count
        if count == self._burst:
            self._burst = min(_MAX_BURST, self._burst * 2)
        elif count < self._burst // 4:
            self._burst = max(_MIN_BURST, self._burst // 2)
        if touched:
            self._quic.settle(now)

    def take_reading(self) -> bool:
        """Take the reading role if it is free of workers; its holder must be the only one to ``wait_and_read``."""
        if self._reader_taken or self._parked_reader is None:
            return False
        self._reader_taken = True
        return True

    def release_reading(self) -> None:
        """Give the reading role back; the pump's own reader takes over."""
        self._reader_taken = False
        if self._parked_reader is not None:
            task, self._parked_reader = self._parked_reader, None
            reschedule(task)

    @enable_ki_protection
    async def _read_by_default(self) -> None:
        try:
            while True:
                await self.wait_and_read()
                self.finish()
                if self.on_calls is not None:
                    self._parked_reader = current_task()
                    self.on_calls()
                    if self._reader_taken:
                        await wait_task_rescheduled(self._abort_reader)
                    self._parked_reader = None
        finally:
            self.busy = False

    def _abort_reader(self, _: RaiseCancelT) -> Abort:
        self._parked_reader = None  # before the task runs again, so that nobody wakes it a second time
        return Abort.SUCCEEDED

    # --- writing

    def add_writer(self, writer: Writer) -> None:
        """Register a writer for the next flush, once per flush."""
        self._writers.append(writer)
        if not self.busy:
            self._wake_flusher()

    def flush(self) -> None:
        """Send everything that was written, and set the timer."""
        writers = self._writers
        if writers:
            self._writers = []
            was_busy, self.busy = self.busy, True  # what they write is sent here; nobody else need be woken for it
            for writer in writers:
                writer.write_out()
            self.busy = was_busy
        self._quic_dirty = False
        self._flushes += 1
        self._quic.flush(trio.current_time())
        self._alarm.rearm()

    @property
    def has_output(self) -> bool:
        """Whether a flush would have something to do."""
        return bool(self._writers) or self._quic_dirty

    def send_sealed(self, payload: bytes, address: Address) -> None:
        """Seal a membership payload and send it at once."""
        self._port.send([(self._sealer.seal(payload), address)])

    def _on_quic_dirty(self) -> None:
        self._quic_dirty = True
        if not self.busy:
            self._wake_flusher()

    def _wake_flusher(self) -> None:
        if self._parked_flusher is not None:
            task, self._parked_flusher = self._parked_flusher, None
            reschedule(task)

    @enable_ki_protection
    async def _flush_on_request(self) -> None:
        await trio.lowlevel.checkpoint()
        while True:
            if not self.has_output:
                self._parked_flusher = current_task()
                await wait_task_rescheduled(self._abort_flusher)
            if self.has_output:
                self.flush()

    def _abort_flusher(self, _: RaiseCancelT) -> Abort:
        self._parked_flusher = None
        return Abort.SUCCEEDED

    def _on_timer(self, now: float) -> None:
        self._quic.on_timer(now)
        if self.has_output:
            self.flush()
