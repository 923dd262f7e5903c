"""The hashes by which two nodes find out cheaply whether, and where, their tables of members differ.

The rules of this file:

* A table falls into 64 buckets. A record's bucket depends on its id alone, its hash on its id and on what orders
  records: boot id, incarnation, state, meta version. What content a meta version has is its owner's promise and is
  not hashed; neither are vitals (stall class, coordinates, epoch), which change without being news. The address is:
  two nodes of one name that started in the same millisecond differ in nothing else, and find out by this.
* A bucket's hash is the exclusive or of its records' hashes, so a change costs two hashes whatever the table's size,
  and the order of changes does not matter. Equal tables have equal hashes. Different ones have equal hashes by
  accident once in 2**64; a member that wants to hide a difference can do so, but could as well keep silent.
* The bucket is taken from the end of the id, which is random also where ids start with a time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b

from .members import MemberRecord, rank

__all__ = ["ALL_BUCKETS", "HASHES_BYTES", "N_BUCKETS", "BucketHashes", "bucket_of", "is_in"]

N_BUCKETS = 64
"""At a thousand members some 16 records share a bucket, so one difference costs about 1.5 KB to find and repair."""

ALL_BUCKETS = 2**N_BUCKETS - 1
"""The mask of all buckets; bit ``i`` stands for bucket ``i``."""

_TABLE = struct.Struct(f"!{N_BUCKETS}Q")
_RECORD = struct.Struct("!16sQIBI")
_HASHES_KEPT = 16384  # what was put in is taken out again, and nodes of one process share most of it

HASHES_BYTES = _TABLE.size
"""The size of encoded hashes."""


def bucket_of(node_id: str) -> int:
    """Return the bucket of a node, 0 to 63."""
    return int(node_id[-2:], 16) % N_BUCKETS


def is_in(node_id: str, mask: int) -> bool:
    """Tell whether a node's bucket is one of ``mask``."""
    return bool(mask >> bucket_of(node_id) & 1)


@lru_cache(maxsize=_HASHES_KEPT)
def _hash(node_id: str, address: str, order: tuple[int, int, int, int]) -> int:
    data = _RECORD.pack(bytes.fromhex(node_id), *order) + address.encode()
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


def _is_same(old: MemberRecord, new: MemberRecord) -> bool:
    return (
        old.incarnation == new.incarnation
        and old.state is new.state
        and old.meta_version == new.meta_version
        and old.boot_id == new.boot_id
        and old.address == new.address
    )


class BucketHashes:
    """The hashes of a table's buckets, kept up to date with every change of the table.

    Args:
        hashes: one for each bucket; those of an empty table if left out.
    """

    __slots__ = ("_hashes",)

    def __init__(self, hashes: Sequence[int] = (0,) * N_BUCKETS) -> None:
        self._hashes = list(hashes)

    @classmethod
    def of(cls, records: Iterable[MemberRecord]) -> BucketHashes:
        """Return the hashes of a table with one record per node."""
        table = cls()
        for record in records:
            table.update(None, record)
        return table

    @classmethod
    def decode(cls, data: bytes) -> BucketHashes:
        """Return the hashes that :meth:`encode` made ``HASHES_BYTES`` of."""
        return cls(_TABLE.unpack(data))

    def encode(self) -> bytes:
        """Return the hashes as ``HASHES_BYTES``."""
        return _TABLE.pack(*self._hashes)

    def __eq__(self, other: object) -> bool:
        return self._hashes == other._hashes if isinstance(other, BucketHashes) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<BucketHashes of {sum(map(bool, self._hashes))} buckets in use>"

    def update(self, old: MemberRecord | None, new: MemberRecord | None) -> None:
        """Take in that a node's record changed; ``old`` is None for a new node, ``new`` for a forgotten one."""
        if old is not None and new is not None and _is_same(old, new):
            return
        for record in (old, new):
            if record is not None:
                order = (record.boot_id, record.incarnation, rank(record.state), record.meta_version)
                self._hashes[bucket_of(record.id)] ^= _hash(record.id, record.address, order)

    def differing(self, other: BucketHashes) -> int:
        """Return the mask of the buckets whose hashes differ; 0 when the tables are the same."""
        pairs = zip(self._hashes, other._hashes, strict=True)
        return sum(1 << bucket for bucket, (ours, theirs) in enumerate(pairs) if ours != theirs)
