"""The seeds of one node: asked all at once, again and again, and none of them stops the others.

The rules of this file:

* A source has a bounded time and says a bounded number of addresses. It is asked by one at a time.
* A source that fails is told in the log, once per change, and what it said last stays in use.
* The node's own address is left out of what others are told. That a source names nobody else is remembered: it may
  mean that this node is the first one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from itertools import islice, zip_longest
from random import Random

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from .addresses import is_literal, parse_address
from .ports import Environment
from .seed_sources import MAX_ADDRESSES, AddressSeed, EmptyFile, Seed, SeedSource, check_seed

__all__ = ["Finding", "Seed", "SeedBook", "SeedSource", "check_seed"]

log = logging.getLogger("rpcnet.membership")
_SOURCE_TIMEOUT = 15.0
_MAX_TOTAL = 256
_MAX_TEXT = 500
_NOT_ASKED = "no answer"


@attrs.frozen
class Finding:
    """What one source has said."""

    addresses: tuple[str, ...] = ()
    """The addresses that are in use for it, this node's own included."""
    answer: str = _NOT_ASKED
    """The same for people: how many there are, or what went wrong."""
    is_answer: bool = False
    """Whether it answered the last time it was asked."""


@attrs.define(eq=False)
class _Page:
    """What is known of one source."""

    seed: Seed
    last: Finding = attrs.field(factory=Finding)
    turn: trio.Lock = attrs.field(factory=trio.Lock)


class SeedBook:
    """The seeds of one node, and what they said last.

    Args:
        seeds: what :func:`check_seed` returned for each.
        environment: asks DNS and reads files.
        rng: for the order of what is equal.
        own: addresses of this node, to be left out.
        is_ipv6: the family of addresses that this node can reach; None for both.
    """

    def __init__(
        self,
        seeds: Iterable[Seed],
        *,
        environment: Environment,
        rng: Random,
        own: Iterable[str] = (),
        is_ipv6: bool | None = None,
    ) -> None:
        self._pages = _by_label(seeds, {})
        self._environment = environment
        self._rng = rng
        self._own = dict.fromkeys(own)
        self._is_ipv6 = is_ipv6

    def __bool__(self) -> bool:
        """Say whether there is anything that may name somebody else."""
        return any(not page.seed.is_static or label not in self._own for label, page in self._pages.items())

    def __iter__(self) -> Iterator[Seed]:
        """Yield the seeds, this node's own address included if it is among them."""
        return iter([page.seed for page in self._pages.values()])

    @property
    def labels(self) -> tuple[str, ...]:
        """What the seeds are called, each once."""
        return tuple(self._pages)

    @property
    def is_static(self) -> bool:
        """Whether all seeds are plain addresses, so that asking once is enough."""
        return all(page.seed.is_static for page in self._pages.values())

    def says_the_same_for_ever(self, label: str) -> bool:
        """Say whether a seed is a plain address."""
        return self._pages[label].seed.is_static

    def last(self, label: str) -> Finding:
        """Return what a source said last."""
        return self._pages[label].last

    def is_own(self, address: str) -> bool:
        """Say whether an address is known to be this node's."""
        return address in self._own

    def note_own(self, address: str) -> None:
        """Remember that an address turned out to be this node's."""
        if len(self._own) < _MAX_TOTAL:
            self._own[address] = None

    def others(self, seeds: Iterable[Seed | str]) -> SeedBook:
        """Return a book of other seeds of the same node; what is known of those in both is known to both.

        Args:
            seeds: seeds, and addresses that were checked.
        """
        book = SeedBook((), environment=self._environment, rng=self._rng, is_ipv6=self._is_ipv6)
        known = {(label, _identity(page.seed)): page for label, page in self._pages.items()}
        book._pages = _by_label((AddressSeed(seed) if isinstance(seed, str) else seed for seed in seeds), known)
        book._own = self._own
        return book

    @enable_ki_protection
    async def ask(self, label: str) -> Finding:
        """Ask one source, within bounded time, and return what is in use for it from now on. A checkpoint if it waits.

        Whatever it raises is in the finding and in the log.
        """
        page = self._pages[label]
        if page.seed.is_static:
            page.last = Finding((label,), "1 address", is_answer=True)
            return page.last
        found = await self._ask_source(page)
        if found.answer != page.last.answer and not found.is_answer:
            log.warning("no seeds from %s: %s", label, found.answer)
        page.last = found
        return found

    async def _ask_source(self, page: _Page) -> Finding:
        with trio.move_on_after(_SOURCE_TIMEOUT):
            try:
                async with page.turn:
                    said = await page.seed.find(self._environment, self._rng)
                addresses = tuple(islice(dict.fromkeys(said), MAX_ADDRESSES))
            except EmptyFile as error:
                return Finding((), str(error), is_answer=True)
            except Exception as error:  # noqa: BLE001 - a user's source may raise anything, and the others go on
                return Finding(page.last.addresses, _why(error))
            return Finding(addresses, _count(len(addresses)), is_answer=True)
        return Finding(page.last.addresses, f"no answer within {_SOURCE_TIMEOUT:g} s")

    async def addresses(self, *, within: float = math.inf) -> list[str]:
        """Ask all sources at once and return what they say, without this node's own and what it cannot reach.

        A checkpoint; cancelling gives up. Takes bounded time and returns a bounded number: of each source in turn the
        first, then of each the second, and so on.

        Args:
            within: seconds after which sources that have not answered are left out.
        """
        with trio.move_on_after(within):
            async with trio.open_nursery() as nursery:
                for label in self._pages:
                    nursery.start_soon(self.ask, label, name=f"rpcnet seeds of {label}")
        rows = zip_longest(*(page.last.addresses for page in self._pages.values()))
        mixed = dict.fromkeys(address for row in rows for address in row if address is not None)
        return list(islice(filter(self._is_wanted, mixed), _MAX_TOTAL))

    def answers(self) -> dict[str, str]:
        """Return what each source said last, for people; an address is none."""
        return {label: page.last.answer for label, page in self._pages.items() if not page.seed.is_static}

    def _is_wanted(self, address: str) -> bool:
        host, _ = parse_address(address)
        fits = self._is_ipv6 is None or not is_literal(host) or (":" in host) == self._is_ipv6
        return fits and address not in self._own


_Known = dict[tuple[str, int], _Page]
"""Pages by label and the identity of the source."""


def _by_label(seeds: Iterable[Seed], known: _Known) -> dict[str, _Page]:
    """Return a page for each seed, the same text once; different sources that are called the same get numbers.

    Args:
        seeds: the seeds.
        known: the pages there are already.
    """
    pages: dict[str, _Page] = {}
    for seed in seeds:
        label, number = seed.label, 1
        while label in pages and _source(pages[label].seed) is not _source(seed):
            number += 1
            label = f"{seed.label} ({number})"
        if label not in pages:
            pages[label] = known.get((label, _identity(seed))) or _Page(seed)
    return pages


def _identity(seed: Seed) -> int:
    """Return a number for the user's source, which need not be hashable."""
    return id(_source(seed))


def _source(seed: Seed) -> object:
    """Return the user's source, if a seed is one."""
    return getattr(seed, "source", None)


def _why(error: Exception) -> str:
    """Return in one line what a source raised, without the groups that nurseries make of one error."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    text = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:_MAX_TEXT]


def _count(number: int) -> str:
    return "names no address" if not number else "names 1 address" if number == 1 else f"names {number} addresses"
