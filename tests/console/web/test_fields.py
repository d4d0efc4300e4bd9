"""Inputs of rows: any row survives a form, and what does not fit is named at its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from google.protobuf import json_format

from everlog.console.web import fields
from everlog.console.web.fields import RowForm, flat, whole
from everlog.store.errors import RowError
from tests.console.cli.test_round_trips import HARD, content
from tests.store.documents import Document, Document2, model

EVERY = {
    "id": 7, "title": "a", "note": "", "raw": b"\0\xff", "color": 1, "opt_color": 2, "opt_i64": -5,
    "at": {"seconds": 5}, "took": {"seconds": 90}, "inner": {"number": 1, "inner": {"text": "deep"}},
    "numbers": [1, -2], "words": ["x", "y\nz"], "inners": [{"number": 1}, {"text": "two"}],
    "times": [{"seconds": 1}], "by_word": {"a": "1", "b": "2"}, "by_number": {3: {"number": 4}},
    "one_number": 0,
}  # fmt: skip


def document(values: Mapping[str, Any], of: Any = Document) -> Any:
    return of(**values)


def form_of(row: Any, **changes: str) -> RowForm:
    """Return the form of a row with some inputs changed, by names such as f__inner__text."""
    given = flat(row)
    changed = {name.replace("__", "."): text for name, text in changes.items()}
    assert changed.keys() <= given.keys() | {f"e.{name[2:]}" for name in given}
    return RowForm(row.DESCRIPTOR, {**given, **changed}, base=row)


def shown_names(nodes: list[dict[str, Any]]) -> set[str]:
    """Return the names of all inputs that a page would have."""
    found = set[str]()
    for one in nodes:
        if one["kind"] == "value":
            found.add(one["box"]["name"])
            if one["box"]["empty"]:
                found.add(f"e.{one['box']['name'][2:]}")
        elif one["kind"] == "list":
            found.add(f"n.{one['path']}")
            for item in one["items"]:
                found |= shown_names(item["nodes"])
        else:
            found |= shown_names(one["nodes"])
            if one["kind"] == "message":
                found.add(f"m.{one['path']}")
    return found


ROWS = {"empty": {}, "every": EVERY, **HARD}
CLOSED = {"unknown enums"}  # which proto2 does not hold


@pytest.mark.parametrize(
    ("of", "name"),
    [(of, name) for of in (Document, Document2) for name in ROWS if of is Document or name not in CLOSED],
)
def test_a_row_survives_its_form(of: Any, name: str) -> None:
    row = document(ROWS[name], of)
    form = form_of(row)
    assert shown_names(form.nodes) == form.given.keys()
    assert content(form.row()) == content(row)
    assert form.errors == {}
    alone = RowForm(row.DESCRIPTOR, form.given)
    assert content(alone.row()) == content(row)
    assert alone.errors == {}
    as_json = RowForm(row.DESCRIPTOR, whole(row), base=row)
    assert content(as_json.row()) == content(row)


def test_one_change_changes_one_field_and_keeps_what_the_model_does_not_know() -> None:
    newer = model("newer", "id 1 uint64, title 2 string, inner 3 .Inner, more 9 string")
    older = model("newer", "id 1 uint64, title 2 string, inner 3 .Inner")
    stored = newer(id=1, title="a", inner={"number": 5}, more="kept")
    row = older.FromString(stored.SerializeToString())
    form = form_of(row, f__inner__number="6")
    again = newer.FromString(form.row().SerializeToString())
    assert (again.inner.number, again.more, again.title) == (6, "kept", "a")


@pytest.mark.parametrize(
    ("change", "field", "expected"),
    [
        ({"f__i64": "soon"}, "i64", "expected"),
        ({"f__i32": str(2**31)}, "i32", "expected"),
        ({"f__u64": "-1"}, "u64", "expected"),
        ({"f__i64": ""}, "i64", "found nothing"),
        ({"f__at": "yesterday"}, "at", "expected a time"),
        ({"f__raw": "hex:zz"}, "raw", "expected base64"),
        ({"f__color": "PURPLE"}, "color", "expected one of RED, GREEN, BLUE"),
        ({"f__inner__inner__number": "x"}, "inner.inner.number", "expected"),
        ({"f__numbers__1": "x"}, "numbers.1", "expected"),
        ({"f__by_word__1__key": "a"}, "by_word.1.key", "occurs twice"),
        ({"f__by_number__0__key": "x"}, "by_number.0.key", "expected"),
        ({"f__one_text": "too"}, "one_number", "at most one of choice can be set"),
        ({"j__took": "soon"}, "took", "expected"),
        ({"j__data": '{"a": 1, "a": 2}'}, "data", "twice"),
        ({"f__ratio": "1e39"}, "ratio", "out of range"),
    ],
)
def test_a_text_that_does_not_fit_is_named_at_its_place_and_kept(
    change: dict[str, str], field: str, expected: str
) -> None:
    row = document({**EVERY, "data": {"fields": {}}})
    form = form_of(row, **change)
    form.row()
    assert list(form.errors) == [field]
    assert expected in form.errors[field]
    assert form.given.items() >= {name.replace("__", "."): text for name, text in change.items()}.items()


def test_optional_fields_are_unset_by_empty_texts_and_set_by_others() -> None:
    row = document(EVERY)
    changed = form_of(
        row, f__opt_color="", f__opt_i64="", f__at="", f__opt_weight="0", f__one_text="x", f__one_number=""
    )
    del changed.given["e.note"]
    found: Any = changed.row()
    assert changed.errors == {}
    assert [found.HasField(name) for name in ("opt_color", "opt_i64", "at", "note", "opt_weight")] == [
        False, False, False, False, True,
    ]  # fmt: skip
    assert found.WhichOneof("choice") == "one_text"


def test_buttons_add_remove_set_and_unset() -> None:
    row = document(EVERY)
    form = form_of(row)
    for button in (
        "remove:words.0",
        "add:words",
        "add:inners",
        "remove:inners.0",
        "add:by_word",
        "unset:inner",
    ):
        form.press(button)
    form.given |= {"f.words.2": "new", "f.inners.2.text": "third", "f.by_word.2.key": "c"}
    found: Any = form.row()
    assert form.errors == {}
    assert list(found.words) == ["y\nz", "new"]
    assert [one.text for one in found.inners] == ["two", "third"]
    assert dict(found.by_word) == {"a": "1", "b": "2", "c": ""}
    assert not found.HasField("inner")
    form.press("set:inner")
    form.press("set:inner.inner")
    form.given["f.inner.inner.number"] = "9"
    found = form.row()
    assert found.inner.inner.number == 9
    for button in ("add:title", "set:title", "remove:nowhere.1", "jump:x", "set:inner.inner.inner.nothing"):
        with pytest.raises(RowError, match="load the page again"):
            form.press(button)


def test_items_keep_what_they_were_when_others_are_removed() -> None:
    row = document({"inners": [{"number": 1, "at": {"seconds": 5, "nanos": 10**9}}, {"number": 2}]})
    form = form_of(row)
    form.press("remove:inners.1")
    assert content(form.row()) == content(
        document({"inners": [{"number": 1, "at": {"seconds": 5, "nanos": 10**9}}]})
    )


def test_a_form_is_bounded() -> None:
    many = document({"numbers": range(fields.ITEMS_MAX + 1), "words": ["a"]})
    given = flat(many)
    assert "j.numbers" in given
    assert "f.words.0" in given
    wide = model(
        "wide", ", ".join(f"f{number} {number} int64" for number in range(1, fields.INPUTS_MAX + 10))
    )
    assert list(flat(wide(f1=5))) == ["j."]
    assert RowForm(wide.DESCRIPTOR, flat(wide(f1=5)), base=wide(f1=5)).row() == wide(f1=5)
    row = document({})
    inner = row.inner
    for _ in range(30):
        inner = inner.inner
    inner.number = 1
    form = form_of(row)
    assert len(form.given) < 300
    assert form.row() == row


def test_a_form_of_json_says_what_is_wrong() -> None:
    row = document(EVERY)
    for text in ("{", "[]", '{"nowhere": 1}', '{"id": "x"}'):
        form = RowForm(row.DESCRIPTOR, {"j.": text}, base=row)
        form.row()
        assert list(form.errors) == ["j."]
    form = form_of(row)
    form.press("json:")
    assert json_format.Parse(form.given["j."], Document()) == row
    form.press("inputs:")
    assert form.given == flat(row)
