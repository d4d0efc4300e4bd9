"""The history of a row: its versions, their authors, and the changed fields."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everlog.proto import log_pb2
from everlog.store import record
from everlog.store.database import Database
from everlog.store.errors import RowError, SchemaError
from everlog.store.history.row_history import Version
from tests.store.models import AIRPORTS, ITEMS, Item, airport, declare, items, open_flights

Opener = Callable[..., Database]


def told(found: Any) -> list[tuple[int, str, tuple[str, ...]]]:
    return [(version.seq, version.op, version.fields) for version in found]


def test_every_version_says_who_when_why_and_what(db: Database) -> None:
    with db.transaction(actor="ann", reason="new", correlation_id="c", causation_id="d", client="shop") as tx:
        tx.put(AIRPORTS, airport("JFK", "Idlewild", name="Kennedy"))
    first = db.log.commit(db.head)
    second = db.put(AIRPORTS, airport("JFK", "New York", name="Kennedy"), actor="bob")
    third = db.delete(AIRPORTS, "JFK", reason="closed")
    fourth = db.put(AIRPORTS, airport("JFK", "New York"))
    versions = list(db.history(AIRPORTS, "JFK"))
    assert told(versions) == [
        (fourth.seq, "put", ("faa", "city")),
        (third.seq, "delete", ()),
        (second.seq, "put", ("city",)),
        (first.seq, "put", ("faa", "name", "city")),
    ]
    assert versions[3] == Version(
        seq=first.seq,
        time_ns=first.time_ns,
        actor="ann",
        reason="new",
        correlation_id="c",
        causation_id="d",
        client="shop",
        op="put",
        row=airport("JFK", "Idlewild", name="Kennedy"),
        fields=("faa", "name", "city"),
        migration=0,
        erased=False,
    )
    assert [version.row and version.row.city for version in versions] == [
        "New York",
        None,
        "New York",
        "Idlewild",
    ]
    assert (versions[2].actor, versions[1].reason) == ("bob", "closed")


def test_oldest_first_is_the_same_the_other_way_round(db: Database) -> None:
    for n in range(10):
        db.put(ITEMS, Item(id=1, n=n // 2))
    newest = list(db.history(ITEMS, 1))
    assert list(db.history(ITEMS, 1, newest_first=False)) == newest[::-1]
    assert list(db.history(ITEMS, 1, limit=3)) == newest[:3]
    assert list(db.history(ITEMS, 1, newest_first=False, limit=3)) == newest[:-4:-1]
    assert list(db.history(ITEMS, 1, limit=0)) == []
    assert [version.fields for version in newest[:-1]] == [(), ("n",)] * 4 + [()]


def test_what_has_no_history_and_what_cannot_be_asked(db: Database) -> None:
    assert list(db.history(ITEMS, 1)) == []
    with pytest.raises(RowError):
        db.past.history("items", "one")
    with pytest.raises(RowError, match="limit of 0 or more"):
        db.history(ITEMS, 1, limit=-1)


def test_a_table_that_there_never_was_is_refused(opening: Opener) -> None:
    with pytest.raises(SchemaError, match="there is no table 'items'"):
        opening(AIRPORTS).history(ITEMS, 1)


def test_the_newest_versions_are_found_without_the_projection(db: Database) -> None:
    for n in range(100):
        db.put(ITEMS, Item(id=1, n=n))
        db.put(ITEMS, Item(id=2, n=n))
    assert [version.row.n for version in db.history(ITEMS, 1, limit=50) if version.row] == [
        *range(99, 49, -1)
    ]
    assert db.past.versions.applied == 0
    assert len(list(db.history(ITEMS, 1))) == 100
    assert db.past.versions.applied > 0


def test_a_row_of_a_large_record_is_found_in_it(db: Database) -> None:
    db.load(ITEMS, items(1, 2500))
    db.put(ITEMS, Item(id=1700, text="other"))
    db.load(ITEMS, items(1, 2500, "again"))
    found = [version.row.text for version in db.history(ITEMS, 1700) if version.row]
    assert found == ["again 1700", "other", "text 1700"]


def test_a_row_ends_with_its_table(opening: Opener) -> None:
    db = opening(AIRPORTS, ITEMS)
    put = db.put(ITEMS, Item(id=1, n=1))
    db.put(ITEMS, Item(id=2, n=1))
    db.delete(ITEMS, 2)
    dropped = declare(db, drop=["items"])
    db.put(AIRPORTS, airport("JFK"))
    assert told(db.history(ITEMS, 1)) == [(dropped.seq, "delete", ()), (put.seq, "put", ("id", "n"))]
    assert next(iter(db.history(ITEMS, 1))).migration == db.schema.version
    assert [version.op for version in db.history(ITEMS, 2)] == ["delete", "put"]
    declare(db, ITEMS)  # another table with that name
    assert list(db.history(ITEMS, 1)) == []


def test_a_sealed_row_whose_key_is_not_at_hand_reads_as_sealed(db: Database) -> None:
    change = log_pb2.Change(space=3, key=b"\0" * 7 + b"\1", row=b"\xee", key_id=b"k" * 16)
    framed = record.frame(log_pb2.Commit(seq=db.head + 1, time_ns=db.clock.now(), changes=[change]))
    db.log.append([framed])
    db.log.sync()
    db.past.versions.catch_up(db.log.head)
    db.tables.applied = db.log.head
    try:
        (version,) = db.history(ITEMS, 1)
        assert (version.row, version.erased, version.sealed, version.fields) == (None, False, True, ())
    finally:
        db.log.written = db.log.head = db.tables.applied = db.log.head - 1
        db.engine.log.delete((db.log.head + 1).to_bytes(8))
        db.past.forget()


def test_a_reader_beside_the_writer_tells_the_same(path: Path, opening: Opener) -> None:
    db = opening()
    for n in range(10):
        db.put(ITEMS, Item(id=1, n=n))
        db.delete(ITEMS, 1)
    with open_flights(path, read_only=True) as reader:
        assert list(reader.history(ITEMS, 1)) == list(db.history(ITEMS, 1))
        assert len(list(reader.history(ITEMS, 1))) == 20
