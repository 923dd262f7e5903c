"""The simulated network: datagrams in virtual time, with latency, loss, partitions and crashed hosts; and a disk.

The rules of this file:

* Whatever happens depends on the generator and on Trio's clock only, so the same seed gives the same run.
* A datagram is judged when it is sent: what a later partition or crash of the sender would forbid still arrives. The
  receiver is judged on arrival: a crashed host takes nothing.
* A host is up from the first time something is bound on it until it crashes. One that is up answers a datagram to
  where nothing is bound with a refusal, which travels, and gets lost, like a datagram; one that is not stays silent.
* Datagrams that are due at the same moment arrive in the order in which they were sent.
* A datagram above the MTU is refused like the kernel's EMSGSIZE; a full receive queue loses the newest.
"""

from __future__ import annotations

import heapq
import socket
from collections import deque
from collections.abc import Iterable, Sequence
from random import Random
from typing import TypeVar

import attrs
import trio

from rpcnet.errors import ConfigError

from .addresses import Address, format_address, is_literal, is_loopback, is_wildcard, parse_address
from .file_reading import read_head_now
from .ports import SAFE_DATAGRAM_BYTES, PortStatistics, ServiceRecord

__all__ = ["MemoryNetwork", "MemoryPort", "NetworkStatistics", "SimulatedEnvironment"]

T = TypeVar("T")
Latency = tuple[float, float]
"""The least and the most seconds that a datagram takes; between them it is uniform."""

_QUEUE_DATAGRAMS = 4096
_MAX_REFUSED = 256
_DEFAULT_PORT = 7946
_EPOCH = 1893456000.0  # 2030-01-01
_FOREVER = float("inf")


@attrs.frozen
class NetworkStatistics:
    """What became of the datagrams that ports sent."""

    sent: int
    """Taken from a sender."""
    delivered: int
    """Put into the queue of a receiver."""
    lost: int
    """Lost by chance."""
    blocked: int
    """Lost to a partition or a block."""
    unreachable: int
    """Sent by or to a host that is not there, or to where nothing is bound."""
    refusals: int
    """Refusals that reached who had sent the datagram."""


@attrs.define(eq=False)
class _Link:
    latency: Latency
    loss: float
    blocked: bool = False


class MemoryPort:
    """A port on the simulated network; :meth:`MemoryNetwork.bind` makes it."""

    def __init__(self, network: MemoryNetwork, address: Address) -> None:
        self._network = network
        self._address = address
        self._queue: deque[tuple[bytes, Address]] = deque()
        self._readers = trio.lowlevel.ParkingLot()
        self._closed = False
        self._received = self._received_bytes = self._sent = self._sent_bytes = 0
        self._refused = self._overflowed = self._refusals = 0
        self._refused_at: dict[Address, None] = {}
        self._has_errors = False  # as a socket's error queue has: it wakes the reader until that has looked

    @property
    def local_address(self) -> str:
        """The address it is bound to."""
        return format_address(self._address)

    def receive(self) -> tuple[bytes, Address] | None:
        """Return one datagram and its source without waiting; None when nothing waits."""
        if not self._queue:
            self._has_errors = False
            return None
        datagram = self._queue.popleft()
        self._received += 1
        self._received_bytes += len(datagram[0])
        return datagram

    async def wait_readable(self) -> None:
        """Wait until :meth:`receive` has something; a checkpoint.

        Raises:
            trio.ClosedResourceError: when the port is closed, before or while waiting.
        """
        if self._closed or self._queue or self._has_errors:
            await trio.lowlevel.checkpoint()
        else:
            await self._readers.park()
        if self._closed:
            raise trio.ClosedResourceError("the simulated port is closed")

    def send(self, datagrams: Sequence[tuple[bytes, Address]]) -> int:
        """Send datagrams; those above the MTU, or from a closed port, are lost. Return how many were taken."""
        taken = 0
        for data, destination in datagrams:
            if self._closed or len(data) > SAFE_DATAGRAM_BYTES:
                self._refused += 1
                continue
            taken += 1
            self._sent_bytes += len(data)
            self._network._carry(self, data, self._address, destination)  # noqa: SLF001 - a port is a part of its network
        self._sent += taken
        return taken

    def refused(self) -> list[Address]:
        """Return where, as hosts have said since the last time, nobody listens; each once, a bounded number."""
        if not self._refused_at:
            return []
        refused, self._refused_at = list(self._refused_at), {}
        return refused

    def max_datagram_bytes(self, host: str) -> int:
        """Return the MTU of the simulated network."""
        return SAFE_DATAGRAM_BYTES

    def close(self) -> None:
        """Give the address back; does nothing the second time."""
        if not self._closed:
            self._closed = True
            self.drop_queue()
            self._network._release(self, self._address)  # noqa: SLF001 - a port is a part of its network
            self._readers.unpark_all()

    def statistics(self) -> PortStatistics:
        """Return the counters."""
        return PortStatistics(
            datagrams_received=self._received,
            bytes_received=self._received_bytes,
            datagrams_sent=self._sent,
            bytes_sent=self._sent_bytes,
            datagrams_refused=self._refused,
            datagrams_overflowed=self._overflowed,
            refusals=self._refusals,
            network_errors=0,
        )

    def drop_queue(self) -> None:
        """Forget what was received and not read, for the network."""
        self._queue.clear()
        self._refused_at.clear()

    def deliver(self, data: bytes, source: Address) -> bool:
        """Put a datagram into the queue, for the network; False when the queue is full."""
        if len(self._queue) >= _QUEUE_DATAGRAMS:
            self._overflowed += 1
            return False
        self._queue.append((data, source))
        self._readers.unpark_all()
        return True

    def deliver_refusal(self, address: Address) -> None:
        """Note that nobody listens at an address, for the network."""
        self._refusals += 1
        if len(self._refused_at) < _MAX_REFUSED:
            self._refused_at[address] = None
        self._has_errors = True
        self._readers.unpark_all()


class MemoryNetwork:
    """Carries datagrams between simulated hosts.

    Args:
        rng: decides latency and loss.
        latency: seconds a datagram takes, the least and the most, for links without a setting of their own.
        loss: the probability that a datagram is lost, for links without a setting of their own.
    """

    def __init__(self, rng: Random, *, latency: Latency = (0.001, 0.001), loss: float = 0.0) -> None:
        self._rng = rng
        self._default = _Link(latency, loss)
        self._links: dict[tuple[str, str], _Link] = {}
        self._ports: dict[Address, MemoryPort] = {}
        self._hosts_up: dict[str, None] = {}
        self._flying: list[tuple[float, int, bytes | None, Address, Address]] = []
        self._names: dict[str, list[str]] = {}
        self._services: dict[str, list[ServiceRecord]] = {}
        self._count = 0
        self._sleeping: trio.CancelScope | None = None
        self._sent = self._delivered = self._lost = self._blocked = self._unreachable = self._refusals = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver what is due, for ever; run it in a nursery that outlives the ports."""
        task_status.started()
        while True:
            self._deliver_due(trio.current_time())
            with trio.CancelScope(deadline=self._flying[0][0] if self._flying else _FOREVER) as self._sleeping:
                await trio.sleep_forever()
            self._sleeping = None

    def bind(self, address: Address) -> MemoryPort:
        """Open a port; a crashed host comes back by binding again.

        Raises:
            ConfigError: if the address is taken.
        """
        if address in self._ports:
            raise ConfigError(f"bind address {format_address(address)!r}: address already in use")
        port = self._ports[address] = MemoryPort(self, address)
        self._hosts_up[address[0]] = None
        return port

    def is_bound(self, address: Address) -> bool:
        """Say whether an address is taken."""
        return address in self._ports

    # --- faults

    def set_latency(self, source: str, destination: str, latency: Latency) -> None:
        """Set the seconds that datagrams take from one host to another, one way."""
        self._link(source, destination).latency = latency

    def set_loss(self, source: str, destination: str, loss: float) -> None:
        """Set the probability of loss from one host to another, one way."""
        self._link(source, destination).loss = loss

    def block(self, source: str, destination: str) -> None:
        """Lose everything from one host to another, one way, until :meth:`repair`."""
        self._link(source, destination).blocked = True

    def partition(self, group_a: Iterable[str], group_b: Iterable[str]) -> None:
        """Lose everything between two groups of hosts, both ways, until :meth:`repair`."""
        others = tuple(group_b)
        for host in group_a:
            for other in others:
                self.block(host, other)
                self.block(other, host)

    def repair(self) -> None:
        """End all partitions and blocks; latency and loss stay as they are."""
        for link in self._links.values():
            link.blocked = False

    def crash(self, host: str) -> None:
        """Take a host off the network: it sends and takes nothing more; what is on its way from it still arrives.

        Nobody answers in its place. It is up again when something is bound on it.
        """
        self.kill(host)
        self._hosts_up.pop(host, None)

    def kill(self, host: str) -> None:
        """End everything that is bound on a host, as a crash does; but the host stays up and refuses datagrams."""
        for address in [address for address in self._ports if address[0] == host]:
            self._ports.pop(address).drop_queue()

    # --- names

    def set_name(self, name: str, ips: Sequence[str]) -> None:
        """Let a name stand for these IP addresses from now on; for none, the name is unknown again."""
        self._names[name] = list(ips)

    def set_service(self, name: str, records: Sequence[ServiceRecord]) -> None:
        """Let a name have these SRV records from now on; with none, the name is unknown again."""
        self._services[name] = list(records)

    def ips(self, name: str) -> list[str]:
        """Return the IP addresses of a name.

        Raises:
            OSError: nobody set it.
        """
        return _known(self._names, name)

    def services(self, name: str) -> list[ServiceRecord]:
        """Return the SRV records of a name.

        Raises:
            OSError: nobody set it.
        """
        return _known(self._services, name)

    # --- counters

    def statistics(self) -> NetworkStatistics:
        """Return what became of the datagrams."""
        return NetworkStatistics(
            sent=self._sent,
            delivered=self._delivered,
            lost=self._lost,
            blocked=self._blocked,
            unreachable=self._unreachable,
            refusals=self._refusals,
        )

    # --- carrying

    def _link(self, source: str, destination: str) -> _Link:
        link = self._links.get((source, destination))
        if link is None:
            link = self._links[source, destination] = attrs.evolve(self._default)
        return link

    def _carry(self, port: MemoryPort, data: bytes, source: Address, destination: Address) -> None:
        self._sent += 1
        if self._ports.get(source) is not port:
            self._unreachable += 1
            return
        self._send_off(data, source, destination)

    def _send_off(self, data: bytes | None, source: Address, destination: Address) -> None:
        """Let a datagram fly, or a refusal, which is None."""
        link = self._links.get((source[0], destination[0]), self._default)
        if link.blocked:
            self._blocked += data is not None
            return
        if link.loss and self._rng.random() < link.loss:
            self._lost += data is not None
            return
        low, high = link.latency
        at = trio.current_time() + (self._rng.uniform(low, high) if low < high else low)
        self._count += 1
        heapq.heappush(self._flying, (at, self._count, data, source, destination))
        if self._sleeping is not None and at < self._sleeping.deadline:
            self._sleeping.deadline = at

    def _deliver_due(self, now: float) -> None:
        flying = self._flying
        while flying and flying[0][0] <= now:
            _, _, data, source, destination = heapq.heappop(flying)
            port = self._ports.get(destination)
            if data is None:
                self._deliver_refusal(port, source)
            elif port is None:
                self._unreachable += 1
                if destination[0] in self._hosts_up:
                    self._send_off(None, destination, source)
            elif port.deliver(data, source):
                self._delivered += 1

    def _deliver_refusal(self, port: MemoryPort | None, address: Address) -> None:
        if port is not None:
            port.deliver_refusal(address)
            self._refusals += 1

    def _release(self, port: MemoryPort, address: Address) -> None:
        if self._ports.get(address) is port:
            del self._ports[address]


class SimulatedEnvironment:
    """An environment on a simulated network; everything in it follows from the seed.

    Args:
        network: carries the datagrams.
        seed: decides every generator and token.
        names: IP addresses by host name, for the network's table of names.
    """

    def __init__(self, network: MemoryNetwork, seed: int, names: dict[str, list[str]] | None = None) -> None:
        self.network = network
        self._rng = Random(seed)
        for name, ips in (names or {}).items():
            network.set_name(name, ips)
        self._hosts = 0
        self.files: dict[str, bytes] = {}
        """The disk: what each file holds, by path. It survives whatever becomes of nodes and hosts."""

    async def bind(self, address: str) -> MemoryPort:
        """Open a port. A loopback or wildcard address with port 0 becomes a host of its own, ``10.0.0.N:7946``.

        Raises:
            ConfigError: if the address is wrong or taken; the message names it.
        """
        host, port = parse_address(address)
        await trio.lowlevel.checkpoint()
        if port == 0 and (is_loopback(host) or is_wildcard(host)):
            return self.network.bind(self._next_host())
        return self.network.bind((host, port or _DEFAULT_PORT))

    async def resolve(self, host: str) -> list[str]:
        """Return the addresses of a host from the table of names; a checkpoint.

        Raises:
            OSError: if the table has no such name.
        """
        await trio.lowlevel.checkpoint()
        if is_literal(host):
            return [host]
        return self.network.ips(host)

    async def lookup(self, name: str) -> list[str]:
        """Return the addresses of a name from the table of names; a checkpoint.

        Raises:
            OSError: if the table has no such name.
        """
        await trio.lowlevel.checkpoint()
        return self.network.ips(name)

    async def lookup_service(self, name: str) -> list[ServiceRecord]:
        """Return the SRV records of a name from the table of services; a checkpoint.

        Raises:
            OSError: if the table has no such name.
        """
        await trio.lowlevel.checkpoint()
        return self.network.services(name)

    async def read_head(self, path: str, limit: int) -> bytes:
        """Return the first ``limit`` bytes of a real file, at once: a thread would take no virtual time. A checkpoint.

        Raises:
            OSError: if it cannot be read, or is a pipe or a device.
        """
        await trio.lowlevel.checkpoint()
        return read_head_now(path, limit)

    def rng(self) -> Random:
        """Return a fresh generator for one node."""
        return Random(self._rng.getrandbits(64))

    def token_bytes(self, size: int) -> bytes:
        """Return that many bytes of the seeded generator."""
        return self._rng.randbytes(size)

    def wall_clock(self) -> float:
        """Return virtual seconds since 1970; a run starts in 2030."""
        return _EPOCH + trio.current_time()

    def hostname(self) -> str:
        """Return the same name on every simulated host."""
        return "simulated"

    async def read_file(self, path: str) -> bytes | None:
        """Return what a file on the simulated disk holds; None if there is none. A checkpoint."""
        await trio.lowlevel.checkpoint()
        return self.files.get(path)

    async def write_file(self, path: str, data: bytes) -> None:
        """Replace a file on the simulated disk. A checkpoint."""
        await trio.lowlevel.checkpoint()
        self.files[path] = data

    def _next_host(self) -> Address:
        while True:
            self._hosts += 1
            third, fourth = divmod(self._hosts, 250)
            address = (f"10.{third // 250}.{third % 250}.{fourth + (third > 0)}", _DEFAULT_PORT)
            if not self.network.is_bound(address):
                return address


def _known(table: dict[str, list[T]], name: str) -> list[T]:
    if not table.get(name):
        raise socket.gaierror(socket.EAI_NONAME, f"{name}: unknown in this simulation")
    return list(table[name])
