"""What applications say to each other through gossip, on the wire: the strings of a datagram's user section.

The rules of this file:

* A string is at most ``MAX_USER_BYTES`` long; integers are big-endian, ids 16 bytes, texts UTF-8 behind a length byte.
* An event and a question are known by who sent them, in which boot, under which number.
* A question carries what is left of its time, in place of which each node writes what is left when it passes it on.
* What comes back carries the question's identity, so that any node can pass it on to who asked.
* Decoding trusts nothing: all that is wrong raises :class:`MessageError` before any state changes.

Layouts, with the size of each part in bytes::

    identity  sender 16 | boot_id 8 | number 8
    EVENT     1 | identity | behind 1 | name 1+n | payload, the rest
    QUESTION  2 | identity | remaining ms 4 | address 1+n | where 1+n | name 1+n | payload, the rest
    RECEIPT   3 | identity | node 16 | flags 1
    ANSWER    4 | identity | node 16 | flags 1 | payload, the rest            flags: 1 pass it on to who asked
    THANKS    5 | identity | node 16 | flags 1                                flags: 2 for the answer, not the receipt
    MISSING   6 | identity of the first | node 16 | count 1
"""

from __future__ import annotations

import struct

import attrs

from rpcnet.errors import ConfigError
from rpcnet.events import ClusterEvent
from rpcnet.selectors import Operator, Selector

from .members import MAX_BOOT_ID, MAX_NAME_CHARS, MAX_TEXT_BYTES, is_address
from .messages import MessageError, Reader

__all__ = [
    "ANSWER_HEAD_BYTES",
    "MAX_BEHIND",
    "MAX_MISSING",
    "MAX_NUMBER",
    "MAX_USER_BYTES",
    "Emit",
    "Event",
    "Identity",
    "Missing",
    "Question",
    "Reply",
    "Send",
    "Thanks",
    "UserEffect",
    "check_answer",
    "check_event",
    "check_name",
    "check_where",
    "decode_user",
    "encode_event",
    "encode_missing",
    "encode_question",
    "encode_reply",
    "encode_thanks",
    "with_remaining",
]

MAX_USER_BYTES = 600
"""One string: with the largest probe, its seal and some news it still fits into a datagram."""

MAX_NUMBER = 2**63 - 1
"""The largest number of an event or a question that is believed."""

MAX_BEHIND = 255
"""The most that :attr:`Event.behind` says."""

MAX_MISSING = 16
"""Events that are asked for at once."""

_EVENT, _QUESTION, _RECEIPT, _ANSWER, _THANKS, _MISSING = 1, 2, 3, 4, 5, 6
_PASS_ON, _FOR_ANSWER = 1, 2
_IDENTITY = struct.Struct("!16sQQ")
_MILLIS = struct.Struct("!I")
_REMAINING_AT = 1 + _IDENTITY.size
_MAX_REMAINING = 3600.0

ANSWER_HEAD_BYTES = 1 + _IDENTITY.size + 16 + 1
"""What an answer takes besides its payload."""


@attrs.frozen
class Emit:
    """Tell the other tasks."""

    event: ClusterEvent


@attrs.frozen
class Send:
    """Send one string to one node, in the user section of a datagram."""

    node_id: str
    """Whom to send it to."""
    address: str | None
    """Where it said it is, for when it is no member that is known; None where it did not say."""
    data: bytes


UserEffect = Emit | Send


@attrs.frozen
class Identity:
    """Which event or question."""

    sender: str
    """The id of the node that published or asked."""
    boot_id: int
    number: int


@attrs.frozen
class Event:
    """Something that a node tells all."""

    identity: Identity
    behind: int
    """How far back the oldest of the sender's events lies that may not have reached everybody, at most 255."""
    name: str
    payload: bytes


@attrs.frozen
class Question:
    """Something that a node asks all."""

    identity: Identity
    remaining: float
    """Seconds until answers are of no use."""
    address: str
    """Where who asks is."""
    where: Selector
    """Who should answer."""
    name: str
    payload: bytes


@attrs.frozen
class Reply:
    """What comes back to who asked: that the question has come, or the answer to it."""

    identity: Identity
    node: str
    """The id of the node that replies."""
    payload: bytes | None
    """The answer; None for the receipt of the question."""
    is_relayed: bool = False
    """Whether the receiver is to pass it on to who asked."""


@attrs.frozen
class Thanks:
    """A reply has come, it need not be repeated."""

    identity: Identity
    node: str
    """The id of the node that replied."""
    for_answer: bool
    """Whether its answer has come; otherwise its receipt."""


@attrs.frozen
class Missing:
    """Please send me these events of yours, I have heard later ones."""

    identity: Identity
    """The first of them."""
    node: str
    """The id of the node that asks."""
    count: int
    """How many, from 1 to ``MAX_MISSING``."""


# --- what may be said


def check_name(what: str, name: object) -> None:
    """Check the name of an event or a question.

    Raises:
        ConfigError: it is no text, empty or too long. Nothing changed.
    """
    if not isinstance(name, str):
        raise ConfigError(f"{what} = {name!r}: must be a str, not {type(name).__name__}")
    if not 1 <= len(name) <= MAX_NAME_CHARS:
        raise ConfigError(f"{what} = {name[:40]!r}: must have 1 to {MAX_NAME_CHARS} characters, has {len(name)}")
    _check_text(what, name)


def _check_text(what: str, text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise ConfigError(f"{what} = {text[:40]!r}: must be valid Unicode: {error}") from error
    if size > MAX_TEXT_BYTES:
        raise ConfigError(f"{what} = {text[:40]!r}: must have at most {MAX_TEXT_BYTES} bytes in UTF-8, has {size}")


def _check_payload(what: str, payload: object) -> None:
    if not isinstance(payload, bytes):
        raise ConfigError(f"{what} = {payload!r:.40}: must be bytes, not {type(payload).__name__}")


def check_event(name: str, payload: bytes, max_bytes: int) -> None:
    """Check what is to be published or asked.

    Raises:
        ConfigError: the name is no good, the payload is not bytes, or both together are larger than ``max_bytes``;
            the message names both sizes. Nothing changed.
    """
    check_name("name", name)
    _check_payload("payload", payload)
    size = len(name.encode()) + len(payload)
    if size > max_bytes:
        raise ConfigError(f"name and payload of {name!r} take {size} bytes, at most {max_bytes} are allowed")


def check_answer(payload: bytes, max_bytes: int) -> None:
    """Check what is to be answered.

    Raises:
        ConfigError: it is not bytes, or larger than ``max_bytes``; the message names both sizes. Nothing changed.
    """
    _check_payload("payload", payload)
    if len(payload) > max_bytes:
        raise ConfigError(f"the answer takes {len(payload)} bytes, at most {max_bytes} are allowed")


def check_where(where: Selector) -> None:
    """Check a selector that others are to evaluate.

    Raises:
        ConfigError: it holds a regular expression, whose time on other nodes has no bound, or its text is too long.
    """
    if any(term.operator is Operator.MATCHES for term in where.terms):
        raise ConfigError(f"selector {str(where)!r}: regular expressions (=~) cannot be asked of other nodes")
    _check_text("selector", str(where))


# --- encoding


def _start(kind: int, identity: Identity) -> bytes:
    key = _IDENTITY.pack(bytes.fromhex(identity.sender), identity.boot_id, identity.number)
    return bytes((kind,)) + key


def _text(value: str) -> bytes:
    data = value.encode()
    return bytes((len(data),)) + data


def _checked(what: str, data: bytes) -> bytes:
    if len(data) > MAX_USER_BYTES:
        raise ConfigError(f"{what} takes {len(data)} bytes in all, at most {MAX_USER_BYTES} are allowed")
    return data


def encode_event(event: Event) -> bytes:
    """Encode an event.

    Raises:
        ConfigError: it is too large.
    """
    head = _start(_EVENT, event.identity) + bytes((min(event.behind, MAX_BEHIND),))
    return _checked(f"the event {event.name!r}", head + _text(event.name) + event.payload)


def encode_question(question: Question) -> bytes:
    """Encode a question.

    Raises:
        ConfigError: it is too large, with the selector and the address of who asks.
    """
    texts = _text(question.address) + _text(str(question.where)) + _text(question.name)
    head = _start(_QUESTION, question.identity) + _millis(question.remaining)
    return _checked(f"the question {question.name!r}", head + texts + question.payload)


def _millis(seconds: float) -> bytes:
    return _MILLIS.pack(int(max(seconds, 0.0) * 1000))


def with_remaining(question: bytes, remaining: float) -> bytes:
    """Return an encoded question with another time that is left."""
    return question[:_REMAINING_AT] + _millis(remaining) + question[_REMAINING_AT + _MILLIS.size :]


def encode_reply(reply: Reply) -> bytes:
    """Encode a receipt or an answer."""
    kind = _RECEIPT if reply.payload is None else _ANSWER
    flags = bytes((_PASS_ON if reply.is_relayed else 0,))
    return _start(kind, reply.identity) + bytes.fromhex(reply.node) + flags + (reply.payload or b"")


def encode_thanks(thanks: Thanks) -> bytes:
    """Encode what ends the repetitions of a reply."""
    flags = bytes((_FOR_ANSWER if thanks.for_answer else 0,))
    return _start(_THANKS, thanks.identity) + bytes.fromhex(thanks.node) + flags


def encode_missing(missing: Missing) -> bytes:
    """Encode the wish for events."""
    return _start(_MISSING, missing.identity) + bytes.fromhex(missing.node) + bytes((missing.count,))


# --- decoding


def _identity(reader: Reader) -> Identity:
    sender, boot_id, number = reader.unpack(_IDENTITY)
    if boot_id > MAX_BOOT_ID or not 1 <= number <= MAX_NUMBER:
        raise MessageError(f"boot id {boot_id} or number {number} out of range")
    return Identity(sender.hex(), boot_id, number)


def _name(reader: Reader) -> str:
    name = reader.text()
    if not 1 <= len(name) <= MAX_NAME_CHARS:
        raise MessageError(f"a name of {len(name)} characters")
    return name


def _flags(reader: Reader, known: int) -> int:
    flags = reader.byte()
    if flags & ~known:
        raise MessageError(f"unknown flags {flags:#x}")
    return flags


def _rest(reader: Reader) -> bytes:
    return reader.take(reader.remaining())


def _decode_question(reader: Reader) -> Question:
    identity = _identity(reader)
    (millis,) = reader.unpack(_MILLIS)
    if millis > _MAX_REMAINING * 1000:
        raise MessageError(f"a question that waits for {millis} ms")
    address = reader.text()
    if not is_address(address):
        raise MessageError(f"{address!r} is not an address")
    text = reader.text()
    try:
        where = Selector.parse(text)
        check_where(where)
    except ConfigError as error:
        raise MessageError(str(error)) from error
    return Question(identity, millis / 1000, address, where, _name(reader), _rest(reader))


def _decode_missing(reader: Reader) -> Missing:
    missing = Missing(_identity(reader), reader.take(16).hex(), reader.byte())
    if not 1 <= missing.count <= MAX_MISSING:
        raise MessageError(f"{missing.count} events at once")
    return missing


def decode_user(data: bytes) -> Event | Question | Reply | Thanks | Missing:
    """Decode one string of a user section.

    Raises:
        MessageError: it is malformed in any way. Nothing changed.
    """
    if len(data) > MAX_USER_BYTES:
        raise MessageError(f"{len(data)} bytes of user data, at most {MAX_USER_BYTES} are allowed")
    reader = Reader(data)
    kind = reader.byte()
    match kind:
        case 1:  # _EVENT
            return Event(_identity(reader), reader.byte(), _name(reader), _rest(reader))
        case 2:  # _QUESTION
            return _decode_question(reader)
        case 3 | 4:  # _RECEIPT, _ANSWER
            identity, node, flags = _identity(reader), reader.take(16).hex(), _flags(reader, _PASS_ON)
            reply = Reply(identity, node, _rest(reader) if kind == _ANSWER else None, is_relayed=bool(flags))
            reader.finish()
            return reply
        case 5:  # _THANKS
            identity, node, flags = _identity(reader), reader.take(16).hex(), _flags(reader, _FOR_ANSWER)
            reader.finish()
            return Thanks(identity, node, for_answer=bool(flags))
        case 6:  # _MISSING
            missing = _decode_missing(reader)
            reader.finish()
            return missing
    raise MessageError(f"unknown kind {kind} of user data")
