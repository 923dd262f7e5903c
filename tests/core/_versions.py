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
    (int, [0, 1, -1, 2, 3, 5, 9, 8, 10**30]),
    (float, [0.0, 1.5, -1.0, 1e300]),
    (str, ["", "w", "red", "a", "x", "2024-01-01", "1.5", "1"]),
    (bytes, [b"", b"w", b"x", bytes(16)]),
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
    (list[int], [[], [1, 9], [1, 1]]),
    (list[str], [[], ["a", "b"], ["a", "a"]]),
    (list[float], [[], [1.5, 1.5]]),
    (list[Any], [[], [1, "a", None], ["Book", {"title": "w"}]]),
    (Sequence[int], [[], (9, 9)]),
    (set[int], [set(), {1, 9}]),
    (frozenset[str], [frozenset(), frozenset({"a", "b"})]),
    (set[float], [set(), {1.5}]),
    (tuple[int, ...], [(), (9, 9)]),
    (tuple[()], [()]),
    (tuple[int], [(9,)]),
    (tuple[int, int], [(9, 2), (2, 9), (1, 1)]),
    (tuple[int, str], [(9, "b")]),
    (tuple[float, str], [(1.5, "b")]),
    (dict[str, int], [{}, {"a": 9}, {"title": 9}, {"value": 9}]),
    (dict[str, str], [{}, {"a": "b"}, {"title": "b"}, {"pages": "b"}]),
    (dict[str, Any], [{}, {"a": 9}, {"title": 9}, {"title": "a", "pages": 9}]),
    (dict[int, int], [{}, {1: 9}]),
    (dict[float, int], [{}, {1.5: 9}]),
    (dict[Color, int], [{}, {Color.RED: 9}]),
    (dict[uuid.UUID, str], [{}, {UUID: "a"}]),
    (dict[dt.date, int], [{}, {DAY: 9}]),
    (Mapping[Literal["title"], str], [{}, {"title": "w"}]),
    (dict[decimal.Decimal, int], [{}, {decimal.Decimal("NaN"): 9}]),
    (BOOK, [BOOK("w")]),
    (BOOK_WITH_PAGES, [BOOK_WITH_PAGES("w"), BOOK_WITH_PAGES("w", 9)]),
    (BOOK_NEEDS_PAGES, [BOOK_NEEDS_PAGES("w", 9)]),
    (BOOK_MAYBE, [BOOK_MAYBE(), BOOK_MAYBE("w", 9)]),
    (BOOK_OF_BYTES, [BOOK_OF_BYTES(b"w")]),
    (BOOK_WITH_INDEX, [BOOK_WITH_INDEX("w"), BOOK_WITH_INDEX("w", {1: "a"})]),
    (NOVEL, [NOVEL("w")]),
    (SHELF, [SHELF([]), SHELF([BOOK("w")], BOOK("v"))]),
    (SHELF_2, [SHELF_2([]), SHELF_2([BOOK_WITH_PAGES("w")], BOOK_MAYBE())]),
    (SHELF_3, [SHELF_3([]), SHELF_3([BOOK_NEEDS_PAGES("w", 9)])]),
    (Chain, [Chain(1), Chain(1, Chain(2, Chain(3)))]),
    (Link, [Link(1.5), Link(1.5, Link(2.5))]),
    (Page, [Page(1), Page(1, ["a"])]),
    (Person, [Person("a", 1), Person("a", 1, DAY, Color.BLUE)]),  # type: ignore[arg-type]
    (Tree, [TREE]),
    (int | None, [9, None]),
    (str | None, ["a", "red", None]),
    (int | str, [9, "a"]),
    (int | str | None, [9, "a", None]),
    (float | None, [1.5, None]),
    (float | Level, [1.5, Level.LOW]),
    (str | bytes | dt.datetime, ["a", b"a", WHEN]),
    (str | dt.datetime, ["a", "str", WHEN]),
    (BOOK | None, [BOOK("w"), None]),
    (BOOK | str, [BOOK("w"), "a"]),
    (BOOK | NOVEL, [BOOK("w"), NOVEL("w")]),
    (BOOK_WITH_PAGES | NOVEL, [BOOK_WITH_PAGES("w", 9), NOVEL("w")]),
    (NOVEL | BOOK | None, [BOOK("w"), NOVEL("w"), None]),
    (BOOK | Page, [BOOK("w"), Page(1)]),
    (list[int] | set[int], [[9], {9}]),
    (list[int] | dict[str, int], [[9], {"a": 9}]),
    (generic(list, BOOK | NOVEL), [[], [BOOK("w"), NOVEL("w")]]),
    (generic(list, BOOK | None), [[], [BOOK("w"), None]]),
    (generic(tuple, Literal["Book"], BOOK), [("Book", BOOK("w"))]),
    (generic(tuple, str, BOOK), [("a", BOOK("w"))]),
    (tuple[str, dict[str, str]], [("a", {"title": "w"}), ("a", {})]),
]
