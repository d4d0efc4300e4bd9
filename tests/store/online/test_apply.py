"""Migrations in the store: applied as a whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import MigrationError, RowError, SchemaError, UniqueError
from everlog.store.progress import Progress
from everlog.store.schema.codec import STRING, TIMESTAMP, UINT64
from everlog.store.schema.evolve import evolve
from everlog.store.schema.table import Field, Index, Table
from everlog.store.tables.projector import change_schema
from tests.store.conftest import Opener
from tests.store.models import (
    AIRPORTS,
    ITEM_ID,
    ITEMS,
    TEXT,
    Airport,
    Item,
    airport,
    declare,
    items,
    migration,
    models,
)

BY_TEXT: Table[Any, int] = Table("items", Item, key=ITEM_ID, indexes=(Index("by_text", TEXT),))
UNIQUE_TEXT: Table[Any, int] = Table(
    "items", Item, key=ITEM_ID, indexes=(Index("by_text", TEXT, unique=True),)
)


def unchanged(db: Database, before: int, version: int = 1) -> None:
    assert db.head == before
    assert db.schema.version == version
    assert list(db.admin.check()) == []


def test_a_new_index_is_built_over_the_rows_there_are(opening: Opener) -> None:
    db = opening(ITEMS)
    db.load(ITEMS, items(1, 5000))
    db.put(ITEMS, Item(id=1, text="zzz"))
    declare(db, BY_TEXT)
    assert [row.id for row in db.scan(BY_TEXT.by_text, starts_with="zz")] == [1]
    assert db.count(BY_TEXT.by_text) == 5000
    db.delete(BY_TEXT, 1)
    assert db.count(BY_TEXT.by_text) == 4999


def test_whatever_is_flushed_while_an_index_is_built_opens_again(
    opening: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = opening(ITEMS)
    db.load(ITEMS, items(1, 500))

    def flushed(*args: Any) -> None:
        db.engine.flush()
        shutil.copytree(db.path, tmp_path / "then")
        change_schema(*args)

    with monkeypatch.context() as patched:
        patched.setattr("everlog.store.tables.projector.change_schema", flushed)
        declare(db, BY_TEXT)
    with Database(tmp_path / "then") as then:
        assert then.admin.hashes() == db.admin.hashes()
        assert then.count(BY_TEXT.by_text) == 500
        assert list(then.admin.check()) == []


def test_an_index_that_goes_leaves_nothing_behind(opening: Opener) -> None:
    db = opening(BY_TEXT)
    db.load(BY_TEXT, items(1, 100))
    info = db.schema.table("items")
    index = info.index("by_text")
    declare(db, ITEMS)
    end = info.row_prefix[:4] + b"\xff\xff"
    assert list(db.tables.target.view.items(index.prefix, end)) == []
    with pytest.raises(SchemaError, match="no index 'by_text' at schema version 2"):
        db.scan(BY_TEXT.by_text)
    declare(db, BY_TEXT)
    assert db.schema.table("items").index("by_text").id == 2
    assert db.count(BY_TEXT.by_text) == 100


def test_a_table_that_goes_leaves_nothing_behind(opening: Opener) -> None:
    db = opening(BY_TEXT)
    db.load(BY_TEXT, items(1, 100))
    start, end = db.schema.table("items").row_prefix[:4], b"\xff" * 4
    declare(db, drop=["items"])
    assert list(db.tables.target.view.items(start, end)) == []
    with pytest.raises(SchemaError, match="no table 'items' at schema version 2; the tables are: none"):
        db.get(ITEMS, 1)
    declare(db, ITEMS)
    assert db.count(ITEMS) == 0
    assert db.schema.table("items").space == 2


def test_a_unique_index_that_does_not_hold_names_both_rows_and_leaves_no_trace(opening: Opener) -> None:
    db = opening(ITEMS)
    db.load(ITEMS, [Item(id=number, text=f"t{number % 99}") for number in range(100)])
    before, told = db.head, list[Progress]()
    schema = evolve(db.schema.proto, 2, [UNIQUE_TEXT])
    with pytest.raises(
        UniqueError, match="row items/99 has the same text in the unique index by_text as row items/0"
    ):
        db.apply_migration(migration(schema), progress=told.append)
    unchanged(db, before)
    db.put(ITEMS, Item(id=99, text="other"))
    declare(db, UNIQUE_TEXT)
    with pytest.raises(UniqueError):
        db.put(UNIQUE_TEXT, Item(id=500, text="t5"))
    assert db.count(UNIQUE_TEXT.by_text) == 100


def test_a_migrations_rows_are_held_to_its_new_unique_index(opening: Opener) -> None:
    db = opening(ITEMS)
    db.put(ITEMS, Item(id=1, text="a"))
    before = db.head
    with pytest.raises(UniqueError, match="row items/2 has the same text"):
        declare(db, UNIQUE_TEXT, rows=[(UNIQUE_TEXT, Item(id=2, text="a"))])
    unchanged(db, before)
    declare(db, UNIQUE_TEXT, rows=[(UNIQUE_TEXT, Item(id=1, text="b")), (UNIQUE_TEXT, Item(id=2, text="a"))])
    assert [(row.text, row.id) for row in db.scan(UNIQUE_TEXT.by_text)] == [("a", 2), ("b", 1)]


def test_bootstrap_rows_and_their_migration_are_one_record(opening: Opener) -> None:
    db = opening(ITEMS)
    before = db.head
    declare(db, AIRPORTS, rows=[(AIRPORTS, airport("JFK", "New York")), (ITEMS, Item(id=7))])
    assert db.head == before + 1
    commit = db.log.commit(db.head)
    assert (commit.schema, commit.migration.version, len(commit.changes)) == (2, 2, 2)
    assert [row.faa for row in db.scan(AIRPORTS.by_city, "New York")] == ["JFK"]


@pytest.mark.parametrize("bad", [Airport(), Item(id=1)])
def test_a_bad_bootstrap_row_leaves_no_trace(opening: Opener, bad: Any) -> None:
    db = opening(ITEMS)
    before = db.head
    with pytest.raises(RowError):
        declare(db, AIRPORTS, rows=[(AIRPORTS, airport("JFK")), (AIRPORTS, bad)])
    unchanged(db, before)
    assert "airports" not in db.schema.tables


def test_a_compatible_change_rewrites_nothing(opening: Opener) -> None:
    db = opening(ITEMS)
    db.load(ITEMS, items(1, 2000))
    newer_model = models("newer", Item="id 1 uint64, label 2 string, n 3 int64, more 4 string")["Item"]
    newer: Table[Any, int] = Table(
        "items",
        newer_model,
        key=Field(newer_model, "id", 1, UINT64),
        indexes=(Index("by_more", Field(newer_model, "more", 4, STRING)),),
    )
    declare(db, newer)
    assert not db.log.commit(db.head).changes
    row = db.get(newer, 5)
    assert row is not None
    assert (row.label, row.more) == ("text 5", "")
    row.more = "x"
    db.put(newer, row)
    old = db.get(ITEMS, 5)
    assert old is not None
    old.n = 77
    db.put(ITEMS, old)  # a client with only the old model keeps fields that it does not know
    again = db.get(newer, 5)
    assert again is not None
    assert (again.more, again.n) == ("x", 77)
    assert [found.id for found in db.scan(newer.by_more, "x")] == [5]
    db.put(ITEMS, Item(id=5))
    assert db.count(newer.by_more, "x") == 0


def test_a_plan_upon_another_version_is_refused(opening: Opener) -> None:
    db = opening(ITEMS)
    before = db.head
    schema = evolve(db.schema.proto, 2, [ITEMS])
    with pytest.raises(MigrationError, match=r"was planned for schema version 5, found 1.*plan again"):
        db.apply_migration(migration(schema), expect_schema=5)
    unchanged(db, before)


def test_migrations_and_schemas_of_the_past_are_remembered(opening: Opener) -> None:
    db = opening(ITEMS)
    second = declare(db, BY_TEXT)
    db.put(ITEMS, Item(id=1))
    third = db.apply_migration(
        log_pb2.Migration(step=log_pb2.Migration.PROPOSED, version=3, name="next"), actor="ann", reason="why"
    )
    db.close()
    db = opening()
    assert [(one.seq, one.migration.version, one.actor) for one in db.migration_records()] == [
        (2, 1, ""),
        (second.seq, 2, ""),
        (third.seq, 3, "ann"),
    ]
    assert db.schema_at(1).version == 0
    assert not db.schema_at(2).tables[0].indexes
    assert db.schema_at(db.head).tables[0].indexes[0].name == "by_text"


def test_an_index_is_built_over_whatever_a_row_can_hold(opening: Opener) -> None:
    """A migration whose record is in the log must always be projected."""
    model = models("timed", Row="id 1 uint64, at 2 timestamp")["Row"]
    key = Field(model, "id", 1, UINT64)
    plain: Table[Any, int] = Table("rows", model, key=key)
    by_at = Index[Any]("by_at", Field(model, "at", 2, TIMESTAMP))
    timed: Table[Any, int] = Table("rows", model, key=key, indexes=(by_at,))
    db = opening(plain)
    for number, at in enumerate(
        (
            {"seconds": 3, "nanos": -1},
            {"seconds": 3},
            {"seconds": -(2**63)},
            {"seconds": 4},
            None,
            {"nanos": -(2**31)},
        )
    ):
        db.put(plain, model(id=number, at=at))
    declare(db, timed)
    assert [row.id for row in db.scan(timed.by_at)] == [4, 2, 5, 1, 0, 3]
    db.put(timed, model(id=9, at={"seconds": 9, "nanos": -5}))
    db.close()
    db = opening()
    assert [row.id for row in db.scan(timed.by_at, start=(Timestamp(seconds=4),))] == [3, 9]
    assert db.admin.rebuild() == db.admin.hashes()
