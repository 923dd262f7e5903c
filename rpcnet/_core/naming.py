"""Node ids: derived from names, so that a node keeps its id when it starts again."""

from __future__ import annotations

import hashlib

__all__ = ["node_id_of"]


def node_id_of(cluster: str, name: str) -> str:
    """Return the id of the node with this name: 32 hexadecimal digits, the same in every process."""
    return hashlib.blake2b(f"{cluster}/{name}".encode(), digest_size=16).hexdigest()
