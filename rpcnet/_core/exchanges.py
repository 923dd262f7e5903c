"""Anti-entropy over streams: the messages, the side that asks and the side that answers.

The rules of this file:

* Every round is one request and one answer of at most ``MAX_MESSAGE_BYTES`` each. The answering side keeps nothing
  between rounds: what it needs to go on stands in the request, so it can be asked by many and forgets none.
* SYNC compares bucket hashes. Where they differ the asker first reads the answerer's records, then shows those of its
  own that would be news. Equal tables cost one round of some 530 bytes.
* LIST reads the records of some buckets. A node that joins reads all of them and shows nothing of itself; it then
  shows its own record by SHOW, whose answer is empty.
* FETCH reads bodies of metadata.
* Records are listed by growing id, and the last id of a page is where the next one goes on. So changes between pages
  do no harm: what is new behind it is found by a later exchange, or by gossip.
* Nobody keeps anybody busy for ever: ids must grow, a page that is not the last holds something, records and pages
  are counted.
* With each record travels its age, how long ago its node was known to live, so that the receiver can judge hearsay.
* Everything is checked before any of it is used.

Layouts, with the size of each part in bytes::

    request   version 1 | kind 1 | ...
      SYNC    hashes 512
      LIST    mask 8 | cursor 1+n                        n is 0 from the start, otherwise 16
      SHOW    records
      FETCH   count 1 | digest 12 each
    answer    version 1 | kind 1 | ...
      SYNC    mask 8 | more 1 | records
      LIST    more 1 | records
      SHOW
      FETCH   count 1 | per body asked for: size 4, 0 if it is not here | body
    records   count 4 | update ...                         as in a datagram, but the age is in seconds
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Protocol

import attrs

from .antientropy import ALL_BUCKETS, HASHES_BYTES, BucketHashes, is_in
from .members import MemberRecord, supersedes
from .messages import DIGEST_BYTES, SMALLEST_UPDATE_BYTES, MessageError, Reader, decode_update, encode_update
from .metadata import Body

__all__ = [
    "MAX_AGE",
    "MAX_MESSAGE_BYTES",
    "AskerExchange",
    "Hearsay",
    "View",
    "answer",
    "decode_bodies",
    "encode_fetch",
]

MAX_MESSAGE_BYTES = 256 << 10
"""One request or answer: some 2,500 usual records, at least 220 of the largest."""

MAX_AGE = 65535.0
"""The greatest age that travels, in seconds; it stands for all greater ones."""

_VERSION = 1
_SYNC, _LIST, _SHOW, _FETCH = 1, 2, 3, 4
_LEAST_PER_PAGE = 200
_UNITS = 1000  # an update's age is read as milliseconds, here it is seconds

_COUNT = struct.Struct("!I")
_AGE = struct.Struct("!H")
_MASK = struct.Struct("!Q")
_PAGE_HEAD_BYTES = 2 + _MASK.size + 1 + _COUNT.size


@attrs.frozen
class Hearsay:
    """A record that somebody showed."""

    record: MemberRecord
    """What it believes."""
    age: float
    """Whole seconds, rounded up, since its node was known to live; ``MAX_AGE`` stands for more."""


class View(Protocol):
    """What an exchange reads of a node's table."""

    @property
    def hashes(self) -> BucketHashes:
        """The hashes of :meth:`records`."""

    def records(self) -> Sequence[MemberRecord]:
        """Return all records, sorted by id."""

    def heard_age(self, node_id: str, now: float) -> float:
        """Return the seconds since a node was known to live; 0 for this one."""

    def body(self, digest: bytes) -> Body | None:
        """Return a body of metadata, or None when it is not here."""


def _open(data: bytes, kind: int | None = None) -> tuple[Reader, int]:
    """Check the start of a message and return what reads the rest, and its kind."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise MessageError(f"{len(data)} bytes in one message, at most {MAX_MESSAGE_BYTES} are allowed")
    reader = Reader(data)
    version, told = reader.take(2)
    if version != _VERSION:
        raise MessageError(f"unknown version {version} of an exchange")
    if kind is not None and told != kind:
        raise MessageError(f"an answer of kind {told} to a request of kind {kind}")
    return reader, told


# --- records


def _start(kind: int) -> bytes:
    return bytes((_VERSION, kind))


def _seconds(age: float) -> int:
    return math.ceil(min(max(age, 0.0), MAX_AGE))


def _entry(record: MemberRecord, view: View, now: float) -> bytes:
    return _AGE.pack(_seconds(view.heard_age(record.id, now))) + encode_update(record)


def _page(records: Iterable[MemberRecord], view: View, now: float) -> tuple[bytes, int, bool]:
    """Return as many records as fit, encoded, their number, and whether there are more."""
    entries: list[bytes] = []
    room, has_more = MAX_MESSAGE_BYTES - _PAGE_HEAD_BYTES, False
    for record in records:
        entry = _entry(record, view, now)
        room -= len(entry)
        if room < 0:
            has_more = True
            break
        entries.append(entry)
    return b"".join((_COUNT.pack(len(entries)), *entries)), len(entries), has_more


def _read_records(reader: Reader, *, after: str = "", mask: int = ALL_BUCKETS) -> list[Hearsay]:
    (count,) = reader.unpack(_COUNT)
    if count * SMALLEST_UPDATE_BYTES > reader.remaining():
        raise MessageError(f"{count} records do not fit into {reader.remaining()} bytes")
    heard: list[Hearsay] = []
    for _ in range(count):
        update = decode_update(reader)
        record = update.record
        if record.id <= after:
            raise MessageError(f"the record of {record.id} comes after that of {after}")
        if not is_in(record.id, mask):
            raise MessageError(f"the record of {record.id} was not asked for")
        after = record.id
        heard.append(Hearsay(record, float(round(update.age * _UNITS))))
    reader.finish()
    return heard


# --- the side that answers


def answer(request: bytes, view: View, now: float) -> tuple[bytes, list[Hearsay]]:
    """Answer one request.

    Returns:
        The answer, and the records that the asker showed.

    Raises:
        MessageError: the request is malformed.
    """
    reader, kind = _open(request)
    match kind:
        case 1:
            return _answer_sync(reader, view, now), []
        case 2:
            return _answer_list(reader, view, now), []
        case 3:
            return _start(_SHOW), _read_records(reader)
        case 4:
            return _answer_fetch(reader, view), []
        case _:
            raise MessageError(f"unknown request kind {kind}")


def _answer_sync(reader: Reader, view: View, now: float) -> bytes:
    theirs = BucketHashes.decode(reader.take(HASHES_BYTES))
    reader.finish()
    mask = view.hashes.differing(theirs)
    return _start(_SYNC) + _MASK.pack(mask) + _list(view, mask, "", now)


def _answer_list(reader: Reader, view: View, now: float) -> bytes:
    (mask,) = reader.unpack(_MASK)
    (size,) = reader.take(1)
    if size not in (0, 16):
        raise MessageError(f"a cursor of {size} bytes")
    cursor = reader.take(size).hex()
    reader.finish()
    return _start(_LIST) + _list(view, mask, cursor, now)


def _list(view: View, mask: int, after: str, now: float) -> bytes:
    records = view.records()
    first = bisect_right(records, after, key=lambda record: record.id)
    wanted = (records[i] for i in range(first, len(records)) if is_in(records[i].id, mask)) if mask else ()
    page, _, has_more = _page(wanted, view, now)
    return bytes((has_more,)) + page


def _answer_fetch(reader: Reader, view: View) -> bytes:
    (count,) = reader.take(1)
    digests = [reader.take(DIGEST_BYTES) for _ in range(count)]
    reader.finish()
    parts = [_start(_FETCH), bytes((count,))]
    room = MAX_MESSAGE_BYTES - 3 - count * _COUNT.size
    for digest in digests:
        body = view.body(digest)
        data = body.data if body is not None and len(body.data) <= room else b""
        room -= len(data)
        parts += [_COUNT.pack(len(data)), data]
    return b"".join(parts)


# --- bodies


def encode_fetch(digests: Sequence[bytes]) -> bytes:
    """Return the request for at most ``MAX_BODIES`` bodies."""
    return b"".join((_start(_FETCH), bytes((len(digests),)), *digests))


def decode_bodies(answer: bytes, digests: Sequence[bytes]) -> dict[bytes, Body]:
    """Return the bodies in the answer to :func:`encode_fetch`, those that the answerer has not got left out.

    Raises:
        MessageError: the answer is malformed, or a body is not what was asked for.
    """
    reader, _ = _open(answer, _FETCH)
    (count,) = reader.take(1)
    if count != len(digests):
        raise MessageError(f"{count} bodies for {len(digests)} that were asked for")
    found: dict[bytes, Body] = {}
    for digest in digests:
        (size,) = reader.unpack(_COUNT)
        if size:
            found[digest] = Body.read(digest, reader.take(size))
    reader.finish()
    return found


# --- the side that asks


def _is_news(ours: MemberRecord, theirs: MemberRecord | None) -> bool:
    """Tell whether a record is worth showing; newer vitals alone are not, they travel with refreshes."""
    return theirs is None or supersedes(attrs.evolve(ours, vitals=theirs.vitals), theirs)


class _Phase(Enum):
    """Which answer the asker waits for."""

    COMPARING = "comparing"
    READING = "reading"
    SHOWING = "showing"
    DONE = "done"


class AskerExchange:
    """The asking side of one exchange: made by :meth:`sync`, :meth:`listen` or :meth:`show`.

    Whoever drives it sends what :meth:`start` returns and hands each answer to :meth:`handle`, which returns the next
    request, until that returns None. An exchange that is given up half way did no harm.
    """

    def __init__(self, phase: _Phase, view: View, shown: Sequence[MemberRecord], max_records: int) -> None:
        self._phase = phase
        self._view = view
        self._is_sync = phase is _Phase.COMPARING
        self._to_show = shown
        self._max_records = max_records
        self._pages_left = 2 + max_records // _LEAST_PER_PAGE
        self._mask = ALL_BUCKETS
        self._cursor = ""
        self._theirs: dict[str, MemberRecord] = {}
        self._n_heard = 0
        self.records: list[Hearsay] = []
        """What the latest answer told."""

    @classmethod
    def sync(cls, view: View, *, max_records: int) -> AskerExchange:
        """Compare two tables and exchange what differs; at most ``max_records`` are read."""
        return cls(_Phase.COMPARING, view, (), max_records)

    @classmethod
    def listen(cls, view: View, *, max_records: int) -> AskerExchange:
        """Read all records, at most ``max_records``, and show none."""
        return cls(_Phase.READING, view, (), max_records)

    @classmethod
    def show(cls, view: View, records: Sequence[MemberRecord]) -> AskerExchange:
        """Show records of different nodes, and read none."""
        return cls(_Phase.SHOWING, view, sorted(records, key=lambda record: record.id), 0)

    @property
    def is_done(self) -> bool:
        """Whether there is nothing more to ask."""
        return self._phase is _Phase.DONE

    def start(self, now: float) -> bytes:
        """Return the first request."""
        match self._phase:
            case _Phase.COMPARING:
                return _start(_SYNC) + self._view.hashes.encode()
            case _Phase.SHOWING:
                return self._show_request(now)
            case _:
                return self._list_request()

    def handle(self, answer: bytes, now: float) -> bytes | None:
        """Take in an answer: fills :attr:`records` and returns the next request, or None at the end.

        Raises:
            MessageError: the answer is malformed; the exchange is over and :attr:`records` is empty.
        """
        phase, self._phase, self.records = self._phase, _Phase.DONE, []
        match phase:
            case _Phase.COMPARING:
                return self._compared(answer, now)
            case _Phase.READING:
                return self._read(_open(answer, _LIST)[0], now)
            case _Phase.SHOWING:
                _open(answer, _SHOW)[0].finish()
                return self._show_request(now) if self._to_show else None
            case _:
                raise MessageError("an answer to nothing")

    def _compared(self, answer: bytes, now: float) -> bytes | None:
        reader, _ = _open(answer, _SYNC)
        (self._mask,) = reader.unpack(_MASK)
        return self._read(reader, now)

    def _read(self, reader: Reader, now: float) -> bytes | None:
        (more,) = reader.take(1)
        if more > 1:
            raise MessageError(f"{more} is neither yes nor no")
        has_more = more == 1
        heard = _read_records(reader, after=self._cursor, mask=self._mask)
        if has_more and not heard:
            raise MessageError("an empty page that is not the last")
        if has_more and self._pages_left <= 0:
            raise MessageError("more pages than the records can fill")
        self._pages_left -= 1
        self._note(heard[: self._max_records - self._n_heard])
        if has_more and self._n_heard < self._max_records:
            return self._list_request()
        return self._turn(now) if self._is_sync and self._mask else None

    def _note(self, heard: list[Hearsay]) -> None:
        self.records = heard
        self._n_heard += len(heard)
        if heard:
            self._cursor = heard[-1].record.id
        if self._is_sync:
            self._theirs.update((entry.record.id, entry.record) for entry in heard)

    def _turn(self, now: float) -> bytes | None:
        """Go on to show what the answerer has not got."""
        theirs = self._theirs
        self._to_show = [
            record
            for record in self._view.records()
            if is_in(record.id, self._mask) and _is_news(record, theirs.get(record.id))
        ]
        return self._show_request(now) if self._to_show else None

    def _list_request(self) -> bytes:
        self._phase = _Phase.READING
        cursor = bytes.fromhex(self._cursor)
        return _start(_LIST) + _MASK.pack(self._mask) + bytes((len(cursor),)) + cursor

    def _show_request(self, now: float) -> bytes:
        self._phase = _Phase.SHOWING
        page, n_shown, _ = _page(self._to_show, self._view, now)
        self._to_show = self._to_show[n_shown:]
        return _start(_SHOW) + page
