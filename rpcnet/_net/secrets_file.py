"""Secrets: how strong one must be, and the file that keeps the one of this user.

The rules of this file:

* A secret needs 128 bits. They are estimated from what can be seen: length times the size of the alphabet in use, a
  repeated pattern counting once, and at least eight different characters.
* The user's file appears whole or not at all: it is written beside its place and linked into it, and whoever comes
  second takes what the first one made.
* A file that others may read, that belongs to somebody else or that is no plain file is refused, never mended.
* The user's own file is no link. Files that an administrator names may be links, as certificate managers make them, and
  may belong to root.
"""

from __future__ import annotations

import math
import os
import secrets
import stat
import string
from pathlib import Path

from rpcnet.errors import SecurityError

__all__ = ["MAX_FILE_BYTES", "check_strength", "read_or_create_secret", "read_private", "secret_path"]

MAX_FILE_BYTES = 1 << 20
"""No file of keys or certificates is read beyond this."""

_NEEDED_BITS = 128
_NEEDED_KINDS = 8
_ROOT = 0
_ADVICE = 'use what `python -c "import secrets; print(secrets.token_urlsafe(32))"` prints'
_DIGITS, _HEXADECIMAL = frozenset(string.digits), frozenset(string.hexdigits)
_LOWER, _UPPER = frozenset(string.ascii_lowercase), frozenset(string.ascii_uppercase)
_BASE64 = _DIGITS | _LOWER | _UPPER | frozenset("+/-_=")
_OTHER_CHARACTERS = 33


def check_strength(secret: str | bytes, what: str) -> bytes:
    """Return a secret as bytes.

    Args:
        secret: text, or bytes.
        what: how errors call it; they never show it.

    Raises:
        SecurityError: if its entropy is estimated below 16 bytes.
    """
    if not isinstance(secret, (str, bytes)):
        raise SecurityError(f"{what} must be str or bytes, not {type(secret).__name__}")
    material = secret.encode() if isinstance(secret, str) else bytes(secret)
    once = _without_repetition(material)
    if len(set(once)) < _NEEDED_KINDS or _bits(once) < _NEEDED_BITS:
        raise SecurityError(f"{what} is too weak: it must have at least 16 bytes of entropy; {_ADVICE}")
    return material


def _without_repetition(material: bytes) -> bytes:
    periods = range(1, len(material) // 2 + 1)
    return material[: next((period for period in periods if material.startswith(material[period:])), len(material))]


def _bits(material: bytes) -> float:
    try:
        text = material.decode()
    except UnicodeDecodeError:
        return 8.0 * len(material)
    return math.log2(_alphabet_size(set(text))) * len(text) if text.isprintable() else 8.0 * len(material)


def _alphabet_size(used: set[str]) -> int:
    if used <= _DIGITS:
        return 10
    if used <= _HEXADECIMAL:
        return 16
    both_cases = bool(used & _LOWER) and bool(used & _UPPER)
    if used <= _BASE64 and both_cases:
        return 64
    size = sum(len(alphabet) for alphabet in (_DIGITS, _LOWER, _UPPER) if used & alphabet)
    return size + (0 if used <= _DIGITS | _LOWER | _UPPER else _OTHER_CHARACTERS)


def secret_path() -> Path:
    """Return where this user's secret is kept."""
    base = os.environ.get("XDG_DATA_HOME", "")
    directory = Path(base) if base.startswith("/") else Path.home() / ".local" / "share"
    return directory / "rpcnet" / "secret"


def read_or_create_secret(path: Path | None = None) -> bytes:
    """Return this user's secret, creating it if there is none.

    Raises:
        SecurityError: if it cannot be read or created, or if others can read it; the message names the file.
    """
    place = secret_path() if path is None else path
    try:
        if not os.path.lexists(place):
            _create(place)
        return check_strength(_read(place), f"the secret in {place}")
    except OSError as error:
        raise SecurityError(f"secret file {place}: {error.strerror or error}") from error


def _create(place: Path) -> None:
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = place.with_name(f"{place.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, place)
        except FileExistsError:
            return  # another process was first; its secret is the one
    finally:
        draft.unlink()


def _read(place: Path) -> bytes:
    descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    forbidden = stat.S_IRWXG | stat.S_IRWXO
    return _read_checked(descriptor, f"secret file {place}", place, {os.geteuid()}, forbidden).strip()


def read_private(place: Path, what: str, *, group_may_read: bool = False) -> bytes:
    """Return the content of a file that holds a secret of an administrator.

    Args:
        place: the file, or a link to it.
        what: how errors call it.
        group_may_read: whether the file's group may read it.

    Raises:
        SecurityError: if it is no plain file, belongs to neither this user nor root, or others may read or change it;
            the message names the file and the rule, and shows nothing of the content.
        OSError: if it cannot be read.
    """
    forbidden = stat.S_IRWXO | (stat.S_IWGRP | stat.S_IXGRP if group_may_read else stat.S_IRWXG)
    descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return _read_checked(descriptor, what, place, {os.geteuid(), _ROOT}, forbidden)


def _read_checked(descriptor: int, what: str, place: Path, owners: set[int], forbidden: int) -> bytes:
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise SecurityError(f"{what}: must be a plain file")
        if about.st_uid not in owners:
            raise SecurityError(f"{what}: must belong to the user who runs this process")
        if about.st_mode & forbidden:
            mode = "600" if forbidden & stat.S_IRGRP else "640"
            raise SecurityError(f"{what}: must not be accessible to others; run `chmod {mode} {place}`")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_FILE_BYTES)
    finally:
        os.close(descriptor)
