"""The membership messages on the wire: fixed ``struct`` records, CBOR only for tags and services.

The rules of this file:

* A datagram is one head (``heads.py``) and what rides on it; its payload never exceeds ``MAX_PAYLOAD_BYTES``. Sealing
  adds 36 bytes, which makes the 1200 that every path carries (RFC 9000, section 14).
* Integers are big-endian; ids are 16 bytes; texts are UTF-8 behind a length byte; an update looks the same in a
  datagram and in an exchange over a stream.
* Decoding trusts nothing: a length is compared with what is there before anything is built, every number is checked
  against its range, and all that is wrong raises :class:`MessageError` before any state changes.

Layouts, with the size of each part in bytes::

    status    boot_id 8 | incarnation 4 | state 1 | meta_version 4
    place     x 2 | y 2 | height 2                           half floats (IEEE 754), in milliseconds; NaN for unknown
    vitals    epoch 4 | stall class 1 | place 6 | error 2
    update    age ms 2 | id 16 | status 17 | name 1+n | address 1+n | metadata 2+n
              the state's byte has 0x80 if vitals follow, 0x40 if the metadata is the digest of a larger body
              if suspect: count 1, (accuser 16, phi 1, refused 1) each
              the byte of a stall class, in vitals and refreshes, has 0x80 from a node that may not go on, and 0x40
              as well if that is only because others may not
    refresh   age ms 2 | key 8 | boot 2 | epoch 4 | stall class 1 | place 6
    PING      1 | seq 4 | sender 16 | target 16 | known 17
    ACK       2 | seq 4 | sender 16 | status 17 | flags 1 | stall class 1 | place 6 | error 2
              0x01: you 17 | 0x04: node 16, if it is not the sender | 0x08: asked 16        0x02: you are a stranger
    PING_REQ  3 | seq 4 | sender 16 | target 16 | known 17 | remaining ms 4 | address 1+n
    UPDATES   4
    NACK      5 | seq 4 | sender 16 | target 16 | refused 1
    CLAIM     6 | sender 16 | status 17 | started 8 | address 1+n
    datagram  head | count 1, update ... | count 1, refresh ... | count 1, (2+n) ...      the last two only if needed
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import cbor2

from rpcnet._signals import Coordinates
from rpcnet.events import NodeState

from .heads import Accusation, Ack, Claim, Datagram, Head, MessageError, Nack, Ping, PingReq, Refresh, Status, Update
from .members import (
    MAX_BOOT_ID,
    MAX_INLINE_BYTES,
    MAX_NAME_CHARS,
    NO_VITALS,
    STATE_ORDER,
    MemberRecord,
    Vitals,
    encode_metadata,
    is_address,
    rank,
)

__all__ = [
    "AGE_BYTES",
    "DIGEST_BYTES",
    "MAX_ACCUSERS",
    "MAX_PAYLOAD_BYTES",
    "REFRESH_BYTES",
    "SMALLEST_UPDATE_BYTES",
    "Accusation",
    "Ack",
    "Claim",
    "Datagram",
    "Head",
    "MessageError",
    "Nack",
    "Ping",
    "PingReq",
    "Reader",
    "Refresh",
    "Status",
    "Update",
    "decode_datagram",
    "decode_metadata",
    "decode_update",
    "encode_age",
    "encode_datagram",
    "encode_head",
    "encode_refresh",
    "encode_update",
    "quantize",
    "quantize_stall",
]

MAX_PAYLOAD_BYTES = 1200 - 36
"""What a datagram may carry: 1200 bytes less the sealing layer's header (20) and tag (16)."""

MAX_ACCUSERS = 5
"""Accusers that travel with one suspicion, the weightiest; as many as a jury has members."""

AGE_BYTES = 2
"""What the age takes in front of an update or a refresh."""

DIGEST_BYTES = 12
"""Size (4) and hash (8) of metadata that does not travel inline."""

_PING, _ACK, _PING_REQ, _UPDATES, _NACK, _CLAIM = 1, 2, 3, 4, 5, 6
_PHI_STEPS = 16
_MAX_AGE = 65.535
_STATE_MASK, _HAS_DIGEST, _HAS_VITALS = 0x3F, 0x40, 0x80
_HAS_YOU, _IS_STRANGER, _IS_RELAYED, _WAS_ASKED = 1, 2, 4, 8
_LEAST_STALL = 0.25
_MAX_STALL_CLASS = 10
_STALL_MASK, _IS_FOLLOWING, _IS_HALTED = 0x3F, 0x40, 0x80
_MAX_PLACE = 60_000.0
_MIDDLING_ERROR = 0.5

_STATUS = struct.Struct("!QIBI")
_HEAD = struct.Struct("!BI16s16sQIBI")
_KEYS = struct.Struct("!I16s16s")
_ACK_HEAD = struct.Struct("!BI16sQIBIBB3e1e")
_ACK_REST = struct.Struct("!I16sQIBIBB3e1e")
_VITALS = struct.Struct("!IB4e")
_REFRESH = struct.Struct("!8sHIB3e")
_SHORT = struct.Struct("!H")
_MILLIS = struct.Struct("!I")
_ACCUSATION = struct.Struct("!16sBB")
_CLAIM_REST = struct.Struct("!16sQIBIQ")
_NACK_HEAD = struct.Struct("!BI16s16sB")

REFRESH_BYTES = AGE_BYTES + _REFRESH.size
"""What one refresh takes."""

SMALLEST_UPDATE_BYTES = AGE_BYTES + 16 + _STATUS.size + 2 + 4 + 2
"""What one update takes at least."""


def quantize(phi: float) -> float:
    """Return the value of ``phi`` that others will read."""
    return min(max(int(phi * _PHI_STEPS), 0), 255) / _PHI_STEPS


def quantize_stall(seconds: float) -> float:
    """Return the stall that others will read: 0 below 1/4 s, then the next lower of 1/4 s, 1/2 s, 1 s, 2 s ..."""
    return _stall_of(_stall_class(seconds))


def _stall_class(seconds: float) -> int:
    if seconds < _LEAST_STALL:
        return 0
    return min(int(math.log2(seconds / _LEAST_STALL) + 1e-9) + 1, _MAX_STALL_CLASS)


def _condition(vitals: Vitals) -> int:
    """Return the byte that holds the stall class and whether the node may go on."""
    flags = (_IS_HALTED if vitals.is_halted else 0) | (_IS_FOLLOWING if vitals.is_following else 0)
    return _stall_class(vitals.stall) | flags


def _stall_of(stall_class: int) -> float:
    return _LEAST_STALL * 2 ** (stall_class - 1) if stall_class else 0.0


# --- encoding


def _text(value: str) -> bytes:
    data = value.encode()
    return bytes((len(data),)) + data


def _status_bytes(status: Status) -> bytes:
    return _STATUS.pack(status.boot_id, status.incarnation, rank(status.state), status.meta_version)


def _place(coordinates: Coordinates | None) -> tuple[float, float, float, float]:
    """Return a place in the unit and range of the wire; rounded there, so what comes back differs a little."""
    if coordinates is None or math.isnan(sum(coordinates)):
        return math.nan, math.nan, math.nan, math.nan
    x, y, height, error = coordinates
    return (
        min(max(x * 1000, -_MAX_PLACE), _MAX_PLACE),
        min(max(y * 1000, -_MAX_PLACE), _MAX_PLACE),
        min(max(height * 1000, 0.0), _MAX_PLACE),
        min(max(error, 0.0), 2.0),
    )


def encode_age(age: float) -> bytes:
    """Encode what stands in front of an update or a refresh."""
    return _SHORT.pack(int(min(max(age, 0.0), _MAX_AGE) * 1000 + 0.5))


def encode_update(record: MemberRecord, accusations: Iterable[Accusation] = ()) -> bytes:
    """Encode news about one node without its age: at most 1075 bytes, 91 more with accusers.

    Vitals travel only with the living, from whom they may be wanted.
    """
    has_vitals = record.state is NodeState.ALIVE and record.vitals is not NO_VITALS and record.vitals != NO_VITALS
    metadata = record.digest or encode_metadata(record.tags, record.services)
    flags = rank(record.state) | (_HAS_VITALS if has_vitals else 0) | (_HAS_DIGEST if record.digest else 0)
    parts = [
        bytes.fromhex(record.id),
        _STATUS.pack(record.boot_id, record.incarnation, flags, record.meta_version),
        _text(record.name),
        _text(record.address),
        _SHORT.pack(len(metadata)),
        metadata,
    ]
    if has_vitals:
        vitals = record.vitals
        parts.append(_VITALS.pack(vitals.epoch, _condition(vitals), *_place(vitals.coordinates)))
    if record.state is NodeState.SUSPECT:
        weightiest = sorted(accusations, key=lambda entry: (-entry.phi, entry.accuser))[:MAX_ACCUSERS]
        parts.append(bytes((len(weightiest),)))
        parts.extend(_accusation_bytes(entry) for entry in weightiest)
    return b"".join(parts)


def _accusation_bytes(entry: Accusation) -> bytes:
    return _ACCUSATION.pack(bytes.fromhex(entry.accuser), round(quantize(entry.phi) * _PHI_STEPS), entry.refused)


def encode_refresh(record: MemberRecord) -> bytes:
    """Encode the sign of life that a record's vitals are, without its age."""
    vitals = record.vitals
    place = _place(vitals.coordinates)
    key = bytes.fromhex(record.id[:16])
    return _REFRESH.pack(key, record.boot_id & 0xFFFF, vitals.epoch, _condition(vitals), *place[:3])


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
    """Encode the head of a datagram, without what rides on it."""
    match head:
        case None:
            return bytes((_UPDATES,))
        case Ping():
            return _head_bytes(_PING, head.seq, head.sender, head.target, head.known)
        case Ack():
            return _ack_bytes(head)
        case PingReq():
            start = _head_bytes(_PING_REQ, head.seq, head.sender, head.target, head.known)
            return start + _MILLIS.pack(min(int(head.remaining * 1000), 0xFFFF_FFFF)) + _text(head.address)
        case Nack():
            sender, target = bytes.fromhex(head.sender), bytes.fromhex(head.target)
            return _NACK_HEAD.pack(_NACK, head.seq, sender, target, head.refused)
        case Claim(status=status):
            place = (status.boot_id, status.incarnation, rank(status.state), status.meta_version)
            fixed = _CLAIM_REST.pack(bytes.fromhex(head.sender), *place, head.started)
            return bytes((_CLAIM,)) + fixed + _text(head.address)


def _ack_bytes(ack: Ack) -> bytes:
    status, tail, flags = ack.status, b"", 0
    if ack.you is not None and not ack.is_stranger:
        flags, tail = _HAS_YOU, _status_bytes(ack.you)
    if ack.is_stranger:
        flags |= _IS_STRANGER
    if ack.node != ack.sender:
        flags, tail = flags | _IS_RELAYED, tail + bytes.fromhex(ack.node)
    if ack.asked is not None:
        flags, tail = flags | _WAS_ASKED, tail + bytes.fromhex(ack.asked)
    return (
        _ACK_HEAD.pack(
            _ACK,
            ack.seq,
            bytes.fromhex(ack.sender),
            status.boot_id,
            status.incarnation,
            rank(status.state),
            status.meta_version,
            flags,
            _stall_class(ack.stall),
            *_place(ack.coordinates),
        )
        + tail
    )


def encode_datagram(
    head: bytes, updates: Sequence[bytes], refreshes: Sequence[bytes] = (), user: Sequence[bytes] = ()
) -> bytes:
    """Join an encoded head and what rides on it, each update and refresh with its age in front.

    The caller has kept to ``MAX_PAYLOAD_BYTES``: a count takes one byte, a string of user data two more than itself.
    """
    parts = [head, bytes((len(updates),)), *updates]
    if refreshes or user:
        parts += [bytes((len(refreshes),)), *refreshes]
    if user:
        parts.append(bytes((len(user),)))
        for text in user:
            parts += [_SHORT.pack(len(text)), text]
    return b"".join(parts)


# --- decoding


class Reader:
    """Takes parts off the front of a message, never more than there is."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        end = self._position + size
        if end > len(self._data):
            raise MessageError(f"truncated: {size} bytes expected at {self._position} of {len(self._data)}")
        part = self._data[self._position : end]
        self._position = end
        return part

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        """Return the next parts of a fixed layout."""
        position = self._position
        end = position + layout.size
        if end > len(self._data):
            raise MessageError(f"truncated: {layout.size} bytes expected at {position} of {len(self._data)}")
        self._position = end
        return layout.unpack_from(self._data, position)

    def byte(self) -> int:
        """Return the next byte."""
        return self.take(1)[0]

    def flag(self) -> bool:
        """Return the next byte, which is 0 or 1."""
        return _flag(self.byte())

    def text(self) -> str:
        """Return the next text."""
        try:
            return self.take(self.byte()).decode()
        except UnicodeDecodeError as error:
            raise MessageError(f"not UTF-8: {error}") from error

    def remaining(self) -> int:
        """Return how many bytes have not been taken."""
        return len(self._data) - self._position

    def finish(self) -> None:
        """Check that everything has been taken."""
        if self.remaining():
            raise MessageError(f"{self.remaining()} bytes too many")


def _status(boot_id: int, incarnation: int, state: int, meta_version: int) -> Status:
    if state >= len(STATE_ORDER):
        raise MessageError(f"unknown state {state}")
    if boot_id > MAX_BOOT_ID:
        raise MessageError(f"boot id {boot_id} out of range")
    return Status(boot_id, incarnation, STATE_ORDER[state], meta_version)


def _stall(stall_class: int) -> float:
    if stall_class > _MAX_STALL_CLASS:
        raise MessageError(f"unknown stall class {stall_class}")
    return _stall_of(stall_class)


def _decode_condition(condition: int) -> tuple[float, bool, bool]:
    is_halted, is_following = bool(condition & _IS_HALTED), bool(condition & _IS_FOLLOWING)
    if is_following and not is_halted:
        raise MessageError("a node that is not halted follows others")
    return _stall(condition & _STALL_MASK), is_halted, is_following


def _coordinates(x: float, y: float, height: float, error: float) -> Coordinates | None:
    if math.isnan(x):
        return None
    if not (abs(x) <= _MAX_PLACE and abs(y) <= _MAX_PLACE and 0 <= height <= _MAX_PLACE and 0 <= error <= 2):
        raise MessageError("a place that is out of range")
    return x / 1000, y / 1000, height / 1000, error


def _address(reader: Reader) -> str:
    address = reader.text()
    if not is_address(address):
        raise MessageError(f"{address!r} is not an address")
    return address


def _flag(value: int) -> bool:
    if value > 1:
        raise MessageError(f"{value} is neither 0 nor 1")
    return bool(value)


def _refuse(_decoder: object) -> NoReturn:
    raise MessageError("metadata uses a CBOR tag")


_REFUSED_TAGS = dict.fromkeys((*range(6), 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000), _refuse)


def decode_metadata(data: bytes) -> tuple[dict[str, str], tuple[str, ...]]:
    """Decode tags and services.

    Raises:
        MessageError: they are malformed.
    """
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


def decode_update(reader: Reader) -> Update:
    """Decode news about one node, its age in front.

    Raises:
        MessageError: it is malformed.
    """
    age, node_id = reader.unpack(_SHORT)[0] / 1000, reader.take(16).hex()
    boot_id, incarnation, flags, meta_version = reader.unpack(_STATUS)
    status = _status(boot_id, incarnation, flags & _STATE_MASK, meta_version)
    name = reader.text()
    if not 1 <= len(name) <= MAX_NAME_CHARS:
        raise MessageError(f"a name of {len(name)} characters")
    address = _address(reader)
    (size,) = reader.unpack(_SHORT)
    if size > MAX_INLINE_BYTES:
        raise MessageError(f"metadata of {size} bytes, at most {MAX_INLINE_BYTES} are allowed")
    has_digest = bool(flags & _HAS_DIGEST)
    if has_digest and size != DIGEST_BYTES:
        raise MessageError(f"a digest of {size} bytes")
    metadata = reader.take(size)
    tags, services = ({}, ()) if has_digest else decode_metadata(metadata)
    if flags & _HAS_VITALS and status.state is not NodeState.ALIVE:
        raise MessageError("vitals of a node that is not alive")
    record = MemberRecord(
        id=node_id,
        name=name,
        address=address,
        boot_id=boot_id,
        incarnation=incarnation,
        state=status.state,
        meta_version=meta_version,
        tags=tags,
        services=services,
        digest=metadata if has_digest else b"",
        vitals=_decode_vitals(reader) if flags & _HAS_VITALS else NO_VITALS,
    )
    return Update(record, _decode_accusations(reader) if status.state is NodeState.SUSPECT else (), age)


def _decode_vitals(reader: Reader) -> Vitals:
    epoch, condition, *place = reader.unpack(_VITALS)
    stall, *halt = _decode_condition(condition)
    return Vitals(epoch, stall, _coordinates(*place), *halt)


def _decode_accusations(reader: Reader) -> tuple[Accusation, ...]:
    count = reader.byte()
    if count > MAX_ACCUSERS:
        raise MessageError(f"{count} accusers, at most {MAX_ACCUSERS} are allowed")
    entries = [reader.unpack(_ACCUSATION) for _ in range(count)]
    return tuple(Accusation(accuser.hex(), steps / _PHI_STEPS, _flag(refused)) for accuser, steps, refused in entries)


def _decode_refresh(reader: Reader) -> Refresh:
    (age,) = reader.unpack(_SHORT)
    key, boot, epoch, condition, x, y, height = reader.unpack(_REFRESH)
    stall, *halt = _decode_condition(condition)
    place = _coordinates(x, y, height, _MIDDLING_ERROR)
    return Refresh(key.hex(), boot, epoch, stall, place, age / 1000, *halt)


def _decode_head(reader: Reader) -> Head | None:
    kind = reader.byte()
    match kind:
        case 4:  # UPDATES
            return None
        case 2:  # ACK
            return _decode_ack(reader)
        case 1 | 3:  # PING, PING_REQ
            seq, sender, target = reader.unpack(_KEYS)
            known = _status(*reader.unpack(_STATUS))
            if kind == _PING:
                return Ping(seq, sender.hex(), target.hex(), known)
            (millis,) = reader.unpack(_MILLIS)
            return PingReq(seq, sender.hex(), target.hex(), known, millis / 1000, _address(reader))
        case 5:  # NACK
            seq, sender, target = reader.unpack(_KEYS)
            return Nack(seq, sender.hex(), target.hex(), reader.flag())
        case 6:  # CLAIM
            sender, *status, started = reader.unpack(_CLAIM_REST)
            if started > MAX_BOOT_ID:
                raise MessageError(f"boot id {started} out of range")
            return Claim(sender.hex(), _status(*status), started, _address(reader))
    raise MessageError(f"unknown message kind {kind}")


def _decode_ack(reader: Reader) -> Ack:
    seq, sender_bytes, boot_id, incarnation, state, meta_version, flags, stall_class, *place = reader.unpack(_ACK_REST)
    if flags > 15 or flags & 3 == 3:
        raise MessageError(f"unknown flags {flags} of an answer")
    sender = sender_bytes.hex()
    return Ack(
        seq,
        sender,
        status=_status(boot_id, incarnation, state, meta_version),
        you=_status(*reader.unpack(_STATUS)) if flags & _HAS_YOU else None,
        is_stranger=bool(flags & _IS_STRANGER),
        node=reader.take(16).hex() if flags & _IS_RELAYED else sender,
        asked=reader.take(16).hex() if flags & _WAS_ASKED else None,
        stall=_stall(stall_class),
        coordinates=_coordinates(*place),
    )


def decode_datagram(payload: bytes) -> Datagram:
    """Decode a membership datagram.

    Raises:
        MessageError: it is malformed in any way. Nothing changed.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise MessageError(f"{len(payload)} bytes, at most {MAX_PAYLOAD_BYTES} are allowed")
    reader = Reader(payload)
    head = _decode_head(reader)
    updates = tuple([decode_update(reader) for _ in range(reader.byte())])
    if not reader.remaining():
        return Datagram(head, updates)
    refreshes = tuple([_decode_refresh(reader) for _ in range(reader.byte())])
    user: tuple[bytes, ...] = ()
    if reader.remaining():
        user = tuple([reader.take(reader.unpack(_SHORT)[0]) for _ in range(reader.byte())])
    reader.finish()
    return Datagram(head, updates, refreshes, user)
