"""Accepted rows are readable; an unreadable row of an older version affects no other row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from everlog.store.database import Database
from everlog.store.errors import CorruptionError, RowError
from everlog.store.schema.admission import doubts, is_whole, salvage
from everlog.store.schema.codec import STRING, UINT64
from everlog.store.schema.table import Field, Index, Table
from everlog.store.upkeep.repair import repair
from tests.store.documents import (
    DOCUMENTS,
    DOCUMENTS2,
    Document,
    Document2,
    deep,
    open_documents,
    put_unasked,
)
from tests.store.models import Airport, Item

LEVELS = 49  # of lists in lists, each of two messages


@pytest.fixture
def db(path: Path) -> Iterator[Database]:
    with open_documents(path) as db:
        yield db
        assert list(db.admin.check()) == []


def document2(raw: bytes) -> Any:
    """Return a proto2 document, which accepts text of any bytes."""
    row = Document2(id=1)
    row.MergeFromString(raw)
    return row


WRITERS: dict[str, Callable[[Database, Table[Any, Any], Any], Any]] = {
    "put": lambda db, table, row: db.put(table, row),
    "insert": lambda db, table, row: db.insert(table, row),
    "load": lambda db, table, row: db.load(table, [row]),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_row_nested_deeper_than_readers_parse_is_refused(db: Database, write: Any) -> None:
    head = db.head
    for depth in (LEVELS + 1, 60, 1000):
        with pytest.raises(RowError, match=r"row documents/7 .* nested deeper than 100 levels"):
            write(db, DOCUMENTS, deep(7, depth))
    assert db.head == head
    write(db, DOCUMENTS, deep(7, LEVELS))
    assert db.get(DOCUMENTS, 7) == deep(7, LEVELS)


def test_a_model_that_nests_itself_is_refused_as_deep(db: Database) -> None:
    row = Document(id=1)
    inner = row.inner
    for _ in range(100):
        inner = inner.inner
    inner.number = 1
    with pytest.raises(RowError, match="nested deeper"):
        db.put(DOCUMENTS, row)


def test_unknown_groups_that_nest_too_deep_below_a_message_are_refused(db: Database) -> None:
    row = Document(id=1)
    row.inner.inner.MergeFromString(b"\x9b\x06" * 99 + b"\x9c\x06" * 99)
    with pytest.raises(RowError, match="documents/1 cannot be written"):
        db.put(DOCUMENTS, row)


@pytest.mark.parametrize(
    ("raw", "place"),
    [
        (b"\x22\x02\xff\xfe", "text"),
        (b"\x12\x02\xff\xfe", "title"),
        (b"\x8a\x02\x01\xff", "words"),
        (b"\xfa\x01\x03\x12\x01\xff", r"inner\.text"),
        (b"\xb2\x04\x06\x0a\x01\xff\x12\x01a", "by_word"),
        (b"\xb2\x04\x06\x0a\x01a\x12\x01\xff", "by_word"),
    ],
)
def test_text_of_proto2_that_is_not_utf_8_is_refused(db: Database, raw: bytes, place: str) -> None:
    with pytest.raises(RowError, match=rf"{place}.* is not UTF-8"):
        db.put(DOCUMENTS2, document2(raw))
    db.put(DOCUMENTS2, Document2(id=1, text="é", words=["ü"], by_word={"ö": "ß"}))


def test_an_index_value_over_its_limit_is_refused(db: Database) -> None:
    with pytest.raises(RowError, match=r"documents/1 has 6,000,003 bytes of values in index by_title"):
        db.put(DOCUMENTS, Document(id=1, title="\0" * 3_000_000))


def test_an_older_model_cannot_bring_what_the_newer_one_cannot_read(db: Database) -> None:
    file = descriptor_pb2.FileDescriptorProto(name="old.proto", package="old", syntax="proto3")
    message = file.message_type.add(name="Document")
    message.field.add(name="id", number=1, type=4, label=1)
    message.field.add(name="title", number=2, type=9, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    older: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName("old.Document"))
    table = Table("documents", older, key=Field(older, "id", 1, UINT64))
    kept = Document(id=1, title="a", text="b").SerializeToString()
    db.put(table, older.FromString(kept))
    assert db.get(DOCUMENTS, 1) == Document(id=1, title="a", text="b")
    for unknown in (b"\x22\x01\xff", deep(1, 60).SerializeToString()):
        with pytest.raises(RowError, match="documents/1 cannot be written"):
            db.put(table, older.FromString(b"\x08\x01" + unknown))


def test_actor_and_reason_that_are_no_text_are_refused(db: Database) -> None:
    head = db.head
    for words in ({"actor": "\ud800"}, {"reason": "\ud800"}, {"client": 5}):
        with pytest.raises(RowError, match=r"expected `(actor|reason|client)` as (text|valid Unicode)"):
            db.put(DOCUMENTS, Document(id=1), **words)
    assert db.head == head


def test_rows_of_flat_models_are_not_parsed_again() -> None:
    assert doubts(Item, Item) == []
    assert [doubt.has_loose_text for doubt in doubts(Airport, Airport)] == [False]
    assert [doubt.has_loose_text for doubt in doubts(Document2, Document2)] == [True]


class TestARowThatOlderVersionsTook:
    """Row 5 of ten cannot be parsed by any reader."""

    @pytest.fixture
    def spoiled(self, path: Path) -> Path:
        with open_documents(path) as db:
            for id in range(10):
                put_unasked(db, DOCUMENTS, deep(id, 60 if id == 5 else 1))
        return path

    def test_it_costs_no_other_row(self, spoiled: Path) -> None:
        with open_documents(spoiled) as db:
            with pytest.raises(CorruptionError, match="row documents/5 cannot be read"):
                db.get(DOCUMENTS, 5)
            with pytest.raises(CorruptionError, match="row documents/5 cannot be read"):
                db.get_many(DOCUMENTS, [4, 5])
            assert [row.id for row in db.get_many(DOCUMENTS, [4, 6]) if row is not None] == [4, 6]
            for what in (DOCUMENTS, DOCUMENTS.by_title):
                assert read(db.scan(what)) == ([0, 1, 2, 3, 4, 6, 7, 8, 9], ["documents/5"])
                assert read(db.scan(what, reverse=True))[0] == [9, 8, 7, 6, 4, 3, 2, 1, 0]
            assert read(db.scan(DOCUMENTS, limit=7)) == ([0, 1, 2, 3, 4, 6], ["documents/5"])
            assert db.count(DOCUMENTS) == 10
            assert [problem[:30] for problem in db.admin.check()] == ["row documents/5 cannot be read"]
            assert db.admin.hashes()["documents"].rows == 10
            assert len(list(db.history(DOCUMENTS, 5))) == 1
            assert sum(len(entry.changes) for entry in db.past.log()) == 10
            assert len(list(db.past.diff(DOCUMENTS, 2, db.head))) == 10
            db.admin.rebuild()
            assert len(list(db.admin.check())) == 1

    def test_it_is_replayed_with_the_same_index_entries(self, spoiled: Path, tmp_path: Path) -> None:
        with open_documents(spoiled) as db:
            db.admin.rebuild_into(tmp_path / "copy")
            live = db.admin.hashes()
        with Database(tmp_path / "copy") as copy:
            assert copy.admin.hashes() == live
            assert len(list(copy.admin.check())) == 1
            assert copy.count(DOCUMENTS.by_title, "title 5") == 1

    def test_it_can_be_replaced_and_deleted_with_its_index_entries(self, spoiled: Path) -> None:
        with open_documents(spoiled) as db:
            db.put(DOCUMENTS, Document(id=5, title="other"))
            assert list(db.admin.check()) == []
            put_unasked(db, DOCUMENTS, deep(5, 60))
            db.delete(DOCUMENTS, 5)
            assert list(db.admin.check()) == []
            assert [row.id for row in db.scan(DOCUMENTS.by_title)] == [0, 1, 2, 3, 4, 6, 7, 8, 9]

    def test_repair_sets_it_aside_and_nothing_else(self, spoiled: Path) -> None:
        planned = repair(spoiled, dry_run=True)
        assert (planned.aside, planned.cut) == (("documents/5",), 0)
        with open_documents(spoiled) as db:
            assert len(list(db.admin.check())) == 1
            head = db.head
        done = repair(spoiled)
        assert (done.aside, done.cut, done.records, done.why) == (("documents/5",), 0, head, "")
        with open_documents(spoiled) as db:
            assert list(db.admin.check()) == []
            assert db.head == head + 1
            assert [row.id for row in db.scan(DOCUMENTS)] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
            assert [version.op for version in db.history(DOCUMENTS, 5)] == ["delete", "put"]


def test_a_sealed_row_that_cannot_be_read_costs_no_other_row(path: Path) -> None:
    title = Field(Document, "title", 2, STRING)
    sealed: Table[Any, Any] = Table(
        "sealed",
        Document,
        key=Field(Document, "id", 1, UINT64),
        person=title,
        indexes=(Index("by_title", title, hashed=True),),
    )
    key = bytes(range(32))
    with open_documents(path, sealed, master_key=key) as db:
        for id in range(4):
            put_unasked(db, sealed, deep(id, 60 if id == 2 else 1))
        db.admin.rebuild()
    assert repair(path).aside == ()
    with Database(path, master_key=key) as db:
        assert read(db.scan(sealed)) == ([0, 1, 3], ["sealed/2"])
        (problem,) = db.admin.check()
        assert "row sealed/2 cannot be read" in problem
        assert "delete or replace it" in problem
        assert db.count(sealed.by_title, "title 2") == 1
        db.delete(sealed, 2)
        assert list(db.admin.check()) == []
        assert [row.id for row in db.scan(sealed.by_title, "title 3")] == [3]


def read(rows: Any) -> tuple[list[int], list[str]]:
    """Return the ids of rows that can be read, and the names of those that cannot."""
    ids, names = list[int](), list[str]()
    while True:
        try:
            for row in rows:
                ids.append(row.id)
        except CorruptionError as error:
            names.append(str(error).split()[1])
        else:
            return ids, names


def test_what_can_be_read_is_salvaged_around_what_cannot() -> None:
    row = deep(5, 60)
    row.inner.text = "kept"
    row.words.append("kept")
    inner = row.inners.add(text="kept")
    value = inner.body
    for _ in range(60):
        value = value.list_value.values.add()
    found: Any = salvage(Document, row.SerializeToString())
    assert (found.id, found.title, found.inner.text, list(found.words)) == (5, "title 5", "kept", ["kept"])
    assert found.inners[0].text == "kept"


@pytest.mark.parametrize("level", range(1, 60, 4))
def test_what_is_salvaged_of_a_damaged_deep_row_can_be_read_again(level: int) -> None:
    """A list at one level holds a field of another kind, so that a part of the row parses by itself."""
    row = deep(5, 60)
    value = row.body
    for _ in range(level):
        value = value.list_value.values[0]
    raw = row.SerializeToString()
    inner = value.list_value.SerializeToString()
    assert raw.count(inner) == 1
    for first in (b"\x08", b"\x32", b"\x0a"):
        found: Any = salvage(Document, raw.replace(inner, first + inner[1:]))
        assert (found.id, Document.FromString(found.SerializeToString())) == (5, found)


@given(st.binary(max_size=40))
def test_bytes_of_any_kind_are_salvaged_without_an_error(raw: bytes) -> None:
    found = salvage(Document, raw)
    assert salvage(Document, raw) == found
    Document.FromString(found.SerializeToString())
    try:
        Document.FromString(raw)
    except Exception:  # noqa: BLE001  any error will do
        return
    assert is_whole(raw)
    assert Document.FromString(found.SerializeToString()) == Document.FromString(raw) or found != found  # noqa: PLR0124
