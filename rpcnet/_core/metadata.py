"""Tags and services that are too large for gossip: told by digest, fetched as a body, kept while a record names them.

The rules of this file:

* Tags and services above ``MAX_INLINE_BYTES`` encoded are told as a :class:`BodyRef`: 8 bytes of digest and the size
  of the body, which is what ``encode_metadata`` makes of them. In a record these are two fields, ``digest`` (empty
  when tags and services are inline) and ``body_bytes`` (then 0). Its tags and services stay empty until the body is
  here; what is filled in then takes no part in comparing or encoding records::

      content   name, address, digest, body_bytes, and only if digest is empty: sorted tags, services
      wire      metadata length 2 = 0xFFFF | digest 8 | body_bytes 4      instead of length and metadata

* A body is used only if size and digest are those that were told and it is the one encoding of its content.
* Bodies are known by what they are, not by whose they are: a thousand workers with the same services have one body.
* The owner is asked first, then any member, then the owner again, with growing pauses, and after six attempts nobody
  until somebody asks for it. A node that misses many bodies, because it is new, asks one member for all of them.
* The first attempt waits a random moment, the longer the larger the cluster, so that an owner is not asked by all
  members at once and most find the body at somebody else's.
* What is kept is bounded: per body, in all, and to bodies that a record names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import attrs

from .members import MAX_INLINE_BYTES
from .messages import MessageError, _decode_metadata

if TYPE_CHECKING:
    import random

__all__ = ["DIGEST_BYTES", "MAX_BODIES", "MAX_FETCH_BYTES", "Body", "BodyRef", "Fetch", "MetadataStore"]

DIGEST_BYTES = 8
"""Enough against accidents. An owner could make two bodies of one digest, and harm nothing but its own tags."""

MAX_BODIES = 255
"""Bodies asked for at once: their number travels in one byte."""

MAX_FETCH_BYTES = 192 << 10
"""Bodies asked for at once, together; a single one may be larger."""

_MAX_STORE_BYTES = 64 << 20
_MAX_FETCHES = 4
_MANY = 8
_MAX_ATTEMPTS = 6
_FETCH_TIMEOUT = 15.0
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
_SOON = 0.1
_SPREAD_PER_MEMBER = 0.002
_LONGEST_SPREAD = 2.0


@attrs.frozen
class BodyRef:
    """What is told of a body instead of the body."""

    digest: bytes
    """blake2b of the body, 8 bytes."""
    size: int
    """Bytes of the body; above ``MAX_INLINE_BYTES``."""

    @classmethod
    def of(cls, data: bytes) -> BodyRef | None:
        """Return how to tell encoded tags and services; None when they are small enough to be told inline."""
        if len(data) <= MAX_INLINE_BYTES:
            return None
        return cls(blake2b(data, digest_size=DIGEST_BYTES).digest(), len(data))


@attrs.frozen
class Body:
    """A body that was checked, and what it says."""

    data: bytes = attrs.field(repr=False)
    """The encoding."""
    tags: Mapping[str, str]
    """The tags in it."""
    services: tuple[str, ...]
    """The services in it."""

    @classmethod
    def read(cls, ref: BodyRef, data: bytes) -> Body:
        """Check and decode a body that somebody sent.

        Raises:
            MessageError: it is not the body that ``ref`` tells of, or not the encoding of tags and services.
        """
        if BodyRef.of(data) != ref:
            raise MessageError(f"a body of {len(data)} bytes is not the one of {ref.size} bytes that was asked for")
        tags, services = _decode_metadata(data)
        return cls(data, tags, services)


@attrs.frozen
class Fetch:
    """Ask ``node_id`` for bodies, and hand what it answers to :meth:`MetadataStore.answered`."""

    node_id: str
    """Whom to ask."""
    refs: tuple[BodyRef, ...]
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
        self._own: tuple[BodyRef, Body] | None = None
        self._owners: dict[BodyRef, dict[str, None]] = {}
        self._bodies: dict[BodyRef, Body] = {}
        self._held_bytes = 0
        self._wants: dict[BodyRef, _Want] = {}
        self._asked: dict[str, tuple[Fetch, float]] = {}

    # --- reading

    def body(self, ref: BodyRef) -> Body | None:
        """Return a body, or None when it is not here."""
        if self._own is not None and self._own[0] == ref:
            return self._own[1]
        return self._bodies.get(ref)

    @property
    def held_bytes(self) -> int:
        """Bytes of the bodies of others."""
        return self._held_bytes

    def is_wanted(self, ref: BodyRef) -> bool:
        """Tell whether a body is still to be asked for, or being asked for."""
        want = self._wants.get(ref)
        return want is not None and want.at is not None

    # --- what records name

    def set_own(self, data: bytes) -> BodyRef | None:
        """Keep this node's own tags and services, encoded, and return how to tell them: None when inline.

        The caller has checked their size; what was set before is forgotten.
        """
        ref = BodyRef.of(data)
        self._own = None if ref is None else (ref, Body.read(ref, data))
        return ref

    def update(self, node_id: str, old: BodyRef | None, new: BodyRef | None, now: float) -> None:
        """Take in that another node's record names another body: None is for tags that are inline, or no record."""
        if old == new:
            return
        if old is not None and node_id in self._owners.get(old, ()):
            del self._owners[old][node_id]
            self._release(old)
        if new is not None and MAX_INLINE_BYTES < new.size <= self._max_body_bytes:
            self._owners.setdefault(new, {})[node_id] = None
            self.want(new, now)

    def want(self, ref: BodyRef, now: float) -> None:
        """Ask again for a body that a record names, if it was given up; does nothing otherwise."""
        if ref not in self._owners or self.is_wanted(ref):
            return
        known = self.body(ref)
        if known is not None:
            self._keep(ref, known)
        else:
            self._wants[ref] = _Want(now)

    def _release(self, ref: BodyRef) -> None:
        if self._owners[ref]:
            return
        del self._owners[ref]
        self._wants.pop(ref, None)
        if self._bodies.pop(ref, None) is not None:
            self._held_bytes -= ref.size

    def _keep(self, ref: BodyRef, body: Body) -> None:
        self._wants.pop(ref, None)
        if ref not in self._bodies:
            self._bodies[ref] = body
            self._held_bytes += ref.size

    # --- asking

    def next_timer(self) -> float | None:
        """Return the Trio time at which :meth:`due` has something to do; None when nothing is wanted."""
        times = [deadline for _, deadline in self._asked.values()]
        if len(self._asked) < _MAX_FETCHES:
            asked = self._asked_refs()
            times += [want.at for ref, want in self._wants.items() if want.at is not None and ref not in asked]
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
        asked = self._asked_refs()
        ready = [
            (ref, want)
            for ref, want in self._wants.items()
            if want.at is not None and want.at <= now and ref not in asked
        ]
        is_many = len(ready) > _MANY
        if not is_many:
            ready = [(ref, want) for ref, want in ready if not self._spread(want, now, len(peers))]
        return [self._ask(node_id, refs, now) for node_id, refs in self._choose(ready, is_many, peers, now).items()]

    def answered(self, fetch: Fetch, bodies: Mapping[BodyRef, Body], now: float) -> list[str]:
        """Take in the bodies that were answered, those that were asked for and not had left out.

        Returns:
            The ids of the nodes whose tags and services are known now.
        """
        self._asked.pop(fetch.node_id, None)
        known: list[str] = []
        for ref in fetch.refs:
            body = bodies.get(ref)
            if ref not in self._wants:
                continue
            if body is None:
                self._put_off(self._wants[ref], now)
            else:
                self._keep(ref, body)
                known += self._owners[ref]
        return known

    def failed(self, fetch: Fetch, now: float) -> None:
        """Take in that a fetch came to nothing."""
        self.answered(fetch, {}, now)

    def _asked_refs(self) -> set[BodyRef]:
        return {ref for fetch, _ in self._asked.values() for ref in fetch.refs}

    def _spread(self, want: _Want, now: float, n_peers: int) -> bool:
        """Put a first attempt off by a random moment, once; return whether that was done."""
        if want.is_spread:
            return False
        want.is_spread = True
        want.at = now + self._rng.uniform(0, min(_LONGEST_SPREAD, _SPREAD_PER_MEMBER * n_peers))
        return want.at > now

    def _choose(
        self, ready: Sequence[tuple[BodyRef, _Want]], is_many: bool, peers: Sequence[str], now: float
    ) -> dict[str, list[BodyRef]]:
        """Return whom to ask for what; what cannot be asked now is put off."""
        anybody = self._rng.choice(peers) if peers and ready else None
        chosen: dict[str, list[BodyRef]] = {}
        room = self._max_bytes - self._held_bytes - sum(ref.size for ref in self._asked_refs())
        for ref, want in ready:
            node_id = self._whom(ref, want, is_many, peers) or anybody
            if ref.size > room:
                want.at = now + _LONGEST_PAUSE
            elif node_id is None or not self._has_room(chosen, node_id, ref):
                want.at = now + _SOON if peers else now + _FIRST_PAUSE
            else:
                chosen.setdefault(node_id, []).append(ref)
                room -= ref.size
        return chosen

    def _whom(self, ref: BodyRef, want: _Want, is_many: bool, peers: Sequence[str]) -> str | None:
        """Return an owner if it is an owner's turn."""
        if want.attempts % 3 != int(is_many):
            return None
        owners = [node_id for node_id in self._owners[ref] if node_id in peers]
        return self._rng.choice(owners) if owners else None

    def _has_room(self, chosen: Mapping[str, Sequence[BodyRef]], node_id: str, ref: BodyRef) -> bool:
        refs = chosen.get(node_id)
        if refs is None:
            return node_id not in self._asked and len(chosen) + len(self._asked) < _MAX_FETCHES
        return len(refs) < MAX_BODIES and sum(other.size for other in refs) + ref.size <= MAX_FETCH_BYTES

    def _ask(self, node_id: str, refs: Sequence[BodyRef], now: float) -> Fetch:
        fetch = Fetch(node_id, tuple(refs))
        self._asked[node_id] = fetch, now + _FETCH_TIMEOUT
        return fetch

    def _put_off(self, want: _Want, now: float) -> None:
        want.attempts += 1
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** (want.attempts - 1))
        want.at = None if want.attempts >= _MAX_ATTEMPTS else now + pause * self._rng.uniform(0.5, 1.5)
