"""Queries of the log: author, change, time and reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from everlog.store.database import Database
from everlog.store.errors import RowError, SchemaError
from tests.store.models import AIRPORTS, ITEMS, Item, airport, declare, items

Opener = Callable[..., Database]


def seqs(found: Any) -> list[int]:
    return [entry.seq for entry in found]


def test_an_entry_is_a_commit_with_its_rows(db: Database) -> None:
    with db.transaction(actor="ann", reason="why", correlation_id="c", causation_id="d", client="e") as tx:
        tx.put(AIRPORTS, airport("JFK"))
        tx.put(ITEMS, Item(id=1))
    db.delete(ITEMS, 1)
    entry, last = db.past.log(after=2)
    assert entry[3:8] == ("ann", "why", "c", "d", "e")
    assert (entry.seq, entry.time_ns, entry.kind, entry.about) == (
        3,
        db.log.commit(3).time_ns,
        "commit",
        None,
    )
    assert [(one.table, one.key, one.op, one.prior) for one in entry.changes] == [
        ("airports", ("JFK",), "put", 0),
        ("items", (1,), "put", 0),
    ]
    row: Any = entry.changes[0].row
    assert row.faa == "JFK"
    (gone,) = last.changes
    assert (gone.op, gone.row, gone.prior) == ("delete", None, 3)


def test_entries_are_those_that_fit_all_that_is_asked(db: Database) -> None:
    db.put(AIRPORTS, airport("JFK"), actor="ann", correlation_id="one")
    db.put(AIRPORTS, airport("LGA"), actor="bob", correlation_id="one", reason="ann asked")
    db.put(ITEMS, Item(id=1), actor="ann")
    db.load(ITEMS, items(2, 3))
    db.put(AIRPORTS, airport("JFK", "New York"), actor="bob")
    db.delete(AIRPORTS, "JFK")
    assert seqs(db.past.log(actor="ann")) == [3, 5]
    assert seqs(db.past.log(correlation_id="one")) == [3, 4]
    assert seqs(db.past.log(table=AIRPORTS)) == [3, 4, 7, 8]
    assert seqs(db.past.log(table="airports", actor="bob")) == [4, 7]
    assert seqs(db.past.log(table=AIRPORTS, key="JFK")) == [3, 7, 8]
    assert seqs(db.past.log(table=AIRPORTS, key="JFK", after=3, until=7)) == [7]
    assert seqs(db.past.log(kind="load")) == [6]
    assert seqs(db.past.log(kind="migration")) == [2]
    assert seqs(db.past.log(kind="created")) == [1]
    assert seqs(db.past.log(after=2, kind="commit", limit=2)) == [3, 4]
    assert seqs(db.past.log(actor="nobody")) == seqs(db.past.log(limit=0)) == []


def test_times_bound_what_is_told(db: Database) -> None:
    made = [db.put(ITEMS, Item(id=n)) for n in range(10)]
    middle = made[5].time_ns
    assert seqs(db.past.log(since=middle)) == [one.seq for one in made if one.time_ns >= middle]
    assert seqs(db.past.log(before=middle, after=2)) == [one.seq for one in made if one.time_ns < middle]
    assert seqs(db.past.log(since="2001-01-01", before="2002-01-01")) == []


def test_a_table_is_told_what_was_done_to_it_alone(db: Database) -> None:
    with db.transaction() as tx:
        tx.put(AIRPORTS, airport("JFK"))
        tx.put(ITEMS, Item(id=1))
        tx.put(ITEMS, Item(id=2))
    (entry,) = db.past.log(table=ITEMS, after=2)
    assert [one.key for one in entry.changes] == [(1,), (2,)]
    (entry,) = db.past.log(table=ITEMS, key=2, after=2)
    assert [one.key for one in entry.changes] == [(2,)]


def test_rows_of_a_table_that_is_gone_are_of_its_model(opening: Opener) -> None:
    db = opening(AIRPORTS, ITEMS)
    put = db.put(ITEMS, Item(id=1, n=7))
    declare(db, drop=["items"])
    (entry,) = db.past.log(table=ITEMS, after=2)
    row: Any = entry.changes[0].row
    assert (entry.seq, row.n) == (put.seq, 7)


def test_a_name_alone_is_each_table_that_ever_had_it(opening: Opener) -> None:
    db = opening(AIRPORTS, ITEMS)
    put = db.put(ITEMS, Item(id=1, n=7)).seq
    declare(db, drop=["items"])
    db.put(AIRPORTS, airport("JFK"))
    declare(db, ITEMS)
    again = db.put(ITEMS, Item(id=2)).seq
    assert [entry.seq for entry in db.past.log(table="items")] == [put, again]
    assert [entry.seq for entry in db.past.log(table="items", key=2)] == [again]
    assert [entry.seq for entry in db.past.log(table=ITEMS)] == [again], "that of the constant"


def test_what_is_no_question_is_refused(db: Database) -> None:
    with pytest.raises(RowError, match="expected a kind of commit"):
        db.past.log(kind="party")
    with pytest.raises(RowError, match="expected a table together with"):
        db.past.log(key="JFK")
    with pytest.raises(SchemaError, match="there is no table 'nothing'"):
        db.past.log(table="nothing")
