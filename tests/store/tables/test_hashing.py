"""Content hashes: equal exactly if the rows are equal."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import pytest

from everlog.store.database import Database
from everlog.store.schema.codec import UINT64
from everlog.store.schema.table import Field, Table
from everlog.store.tables.hashing import content_hash
from tests.store.conftest import Opener
from tests.store.models import ITEMS, Item, declare, items, models


def test_the_hash_is_of_lengths_keys_and_rows() -> None:
    pairs = [(b"k", b"row"), (b"kk", b"")]
    raw = b"".join(struct.pack(">I", len(part)) + part for pair in pairs for part in pair)
    assert content_hash(pairs) == (2, hashlib.sha256(raw).digest())
    assert content_hash([]) == (0, hashlib.sha256().digest())
    assert content_hash((b"%05d" % n, b"") for n in range(3000)).rows == 3000


def test_the_way_to_the_rows_does_not_matter(opening: Opener, tmp_path: Any) -> None:
    one, other = opening(), opening(at=tmp_path / "other")
    one.load(ITEMS, items(1, 50))
    for item in reversed(items(1, 60)):
        other.put(ITEMS, item, durability="os")
    assert one.admin.hashes()["items"] != other.admin.hashes()["items"]
    for number in range(51, 61):
        other.delete(ITEMS, number)
    assert one.admin.hashes() == other.admin.hashes()
    other.put(ITEMS, Item(id=50, text="other"))
    assert one.admin.hashes()["items"].hash != other.admin.hashes()["items"].hash


def test_what_the_schema_does_not_know_does_not_count(db: Database) -> None:
    more = models("more", Item="id 1 uint64, text 2 string, n 3 int64, more 9 string")["Item"]
    db.put(ITEMS, Item(id=1, text="a"))
    expected = db.admin.hashes()["items"]
    stored = more(id=1, text="a", more="unknown").SerializeToString()
    db.put(ITEMS, Item.FromString(stored))
    assert db.admin.hashes()["items"] == expected
    known: Table[Any, int] = Table("items", more, key=Field(more, "id", 1, UINT64))
    declare(db, known)
    assert db.admin.hashes()["items"] != expected


def test_one_row_among_many_that_is_stored_in_another_way_is_hashed_as_all_are(
    opening: Opener, tmp_path: Any
) -> None:
    more = models("more", Item="id 1 uint64, text 2 string, n 3 int64, more 9 string")["Item"]
    one, other = opening(), opening(at=tmp_path / "other")
    rows = items(1, 1200)
    one.load(ITEMS, rows)
    unknown = more(id=700, text=rows[699].text, n=rows[699].n, more="unknown").SerializeToString()
    other.load(ITEMS, [*rows[:699], Item.FromString(unknown), *rows[700:]])
    assert other.get(ITEMS, 700).SerializeToString() != one.get(ITEMS, 700).SerializeToString()  # type: ignore[union-attr]
    assert one.admin.hashes() == other.admin.hashes()
    assert one.admin.hashes()["items"].rows == 1200


@pytest.mark.parametrize("wanted", ["airports", "items", "seats"])
def test_every_table_has_one(db: Database, wanted: str) -> None:
    assert db.admin.hashes()[wanted] == (0, hashlib.sha256().digest())
