"""Annotations as two versions of one contract may have them, each with values that show what it is on the wire."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs
from _contracts import Color, Level, Page, Person, Rights, Tree


def version(name: str, **fields: Any) -> Any:
    """Make an attrs class; a field is an annotation, or an annotation and a default."""
    made = {
        field: attrs.field(type=said[0], default=said[1]) if isinstance(said, tuple) else attrs.field(type=said)
        for field, said in fields.items()
    }
    return attrs.make_class(name, made, frozen=True)


def generic(origin: Any, *arguments: Any) -> Any:
    """Return ``origin[arguments]``, for arguments that a type checker takes for values."""
    return origin[arguments]


BOOK = version("Book", title=str)
BOOK_WITH_PAGES = version("Book", title=str, pages=(int, 0))
BOOK_NEEDS_PAGES = version("Book", title=str, pages=int)
BOOK_MAYBE = version("Book", title=(str, "none"), pages=(int | None, None))
BOOK_OF_BYTES = version("Book", title=bytes)
BOOK_WITH_INDEX = version("Book", title=str, index=(dict[int, str], attrs.Factory(dict)))
NOVEL = version("Novel", title=str)
SHELF = version("Shelf", books=generic(list, BOOK), best=(BOOK | None, None))
SHELF_2 = version("Shelf", books=generic(list, BOOK_WITH_PAGES), best=(BOOK_MAYBE | None, None), room=(str, ""))
SHELF_3 = version("Shelf", books=generic(list, BOOK_NEEDS_PAGES))


@attrs.frozen
class Chain:
    value: int
    rest: Chain | None = None


@dataclasses.dataclass(frozen=True)
class Link:
    value: float
    rest: Link | None = None
    note: str = ""


class Shade(enum.Enum):
    RED = "red"
    BLUE = "blue"
    GREEN = "green"


class Mixed(enum.Enum):
    ONE = 1
    RED = "red"


class Date(enum.Enum):
    FIRST = "2024-01-01"


class More(enum.Flag):
    READ = 1
    WRITE = 2
    RUN = 4


class Bits(enum.IntFlag):
    READ = 1
    RUN = 4


UUID = uuid.UUID(int=7)
WHEN = dt.datetime(2024, 5, 1, 12, 30, tzinfo=dt.timezone.utc)  # noqa: UP017 - the class is dt.timezone elsewhere, too
DAY = dt.date(2024, 5, 1)
TREE = Tree("a", [Tree("b")], Tree("c"))

TABLE: list[tuple[Any, list[Any]]] = [
    (None, [None]),
    (bool, [True, False]),
    (int, [0, 1, -1, 2, 3, 5, 8, 10**30]),
    (float, [0.0, 1.5, -1.0, 1e300]),
    (str, ["", "red", "a", "x", "2024-01-01", "1.5", "1"]),
    (bytes, [b"", b"x", bytes(16)]),
    (dt.datetime, [WHEN, WHEN.replace(tzinfo=None)]),
    (dt.date, [DAY]),
    (decimal.Decimal, [decimal.Decimal("1.5"), decimal.Decimal("NaN"), decimal.Decimal(0)]),
    (uuid.UUID, [UUID]),
    (Any, [None, True, 1, 1.5, "a", b"a", [1, "a"], {"a": [1]}, {1: 2}, []]),
    (Color, list(Color)),
    (Shade, list(Shade)),
    (Level, list(Level)),
    (Mixed, list(Mixed)),
    (Date, list(Date)),
    (Rights, [Rights(0), Rights.READ, Rights.READ | Rights.WRITE]),
    (More, [More(0), More.RUN, More.READ | More.RUN]),
    (Bits, [Bits(0), Bits.RUN, Bits(3), Bits(64)]),
    (Literal["red", "blue"], ["red", "blue"]),
    (Literal["a", 1, True, None, b"x"], ["a", 1, True, None, b"x"]),  # noqa: PYI061 - a union is something else
    (Literal[1, 2], [1, 2]),
    (Literal[True, False], [True, False]),
    (Literal["1.5"], ["1.5"]),
    (Literal[-1], [-1]),
    (Literal[-64], [-64]),
    (list[int], [[], [1, 2], [1, 1]]),
    (list[str], [[], ["a", "b"], ["a", "a"]]),
    (list[float], [[], [1.5, 1.5]]),
    (list[Any], [[], [1, "a", None], ["Book", {"title": "x"}]]),
    (Sequence[int], [[], (1, 1)]),
    (set[int], [set(), {1, 2}]),
    (frozenset[str], [frozenset(), frozenset({"a", "b"})]),
    (set[float], [set(), {1.5}]),
    (tuple[int, ...], [(), (1, 1)]),
    (tuple[()], [()]),
    (tuple[int], [(1,)]),
    (tuple[int, int], [(1, 2), (1, 1)]),
    (tuple[int, str], [(1, "a")]),
    (tuple[float, str], [(1.5, "a")]),
    (dict[str, int], [{}, {"a": 1}, {"title": 1}, {"value": 1}]),
    (dict[str, str], [{}, {"a": "b"}, {"title": "b"}, {"pages": "b"}]),
    (dict[str, Any], [{}, {"a": 1}, {"title": 1}, {"title": "a", "pages": 7}]),
    (dict[int, int], [{}, {1: 1}]),
    (dict[float, int], [{}, {1.5: 1}]),
    (dict[Color, int], [{}, {Color.RED: 1}]),
    (dict[uuid.UUID, str], [{}, {UUID: "a"}]),
    (dict[dt.date, int], [{}, {DAY: 1}]),
    (Mapping[Literal["title"], str], [{}, {"title": "x"}]),
    (dict[decimal.Decimal, int], [{}, {decimal.Decimal("NaN"): 1}]),
    (BOOK, [BOOK("x")]),
    (BOOK_WITH_PAGES, [BOOK_WITH_PAGES("x"), BOOK_WITH_PAGES("x", 4)]),
    (BOOK_NEEDS_PAGES, [BOOK_NEEDS_PAGES("x", 4)]),
    (BOOK_MAYBE, [BOOK_MAYBE(), BOOK_MAYBE("x", 4)]),
    (BOOK_OF_BYTES, [BOOK_OF_BYTES(b"x")]),
    (BOOK_WITH_INDEX, [BOOK_WITH_INDEX("x"), BOOK_WITH_INDEX("x", {1: "a"})]),
    (NOVEL, [NOVEL("x")]),
    (SHELF, [SHELF([]), SHELF([BOOK("x")], BOOK("y"))]),
    (SHELF_2, [SHELF_2([]), SHELF_2([BOOK_WITH_PAGES("x")], BOOK_MAYBE())]),
    (SHELF_3, [SHELF_3([]), SHELF_3([BOOK_NEEDS_PAGES("x", 4)])]),
    (Chain, [Chain(1), Chain(1, Chain(2, Chain(3)))]),
    (Link, [Link(1.5), Link(1.5, Link(2.5))]),
    (Page, [Page(1), Page(1, ["a"])]),
    (Person, [Person("a", 1), Person("a", 1, DAY, Color.BLUE)]),  # type: ignore[arg-type]
    (Tree, [TREE]),
    (int | None, [7, None]),
    (str | None, ["a", "red", None]),
    (int | str, [7, "a"]),
    (int | str | None, [7, "a", None]),
    (float | None, [1.5, None]),
    (float | Level, [1.5, Level.LOW]),
    (str | bytes | dt.datetime, ["a", b"a", WHEN]),
    (str | dt.datetime, ["a", "str", WHEN]),
    (BOOK | None, [BOOK("x"), None]),
    (BOOK | str, [BOOK("x"), "a"]),
    (BOOK | NOVEL, [BOOK("x"), NOVEL("x")]),
    (BOOK_WITH_PAGES | NOVEL, [BOOK_WITH_PAGES("x", 4), NOVEL("x")]),
    (NOVEL | BOOK | None, [BOOK("x"), NOVEL("x"), None]),
    (BOOK | Page, [BOOK("x"), Page(1)]),
    (list[int] | set[int], [[1], {1}]),
    (list[int] | dict[str, int], [[1], {"a": 1}]),
    (generic(list, BOOK | NOVEL), [[], [BOOK("x"), NOVEL("x")]]),
    (generic(list, BOOK | None), [[], [BOOK("x"), None]]),
    (generic(tuple, Literal["Book"], BOOK), [("Book", BOOK("x"))]),
    (generic(tuple, str, BOOK), [("a", BOOK("x"))]),
    (tuple[str, dict[str, str]], [("a", {"title": "x"}), ("a", {})]),
]
