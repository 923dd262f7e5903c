"""The key ring: the keys of membership datagrams that a node has, and which of them seals.

The rules of this file:

* A ring is a value: what changes it returns another one, or the same one when there is nothing to change, so that an
  order that arrives twice does no harm.
* A cluster changes its key in three steps (serf has the same ones): every node installs the new key, then every node
  uses it, then every node removes the old one. At each step every node can open what any other seals. One rotation
  needs two keys; a third one leaves room for one that was begun and not ended.
* A key's id is one byte of a hash of the key, so it is the same on every node although nobody hands out numbers. Two
  keys that share it cannot be told apart in a datagram, so the second one is refused; another key is as good.
* Secrets appear in no repr and in no error. People see ids and fingerprints.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import attrs

from rpcnet._builtin_contracts import KeyInfo
from rpcnet.errors import SecurityError

__all__ = ["KEY_BYTES", "MAX_KEYS", "GossipKey", "KeyInfo", "KeyRing"]

MAX_KEYS = 3
"""How many keys a ring may have."""

KEY_BYTES = 32
"""The size of a key's secret."""

_MIN_DIFFERENT_BYTES = KEY_BYTES // 4
_FINGERPRINT_BYTES = 8


@attrs.frozen
class GossipKey:
    """A key that every node of the cluster has."""

    key_id: int
    """Stands in the header, so that several keys can live side by side during a rotation; one byte."""
    secret: bytes = attrs.field(repr=False)
    """32 bytes."""

    @classmethod
    def of(cls, secret: bytes) -> GossipKey:
        """Return the key with a secret and with the id that follows from it.

        Raises:
            SecurityError: if the secret is not 32 bytes, or is plainly not random.
        """
        if len(secret) != KEY_BYTES or len(set(secret)) < _MIN_DIFFERENT_BYTES:
            raise SecurityError(f"a key of membership datagrams must be {KEY_BYTES} random bytes")
        return cls(hashlib.blake2b(secret, digest_size=1, person=b"rpcnet key id").digest()[0], bytes(secret))

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell this key from all others and do not give it away."""
        return hashlib.blake2b(self.secret, digest_size=_FINGERPRINT_BYTES, person=b"rpcnet key print").hexdigest()


def _check_keys(_: object, __: object, keys: tuple[GossipKey, ...]) -> None:
    if not keys:
        raise SecurityError("a key ring needs a key")
    if len(keys) > MAX_KEYS:
        raise SecurityError(f"a key ring has at most {MAX_KEYS} keys, not {len(keys)}; remove one that is not in use")
    known: dict[int, GossipKey] = {}
    for key in keys:
        if not 0 <= key.key_id <= 0xFF:
            raise SecurityError(f"a key's id is one byte, not {key.key_id}")
        if key.key_id in known:
            raise SecurityError(
                f"two keys with the id {key.key_id}, {known[key.key_id].fingerprint} and {key.fingerprint}: "
                "datagrams could not say which one they mean; make another key"
            )
        known[key.key_id] = key


@attrs.frozen
class KeyRing:
    """Some keys, the first of which seals while all of them open.

    Raises:
        SecurityError: if there are none, too many, or two with one id.
    """

    keys: tuple[GossipKey, ...] = attrs.field(validator=_check_keys)
    """The one in use, then the others in the order in which they came."""

    @property
    def in_use(self) -> GossipKey:
        """The key that seals."""
        return self.keys[0]

    def get(self, key_id: int) -> GossipKey | None:
        """Return the key with an id; None if there is none."""
        for key in self.keys:
            if key.key_id == key_id:
                return key
        return None

    def install(self, key: GossipKey) -> KeyRing:
        """Return a ring that opens with one key more; the same ring if it has that key.

        Raises:
            SecurityError: if the ring is full, or another key has the same id.
        """
        if any(known.secret == key.secret for known in self.keys):
            return self
        return KeyRing((*self.keys, key))

    def use(self, key_id: int) -> KeyRing:
        """Return a ring that seals with a key that it has; the same ring if it does so already.

        Raises:
            SecurityError: if it has no such key.
        """
        key = self.get(key_id)
        if key is None:
            raise SecurityError(f"no key has the id {key_id}, only {_listed(self.keys)}; install it first")
        if key is self.in_use:
            return self
        return KeyRing((key, *(other for other in self.keys if other is not key)))

    def remove(self, key_id: int) -> KeyRing:
        """Return a ring without a key; the same ring if it has no such key.

        Raises:
            SecurityError: if that key is in use.
        """
        if key_id == self.in_use.key_id:
            raise SecurityError(f"the key with the id {key_id} is in use; use another one first")
        if self.get(key_id) is None:
            return self
        return KeyRing(tuple(key for key in self.keys if key.key_id != key_id))

    def list(self) -> tuple[KeyInfo, ...]:
        """Return what may be told of the keys, the one in use first."""
        return tuple(KeyInfo(key.key_id, key.fingerprint, key is self.in_use) for key in self.keys)


def _listed(keys: Sequence[GossipKey]) -> str:
    return ", ".join(str(key.key_id) for key in keys)
