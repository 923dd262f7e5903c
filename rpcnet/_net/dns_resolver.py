"""Questions to DNS itself, for records of which the system's resolver knows nothing.

The rules of this file:

* dnspython asks and understands; it is an extra, so it is imported where it is needed and nowhere else.
* Each question is bounded by Trio's clock. What goes wrong is an ``OSError`` whose text is for people.
* The system's list of servers is read anew for each lookup, so a machine that changes networks needs no restart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import enable_ki_protection

from rpcnet.errors import ConfigError

from .ports import ServiceRecord

if TYPE_CHECKING:
    import dns.asyncresolver

__all__ = ["DnsResolver", "require_dnspython"]

_TIMEOUT = 5.0
_PORT = 53
_KINDS = ("A", "AAAA")


def require_dnspython(setting: str) -> None:
    """Make sure that DNS can be asked.

    Args:
        setting: what needs it, for the error.

    Raises:
        ConfigError: dnspython is not installed.
    """
    try:
        import dns.asyncresolver  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(f"{setting}: asks DNS, for which rpcnet[dns] has to be installed") from error


class DnsResolver:
    """Asks DNS servers for the addresses of names and for SRV records.

    Args:
        nameservers: IP addresses of the servers; none for those of the system.
        port: the port of those servers.
        timeout: seconds within which a question must be answered.
    """

    def __init__(self, nameservers: Sequence[str] = (), *, port: int = _PORT, timeout: float = _TIMEOUT) -> None:
        self._nameservers = list(nameservers)
        self._port = port
        self._timeout = timeout

    async def addresses(self, name: str) -> list[str]:
        """Return the addresses of a name, those of its A records first, then those of its AAAA records. A checkpoint.

        Both are asked for at once. If one of the questions fails, what the other one brought is all there is.

        Raises:
            OSError: the name does not exist, or no server answered in time.
        """
        found: dict[str, list[Any]] = {}
        errors: dict[str, OSError] = {}

        @enable_ki_protection
        async def ask(kind: str) -> None:
            try:
                found[kind] = await self._ask(name, kind)
            except OSError as error:
                errors[kind] = error

        async with trio.open_nursery() as nursery:
            for kind in _KINDS:
                nursery.start_soon(ask, kind, name=f"rpcnet lookup of {kind} {name}")
        ips = [record.address for kind in _KINDS for record in found.get(kind, ())]
        if errors and not ips:
            raise next(errors[kind] for kind in _KINDS if kind in errors)
        return list(dict.fromkeys(ips))

    async def services(self, name: str) -> list[ServiceRecord]:
        """Return the SRV records of a name, in no particular order. A checkpoint.

        Raises:
            OSError: the name does not exist, or no server answered in time.
        """
        records = [
            ServiceRecord(each.priority, each.weight, each.port, each.target.to_text(omit_final_dot=True))
            for each in await self._ask(name, "SRV")
        ]
        return [record for record in records if record.port and record.target != "."]  # RFC 2782: not available there

    async def _ask(self, name: str, kind: str) -> list[Any]:
        import dns.asyncbackend  # noqa: PLC0415 - an extra
        import dns.exception  # noqa: PLC0415

        with trio.move_on_after(self._timeout):
            try:
                answer = await self._resolver().resolve(
                    name,
                    kind,
                    raise_on_no_answer=False,
                    lifetime=self._timeout,
                    search=True,
                    backend=dns.asyncbackend.get_backend("trio"),
                )
                return list(answer.rrset or ())
            except dns.exception.Timeout:  # its text has the seconds that it took, so no two are the same
                await trio.lowlevel.checkpoint()
            except (dns.exception.DNSException, ValueError) as error:
                raise OSError(f"no {kind} records of {name}: {error}") from error
        raise TimeoutError(f"no {kind} records of {name}: no server answered within {self._timeout:g} s")

    def _resolver(self) -> dns.asyncresolver.Resolver:
        import dns.asyncresolver  # noqa: PLC0415 - an extra

        resolver = dns.asyncresolver.Resolver(configure=not self._nameservers)
        if self._nameservers:
            resolver.nameservers = self._nameservers
            resolver.port = self._port
        return resolver
