"""Hostile bytes are refused before they take memory, and limits are said with their numbers."""

from __future__ import annotations

import tracemalloc
from typing import Any

import cbor2
import pytest
from _contracts import (
    Page,
    Tree,
    codec,
    round_trip,
)

from rpcnet._core.values import MAX_INTEGER_BYTES
from rpcnet.errors import InvalidArgument, ResourceExhausted


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x9b" + (2**40).to_bytes(8),
        b"\x9b" + b"\xff" * 8,
        b"\x81\x9b" + (2**40).to_bytes(8),
        b"\x81\xbb" + (2**40).to_bytes(8),
        b"\x81\x5b" + (2**40).to_bytes(8),
        b"\x81\x7b" + (2**40).to_bytes(8),
        b"\x81" * 60_000,
        b"\xc2\x5b" + (2**40).to_bytes(8),
    ],
)
def test_a_declared_length_takes_no_memory(body: bytes) -> None:
    for one in (codec(Any), codec(list[int]), codec(bytes)):
        tracemalloc.start()
        try:
            with pytest.raises(InvalidArgument):
                one.decode_arguments(body)
            assert tracemalloc.get_traced_memory()[1] < 4 * len(body) + 500_000
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    "item",
    [
        b"\x9f\x01\xff",
        b"\x5f\x41a\xff",
        b"\xa2\x61a\x01\x61a\x02",
        b"\xf7",
        b"\xe0",
        b"\x61\xff",
        b"\xff",
        b"\x1c",
        b"\xc2\x61a",
        b"\xc2" + cbor2.dumps(b"\xff" * (MAX_INTEGER_BYTES + 1)),
        b"\xc3" + cbor2.dumps(b"\xff" * (MAX_INTEGER_BYTES + 1)),
    ],
)
def test_cbor_that_is_not_needed_is_refused(item: bytes) -> None:
    with pytest.raises(InvalidArgument):
        codec(Any).decode_arguments(b"\x81" + item)


def test_no_tag_is_read_but_those_of_integers() -> None:
    one = codec(Any)
    payloads = [b"\x01", b"\x61a", b"\x41a", b"\x80", b"\x82\x01\x02", b"\xa0"]
    read = []
    for tag in [*range(300), 1004, 43000, 55799, 2**32]:
        for payload in payloads:
            try:
                one.decode_arguments(b"\x81" + cbor2.dumps(cbor2.CBORTag(tag, 0))[:-1] + payload)
            except InvalidArgument:
                continue
            read.append((tag, payload))
    assert read == [(2, b"\x41a"), (3, b"\x41a")]


def test_the_largest_integer_is_read() -> None:
    largest = 2 ** (8 * MAX_INTEGER_BYTES) - 1
    assert round_trip(int, largest) == largest
    assert round_trip(int, ~largest) == ~largest


def test_keys_that_can_be_made_to_collide_are_read_only_where_an_annotation_asks_for_them() -> None:
    body = cbor2.dumps([{1: 2}])
    for annotation in (dict[str, int], dict[bytes, int], Page):
        with pytest.raises(InvalidArgument, match="map key must be a text string or byte string"):
            codec(annotation).decode_arguments(body)
    assert codec(dict[int, int]).decode_arguments(body) == [{1: 2}]
    assert codec(Any).decode_arguments(body) == [{1: 2}]


def test_values_nest_as_deep_as_the_limit_allows() -> None:
    def nested(depth: int) -> object:
        value: object = 1
        for _ in range(depth):
            value = [value]
        return value

    one = codec(Any, max_depth=10)
    assert one.decode_arguments(one.encode_arguments((nested(9),), {})) == [nested(9)]
    with pytest.raises(InvalidArgument, match="maximum container nesting depth"):
        one.decode_arguments(cbor2.dumps([nested(10)]))
    with pytest.raises(InvalidArgument, match="nests deeper than 10 levels"):
        one.encode_arguments((nested(11),), {})


def test_values_without_end_are_refused_at_the_sender() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidArgument, match="nests deeper than 64 levels"):
        codec(Any).encode_arguments((endless,), {})
    tree = Tree("leaf")
    for _ in range(5000):
        tree = Tree("node", twin=tree)
    with pytest.raises(InvalidArgument, match="p0: nests too deep"):
        codec(Tree).encode_arguments((tree,), {})
    with pytest.raises(TypeError, match="returned what cannot be sent"):
        codec(result=Tree).encode_result(tree)


def test_a_body_above_the_limit_is_refused_with_both_sizes() -> None:
    one = codec(bytes, result=bytes, max_bytes=1000)
    message = r"Service.method: the {} have 1004 bytes, at most 1000 are allowed"
    with pytest.raises(ResourceExhausted, match=message.format("arguments")) as caught:
        one.encode_arguments((b"x" * 1000,), {})
    assert caught.value.never_ran
    with pytest.raises(ResourceExhausted, match=message.format("arguments")):
        one.decode_arguments(cbor2.dumps([b"x" * 1000]))
    with pytest.raises(ResourceExhausted, match="the result has 1003 bytes, at most 1000 are allowed") as caught:
        one.encode_result(b"x" * 1000)
    assert not caught.value.never_ran
    with pytest.raises(ResourceExhausted, match="the result has 1003 bytes"):
        one.decode_result(cbor2.dumps(b"x" * 1000))
    assert one.decode_arguments(one.encode_arguments((b"x" * 996,), {})) == [b"x" * 996]
