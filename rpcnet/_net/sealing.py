"""Sealed membership datagrams: encrypted, authenticated, bound to one cluster, and useless when replayed.

The rules of this file:

* A datagram is a header of 20 bytes, the ciphertext and a tag of 16 bytes, 1200 bytes at most. The header says type
  (1), key id (1), cluster (4), the sender's salt (8) and a counter (6); it is authenticated with the payload.
* The key of a sender is HKDF-SHA256(cluster key, salt) and the nonce is the counter. The salt is random per start of a
  node, so a nonce never repeats under one key, and whoever has the cluster key opens a sender it never heard of.
* Per salt, counters that were seen or lie 64 or more behind the highest are refused (the window of RFC 4303, 3.4.3).
* The keys may change at any time, and the change holds from the next datagram on. The counter goes on, so a nonce does
  not repeat either when a key is used, laid aside and used again. Keys of senders are derived when they are needed and
  forgotten with the key that they come from.
* A window protects what its receiver has heard since it started. A datagram that somebody caught opens once more at a
  node that has not heard it: at another one, or at the same one after a restart. To bind it to one start of its
  receiver, a sender would need an answer before it can say anything. So it is left to what is sealed to do no harm
  then: records are ordered by boot id and incarnation, and an answer counts only with the number of a question. When
  a key is removed, everything that was ever sealed with it is worthless.
* What does not open changes nothing and raises nothing: one counter per reason. A sender is remembered only after a
  datagram of it has opened, so that forgeries push nobody out.
"""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Sequence

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from rpcnet._core.keyring import GossipKey, KeyRing

from .ports import SAFE_DATAGRAM_BYTES

__all__ = ["MAX_PAYLOAD_BYTES", "REFUSALS", "SALT_BYTES", "SEALED_TYPES", "GossipKey", "Sealer", "SealingStatistics"]

SEALED_TYPES = range(0x20, 0x40)
"""The first bytes that QUIC leaves to others on the same port (RFC 9443)."""
SALT_BYTES = 8
"""The size of a sender's salt."""

_TYPE_SEALED = 0x20
_HEADER = struct.Struct(">BB4s8sHI")
_HEADER_BYTES = _HEADER.size
_TAG_BYTES = 16
_KEY_BYTES = 16
_COUNTER_BYTES = 6
_NONCE_PREFIX = bytes(12 - _COUNTER_BYTES)
_WINDOW = 64
_WINDOW_MASK = (1 << _WINDOW) - 1

MAX_PAYLOAD_BYTES = SAFE_DATAGRAM_BYTES - _HEADER_BYTES - _TAG_BYTES
"""The largest payload that fits into one sealed datagram."""


@attrs.frozen
class SealingStatistics:
    """Counters of a sealer, one per reason of refusal."""

    sealed: int
    """Datagrams sealed."""
    opened: int
    """Datagrams opened."""
    malformed: int
    """Too short, or of a type that is not known."""
    too_long: int
    """Longer than any datagram of membership may be."""
    foreign_cluster: int
    """Of another cluster."""
    own: int
    """Sent by this node itself."""
    unknown_key: int
    """Sealed with a key that this node does not have."""
    forged: int
    """Tag and content do not fit."""
    replayed: int
    """Seen before, or too old to tell."""


REFUSALS = ("malformed", "too_long", "foreign_cluster", "own", "unknown_key", "forged", "replayed")
"""The counters of datagrams that did not open."""


@attrs.define(eq=False)
class _Sender:
    """What is known of one salt: the derived key that it last used, and which counters were seen.

    There is one for every member. The key is kept as bytes, since a cipher made of it takes 2.5 KB and 1.5 us.
    """

    key_id: int = -1
    derived: bytes = b""
    highest: int = -1
    seen: int = 0

    def is_replay(self, counter: int) -> bool:
        behind = self.highest - counter
        return behind >= 0 and (behind >= _WINDOW or bool(self.seen >> behind & 1))

    def accept(self, counter: int) -> None:
        ahead = counter - self.highest
        if ahead > 0:
            self.seen = (self.seen << min(ahead, _WINDOW) | 1) & _WINDOW_MASK
            self.highest = counter
        else:
            self.seen |= 1 << -ahead


class Sealer:
    """Seals this node's membership datagrams and opens those of others.

    Args:
        cluster: the name of the cluster; datagrams of any other do not open.
        keys: the keys to begin with; the first one seals.
        salt: 8 bytes, random for every start of a node.
        max_senders: how many other senders are remembered with their replay windows; the least recent is forgotten.
            Should not be below the size of the cluster: a forgotten sender's old datagrams open once more.

    Raises:
        SecurityError: if the keys make no ring.
    """

    def __init__(self, cluster: str, keys: Sequence[GossipKey], salt: bytes, *, max_senders: int = 16384) -> None:
        if len(salt) != SALT_BYTES:
            raise ValueError(f"a salt has {SALT_BYTES} bytes, not {len(salt)}")
        self._cluster = hashlib.blake2b(cluster.encode(), digest_size=4, person=b"rpcnet cluster").digest()
        self._salt = salt
        self._ring = KeyRing(tuple(keys))
        self._sealing = AESGCM(self._derive(self._ring.in_use, salt))
        self._counter = 0
        self._max_senders = max_senders
        self._senders: OrderedDict[bytes, _Sender] = OrderedDict()
        self._opened = self._malformed = self._too_long = self._foreign = self._own = 0
        self._unknown_key = self._forged = self._replayed = 0

    @property
    def ring(self) -> KeyRing:
        """The keys as they are now."""
        return self._ring

    def adopt(self, ring: KeyRing) -> bool:
        """Seal and open with another ring from now on; return whether it differs."""
        before, self._ring = self._ring, ring
        if ring.in_use != before.in_use:
            self._sealing = AESGCM(self._derive(ring.in_use, self._salt))
        gone = [key.key_id for key in before.keys if key != ring.get(key.key_id)]
        for sender in self._senders.values() if gone else ():
            if sender.key_id in gone:
                sender.key_id, sender.derived = -1, b""
        return ring != before

    def seal(self, payload: bytes) -> bytes:
        """Return a datagram that carries ``payload``.

        Raises:
            ValueError: if the payload is larger than ``MAX_PAYLOAD_BYTES``.
        """
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise ValueError(f"a sealed datagram carries at most {MAX_PAYLOAD_BYTES} bytes, not {len(payload)}")
        self._counter = counter = self._counter + 1
        header = _HEADER.pack(
            _TYPE_SEALED, self._ring.in_use.key_id, self._cluster, self._salt, counter >> 32, counter & 0xFFFFFFFF
        )
        return header + self._sealing.encrypt(_NONCE_PREFIX + header[-_COUNTER_BYTES:], payload, header)

    def open(self, datagram: bytes) -> bytes | None:
        """Return the payload of a datagram; None, and one counter more, for whatever does not open. Never raises."""
        size = len(datagram)
        if size < _HEADER_BYTES + _TAG_BYTES or datagram[0] != _TYPE_SEALED:
            self._malformed += 1
            return None
        if size > SAFE_DATAGRAM_BYTES:
            self._too_long += 1
            return None
        _, key_id, cluster, salt, high, low = _HEADER.unpack_from(datagram)
        if cluster != self._cluster:
            self._foreign += 1
            return None
        if salt == self._salt:
            self._own += 1
            return None
        key = self._ring.get(key_id)
        if key is None:
            self._unknown_key += 1
            return None
        return self._open(datagram, key, salt, high << 32 | low)

    def statistics(self) -> SealingStatistics:
        """Return the counters."""
        return SealingStatistics(
            sealed=self._counter,
            opened=self._opened,
            malformed=self._malformed,
            too_long=self._too_long,
            foreign_cluster=self._foreign,
            own=self._own,
            unknown_key=self._unknown_key,
            forged=self._forged,
            replayed=self._replayed,
        )

    def _open(self, datagram: bytes, key: GossipKey, salt: bytes, counter: int) -> bytes | None:
        known = self._senders.get(salt)
        sender = known or _Sender()
        if sender.is_replay(counter):
            self._replayed += 1
            return None
        derived = sender.derived if sender.key_id == key.key_id else self._derive(key, salt)
        header = datagram[:_HEADER_BYTES]
        try:
            payload = AESGCM(derived).decrypt(
                _NONCE_PREFIX + header[-_COUNTER_BYTES:], datagram[_HEADER_BYTES:], header
            )
        except InvalidTag:
            self._forged += 1
            return None
        sender.accept(counter)
        sender.key_id, sender.derived = key.key_id, derived
        if known is None:
            self._remember(salt, sender)
        else:
            self._senders.move_to_end(salt)
        self._opened += 1
        return payload

    def _remember(self, salt: bytes, sender: _Sender) -> None:
        self._senders[salt] = sender
        if len(self._senders) > self._max_senders:
            self._senders.popitem(last=False)

    def _derive(self, key: GossipKey, salt: bytes) -> bytes:
        info = b"rpcnet membership datagram v1 " + self._cluster
        hkdf = HKDF(algorithm=hashes.SHA256(), length=_KEY_BYTES, salt=salt, info=info)
        return hkdf.derive(key.secret)
