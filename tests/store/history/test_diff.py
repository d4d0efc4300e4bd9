"""The difference between two positions."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from everlog.store.database import Database
from everlog.store.errors import CursorError, RowError
from everlog.store.history import diff
from tests.store.models import AIRPORTS, ITEMS, Item, airport, declare, items

Opener = Callable[..., Database]


def told(found: Any) -> list[tuple[str, Any, tuple[str, ...]]]:
    return [(one.kind, *one.key, one.fields) for one in found]


@pytest.fixture(params=["records", "versions"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use either way of finding the rows that may differ."""
    if request.param == "versions":
        monkeypatch.setattr(diff, "KEYS_MAX", 0)


@pytest.mark.usefixtures("_way")
def test_rows_are_told_that_were_added_changed_and_deleted(db: Database) -> None:
    for faa in ("BOS", "JFK", "LGA"):
        db.put(AIRPORTS, airport(faa, "city"))
    start = db.put(AIRPORTS, airport("SFO", "city"))
    db.put(AIRPORTS, airport("JFK", "New York", name="Kennedy"))
    db.put(AIRPORTS, airport("SFO", "city"))  # unchanged
    db.delete(AIRPORTS, "LGA")
    db.put(AIRPORTS, airport("AAA", "first"))
    db.put(AIRPORTS, airport("ZZZ"))
    db.put(ITEMS, Item(id=1))
    end = db.delete(AIRPORTS, "ZZZ")
    found = list(db.past.diff(AIRPORTS, start.seq, end.seq))
    assert told(found) == [
        ("added", "AAA", ("faa", "city")),
        ("changed", "JFK", ("name", "city")),
        ("deleted", "LGA", ()),
    ]
    assert [(one.before, one.after) for one in found] == [
        (None, airport("AAA", "first")),
        (airport("JFK", "city"), airport("JFK", "New York", name="Kennedy")),
        (airport("LGA", "city"), None),
    ]
    assert list(db.past.diff(AIRPORTS, end.seq, end.seq)) == []


@pytest.mark.usefixtures("_way")
def test_it_is_the_difference_of_two_dicts(db: Database) -> None:
    chance, rows, then = random.Random(7), dict[int, int](), dict[int, dict[int, int]]()
    for _ in range(200):
        id, n = chance.randint(1, 20), chance.randint(1, 3)
        if chance.random() < 0.3:
            seq = db.delete(ITEMS, id).seq
            rows.pop(id, None)
        else:
            seq = db.put(ITEMS, Item(id=id, n=n)).seq
            rows[id] = n
        then[seq] = dict(rows)
    for _ in range(50):
        start, end = sorted(chance.choices(list(then), k=2))
        before, after = then[start], then[end]
        kinds = dict.fromkeys(after.keys() - before.keys(), "added")
        kinds |= dict.fromkeys(before.keys() - after.keys(), "deleted")
        kinds |= {id: "changed" for id in before.keys() & after.keys() if before[id] != after[id]}
        assert {one.key[0]: one.kind for one in db.past.diff(ITEMS, start, end)} == kinds


def test_a_table_that_came_or_went_has_all_its_rows_added_or_deleted(opening: Opener) -> None:
    db = opening(AIRPORTS)
    before = db.head
    declare(db, ITEMS)
    db.load(ITEMS, items(1, 3))
    there = db.head
    declare(db, drop=["items"])
    assert [one.kind for one in db.past.diff(ITEMS, before, there)] == ["added"] * 3
    assert [one.kind for one in db.past.diff(ITEMS, there, db.head)] == ["deleted"] * 3
    assert list(db.past.diff(ITEMS, before, db.head)) == []


def test_moments_are_given_as_seq_or_time(db: Database) -> None:
    first, second = (db.put(ITEMS, Item(id=id)) for id in (1, 2))
    db.put(ITEMS, Item(id=3))
    assert told(db.past.diff(ITEMS, 2, second.seq)) == [("added", 1, ("id",)), ("added", 2, ("id",))]
    with pytest.raises(RowError, match="the start before the end"):
        db.past.diff(ITEMS, second.seq, first.seq)
    with pytest.raises(CursorError, match="the log begins"):
        db.past.diff(ITEMS, "2001-01-01", second.seq)
