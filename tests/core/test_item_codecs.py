"""A request stream is taken out of the arguments; its items are converted one by one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import cbor2
import pytest
import trio
from _contracts import LIMIT, Page, codec

from rpcnet._core.values import MethodCodec, compile_service
from rpcnet.errors import InvalidArgument, ResourceExhausted
from rpcnet.service import definition_of, rpc, service


@service
class Printing:
    @rpc
    async def upload(self, job: int, pages: AsyncIterator[Page], copies: int = 1) -> AsyncIterator[Page]:
        async for page in pages:
            yield page

    @rpc
    async def only(self, pages: AsyncIterator[bytes]) -> None: ...

    @rpc
    async def none(self, job: int) -> int:
        return job


CODECS: Mapping[str, MethodCodec] = compile_service(definition_of(Printing), max_depth=64, max_bytes=LIMIT)
UPLOAD = CODECS["upload"]


class Source:
    """The least that a stream of items can be."""

    def __aiter__(self) -> AsyncIterator[Page]:
        raise NotImplementedError


PAGES = Source()


@pytest.mark.parametrize(
    ("args", "kwargs", "rest", "named"),
    [
        ((1, PAGES), {}, (1,), {}),
        ((1, PAGES, 2), {}, (1, 2), {}),
        ((1,), {"pages": PAGES}, (1,), {}),
        ((1, PAGES), {"copies": 2}, (1,), {"copies": 2}),
        ((), {"copies": 2, "pages": PAGES, "job": 1}, (), {"copies": 2, "job": 1}),
    ],
)
def test_the_stream_is_taken_out_wherever_it_stands(
    args: tuple[object, ...], kwargs: dict[str, object], rest: tuple[object, ...], named: dict[str, object]
) -> None:
    before = dict(kwargs)
    assert UPLOAD.split_requests(args, kwargs) == (rest, named, PAGES)
    assert kwargs == before
    copies = [2] if 2 in (*rest, *named.values()) else []
    assert UPLOAD.decode_arguments(UPLOAD.encode_arguments(rest, named)) == [1, *copies]


@pytest.mark.parametrize(
    ("args", "kwargs", "problem"),
    [
        ((), {}, "parameter 'pages' is missing"),
        ((1,), {"copies": 2}, "parameter 'pages' is missing"),
        ((1, 2), {"pages": PAGES}, "got parameter 'pages' twice"),
        ((1, PAGES), {"pages": PAGES}, "got parameter 'pages' twice"),
        ((1, [Page(1)]), {}, "pages: expected an async iterable, got list"),
        ((1, None), {}, "pages: expected an async iterable, got None"),
        ((1,), {"pages": Source}, "pages: expected an async iterable, got type"),
    ],
)
def test_a_stream_that_is_missing_or_none_is_refused(
    args: tuple[object, ...], kwargs: dict[str, object], problem: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        UPLOAD.split_requests(args, kwargs)
    assert str(caught.value) == f"Printing.upload: {problem}"
    assert caught.value.never_ran


def test_generators_and_receive_channels_are_streams_and_a_method_without_one_is_left_alone() -> None:
    async def pages() -> AsyncIterator[bytes]:
        yield b""

    generator = pages()
    _, channel = trio.open_memory_channel[bytes](0)
    for stream in (generator, channel):
        assert CODECS["only"].split_requests((stream,), {}) == ((), {}, stream)
    args, kwargs = (1,), {"x": 2}
    assert CODECS["none"].split_requests(args, kwargs) == (args, kwargs, None)


def test_items_of_both_directions_are_converted_one_by_one() -> None:
    page = Page(1, ["a"])
    body = cbor2.dumps({"number": 1, "words": ["a"]})
    assert UPLOAD.encode_request(page) == UPLOAD.encode_result(page) == body
    assert UPLOAD.decode_request(body) == UPLOAD.decode_result(body) == page
    only = CODECS["only"]
    assert only.decode_request(only.encode_request(b"x" * 64)) == b"x" * 64


def test_an_item_of_the_wrong_type_names_the_parameter() -> None:
    wrong = Page(1, ["a", 2])  # type: ignore[list-item]
    with pytest.raises(InvalidArgument, match=r"^Printing.upload: pages.words\[1\]: expected str, got int$") as caught:
        UPLOAD.encode_request(wrong)
    assert not caught.value.never_ran
    with pytest.raises(InvalidArgument, match=r"^Printing.upload: pages: expected Page, got bytes$"):
        UPLOAD.encode_request(b"")
    with pytest.raises(InvalidArgument, match=r"^Printing.upload: pages: cannot be sent: 'utf-8'"):
        UPLOAD.encode_request(Page(1, ["\ud800"]))


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "pages: cannot be read: premature end"),
        (b"\x01", "pages: expected Page, got int"),
        (cbor2.dumps({"words": []}), "pages.number: missing"),
        (b"\xc1\x00", "pages: cannot be read: "),
        (b"\x81" * 100, "pages: cannot be read: "),
    ],
)
def test_an_item_that_arrives_is_not_trusted(body: bytes, problem: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        UPLOAD.decode_request(body)
    assert str(caught.value).startswith(f"Printing.upload: {problem}")
    assert not caught.value.never_ran


def test_an_item_above_the_limit_is_refused_with_both_sizes() -> None:
    one = codec(requests=bytes, max_bytes=1000)
    message = "the item of 'items' has 1003 bytes, at most 1000 are allowed"
    with pytest.raises(ResourceExhausted, match=message):
        one.encode_request(b"x" * 1000)
    with pytest.raises(ResourceExhausted, match=message):
        one.decode_request(b"x" * 1003)


def test_a_method_without_a_stream_takes_no_items() -> None:
    with pytest.raises(InvalidArgument, match=r"^Printing.none: items: the method takes no stream$"):
        CODECS["none"].encode_request(1)
    with pytest.raises(InvalidArgument, match=r"^Printing.none: items: the method takes no stream$"):
        CODECS["none"].decode_request(b"\x01")
