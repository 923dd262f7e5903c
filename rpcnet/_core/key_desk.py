"""How the nodes of a cluster come to have the same key ring.

The rules of this file:

* A ring has a version: how often it was changed, and a hash of what is in it. Of two rings the one with the greater
  version holds, and whoever has the other one takes it over as a whole. That is a total order, so nodes that talk to
  each other end with the same ring, in whatever order they do, and two nodes with the same ring hear each other.
* A ring that nobody has changed is configuration. Two such rings that differ are left alone: none is the newer one.
* Every exchange of state carries the version, both ways. Where it differs the asker compares rings: it sends a note,
  and takes the answer; if its own ring is the newer one, it hands it over in a second note.
* Keys are given to, and taken from, a node whose name the connection has verified and which proves that it knows a key
  that this one has or had. A proof is a hash of the prover's name under that key, so nobody can use another's; a
  certificate alone does not get anybody the keys. Keys that were removed are forgotten but for what checks proofs.
* Everything is checked before any of it is used.

Layouts, with the size of each part in bytes::

    tag       kind 1 | changes 8 | hash 8 | the exchange of state
    note      kind 1 | changes 8 | hash 8 | count 1 | proof 16 each | count 1 | key 32 each, the one in use first
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from typing import Protocol

import attrs

from rpcnet._builtin_contracts import KeyListing
from rpcnet.errors import SecurityError

from .keyring import KEY_BYTES, GossipKey, KeyRing
from .messages import MessageError, Reader

__all__ = ["MAX_CHANGES", "KeyDesk", "RingHolder", "RingVersion", "is_note", "print_of"]

MAX_CHANGES = 2**32
"""How often a ring may be changed; what claims more is not believed."""

_TAG, _NOTE = 0x4B, 0x4E
_HEAD = struct.Struct("!BQ8s")
_PRINT_BYTES = 8
_PROOF_BYTES = 16
_MAX_FORMER = 8
"""How many keys that are gone still prove, beside those that the node began with."""


@attrs.frozen(order=True)
class RingVersion:
    """Which of two rings holds."""

    changes: int
    """How often it was changed."""
    hash: bytes
    """Of what is in it; the order of the keys that are not in use does not matter."""

    def is_newer_than(self, other: RingVersion) -> bool:
        """Tell whether a ring of this version takes the place of one of the other."""
        return self.changes > 0 and self > other


def print_of(fingerprints: Sequence[str]) -> bytes:
    """Return the hash of a ring, given the fingerprints of its keys, the one in use first."""
    text = "/".join((fingerprints[0], *sorted(fingerprints[1:])))
    return hashlib.blake2b(text.encode(), digest_size=_PRINT_BYTES, person=b"rpcnet key ring").digest()


def _checker(key: GossipKey) -> bytes:
    """Return what makes and checks proofs of knowing a key, and does not give it away."""
    return hashlib.blake2b(key.secret, digest_size=KEY_BYTES, person=b"rpcnet key knows").digest()


def is_note(message: bytes) -> bool:
    """Tell whether a message compares rings and does nothing else."""
    return message[:1] == bytes((_NOTE,))


class RingHolder(Protocol):
    """Whoever seals and opens with a ring."""

    @property
    def ring(self) -> KeyRing:
        """The keys as they are now."""

    def adopt(self, ring: KeyRing) -> bool:
        """Take over a ring as a whole; return whether it differs."""


@attrs.frozen
class _Note:
    version: RingVersion
    proofs: tuple[bytes, ...]
    ring: KeyRing | None


class KeyDesk:
    """Where a node's ring is changed and compared with those of others.

    Args:
        holder: who has the ring.
        cluster: the name of the cluster.
        name: this node's name, as its certificate says it.
    """

    def __init__(self, holder: RingHolder, cluster: str, name: str) -> None:
        self._holder = holder
        self._cluster = cluster
        self._name = name
        self._configured = holder.ring.keys
        self._first = [_checker(key) for key in holder.ring.keys]
        self._former: list[bytes] = []
        self._changes = 0
        self._take(holder.ring, 0)

    @property
    def ring(self) -> KeyRing:
        """The ring as it is now."""
        return self._holder.ring

    @property
    def version(self) -> RingVersion:
        """The version of the ring."""
        return self._version

    def listing(self) -> KeyListing:
        """Return what may be told of the ring."""
        return KeyListing(self._changes, [*self.ring.list()])

    def change(self, ring: KeyRing) -> bool:
        """Put another ring in place of this one, as its successor; return whether it differs.

        Raises:
            SecurityError: the ring was changed too often.
        """
        if print_of([key.fingerprint for key in ring.keys]) == self._version.hash:
            return False
        if self._changes >= MAX_CHANGES:
            raise SecurityError(f"the key ring was changed {MAX_CHANGES} times; restart the cluster to change it again")
        self._take(ring, self._changes + 1)
        return True

    def follow(self, configured: Sequence[GossipKey]) -> bool:
        """Take over the keys that the node is configured with now, if they are others than before; return whether."""
        if tuple(configured) == self._configured:
            return False
        ring = KeyRing(tuple(configured))
        self._configured = ring.keys
        return self.change(ring)

    def _take(self, ring: KeyRing, changes: int) -> None:
        self._holder.adopt(ring)
        self._changes = changes
        self._version = RingVersion(changes, print_of([key.fingerprint for key in ring.keys]))
        new = [_checker(key) for key in ring.keys]
        former = [known for known in self._former if known not in new] + new
        self._former = former[-(_MAX_FORMER + len(new)) :]

    # --- what rides on exchanges of state

    def tag(self, message: bytes) -> bytes:
        """Return an exchange of state, or the answer to one, with the version of the ring in front of it."""
        return _HEAD.pack(_TAG, self._version.changes, self._version.hash) + message

    def untag(self, message: bytes) -> tuple[RingVersion | None, bytes]:
        """Return the version in front of an exchange of state, None if there is none, and the exchange."""
        if message[:1] != bytes((_TAG,)) or len(message) < _HEAD.size:
            return None, message
        _, changes, hashed = _HEAD.unpack_from(message)
        return RingVersion(changes, hashed), message[_HEAD.size :]

    # --- comparing rings

    def should_compare(self, theirs: RingVersion) -> bool:
        """Tell whether one of two rings takes the place of the other, given the version of another node's."""
        return theirs.is_newer_than(self._version) or self._version.is_newer_than(theirs)

    def ask(self) -> bytes:
        """Return the note that begins a comparison."""
        return self._note(has_keys=False)

    def answer(self, note: bytes, peer: str) -> bytes:
        """Take in the note of a node, its ring too if that is newer, and return the answer.

        Args:
            note: what it sent.
            peer: its name, verified.

        Raises:
            MessageError: the note is malformed; nothing has changed.
        """
        theirs = _read(note)
        knows_key = self._is_proven(theirs, peer)
        if knows_key:
            self._adopt(theirs)
        return self._note(has_keys=knows_key and self._version.is_newer_than(theirs.version))

    def hear(self, answer: bytes, peer: str) -> bytes | None:
        """Take in an answer, the ring in it too if that is newer; return the note that hands over this node's, if any.

        Raises:
            MessageError: the answer is malformed; nothing has changed.
            SecurityError: one of the rings is newer, and the node does not know a key that this one has or had.
        """
        theirs = _read(answer)
        if self._is_proven(theirs, peer):
            self._adopt(theirs)
        elif self.should_compare(theirs.version):
            raise SecurityError(f"{peer} has another key ring, and none of the keys that this node has or had")
        else:
            return None
        return self._note(has_keys=True) if self._version.is_newer_than(theirs.version) else None

    def _adopt(self, note: _Note) -> None:
        if note.ring is not None and note.version.is_newer_than(self._version):
            self._take(note.ring, note.version.changes)

    def _note(self, *, has_keys: bool) -> bytes:
        proofs = [_prove(known, self._cluster, self._name) for known in self._known()]
        keys = [key.secret for key in self.ring.keys] if has_keys else []
        head = _HEAD.pack(_NOTE, self._version.changes, self._version.hash)
        return b"".join((head, bytes((len(proofs),)), *proofs, bytes((len(keys),)), *keys))

    def _known(self) -> Iterable[bytes]:
        return dict.fromkeys((*self._first, *self._former))

    def _is_proven(self, note: _Note, peer: str) -> bool:
        return any(_prove(known, self._cluster, peer) in note.proofs for known in self._known())


def _prove(checker: bytes, cluster: str, name: str) -> bytes:
    data = f"{cluster}/{name}".encode()
    return hashlib.blake2b(data, key=checker, digest_size=_PROOF_BYTES, person=b"rpcnet key proof").digest()


def _read(message: bytes) -> _Note:
    reader = Reader(message)
    kind, changes, hashed = reader.unpack(_HEAD)
    if kind != _NOTE:
        raise MessageError(f"a note of kind {kind} about keys")
    if changes > MAX_CHANGES:
        raise MessageError(f"a key ring that was changed {changes} times")
    proofs = tuple(reader.take(_PROOF_BYTES) for _ in range(reader.byte()))
    secrets = [reader.take(KEY_BYTES) for _ in range(reader.byte())]
    reader.finish()
    ring = None
    if secrets:
        try:
            ring = KeyRing(tuple(GossipKey.of(secret) for secret in secrets))
        except SecurityError as error:
            raise MessageError(f"keys that make no ring: {error}") from None
        if print_of([key.fingerprint for key in ring.keys]) != hashed:
            raise MessageError("a key ring that is not the one that it is called")
    return _Note(RingVersion(changes, hashed), proofs, ring)
