from __future__ import annotations

import copy
import datetime as dt
import logging
import pickle
import secrets
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet._net.identity import Credentials, Security, _SharedSecret
from rpcnet._net.sealing import Sealer
from rpcnet._net.secrets_file import check_strength, read_or_create_secret
from rpcnet.errors import ConfigError, SecurityError

SECRET = "n3Vv8ZyTq0-Lk2wXbR7mHd"
NOW = time.time()
DAY = 86400.0


def shared(secret: str | bytes = SECRET, cluster: str = "rpcnet") -> _SharedSecret:
    security = Security.shared_secret(secret, cluster=cluster)
    assert isinstance(security, _SharedSecret)
    return security


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("RPCNET_SECRET", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path / "rpcnet" / "secret"


# --- one secret makes one cluster


def test_the_same_secret_makes_the_same_cluster_in_every_process() -> None:
    here = shared()
    code = (
        "import sys; from rpcnet._net.identity import Security;"
        "from cryptography.hazmat.primitives.serialization import Encoding;"
        "s = Security.shared_secret(sys.stdin.read());"
        "print(s._authority.public_bytes(Encoding.DER).hex(), s.gossip_keys[0].key_id, s.gossip_keys[0].secret.hex())"
    )
    there = subprocess.run([sys.executable, "-c", code], input=SECRET, capture_output=True, text=True, check=True)
    key = here.gossip_keys[0]
    expected = [here._authority.public_bytes(Encoding.DER).hex(), str(key.key_id), key.secret.hex()]
    assert there.stdout.split() == expected


def test_a_certificate_of_one_process_is_accepted_by_another() -> None:
    assert shared().verify(shared().issue("node a").certificate) == "node a"


def test_text_and_its_bytes_are_the_same_secret() -> None:
    assert shared(SECRET.encode()).verify(shared().issue("a").certificate) == "a"


def test_gossip_of_one_process_is_opened_by_another() -> None:
    datagram = Sealer("rpcnet", shared().gossip_keys, b"1" * 8).seal(b"hello")
    assert Sealer("rpcnet", shared().gossip_keys, b"2" * 8).open(datagram) == b"hello"


@pytest.mark.parametrize("other", [shared(secrets.token_hex(16)), shared(cluster="other")])
def test_another_secret_or_another_cluster_shares_nothing(other: Security) -> None:
    mine = shared()
    assert mine.gossip_keys != other.gossip_keys
    with pytest.raises(SecurityError, match="was not issued for cluster"):
        mine.verify(other.issue("a").certificate)


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20))
@settings(deadline=None, max_examples=50)
def test_any_name_survives_its_certificate(name: str) -> None:
    assert shared().verify(shared().issue(name).certificate) == name


@pytest.mark.parametrize("name", ["", "x" * 257, "\u00e9" * 43])
def test_a_name_that_does_not_fit_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="node name"):
        shared().issue(name)


@pytest.mark.parametrize("cluster", ["", "a b", "a/b", "-a", "x" * 65, "\u00e9"])
def test_a_cluster_name_that_does_not_fit_is_refused(cluster: str) -> None:
    with pytest.raises(ConfigError, match="cluster = "):
        shared(cluster=cluster)


# --- certificates


def test_certificates_always_have_the_same_size() -> None:
    sizes = {len(shared().issue("a", now=NOW + day * DAY).certificate.public_bytes(Encoding.DER)) for day in range(40)}
    assert len(sizes) == 1


def test_each_certificate_has_a_key_of_its_own() -> None:
    first, second = shared().issue("a"), shared().issue("a")
    assert first.certificate.public_key() != second.certificate.public_key()
    assert first.certificate.serial_number != second.certificate.serial_number
    assert first.private_key.public_key() == first.certificate.public_key()


def test_a_certificate_is_valid_from_an_hour_ago_for_a_week_and_renewed_before() -> None:
    mine = shared()
    credentials = mine.issue("a", now=NOW)
    for moment in (NOW - 3500, NOW, NOW + 6.9 * DAY):
        assert mine.verify(credentials.certificate, now=moment) == "a"
    with pytest.raises(SecurityError, match="not valid yet"):
        mine.verify(credentials.certificate, now=NOW - 3700)
    with pytest.raises(SecurityError, match="has expired"):
        mine.verify(credentials.certificate, now=NOW + 7.1 * DAY)
    assert NOW + 3 * DAY < credentials.renew_after < NOW + 6.5 * DAY


def test_no_certificate_is_refused() -> None:
    with pytest.raises(SecurityError, match="sent no certificate"):
        shared().verify(None)


def test_the_authority_may_be_in_the_chain_and_nothing_else_may() -> None:
    mine, other = shared(), shared(cluster="other")
    leaf = mine.issue("a").certificate
    assert mine.verify(leaf, [mine._authority]) == "a"
    for intruder in (other._authority, leaf, mine.issue("b").certificate):
        with pytest.raises(SecurityError, match="chain"):
            mine.verify(leaf, [intruder])


def test_a_leaf_cannot_issue_leaves() -> None:
    mine = shared()
    leaf = mine.issue("mallory")
    assert isinstance(leaf.private_key, Ed25519PrivateKey)
    forged = signed_by(mine, key=leaf.private_key, issuer=leaf.certificate.subject)
    with pytest.raises(SecurityError, match="was not issued"):
        mine.verify(forged)
    with pytest.raises(SecurityError, match="chain"):
        mine.verify(forged, [leaf.certificate])


def signed_by(
    mine: _SharedSecret,
    *,
    key: Ed25519PrivateKey | None = None,
    issuer: x509.Name | None = None,
    without: type[x509.ExtensionType] | None = None,
    uris: tuple[str, ...] = ("rpcnet://rpcnet/a",),
    ca: bool = False,
    usage: tuple[str, ...] = ("digital_signature",),
    extended: tuple[ObjectIdentifier, ...] = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH),
) -> x509.Certificate:
    """Issue with the cluster's own key what ``issue`` never would."""
    bits = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement "
        "key_cert_sign crl_sign encipher_only decipher_only"
    )
    names = [x509.UniformResourceIdentifier(uri) for uri in uris]
    extensions: list[x509.ExtensionType] = [
        x509.BasicConstraints(ca=ca, path_length=None),
        x509.KeyUsage(**{bit: bit in usage for bit in bits.split()}),
        x509.ExtendedKeyUsage(extended),
        x509.SubjectAlternativeName([*names, x509.DNSName("rpcnet.example")]),
    ]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rpcnet://rpcnet/mallory")]))
        .issuer_name(issuer or mine._authority.subject)
        .public_key(Ed25519PrivateKey.generate().public_key())
        .serial_number(77)
        .not_valid_before(dt.datetime.fromtimestamp(NOW - 60, dt.UTC))
        .not_valid_after(dt.datetime.fromtimestamp(NOW + 3600, dt.UTC))
    )
    for extension in extensions:
        if without is None or not isinstance(extension, without):
            builder = builder.add_extension(extension, critical=False)
    return builder.sign(key or mine._ca, None)


def test_the_forging_helper_makes_good_certificates_so_the_refusals_below_mean_something() -> None:
    mine = shared()
    assert mine.verify(signed_by(mine)) == "a"


@pytest.mark.parametrize(
    ("certificate", "why"),
    [
        (signed_by(shared(), without=x509.KeyUsage), r"lacks the extension 2\.5\.29\.15"),
        (signed_by(shared(), without=x509.ExtendedKeyUsage), r"lacks the extension 2\.5\.29\.37"),
        (signed_by(shared(), without=x509.SubjectAlternativeName), r"lacks the extension 2\.5\.29\.17"),
        (signed_by(shared(), ca=True), "that of an authority"),
        (signed_by(shared(), usage=("key_agreement",)), "wrong key usage"),
        (signed_by(shared(), usage=("digital_signature", "key_cert_sign")), "wrong key usage"),
        (signed_by(shared(), extended=(ExtendedKeyUsageOID.CLIENT_AUTH,)), "wrong extended key usage"),
        (signed_by(shared(), extended=(ExtendedKeyUsageOID.SERVER_AUTH,)), "wrong extended key usage"),
        (signed_by(shared(), uris=()), "has 0 rpcnet names"),
        (signed_by(shared(), uris=("https://rpcnet/a",)), "has 0 rpcnet names"),
        (signed_by(shared(), uris=("rpcnet://rpcnet/a", "rpcnet://rpcnet/b")), "has 2 rpcnet names"),
        (signed_by(shared(), uris=("rpcnet://other/a",)), "belongs to cluster 'other'"),
        (signed_by(shared(), uris=("rpcnet://rpcnet/",)), "not written as it must be"),
        (signed_by(shared(), uris=("rpcnet://rpcnet",)), "not written as it must be"),
        (signed_by(shared(), uris=("rpcnet://rpcnet/a/b",)), "not written as it must be"),
        (signed_by(shared(), uris=("rpcnet://rpcnet/%61",)), "not written as it must be"),
    ],
)
def test_a_certificate_that_is_not_as_it_must_be_is_refused(certificate: x509.Certificate, why: str) -> None:
    with pytest.raises(SecurityError, match=why):
        shared().verify(certificate)


# --- how strong a secret must be


@pytest.mark.parametrize(
    "secret",
    [
        secrets.token_hex(16),
        secrets.token_hex(16).upper(),
        secrets.token_urlsafe(16),
        secrets.token_urlsafe(32),
        secrets.token_bytes(16),
        "correct horse battery staple",
        b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f",
    ],
    ids=["hex", "upper hex", "16 bytes of base64", "32 bytes of base64", "bytes", "words", "counting bytes"],
)
def test_a_strong_secret_is_taken(secret: str | bytes) -> None:
    assert shared(secret).cluster == "rpcnet"


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "password",
        "hunter2hunter2hunter2hunter2hunter2",
        "a" * 1000,
        "ab" * 500,
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab",
        "0123456789abcdef0123456789abcde",
        "1234567890" * 4 + "123456789",
        "correcthorsebattery",
        secrets.token_hex(15),
        secrets.token_urlsafe(15),
        secrets.token_bytes(15),
        bytes(64),
        b"secret",
    ],
    ids=[f"secret {number}" for number in range(14)],
)
def test_a_weak_secret_is_refused_and_not_shown(secret: str | bytes) -> None:
    with pytest.raises(SecurityError, match="too weak") as caught:
        shared(secret)
    if secret:
        assert str(secret) not in str(caught.value)


def test_a_secret_of_another_type_is_refused() -> None:
    with pytest.raises(SecurityError, match="must be str or bytes, not int"):
        shared(1234)  # type: ignore[arg-type]


@given(st.binary(min_size=16, max_size=64))
@settings(deadline=None)
def test_the_strength_check_only_ever_says_yes_or_no(material: bytes) -> None:
    try:
        assert check_strength(material, "it") == material
    except SecurityError as error:
        assert "too weak" in str(error)  # noqa: PT017 - both outcomes are right, any other is not


# --- the default


def test_the_environment_decides_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RPCNET_SECRET", SECRET)
    security = Security.default()
    assert security.verify(shared().issue("a").certificate) == "a"
    security.check_bind("0.0.0.0:7946")
    assert not home.exists()


def test_a_weak_secret_in_the_environment_is_refused_by_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RPCNET_SECRET", "weak")
    with pytest.raises(SecurityError, match="RPCNET_SECRET is too weak"):
        Security.default()


def test_a_secret_is_created_for_the_user_alone_and_used_again(home: Path) -> None:
    first = Security.default()
    assert stat.S_IMODE(home.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.parent.stat().st_mode) == 0o700
    assert list(home.parent.iterdir()) == [home]
    assert Security.default().verify(first.issue("a").certificate) == "a"


def test_without_a_data_directory_in_the_environment_the_usual_one_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RPCNET_SECRET", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "relative/paths/do/not/count")
    monkeypatch.setenv("HOME", str(tmp_path))
    Security.default()
    assert (tmp_path / ".local/share/rpcnet/secret").is_file()


def test_two_processes_that_start_at_once_agree(home: Path) -> None:
    code = "from rpcnet._net.secrets_file import read_or_create_secret as r; print(r().decode())"
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert len({process.communicate()[0] for process in started}) == 1
    assert list(home.parent.iterdir()) == [home]


def test_the_users_secret_binds_loopback_only(home: Path) -> None:
    security = Security.default()
    for address in ("127.0.0.1:0", "[::1]:7946", "localhost:1"):
        security.check_bind(address)
    for address in ("0.0.0.0:7946", "10.0.0.1:7946", "[::]:0", "example.org:1"):
        with pytest.raises(SecurityError, match="RPCNET_SECRET") as caught:
            security.check_bind(address)
        assert repr(address) in str(caught.value)
    with pytest.raises(ConfigError):
        security.check_bind("nonsense")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o777])
def test_a_file_that_others_may_touch_is_refused(home: Path, mode: int) -> None:
    Security.default()
    home.chmod(mode)
    with pytest.raises(SecurityError, match="must not be accessible to others") as caught:
        Security.default()
    assert str(home) in str(caught.value)
    assert stat.S_IMODE(home.stat().st_mode) == mode


@pytest.mark.parametrize("content", ["", "short", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"])
def test_a_weak_file_is_refused_by_name(home: Path, content: str) -> None:
    Security.default()
    home.write_text(content)
    with pytest.raises(SecurityError, match="too weak") as caught:
        Security.default()
    assert str(home) in str(caught.value)


def test_a_link_in_the_place_of_the_file_is_refused(home: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(secrets.token_urlsafe(32))
    elsewhere.chmod(0o600)
    home.parent.mkdir()
    home.symlink_to(elsewhere)
    with pytest.raises(SecurityError, match="secret file"):
        Security.default()


def test_a_directory_in_the_place_of_the_file_is_refused(home: Path) -> None:
    home.mkdir(parents=True)
    with pytest.raises(SecurityError, match="must be a plain file"):
        Security.default()


def test_a_data_directory_that_cannot_be_made_is_refused_by_name(home: Path) -> None:
    home.parent.write_text("a file where a directory must be")
    with pytest.raises(SecurityError, match="secret file"):
        read_or_create_secret()


# --- nothing shows a secret


def holders() -> list[object]:
    security = shared()
    credentials: Credentials = security.issue("a")
    return [security, credentials, security.gossip_keys, credentials.private_key]


def test_secrets_are_in_no_repr_and_no_str(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    security = shared()
    hidden = [SECRET, security.gossip_keys[0].secret.hex(), security._ca.private_bytes_raw().hex()]
    hidden += [repr(security.gossip_keys[0].secret), repr(security._ca.private_bytes_raw())]
    shown = [show(holder) for holder in holders() for show in (repr, str)] + [caplog.text]
    assert not [text for text in shown for secret in hidden if secret in text]


def test_security_is_neither_pickled_nor_copied() -> None:
    for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled"):
            duplicate(shared())


def test_credentials_are_not_pickled() -> None:
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(shared().issue("a"))


def test_security_says_what_it_is() -> None:
    assert repr(shared(cluster="prod")) == "<rpcnet.Security of cluster 'prod' by shared secret>"
