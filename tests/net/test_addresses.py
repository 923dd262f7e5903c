from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpcnet._net.addresses import format_address, from_socket, is_literal, is_loopback, is_wildcard, parse_address
from rpcnet.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("10.0.0.1:7946", ("10.0.0.1", 7946)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("node-a.example:1", ("node-a.example", 1)),
        ("[fe80::1%eth0]:7946", ("fe80::1%eth0", 7946)),
    ],
)
def test_an_address_is_split_and_joined_again(text: str, parsed: tuple[str, int]) -> None:
    assert parse_address(text) == parsed
    assert format_address(parsed) == text


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "has no port"),
        ("10.0.0.1", "has no port"),
        ("::1:7946", "in brackets"),
        ("[::1]", "in brackets"),
        ("[10.0.0.1]:1", "only an IPv6 address"),
        ("[::1:7946", "in brackets"),
        (":7946", "no usable host"),
        ("a b:7946", "no usable host"),
        ("user@host:7946", "no usable host"),
        ("a/b:7946", "no usable host"),
        ("x" * 254 + ":1", "no usable host"),
        ("host:", "from 0 to 65535"),
        ("host:65536", "from 0 to 65535"),
        ("host:-1", "from 0 to 65535"),
        ("host:+1", "from 0 to 65535"),
        ("host:1_0", "from 0 to 65535"),
        ("host:\u0661", "from 0 to 65535"),
        ("host:http", "from 0 to 65535"),
    ],
)
def test_a_wrong_address_is_refused_with_the_rule(text: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule) as caught:
        parse_address(text)
    assert repr(text) in str(caught.value)


def test_a_value_that_is_no_string_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be a string"):
        parse_address(("10.0.0.1", 7946))


@given(st.text(max_size=30))
def test_any_text_is_split_or_refused(text: str) -> None:
    try:
        host, port = parse_address(text)
    except ConfigError:
        return
    assert parse_address(format_address((host, port))) == (host, port)


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(0, 65535))
def test_every_ip_address_survives_the_round_trip(ip: object, port: int) -> None:
    assert parse_address(format_address((str(ip), port))) == (str(ip), port)


def test_socket_names_become_two_values() -> None:
    assert from_socket(("10.0.0.1", 5)) == ("10.0.0.1", 5)
    assert from_socket(("::1", 5, 0, 0)) == ("::1", 5)
    assert from_socket(("fe80::1", 5, 0, 2)) == ("fe80::1%2", 5)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.9", "::1", "localhost"])
def test_loopback_hosts_are_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "0.0.0.0", "::", "fe80::1", "example.org", "127.0.0.1.example.org"])
def test_other_hosts_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_wildcards_and_literals_are_known() -> None:
    assert is_wildcard("0.0.0.0")
    assert is_wildcard("::")
    assert not is_wildcard("10.0.0.1")
    assert not is_wildcard("any")
    assert is_literal("::1")
    assert not is_literal("localhost")
