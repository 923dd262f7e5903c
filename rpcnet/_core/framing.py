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

from rpcnet.errors import ProtocolError

__all__ = [
    "HEADER_BYTES",
    "MAX_CONTROL_BYTES",
    "MAX_TIMEOUT_MS",
    "Frame",
    "FrameKind",
    "FrameReader",
    "StreamKind",
    "encode_frame",
    "encode_head",
    "timeout_to_wire",
]

_HEADER = struct.Struct(">IBIHI")
HEADER_BYTES = _HEADER.size
"""Length of the header in front of each frame's body."""
MAX_CONTROL_BYTES = 1 << 20
"""The longest frame on a control stream: a table of some ten thousand methods."""
MAX_TIMEOUT_MS = 0xFFFF_FFFF
"""The longest deadline that travels, 49 days; a later one travels as none."""
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
    """One call with a large body, or one that streams; the answer comes on the same stream."""
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
    """``a``: the status; ``b``: 1 if no handler ran; body: see ``bodies.encode_error``."""
    CANCEL = 3
    """The caller has given up. Empty body."""
    CALL_WITH_METADATA = 4
    """As CALL; body: see ``bodies.join_metadata``."""
    ITEM = 5
    """One value of a stream of requests or of results. Body: the value."""
    END = 6
    """The last request of a stream has been sent. Empty body."""
    CREDIT = 7
    """``b``: how many bytes more may be sent, each ITEM counted by ``flow.cost``. Empty body.

    The server's first CREDIT, perhaps of 0 bytes, says that the call was accepted."""
    HELLO = 8
    """Body: see ``bodies.Hello``."""
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


def encode_head(kind: int, call_id: int, a: int, b: int, size: int) -> bytes:
    """Encode the header of a frame whose body, of ``size`` bytes, is sent behind it and not copied."""
    return _pack(size, kind, call_id, a, b)


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

    __slots__ = ("_max", "_missing", "_parts", "_rest", "buffered_bytes")

    def __init__(self, max_body_bytes: int) -> None:
        self._max = max_body_bytes
        self._rest = b""
        self._parts: list[bytes] = []
        self._missing = 0
        self.buffered_bytes = 0
        """Bytes of the frame that is not complete yet."""

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
                self.buffered_bytes += len(data)
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
                self.buffered_bytes = size - offset
                return frames
            frames.append(_new_tuple(Frame, (kind, call_id, a, b, data[start:end])))
            offset = end
        self._rest = data[offset:] if offset else data
        self.buffered_bytes = size - offset
        return frames

    def _refuse(self, length: int, kind: int) -> None:
        if kind not in _KINDS:
            raise ProtocolError(f"frame of unknown kind {kind}")
        raise ProtocolError(f"{FrameKind(kind).name} frame of {length} bytes on a stream limited to {self._max} bytes")
