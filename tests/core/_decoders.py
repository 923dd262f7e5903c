"""Everything that reads bytes of a stranger, each with real encodings to begin from, and what it may raise."""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import enum
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs

import rpcnet
from rpcnet._core.bodies import (
    Hello,
    MethodEntry,
    ServiceEntry,
    decode_error,
    decode_hello,
    decode_metadata,
    encode_error,
    encode_hello,
    encode_metadata,
    join_metadata,
    split_metadata,
)
from rpcnet._core.conversion import Conversions
from rpcnet._core.framing import HEADER_BYTES, FrameKind, FrameReader, encode_frame
from rpcnet._core.members import MemberRecord
from rpcnet._core.messages import (
    Accusation,
    Ack,
    MessageError,
    Ping,
    PingReq,
    Status,
    decode_datagram,
    decode_state,
    encode_datagram,
    encode_head,
    encode_state,
    encode_update,
)
from rpcnet._core.values import MethodCodec
from rpcnet.errors import Hop, Internal, InvalidArgument, ProtocolError, ResourceExhausted
from rpcnet.service import MethodDefinition, Parameter, Shape

LIMIT = 1 << 16


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Flags(enum.Flag):
    READ = 1
    WRITE = 2


@attrs.frozen
class Tree:
    name: str
    children: list[Tree] = attrs.field(factory=list)


@attrs.frozen
class Job:
    key: uuid.UUID
    due: dt.datetime | None
    price: decimal.Decimal
    colour: Colour
    sizes: dict[int, tuple[float, ...]]
    anything: Any


class Lost(rpcnet.ApplicationError):
    """A declared error."""

    path: str
    tree: Tree | None = None


SAMPLES: tuple[tuple[Any, object], ...] = (
    (int, -5),
    (str, "text \u20ac"),
    (bytes, b"bytes"),
    (float, 2.5),
    (bool, True),
    (Literal[1, "one"], "one"),
    (int | str | None, "either"),
    (list[int], [1, 2, 1 << 70]),
    (dict[str, list[bytes]], {"a": [b"x"], "b": []}),
    (set[int], {1, 2}),
    (tuple[int, str, Colour], (1, "b", Colour.RED)),
    (Flags, Flags.READ | Flags.WRITE),
    (dt.datetime, dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=dt.UTC)),
    (dt.date, dt.date(2026, 1, 2)),
    (decimal.Decimal, decimal.Decimal("1.50")),
    (uuid.UUID, uuid.UUID(int=7)),
    (Tree, Tree("root", [Tree("leaf"), Tree("other", [Tree("deep")])])),
    (Job, Job(uuid.UUID(int=1), None, decimal.Decimal(3), Colour.BLUE, {1: (0.5,)}, {"k": [None, b"\x00"]})),
    (Any, {"a": [1, {"b": 2.0}], 3: "c"}),
)


def codec(annotation: Any) -> MethodCodec:
    """Compile a method with one annotation in every place that a method has for one."""
    definition = MethodDefinition(
        name="method",
        service_name="Service",
        shape=Shape.BIDIRECTIONAL,
        parameters=(Parameter("one", annotation), Parameter("two", annotation, None)),
        result=annotation,
        idempotent=False,
        raises=(Lost,),
        requests=annotation,
        requests_name="items",
        requests_index=2,
    )
    return MethodCodec(definition, Conversions(64), max_depth=64, max_bytes=LIMIT)


CODECS = tuple(codec(annotation) for annotation, _ in SAMPLES)

_STATUS = Status(1, 2, rpcnet.NodeState.ALIVE, 3)
_RECORD = MemberRecord(
    id="ab" * 16, name="a", address="a:1", boot_id=1, state=rpcnet.NodeState.SUSPECT, tags={"k": "v"}, services=("s",)
)
_UPDATE = encode_update(_RECORD, (Accusation("cd" * 16, 2.5),))
_HELLO = Hello(
    protocol_min=1,
    protocol_max=1,
    library="9.9",
    node_id="n",
    boot_id=7,
    max_calls=5,
    max_message_bytes=1 << 20,
    services=(ServiceEntry("s", 1, (MethodEntry("m", 0, idempotent=True, schema="abc"),)),),
)
_ERROR = rpcnet.NotFound("gone", call_id="1", hops=(Hop("n", "s.m", "2"), Hop("m", "s.k")), remote_traceback="tb")
_ERROR.wire_fields = ("Lost", b"\xa0")


@attrs.frozen(eq=False)
class Decoder:
    """Something that reads bytes."""

    read: Callable[[bytes], object]
    """Reads."""
    seeds: tuple[bytes, ...]
    """Real encodings."""
    errors: tuple[type[Exception], ...]
    """What it may raise."""

    def survive(self, data: bytes) -> None:
        """Read whatever it is; raise only what is no documented error."""
        with contextlib.suppress(*self.errors):
            self.read(data)


def _frames(data: bytes) -> None:
    """Read a stream at once and in pieces; both must see the same."""
    at_once = _outcome(data, len(data) or 1)
    for size in (1, 7):
        assert _outcome(data, size) == at_once


def _outcome(data: bytes, size: int) -> list[object]:
    reader, seen = FrameReader(LIMIT), list[object]()
    try:
        for start in range(0, len(data), size):
            fresh = reader.feed(data[start : start + size])
            assert all(len(frame.body) <= LIMIT for frame in fresh)
            assert reader.buffered_bytes <= LIMIT + HEADER_BYTES
            seen += fresh
    except ProtocolError as error:
        return [str(error)]
    return [*seen, reader.is_between_frames, reader.buffered_bytes]


def _call(data: bytes) -> None:
    metadata, arguments = split_metadata(data)
    assert len(metadata) + len(arguments) + 4 == len(data)
    decode_metadata(metadata, 8192)


def _error(data: bytes) -> None:
    error = decode_error(data[0] if data else 0, data[1:], never_ran=False)
    assert len(str(error)) < 100_000
    encode_error(error)


def _values(decode: Callable[[MethodCodec, bytes], object]) -> Callable[[bytes], object]:
    def read(data: bytes) -> None:
        if data:
            decode(CODECS[data[0] % len(CODECS)], data[1:])

    return read


def _seeds(encode: Callable[[MethodCodec, object], bytes]) -> tuple[bytes, ...]:
    return tuple(bytes([index]) + encode(CODECS[index], value) for index, (_, value) in enumerate(SAMPLES))


def _fields(one: MethodCodec, _: object) -> bytes:
    sent = one.encode_error(Lost("here", Tree("a", [Tree("b")])))
    assert sent is not None
    return sent[1]


DECODERS: Mapping[str, Decoder] = {
    "frames": Decoder(
        _frames,
        (
            b"".join(encode_frame(kind, 1, 2, 3, b"body" * kind) for kind in FrameKind),
            encode_frame(FrameKind.CALL, 1, body=bytes(300)),
        ),
        (),
    ),
    "hello": Decoder(decode_hello, (encode_hello(_HELLO),), (ProtocolError,)),
    "error": Decoder(
        _error, (b"\x05" + encode_error(_ERROR), b"\x05" + encode_error(rpcnet.Aborted("x"))), (ProtocolError,)
    ),
    "metadata": Decoder(
        _call,
        (join_metadata(encode_metadata({"name": "value", "other": ""}, 1000), b"\x80"),),
        (ProtocolError, InvalidArgument, ResourceExhausted),
    ),
    "arguments": Decoder(
        _values(MethodCodec.decode_arguments),
        _seeds(lambda one, value: one.encode_arguments((value, value), {})),
        (InvalidArgument, ResourceExhausted),
    ),
    "items": Decoder(
        _values(MethodCodec.decode_request),
        _seeds(MethodCodec.encode_request),
        (InvalidArgument, ResourceExhausted),
    ),
    "results": Decoder(
        _values(MethodCodec.decode_result), _seeds(MethodCodec.encode_result), (Internal, ResourceExhausted)
    ),
    "declared errors": Decoder(
        _values(lambda one, data: one.decode_application_error("Lost", data)), _seeds(_fields), ()
    ),
    "datagrams": Decoder(
        decode_datagram,
        (
            encode_datagram(encode_head(Ping(1, "ab" * 16, "cd" * 16, _STATUS)), [_UPDATE]),
            encode_datagram(encode_head(Ack(1, "ab" * 16, "cd" * 16, _STATUS, you=_STATUS)), []),
            encode_datagram(encode_head(PingReq(1, "ab" * 16, "cd" * 16, _STATUS, 0.5, "a:1")), [_UPDATE, _UPDATE]),
            encode_datagram(encode_head(None), [_UPDATE]),
        ),
        (MessageError,),
    ),
    "states": Decoder(decode_state, (encode_state([_RECORD]), encode_state(())), (MessageError,)),
}


def mutate(seed: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Cut pieces out of bytes and put others in their place."""
    data = bytearray(seed)
    for at, size, piece in changes:
        start = at % (len(data) + 1)
        data[start : start + size] = piece
    return bytes(data)
