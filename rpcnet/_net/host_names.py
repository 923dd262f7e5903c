"""Host names in addresses: who stands behind them, for connections that wait and for datagrams that do not.

The rules of this file:

* The kernel is never given a name: it would ask a resolver, and everything else in the process would wait.
* A datagram to a name that is not known yet is lost, as on any network; by then the lookup has begun.
* A name is looked up again after a while and used as it was until there is an answer; a lookup that fails changes
  nothing.
* A port sends to addresses of its own family only, so of several addresses the first of that family is taken.
"""

from __future__ import annotations

from typing import TypeVar

import trio
from trio.lowlevel import enable_ki_protection

from .addresses import Address, is_literal
from .ports import Environment

__all__ = ["HostNames"]

T = TypeVar("T")
_FRESH_SECONDS = 30.0
_MAX_LOOKUPS = 4
_MAX_NAMES = 4096
"""Names remembered; beyond that the earliest is forgotten, and looked up again when it is wanted."""


class HostNames:
    """The IP addresses of the hosts that one port sends to; serve it with :meth:`run`.

    Args:
        environment: resolves names.
        is_ipv6: whether the port sends to IPv6 addresses, and not to IPv4 ones.
    """

    def __init__(self, environment: Environment, *, is_ipv6: bool) -> None:
        self._environment = environment
        self._is_ipv6 = is_ipv6
        self._known: dict[str, str] = {}
        self._stale_at: dict[str, float] = {}
        self._wanted: dict[str, None] = {}
        self._want = trio.Event()

    async def resolve(self, host: str) -> str:
        """Return the IP address of a host; an IP address is returned as it is. A checkpoint.

        Raises:
            OSError: if the name is not known or the resolver does not answer.
        """
        found = await self._environment.resolve(host)
        ip = next((ip for ip in found if (":" in ip) == self._is_ipv6), found[0])
        if ip != host:
            _remember(self._known, host, ip)
        return ip

    def find(self, address: Address) -> Address | None:
        """Return the address with the host's IP address as far as it is known; None if it is not yet. Never waits."""
        host, port = address
        if is_literal(host):
            return address
        now = trio.current_time()
        if now >= self._stale_at.get(host, now):
            _remember(self._stale_at, host, now + _FRESH_SECONDS)
            self._wanted[host] = None
            self._want.set()
        ip = self._known.get(host)
        return None if ip is None else (ip, port)

    @enable_ki_protection
    async def run(self) -> None:
        """Look up what is wanted, a few names at a time, until cancelled."""
        limiter = trio.CapacityLimiter(_MAX_LOOKUPS)
        async with trio.open_nursery() as nursery:
            while True:
                await self._want.wait()
                self._want = trio.Event()
                while self._wanted:
                    host, _ = self._wanted.popitem()
                    nursery.start_soon(self._look_up, host, limiter, name=f"rpcnet lookup of {host}")

    @enable_ki_protection
    async def _look_up(self, host: str, limiter: trio.CapacityLimiter) -> None:
        async with limiter:
            try:
                await self.resolve(host)
            except OSError:
                return


def _remember(table: dict[str, T], host: str, value: T) -> None:
    if host not in table and len(table) >= _MAX_NAMES:
        del table[next(iter(table))]
    table[host] = value
