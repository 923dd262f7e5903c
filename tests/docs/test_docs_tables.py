"""What the reference of RPC says in tables, and what the code says."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime as dt
import decimal
import enum
import pathlib
import re
import typing
import uuid
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar

import attrs
import cbor2
import pytest
from _examples import ROOT, tables_of

import rpcnet
from rpcnet._core.bodies import Hello, encode_hello
from rpcnet._core.fitting import differences
from rpcnet._core.framing import FrameKind, StreamKind
from rpcnet._core.schema import describe_method
from rpcnet._net import quic, session
from rpcnet.errors import error_for_status
from rpcnet.service import Shape, definition_of

RPC = ROOT / "docs" / "rpc.md"
TEXT = RPC.read_text(encoding="utf-8")
UNITS = {"": 1, "s": 1, "KiB": 1 << 10, "MiB": 1 << 20}
WORDS = {"yes": True, "no": False}

T = TypeVar("T")


def code(cell: str) -> list[str]:
    """Return what stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


# --- names and numbers


def test_every_status_is_explained_with_its_class() -> None:
    rows = [(*cells[0].split(), *cells[1:]) for cells in tables_of(RPC, "Errors")]
    assert [(int(number), *code(name)) for number, name, *_ in rows] == [
        (each.value, each.name) for each in rpcnet.Status
    ]
    for number, _, name, *_ in rows:
        assert code(name) == ([type(error_for_status(int(number), "")).__name__] if int(number) else [])


def test_every_limit_is_listed_with_its_default() -> None:
    defaults = {}
    for name, default, _ in tables_of(RPC, "Limits"):
        number, _, unit = default.partition(" ")
        defaults[code(name)[0]] = WORDS[default] if default in WORDS else float(number) * UNITS[unit]
    assert defaults == {field.name: field.default for field in attrs.fields(rpcnet.RpcConfig)}


def test_the_defaults_of_retries_are_those_of_the_code() -> None:
    found = re.search(r"`rpcnet\.RetryPolicy\(([^)]*=[^)]*,[^)]*)\)`", TEXT)
    assert found is not None
    said = dict(pair.split("=") for pair in re.split(r",\s+", found[1]))
    assert {name: float(value) for name, value in said.items()} == attrs.asdict(rpcnet.RetryPolicy())


def test_all_that_a_handler_can_know_of_its_call_is_listed() -> None:
    listed = [code(name)[0] for name, _ in tables_of(RPC, "What a handler knows of its call")]
    assert sorted(listed) == [name for name in dir(rpcnet.ServerCall) if not name.startswith("_")]


def test_every_link_leads_somewhere() -> None:
    prose = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(([^)]+)\)", prose)
    assert [link for link in links if link.startswith("#") and link[1:] not in anchors] == []
    files = [link for link in links if not link.startswith("#")]
    assert files
    assert [link for link in files if not (RPC.parent / link).exists()] == []


# --- the wire


def test_streams_frames_codes_and_hello_are_those_of_the_code() -> None:
    rows = tables_of(RPC, "The wire protocol")
    streams = {code(row[1])[0]: int(row[0]) for row in rows if len(row) == 4}
    frames = {code(row[1])[0]: int(row[0]) for row in rows if len(row) == 5}
    codes = {code(row[1])[0]: int(code(row[0])[0], 16) for row in rows if len(row) == 3}
    fields = [name for row in rows if len(row) == 2 for name in code(row[0])]
    assert streams == {kind.name: kind.value for kind in StreamKind}
    assert frames == {kind.name: kind.value for kind in FrameKind}
    known = {**vars(quic), **vars(session)}
    prefixes = ("CLOSE_", "STREAM_")
    assert codes == {name: value for name, value in known.items() if name.startswith(prefixes)}
    hello = Hello(protocol_min=1, protocol_max=1, library="", node_id="", boot_id=0, max_calls=1, max_message_bytes=1)
    assert fields == list(cbor2.loads(encode_hello(hello)))
    services = next(row[1] for row in rows if row[0] == "`services`")
    shapes = {number: Shape(name) for number, name in re.findall(r"(\d) ([a-z ]+)", services)}
    assert [shapes[str(number)] for number in range(len(shapes))] == list(Shape)


# --- values


class Color(enum.Enum):
    RED = "red"


@attrs.frozen
class Page:
    number: int


@dataclasses.dataclass
class Person:
    name: str


@attrs.frozen
class Box(Generic[T]):
    content: T


class Point(NamedTuple):
    x: int


class Options(TypedDict):
    color: bool


NAMES: dict[str, object] = {
    **vars(collections.abc),
    **{name: getattr(typing, name) for name in ("Any", "Annotated", "Literal", "Optional")},
    **{each.__name__: each for each in (Color, Page, Person, Box, Point, Options, pathlib.Path, collections.deque)},
    **{each.__name__: each for each in (dt, decimal, uuid)},
    "UserId": typing.NewType("UserId", int),
    "Alias": int,
}
KINDS = {"enum.Enum", "NewType", "TypeAlias", "NamedTuple", "TypedDict"}


def shown(*, kept: bool) -> list[str]:
    """Return the annotations that the tables show, of those that travel or of those that do not."""
    rows = tables_of(RPC, "Values")
    return [text for row in rows if (len(row) == 3) is kept for text in code(row[0]) if text not in KINDS]


def declare(text: str) -> None:
    """Declare a service that takes and returns what an annotation says."""
    annotation = eval(text, dict(NAMES))

    async def method(self: object, value: Any) -> Any:
        raise NotImplementedError

    method.__annotations__ = {"value": annotation, "return": annotation}
    method.__qualname__ = method.__name__ = "method"
    rpcnet.service(type("Service", (), {"method": rpcnet.rpc(method)}))


@pytest.mark.parametrize("text", shown(kept=True))
def test_an_annotation_that_is_said_to_travel_is_taken(text: str) -> None:
    declare(text)


@pytest.mark.parametrize("text", shown(kept=False))
def test_an_annotation_that_is_said_not_to_travel_is_refused(text: str) -> None:
    with pytest.raises(rpcnet.ConfigError, match=r"Service\.method: .* is not supported: "):
        declare(text)


# --- versions of contracts


@attrs.frozen
class Old:
    number: int


@attrs.frozen
class Longer:
    number: int
    name: str = ""


@attrs.frozen
class Demanding:
    number: int
    name: str


class Gone(rpcnet.ApplicationError):
    why: str


Contract = Callable[..., Any]


def contract(method: Contract, raises: tuple[type[rpcnet.ApplicationError], ...] = ()) -> Any:
    """Return what a service with one method says of it."""
    method.__qualname__ = method.__name__ = "method"
    cls = rpcnet.service(type("Service", (), {"method": rpcnet.rpc(raises=raises)(method)}))
    return describe_method(definition_of(cls).methods["method"])


async def plain(self: Any, first: int, second: str) -> int: ...  # type: ignore[empty-body]
async def longer(self: Any, first: int, second: str, third: int = 0) -> int: ...  # type: ignore[empty-body]
async def demanding(self: Any, first: int, second: str, third: int) -> int: ...  # type: ignore[empty-body]
async def takes_old(self: Any, value: Old) -> None: ...
async def takes_longer(self: Any, value: Longer) -> None: ...
async def takes_demanding(self: Any, value: Demanding) -> None: ...
async def gives_old(self: Any) -> Old: ...  # type: ignore[empty-body]
async def gives_demanding(self: Any) -> Demanding: ...  # type: ignore[empty-body]
async def takes_float(self: Any, first: float, second: str) -> int: ...  # type: ignore[empty-body]
async def gives_optional(self: Any, first: int, second: str) -> int | None: ...
async def renamed(self: Any, one: int, two: str = "") -> int: ...  # type: ignore[empty-body]
async def named(self: Any, first: int, second: str = "none") -> int: ...  # type: ignore[empty-body]
async def swapped(self: Any, second: str, first: int) -> int: ...  # type: ignore[empty-body]


CHANGES: dict[str, tuple[Any, Any]] = {
    "a new parameter at the end, with a default": (contract(plain), contract(longer)),
    "a new parameter without a default, or not at the end": (contract(plain), contract(demanding)),
    "a field with a default more or less, in a class that is sent either way": (
        contract(takes_old),
        contract(takes_longer),
    ),
    "a field without a default more, in a parameter": (contract(takes_old), contract(takes_demanding)),
    "a field without a default more, in a result": (contract(gives_old), contract(gives_demanding)),
    "a parameter takes more: `int` becomes `float`, or `int | str`": (contract(plain), contract(takes_float)),
    "a result gives less: `int | None` becomes `int`": (contract(gives_optional), contract(plain)),
    "another name of a parameter, a class, an enum's member; another default; a docstring": (
        contract(named),
        contract(renamed),
    ),
    "parameters that change places; another shape": (contract(plain), contract(swapped)),
    "one more declared error": (contract(plain), contract(plain, raises=(Gone,))),
}


def test_every_change_of_a_contract_fits_as_the_table_says() -> None:
    rows = {row[0]: row[1:] for row in tables_of(RPC, "Schemas and versions")}
    assert set(rows) == {*CHANGES, "a new method"}
    for change, (old, new) in CHANGES.items():
        found = ["fits" if not differences(*pair) else "does not fit" for pair in ((old, new), (new, old))]
        assert [cell.partition(";")[0] for cell in rows[change]] == found, change
