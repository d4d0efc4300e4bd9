"""Selectors: which members an operator means."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlog import RowError
from everlog.fleet.selector import LENGTH_MAX, Condition, Selector, check_labels, check_name, parse_labels

MEMBERS = {
    "shop-1": {"region": "eu", "tenant": "1"},
    "shop-2": {"region": "eu", "tenant": "2", "canary": "true"},
    "shop-3": {"region": "us", "tenant": "12"},
    "lab": {},
}


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("", "shop-1 shop-2 shop-3 lab"),
        ("region=eu", "shop-1 shop-2"),
        ("region!=eu", "shop-3 lab"),
        ("tenant in (1, 2)", "shop-1 shop-2"),
        ("tenant in (1,2),!canary", "shop-1"),
        ("tenant not in (1,2)", "shop-3 lab"),
        ("canary", "shop-2"),
        ("! canary , region", "shop-1 shop-3"),
        ("name=lab", "lab"),
        ("name in (lab,shop-3)", "shop-3 lab"),
        ("name^=shop-", "shop-1 shop-2 shop-3"),
        ("tenant>2", "shop-3"),
        ("tenant>=2", "shop-2 shop-3"),
        ("tenant<2", "shop-1"),
        ("tenant<=12,region=us", "shop-3"),
        ("region<5", ""),
        ("region=eu,region=us", ""),
        ("version<4", "shop-1 shop-2 shop-3 lab"),
        ("version=4", ""),
    ],
)
def test_members_are_selected_by_name_and_labels(selector: str, names: str) -> None:
    parsed = Selector.parse(selector)
    found = [name for name, labels in MEMBERS.items() if parsed.matches(name, labels, 3)]
    assert found == names.split()
    assert Selector.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("selector", "error"),
    [
        ("region==eu", "found '=eu' in the condition on region"),
        ("region=", "found '' in the condition on region"),
        ("region=eu,", "expected label=value, .* separated by commas; found '' in the selector 'region=eu,'"),
        ("region=eu us", "found 'eu us'"),
        ("tenant in ()", "found ''"),
        ("tenant in (1", "found 'tenant in (1'"),
        ("tenant in 1", "found 'tenant in 1'"),
        ("tenant<eu", "expected an integer after <, found 'eu' .*; compare text with =, in or ^="),
        ("!region=eu", "found '!region=eu'"),
        ("a=" + "b" * (LENGTH_MAX + 1), "expected a value of 1 to 63"),
    ],
)
def test_an_invalid_selector_is_refused_with_what_was_expected(selector: str, error: str) -> None:
    pattern = ".*".join(re.escape(part) for part in error.split(".*"))
    with pytest.raises(RowError, match=pattern):
        Selector.parse(selector)


WORDS = st.from_regex(r"[A-Za-z0-9_.-]{1,9}", fullmatch=True)
VALUES = st.from_regex(r"[A-Za-z0-9_./:@+-]{1,9}", fullmatch=True)
NUMBERS = st.integers(-99, 99).map(str)
CONDITIONS = st.one_of(
    st.builds(Condition, WORDS, st.sampled_from(["=", "!=", "^="]), st.tuples(VALUES)),
    st.builds(Condition, WORDS, st.sampled_from(["<", "<=", ">", ">="]), st.tuples(NUMBERS)),
    st.builds(
        Condition,
        WORDS,
        st.sampled_from(["in", "not in"]),
        st.lists(VALUES, min_size=1, max_size=4).map(tuple),
    ),
    st.builds(Condition, WORDS, st.sampled_from(["has", "lacks"]), st.just(())),
)


@given(st.lists(CONDITIONS, max_size=4).map(tuple))
def test_a_selector_is_read_as_it_was_written(conditions: tuple[Condition, ...]) -> None:
    assert Selector.parse(str(Selector(conditions))) == Selector(conditions)


def test_names_and_labels_are_checked() -> None:
    assert check_name("shop-1") == "shop-1"
    assert check_labels({"tenant": 1, "region": "eu"}) == {"region": "eu", "tenant": "1"}
    assert parse_labels(["region=eu", "canary"]) == {"region": "eu", "canary": "true"}
    for name in ("", "a b", "a,b", "a" * 64, "ü"):
        with pytest.raises(RowError, match="expected the name of a member"):
            check_name(name)
    for labels, error in (
        ({"name": "x"}, "found name, which every member has; rename it"),
        ({"version": "x"}, "found version, which every member has"),
        ({"a b": "x"}, "expected a label of shop-1 of 1 to 63"),
        ({"a": ""}, "of the label a of shop-1, found ''"),
        ({"a": True}, "of the label a of shop-1, found True"),
        ({str(number): "x" for number in range(65)}, "expected at most 64 labels of shop-1, found 65"),
    ):
        with pytest.raises(RowError, match=error):
            check_labels(labels, "shop-1")
    with pytest.raises(RowError, match="found region twice; remove one"):
        parse_labels(["region=eu", "region=us"])
