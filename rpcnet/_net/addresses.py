"""Addresses: ``"host:port"`` for people and configuration, ``(host, port)`` for sockets.

The rules of this file:

* An address is a host, a colon and a decimal port; an IPv6 host stands in brackets, as in a URL (RFC 3986, 3.2.2).
* Sockets see two-tuples only, also for IPv6: a scope, where there is one, is written into the host as ``%scope``.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Any

from rpcnet.errors import ConfigError

__all__ = [
    "Address",
    "check_setting",
    "format_address",
    "from_socket",
    "is_literal",
    "is_loopback",
    "is_wildcard",
    "parse_address",
]

Address = tuple[str, int]
"""Host and port, as sockets take them."""

_CACHED = 4096
_MAX_HOST = 253


@lru_cache(maxsize=_CACHED)
def parse_address(address: str) -> Address:
    """Split ``"host:port"``.

    Args:
        address: for example ``"10.0.0.1:7946"``, ``"[::1]:7946"`` or ``"node-a.example:7946"``.

    Raises:
        ConfigError: if it is none; the message names the rule.
    """
    if not isinstance(address, str):
        raise ConfigError(f"address {address!r}: must be a string like 'host:port'")
    host, colon, port = address.rpartition(":")
    if not colon:
        raise ConfigError(f"address {address!r}: has no port; write 'host:port'")
    bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not bracketed:
        raise ConfigError(f"address {address!r}: an IPv6 host stands in brackets, like '[::1]:7946'")
    host = host[1:-1] if bracketed else host
    if not host or len(host) > _MAX_HOST or any(c.isspace() or c in "[]/@" for c in host):
        raise ConfigError(f"address {address!r}: has no usable host; write 'host:port'")
    if bracketed and not _is_ipv6(host):
        raise ConfigError(f"address {address!r}: only an IPv6 address stands in brackets")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 0xFFFF):
        raise ConfigError(f"address {address!r}: the port must be a number from 0 to 65535")
    return host, int(port)


def check_setting(name: str, address: object, *, is_dialled: bool) -> None:
    """Check an address that somebody set.

    Args:
        name: what the setting is called.
        address: its value.
        is_dialled: whether it is for others to dial, so that neither port 0 nor every address will do.

    Raises:
        ConfigError: if it is none; the message names setting, value and rule.
    """
    if not isinstance(address, str):
        raise ConfigError(f"{name}: address {address!r}: must be a string like 'host:port'")
    try:
        host, port = parse_address(address)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    if is_dialled and (is_wildcard(host) or not port):
        raise ConfigError(f"{name}: address {address!r}: nobody can dial it; write one host and a port from 1 to 65535")


@lru_cache(maxsize=_CACHED)
def format_address(address: Address) -> str:
    """Join host and port; the opposite of :func:`parse_address`."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def from_socket(name: Any) -> Address:
    """Turn what a socket calls an address, two or four values, into host and port."""
    if len(name) == 2:
        return (name[0], name[1])
    host, port, _, scope = name
    return (f"{host}%{scope}" if scope and "%" not in host else host, port)


@lru_cache(maxsize=_CACHED)
def is_literal(host: str) -> bool:
    """Say whether a host is an IP address rather than a name."""
    return _parse_ip(host) is not None


@lru_cache(maxsize=_CACHED)
def is_loopback(host: str) -> bool:
    """Say whether a host can only be this machine."""
    ip = _parse_ip(host)
    return host == "localhost" if ip is None else ip.is_loopback


@lru_cache(maxsize=_CACHED)
def is_wildcard(host: str) -> bool:
    """Say whether a host stands for every address of this machine."""
    ip = _parse_ip(host)
    return ip is not None and ip.is_unspecified


def _parse_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_ipv6(host: str) -> bool:
    ip = _parse_ip(host)
    return ip is not None and ip.version == 6
