"""What the bodies of control frames and of ERROR hold, and how metadata lies in front of a call's arguments.

The rules of this file:

* A body is one CBOR item, decoded with limits. What a newer version adds is ignored by an older one.
* Numbers and texts of a HELLO are bounded, because they end up in logs and messages; texts of an ERROR are cut, here as
  at the sender. What is no valid text is made so.
* Whatever does not fit raises :class:`~rpcnet.errors.ProtocolError` with the frame's name, but for metadata, which is
  a user's: there it is :class:`~rpcnet.errors.InvalidArgument`.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import cbor2

from rpcnet.errors import Hop, InvalidArgument, ProtocolError, ResourceExhausted, StatusError, error_for_status
from rpcnet.service import Shape

from .cbor import reader

__all__ = [
    "Hello",
    "MethodEntry",
    "ServiceEntry",
    "decode_error",
    "decode_hello",
    "decode_metadata",
    "encode_error",
    "encode_hello",
    "encode_metadata",
    "join_metadata",
    "split_metadata",
]

_MAX_MESSAGE_CHARS = 8192
_MAX_CHAR_BYTES = 4
_ERROR_OVERHEAD = 64
_MAX_HOPS = 32
_MAX_TRACEBACK_CHARS = 1 << 16
_MAX_NAME_CHARS = 256
_MAX_NUMBER = (1 << 64) - 1
_SHAPES = tuple(Shape)
_SHAPE_NUMBERS = {shape: number for number, shape in enumerate(_SHAPES)}
_read = reader(max_depth=8, other_keys=False)


# --- ERROR


def encode_error(error: StatusError, max_bytes: int = 1 << 20) -> bytes:
    """Encode the body of an ERROR frame.

    What does not fit into ``max_bytes`` is left out: first the traceback, then fields and hops; the message is cut.
    """
    most = max(0, min(_MAX_MESSAGE_CHARS, (max_bytes - _ERROR_OVERHEAD) // _MAX_CHAR_BYTES))
    short = [_text(error.message)[:most], _id(error.call_id)]
    more: dict[str, object] = {}
    if error.wire_fields is not None:
        more["app"] = list(error.wire_fields)
    if error.hops:
        more["hops"] = [[_text(hop.node), _text(hop.method), _id(hop.call_id)] for hop in error.hops[:_MAX_HOPS]]
    if error.remote_traceback is not None:
        body = cbor2.dumps([*short, {**more, "tb": _text(error.remote_traceback[-_MAX_TRACEBACK_CHARS:])}])
        if len(body) <= max_bytes:
            return body
    if more:
        body = cbor2.dumps([*short, more])
        if len(body) <= max_bytes:
            return body
    return cbor2.dumps(short)


def decode_error(status: int, body: bytes, *, never_ran: bool) -> StatusError:
    """Build the error that an ERROR frame stands for.

    Raises:
        ProtocolError: the body is something else.
    """
    more: object
    match _decode_control(body, "ERROR"):
        case [str() as message, (str() | None) as call_id]:
            more = {}
        case [str() as message, (str() | None) as call_id, dict() as more]:
            pass
        case _:
            raise ProtocolError("ERROR frame: the body must be [message, call id] or [message, call id, details]")
    error = error_for_status(status, message[:_MAX_MESSAGE_CHARS], call_id=_short(call_id), never_ran=never_ran)
    match more:
        case {"hops": list() as hops}:
            error.hops = tuple(_decode_hop(hop) for hop in hops[:_MAX_HOPS])
    match more:
        case {"app": [str() as name, bytes() as fields]}:
            error.wire_fields = (name[:_MAX_NAME_CHARS], fields)
    match more:
        case {"tb": str() as text}:
            error.remote_traceback = text[-_MAX_TRACEBACK_CHARS:]
    return error


def _text(value: object) -> str:
    """Return text that can be encoded, whatever a handler took for a message."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def _id(value: object) -> str | None:
    return None if value is None else _text(value)[:_MAX_NAME_CHARS]


def _short(text: str | None) -> str | None:
    return None if text is None else text[:_MAX_NAME_CHARS]


def _decode_hop(entry: object) -> Hop:
    match entry:
        case [str() as node, str() as method, (str() | None) as call_id]:
            return Hop(node[:_MAX_NAME_CHARS], method[:_MAX_NAME_CHARS], _short(call_id))
    raise ProtocolError("ERROR frame: a hop must be [node, method, call id]")


# --- metadata


def encode_metadata(metadata: Mapping[str, str], max_bytes: int) -> bytes:
    """Encode the metadata of a call; empty bytes if there is none.

    Raises:
        InvalidArgument: it is no mapping of text to text.
        ResourceExhausted: it has more than ``max_bytes``.
    """
    if not metadata:
        return b""
    for name, value in metadata.items():
        if not all(isinstance(text, str) for text in (name, value)):
            raise InvalidArgument(f"metadata {name!r}: names and values must be text", never_ran=True)
    try:
        encoded = cbor2.dumps(dict(metadata))
    except UnicodeEncodeError:
        raise InvalidArgument("metadata: names and values must be valid text", never_ran=True) from None
    _check_metadata_size(len(encoded), max_bytes)
    return encoded


def join_metadata(metadata: bytes, arguments: bytes) -> bytes:
    """Put encoded metadata in front of encoded arguments: the body of CALL_WITH_METADATA."""
    return len(metadata).to_bytes(4, "big") + metadata + arguments


def split_metadata(body: bytes) -> tuple[bytes, bytes]:
    """Return metadata and arguments, both undecoded.

    Raises:
        ProtocolError: the metadata is longer than the body.
    """
    end = 4 + int.from_bytes(body[:4], "big")
    if end > len(body):
        raise ProtocolError("CALL_WITH_METADATA frame: the metadata is longer than the frame")
    return body[4:end], body[end:]


def decode_metadata(encoded: bytes, max_bytes: int) -> dict[str, str]:
    """Decode the metadata of a call.

    Raises:
        ResourceExhausted: it has more than ``max_bytes``; nothing was decoded.
        InvalidArgument: it is no map of text to text.
    """
    _check_metadata_size(len(encoded), max_bytes)
    try:
        metadata = _read(encoded)
    except Exception as error:
        raise InvalidArgument("metadata: not valid CBOR", never_ran=True) from error
    if not isinstance(metadata, dict):
        raise InvalidArgument("metadata: must be a map", never_ran=True)
    if not all(isinstance(name, str) and isinstance(value, str) for name, value in metadata.items()):
        raise InvalidArgument("metadata: names and values must be text", never_ran=True)
    return metadata


def _check_metadata_size(size: int, limit: int) -> None:
    if size > limit:
        raise ResourceExhausted(f"metadata of {size} bytes is above the limit of {limit}", never_ran=True)


# --- HELLO


@attrs.frozen
class MethodEntry:
    """One method in the table of a HELLO."""

    name: str
    """The method's name, unique in its service."""
    number: int
    """What CALL frames name it by, unique in the connection."""
    idempotent: bool
    """Whether it may run twice."""
    shape: Shape = Shape.UNARY
    """How many messages go each way."""
    schema: str = ""
    """The hash of its schema; empty if it is not told."""


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
    max_request_bytes: int = 1 << 26
    """How many bytes of large requests the receiver of this HELLO may have in flight at its sender."""
    stream_window_bytes: int = 1 << 18
    """How many bytes of one stream of results the sender of this HELLO takes before it grants more."""
    tracebacks: bool = False
    """Whether the sender wants the tracebacks of handlers that fail."""
    services: tuple[ServiceEntry, ...] = ()
    """What the sender serves."""


def encode_hello(hello: Hello) -> bytes:
    """Encode the body of a HELLO frame."""
    services = [
        [s.name, s.version, [[m.name, m.number, m.idempotent, _SHAPE_NUMBERS[m.shape], m.schema] for m in s.methods]]
        for s in hello.services
    ]
    return cbor2.dumps(
        {
            "min": hello.protocol_min,
            "max": hello.protocol_max,
            "lib": hello.library,
            "node": hello.node_id,
            "boot": hello.boot_id,
            "calls": hello.max_calls,
            "bytes": hello.max_message_bytes,
            "room": hello.max_request_bytes,
            "window": hello.stream_window_bytes,
            "tb": hello.tracebacks,
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
            "room": int() as room,
            "window": int() as window,
            "tb": bool() as tracebacks,
            "services": list() as services,
        } if (
            min(max_calls, max_bytes, room, window) > 0
            and min(low, high, boot_id) >= 0
            and max(low, high, boot_id, max_calls, max_bytes, room, window) <= _MAX_NUMBER
            and max(len(library), len(node_id)) <= _MAX_NAME_CHARS
        ):
            return Hello(
                protocol_min=low,
                protocol_max=high,
                library=library,
                node_id=node_id,
                boot_id=boot_id,
                max_calls=max_calls,
                max_message_bytes=max_bytes,
                max_request_bytes=room,
                stream_window_bytes=window,
                tracebacks=tracebacks,
                services=tuple(_decode_service(entry) for entry in services),
            )
    raise ProtocolError("HELLO frame: a field is missing, of the wrong type or out of range")


def _decode_service(entry: object) -> ServiceEntry:
    match entry:
        case [str() as name, int() as version, list() as methods] if (
            len(name) <= _MAX_NAME_CHARS and 0 <= version <= _MAX_NUMBER
        ):
            return ServiceEntry(name, version, tuple(_decode_method(method) for method in methods))
    raise ProtocolError("HELLO frame: a service must be [name, version, methods]")


def _decode_method(entry: object) -> MethodEntry:
    match entry:
        case [str() as name, int() as number, bool() as idempotent, int() as shape, str() as schema, *_] if (
            0 <= number <= 0xFFFF and 0 <= shape < len(_SHAPES) and max(len(name), len(schema)) <= _MAX_NAME_CHARS
        ):
            return MethodEntry(name, number, idempotent, _SHAPES[shape], schema)
    raise ProtocolError("HELLO frame: a method must be [name, number, idempotent, shape, schema]")


def _decode_control(body: bytes, frame: str) -> object:
    try:
        value: object = _read(body)
    except Exception as error:  # a decoder of foreign bytes may raise anything; none of it is ours
        raise ProtocolError(f"{frame} frame: the body is not valid CBOR") from error
    return value
