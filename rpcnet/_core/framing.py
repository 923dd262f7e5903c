"""Frames: how calls, results, errors and cancellations lie in a stream of bytes.

The rules of this file:

* A stream opened by the dialling side begins with one byte, its :class:`StreamKind`; all that follows are frames.
* A frame is a fixed header of 15 bytes and a body. The header says the length of the body, the kind, the call's id, and
  two small numbers whose meaning depends on the kind (the table at :class:`FrameKind`). Nothing has to be decoded to
  route a frame, and no length is trusted beyond the limit that the reader was given.
* Anything out of place raises :class:`~rpcnet.errors.ProtocolError` with the frame's name; the connection that it came
  on is closed, no other notices.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

import attrs
import cbor2

from rpcnet.errors import ProtocolError

__all__ = [
    "HEADER_BYTES",
    "MAX_CONTROL_BYTES",
    "MAX_TIMEOUT_MS",
    "Frame",
    "FrameKind",
    "FrameReader",
    "Hello",
    "MethodEntry",
    "ServiceEntry",
    "StreamKind",
    "decode_error",
    "decode_hello",
    "encode_error",
    "encode_frame",
    "encode_hello",
    "timeout_to_wire",
]

_HEADER = struct.Struct(">IBIHI")
HEADER_BYTES = _HEADER.size
"""Length of the header in front of each frame's body."""
MAX_CONTROL_BYTES = 1 << 20
"""The longest frame on a control stream: a table of some ten thousand methods."""
MAX_TIMEOUT_MS = 0xFFFF_FFFF
"""The longest deadline that travels, 49 days; a later one travels as none."""
_MAX_MESSAGE_CHARS = 8192
_MAX_CHAR_BYTES = 4
_ERROR_OVERHEAD = 64
_pack = _HEADER.pack
_unpack_from = _HEADER.unpack_from
_new_tuple = tuple.__new__  # what Frame(...) does, without the detour through a Python function


class StreamKind(enum.IntEnum):
    """The first byte of a stream: what it is for."""

    CONTROL = 1
    """One per connection, opened first: HELLO both ways, later GOAWAY."""
    LANE = 2
    """A long-lived stream that carries many small calls."""
    CALL = 3
    """One call with a large body; the answer comes on the same stream."""
    RESULT = 4
    """One large result of a call that came on a lane; unidirectional, opened by the server."""
    STATE = 5
    """One exchange of membership's full state."""


class FrameKind(enum.IntEnum):
    """The kinds of frames; ``a`` and ``b`` are the two numbers of the header."""

    CALL = 0
    """``a``: the method's number in the server's HELLO; ``b``: milliseconds left, 0 for ever; body: arguments."""
    RESULT = 1
    """Body: the result."""
    ERROR = 2
    """``a``: the status; ``b``: 1 if no handler ran; body: see :func:`encode_error`."""
    CANCEL = 3
    """The caller has given up. Empty body."""
    HELLO = 8
    """Body: see :class:`Hello`."""
    GOAWAY = 9
    """The server drains: calls that it has not accepted yet should go elsewhere. Empty body."""
    STATE = 10
    """Body: membership's full state."""


_KINDS = frozenset(int(kind) for kind in FrameKind)


class Frame(NamedTuple):
    """One frame; see :class:`FrameKind` for ``a`` and ``b``."""

    kind: int
    call_id: int
    a: int
    b: int
    body: bytes


def encode_frame(kind: int, call_id: int, a: int = 0, b: int = 0, body: bytes = b"") -> bytes:
    """Encode one frame."""
    return _pack(len(body), kind, call_id, a, b) + body


def timeout_to_wire(seconds: float) -> int:
    """Round what is left of a deadline up to whole milliseconds, at least one; 0 stands for none."""
    milliseconds = seconds * 1000
    if milliseconds >= MAX_TIMEOUT_MS:
        return 0
    return -int(-milliseconds // 1) if milliseconds > 1 else 1


class FrameReader:
    """Cuts the bytes of one stream into frames.

    Args:
        max_body_bytes: the longest body that is accepted, checked before the body is collected.
    """

    __slots__ = ("_max", "_missing", "_parts", "_rest")

    def __init__(self, max_body_bytes: int) -> None:
        self._max = max_body_bytes
        self._rest = b""
        self._parts: list[bytes] = []
        self._missing = 0

    @property
    def is_between_frames(self) -> bool:
        """Whether all bytes so far ended with a whole frame."""
        return not self._rest and not self._parts

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes and return the frames they complete.

        Raises:
            ProtocolError: a kind or a length is not allowed; the reader must not be used again.
        """
        if self._parts:
            self._parts.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return []
            data = b"".join(self._parts)
            self._parts = []
        elif self._rest:
            data = self._rest + data
            self._rest = b""
        return self._cut(data)

    def _cut(self, data: bytes) -> list[Frame]:
        frames: list[Frame] = []
        offset, size, limit = 0, len(data), self._max
        while size - offset >= HEADER_BYTES:
            length, kind, call_id, a, b = _unpack_from(data, offset)
            if kind not in _KINDS or length > limit:
                self._refuse(length, kind)
            start = offset + HEADER_BYTES
            end = start + length
            if end > size:
                self._parts = [data[offset:] if offset else data]
                self._missing = end - size
                return frames
            frames.append(_new_tuple(Frame, (kind, call_id, a, b, data[start:end])))
            offset = end
        self._rest = data[offset:] if offset else data
        return frames

    def _refuse(self, length: int, kind: int) -> None:
        if kind not in _KINDS:
            raise ProtocolError(f"frame of unknown kind {kind}")
        raise ProtocolError(f"{FrameKind(kind).name} frame of {length} bytes on a stream limited to {self._max} bytes")


# --- bodies of ERROR


def encode_error(message: str, call_id: str | None, max_bytes: int = 1 << 20) -> bytes:
    """Encode the body of an ERROR frame; the message is cut at 8192 characters, or to fit into ``max_bytes``."""
    most = max(0, min(_MAX_MESSAGE_CHARS, (max_bytes - _ERROR_OVERHEAD) // _MAX_CHAR_BYTES))
    return cbor2.dumps([message[:most], call_id])


def decode_error(body: bytes) -> tuple[str, str | None]:
    """Decode the body of an ERROR frame into message and call id.

    Raises:
        ProtocolError: the body is something else.
    """
    match _decode_control(body, "ERROR"):
        case [str() as message, (str() | None) as call_id]:
            return message, call_id
    raise ProtocolError("ERROR frame: the body must be [message, call id]")


# --- body of HELLO


@attrs.frozen
class MethodEntry:
    """One method in the table of a HELLO."""

    name: str
    """The method's name, unique in its service."""
    number: int
    """What CALL frames name it by, unique in the connection."""
    idempotent: bool
    """Whether it may run twice."""


@attrs.frozen
class ServiceEntry:
    """One service in the table of a HELLO."""

    name: str
    """The service's name, unique in the node."""
    version: int
    """The version its author gave it."""
    methods: tuple[MethodEntry, ...]
    """Its methods."""


@attrs.frozen(kw_only=True)
class Hello:
    """What each side says first on the control stream."""

    protocol_min: int
    """The oldest protocol version that the sender speaks."""
    protocol_max: int
    """The newest protocol version that the sender speaks."""
    library: str
    """The sender's rpcnet version, for logs."""
    node_id: str
    """The sender's node id; empty for a client that is no node."""
    boot_id: int
    """The sender's boot id."""
    max_calls: int
    """How many calls the receiver of this HELLO may have in flight at its sender."""
    max_message_bytes: int
    """The longest request that the sender of this HELLO accepts."""
    services: tuple[ServiceEntry, ...] = ()
    """What the sender serves."""


def encode_hello(hello: Hello) -> bytes:
    """Encode the body of a HELLO frame."""
    services = [[s.name, s.version, [[m.name, m.number, m.idempotent] for m in s.methods]] for s in hello.services]
    return cbor2.dumps(
        {
            "min": hello.protocol_min,
            "max": hello.protocol_max,
            "lib": hello.library,
            "node": hello.node_id,
            "boot": hello.boot_id,
            "calls": hello.max_calls,
            "bytes": hello.max_message_bytes,
            "services": services,
        }
    )


def decode_hello(body: bytes) -> Hello:
    """Decode the body of a HELLO frame; fields that this version does not know are ignored.

    Raises:
        ProtocolError: a field that must be there is missing or of another type.
    """
    match _decode_control(body, "HELLO"):
        case {
            "min": int() as low,
            "max": int() as high,
            "lib": str() as library,
            "node": str() as node_id,
            "boot": int() as boot_id,
            "calls": int() as max_calls,
            "bytes": int() as max_bytes,
            "services": list() as services,
        } if max_calls > 0 and max_bytes > 0:
            return Hello(
                protocol_min=low,
                protocol_max=high,
                library=library,
                node_id=node_id,
                boot_id=boot_id,
                max_calls=max_calls,
                max_message_bytes=max_bytes,
                services=tuple(_decode_service(entry) for entry in services),
            )
    raise ProtocolError("HELLO frame: a field is missing or of the wrong type")


def _decode_service(entry: object) -> ServiceEntry:
    match entry:
        case [str() as name, int() as version, list() as methods]:
            return ServiceEntry(name, version, tuple(_decode_method(method) for method in methods))
    raise ProtocolError("HELLO frame: a service must be [name, version, methods]")


def _decode_method(entry: object) -> MethodEntry:
    match entry:
        case [str() as name, int() as number, bool() as idempotent] if 0 <= number <= 0xFFFF:
            return MethodEntry(name, number, idempotent)
    raise ProtocolError("HELLO frame: a method must be [name, number, idempotent]")


def _decode_control(body: bytes, frame: str) -> object:
    try:
        value: object = cbor2.loads(body, max_depth=8, allow_indefinite=False, allow_duplicate_keys=False)
    except Exception as error:  # a decoder of foreign bytes may raise anything; none of it is ours
        raise ProtocolError(f"{frame} frame: the body is not valid CBOR") from error
    return value
