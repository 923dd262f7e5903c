"""The kinds of seeds: an address, a name in DNS, a service in DNS, a file, and an object of the user's.

The rules of this file:

* A text is checked when it is given, and the error names the setting, the text and the rule.
* A source says what it knows each time it is asked. What it cannot say it raises; bounds of time and number are those
  of whoever asks (:mod:`rpcnet._net.seeds`).
* A file that cannot be read is an empty one: it may be about to be written. It is told in the log, once per change.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import islice
from random import Random
from typing import Any, Protocol
from urllib.parse import unquote

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from rpcnet.errors import ConfigError

from .addresses import check_setting, format_address, is_literal, parse_address
from .dns_resolver import require_dnspython
from .ports import Environment, ServiceRecord

__all__ = ["MAX_ADDRESSES", "Seed", "SeedSource", "check_seed", "in_order"]

log = logging.getLogger("rpcnet.membership")
MAX_ADDRESSES = 64
"""Addresses that are taken from one source; the rest of what it says is left."""

_MAX_FILE_BYTES = 64 << 10
_MAX_LINES_LOGGED = 10
"""Bad lines of one file, or bad answers of one source, that are told one by one."""
_MAX_LABEL = 200
_FORMS = "'host:port', 'dns://name:port', 'dns+srv://_service._udp.domain' or 'file:///path'"


class SeedSource(Protocol):
    """Where to find other nodes, when neither a list nor DNS nor a file can say it: the API of a cloud, a registry.

    An object with this method goes into ``seeds`` like any address.
    """

    async def addresses(self) -> Sequence[str]:
        """Return the addresses of nodes, ``"host:port"``; this node's own may be among them.

        It is asked while the node joins, with every retry, and again for ever after that, so that a node that was cut
        off finds the others where they are by then. One node asks once at a time, and cancels what takes longer than
        15 seconds. At most 64 addresses are taken. What is no address is left out, with a line in the log.

        It may raise anything: that is told in the log, and in ``JoinError`` under the source's ``repr``, and the
        addresses that it said last stay in use.
        """
        ...


class Seed(Protocol):
    """One entry of ``seeds``."""

    @property
    def label(self) -> str:
        """What it is called in errors and in the log."""
        ...

    @property
    def is_static(self) -> bool:
        """Whether it says the same for ever: an address."""
        ...

    async def find(self, environment: Environment, rng: Random) -> Sequence[str]:
        """Return the addresses that it stands for. A checkpoint unless it is an address."""
        ...


@attrs.frozen
class AddressSeed:
    """An address of a node."""

    label: str
    is_static: bool = attrs.field(default=True, init=False)

    async def find(self, environment: Environment, rng: Random) -> Sequence[str]:
        """Return the address."""
        return (self.label,)


@attrs.frozen
class NameSeed:
    """A name in DNS, each of whose addresses is a seed."""

    label: str
    name: str
    port: int
    is_static: bool = attrs.field(default=False, init=False)

    async def find(self, environment: Environment, rng: Random) -> Sequence[str]:
        """Return the addresses of the name. A checkpoint.

        Raises:
            OSError: DNS does not say.
        """
        return [format_address((ip, self.port)) for ip in await environment.lookup(self.name)]


@attrs.frozen
class ServiceSeed:
    """A service in DNS: SRV records, each of whose targets' addresses is a seed."""

    label: str
    name: str
    is_static: bool = attrs.field(default=False, init=False)

    async def find(self, environment: Environment, rng: Random) -> Sequence[str]:
        """Return the addresses of the targets, in the order of their records. A checkpoint.

        Raises:
            OSError: DNS does not say, or has an address for none of the targets.
        """
        records = in_order(await environment.lookup_service(self.name), rng)
        ips: dict[str, list[str]] = {}
        errors: dict[str, OSError] = {}

        @enable_ki_protection
        async def look_up(target: str) -> None:
            try:
                ips[target] = await environment.lookup(target)
            except OSError as error:
                errors[target] = error

        async with trio.open_nursery() as nursery:
            for target in dict.fromkeys(record.target for record in records):
                nursery.start_soon(look_up, target, name=f"rpcnet lookup of {target}")
        if errors and not ips:
            raise next(errors[record.target] for record in records)
        return [format_address((ip, record.port)) for record in records for ip in ips.get(record.target, ())]


def in_order(records: Sequence[ServiceRecord], rng: Random) -> list[ServiceRecord]:
    """Return SRV records in the order in which they are to be tried (RFC 2782, "Usage rules").

    The lowest priority first; among equals, each next one is drawn with a chance in proportion to its weight. No more
    are returned than addresses are taken.
    """
    ordered: list[ServiceRecord] = []
    left = sorted(records, key=lambda record: (record.priority, record.weight, record.target, record.port))
    while left and len(ordered) < MAX_ADDRESSES:
        equals = [record for record in left if record.priority == left[0].priority]
        drawn = rng.randint(0, sum(record.weight for record in equals))
        for record in equals:
            drawn -= record.weight
            if drawn <= 0:
                break
        ordered.append(record)
        left.remove(record)
    return ordered


@attrs.define(eq=False)
class FileSeed:
    """A file with an address per line; what follows a ``#`` is a comment."""

    label: str
    path: str
    is_static: bool = attrs.field(default=False, init=False)
    _told: bytes | str | None = None
    """What was told in the log: bad lines of this content, or this error."""

    async def find(self, environment: Environment, rng: Random) -> Sequence[str]:
        """Return the addresses in the file. A checkpoint.

        Raises:
            EmptyFile: it cannot be read, is too large, or has lines and no address among them.
        """
        try:
            content = await environment.read_head(self.path, _MAX_FILE_BYTES + 1)
        except OSError as error:
            raise self._empty(f"cannot be read: {error.strerror or error}") from error
        if len(content) > _MAX_FILE_BYTES:
            raise self._empty(f"is larger than {_MAX_FILE_BYTES} bytes")
        found, bad = _addresses_in(self.path, content)
        self._tell(content, bad)
        if bad and not found:
            raise EmptyFile(f"none of its lines is an address: {bad[0]}")
        return found

    def _empty(self, why: str) -> EmptyFile:
        self._tell(why, [f"the seed file {self.path} {why}"])
        return EmptyFile(why)

    def _tell(self, what: bytes | str, lines: Sequence[str]) -> None:
        if what != self._told:
            self._told = what
            _log_some(lines)


class EmptyFile(OSError):
    """A file that stands for no addresses; the message says why."""


def _addresses_in(path: str, content: bytes) -> tuple[list[str], list[str]]:
    """Return the addresses in a file, and a sentence for each line that is none."""
    found, bad = [], []
    for number, line in enumerate(content.decode("utf-8-sig", errors="replace").split("\n"), 1):
        address = line.partition("#")[0].strip()
        if address:
            try:
                check_setting(f"{path}, line {number}, is skipped", address, is_dialled=True)
            except ConfigError as error:
                bad.append(str(error))
            else:
                found.append(address)
    return found, bad


@attrs.define(eq=False)
class OwnSeed:
    """A source of the user's."""

    label: str
    source: SeedSource
    is_static: bool = attrs.field(default=False, init=False)
    _told: tuple[str, ...] = ()

    async def find(self, environment: Environment, rng: Random) -> Sequence[str]:
        """Return the addresses that the source says, without what is none. A checkpoint if the source has one.

        Raises:
            Exception: whatever it raises; and a TypeError if it answers with something else.
        """
        said: Any = await self.source.addresses()
        if isinstance(said, (str, bytes)):
            raise TypeError(f"answered with {type(said).__name__}, not with a sequence of addresses")
        found, bad = [], []
        for address in islice(said, MAX_ADDRESSES):
            try:
                check_setting(f"{self.label}, an answer of it is skipped", address, is_dialled=True)
            except ConfigError as error:
                bad.append(str(error))
            else:
                found.append(address)
        if tuple(bad) != self._told:
            self._told = tuple(bad)
            _log_some(bad)
        return found


def _log_some(lines: Sequence[str]) -> None:
    """Log each of some lines; of very many only the first."""
    for line in lines[:_MAX_LINES_LOGGED]:
        log.warning("%s", line)
    if len(lines) > _MAX_LINES_LOGGED:
        log.warning("and %d more like that", len(lines) - _MAX_LINES_LOGGED)


def check_seed(setting: str, seed: object) -> Seed:
    """Return a seed.

    Args:
        setting: where it was given, for errors.
        seed: a text or a source.

    Raises:
        ConfigError: it is neither; the message names setting, value and rule.
    """
    if not isinstance(seed, str):
        if isinstance(seed, type) or not callable(getattr(seed, "addresses", None)):
            raise ConfigError(
                f"{setting}: address {seed!r}: must be a string like 'host:port' or a rpcnet.SeedSource, "
                "an object with an async method addresses()"
            )
        return OwnSeed(repr(seed)[:_MAX_LABEL], seed)  # type: ignore[arg-type] # whether the method fits shows when it is called
    scheme, mark, rest = seed.partition("://")
    if not mark:
        check_setting(setting, seed, is_dialled=True)
        return AddressSeed(seed)
    where = f"{setting} = {seed!r}"
    match scheme.lower():
        case "dns":
            return _name_seed(where, seed, rest)
        case "dns+srv":
            return _service_seed(where, seed, rest)
        case "file":
            return _file_seed(where, seed, rest)
    raise ConfigError(f"{where}: has an unknown scheme; write {_FORMS}")


def _name_seed(where: str, seed: str, rest: str) -> Seed:
    if ":" not in rest:
        raise ConfigError(f"{where}: has no port; write 'dns://name:port'")
    check_setting(where, rest, is_dialled=True)
    name, port = parse_address(rest)
    if is_literal(name):
        raise ConfigError(f"{where}: {name} is no name; write '{rest}' without a scheme")
    require_dnspython(where)
    return NameSeed(seed, name, port)


def _service_seed(where: str, seed: str, rest: str) -> Seed:
    if ":" in rest:
        raise ConfigError(f"{where}: must have no port, because the records have one; write 'dns+srv://name'")
    try:
        name, _ = parse_address(f"{rest}:1")
    except ConfigError:
        name = ""
    if not name or is_literal(name):
        raise ConfigError(f"{where}: has no usable name; write 'dns+srv://_service._udp.domain'")
    require_dnspython(where)
    return ServiceSeed(seed, name)


def _file_seed(where: str, seed: str, rest: str) -> Seed:
    path = unquote(rest)
    if not path.startswith("/"):
        raise ConfigError(f"{where}: the path must be absolute, with three slashes before it; write 'file:///path'")
    if "\0" in path or path.endswith("/"):
        raise ConfigError(f"{where}: the path must be that of a file; write 'file:///path'")
    return FileSeed(seed, path)
