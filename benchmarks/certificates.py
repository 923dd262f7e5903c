"""Certificates for the peers, made for one session: an authority, and a key with certificate for each side.

All peers that use certificates demand them of both sides, as rpcnet does, and speak TLS 1.3.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["Role", "configure", "make_certificates", "tls_context"]

Role = Literal["server", "client"]
_AUTHORITY = "benchmark authority"


def make_certificates(directory: Path) -> None:
    """Write ``ca.pem``, and ``.pem`` and ``.key`` of ``server`` and ``client``, good for a day."""
    authority = ec.generate_private_key(ec.SECP256R1())
    _write(directory / "ca.pem", _certificate(_AUTHORITY, authority, authority, is_authority=True))
    for side in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        _write(directory / f"{side}.pem", _certificate(side, key, authority, is_authority=False))
        (directory / f"{side}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


def tls_context(directory: Path, role: Role, protocols: Sequence[str] = ()) -> ssl.SSLContext:
    """Return a context of one side: TLS 1.3 only, certificates demanded of the other side.

    Args:
        directory: where :func:`make_certificates` wrote.
        role: which side.
        protocols: what to offer by ALPN.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if role == "server" else ssl.PROTOCOL_TLS_CLIENT)
    configure(context, directory, role)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def configure(context: ssl.SSLContext, directory: Path, role: Role) -> None:
    """Give a context what :func:`tls_context` promises."""
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(directory / "ca.pem")
    context.load_cert_chain(directory / f"{role}.pem", directory / f"{role}.key")
    context.verify_mode = ssl.CERT_REQUIRED


def _certificate(
    subject: str, key: ec.EllipticCurvePrivateKey, issuer_key: ec.EllipticCurvePrivateKey, *, is_authority: bool
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _AUTHORITY)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def _write(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
