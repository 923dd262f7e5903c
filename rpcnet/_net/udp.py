"""The real network: one UDP socket per port, driven without waiting; and the environment that goes with it.

The rules of this file:

* The reader drains the socket until it is empty and then waits for readability once: three times the rate of awaiting
  every datagram.
* What the kernel refuses to send is lost and counted; QUIC and membership repeat what matters.
* Large datagrams go only where the path is known: over the loopback interface, whose MTU the kernel tells.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import trio

from rpcnet.errors import ConfigError

from .addresses import Address, format_address, from_socket, is_literal, is_loopback, parse_address
from .dns_resolver import DnsResolver
from .file_reading import read_head
from .ports import SAFE_DATAGRAM_BYTES, PortStatistics, ServiceRecord

__all__ = ["RealEnvironment", "UdpPort"]

_BUFFER_BYTES = 4 << 20
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33  # Linux, socket(7); not in the socket module of Python 3.11
_READ_BYTES = 65536
_LOOPBACK_DATAGRAM_BYTES = 16383  # the most that the engine takes
_HEADER_BYTES = 48  # IPv6 and UDP
_LOOPBACK_MTU_FILE = Path("/sys/class/net/lo/mtu")


class UdpPort:
    """A UDP socket that never blocks.

    Args:
        sock: a bound, non-blocking datagram socket; the port owns it from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._is_ipv4 = sock.family == socket.AF_INET
        self._local_address = format_address(from_socket(sock.getsockname()))
        self._loopback_bytes = _loopback_datagram_bytes()
        self._closed = False
        self._received = self._received_bytes = self._sent = self._sent_bytes = self._refused = 0

    @property
    def local_address(self) -> str:
        """The address it is bound to, with the real port number."""
        return self._local_address

    def receive(self) -> tuple[bytes, Address] | None:
        """Return one datagram and its source without waiting; None when nothing waits."""
        while True:
            try:
                data, source = self._socket.recvfrom(_READ_BYTES)
            except ConnectionError:
                continue  # the kernel passes on what an earlier datagram met (ICMP); this one is still to be read
            except OSError:
                return None
            self._received += 1
            self._received_bytes += len(data)
            return (data, source) if self._is_ipv4 else (data, from_socket(source))

    async def wait_readable(self) -> None:
        """Wait until :meth:`receive` may have something; a checkpoint.

        Raises:
            trio.ClosedResourceError: when the port is closed, before or while waiting.
        """
        if self._closed:
            await trio.lowlevel.checkpoint()
            raise trio.ClosedResourceError("the UDP port is closed")
        await trio.lowlevel.wait_readable(self._socket)

    def send(self, datagrams: Sequence[tuple[bytes, Address]]) -> int:
        """Send datagrams without waiting; what the kernel does not take is lost. Return how many it took."""
        sendto = self._socket.sendto
        taken = size = 0
        for data, address in datagrams:
            try:
                size += sendto(data, address)
            except OSError:  # a full buffer, EMSGSIZE, ENETUNREACH, EPERM of a firewall: a network loses datagrams
                continue
            taken += 1
        self._sent += taken
        self._sent_bytes += size
        self._refused += len(datagrams) - taken
        return taken

    def max_datagram_bytes(self, host: str) -> int:
        """Return the largest payload believed to reach that host in one piece."""
        return self._loopback_bytes if is_loopback(host) else SAFE_DATAGRAM_BYTES

    def close(self) -> None:
        """Give the port back; does nothing the second time."""
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    def statistics(self) -> PortStatistics:
        """Return the counters."""
        return PortStatistics(
            datagrams_received=self._received,
            bytes_received=self._received_bytes,
            datagrams_sent=self._sent,
            bytes_sent=self._sent_bytes,
            datagrams_refused=self._refused,
            datagrams_overflowed=0,
        )


class RealEnvironment:
    """The machine that the process runs on.

    Args:
        dns: asks DNS; default: the servers that the system names.
    """

    def __init__(self, dns: DnsResolver | None = None) -> None:
        self._dns = dns or DnsResolver()

    async def bind(self, address: str) -> UdpPort:
        """Open a UDP port; port number 0 asks for any free one.

        Raises:
            ConfigError: if the address is wrong, taken, or not one of this machine; the message names it.
        """
        host, port = parse_address(address)
        try:
            ip = (await self.resolve(host))[0]
            sock = _open_socket(ip)
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"bind address {address!r}: {_why(error)}") from error
        try:
            sock.bind((ip, port))
        except OSError as error:
            sock.close()
            raise ConfigError(f"bind address {address!r}: {_why(error)}") from error
        return UdpPort(sock)

    async def resolve(self, host: str) -> list[str]:
        """Return the IP addresses of a host, the best first; an IP address is returned as it is. A checkpoint.

        Raises:
            OSError: if the name is not known or the resolver does not answer.
        """
        if is_literal(host):
            await trio.lowlevel.checkpoint()
            return [host]
        found = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
        return list(dict.fromkeys(from_socket(entry[4])[0] for entry in found))

    async def lookup(self, name: str) -> list[str]:
        """Return every address that DNS has for a name, of A and of AAAA records; there may be none. A checkpoint.

        Raises:
            OSError: if the name does not exist or no server answers in time.
        """
        return await self._dns.addresses(name)

    async def lookup_service(self, name: str) -> list[ServiceRecord]:
        """Return the SRV records that DNS has for a name, in no particular order; there may be none. A checkpoint.

        Raises:
            OSError: if the name does not exist or no server answers in time.
        """
        return await self._dns.services(name)

    async def read_head(self, path: str, limit: int) -> bytes:
        """Return the first ``limit`` bytes of a file. A checkpoint; cancelling does not wait for the disk.

        Raises:
            OSError: if it cannot be read, or is a pipe or a device.
        """
        return await read_head(path, limit)

    def rng(self) -> Random:
        """Return a fresh generator for one node, seeded by the system."""
        return Random()

    def token_bytes(self, size: int) -> bytes:
        """Return that many unpredictable bytes."""
        return os.urandom(size)

    def wall_clock(self) -> float:
        """Return seconds since 1970."""
        return time.time()

    def hostname(self) -> str:
        """Return the name of this machine."""
        return socket.gethostname()


def _open_socket(ip: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(0.0)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    for forced, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        sock.setsockopt(socket.SOL_SOCKET, plain, _BUFFER_BYTES)
        if _LOOPBACK_MTU_FILE.exists():  # Linux: with the privilege, past the limit of the system
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, forced, _BUFFER_BYTES)
    return sock


def _loopback_datagram_bytes() -> int:
    try:
        mtu = int(_LOOPBACK_MTU_FILE.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return SAFE_DATAGRAM_BYTES
    return max(SAFE_DATAGRAM_BYTES, min(_LOOPBACK_DATAGRAM_BYTES, mtu - _HEADER_BYTES))


def _why(error: OSError | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return "is not a host name"
    return (error.strerror or str(error)).lower()
