"""The snapshot file: what a node remembers of its cluster and of itself, to come back without seeds.

The rules of this file:

* A file is one CBOR map: what it is with its version, a checksum, and the content, which is a CBOR map again. What a
  newer version adds to the content is ignored by an older one.
* No file is an error. A node starts without one that is missing, damaged, another node's, or cannot be read; it says so
  in one line and goes on. The same holds for one that cannot be written.
* A file that is not plainly this node's own is not written over, whether it belongs to another node, is something else,
  or could not be read: nobody loses a file by a wrong setting. A damaged one of this node is replaced.
* A boot id is above the last one that was written, so that a clock that goes back brings no incarnation back.
"""

from __future__ import annotations

import hashlib
import logging
import re
from typing import Any, NoReturn

import attrs
import cbor2
import trio

from rpcnet._core.cbor import CBOR_ERRORS, reader, reason
from rpcnet._core.members import MAX_BOOT_ID, MAX_INCARNATION, MAX_NAME_CHARS, is_address

from .ports import Environment

__all__ = ["MAX_PEERS", "KnownPeer", "Snapshot", "SnapshotFile", "decode_snapshot", "encode_snapshot", "next_boot_id"]

log = logging.getLogger("rpcnet.membership")

MAX_PEERS = 256
"""How many peers a file names; one that lives is enough to come back."""

_VERSION = 1
_WHAT = "rpcnet snapshot"
_HEAD = b"\xa3" + cbor2.dumps(_WHAT)
_CHECKSUM_BYTES = 16
_READ_TIMEOUT = 10.0
_ID_RULE = re.compile(r"[0-9a-f]{32}")
_read = reader(max_depth=8, other_keys=False)


@attrs.frozen
class KnownPeer:
    """Another node, as it was when it was last heard of."""

    id: str
    """32 hexadecimal digits."""
    name: str
    """Its name."""
    address: str
    """``"host:port"`` that it advertised."""


@attrs.frozen
class Snapshot:
    """What a node remembers."""

    boot_id: int
    """The highest boot id that it has had."""
    incarnation: int
    """The highest incarnation that it has had in that boot."""
    peers: tuple[KnownPeer, ...] = ()
    """Whom it knew, the most useful ones first; ``MAX_PEERS`` at most."""


class _DamagedError(ValueError):
    """The file is none that this node can use; says why."""


class _ForeignError(_DamagedError):
    """The file is not this node's."""


def next_boot_id(last: Snapshot | None, wall_clock: float) -> int:
    """Return the boot id of a new start: milliseconds since 1970, and above all former ones.

    Args:
        last: what the node remembers; None if nothing.
        wall_clock: seconds since 1970.
    """
    now = max(0, int(wall_clock * 1000))
    return now if last is None else max(last.boot_id + 1, now)


def encode_snapshot(snapshot: Snapshot, cluster: str, name: str) -> bytes:
    """Return the content of a node's file.

    Args:
        snapshot: what to remember; peers beyond ``MAX_PEERS`` are left out.
        cluster: the cluster's name.
        name: the node's name.
    """
    content = cbor2.dumps(
        {
            "cluster": cluster,
            "name": name,
            "boot_id": snapshot.boot_id,
            "incarnation": snapshot.incarnation,
            "peers": [[peer.id, peer.name, peer.address] for peer in snapshot.peers[:MAX_PEERS]],
        }
    )
    return cbor2.dumps({_WHAT: _VERSION, "checksum": _checksum(content), "content": content})


def decode_snapshot(data: bytes, cluster: str, name: str) -> Snapshot:
    """Return what a node's file says.

    Raises:
        ValueError: the file is damaged, of another version, or another node's; the message says which.
    """
    if data and not data.startswith(_HEAD[: len(data)]):
        raise _ForeignError("is no snapshot of a node")
    file = _map(data)
    if file.get(_WHAT) != _VERSION:
        raise _ForeignError(f"has version {file.get(_WHAT)!r}, and only version {_VERSION} is known")
    content = file.get("content")
    if not isinstance(content, bytes) or file.get("checksum") != _checksum(content):
        raise _DamagedError("is damaged: the checksum is wrong")
    told = _map(content)
    if (told.get("cluster"), told.get("name")) != (cluster, name):
        raise _ForeignError(f"is of node {told.get('name')!r} of cluster {told.get('cluster')!r}")
    return Snapshot(
        boot_id=_number(told, "boot_id", MAX_BOOT_ID - 1),
        incarnation=_number(told, "incarnation", MAX_INCARNATION),
        peers=_peers(told.get("peers")),
    )


class SnapshotFile:
    """The file of one node; nothing in here raises for what is wrong with it.

    Args:
        path: where it is.
        environment: what reads and writes it.
        cluster: the name of the node's cluster.
        name: the node's name.
    """

    def __init__(self, path: str, environment: Environment, cluster: str, name: str) -> None:
        self._path = path
        self._environment = environment
        self._cluster = cluster
        self._name = name
        self._is_ours = True
        self._is_failing = False
        self.last: Snapshot | None = None
        """What is in the file, as far as this object has read or written it."""

    async def load(self) -> Snapshot | None:
        """Read the file; None, and one line in the log, if there is nothing in it for this node. A checkpoint."""
        try:
            with trio.fail_after(_READ_TIMEOUT):
                data = await self._environment.read_file(self._path)
        except trio.TooSlowError:
            self._leave_alone(f"could not be read within {_READ_TIMEOUT:g} s")
            return None
        except OSError as error:
            self._leave_alone(f"cannot be read: {error.strerror or error}")
            return None
        if data is None:
            log.info("snapshot file %s: there is none yet", self._path)
            return None
        try:
            self.last = decode_snapshot(data, self._cluster, self._name)
        except _ForeignError as error:
            self._leave_alone(str(error))
        except ValueError as error:
            log.warning("snapshot file %s %s; %s starts without it", self._path, error, self._name)
        return self.last

    async def save(self, snapshot: Snapshot) -> bool:
        """Write the file if that changes it; one line in the log for the first failure of a row. A checkpoint if so.

        Cancelling leaves the old file or the new one. One task at a time. Return whether there is nothing left to do;
        if not, it may work another time.
        """
        if not self._is_ours or snapshot == self.last:
            return True
        try:
            await self._environment.write_file(self._path, encode_snapshot(snapshot, self._cluster, self._name))
        except OSError as error:
            if not self._is_failing:
                log.warning("snapshot file %s cannot be written: %s", self._path, error.strerror or error)
            self._is_failing = True
            return False
        self.last, self._is_failing = snapshot, False
        return True

    def _leave_alone(self, why: str) -> None:
        self._is_ours = False
        log.warning("snapshot file %s %s; it is left as it is, and %s remembers nothing", self._path, why, self._name)


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_CHECKSUM_BYTES, person=b"rpcnet snapshot").digest()


def _map(data: bytes) -> dict[str, Any]:
    try:
        found = _read(data)
    except CBOR_ERRORS as error:
        raise _DamagedError(f"is damaged: {reason(error)}") from None
    return found if isinstance(found, dict) else _refuse("there is no map")


def _number(told: dict[str, Any], key: str, most: int) -> int:
    value = told.get(key)
    return value if type(value) is int and 0 <= value <= most else _refuse(f"{key} is out of range")


def _peers(listed: object) -> tuple[KnownPeer, ...]:
    if not isinstance(listed, list) or len(listed) > MAX_PEERS:
        _refuse(f"there is no list of {MAX_PEERS} peers at most")
    return tuple(_peer(each) for each in listed)


def _peer(told: object) -> KnownPeer:
    match told:
        case [str() as node_id, str() as name, str() as address, *_] if (
            _ID_RULE.fullmatch(node_id) and 1 <= len(name) <= MAX_NAME_CHARS and is_address(address)
        ):
            return KnownPeer(node_id, name, address)
        case _:
            return _refuse("a peer is none")


def _refuse(what: str) -> NoReturn:
    raise _DamagedError(f"is damaged: {what}")
