"""Identity: who may join a cluster, and how a node proves that it is the one it says.

The rules of this file:

* There is no mode without encryption. A :class:`Security` gives the gossip keys, and certificates to show and to check.
* One secret makes a cluster: HKDF-SHA256 derives from it the first gossip key and the key of the cluster's certificate
  authority. The authority's certificate has fixed dates and a fixed number, so every process makes the same one; a
  node makes its own key and a certificate for it, in memory.
* An organisation's own files make a cluster just as well: its authority decides, the certificate says which cluster.
* Secrets appear in no repr, no error and no log, and are not pickled.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NoReturn
from urllib.parse import quote

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rpcnet.errors import ConfigError, SecurityError

from .addresses import is_loopback, parse_address
from .certificate_files import CertificateFiles, path_of
from .certificates import MAX_NAME, Credentials, NodeIdentity, check_validity, identity_in, key_usage, utc
from .sealing import GossipKey
from .secrets_file import check_strength, read_or_create_secret

__all__ = ["Credentials", "Security"]

_VALID_SECONDS = 7 * 86400.0
_SKEW_SECONDS = 3600.0
_RENEW_AFTER_SECONDS = 5 * 86400.0
_CA_FROM = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
_CA_UNTIL = dt.datetime(2049, 12, 31, tzinfo=dt.UTC)
_CA_SERIAL = 1
_SERIAL_BYTES = 16
_CLUSTER_RULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PEER = "the peer's certificate"


class Security(ABC):
    """Decides who may join a cluster; shared freely between nodes.

    Made by :meth:`default`, :meth:`shared_secret` or :meth:`files`.
    """

    __slots__ = ("_cluster",)

    def __init__(self, cluster: str) -> None:
        if not _CLUSTER_RULE.fullmatch(cluster):
            raise ConfigError(f"cluster = {cluster!r}: must be 1 to 64 letters, digits, dots, dashes or underscores")
        self._cluster = cluster

    @staticmethod
    def default() -> Security:
        """Return what one machine needs for trying things: ``RPCNET_SECRET``, or a secret of this user.

        The user's secret is a file in the data directory (``$XDG_DATA_HOME/rpcnet/secret``, else
        ``~/.local/share/rpcnet/secret``), created with mode 0600 when it is missing. With it a node binds loopback
        only.

        Raises:
            SecurityError: if the secret is too weak, or the file may be read by others; the message names the rule.
        """
        from_environment = os.environ.get("RPCNET_SECRET")
        if from_environment:
            return _SharedSecret(check_strength(from_environment, "RPCNET_SECRET"), "rpcnet", loopback_only=False)
        return _SharedSecret(read_or_create_secret(), "rpcnet", loopback_only=True)

    @staticmethod
    def shared_secret(secret: str | bytes, *, cluster: str = "rpcnet") -> Security:
        """Return the security of a cluster whose nodes share one secret.

        Args:
            secret: at least 16 bytes of entropy, as ``python -c "import secrets; print(secrets.token_urlsafe(32))"``
                prints. It is estimated from length and kind of characters, a repeated pattern counting once: at least
                32 hexadecimal digits, 22 letters and digits of both cases, or 16 random bytes.
            cluster: its name; two clusters never merge, even with the same secret.

        Raises:
            SecurityError: if the secret is too weak.
            ConfigError: if the cluster's name has characters it may not have.
        """
        return _SharedSecret(check_strength(secret, "the shared secret"), cluster, loopback_only=False)

    @staticmethod
    def files(
        *,
        ca: str | os.PathLike[str],
        cert: str | os.PathLike[str],
        key: str | os.PathLike[str],
        gossip_keys: str | os.PathLike[str] | None = None,
    ) -> Security:
        """Return the security of an organisation's own authority, out of PEM files.

        The certificate's only URI of the form ``rpcnet://<cluster>/<node name>`` in its subject alternative names says
        which node of which cluster it is for. It must be for digital signatures, and for servers and clients both.
        Keys may be Ed25519, ECDSA with P-256 or P-384, or RSA from 2048 bits on.

        The files are looked at when a connection is opened, at most once a second. What changed holds for connections
        from then on; those that are open stay. A file that cannot be used then is reported in the log, and what was
        read before stays in force. A node looks at its gossip keys more often. When they have changed they become its
        key ring, as if they had been changed with ``node.keys``: the newest change wins, whichever way it came, and
        spreads to the other nodes. So every step of a rotation (add a line; put it first; remove the old one) must be
        made on all nodes before the next one. A node that is started takes its keys from the file, and then the ring of
        the node that it joins through, if that was ever changed.

        Args:
            ca: the certificates of the authorities that are trusted; roots or not.
            cert: this node's certificate, followed by those between it and an authority, if any.
            key: its private key, not encrypted; nobody but its owner and its group may read it.
            gossip_keys: the keys of membership datagrams, the same on every node of the cluster. Each line is one key,
                32 random bytes as base64 (``openssl rand -base64 32``); the first one seals, all of them open; empty
                lines and lines that start with ``#`` do not count. Nobody but its owner may read it. Only a process
                that is no node of a cluster does without.

        Raises:
            SecurityError: if a file cannot be read, the key does not match, the certificate has expired, has no such
                name or is not from one of the authorities; the message names the file and the rule.
        """
        paths = (path_of(ca, "ca"), path_of(cert, "cert"), path_of(key, "key"))
        keys = None if gossip_keys is None else path_of(gossip_keys, "gossip_keys")
        return _Files(CertificateFiles(*paths, keys, now=time.time()))

    @property
    def cluster(self) -> str:
        """The name of the cluster."""
        return self._cluster

    @property
    def name(self) -> str | None:
        """The only name that a node may have with it; None if it may have any."""
        return None

    @property
    def has_gossip_keys(self) -> bool:
        """Whether a node of a cluster can be run with it; without, only clients and servers on their own."""
        return True

    @property
    @abstractmethod
    def gossip_keys(self) -> tuple[GossipKey, ...]:
        """The keys of membership datagrams; the first one seals.

        Raises:
            SecurityError: if there are none.
        """

    def check_bind(self, address: str) -> None:  # noqa: B027 - most are meant for every address
        """Refuse an address that these secrets are not meant for.

        Raises:
            SecurityError: if the secret is the user's own and the address can be reached from other machines.
        """

    @abstractmethod
    def check_name(self, name: str) -> None:
        """Refuse a name that no certificate can be had for.

        Raises:
            ConfigError: if the name is empty or too long.
            SecurityError: if the certificate is another node's.
        """

    def refresh(self, now: float, wall_now: float) -> int:
        """Notice what changed outside; return a number that is another one whenever something did.

        Args:
            now: the time of the caller's clock; nothing is looked at twice in a second of it.
            wall_now: seconds since 1970.
        """
        return 0

    @abstractmethod
    def issue(self, name: str, now: float | None = None) -> Credentials:
        """Return a certificate for a node, with its key.

        Args:
            name: the node's name.
            now: seconds since 1970; by default this moment.

        Raises:
            ConfigError: if the name is empty or too long.
            SecurityError: if the certificate is another node's.
        """

    @abstractmethod
    def verify(
        self, certificate: x509.Certificate | None, chain: Sequence[x509.Certificate] = (), now: float | None = None
    ) -> str:
        """Return the name of the node that a peer's certificate stands for.

        That the peer holds the certificate's key is the handshake's part; everything else is checked here.

        Args:
            certificate: the peer's leaf; None if it sent none.
            chain: what it sent besides.
            now: seconds since 1970; by default this moment.

        Raises:
            SecurityError: if the certificate does not prove a name of this cluster; the message says why.
        """

    def _name_in(self, certificate: x509.Certificate) -> str:
        identity = identity_in(certificate, _PEER)
        if identity.cluster != self._cluster:
            raise SecurityError(f"the peer belongs to cluster {identity.cluster!r}, not to {self._cluster!r}")
        return identity.name

    def __reduce__(self) -> NoReturn:
        raise TypeError("rpcnet.Security holds secrets and cannot be pickled")


class _Files(Security):
    """The security of an organisation's own authority."""

    __slots__ = ("_files",)

    def __init__(self, files: CertificateFiles) -> None:
        super().__init__(files.identity.cluster)
        self._files = files

    @property
    def name(self) -> str:
        """The name in the certificate."""
        return self._files.identity.name

    @property
    def has_gossip_keys(self) -> bool:
        """Whether there is a file of them."""
        return bool(self._files.gossip_keys)

    @property
    def gossip_keys(self) -> tuple[GossipKey, ...]:
        """The keys in their file, as it was when it was last looked at."""
        keys = self._files.gossip_keys
        if not keys:
            raise SecurityError("a node of a cluster needs keys for gossip; pass gossip_keys= to Security.files")
        return keys

    def check_name(self, name: str) -> None:
        """Refuse every name but the certificate's."""
        if name != self.name:
            raise SecurityError(f"node name {name!r}: the certificate stands for node {self.name!r}")

    def refresh(self, now: float, wall_now: float) -> int:
        """Read the files again that changed."""
        return self._files.refresh(now, wall_now)

    def issue(self, name: str, now: float | None = None) -> Credentials:
        """Return the certificate and the key in their files."""
        self.check_name(name)
        return self._files.credentials

    def verify(
        self, certificate: x509.Certificate | None, chain: Sequence[x509.Certificate] = (), now: float | None = None
    ) -> str:
        """Return the name in a certificate that an authority of the file issued, directly or not."""
        if certificate is None:
            raise SecurityError("the peer sent no certificate")
        self._files.trusted.verify(certificate, chain, time.time() if now is None else now, _PEER)
        return self._name_in(certificate)

    def __repr__(self) -> str:
        return f"<rpcnet.Security of cluster {self._cluster!r} by files, for node {self.name!r}>"


class _SharedSecret(Security):
    """The security of those who know one secret."""

    __slots__ = ("_authority", "_ca", "_gossip_keys", "_loopback_only")

    def __init__(self, material: bytes, cluster: str, *, loopback_only: bool) -> None:
        super().__init__(cluster)
        self._loopback_only = loopback_only
        self._gossip_keys = (GossipKey.of(_derive(material, cluster, "gossip key", 32)),)
        self._ca = Ed25519PrivateKey.from_private_bytes(_derive(material, cluster, "certificate authority", 32))
        self._authority = _issue_authority(self._ca, cluster)

    @property
    def gossip_keys(self) -> tuple[GossipKey, ...]:
        """The one key that follows from the secret."""
        return self._gossip_keys

    def check_bind(self, address: str) -> None:
        """Refuse what other machines can reach, if the secret is only this user's."""
        if self._loopback_only and not is_loopback(parse_address(address)[0]):
            raise SecurityError(
                f"bind address {address!r}: without a secret of its own a node binds loopback only; set RPCNET_SECRET "
                "or pass security=rpcnet.Security.shared_secret(...), the same on every machine of the cluster"
            )

    def check_name(self, name: str) -> None:
        """Refuse a name that does not fit into a certificate."""
        if not name or len(quote(name, safe="")) > MAX_NAME:
            raise ConfigError(f"node name {name!r}: must have 1 to {MAX_NAME} characters, percent-encoded")

    def issue(self, name: str, now: float | None = None) -> Credentials:
        """Make a key and a certificate for it."""
        self.check_name(name)
        moment = time.time() if now is None else now
        key = Ed25519PrivateKey.generate()
        uri = NodeIdentity(self._cluster, name).uri
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rpcnet node")]))
            .issuer_name(self._authority.subject)
            .public_key(key.public_key())
            .serial_number(_serial())
            .not_valid_before(utc(moment - _SKEW_SECONDS))
            .not_valid_after(utc(moment + _VALID_SECONDS))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(signing_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
            .sign(self._ca, None)
        )
        return Credentials(certificate, key, moment + _RENEW_AFTER_SECONDS)

    def verify(
        self, certificate: x509.Certificate | None, chain: Sequence[x509.Certificate] = (), now: float | None = None
    ) -> str:
        """Return the name in a certificate that the one authority of this secret issued itself."""
        if certificate is None:
            raise SecurityError("the peer sent no certificate")
        if any(other != self._authority for other in chain):
            raise SecurityError("the peer's certificate chain names another authority")
        try:
            certificate.verify_directly_issued_by(self._authority)
        except (ValueError, TypeError, InvalidSignature):
            raise SecurityError(
                f"the peer's certificate was not issued for cluster {self._cluster!r} with this secret"
            ) from None
        check_validity(certificate, time.time() if now is None else now, _PEER)
        return self._name_in(certificate)

    def __repr__(self) -> str:
        kind = "this user's secret" if self._loopback_only else "shared secret"
        return f"<rpcnet.Security of cluster {self._cluster!r} by {kind}>"


def _derive(material: bytes, cluster: str, purpose: str, size: int) -> bytes:
    info = f"rpcnet v1 {purpose}".encode()
    return HKDF(algorithm=hashes.SHA256(), length=size, salt=cluster.encode(), info=info).derive(material)


def _issue_authority(key: Ed25519PrivateKey, cluster: str) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"rpcnet {cluster}"[:64])])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(_CA_SERIAL)
        .not_valid_before(_CA_FROM)
        .not_valid_after(_CA_UNTIL)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signing_certificates=True), critical=True)
        .sign(key, None)
    )


def _serial() -> int:
    """Return a positive number that always takes the same number of bytes, so that certificates have one size."""
    first, *rest = os.urandom(_SERIAL_BYTES)
    return int.from_bytes(bytes([first & 0x3F | 0x40, *rest]), "big")
