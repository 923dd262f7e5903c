"""The membership messages on the wire: fixed ``struct`` records, CBOR only for tags and services.

The rules of this file:

* A datagram is one head (PING, ACK, PING_REQ or nothing) and the updates that ride on it; its payload never exceeds
  ``MAX_PAYLOAD_BYTES``. Sealing adds 36 bytes, which makes the 1200 that every path carries (RFC 9000, section 14).
* Integers are big-endian; ids are 16 bytes; texts are UTF-8 behind a length byte; a record may stand in a datagram
  and in a full state alike.
* Decoding trusts nothing: a length is compared with what is there before anything is built, every number is checked
  against its range, and all that is wrong raises :class:`MessageError` before any state changes.

Layouts, with the size of each part in bytes::

    status    boot_id 8 | incarnation 4 | state 1 | meta_version 4
    update    id 16 | status 17 | name 1+n | address 1+n | metadata 2+n | if suspect: count 1, (accuser 16, phi 1) each
    PING      1 | seq 4 | sender 16 | target 16 | known 17                                      then updates
    ACK       2 | seq 4 | sender 16 | node 16 | status 17 | view 1 | if it is not the latest: you 17   then updates
    PING_REQ  3 | seq 4 | sender 16 | target 16 | known 17 | remaining ms 4 | address 1+n       then updates
    UPDATES   4                                                                                 then updates
    updates   count 1 | update ...
    state     version 1 | count 4 | update ...
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import attrs
import cbor2

from rpcnet.errors import ProtocolError
from rpcnet.events import NodeState

from .members import (
    MAX_BOOT_ID,
    MAX_INLINE_BYTES,
    MAX_NAME_CHARS,
    STATE_ORDER,
    MemberRecord,
    encode_metadata,
    is_address,
    rank,
)

__all__ = [
    "MAX_ACCUSERS",
    "MAX_PAYLOAD_BYTES",
    "Accusation",
    "Ack",
    "Datagram",
    "Head",
    "MessageError",
    "Ping",
    "PingReq",
    "Status",
    "Update",
    "decode_datagram",
    "decode_state",
    "encode_datagram",
    "encode_head",
    "encode_state",
    "encode_update",
    "quantize",
]

MAX_PAYLOAD_BYTES = 1200 - 36
"""What a datagram may carry: 1200 bytes less the sealing layer's header (20) and tag (16)."""

MAX_ACCUSERS = 5
"""Accusers that travel with one suspicion, the weightiest; as many as a jury has members."""

_PING, _ACK, _PING_REQ, _UPDATES = 1, 2, 3, 4
_STATE_VERSION = 1
_PHI_STEPS = 16

_STATUS = struct.Struct("!QIBI")
_KEYS = struct.Struct("!I16s16s")
_HEAD = struct.Struct("!BI16s16sQIBI")
_COUNT = struct.Struct("!I")
_SHORT = struct.Struct("!H")
_MILLIS = struct.Struct("!I")
_ACCUSATION = struct.Struct("!16sB")
_SMALLEST_UPDATE = 16 + _STATUS.size + 2 + 4 + 2


class MessageError(ProtocolError):
    """A membership message is malformed; the text says how. It was dropped and nothing changed."""


@attrs.frozen
class Status:
    """Where a node stands in the order of records, without who it is."""

    boot_id: int
    incarnation: int
    state: NodeState
    meta_version: int

    @classmethod
    def of(cls, record: MemberRecord) -> Status:
        """Return the status of a record."""
        return cls(record.boot_id, record.incarnation, record.state, record.meta_version)


@attrs.frozen
class Accusation:
    """One observer's evidence against a suspect."""

    accuser: str
    """The id of the observer."""
    phi: float
    """How improbable the silence it met is, in steps of 1/16 up to 15.9375."""


@attrs.frozen
class Update:
    """News about one node."""

    record: MemberRecord
    accusations: tuple[Accusation, ...] = ()
    """Who suspects it; empty unless the state is suspect."""


@attrs.frozen
class Ping:
    """Are you there? ``known`` is what the sender believes of the target, so that it can refute in its answer."""

    seq: int
    sender: str
    target: str
    known: Status


@attrs.frozen
class Ack:
    """The answer to a ping, from the node itself or passed on by a helper."""

    seq: int
    sender: str
    """The id of who sends this datagram: the node itself, or the helper that passes its answer on."""
    node: str
    """The id of who answered the ping."""
    status: Status
    """The answering node's own record, in short."""
    you: Status | None = None
    """What the answering node believes of the asker, when that is not what it would like to hear."""
    is_stranger: bool = False
    """True when the answering node has never heard of the asker."""


@attrs.frozen
class PingReq:
    """Please ping ``target`` for me; an answer within ``remaining`` seconds is of use."""

    seq: int
    sender: str
    target: str
    known: Status
    remaining: float
    address: str


Head = Ping | Ack | PingReq


@attrs.frozen
class Datagram:
    """A decoded membership datagram."""

    head: Head | None
    """None for a datagram that only carries updates."""
    updates: tuple[Update, ...] = ()


def quantize(phi: float) -> float:
    """Return the value of ``phi`` that others will read."""
    return min(max(int(phi * _PHI_STEPS), 0), 255) / _PHI_STEPS


# --- encoding


def _text(value: str) -> bytes:
    data = value.encode()
    return bytes((len(data),)) + data


def _status_bytes(status: Status) -> bytes:
    return _STATUS.pack(status.boot_id, status.incarnation, rank(status.state), status.meta_version)


def _accusation_bytes(entry: Accusation) -> bytes:
    return _ACCUSATION.pack(bytes.fromhex(entry.accuser), round(quantize(entry.phi) * _PHI_STEPS))


def encode_update(record: MemberRecord, accusations: Iterable[Accusation] = ()) -> bytes:
    """Encode news about one node: at most 1059 bytes, 86 more with accusers."""
    metadata = encode_metadata(record.tags, record.services)
    parts = [
        bytes.fromhex(record.id),
        _status_bytes(Status.of(record)),
        _text(record.name),
        _text(record.address),
        _SHORT.pack(len(metadata)),
        metadata,
    ]
    if record.state is NodeState.SUSPECT:
        weightiest = sorted(accusations, key=lambda entry: (-entry.phi, entry.accuser))[:MAX_ACCUSERS]
        parts.append(bytes((len(weightiest),)))
        parts.extend(_accusation_bytes(entry) for entry in weightiest)
    return b"".join(parts)


def _head_bytes(kind: int, seq: int, sender: str, subject: str, status: Status) -> bytes:
    return _HEAD.pack(
        kind,
        seq,
        bytes.fromhex(sender),
        bytes.fromhex(subject),
        status.boot_id,
        status.incarnation,
        rank(status.state),
        status.meta_version,
    )


def encode_head(head: Head | None) -> bytes:
    """Encode the head of a datagram, without its updates."""
    match head:
        case None:
            return bytes((_UPDATES,))
        case Ping():
            return _head_bytes(_PING, head.seq, head.sender, head.target, head.known)
        case Ack():
            view = 2 if head.is_stranger else int(head.you is not None)
            you = _status_bytes(head.you) if head.you is not None and view == 1 else b""
            return _head_bytes(_ACK, head.seq, head.sender, head.node, head.status) + bytes((view,)) + you
        case PingReq():
            start = _head_bytes(_PING_REQ, head.seq, head.sender, head.target, head.known)
            return start + _MILLIS.pack(int(head.remaining * 1000)) + _text(head.address)


def encode_datagram(head: bytes, updates: Sequence[bytes]) -> bytes:
    """Join an encoded head and encoded updates; the caller has kept to ``MAX_PAYLOAD_BYTES``, one byte is added."""
    return b"".join((head, bytes((len(updates),)), *updates))


def encode_state(records: Sequence[MemberRecord]) -> bytes:
    """Encode all records for a full exchange over a stream; accusers do not travel, hearsay is checked anyway."""
    parts = [bytes((_STATE_VERSION,)), _COUNT.pack(len(records))]
    parts.extend(encode_update(record) for record in records)
    return b"".join(parts)


# --- decoding


class _Reader:
    """Takes parts off the front of a message, never more than there is."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._data):
            raise MessageError(f"truncated: {size} bytes expected at {self._position} of {len(self._data)}")
        part = self._data[self._position : end]
        self._position = end
        return part

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        return layout.unpack(self.take(layout.size))

    def byte(self) -> int:
        return self.take(1)[0]

    def text(self) -> str:
        try:
            return self.take(self.byte()).decode()
        except UnicodeDecodeError as error:
            raise MessageError(f"not UTF-8: {error}") from error

    def remaining(self) -> int:
        return len(self._data) - self._position

    def finish(self) -> None:
        if self.remaining():
            raise MessageError(f"{self.remaining()} bytes too many")


def _status(boot_id: int, incarnation: int, state: int, meta_version: int) -> Status:
    if state >= len(STATE_ORDER):
        raise MessageError(f"unknown state {state}")
    if boot_id > MAX_BOOT_ID:
        raise MessageError(f"boot id {boot_id} out of range")
    return Status(boot_id, incarnation, STATE_ORDER[state], meta_version)


def _address(reader: _Reader) -> str:
    address = reader.text()
    if not is_address(address):
        raise MessageError(f"{address!r} is not an address")
    return address


def _refuse(_decoder: object) -> NoReturn:
    raise MessageError("metadata uses a CBOR tag")


_REFUSED_TAGS = dict.fromkeys((*range(6), 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000), _refuse)


def _decode_metadata(data: bytes) -> tuple[dict[str, str], tuple[str, ...]]:
    if not data:
        return {}, ()
    try:
        value = cbor2.loads(
            data,
            semantic_decoders=_REFUSED_TAGS,
            max_depth=4,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
    except (cbor2.CBORError, ValueError, OverflowError) as error:
        raise MessageError(f"metadata: {error}") from error
    match value:
        case [dict() as tags, list() as services]:
            texts = (*tags, *tags.values(), *services)
        case _:
            raise MessageError("metadata is not an array of tags and services")
    if not all(type(text) is str for text in texts):
        raise MessageError("metadata holds something else than text")
    if encode_metadata(tags, services) != data:
        raise MessageError("metadata is not in its one encoding")
    return tags, tuple(services)


def _decode_update(reader: _Reader) -> Update:
    node_id = reader.take(16).hex()
    status = _status(*reader.unpack(_STATUS))
    name = reader.text()
    if not 1 <= len(name) <= MAX_NAME_CHARS:
        raise MessageError(f"a name of {len(name)} characters")
    address = _address(reader)
    (size,) = reader.unpack(_SHORT)
    if size > MAX_INLINE_BYTES:
        raise MessageError(f"metadata of {size} bytes, at most {MAX_INLINE_BYTES} are allowed")
    tags, services = _decode_metadata(reader.take(size))
    record = MemberRecord(
        id=node_id,
        name=name,
        address=address,
        boot_id=status.boot_id,
        incarnation=status.incarnation,
        state=status.state,
        meta_version=status.meta_version,
        tags=tags,
        services=services,
    )
    return Update(record, _decode_accusations(reader) if status.state is NodeState.SUSPECT else ())


def _decode_accusations(reader: _Reader) -> tuple[Accusation, ...]:
    count = reader.byte()
    if count > MAX_ACCUSERS:
        raise MessageError(f"{count} accusers, at most {MAX_ACCUSERS} are allowed")
    entries = [reader.unpack(_ACCUSATION) for _ in range(count)]
    return tuple(Accusation(accuser.hex(), steps / _PHI_STEPS) for accuser, steps in entries)


def _decode_head(reader: _Reader) -> Head | None:
    kind = reader.byte()
    if kind == _UPDATES:
        return None
    if kind not in (_PING, _ACK, _PING_REQ):
        raise MessageError(f"unknown message kind {kind}")
    seq, sender_bytes, subject_bytes = reader.unpack(_KEYS)
    sender, subject = sender_bytes.hex(), subject_bytes.hex()
    status = _status(*reader.unpack(_STATUS))
    if kind == _PING:
        return Ping(seq, sender, subject, status)
    if kind == _ACK:
        view = reader.byte()
        if view > 2:
            raise MessageError(f"unknown view {view}")
        you = _status(*reader.unpack(_STATUS)) if view == 1 else None
        return Ack(seq, sender, subject, status, you=you, is_stranger=view == 2)
    (millis,) = reader.unpack(_MILLIS)
    return PingReq(seq, sender, subject, status, millis / 1000, _address(reader))


def decode_datagram(payload: bytes) -> Datagram:
    """Decode a membership datagram.

    Raises:
        MessageError: it is malformed in any way. Nothing changed.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise MessageError(f"{len(payload)} bytes, at most {MAX_PAYLOAD_BYTES} are allowed")
    reader = _Reader(payload)
    head = _decode_head(reader)
    updates = tuple(_decode_update(reader) for _ in range(reader.byte()))
    reader.finish()
    return Datagram(head, updates)


def decode_state(payload: bytes) -> list[MemberRecord]:
    """Decode a full state; its size is the caller's to bound, memory stays within a small multiple of it.

    Raises:
        MessageError: it is malformed in any way. Nothing changed.
    """
    reader = _Reader(payload)
    version = reader.byte()
    if version != _STATE_VERSION:
        raise MessageError(f"unknown version {version} of a full state")
    (count,) = reader.unpack(_COUNT)
    if count * _SMALLEST_UPDATE > reader.remaining():
        raise MessageError(f"{count} records do not fit into {reader.remaining()} bytes")
    records = [_decode_update(reader).record for _ in range(count)]
    reader.finish()
    return records
