r"""Selectors: a filter over the tags of nodes, written as text.

The rules of this file:

* Terms are joined by commas and all of them must hold. The empty selector matches every node.
* ``k`` and ``!k`` ask whether the tag exists; ``k=v`` and ``k==v`` ask for its value; ``k in (a,b)`` for one of
  several; ``k=~regex`` for a value that the whole regular expression matches.
* ``k!=v`` and ``k notin (a,b)`` also match where the tag does not exist, as in Kubernetes.
* A value with a comma, a space, a parenthesis or a quote, or with ``=`` or ``~`` in front, stands in double quotes, in
  which ``\"`` is a quote and ``\\`` a backslash. Whitespace around words and signs means nothing.
* Regular expressions are at most 256 characters long and must come from people one trusts: Python's engine has no
  bound on its time.
* Equal selectors are equal however they were written: terms and listed values are sorted, and said once.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping

import attrs

from .errors import ConfigError

__all__ = ["MAX_REGEX_LENGTH", "Operator", "Selector", "Term"]

MAX_REGEX_LENGTH = 256
"""Characters of one regular expression in a selector."""

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:-]*")
_OPERATOR = re.compile(r"==|=~|!=|=|(?:not)?in(?![A-Za-z0-9_./:-])")
_BARE = re.compile(r'(?![=~])[^\s,()"]+')
_BARE_REGEX = re.compile(r'[^\s,"]+')
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(r'\\(["\\])')
_SPACE = re.compile(r"\s*")


class Operator(enum.Enum):
    """What a term asks of a tag."""

    EXISTS = "exists"
    MISSING = "missing"
    EQUALS = "="
    DIFFERS = "!="
    IN = "in"
    NOT_IN = "notin"
    MATCHES = "=~"


@attrs.frozen(order=False)
class Term:
    """One condition on one tag."""

    key: str
    """The name of the tag."""
    operator: Operator
    """What is asked of it."""
    values: tuple[str, ...] = ()
    """What its value is compared with: none, one, or for IN and NOT_IN the sorted list."""
    _regex: re.Pattern[str] | None = attrs.field(init=False, default=None, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        """Compile the regular expression once."""
        if self.operator is Operator.MATCHES:
            object.__setattr__(self, "_regex", re.compile(self.values[0]))

    def matches(self, tags: Mapping[str, str]) -> bool:
        """Return whether the tags fulfil this condition."""
        value = tags.get(self.key)
        match self.operator:
            case Operator.EXISTS:
                return value is not None
            case Operator.MISSING:
                return value is None
            case Operator.EQUALS | Operator.IN:
                return value in self.values
            case Operator.DIFFERS | Operator.NOT_IN:
                return value not in self.values
            case Operator.MATCHES:
                return value is not None and self._regex is not None and self._regex.fullmatch(value) is not None

    def __str__(self) -> str:
        """Return the term as text that parses to an equal term."""
        values = [_quote(value) for value in self.values]
        match self.operator:
            case Operator.EXISTS:
                return self.key
            case Operator.MISSING:
                return f"!{self.key}"
            case Operator.IN | Operator.NOT_IN:
                return f"{self.key} {self.operator.value} ({','.join(values)})"
            case _:
                return f"{self.key}{self.operator.value}{values[0]}"


def _quote(value: str) -> str:
    if _BARE.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _term_order(term: Term) -> tuple[str, str, tuple[str, ...]]:
    return (term.key, term.operator.value, term.values)


def _sorted_terms(terms: Iterable[Term]) -> tuple[Term, ...]:
    return tuple(sorted(dict.fromkeys(terms), key=_term_order))


@attrs.frozen(cache_hash=True)  # it is a key for every call
class Selector:
    """A filter over the tags of nodes; :meth:`parse` makes one from text. Hashable, and equal by what it means."""

    terms: tuple[Term, ...] = attrs.field(default=(), converter=_sorted_terms)
    """The conditions, sorted; all of them must hold."""

    @classmethod
    def parse(cls, text: str | Selector | None) -> Selector:
        """Parse a selector; None and empty text match every node, and a selector is returned as it is.

        Raises:
            ConfigError: the text is not a selector; the message holds the text and the column, counted from 1.
        """
        if isinstance(text, Selector):
            return text
        return cls() if text is None else cls(_Parser(text).terms())

    def matches(self, tags: Mapping[str, str]) -> bool:
        """Return whether a node with these tags is selected."""
        return all(term.matches(tags) for term in self.terms)

    def __str__(self) -> str:
        """Return the canonical text, which parses to an equal selector."""
        return ",".join(map(str, self.terms))


class _Parser:
    """Reads a selector from left to right; ``position`` is where the next token begins."""

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise ConfigError(f"selector {text!r}: must be text")
        self.text = text
        self.position = 0

    def terms(self) -> list[Term]:
        self.skip_space()
        if self.at_end():
            return []
        found = [self.term()]
        while not self.at_end():
            self.expect(",", "',' or the end")
            found.append(self.term())
        return found

    def term(self) -> Term:
        if self.accept("!"):
            return Term(self.key(), Operator.MISSING)
        key = self.key()
        sign = self.token(_OPERATOR)
        if sign is None:
            return Term(key, Operator.EXISTS)
        if sign in ("in", "notin"):
            return Term(key, Operator(sign), self.listed())
        if sign == "=~":
            return Term(key, Operator.MATCHES, (self.regex(),))
        return Term(key, Operator.DIFFERS if sign == "!=" else Operator.EQUALS, (self.value(_BARE),))

    def key(self) -> str:
        key = self.token(_KEY)
        if key is None:
            raise self.error("expected the name of a tag")
        return key

    def listed(self) -> tuple[str, ...]:
        self.expect("(", "'('")
        values = [self.value(_BARE)]
        while self.accept(","):
            values.append(self.value(_BARE))
        self.expect(")", "',' or ')'")
        return tuple(sorted(dict.fromkeys(values)))

    def regex(self) -> str:
        start = self.position
        value = self.value(_BARE_REGEX)
        if len(value) > MAX_REGEX_LENGTH:
            raise self.error(f"the regular expression is longer than {MAX_REGEX_LENGTH} characters", start)
        try:
            re.compile(value)
        except (re.error, RecursionError, OverflowError) as error:
            raise self.error(f"bad regular expression: {error}", start) from None
        return value

    def value(self, bare: re.Pattern[str]) -> str:
        if self.text.startswith('"', self.position):
            quoted = self.token(_QUOTED)
            if quoted is None:
                raise self.error("the quote is never closed")
            return _ESCAPE.sub(r"\1", quoted[1:-1])
        value = self.token(bare)
        if value is None:
            raise self.error("expected a value")
        return value

    def token(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self.text, self.position)
        if found is None:
            return None
        self.position = found.end()
        self.skip_space()
        return found.group()

    def accept(self, sign: str) -> bool:
        if not self.text.startswith(sign, self.position):
            return False
        self.position += len(sign)
        self.skip_space()
        return True

    def expect(self, sign: str, what: str) -> None:
        if not self.accept(sign):
            raise self.error(f"expected {what}")

    def skip_space(self) -> None:
        found = _SPACE.match(self.text, self.position)
        self.position = found.end() if found else self.position

    def at_end(self) -> bool:
        return self.position >= len(self.text)

    def error(self, problem: str, position: int | None = None) -> ConfigError:
        column = (self.position if position is None else position) + 1
        return ConfigError(f"selector {self.text!r}, column {column}: {problem}")
