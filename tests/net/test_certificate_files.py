"""Identity out of files: what is taken, what is refused and how that is said, and what a change does."""

from __future__ import annotations

import base64
import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from _pki import DAY, GOSSIP_KEY, Authority, Files, Issued, encrypted, root
from rpcnet._net.certificates import key_usage
from rpcnet._net.identity import Security
from rpcnet._net.sealing import Sealer
from rpcnet.errors import SecurityError


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "node")


def good(files: Files, authority: Authority | None = None, **about: Any) -> Files:
    authority = authority or root()
    return files.write(ca=authority.pem, leaf=authority.leaf(**about), keys=GOSSIP_KEY)


# --- what is taken


@pytest.mark.parametrize("kind", ["ed25519", "p256", "p384", "rsa2048"])
@pytest.mark.parametrize("of_root", ["ed25519", "p384", "rsa2048"])
def test_keys_of_every_usual_kind_are_taken(files: Files, kind: str, of_root: str) -> None:
    authority = root(kind=of_root)
    security = good(files, authority, name="a b/c", uris=["rpcnet://prod/a%20b%2Fc"], kind=kind).security()
    assert (security.cluster, security.name) == ("prod", "a b/c")
    shown = security.issue("a b/c")
    assert security.verify(shown.certificate, shown.chain) == "a b/c"


def test_a_chain_with_authorities_between_is_taken(files: Files) -> None:
    top = root()
    lowest = top.authority("one", kind="p256").authority("two", kind="rsa2048")
    leaf = lowest.leaf()
    security = files.write(ca=top.pem, leaf=leaf, keys=GOSSIP_KEY).security()
    assert len(security.issue("a").chain) == 2
    assert security.verify(leaf.certificate, leaf.between) == "a"
    assert security.verify(leaf.certificate, leaf.between[::-1]) == "a"
    with pytest.raises(SecurityError, match="not issued by an authority that is trusted here"):
        security.verify(leaf.certificate)


def test_an_authority_that_is_no_root_can_be_trusted(files: Files) -> None:
    between = root().authority()
    leaf = between.leaf()
    security = files.write(ca=between.pem, leaf=leaf, keys=GOSSIP_KEY).security()
    assert security.verify(leaf.certificate) == "a"


def test_each_of_several_authorities_is_trusted(files: Files) -> None:
    first, second = root("first"), root("second")
    security = files.write(ca=first.pem + second.pem, leaf=first.leaf(), keys=GOSSIP_KEY).security()
    assert security.verify(second.leaf("b").certificate) == "b"
    with pytest.raises(SecurityError, match="not issued by an authority that is trusted here"):
        security.verify(root("first").leaf("b").certificate)


def test_a_leaf_that_does_not_say_that_it_is_no_authority_is_taken(files: Files) -> None:
    assert good(files, basic=False).security().name == "a"


def test_the_same_gossip_keys_open_what_they_sealed_and_further_ones_too(files: Files, tmp_path: Path) -> None:
    other = base64.b64encode(os.urandom(32)).decode()
    authority = root()
    ours = good(files, authority).security()
    theirs = good(Files(tmp_path / "other"), authority)
    theirs.write(keys=f"# the new key seals\n{other}\n\n  {GOSSIP_KEY}  \n")
    keys = theirs.security().gossip_keys
    datagram = Sealer("prod", ours.gossip_keys, b"1" * 8).seal(b"news")
    assert len(keys) == 2
    assert Sealer("prod", keys, b"2" * 8).open(datagram) == b"news"
    assert keys[1] == ours.gossip_keys[0]


def test_without_gossip_keys_there_is_security_but_no_node(files: Files) -> None:
    authority = root()
    security = files.write(ca=authority.pem, leaf=authority.leaf()).security()
    assert not security.has_gossip_keys
    with pytest.raises(SecurityError, match="pass gossip_keys="):
        _ = security.gossip_keys


def test_files_may_be_links_and_the_key_may_be_read_by_its_group(files: Files) -> None:
    good(files)
    for path in (files.key, files.gossip):
        real = path.rename(path.with_suffix(".1"))
        path.symlink_to(real)
    files.key.chmod(0o640)
    assert files.security().name == "a"


def test_any_address_can_be_bound_and_no_other_name_be_had(files: Files) -> None:
    security = good(files).security()
    security.check_bind("0.0.0.0:7946")
    security.check_name("a")
    for refuse in (security.check_name, security.issue):
        with pytest.raises(SecurityError, match="node name 'b': the certificate stands for node 'a'"):
            refuse("b")


# --- what is refused, when the files are first read


def refused(files: Files) -> str:
    with pytest.raises(SecurityError) as caught:
        files.security()
    return str(caught.value)


@pytest.mark.parametrize(
    ("about", "why"),
    [
        ({"expires": -30.0}, "has expired"),
        ({"begins": DAY / 2}, "is not valid yet"),
        ({"uris": []}, "lacks the extension 2.5.29.17, the subject alternative names"),
        ({"uris": ["https://example.org"]}, "has 0 rpcnet names"),
        ({"uris": ["rpcnet://prod/a", "rpcnet://prod/b"]}, "has 2 rpcnet names"),
        ({"uris": ["rpcnet://prod/"]}, "is not written as it must be"),
        ({"uris": ["rpcnet://prod/" + "x" * 257]}, "is not written as it must be"),
        ({"extended": [ExtendedKeyUsageOID.SERVER_AUTH]}, "wrong extended key usage"),
        ({"extended": [ExtendedKeyUsageOID.CLIENT_AUTH]}, "wrong extended key usage"),
        ({"usage": key_usage(signing_certificates=True)}, "wrong key usage"),
    ],
)
def test_a_certificate_that_peers_would_refuse_is_refused_at_once(
    files: Files, about: dict[str, Any], why: str
) -> None:
    message = refused(good(files, **about))
    assert why in message
    assert f"certificate file {files.cert}" in message


@pytest.mark.parametrize(("kind", "why"), [("p521", "the curve secp521r1"), ("rsa1024", "an RSA key of 1024 bits")])
def test_a_key_that_is_too_weak_or_unusual_is_refused(files: Files, kind: str, why: str) -> None:
    message = refused(good(files, kind=kind))
    assert why in message
    assert f"key file {files.key}" in message


def test_a_key_that_does_not_match_is_refused(files: Files) -> None:
    good(files).put(files.key, root().leaf().key_pem())
    assert refused(files) == f"key file {files.key}: does not match the first certificate in {files.cert}"


def test_an_encrypted_key_is_refused(files: Files) -> None:
    good(files).put(files.key, encrypted(root().leaf()))
    assert refused(files) == f"key file {files.key}: must not be encrypted"


def test_a_certificate_of_an_authority_that_is_not_in_the_file_is_refused(files: Files) -> None:
    good(files).write(ca=root().pem)
    assert "was not issued by an authority that is trusted here" in refused(files)


def test_a_chain_with_a_gap_is_refused(files: Files) -> None:
    top = root()
    leaf = top.authority().leaf()
    files.write(ca=top.pem, leaf=Issued(leaf.certificate, leaf.key), keys=GOSSIP_KEY)
    assert "was not issued by an authority that is trusted here" in refused(files)


def test_a_leaf_among_the_authorities_is_refused(files: Files) -> None:
    authority = root()
    good(files, authority).put(files.ca, authority.pem + authority.leaf().pem())
    assert refused(files) == f"authorities' file {files.ca}: has a certificate that is not that of an authority"


def test_an_authority_in_the_place_of_the_leaf_is_refused(files: Files) -> None:
    authority = root()
    files.write(ca=authority.pem, leaf=authority.own, keys=GOSSIP_KEY)
    assert "is that of an authority" in refused(files)


def test_a_chain_that_no_handshake_has_room_for_is_refused(files: Files) -> None:
    authority = root()
    leaf = authority.leaf()
    good(files, authority).write(leaf=Issued(leaf.certificate, leaf.key, (leaf.certificate,) * 40))
    assert "a chain may have" in refused(files)


def test_another_cluster_than_a_cluster_may_be_called_is_refused(files: Files) -> None:
    good(files, uris=["rpcnet://pr%20od/a"])
    with pytest.raises(Exception, match="cluster = "):
        files.security()


@pytest.mark.parametrize("name", ["ca.pem", "cert.pem", "key.pem", "gossip.keys"])
@pytest.mark.parametrize(
    "content", [b"", b"not what it should be", b"-----BEGIN CERTIFICATE-----\nAAAA\n", b"\xff" * 99]
)
def test_a_file_with_anything_else_in_it_is_refused_by_name(files: Files, name: str, content: bytes) -> None:
    path = files.folder / name
    good(files).put(path, content)
    message = refused(files)
    assert str(path) in message
    assert "must" in message


@pytest.mark.parametrize("name", ["ca.pem", "cert.pem", "key.pem", "gossip.keys"])
def test_a_file_that_is_not_there_is_refused_by_name(files: Files, name: str) -> None:
    path = files.folder / name
    good(files)
    gossip = files.gossip
    path.unlink()
    with pytest.raises(SecurityError, match="No such file") as caught:
        Security.files(ca=files.ca, cert=files.cert, key=files.key, gossip_keys=gossip)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["key.pem", "gossip.keys"])
def test_a_directory_or_a_pipe_in_the_place_of_a_secret_is_refused(files: Files, name: str) -> None:
    path = files.folder / name
    for make in (Path.mkdir, os.mkfifo):
        good(files)
        path.unlink()
        make(path)
        assert f"{path}: must be a plain file" in refused(files)
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("name", "mode", "advice"),
    [
        ("key.pem", 0o644, "chmod 640"),
        ("key.pem", 0o604, "chmod 640"),
        ("key.pem", 0o660, "chmod 640"),
        ("gossip.keys", 0o640, "chmod 600"),
        ("gossip.keys", 0o602, "chmod 600"),
    ],
)
def test_a_secret_that_others_may_touch_is_refused(files: Files, name: str, mode: int, advice: str) -> None:
    path = files.folder / name
    good(files)
    path.chmod(mode)
    message = refused(files)
    assert f"{path}: must not be accessible to others" in message
    assert advice in message


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("", "has 0 keys"),
        ("# nothing but words\n", "has 0 keys"),
        ("c2hvcnQ=", "line 1: must be 32 random bytes as base64"),
        (f"{GOSSIP_KEY}\n*{GOSSIP_KEY[1:]}", "line 2: must be 32 random bytes as base64"),
        (base64.b64encode(bytes(32)).decode(), "line 1: must be 32 random bytes as base64"),
        (f"{GOSSIP_KEY}\n{GOSSIP_KEY}", "line 2: clashes with a key above"),
    ],
)
def test_gossip_keys_that_are_none_are_refused_and_not_shown(files: Files, lines: str, why: str) -> None:
    good(files).write(keys=lines)
    message = refused(files)
    assert why in message
    assert not [line for line in lines.split() if len(line) > 8 and line in message]


def test_more_gossip_keys_than_a_rotation_needs_are_refused(files: Files) -> None:
    lines = ""
    good(files)
    while lines.count("\n") < 4:
        more = f"{lines}{base64.b64encode(os.urandom(32)).decode()}\n"
        try:
            files.write(keys=more).security()
        except SecurityError as error:
            if "clashes" in str(error):
                continue
        lines = more
    assert "gossip.keys: has 4 keys; it must have 1 to 3" in refused(files)


@pytest.mark.parametrize("field", ["ca", "cert", "key", "gossip_keys"])
@pytest.mark.parametrize("value", ["", 7])
def test_a_setting_that_is_no_path_is_refused_by_name(files: Files, field: str, value: object) -> None:
    good(files)
    paths: dict[str, object] = {"ca": files.ca, "cert": files.cert, "key": files.key, field: value}
    with pytest.raises(SecurityError, match=f"{field} = {value!r}: must be the path of a file"):
        Security.files(**paths)  # type: ignore[arg-type]


def test_no_secret_is_in_the_repr(files: Files) -> None:
    security = good(files).security()
    assert repr(security) == "<rpcnet.Security of cluster 'prod' by files, for node 'a'>"
    assert GOSSIP_KEY not in repr(security.gossip_keys)


# --- what is refused of a peer


@pytest.mark.parametrize(
    ("about", "why"),
    [
        ({"expires": -30.0}, "the peer's certificate has expired"),
        ({"begins": DAY / 2}, "the peer's certificate is not valid yet"),
        ({"cluster": "staging"}, "the peer belongs to cluster 'staging', not to 'prod'"),
        ({"uris": []}, "the peer's certificate lacks the extension"),
        ({"extended": [ExtendedKeyUsageOID.CODE_SIGNING]}, "wrong extended key usage"),
        ({"kind": "rsa1024"}, "has an RSA key of 1024 bits"),
        ({"kind": "p521"}, "has the curve secp521r1"),
    ],
)
def test_a_peer_with_a_wrong_certificate_is_refused(files: Files, about: dict[str, Any], why: str) -> None:
    authority = root()
    security = good(files, authority).security()
    with pytest.raises(SecurityError, match=why):
        security.verify(authority.leaf("b", **about).certificate)


def test_a_peer_without_a_certificate_is_refused(files: Files) -> None:
    with pytest.raises(SecurityError, match="sent no certificate"):
        good(files).security().verify(None)


def signed_with_sha1(authority: Authority, leaf: Issued) -> x509.Certificate:
    """Sign a leaf again in the way that the library below refuses to."""
    sha256, sha1 = bytes.fromhex("2a864886f70d01010b"), bytes.fromhex("2a864886f70d010105")
    body = leaf.certificate.tbs_certificate_bytes.replace(sha256, sha1)
    key = authority.own.key
    assert isinstance(key, rsa.RSAPrivateKey)
    signature = key.sign(body, PKCS1v15(), hashes.SHA1())
    der = leaf.certificate.public_bytes(Encoding.DER).replace(sha256, sha1)
    start = der.index(body)
    der = der[:start] + body + der[start + len(body) : -len(signature)] + signature
    return x509.load_der_x509_certificate(der)


def test_a_signature_with_a_broken_hash_is_refused(files: Files) -> None:
    authority = root(kind="rsa2048")
    security = good(files, authority).security()
    with pytest.raises(SecurityError, match="has a signature with sha1"):
        security.verify(signed_with_sha1(authority, authority.leaf("b")))


def test_a_leaf_cannot_issue_leaves_in_a_chain(files: Files) -> None:
    authority = root()
    security = good(files, authority).security()
    mallory = Authority(authority.leaf("mallory"), is_root=False)
    for basic in (True, False):
        forged = mallory.leaf("b", basic=basic)
        with pytest.raises(SecurityError, match="not issued by an authority that is trusted here"):
            security.verify(forged.certificate, forged.between)


def test_one_that_may_sign_certificates_but_is_no_authority_issues_none(files: Files) -> None:
    authority = root()
    security = good(files, authority).security()
    usage = key_usage(signing_certificates=True)
    forged = Authority(authority.leaf("mallory", usage=usage, basic=False), is_root=False).leaf("b")
    with pytest.raises(SecurityError, match="trusted here: invalid CA certificate"):
        security.verify(forged.certificate, forged.between)


def test_the_path_length_of_an_authority_holds(files: Files) -> None:
    authority = root()
    security = good(files, authority).security()
    leaf = authority.authority("one", path_length=0).authority("two").leaf("b")
    with pytest.raises(SecurityError, match="not issued by an authority that is trusted here"):
        security.verify(leaf.certificate, leaf.between)


def test_an_expired_authority_between_is_refused(files: Files) -> None:
    authority = root()
    security = good(files, authority).security()
    leaf = authority.authority("one", expires=-30.0).leaf("b")
    with pytest.raises(SecurityError, match="not issued by an authority that is trusted here: certificate has expired"):
        security.verify(leaf.certificate, leaf.between)


def test_the_moment_of_verification_can_be_given(files: Files) -> None:
    authority = root()
    security = good(files, authority).security()
    leaf = authority.leaf("b", expires=10 * DAY).certificate
    assert security.verify(leaf, now=time.time() + 9 * DAY) == "b"
    with pytest.raises(SecurityError, match="has expired"):
        security.verify(leaf, now=time.time() + 11 * DAY)


# --- what a change does


def test_files_are_looked_at_once_a_second_and_what_changed_is_read_again(files: Files) -> None:
    authority = root()
    security = good(files, authority).security()
    before = security.issue("a")
    assert security.refresh(10.0, time.time()) == 0
    files.write(leaf=authority.leaf())
    assert security.refresh(10.9, time.time()) == 0
    assert security.issue("a") is before
    assert security.refresh(11.0, time.time()) == 1
    assert security.issue("a").certificate != before.certificate
    assert security.refresh(50.0, time.time()) == 1


def test_a_clock_that_begins_anew_does_not_keep_the_files_from_being_looked_at(files: Files) -> None:
    authority = root()
    security = good(files, authority).security()
    security.refresh(1e6, time.time())
    files.write(leaf=authority.leaf())
    assert security.refresh(0.0, time.time()) == 1


def test_a_new_file_of_authorities_decides_whom_to_trust(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    old, new = root("old"), root("new")
    security = good(files, old).security()
    files.write(ca=old.pem + new.pem)
    security.refresh(0.0, time.time())
    assert security.verify(new.leaf("b").certificate) == "b"
    assert security.verify(old.leaf("b").certificate) == "b"
    assert not caplog.records
    files.write(ca=new.pem)
    security.refresh(2.0, time.time())
    with pytest.raises(SecurityError, match="not issued by an authority that is trusted here"):
        security.verify(old.leaf("b").certificate)
    [record] = caplog.records
    assert "nodes with the same file of authorities will refuse this one" in record.getMessage()


def test_new_gossip_keys_are_there_after_a_look(files: Files) -> None:
    security = good(files).security()
    before = security.gossip_keys
    files.write(keys=base64.b64encode(os.urandom(32)).decode())
    assert security.gossip_keys == before
    assert security.refresh(0.0, time.time()) == 1
    assert security.gossip_keys != before


def spoil_nothing(files: Files, authority: Authority) -> None:
    files.write(leaf=authority.leaf("a"))


def spoil_half(files: Files, authority: Authority) -> None:
    files.put(files.cert, authority.leaf("a").pem()[:150])


def spoil_key(files: Files, authority: Authority) -> None:
    files.put(files.key, authority.leaf("a").key_pem())


def spoil_expired(files: Files, authority: Authority) -> None:
    files.write(leaf=authority.leaf("a", expires=-30.0))


def spoil_name(files: Files, authority: Authority) -> None:
    files.write(leaf=authority.leaf("b"))


def spoil_cluster(files: Files, authority: Authority) -> None:
    files.write(leaf=authority.leaf("a", cluster="staging"))


def spoil_mode(files: Files, authority: Authority) -> None:
    files.write(leaf=authority.leaf("a"), mode=0o644)


def spoil_absent(files: Files, authority: Authority) -> None:
    files.cert.unlink()


@pytest.mark.parametrize(
    "spoil", [spoil_half, spoil_key, spoil_expired, spoil_name, spoil_cluster, spoil_mode, spoil_absent]
)
def test_a_bad_file_leaves_the_old_one_in_force_and_is_reported_once(
    files: Files, caplog: pytest.LogCaptureFixture, spoil: object
) -> None:
    authority = root()
    security = good(files, authority).security()
    before = security.issue("a")
    assert callable(spoil)
    spoil(files, authority)
    for now in range(0, 20, 2):
        assert security.refresh(float(now), time.time()) == 0
    assert security.issue("a") is before
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "what was read before stays in force" in record.getMessage()
    spoil_nothing(files, authority)
    assert security.refresh(30.0, time.time()) == 1
    assert security.issue("a") is not before


def test_a_bad_file_of_authorities_leaves_the_old_one_in_force(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    authority = root()
    security = good(files, authority).security()
    files.put(files.ca, authority.pem[:100])
    assert security.refresh(0.0, time.time()) == 0
    assert security.verify(authority.leaf("b").certificate) == "b"
    assert len(caplog.records) == 1


def test_a_certificate_written_before_its_key_is_taken_when_the_key_is_there(files: Files) -> None:
    authority = root()
    security = good(files, authority).security()
    leaf = authority.leaf()
    files.put(files.cert, leaf.pem())
    assert security.refresh(0.0, time.time()) == 0
    files.put(files.key, leaf.key_pem())
    assert security.refresh(2.0, time.time()) == 1
    assert security.issue("a").certificate == x509.load_pem_x509_certificate(
        leaf.certificate.public_bytes(Encoding.PEM)
    )
