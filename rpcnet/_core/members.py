"""The membership record of one node, and the order in which one record replaces another.

The rules of this file:

* A record has three parts that grow independently, and merging takes the greater of each. *Status* is ordered by
  ``(boot_id, incarnation, state)`` with Left > Failed > Suspect > Alive (SWIM, section 4.2, plus boot ids and Left).
  *Metadata* (name, address, tags, services) is ordered by ``(boot_id, meta_version)``. *Vitals*, how the node says it
  is (its stalls, its place in the network, whether it may go on), are ordered by ``(boot_id, epoch)``.
* So a suspicion that carries old tags never takes back new ones, and new tags never clear a suspicion.
* ``boot_id`` heads all three orders, so a merged record is always of one boot.
* Only the owner raises its ``boot_id``, ``incarnation``, ``meta_version`` and ``epoch``. Should two records claim the
  same ``meta_version`` or ``epoch`` with different content, their content decides, the same way on every node.
* Tags and services that are too large for a datagram are told by their digest; a record that has one is complete when
  their body has been fetched. Whether it has makes no difference to the order.
* Each part is a maximum over a total order, so merging is commutative, associative and idempotent: nodes that have
  seen the same records agree, whatever the order they saw them in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import attrs
import cbor2

from rpcnet._signals import Coordinates
from rpcnet.errors import ConfigError
from rpcnet.events import NodeInfo, NodeState

__all__ = [
    "MAX_BOOT_ID",
    "MAX_EPOCH",
    "MAX_INCARNATION",
    "MAX_INLINE_BYTES",
    "MAX_NAME_CHARS",
    "MAX_TEXT_BYTES",
    "NO_VITALS",
    "STATE_ORDER",
    "MemberRecord",
    "Vitals",
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

MAX_EPOCH = 2**32 - 1
"""The largest epoch: 32 bits on the wire."""

MAX_TEXT_BYTES = 255
"""A name or an address in UTF-8: its length travels in one byte."""

STATE_ORDER = (NodeState.ALIVE, NodeState.SUSPECT, NodeState.FAILED, NodeState.LEFT)
"""The states from weakest to strongest; the index travels on the wire."""

_RANK = {state: rank for rank, state in enumerate(STATE_ORDER)}


def _frozen(tags: Mapping[str, str]) -> Mapping[str, str]:
    return tags if isinstance(tags, MappingProxyType) else MappingProxyType(dict(tags))


@attrs.frozen
class Vitals:
    """How a node says it is."""

    epoch: int = 0
    """Raised by the owner with every statement; 32 bits."""
    stall: float = 0.0
    """Seconds that its event loop stops for at times, in classes; see ``stalls.py``."""
    coordinates: Coordinates | None = None
    """Its place in the network; None while it does not know."""
    is_halted: bool = False
    """Whether it is on a side of a partition that may not go on; see ``partition.py``."""
    is_following: bool = False
    """Whether it is halted only because others are."""


NO_VITALS = Vitals()
"""Of a node that has said nothing."""


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
    digest: bytes = b""
    """Size and hash of the encoded tags and services, where these are too large to travel with the record."""
    vitals: Vitals = NO_VITALS
    """How it says it is."""

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
            stall=self.vitals.stall,
            is_halted=self.vitals.is_halted,
            is_following=self.vitals.is_following,
        )


def rank(state: NodeState) -> int:
    """Return how strong a state is at the same incarnation: 0 for alive, 3 for left."""
    return _RANK[state]


def _status(record: MemberRecord) -> tuple[int, int, int]:
    return record.boot_id, record.incarnation, _RANK[record.state]


def _content(record: MemberRecord) -> tuple[str, str, bytes, tuple[tuple[str, str], ...], tuple[str, ...]]:
    if record.digest:
        return record.name, record.address, record.digest, (), ()
    return record.name, record.address, b"", tuple(sorted(record.tags.items())), record.services


def _has_newer_metadata(a: MemberRecord, b: MemberRecord) -> bool:
    if a.boot_id != b.boot_id:
        return a.boot_id > b.boot_id
    if a.meta_version != b.meta_version:
        return a.meta_version > b.meta_version
    same = a.tags == b.tags and a.services == b.services and a.digest == b.digest
    return not (same and a.address == b.address and a.name == b.name) and _content(a) > _content(b)


def _saying(vitals: Vitals) -> tuple[int, bool, bool, float, bool, Coordinates]:
    place = vitals.coordinates
    placed = (place is not None, place or (0.0, 0.0, 0.0, 0.0))
    return vitals.epoch, vitals.is_halted, vitals.is_following, vitals.stall, *placed


def _has_newer_vitals(a: MemberRecord, b: MemberRecord) -> bool:
    if a.vitals is b.vitals or a.boot_id != b.boot_id:
        return a.boot_id > b.boot_id
    return _saying(a.vitals) > _saying(b.vitals)


def merge(old: MemberRecord, new: MemberRecord) -> MemberRecord:
    """Combine two records of the same node; returns ``old`` itself when ``new`` adds nothing."""
    status = new if _status(new) > _status(old) else old
    metadata = new if _has_newer_metadata(new, old) else old
    vitals = new if _has_newer_vitals(new, old) else old
    if status is metadata is vitals:
        return status
    return attrs.evolve(metadata, incarnation=status.incarnation, state=status.state, vitals=vitals.vitals)


def supersedes(new: MemberRecord, old: MemberRecord) -> bool:
    """Tell whether merging ``new`` into ``old`` changes anything."""
    return _status(new) > _status(old) or _has_newer_metadata(new, old) or _has_newer_vitals(new, old)


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


def check_metadata(
    name: str, tags: Mapping[str, str], services: Sequence[str], max_bytes: int = MAX_INLINE_BYTES
) -> None:
    """Check what a node wants to tell about itself.

    Raises:
        ConfigError: a name, tag or service is no text or too long, or tags and services together are more than
            ``max_bytes`` encoded; the message names both sizes. Nothing changed.
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
    if size > max_bytes:
        raise ConfigError(f"tags and services take {size} bytes encoded, at most {max_bytes} are allowed")
