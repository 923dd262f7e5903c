"""Identity: who may join a cluster, and how a node proves that it is the one it says.

The rules of this file:

* There is no mode without encryption. A :class:`Security` gives the gossip key and issues and verifies certificates.
* One secret makes a cluster: HKDF-SHA256 derives from it the first gossip key and the key of the cluster's certificate
  authority. The authority's certificate has fixed dates and a fixed number, so every process makes the same one.
* A node makes its own key and a certificate for it, in memory. The name stands in the SAN as ``rpcnet://cluster/name``
  and nowhere else; exactly one such name is accepted.
* Secrets appear in no repr, no error and no log, and are not pickled.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import time
from collections.abc import Sequence
from typing import NoReturn
from urllib.parse import quote, unquote

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rpcnet.errors import ConfigError, SecurityError

from .addresses import is_loopback, parse_address
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
_SCHEME = "rpcnet://"
_CLUSTER_RULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_NAME = 256


@attrs.frozen
class Credentials:
    """A node's certificate with its key."""

    certificate: x509.Certificate
    """The leaf, issued by the cluster's authority."""
    private_key: Ed25519PrivateKey = attrs.field(repr=False)
    """The key it speaks for; never leaves the process."""
    renew_after: float
    """Seconds since 1970 after which new connections should use a new certificate."""


class Security:
    """Decides who may join a cluster; made by :meth:`default` or :meth:`shared_secret`, shared freely between nodes."""

    __slots__ = ("_authority", "_ca", "_cluster", "_gossip_keys", "_loopback_only")

    def __init__(self, material: bytes, cluster: str, *, loopback_only: bool) -> None:
        if not _CLUSTER_RULE.fullmatch(cluster):
            raise ConfigError(f"cluster = {cluster!r}: must be 1 to 64 letters, digits, dots, dashes or underscores")
        self._cluster = cluster
        self._loopback_only = loopback_only
        key_id = _derive(material, cluster, "gossip key id", 1)[0]
        self._gossip_keys = (GossipKey(key_id, _derive(material, cluster, "gossip key", 32)),)
        self._ca = Ed25519PrivateKey.from_private_bytes(_derive(material, cluster, "certificate authority", 32))
        self._authority = _issue_authority(self._ca, cluster)

    @classmethod
    def default(cls) -> Security:
        """Return what one machine needs for trying things: ``RPCNET_SECRET``, or a secret of this user.

        The user's secret is a file in the data directory (``$XDG_DATA_HOME/rpcnet/secret``, else
        ``~/.local/share/rpcnet/secret``), created with mode 0600 when it is missing. With it a node binds loopback
        only.

        Raises:
            SecurityError: if the secret is too weak, or the file may be read by others; the message names the rule.
        """
        from_environment = os.environ.get("RPCNET_SECRET")
        if from_environment:
            return cls._from_secret(from_environment, "rpcnet", "RPCNET_SECRET")
        return cls(read_or_create_secret(), "rpcnet", loopback_only=True)

    @classmethod
    def shared_secret(cls, secret: str | bytes, *, cluster: str = "rpcnet") -> Security:
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
        return cls._from_secret(secret, cluster, "the shared secret")

    @classmethod
    def _from_secret(cls, secret: str | bytes, cluster: str, what: str) -> Security:
        return cls(check_strength(secret, what), cluster, loopback_only=False)

    @property
    def cluster(self) -> str:
        """The name of the cluster."""
        return self._cluster

    @property
    def gossip_keys(self) -> tuple[GossipKey, ...]:
        """The keys of membership datagrams; the first one seals."""
        return self._gossip_keys

    def check_bind(self, address: str) -> None:
        """Refuse an address that these secrets are not meant for.

        Raises:
            SecurityError: if the secret is the user's own and the address can be reached from other machines.
        """
        if self._loopback_only and not is_loopback(parse_address(address)[0]):
            raise SecurityError(
                f"bind address {address!r}: without a secret of its own a node binds loopback only; set RPCNET_SECRET "
                "or pass security=rpcnet.Security.shared_secret(...), the same on every machine of the cluster"
            )

    def issue(self, name: str, now: float | None = None) -> Credentials:
        """Make a key and a certificate for a node.

        Args:
            name: the node's name.
            now: seconds since 1970; by default this moment.

        Raises:
            ConfigError: if the name is empty or too long.
        """
        if not name or len(quote(name, safe="")) > _MAX_NAME:
            raise ConfigError(f"node name {name!r}: must have 1 to {_MAX_NAME} characters, percent-encoded")
        moment = time.time() if now is None else now
        key = Ed25519PrivateKey.generate()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rpcnet node")]))
            .issuer_name(self._authority.subject)
            .public_key(key.public_key())
            .serial_number(_serial())
            .not_valid_before(_utc(moment - _SKEW_SECONDS))
            .not_valid_after(_utc(moment + _VALID_SECONDS))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signing_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(self._uri(name))]), critical=False
            )
            .sign(self._ca, None)
        )
        return Credentials(certificate, key, moment + _RENEW_AFTER_SECONDS)

    def verify(
        self, certificate: x509.Certificate | None, chain: Sequence[x509.Certificate] = (), now: float | None = None
    ) -> str:
        """Return the name of the node that a peer's certificate stands for.

        That the peer holds the certificate's key is the handshake's part; everything else is checked here.

        Args:
            certificate: the peer's leaf; None if it sent none.
            chain: what it sent besides; this authority issues leaves itself, so only its own certificate may be there.
            now: seconds since 1970; by default this moment.

        Raises:
            SecurityError: if the certificate does not prove a name of this cluster; the message says why.
        """
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
        moment = _utc(time.time() if now is None else now)
        if moment < certificate.not_valid_before_utc:
            raise SecurityError("the peer's certificate is not valid yet; compare the clocks of both machines")
        if moment > certificate.not_valid_after_utc:
            raise SecurityError("the peer's certificate has expired")
        try:
            return self._check_extensions(certificate.extensions)
        except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
            raise SecurityError("the peer's certificate has extensions that cannot be read") from None

    def _check_extensions(self, extensions: x509.Extensions) -> str:
        try:
            if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
                raise SecurityError("the peer's certificate is that of an authority")
            usage = extensions.get_extension_for_class(x509.KeyUsage).value
            extended = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound as error:
            raise SecurityError(f"the peer's certificate lacks the extension {error.oid.dotted_string}") from None
        if not usage.digital_signature or usage.key_cert_sign:
            raise SecurityError("the peer's certificate has the wrong key usage")
        if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= set(extended):
            raise SecurityError("the peer's certificate has the wrong extended key usage")
        uris = [uri for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if uri.startswith(_SCHEME)]
        if len(uris) != 1:
            raise SecurityError(f"the peer's certificate has {len(uris)} rpcnet names; it must have exactly one")
        return self._name_in(uris[0])

    def _name_in(self, uri: str) -> str:
        cluster, _, quoted = uri.removeprefix(_SCHEME).partition("/")
        if cluster != self._cluster:
            raise SecurityError(f"the peer belongs to cluster {cluster!r}, not to {self._cluster!r}")
        name = unquote(quoted)
        if not name or self._uri(name) != uri:
            raise SecurityError("the peer's certificate has a name that is not written as it must be")
        return name

    def _uri(self, name: str) -> str:
        return f"{_SCHEME}{self._cluster}/{quote(name, safe='')}"

    def __repr__(self) -> str:
        kind = "this user's secret" if self._loopback_only else "shared secret"
        return f"<rpcnet.Security of cluster {self._cluster!r} by {kind}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("rpcnet.Security holds secrets and cannot be pickled")


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
        .add_extension(_key_usage(signing_certificates=True), critical=True)
        .sign(key, None)
    )


def _key_usage(*, signing_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signing_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signing_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _serial() -> int:
    """Return a positive number that always takes the same number of bytes, so that certificates have one size."""
    first, *rest = os.urandom(_SERIAL_BYTES)
    return int.from_bytes(bytes([first & 0x3F | 0x40, *rest]), "big")


def _utc(moment: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(int(moment), tz=dt.UTC)
