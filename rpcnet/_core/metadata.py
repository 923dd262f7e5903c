"""Tags and services that are too large for gossip: told by digest, fetched as a body, kept while a record names them.

The rules of this file:

* What ``encode_metadata`` makes of tags and services is their *body*. One above ``MAX_INLINE_BYTES`` is told by its
  digest: 4 bytes of size and 8 of hash. The record's tags and services stay empty until the body is here.
* A body is used only if size and digest are those that were told and it is the one encoding of its content.
* Bodies are known by what they are, not by whose they are: a thousand workers with the same services have one body.
* The owner is asked first, then any member, then the owner again, with growing pauses, and after six attempts nobody
  until somebody asks for it. A node that misses many bodies, because it is new, asks one member for all of them.
* The first attempt waits a random moment, the longer the larger the cluster, so that an owner is not asked by all
  members at once and most find the body at somebody else's.
* What is kept is bounded: per body, in all, and to bodies that a record names.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Mapping, Sequence
from hashlib import blake2b
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

from .members import MAX_INLINE_BYTES
from .messages import DIGEST_BYTES, MessageError, decode_metadata

if TYPE_CHECKING:
    import random

__all__ = ["MAX_BODIES", "MAX_FETCH_BYTES", "Body", "Fetch", "MetadataStore", "digest_of", "size_of"]

MAX_BODIES = 255
"""Bodies asked for at once: their number travels in one byte."""

MAX_FETCH_BYTES = 192 << 10
"""Bodies asked for at once, together; a single one may be larger."""

_SIZE = struct.Struct("!I")
_MAX_STORE_BYTES = 64 << 20
_MAX_FETCHES = 4
_MANY = 8
_MAX_ATTEMPTS = 6
_MAX_SILENT = 64
_FETCH_TIMEOUT = 15.0
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
_SOON = 0.1
_SPREAD_PER_MEMBER = 0.002
_LONGEST_SPREAD = 2.0


def digest_of(data: bytes) -> bytes:
    """Return how to tell encoded tags and services: empty when they are small enough to be told inline.

    Eight bytes of hash are enough against accidents. An owner could make two bodies of one digest, and would harm
    nothing but its own tags.
    """
    if len(data) <= MAX_INLINE_BYTES:
        return b""
    return _SIZE.pack(len(data)) + blake2b(data, digest_size=DIGEST_BYTES - _SIZE.size).digest()


def size_of(digest: bytes) -> int:
    """Return the size of the body that a digest tells of."""
    (size,) = _SIZE.unpack_from(digest)
    return int(size)


@attrs.frozen
class Body:
    """A body that was checked, and what it says."""

    data: bytes = attrs.field(repr=False)
    """The encoding."""
    tags: Mapping[str, str]
    """The tags in it, not to be changed: records share them."""
    services: tuple[str, ...]
    """The services in it."""

    @classmethod
    def read(cls, digest: bytes, data: bytes) -> Body:
        """Check and decode a body that somebody sent.

        Raises:
            MessageError: it is not the body of that digest, or not the encoding of tags and services.
        """
        if digest_of(data) != digest:
            raise MessageError(f"{len(data)} bytes are not the {size_of(digest)} of {digest.hex()} that were asked for")
        tags, services = decode_metadata(data)
        return cls(data, MappingProxyType(tags), services)


@attrs.frozen
class Fetch:
    """Ask ``node_id`` for bodies, and hand what it answers to :meth:`MetadataStore.answered`."""

    node_id: str
    """Whom to ask."""
    digests: tuple[bytes, ...]
    """What to ask for."""


@attrs.define(eq=False)
class _Want:
    """A body that a record names and that is not here."""

    at: float | None
    attempts: int = 0
    is_spread: bool = False


class MetadataStore:
    """The bodies that one node knows and wants.

    Args:
        rng: for pauses, and for whom to ask.
        max_body_bytes: larger bodies are not asked for.
        max_bytes: all bodies together, this node's own not counted.
    """

    def __init__(self, *, rng: random.Random, max_body_bytes: int, max_bytes: int = _MAX_STORE_BYTES) -> None:
        self._rng = rng
        self._max_body_bytes = max_body_bytes
        self._max_bytes = max_bytes
        self._own: tuple[bytes, Body] | None = None
        self._owners: dict[bytes, dict[str, None]] = {}
        self._bodies: dict[bytes, Body] = {}
        self._held_bytes = 0
        self._wants: dict[bytes, _Want] = {}
        self._asked: dict[str, tuple[Fetch, float]] = {}
        self._silent: dict[str, None] = {}
        self._timer: float | None = None
        self._is_timer_known = True

    # --- reading

    def body(self, digest: bytes) -> Body | None:
        """Return a body, or None when it is not here."""
        if self._own is not None and self._own[0] == digest:
            return self._own[1]
        return self._bodies.get(digest)

    @property
    def held_bytes(self) -> int:
        """Bytes of the bodies of others."""
        return self._held_bytes

    def is_wanted(self, digest: bytes) -> bool:
        """Tell whether a body is still to be asked for, or being asked for."""
        want = self._wants.get(digest)
        return want is not None and want.at is not None

    # --- what records name

    def set_own(self, data: bytes) -> bytes:
        """Keep this node's own tags and services, encoded, and return how to tell them: empty when inline.

        The caller has checked their size; what was set before is forgotten.
        """
        digest = digest_of(data)
        self._own = None if not digest else (digest, Body.read(digest, data))
        return digest

    def update(self, node_id: str, old: bytes, new: bytes, now: float) -> None:
        """Take in that another node's record names another body: empty is for tags that are inline, or no record."""
        if old == new:
            return
        if old and node_id in self._owners.get(old, ()):
            del self._owners[old][node_id]
            self._release(old)
        if new and MAX_INLINE_BYTES < size_of(new) <= self._max_body_bytes:
            self._owners.setdefault(new, {})[node_id] = None
            self.want(new, now)

    def want(self, digest: bytes, now: float) -> None:
        """Ask again for a body that a record names, if it was given up; does nothing otherwise."""
        if digest not in self._owners or self.is_wanted(digest):
            return
        known = self.body(digest)
        if known is not None:
            self._keep(digest, known)
        else:
            self._wants[digest] = _Want(now)
            self._is_timer_known = False

    def _release(self, digest: bytes) -> None:
        if self._owners[digest]:
            return
        del self._owners[digest]
        self._is_timer_known = False
        self._wants.pop(digest, None)
        if self._bodies.pop(digest, None) is not None:
            self._held_bytes -= size_of(digest)

    def _keep(self, digest: bytes, body: Body) -> None:
        self._wants.pop(digest, None)
        if digest not in self._bodies:
            self._bodies[digest] = body
            self._held_bytes += size_of(digest)

    # --- asking

    def next_timer(self) -> float | None:
        """Return the Trio time at which :meth:`due` has something to do; None when nothing is wanted."""
        if not self._is_timer_known:
            self._timer = self._find_timer()
            self._is_timer_known = True
        return self._timer

    def _find_timer(self) -> float | None:
        if not self._wants and not self._asked:
            return None
        times = [deadline for _, deadline in self._asked.values()]
        if len(self._asked) < _MAX_FETCHES:
            asked = frozenset(self._asked_digests())
            times += [want.at for digest, want in self._wants.items() if want.at is not None and digest not in asked]
        return min(times, default=None)

    def due(self, now: float, peers: Sequence[str]) -> list[Fetch]:
        """Return what to ask now and count it as asked.

        Args:
            now: Trio time.
            peers: the ids of the other nodes that are alive.
        """
        for fetch, deadline in tuple(self._asked.values()):
            if deadline <= now:
                self.failed(fetch, now)
        self._is_timer_known = False
        asked = frozenset(self._asked_digests())
        ready = [
            (digest, want)
            for digest, want in self._wants.items()
            if want.at is not None and want.at <= now and digest not in asked
        ]
        is_many = len(ready) > _MANY
        if not is_many:
            ready = [(digest, want) for digest, want in ready if not self._spread(want, now, len(peers))]
        return [
            self._ask(node_id, digests, now)
            for node_id, digests in self._choose(ready, now, peers, is_many=is_many).items()
        ]

    def answered(self, fetch: Fetch, bodies: Mapping[bytes, Body], now: float) -> list[str]:
        """Take in the bodies that were answered, those that were asked for and not had left out.

        Returns:
            The ids of the nodes whose tags and services are known now.
        """
        self._silent.pop(fetch.node_id, None)
        return self._take(fetch, bodies, now)

    def _take(self, fetch: Fetch, bodies: Mapping[bytes, Body], now: float) -> list[str]:
        asked = self._asked.get(fetch.node_id)
        in_time = asked is not None and asked[0] is fetch
        if in_time:
            del self._asked[fetch.node_id]
        self._is_timer_known = False
        known: list[str] = []
        for digest in fetch.digests:
            want, body = self._wants.get(digest), bodies.get(digest)
            if want is not None and body is not None:
                self._keep(digest, body)
                known += self._owners[digest]
            elif want is not None and in_time:
                self._put_off(want, now)
        return known

    def failed(self, fetch: Fetch, now: float) -> None:
        """Take in that a node did not answer; while there are others, it is not asked in place of an owner."""
        self._silent[fetch.node_id] = None
        if len(self._silent) > _MAX_SILENT:
            del self._silent[next(iter(self._silent))]
        self._take(fetch, {}, now)

    def _asked_digests(self) -> list[bytes]:
        return [digest for fetch, _ in self._asked.values() for digest in fetch.digests]

    def _spread(self, want: _Want, now: float, n_peers: int) -> bool:
        """Put a first attempt off by a random moment, once; return whether that was done."""
        if want.is_spread:
            return False
        want.is_spread = True
        want.at = now + self._rng.uniform(0, min(_LONGEST_SPREAD, _SPREAD_PER_MEMBER * n_peers))
        return want.at > now

    def _choose(
        self, ready: Sequence[tuple[bytes, _Want]], now: float, peers: Sequence[str], *, is_many: bool
    ) -> dict[str, list[bytes]]:
        """Return whom to ask for what; what cannot be asked now is put off."""
        if not ready:
            return {}
        speaking = [node_id for node_id in peers if node_id not in self._silent] or peers
        anybody, alive = self._rng.choice(speaking) if speaking else None, frozenset(peers)
        chosen: dict[str, list[bytes]] = {}
        room = self._max_bytes - self._held_bytes - sum(size_of(digest) for digest in self._asked_digests())
        for digest, want in ready:
            node_id = self._whom(digest, want, alive, is_many=is_many) or anybody
            if size_of(digest) > room:
                want.at = now + _LONGEST_PAUSE
            elif node_id is None or not self._has_room(chosen, node_id, digest):
                want.at = now + _SOON if peers else now + _FIRST_PAUSE
            else:
                chosen.setdefault(node_id, []).append(digest)
                room -= size_of(digest)
        return chosen

    def _whom(self, digest: bytes, want: _Want, alive: Container[str], *, is_many: bool) -> str | None:
        """Return an owner if it is an owner's turn."""
        if want.attempts % 3 != int(is_many):
            return None
        owners = [node_id for node_id in self._owners[digest] if node_id in alive]
        return self._rng.choice(owners) if owners else None

    def _has_room(self, chosen: Mapping[str, Sequence[bytes]], node_id: str, digest: bytes) -> bool:
        digests = chosen.get(node_id)
        if digests is None:
            return node_id not in self._asked and len(chosen) + len(self._asked) < _MAX_FETCHES
        return (
            len(digests) < MAX_BODIES and sum(size_of(other) for other in digests) + size_of(digest) <= MAX_FETCH_BYTES
        )

    def _ask(self, node_id: str, digests: Sequence[bytes], now: float) -> Fetch:
        fetch = Fetch(node_id, tuple(digests))
        self._asked[node_id] = fetch, now + _FETCH_TIMEOUT
        return fetch

    def _put_off(self, want: _Want, now: float) -> None:
        want.attempts += 1
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** (want.attempts - 1))
        want.at = None if want.attempts >= _MAX_ATTEMPTS else now + pause * self._rng.uniform(0.5, 1.5)
