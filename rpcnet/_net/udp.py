"""The real network: one UDP socket per port, driven without waiting; and the environment that goes with it.

The rules of this file:

* The reader drains the socket until it is empty and then waits for readability once: three times the rate of awaiting
  every datagram.
* What the kernel refuses to send is lost and counted; QUIC and membership repeat what matters.
* What the network says of datagrams that found nobody is read on Linux, from the socket's error queue (ip(7),
  IP_RECVERR). As long as anything is in it the socket looks readable, so the reader empties it whenever it was woken
  and found nothing, or met an error. Elsewhere an unconnected socket is told nothing that names an address.
* Only the host itself can say that nobody listens at one of its ports. What a firewall or a router on the way says in
  the same words counts as any other error.
* An error that a call reports may be an earlier datagram's. What was to be sent is then sent again, once.
* Large datagrams go only where the path is known: over the loopback interface, whose MTU the kernel tells.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import trio

from rpcnet.errors import ConfigError

from .addresses import Address, format_address, from_socket, is_literal, is_loopback, parse_address
from .dns_resolver import DnsResolver
from .file_reading import read_head
from .file_writing import replace_file
from .ports import SAFE_DATAGRAM_BYTES, PortStatistics, ServiceRecord

__all__ = ["RealEnvironment", "UdpPort"]

_BUFFER_BYTES = 4 << 20
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33  # Linux, socket(7); not in the socket module of Python 3.11
_IP_RECVERR, _IPV6_RECVERR = 11, 25  # Linux, ip(7) and ipv6(7); not in the socket module of Python 3.11
_ERROR_QUEUE: int = getattr(socket, "MSG_ERRQUEUE", 0)
_EXTENDED_ERROR = struct.Struct("=IB11x2x")  # sock_extended_err, of which errno and origin; and the offender's family
_ORIGINS_OF_NETWORK = (2, 3)  # ICMP and ICMPv6
_OFFENDERS_IPV4, _OFFENDERS_IPV6 = slice(20, 24), slice(24, 40)  # in sockaddr_in and sockaddr_in6 behind it
_ANCILLARY_BYTES = 256
_MAX_ERRORS_AT_ONCE = 256
_MAX_REFUSED = 256
_MAX_ERRORS_PER_READ = 4
_READ_BYTES = 65536
_MAX_FILE_BYTES = 1 << 20
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
        self._refusals = self._network_errors = 0
        self._refused_at: dict[Address, None] = {}
        self._has_error_queue = _ask_for_errors(sock)
        self._received_when_woken = -1

    @property
    def local_address(self) -> str:
        """The address it is bound to, with the real port number."""
        return self._local_address

    def receive(self) -> tuple[bytes, Address] | None:
        """Return one datagram and its source without waiting; None when nothing waits."""
        errors = 0
        while True:
            try:
                data, source = self._socket.recvfrom(_READ_BYTES)
            except BlockingIOError:
                if self._received == self._received_when_woken:  # what woke the reader was no datagram
                    self._hear_errors()
                return None
            except OSError:  # the kernel passes on what an earlier datagram met; the next one is still to be read
                self._hear_errors()
                errors += 1
                if self._closed or errors == _MAX_ERRORS_PER_READ:
                    return None
                continue
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
        self._received_when_woken = self._received

    def send(self, datagrams: Sequence[tuple[bytes, Address]]) -> int:
        """Send datagrams without waiting; what the kernel does not take is lost. Return how many it took."""
        sendto = self._socket.sendto
        taken = size = 0
        for data, address in datagrams:
            try:
                size += sendto(data, address)
            except BlockingIOError:  # a full buffer: a network loses datagrams
                continue
            except OSError:  # of this datagram, or of an earlier one, which told it and cleared it
                try:
                    size += sendto(data, address)
                except OSError:  # EMSGSIZE, ENETUNREACH, EPERM of a firewall
                    continue
            taken += 1
        self._sent += taken
        self._sent_bytes += size
        self._refused += len(datagrams) - taken
        return taken

    def refused(self) -> list[Address]:
        """Return where, as the network has said since the last time, nobody listens; for ever none but on Linux."""
        if not self._refused_at:
            return []
        refused, self._refused_at = list(self._refused_at), {}
        return refused

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
            refusals=self._refusals,
            network_errors=self._network_errors,
        )

    def _hear_errors(self) -> None:
        """Empty the error queue, up to a number; the rest makes the socket look readable again."""
        for _ in range(_MAX_ERRORS_AT_ONCE if self._has_error_queue else 0):
            try:
                _, ancillary, _, destination = self._socket.recvmsg(0, _ANCILLARY_BYTES, _ERROR_QUEUE)
            except OSError:
                return
            if not any(_is_refusal(data, destination[0]) for _, _, data in ancillary):
                self._network_errors += 1
                continue
            self._refusals += 1
            if len(self._refused_at) < _MAX_REFUSED:
                self._refused_at[from_socket(destination)] = None


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
        except OSError as error:
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
        try:
            found = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
        except UnicodeError as error:  # of the codec for names: a label that is empty, too long or not to be encoded
            raise socket.gaierror(socket.EAI_NONAME, "is not a host name") from error
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

    async def read_file(self, path: str) -> bytes | None:
        """Return what a file holds, the first mebibyte at most; None if there is none. A checkpoint.

        Raises:
            OSError: if it cannot be read, or is a pipe or a device.
        """
        try:
            return await read_head(path, _MAX_FILE_BYTES)
        except FileNotFoundError:
            return None

    async def write_file(self, path: str, data: bytes) -> None:
        """Replace a file, whole or not at all. A checkpoint; cancelling does not wait for the disk.

        Raises:
            OSError: if it cannot be written; what was there before is still there.
        """
        await replace_file(path, data)


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


def _ask_for_errors(sock: socket.socket) -> bool:
    """Have the network's errors queued with the address that each is about; return whether that can be had."""
    if not _ERROR_QUEUE:
        return False
    is_ipv6 = sock.family == socket.AF_INET6
    level, option = (socket.IPPROTO_IPV6, _IPV6_RECVERR) if is_ipv6 else (socket.IPPROTO_IP, _IP_RECVERR)
    try:
        sock.setsockopt(level, option, 1)
    except OSError:
        return False
    return True


def _is_refusal(data: bytes, host: str) -> bool:
    """Say whether an extended error is a host's own word that nobody listens at a port."""
    if len(data) < _EXTENDED_ERROR.size:
        return False
    code, origin = _EXTENDED_ERROR.unpack_from(data)
    if code != errno.ECONNREFUSED or origin not in _ORIGINS_OF_NETWORK:
        return False
    family, place = (socket.AF_INET6, _OFFENDERS_IPV6) if ":" in host else (socket.AF_INET, _OFFENDERS_IPV4)
    return data[place] == socket.inet_pton(family, host.partition("%")[0])


def _loopback_datagram_bytes() -> int:
    try:
        mtu = int(_LOOPBACK_MTU_FILE.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return SAFE_DATAGRAM_BYTES
    return max(SAFE_DATAGRAM_BYTES, min(_LOOPBACK_DATAGRAM_BYTES, mtu - _HEADER_BYTES))


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
