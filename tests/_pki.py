"""A public key infrastructure made for one test: authorities, leaves, and the files that hold them."""

from __future__ import annotations

import base64
import datetime as dt
import functools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from rpcnet._net.certificates import PrivateKey, key_usage
from rpcnet._net.identity import Security

DAY = 86400.0
BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
GOSSIP_KEY = base64.b64encode(bytes(range(32))).decode()


@functools.cache
def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def make_key(kind: str = "ed25519") -> PrivateKey:
    if kind.startswith("rsa"):
        return rsa_key(int(kind.removeprefix("rsa")))
    curves = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
    return ec.generate_private_key(curves[kind]) if kind in curves else ed25519.Ed25519PrivateKey.generate()


@attrs.frozen
class Issued:
    """A certificate with its key and what lies between it and its root."""

    certificate: x509.Certificate
    key: PrivateKey
    between: tuple[x509.Certificate, ...] = ()

    def pem(self) -> bytes:
        return b"".join(one.public_bytes(Encoding.PEM) for one in (self.certificate, *self.between))

    def key_pem(self, encryption: KeySerializationEncryption | None = None) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


@attrs.frozen
class Authority:
    """Issues leaves and further authorities."""

    own: Issued
    is_root: bool = True

    @property
    def pem(self) -> bytes:
        return self.own.certificate.public_bytes(Encoding.PEM)

    def authority(self, name: str = "between", **about: Any) -> Authority:
        return Authority(self._issue(name, authority=True, **about), is_root=False)

    def leaf(self, name: str | None = "a", **about: Any) -> Issued:
        return self._issue(name, authority=False, **about)

    def _issue(
        self,
        name: str | None,
        *,
        authority: bool,
        kind: str = "ed25519",
        key: PrivateKey | None = None,
        cluster: str = "prod",
        uris: Sequence[str] | None = None,
        expires: float = DAY,
        begins: float = -60.0,
        extended: Sequence[ObjectIdentifier] = BOTH,
        usage: x509.KeyUsage | None = None,
        path_length: int | None = None,
        basic: bool = True,
    ) -> Issued:
        now = time.time()
        key = key or make_key(kind)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject(f"{'authority ' if authority else ''}{name}"))
            .issuer_name(self.own.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(moment(now + begins))
            .not_valid_after(moment(now + expires))
            .add_extension(usage or key_usage(signing_certificates=authority), critical=True)
        )
        if basic:
            builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=path_length), critical=True)
        if not authority:
            builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
            names = [f"rpcnet://{cluster}/{name}"] if uris is None else list(uris)
            if names:
                general = [x509.UniformResourceIdentifier(uri) for uri in names]
                builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
        signed = builder.sign(self.own.key, hash_for(self.own.key))
        between = () if self.is_root else (self.own.certificate, *self.own.between)
        return Issued(signed, key, between)


def subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(int(seconds), dt.UTC)


def hash_for(key: PrivateKey) -> hashes.SHA256 | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def root(name: str = "root", kind: str = "ed25519") -> Authority:
    key = make_key(kind)
    now = time.time()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject(name))
        .issuer_name(subject(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment(now - DAY))
        .not_valid_after(moment(now + 3650 * DAY))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(key_usage(signing_certificates=True), critical=True)
        .sign(key, hash_for(key))
    )
    return Authority(Issued(certificate, key))


@attrs.define(eq=False)
class Files:
    """The four files of one node."""

    folder: Path
    written: int = 0

    def write(
        self, *, ca: bytes | None = None, leaf: Issued | None = None, keys: str | None = None, mode: int = 0o600
    ) -> Files:
        """Write what is given; every file is replaced as a whole, and looks changed."""
        self.folder.mkdir(exist_ok=True)
        contents = {
            self.ca: ca,
            self.cert: None if leaf is None else leaf.pem(),
            self.key: None if leaf is None else leaf.key_pem(),
            self.gossip: None if keys is None else keys.encode(),
        }
        for path, content in contents.items():
            if content is not None:
                self.put(path, content, mode)
        return self

    def put(self, path: Path, content: bytes, mode: int = 0o600) -> None:
        draft = path.with_suffix(".new")
        draft.write_bytes(content)
        draft.chmod(mode)
        self.written += 1
        os.utime(draft, ns=(0, time.time_ns() + self.written))
        draft.replace(path)

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def cert(self) -> Path:
        return self.folder / "cert.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    @property
    def gossip(self) -> Path:
        return self.folder / "gossip.keys"

    def security(self) -> Security:
        keys = self.gossip if self.gossip.exists() else None
        return Security.files(ca=self.ca, cert=self.cert, key=str(self.key), gossip_keys=keys)


def encrypted(issued: Issued) -> bytes:
    return issued.key_pem(BestAvailableEncryption(b"a passphrase"))
