"""Selectors are read, compared and printed as their grammar says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpcnet.errors import ConfigError
from rpcnet.selectors import MAX_REGEX_LENGTH, Operator, Selector, Term

TAGS = {"role": "worker", "zone": "eu", "gpu": "", "version": "1.4", "path": "a,b (c)"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "role=worker",
        "role==worker",
        " role = worker ",
        "role=worker,zone=eu",
        "role=worker , gpu",
        "zone!=us",
        "rack!=7",
        "gpu",
        "!draining",
        "! draining",
        "zone in (eu,us)",
        "zone in(eu)",
        "zone notin (us, asia)",
        "rack notin (1)",
        "version=~1\\..*",
        "version =~ 1\\.(3|4)",
        'version=~"1\\..{1,2}"',
        'path="a,b (c)"',
        'path in ("x", "a,b (c)")',
        'gpu=""',
    ],
)
def test_a_selector_matches_the_tags_it_describes(text: str) -> None:
    assert Selector.parse(text).matches(TAGS)


@pytest.mark.parametrize(
    "text",
    [
        "role=boss",
        "role=worker,zone=us",
        "zone!=eu",
        "!gpu",
        "rack",
        "rack=7",
        "rack in (7)",
        "zone in (us,asia)",
        "zone notin (eu,us)",
        "version=~1",
        "version=~4",
        "rack=~.*",
        "role=Worker",
    ],
)
def test_a_selector_refuses_other_tags(text: str) -> None:
    assert not Selector.parse(text).matches(TAGS)


def test_nothing_selects_everything() -> None:
    assert Selector.parse(None).matches({})
    assert Selector.parse(None) == Selector.parse("") == Selector()


def test_a_selector_parses_to_itself() -> None:
    selector = Selector.parse("role=worker")
    assert Selector.parse(selector) is selector


def test_selectors_that_mean_the_same_are_equal() -> None:
    one = Selector.parse("zone in (us,eu,us), role==worker,gpu")
    two = Selector.parse('gpu,role="worker",gpu,zone in (eu,us)')
    assert one == two
    assert hash(one) == hash(two)
    assert str(one) == "gpu,role=worker,zone in (eu,us)"


@pytest.mark.parametrize(
    ("text", "column", "problem"),
    [
        (",", 1, "expected the name of a tag"),
        ("role=worker,", 13, "expected the name of a tag"),
        ("role=", 6, "expected a value"),
        ("role worker", 6, "expected ',' or the end"),
        ("role=a b", 8, "expected ',' or the end"),
        ("zone in", 8, "expected '('"),
        ("zone in (a", 11, "expected ',' or ')'"),
        ("zone in ()", 10, "expected a value"),
        ("!", 2, "expected the name of a tag"),
        ("!a=b", 3, "expected ',' or the end"),
        ("role=a=b,x=(", 12, "expected a value"),
        ('role="a', 6, "the quote is never closed"),
        ("version=~(1", 10, "bad regular expression"),
        ("version=~" + "a" * (MAX_REGEX_LENGTH + 1), 10, "the regular expression is longer than 256 characters"),
        ("ä=1", 1, "expected the name of a tag"),
    ],
)
def test_a_bad_selector_is_refused_with_its_column(text: str, column: int, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Selector.parse(text)
    assert str(caught.value).startswith(f"selector {text!r}, column {column}: {problem}")


def test_a_selector_that_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be text"):
        Selector.parse(7)  # type: ignore[arg-type]


KEYS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_./:-]{0,8}", fullmatch=True)
VALUES = st.text(max_size=12)
TERMS = st.one_of(
    st.builds(Term, KEYS, st.sampled_from([Operator.EXISTS, Operator.MISSING])),
    st.builds(Term, KEYS, st.sampled_from([Operator.EQUALS, Operator.DIFFERS]), st.tuples(VALUES)),
    st.builds(
        Term,
        KEYS,
        st.sampled_from([Operator.IN, Operator.NOT_IN]),
        st.lists(VALUES, min_size=1, max_size=3, unique=True).map(sorted).map(tuple),
    ),
    st.builds(
        Term, KEYS, st.just(Operator.MATCHES), st.tuples(st.sampled_from(["a.*", "=x", "~", "a,b", '"', "\\d+"]))
    ),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(TERMS, max_size=4), st.dictionaries(KEYS, VALUES, max_size=4))
def test_the_canonical_text_parses_to_an_equal_selector(terms: list[Term], tags: dict[str, str]) -> None:
    selector = Selector(tuple(terms))
    parsed = Selector.parse(str(selector))
    assert parsed == selector
    assert str(parsed) == str(selector)
    assert parsed.matches(tags) == all(term.matches(tags) for term in terms)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@settings(deadline=None, max_examples=150)
@given(st.text(st.sampled_from('ab1 =!~,()"\\in.*[{'), max_size=25))
def test_any_text_is_a_selector_or_a_config_error(text: str) -> None:
    try:
        selector = Selector.parse(text)
    except ConfigError:
        return
    assert Selector.parse(str(selector)) == selector
