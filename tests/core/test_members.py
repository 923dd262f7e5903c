"""Records: what they hold, and what may be in them. Their order is in test_record_order.py."""

from __future__ import annotations

import attrs
import pytest

from rpcnet._core.members import (
    MAX_INLINE_BYTES,
    MemberRecord,
    check_address,
    check_metadata,
    encode_metadata,
    is_address,
    merge,
)
from rpcnet.errors import ConfigError
from rpcnet.events import NodeState

SUSPECT = NodeState.SUSPECT

RECORD = MemberRecord(id="ab" * 16, name="a", address="a:1", boot_id=5, incarnation=3)


def but(**changes: object) -> MemberRecord:
    return attrs.evolve(RECORD, **changes)  # type: ignore[arg-type]


def test_a_suspicion_with_old_tags_does_not_take_back_new_ones() -> None:
    current = but(meta_version=2, tags={"zone": "new"})
    suspicion = but(meta_version=1, tags={"zone": "old"}, state=SUSPECT)
    assert merge(current, suspicion) == but(meta_version=2, tags={"zone": "new"}, state=SUSPECT)


def test_new_tags_do_not_clear_a_suspicion() -> None:
    merged = merge(but(state=SUSPECT), but(meta_version=1, tags={"a": "b"}))
    assert (merged.state, dict(merged.tags)) == (SUSPECT, {"a": "b"})


def test_a_new_boot_brings_its_own_metadata_even_at_a_lower_version() -> None:
    merged = merge(but(meta_version=9, tags={"old": "1"}), but(boot_id=6, meta_version=0))
    assert (merged.meta_version, dict(merged.tags)) == (0, {})


def test_info_shows_users_what_the_record_says() -> None:
    info = but(tags={"a": "b"}, services=("s",), meta_version=4, state=SUSPECT).info()
    assert (info.id, info.name, info.address) == (RECORD.id, "a", "a:1")
    assert (info.boot_id, info.incarnation, info.meta_version, info.state) == (5, 3, 4, SUSPECT)
    assert (dict(info.tags), info.services) == ({"a": "b"}, ("s",))


def test_tags_cannot_be_changed_in_place() -> None:
    mutable = {"a": "b"}
    record = but(tags=mutable)
    mutable["a"] = "c"
    assert record.tags["a"] == "b"
    with pytest.raises(TypeError):
        record.tags["a"] = "d"  # type: ignore[index]


def test_too_much_metadata_names_both_sizes() -> None:
    tags = {"k": "v" * (MAX_INLINE_BYTES - len(encode_metadata({"k": "v" * 300}, ())) + 300)}
    check_metadata("a", tags, ())
    with pytest.raises(ConfigError, match=r"513 bytes.*at most 512"):
        check_metadata("a", {"k": tags["k"] + "v"}, ())


@pytest.mark.parametrize(
    ("name", "tags", "services", "message"),
    [
        ("", {}, (), "name = ''"),
        ("x" * 129, {}, (), "has 129"),
        ("\N{GRINNING FACE}" * 100, {}, (), "has 400"),
        ("a\ud800", {}, (), "Unicode"),
        ("a", {"": "v"}, (), "tag = ''"),
        ("a", {"k": 1}, (), "tag 'k' = 1"),
        ("a", {"k": "\ud800"}, (), "Unicode"),
        ("a", {1: "v"}, (), "tag = 1"),
        ("a", {}, ("s" * 129,), "service"),
        ("a", {}, (b"s",), "service"),
    ],
)
def test_metadata_that_cannot_be_told_is_refused(
    name: str, tags: dict[str, str], services: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_metadata(name, tags, services)


def test_a_name_of_128_characters_is_fine() -> None:
    check_metadata("x" * 128, {"k" * 128: ""}, ("s" * 128,))


@pytest.mark.parametrize("address", ["a:1", "127.0.0.1:7946", "[::1]:65535", "node.example.org:80"])
def test_addresses_are_host_and_port(address: str) -> None:
    assert is_address(address)
    check_address(address)


@pytest.mark.parametrize(
    "address",
    ["", "a", ":1", "a:", "a:0", "a:65536", "a:1x", "a b:1", "a:\u0661", "\u00e9:1", "\n:1", "a" * 255 + ":1"],
)
def test_what_cannot_be_sent_to_is_no_address(address: str) -> None:
    assert not is_address(address)
    with pytest.raises(ConfigError, match="address"):
        check_address(address)
