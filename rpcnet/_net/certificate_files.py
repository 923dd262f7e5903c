"""Identity out of files: an organisation's own authority, a node's certificate and key, the keys of gossip.

The rules of this file:

* Everything wrong with a file is said when it is first read, with the file's name and the rule.
* Whoever dials or accepts has the files looked at first, at most once a second: what changed is read again. A file that
  cannot be used then, half-written for instance, leaves what was read before in force and is reported once.
* The authorities, the certificate with its key, and the keys of gossip are replaced each on its own. Who is not trusted
  any more is refused from then on, even if this node's own certificate is not from a trusted authority either.
* A new certificate must stand for the same node of the same cluster.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from rpcnet._core.keyring import KEY_BYTES, MAX_KEYS, GossipKey
from rpcnet.errors import SecurityError

from .certificates import (
    Credentials,
    NodeIdentity,
    PrivateKey,
    TrustedAuthorities,
    check_validity,
    identity_in,
    is_authority,
    key_flaw,
)
from .secrets_file import MAX_FILE_BYTES, read_private

__all__ = ["CertificateFiles", "path_of"]

_LOOK_INTERVAL = 1.0
_MAX_CHAIN_BYTES = 12 << 10
"""What the first flight of a handshake has room for, beside the rest of it."""
_NEVER = float("inf")

log = logging.getLogger("rpcnet.security")

T = TypeVar("T")
Stamp = tuple[tuple[int, int, int] | None, ...]


@attrs.define(eq=False)
class _Watched(Generic[T]):
    """What was read from some files, and how they looked just before."""

    paths: tuple[Path, ...]
    read: Callable[[], T]
    stamp: Stamp
    value: T

    @classmethod
    def of(cls, paths: tuple[Path, ...], read: Callable[[], T]) -> _Watched[T]:
        return cls(paths, read, _stamp(paths), read())

    def look(self) -> bool:
        """Read the files again if they changed; say whether the value is a new one."""
        stamp = _stamp(self.paths)
        if stamp == self.stamp:
            return False
        self.stamp = stamp  # so that what cannot be used is read, and reported, once
        try:
            self.value = self.read()
        except SecurityError as error:
            log.warning("%s; what was read before stays in force", error)
            return False
        return True


def _stamp(paths: tuple[Path, ...]) -> Stamp:
    return tuple(map(_stamp_one, paths))


def _stamp_one(path: Path) -> tuple[int, int, int] | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_mtime_ns, about.st_size, about.st_ino


class CertificateFiles:
    """Whom to trust, who this node is and the keys of gossip, out of PEM and key files that may change.

    Args:
        ca: the authorities.
        cert: this node's certificate, and what lies between it and an authority.
        key: its private key.
        gossip_keys: the keys of membership datagrams; None if this process is in no cluster.
        now: seconds since 1970; the certificate must be valid then.

    Raises:
        SecurityError: if a file cannot be used; the message names it and the rule.
    """

    def __init__(self, ca: Path, cert: Path, key: Path, gossip_keys: Path | None, *, now: float) -> None:
        self._cert_path, self._key_path = cert, key
        self._now = now
        self._identity: NodeIdentity | None = None
        self._trusted = _Watched.of((ca,), lambda: _read_authorities(ca))
        self._credentials = _Watched.of((cert, key), self._read_credentials)
        self._gossip = None if gossip_keys is None else _Watched.of((gossip_keys,), lambda: _read_keys(gossip_keys))
        self._looked_at = -_NEVER
        self.generation = 0
        """How often something was replaced."""
        self.identity = self._identity = identity_in(self.credentials.certificate, self._what)
        """Whom the certificate stands for; never changes."""
        self._check_issuer()

    @property
    def _what(self) -> str:
        return f"certificate file {self._cert_path}: the certificate"

    @property
    def trusted(self) -> TrustedAuthorities:
        """The authorities whose word is taken."""
        return self._trusted.value

    @property
    def credentials(self) -> Credentials:
        """What this node shows."""
        return self._credentials.value

    @property
    def gossip_keys(self) -> tuple[GossipKey, ...]:
        """The keys of membership datagrams, the one that seals first; empty if there is no such file."""
        return () if self._gossip is None else self._gossip.value

    def refresh(self, now: float, wall_now: float) -> int:
        """Read again what changed, if nobody looked for a second; return the generation.

        Args:
            now: the time of any clock, in seconds.
            wall_now: seconds since 1970.
        """
        if 0.0 <= now - self._looked_at < _LOOK_INTERVAL:
            return self.generation
        self._looked_at, self._now = now, wall_now
        replaced = self._trusted.look() + self._credentials.look()
        if replaced:
            try:
                self._check_issuer()
            except SecurityError as error:
                log.warning("%s; nodes with the same file of authorities will refuse this one", error)
        self.generation += replaced + (self._gossip is not None and self._gossip.look())
        return self.generation

    def _check_issuer(self) -> None:
        self.trusted.verify(self.credentials.certificate, self.credentials.chain, self._now, self._what)

    def _read_credentials(self) -> Credentials:
        cert, key = self._cert_path, self._key_path
        certificate, *chain = _read_certificates(cert, "certificate file")
        size = sum(len(one.public_bytes(Encoding.DER)) for one in (certificate, *chain))
        if size > _MAX_CHAIN_BYTES:
            raise SecurityError(f"certificate file {cert}: {size} bytes; a chain may have {_MAX_CHAIN_BYTES}")
        check_validity(certificate, self._now, self._what)
        private_key = _read_key(key)
        if private_key.public_key() != certificate.public_key():
            raise SecurityError(f"key file {key}: does not match the first certificate in {cert}")
        if self._identity is not None and (found := identity_in(certificate, self._what)) != self._identity:
            was = self._identity.uri
            raise SecurityError(f"certificate file {cert}: stands for {found.uri} now, not for {was}; start anew")
        return Credentials(certificate, private_key, _NEVER, tuple(chain))


def _read_authorities(path: Path) -> TrustedAuthorities:
    certificates = _read_certificates(path, "authorities' file")
    for certificate in certificates:
        if not is_authority(certificate):
            raise SecurityError(f"authorities' file {path}: has a certificate that is not that of an authority")
    return TrustedAuthorities(certificates)


def _read_certificates(path: Path, what: str) -> list[x509.Certificate]:
    try:
        with path.open("rb") as file:
            return x509.load_pem_x509_certificates(file.read(MAX_FILE_BYTES))
    except OSError as error:
        raise SecurityError(f"{what} {path}: {error.strerror or error}") from error
    except ValueError:
        raise SecurityError(f"{what} {path}: must hold certificates as PEM") from None


def _read_key(path: Path) -> PrivateKey:
    what = f"key file {path}"
    try:
        key = load_pem_private_key(read_private(path, what, group_may_read=True), password=None)
    except OSError as error:
        raise SecurityError(f"{what}: {error.strerror or error}") from error
    except TypeError:
        raise SecurityError(f"{what}: must not be encrypted") from None
    except (ValueError, UnsupportedAlgorithm):
        raise SecurityError(f"{what}: must hold a private key as PEM") from None
    flaw = key_flaw(key)
    if flaw is not None:
        raise SecurityError(f"{what}: has {flaw}")
    return key  # type: ignore[return-value]  # key_flaw has looked at its type


def _read_keys(path: Path) -> tuple[GossipKey, ...]:
    what = f"gossip keys' file {path}"
    try:
        lines = read_private(path, what).splitlines()
    except OSError as error:
        raise SecurityError(f"{what}: {error.strerror or error}") from error
    keys: dict[int, GossipKey] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text and not text.startswith(b"#"):
            key = _gossip_key(text, f"{what}, line {number}")
            if key.key_id in keys:
                raise SecurityError(f"{what}, line {number}: clashes with a key above; make another")
            keys[key.key_id] = key
    if not 1 <= len(keys) <= MAX_KEYS:
        raise SecurityError(f"{what}: has {len(keys)} keys; it must have 1 to {MAX_KEYS}, one on each line")
    return tuple(keys.values())


def _gossip_key(text: bytes, where: str) -> GossipKey:
    try:
        secret = base64.b64decode(text, validate=True)
    except binascii.Error:
        secret = b""
    try:
        return GossipKey.of(secret)
    except SecurityError:
        raise SecurityError(
            f"{where}: must be {KEY_BYTES} random bytes as base64, as `openssl rand -base64 32` prints"
        ) from None


def path_of(value: object, field: str) -> Path:
    """Return a setting as a path.

    Raises:
        SecurityError: if it is none.
    """
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise SecurityError(f"{field} = {value!r}: must be the path of a file")
    return Path(value)
