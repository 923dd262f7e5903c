"""The membership record of one node, and the order in which one record replaces another.

The rules of this file:

* A record has two parts that grow independently, and merging takes the greater of each. *Status* is ordered by
  ``(boot_id, incarnation, state)`` with Left > Failed > Suspect > Alive (SWIM, section 4.2, plus boot ids and Left).
  *Metadata* (name, address, tags, services) is ordered by ``(boot_id, meta_version)``.
* So a suspicion that carries old tags never takes back new ones, and new tags never clear a suspicion.
* ``boot_id`` heads both orders, so a merged record is always of one boot.
* Only the owner raises its ``boot_id``, ``incarnation`` and ``meta_version``. Should two records claim the same
  ``meta_version`` with different content, their content decides, the same way on every node.
* Each part is a maximum over a total order, so merging is commutative, associative and idempotent: nodes that have
  seen the same records agree, whatever the order they saw them in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import attrs
import cbor2

from rpcnet.errors import ConfigError
from rpcnet.events import NodeInfo, NodeState

__all__ = [
    "MAX_BOOT_ID",
    "MAX_INCARNATION",
    "MAX_INLINE_BYTES",
    "MAX_NAME_CHARS",
    "MAX_TEXT_BYTES",
    "STATE_ORDER",
    "MemberRecord",
    "check_address",
    "check_metadata",
    "encode_metadata",
    "is_address",
    "merge",
    "rank",
    "supersedes",
]

MAX_INLINE_BYTES = 512
"""Tags and services together, encoded: what still leaves room for a probe in one datagram (serf allows 512 too)."""

MAX_NAME_CHARS = 128
"""Characters of a node's or a service's name (DNS allows 253 bytes for a whole host name, 63 for a part)."""

MAX_BOOT_ID = 2**63 - 1
"""The largest boot id that is believed; milliseconds since 1970 leave it to the year 292 million."""

MAX_INCARNATION = 2**32 - 1
"""The largest incarnation and the largest meta version: 32 bits on the wire."""

MAX_TEXT_BYTES = 255
"""A name or an address in UTF-8: its length travels in one byte."""

STATE_ORDER = (NodeState.ALIVE, NodeState.SUSPECT, NodeState.FAILED, NodeState.LEFT)
"""The states from weakest to strongest; the index travels on the wire."""

_RANK = {state: rank for rank, state in enumerate(STATE_ORDER)}


def _frozen(tags: Mapping[str, str]) -> Mapping[str, str]:
    return tags if isinstance(tags, MappingProxyType) else MappingProxyType(dict(tags))


@attrs.frozen
class MemberRecord:
    """What one node tells others about a node, itself included."""

    id: str
    """32 hexadecimal digits."""
    name: str
    """Unique in the cluster."""
    address: str
    """``"host:port"`` that the node advertises."""
    boot_id: int
    """Grows with every start of the process; 64 bits."""
    incarnation: int = 0
    """Raised by the owner to refute a suspicion; 32 bits."""
    state: NodeState = NodeState.ALIVE
    """What the teller believes."""
    meta_version: int = 0
    """Raised by the owner with every change of address, tags or services; 32 bits."""
    tags: Mapping[str, str] = attrs.field(factory=dict, converter=_frozen, hash=False)
    """The tags the node chose."""
    services: tuple[str, ...] = ()
    """The names of the services it serves, sorted."""

    @property
    def is_present(self) -> bool:
        """Whether the node counts as a member: alive or suspect."""
        return self.state is NodeState.ALIVE or self.state is NodeState.SUSPECT

    def info(self) -> NodeInfo:
        """Return the record as users see it."""
        return NodeInfo(
            id=self.id,
            name=self.name,
            address=self.address,
            boot_id=self.boot_id,
            incarnation=self.incarnation,
            state=self.state,
            tags=self.tags,
            services=self.services,
            meta_version=self.meta_version,
        )


def rank(state: NodeState) -> int:
    """Return how strong a state is at the same incarnation: 0 for alive, 3 for left."""
    return _RANK[state]


def _status(record: MemberRecord) -> tuple[int, int, int]:
    return record.boot_id, record.incarnation, _RANK[record.state]


def _content(record: MemberRecord) -> tuple[str, str, tuple[tuple[str, str], ...], tuple[str, ...]]:
    return record.name, record.address, tuple(sorted(record.tags.items())), record.services


def _has_newer_metadata(a: MemberRecord, b: MemberRecord) -> bool:
    ours, theirs = (a.boot_id, a.meta_version), (b.boot_id, b.meta_version)
    return ours > theirs or (ours == theirs and _content(a) > _content(b))


def merge(old: MemberRecord, new: MemberRecord) -> MemberRecord:
    """Combine two records of the same node; returns ``old`` itself when ``new`` adds nothing."""
    status = new if _status(new) > _status(old) else old
    metadata = new if _has_newer_metadata(new, old) else old
    if status is metadata:
        return status
    return attrs.evolve(metadata, incarnation=status.incarnation, state=status.state)


def supersedes(new: MemberRecord, old: MemberRecord) -> bool:
    """Tell whether merging ``new`` into ``old`` changes anything."""
    return _status(new) > _status(old) or _has_newer_metadata(new, old)


def encode_metadata(tags: Mapping[str, str], services: Sequence[str]) -> bytes:
    """Encode tags and services as one CBOR array, the same bytes for the same content; empty when there are none."""
    if not tags and not services:
        return b""
    return cbor2.dumps([dict(sorted(tags.items())), list(services)])


def _check_text(what: str, value: object, limit: int) -> None:
    if not isinstance(value, str):
        raise ConfigError(f"{what} = {value!r}: must be a str, not {type(value).__name__}")
    if not 1 <= len(value) <= limit:
        raise ConfigError(f"{what} = {value[:40]!r}: must have 1 to {limit} characters, has {len(value)}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise ConfigError(f"{what} = {value[:40]!r}: must be valid Unicode: {error}") from error
    if size > MAX_TEXT_BYTES:
        raise ConfigError(f"{what} = {value[:40]!r}: must have at most {MAX_TEXT_BYTES} bytes in UTF-8, has {size}")


def is_address(address: str) -> bool:
    """Tell whether ``address`` has the form ``"host:port"``, of printable ASCII, with a port that can be sent to."""
    host, _, port = address.rpartition(":")
    if not host or not address.isascii() or not address.isprintable() or " " in address:
        return False
    return len(address) <= MAX_TEXT_BYTES and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536


def check_address(address: str) -> None:
    """Check an address that a node wants to advertise.

    Raises:
        ConfigError: it is not of the form ``"host:port"``. Nothing changed.
    """
    if not is_address(address):
        raise ConfigError(f"address = {address!r}: must be 'host:port' with a port from 1 to 65535")


def check_metadata(name: str, tags: Mapping[str, str], services: Sequence[str]) -> None:
    """Check what a node wants to tell about itself.

    Raises:
        ConfigError: a name, tag or service is no text or too long, or tags and services together are more than
            ``MAX_INLINE_BYTES`` encoded; the message names both sizes. Nothing changed.
    """
    _check_text("name", name, MAX_NAME_CHARS)
    for key, value in tags.items():
        _check_text("tag", key, MAX_NAME_CHARS)
        if not isinstance(value, str):
            raise ConfigError(f"tag {key!r} = {value!r}: must be a str, not {type(value).__name__}")
    for service in services:
        _check_text("service", service, MAX_NAME_CHARS)
    try:
        size = len(encode_metadata(tags, services))
    except (cbor2.CBOREncodeError, UnicodeEncodeError) as error:
        raise ConfigError(f"tags and services must be valid Unicode: {error}") from error
    if size > MAX_INLINE_BYTES:
        raise ConfigError(f"tags and services take {size} bytes encoded, at most {MAX_INLINE_BYTES} are allowed")
