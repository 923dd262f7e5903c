"""The ports of a node: what it takes from the world outside, so that a simulation can stand in for all of it.

The rules of this file:

* A :class:`DatagramPort` moves datagrams and never waits except in ``wait_readable``; what cannot be sent is lost, as
  on any network.
* An :class:`Environment` is everything else that is not computed: binding, names, randomness, the wall clock. Time is
  ``trio.current_time()`` and is no part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Protocol

import attrs

from .addresses import Address

__all__ = ["SAFE_DATAGRAM_BYTES", "Address", "DatagramPort", "Environment", "PortStatistics", "ServiceRecord"]

SAFE_DATAGRAM_BYTES = 1200
"""The largest UDP payload that every path carries (RFC 9000, section 14)."""


@attrs.frozen
class PortStatistics:
    """Counters of a port since it was bound."""

    datagrams_received: int
    """Datagrams handed to the reader."""
    bytes_received: int
    """Their payload."""
    datagrams_sent: int
    """Datagrams handed to the kernel or the simulated network."""
    bytes_sent: int
    """Their payload."""
    datagrams_refused: int
    """Datagrams that were not taken: the buffer was full, the datagram too large, the host unreachable."""
    datagrams_overflowed: int
    """Datagrams lost here because nobody read; a kernel does not tell, so 0 on a real socket."""
    refusals: int = 0
    """Datagrams of which the network said that nobody listens where they went; told on Linux and in simulations."""
    network_errors: int = 0
    """Datagrams of which it said something else, for example that the host cannot be reached; told on Linux."""


@attrs.frozen
class ServiceRecord:
    """Where DNS says that a service is found: one SRV record (RFC 2782)."""

    priority: int
    """Those with the lowest number are tried first."""
    weight: int
    """Among equal priorities, how much of the load it wants."""
    port: int
    """The port."""
    target: str
    """The name of the host."""


class DatagramPort(Protocol):
    """One UDP port."""

    @property
    def local_address(self) -> str:
        """The address it is bound to, with the real port number."""
        ...

    def receive(self) -> tuple[bytes, Address] | None:
        """Return one datagram and its source without waiting; None when nothing waits."""
        ...

    async def wait_readable(self) -> None:
        """Wait until :meth:`receive` may have something; a checkpoint.

        Raises:
            trio.ClosedResourceError: when the port is closed, before or while waiting.
        """
        ...

    def send(self, datagrams: Sequence[tuple[bytes, Address]]) -> int:
        """Send datagrams without waiting; what is not taken is lost. Return how many were taken."""
        ...

    def refused(self) -> list[Address]:
        """Return where, as the network has said since the last time, nobody listens; each once, a bounded number.

        Never waits. What is known is known after a :meth:`receive` that found nothing. It is a hint, since whoever
        can send datagrams in a host's name can make it up. Empty for ever where a platform does not tell.
        """
        ...

    def max_datagram_bytes(self, host: str) -> int:
        """Return the largest payload believed to reach that host in one piece."""
        ...

    def close(self) -> None:
        """Give the port back; does nothing the second time."""
        ...

    def statistics(self) -> PortStatistics:
        """Return the counters."""
        ...


class Environment(Protocol):
    """What a node takes from outside, besides time."""

    async def bind(self, address: str) -> DatagramPort:
        """Open a UDP port; port number 0 asks for any free one.

        Raises:
            ConfigError: if the address is wrong, taken, or not one of this machine; the message names it.
        """
        ...

    async def resolve(self, host: str) -> list[str]:
        """Return the IP addresses of a host, the best first; an IP address is returned as it is. A checkpoint.

        Raises:
            OSError: if the name is not known or the resolver does not answer.
        """
        ...

    async def lookup(self, name: str) -> list[str]:
        """Return every address that DNS has for a name, of A and of AAAA records; there may be none. A checkpoint.

        Raises:
            OSError: if the name does not exist or no server answers.
        """
        ...

    async def lookup_service(self, name: str) -> list[ServiceRecord]:
        """Return the SRV records that DNS has for a name, in no particular order; there may be none. A checkpoint.

        Raises:
            OSError: if the name does not exist or no server answers.
        """
        ...

    async def read_head(self, path: str, limit: int) -> bytes:
        """Return the first ``limit`` bytes of a file. A checkpoint; cancelling does not wait for the disk.

        Raises:
            OSError: if it cannot be read, or is a pipe or a device.
        """
        ...

    def rng(self) -> Random:
        """Return a fresh generator for one node."""
        ...

    def token_bytes(self, size: int) -> bytes:
        """Return that many unpredictable bytes."""
        ...

    def wall_clock(self) -> float:
        """Return seconds since 1970."""
        ...

    def hostname(self) -> str:
        """Return the name of this machine."""
        ...

    async def read_file(self, path: str) -> bytes | None:
        """Return what a file of this node's own holds, up to a size; None if there is none. A checkpoint.

        Raises:
            OSError: if it cannot be read.
        """
        ...

    async def write_file(self, path: str, data: bytes) -> None:
        """Replace a file, whole or not at all, also when the machine fails meanwhile. A checkpoint.

        Cancelling does not leave half a file; the new one may then be there or not.

        Raises:
            OSError: if it cannot be written; what was there before is still there.
        """
        ...
