"""Everything that reads bytes of a stranger, each with real encodings to begin from, and what it may raise."""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import enum
import random
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs

import rpcnet
from rpcnet._core.antientropy import BucketHashes
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
from rpcnet._core.exchanges import AskerExchange, answer, decode_bodies, encode_fetch
from rpcnet._core.framing import HEADER_BYTES, FrameKind, FrameReader, encode_frame
from rpcnet._core.members import MAX_INLINE_BYTES, MemberRecord, Vitals
from rpcnet._core.members import encode_metadata as encode_tags
from rpcnet._core.messages import (
    Accusation,
    Ack,
    Claim,
    MessageError,
    Nack,
    Ping,
    PingReq,
    Status,
    decode_datagram,
    encode_age,
    encode_datagram,
    encode_head,
    encode_refresh,
    encode_update,
)
from rpcnet._core.metadata import digest_of
from rpcnet._core.swim import Emit, SendDatagram, SwimMachine
from rpcnet._core.user_messages import (
    Event,
    Identity,
    Missing,
    Question,
    Reply,
    Thanks,
    decode_user,
    encode_event,
    encode_missing,
    encode_question,
    encode_reply,
    encode_thanks,
)
from rpcnet._core.values import MethodCodec
from rpcnet.config import GossipConfig
from rpcnet.errors import Hop, Internal, InvalidArgument, ProtocolError, ResourceExhausted
from rpcnet.events import NodeJoined
from rpcnet.selectors import Selector
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
_LIVELY = attrs.evolve(
    _RECORD, id="cd" * 16, state=rpcnet.NodeState.ALIVE, vitals=Vitals(7, 0.5, (0.001, -0.002, 0.003, 0.5))
)
_LARGE_TAGS = encode_tags({"k": "v" * MAX_INLINE_BYTES}, ("s",))
_NAMED = attrs.evolve(_LIVELY, id="ef" * 16, tags={}, services=(), digest=digest_of(_LARGE_TAGS))
_UPDATES = tuple(
    encode_age(1.5) + encode_update(record, (Accusation("cd" * 16, 2.5),)) for record in (_RECORD, _LIVELY, _NAMED)
)
_UPDATE = _UPDATES[0]
_SIGN = encode_age(0.5) + encode_refresh(_LIVELY)
_IDENTITY = Identity("ab" * 16, 1, 2)
_STRINGS = (
    encode_event(Event(_IDENTITY, 3, "name", b"payload")),
    encode_question(Question(_IDENTITY, 5.0, "a:1", Selector.parse("zone=a, !b"), "name", b"payload")),
    encode_reply(Reply(_IDENTITY, "cd" * 16, None)),
    encode_reply(Reply(_IDENTITY, "cd" * 16, b"answer", is_relayed=True)),
    encode_thanks(Thanks(_IDENTITY, "cd" * 16, for_answer=True)),
    encode_missing(Missing(_IDENTITY, "cd" * 16, 3)),
)
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


def _member(*known: MemberRecord) -> SwimMachine:
    local = MemberRecord(id="01" * 16, name="local", address="local:1", boot_id=5)
    swim = SwimMachine(local=local, config=GossipConfig(), rng=random.Random(1), now=0.0, known=known)
    swim.update_local(0.5, tags={"k": "v" * MAX_INLINE_BYTES}, services=("s",))
    return swim


_KNOWN = (_RECORD, attrs.evolve(_LIVELY, vitals=Vitals()), attrs.evolve(_RECORD, id="77" * 16, name="other"))


def member_of_the_bench() -> SwimMachine:
    """Return a machine that knows the nodes of the real encodings."""
    return _member(*_KNOWN)


_VIEW = member_of_the_bench()
_EMPTY = _member()


def _answer_to(request: bytes) -> bytes:
    return answer(request, _VIEW, 1.0)[0]


_REQUESTS = (
    AskerExchange.sync(_EMPTY, max_records=100).start(1.0),
    AskerExchange.listen(_EMPTY, max_records=100).start(1.0),
    AskerExchange.show(_VIEW, (_RECORD, _LIVELY, _NAMED)).start(1.0),
    encode_fetch((_VIEW.local.digest, _NAMED.digest)),
)
_ANSWERS = tuple(bytes([kind]) + _answer_to(_REQUESTS[kind]) for kind in range(3))


def _asked(data: bytes) -> None:
    """Read an answer as the side that asked; the first byte says what for. Whatever is wrong ends the exchange."""
    if not data:
        return
    if data[0] % 3 == 0:
        asking = AskerExchange.sync(_EMPTY, max_records=100)
    elif data[0] % 3 == 1:
        asking = AskerExchange.listen(_EMPTY, max_records=100)
    else:
        asking = AskerExchange.show(_VIEW, _KNOWN)
    asking.start(1.0)
    try:
        following = asking.handle(data[1:], 1.0)
    except MessageError:
        assert asking.is_done
        assert asking.records == []
        raise
    assert (following is None) == asking.is_done


def state_of_machine(swim: SwimMachine) -> object:
    """Return everything that a datagram may change in a machine."""
    return (
        swim.records(),
        swim.hashes.encode(),
        swim.next_timer(),
        swim.has_lost_name,
        (len(swim._queue), len(swim._refreshes), len(swim._checks), len(swim._desk._relays)),
        [(member.heard_at, dict(member.accusations), member.told_at) for member in swim._roster.members()],
    )


def _machine(data: bytes) -> None:
    """Give a machine a datagram: it changes nothing and raises, or all that follows can be said to others."""
    swim = member_of_the_bench()
    before = state_of_machine(swim)
    try:
        effects = [*swim.handle_datagram(data, "ab:1", 1.0), *swim.on_timer(1.5)]
    except MessageError:
        assert state_of_machine(swim) == before
        raise
    for effect in effects:
        if isinstance(effect, SendDatagram):
            decode_datagram(effect.payload)
    known = {record.id for record in swim.records()}
    assert len(known) == len(swim.members())
    joined = {
        effect.event.node.id for effect in effects if isinstance(effect, Emit) and isinstance(effect.event, NodeJoined)
    }
    assert joined <= known
    assert swim.hashes == BucketHashes.of(swim.records())
    assert swim.local.state is rpcnet.NodeState.ALIVE


_ID, _OTHER, _LOCAL = "ab" * 16, "cd" * 16, "01" * 16
_DATAGRAMS = (
    encode_datagram(encode_head(Ping(1, _ID, _LOCAL, _STATUS)), [_UPDATE]),
    encode_datagram(encode_head(Ack(1, _ID, _ID, _STATUS, coordinates=(0.1, 0.1, 0.1, 0.1))), [], [_SIGN]),
    encode_datagram(encode_head(Ack(1, _ID, _OTHER, _STATUS, you=_STATUS, asked=_LOCAL)), [], [_SIGN, _SIGN]),
    encode_datagram(encode_head(PingReq(1, _ID, _OTHER, _STATUS, 0.5, "a:1")), _UPDATES),
    encode_datagram(encode_head(Nack(1, _ID, _OTHER, refused=True)), [], [], _STRINGS[:1]),
    encode_datagram(encode_head(Claim(_LOCAL, _STATUS, 4, "a:1")), []),
    encode_datagram(encode_head(None), _UPDATES, [_SIGN], _STRINGS),
)

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
    "datagrams": Decoder(decode_datagram, _DATAGRAMS, (MessageError,)),
    "user strings": Decoder(decode_user, _STRINGS, (MessageError,)),
    "exchange requests": Decoder(lambda data: answer(data, _VIEW, 1.0), _REQUESTS, (MessageError,)),
    "exchange answers": Decoder(_asked, _ANSWERS, (MessageError,)),
    "bodies of tags": Decoder(
        lambda data: decode_bodies(data, (_NAMED.digest,)),
        (_answer_to(encode_fetch((_NAMED.digest,))),),
        (MessageError,),
    ),
    "membership machine": Decoder(_machine, _DATAGRAMS, (MessageError,)),
}


def mutate(seed: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Cut pieces out of bytes and put others in their place."""
    data = bytearray(seed)
    for at, size, piece in changes:
        start = at % (len(data) + 1)
        data[start : start + size] = piece
    return bytes(data)
