"""Certificates: what one must say to stand for a node, and how a chain of them is verified.

The rules of this file:

* The name stands in the SAN as ``rpcnet://cluster/name`` and nowhere else; exactly one such name is accepted.
* A leaf may be used for signatures, by a server and by a client, and is no authority: every node is both.
* Chains are verified by OpenSSL (RFC 5280, section 6): signatures, validity, who is an authority, path lengths, name
  constraints, critical extensions. What it is lenient about is checked here: weak keys and broken hashes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from urllib.parse import quote, unquote

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto

from rpcnet.errors import SecurityError

__all__ = [
    "MAX_NAME",
    "Credentials",
    "NodeIdentity",
    "PrivateKey",
    "TrustedAuthorities",
    "check_validity",
    "identity_in",
    "is_authority",
    "key_flaw",
    "key_usage",
    "utc",
]

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
"""What a node may prove its identity with."""

MAX_NAME = 256
"""The longest name of a node, in characters, percent-encoded."""

_SCHEME = "rpcnet://"
_LEAST_RSA_BITS = 2048
_CURVES = (ec.SECP256R1, ec.SECP384R1)
_BROKEN_HASHES = ("md5", "sha1")
_NAMES = {
    x509.KeyUsage.oid: ", the key usage",
    x509.ExtendedKeyUsage.oid: ", the extended key usage",
    x509.SubjectAlternativeName.oid: ", the subject alternative names",
}


@attrs.frozen
class Credentials:
    """A node's certificate with its key."""

    certificate: x509.Certificate
    """The leaf."""
    private_key: PrivateKey = attrs.field(repr=False)
    """The key it speaks for; sent nowhere."""
    renew_after: float
    """Seconds since 1970 after which new connections should use a new certificate."""
    chain: tuple[x509.Certificate, ...] = ()
    """The authorities between the leaf and one that the peers know, the leaf's own issuer first."""


@attrs.frozen
class NodeIdentity:
    """What the SAN of a certificate says."""

    cluster: str
    """The cluster that the node belongs to."""
    name: str
    """The node's name."""

    @property
    def uri(self) -> str:
        """The one way to write it."""
        return f"{_SCHEME}{self.cluster}/{quote(self.name, safe='')}"


def identity_in(certificate: x509.Certificate, what: str) -> NodeIdentity:
    """Return whom a leaf stands for.

    Args:
        certificate: the leaf; who issued it and when is not looked at.
        what: how errors call it.

    Raises:
        SecurityError: if it is no certificate of a node; the message says why.
    """
    try:
        extensions = certificate.extensions
        if is_authority(certificate):
            raise SecurityError(f"{what} is that of an authority")
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        extended = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise SecurityError(f"{what} lacks the extension {error.oid.dotted_string}{_NAMES[error.oid]}") from None
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise SecurityError(f"{what} has extensions that cannot be read") from None
    if not usage.digital_signature or usage.key_cert_sign:
        raise SecurityError(f"{what} has the wrong key usage: it must be for digital signatures, and not for issuing")
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= set(extended):
        raise SecurityError(f"{what} has the wrong extended key usage: it must be for both servers and clients")
    uris = [uri for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if uri.startswith(_SCHEME)]
    if len(uris) != 1:
        raise SecurityError(
            f"{what} has {len(uris)} rpcnet names; it must have exactly one, the URI rpcnet://<cluster>/<node name>"
        )
    return _parse(uris[0], what)


def _parse(uri: str, what: str) -> NodeIdentity:
    cluster, _, quoted = uri.removeprefix(_SCHEME).partition("/")
    identity = NodeIdentity(cluster, unquote(quoted))
    if not identity.name or identity.uri != uri or len(quoted) > MAX_NAME:
        raise SecurityError(f"{what} has a name that is not written as it must be")
    return identity


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether a certificate says that it may issue others; one that says nothing may not (RFC 5280, 4.2.1.9)."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def check_validity(certificate: x509.Certificate, now: float, what: str) -> None:
    """Check the dates of a certificate.

    Args:
        certificate: of any kind.
        now: seconds since 1970.
        what: how errors call it.

    Raises:
        SecurityError: if it is not valid yet, or not any more.
    """
    moment = utc(now)
    if moment < certificate.not_valid_before_utc:
        raise SecurityError(f"{what} is not valid yet; compare the clocks of both machines")
    if moment > certificate.not_valid_after_utc:
        raise SecurityError(f"{what} has expired")


def key_flaw(key: object) -> str | None:
    """Return why a key, public or private, is not taken; None if it is."""
    if isinstance(key, (ed25519.Ed25519PublicKey, ed25519.Ed25519PrivateKey)):
        return None
    if isinstance(key, (ec.EllipticCurvePublicKey, ec.EllipticCurvePrivateKey)):
        return None if isinstance(key.curve, _CURVES) else f"the curve {key.curve.name}; use P-256, P-384 or Ed25519"
    if isinstance(key, (rsa.RSAPublicKey, rsa.RSAPrivateKey)):
        enough = key.key_size >= _LEAST_RSA_BITS
        return None if enough else f"an RSA key of {key.key_size} bits; it must have at least {_LEAST_RSA_BITS}"
    return "a key of an unknown kind; use Ed25519, ECDSA with P-256 or P-384, or RSA"


class TrustedAuthorities:
    """The authorities whose word a node takes.

    Args:
        certificates: of the authorities; a chain that ends at any of them is good, whether it is a root or not.
    """

    def __init__(self, certificates: Sequence[x509.Certificate]) -> None:
        self._store = crypto.X509Store()
        self._store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
        for certificate in certificates:
            self._store.add_cert(crypto.X509.from_cryptography(certificate))

    def verify(self, certificate: x509.Certificate, chain: Sequence[x509.Certificate], now: float, what: str) -> None:
        """Check that a leaf was issued by one of them, directly or not.

        Args:
            certificate: the leaf; what it says of itself is not looked at.
            chain: what may lie between.
            now: seconds since 1970.
            what: how errors call the leaf.

        Raises:
            SecurityError: if there is no such chain, or it is not good; the message says why.
        """
        check_validity(certificate, now, what)
        self._store.set_time(utc(now))
        leaf, between = _for_openssl(certificate), [_for_openssl(other) for other in chain]
        try:
            found = crypto.X509StoreContext(self._store, leaf, between).get_verified_chain()
        except crypto.X509StoreContextError as error:
            raise SecurityError(f"{what} was not issued by an authority that is trusted here: {error}") from None
        for link in found[:-1]:
            _check_strength(link.to_cryptography(), what)


def _for_openssl(certificate: x509.Certificate) -> crypto.X509:
    return crypto.X509.from_cryptography(certificate)


def _check_strength(certificate: x509.Certificate, what: str) -> None:
    try:
        flaw = key_flaw(certificate.public_key())
        hashed = certificate.signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm):
        flaw, hashed = key_flaw(None), None
    if flaw is not None:
        raise SecurityError(f"the chain of {what} has {flaw}")
    if hashed is not None and hashed.name in _BROKEN_HASHES:
        raise SecurityError(f"the chain of {what} has a signature with {hashed.name}; use SHA-256 or better")


def key_usage(*, signing_certificates: bool) -> x509.KeyUsage:
    """Return the key usage of an authority, or that of a leaf."""
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


def utc(moment: float) -> dt.datetime:
    """Return seconds since 1970 as certificates count them: whole, in UTC."""
    return dt.datetime.fromtimestamp(int(moment), tz=dt.UTC)
