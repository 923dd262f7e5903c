"""Reading CBOR that a stranger wrote.

The rules of this file:

* A declared length never takes memory that the bytes do not fill, and depth is limited while reading.
* No tag is accepted but those of integers beyond 64 bits, up to ``MAX_INTEGER_BYTES``; nor are items of indefinite
  length, or a map with a key twice.
* Map keys other than text and bytes are accepted only where they are asked for, because hashes of numbers can be chosen
  to collide.
* Bytes behind the item are not looked at: the frame around the body says where it ends.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import cbor2

__all__ = ["CBOR_ERRORS", "MAX_INTEGER_BYTES", "reader", "reason"]

MAX_INTEGER_BYTES = 1024
"""The largest integer, in bytes: 2,466 decimal digits, below the 4,300 that Python converts to text."""

CBOR_ERRORS = (cbor2.CBORError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError)
"""What reading and writing raise for what cannot be read or written."""

_KNOWN_TAGS = (0, 1, 4, 5, 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000, 55799)
"""The tags that cbor2 decodes by itself, apart from the two for integers."""


def _refuse_tag(*_: object) -> NoReturn:
    raise ValueError("tags are not used here")


def _positive(payload: object, _: bool) -> int:  # noqa: FBT001 - cbor2's signature
    if not isinstance(payload, bytes):
        raise TypeError("an integer must be bytes")
    if len(payload) > MAX_INTEGER_BYTES:
        raise ValueError(f"an integer of {len(payload)} bytes, at most {MAX_INTEGER_BYTES} are allowed")
    return int.from_bytes(payload)


def _negative(payload: object, immutable: bool) -> int:  # noqa: FBT001 - cbor2's signature
    return -1 - _positive(payload, immutable)


_DECODERS: Mapping[int, Any] = {**dict.fromkeys(_KNOWN_TAGS, _refuse_tag), 2: _positive, 3: _negative}


def reader(*, max_depth: int, other_keys: bool) -> Callable[[bytes], Any]:
    """Return a function that reads one item, or raises one of ``CBOR_ERRORS``.

    Args:
        max_depth: how deep lists and maps may nest.
        other_keys: whether maps may have keys other than text and bytes.
    """
    return functools.partial(
        cbor2.loads,
        max_depth=max_depth,
        allow_indefinite=False,
        allow_duplicate_keys=False,
        strict_hashable_types=not other_keys,
        semantic_decoders=_DECODERS,
        tag_hook=_refuse_tag,
    )


def reason(error: BaseException) -> str:
    """Return what an error of ``CBOR_ERRORS`` says, and what its cause says."""
    return f"{error}: {error.__cause__}" if error.__cause__ is not None else str(error)
