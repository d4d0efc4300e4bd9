"""Rows that expire: commits delete them, and until then they exist."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from everlog.proto import log_pb2
from everlog.store import keys
from everlog.store.clock import Clock
from everlog.store.database import Database
from everlog.store.errors import ConflictError, ReadOnlyError, RowError, SchemaError
from everlog.store.schema.reflect import table_of
from everlog.store.schema.table import Table
from everlog.store.upkeep.expiry import CHUNK_ROWS
from everlog.store.upkeep.status import ExpiryStatus
from tests.store.conftest import Opener
from tests.store.models import AIRPORTS, ITEM_ID, ITEMS, Item, airport, declare, items

NOW = 1_790_000_000_000_000_000
SECOND = 10**9
DAY = timedelta(days=1)
SHORT: Table[Any, int] = Table("items", Item, key=ITEM_ID, ttl=DAY)
DAY_NS = 86_400 * SECOND


class Time:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.wall = self.steady = NOW

    def __call__(self) -> Clock:
        return Clock(wall=lambda: self.wall, steady=lambda: self.steady)

    def pass_(self, ns: int) -> None:
        self.wall += ns
        self.steady += ns


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def db(opening: Opener, time: Time) -> Database:
    return opening(clock=time())


def ends(db: Database) -> list[tuple[int, int, bytes]]:
    db.tables.flush()
    start = keys.NOTE_END
    return [keys.read_end(note) for note, _ in db.tables.target.view.items(start, start + b"\xff")]


def test_a_row_whose_life_is_over_is_deleted_by_a_commit_that_says_so(db: Database, time: Time) -> None:
    db.put(AIRPORTS, airport("JFK", "New York"), expires=NOW + 5 * SECOND)
    db.put(AIRPORTS, airport("LAX", "Los Angeles"))
    assert db.admin.expire() == 0
    time.pass_(5 * SECOND)
    assert db.get(AIRPORTS, "JFK") is not None  # until it is swept
    assert db.admin.expire() == 1
    assert db.get(AIRPORTS, "JFK") is None
    assert [row.faa for row in db.scan(AIRPORTS.by_city)] == ["LAX"]
    commit = db.log.commit(db.head)
    assert (commit.actor, commit.reason) == ("everlog", "expired")
    assert [(change.op, change.prior) for change in commit.changes] == [(log_pb2.DELETE, 3)]
    assert ends(db) == []
    assert db.admin.expire() == 0


def test_the_record_says_when_the_life_ends_and_asks_its_reader_to_know(db: Database) -> None:
    db.put(AIRPORTS, airport("JFK"), expires=datetime(2027, 1, 1, microsecond=7, tzinfo=UTC))
    commit = db.log.commit(db.head)
    assert commit.changes[0].expires_ns == 1_798_761_600_000_007_000
    assert commit.requires == [log_pb2.EXPIRY]
    db.put(AIRPORTS, airport("LAX"))
    assert db.log.commit(db.head).requires == []


def test_a_row_that_is_written_again_has_the_life_of_that_write(db: Database, time: Time) -> None:
    db.put(AIRPORTS, airport("JFK"), expires=NOW + SECOND)
    db.put(AIRPORTS, airport("JFK"), expires=NOW + 9 * SECOND)
    time.pass_(SECOND)
    assert db.admin.expire() == 0
    db.put(AIRPORTS, airport("JFK"))
    assert ends(db) == []
    time.pass_(9 * SECOND)
    assert db.admin.expire() == 0
    assert db.get(AIRPORTS, "JFK") is not None


def test_a_transaction_writes_rows_with_and_without_a_life(db: Database, time: Time) -> None:
    with db.transaction() as tx:
        tx.insert(ITEMS, Item(id=1), expires=NOW + 1)
        tx.put(ITEMS, Item(id=2))
        tx.put(ITEMS, Item(id=3), expires=NOW + 1)
        tx.put(ITEMS, Item(id=3), expires=0)
        assert tx.get(ITEMS, 1) is not None
    time.pass_(1)
    assert db.admin.expire() == 1
    assert [row.id for row in db.scan(ITEMS)] == [2, 3]


def test_a_table_has_a_life_for_its_rows(opening: Opener, time: Time) -> None:
    db = opening(SHORT, clock=time())
    db.put(SHORT, Item(id=1))
    db.put(SHORT, Item(id=2), expires=0)
    db.put(SHORT, Item(id=3), expires=NOW + 2 * DAY_NS)
    db.load(SHORT, items(4, 5))
    db.load(SHORT, items(6, 7), expires=NOW + 2 * DAY_NS)
    assert [change.expires_ns for change in db.log.commit(3).changes] == [NOW + DAY_NS]
    time.pass_(DAY_NS)
    assert db.admin.expire() == 3
    assert [row.id for row in db.scan(SHORT)] == [2, 3, 6, 7]
    assert table_of(db.schema.table("items")).ttl == DAY


def test_a_table_gets_and_loses_a_life_by_a_migration(db: Database, time: Time) -> None:
    db.put(ITEMS, Item(id=1))
    declare(db, SHORT)
    db.put(ITEMS, Item(id=2))  # the schema in force counts, not the constant
    declare(db, ITEMS)
    db.put(SHORT, Item(id=3))
    time.pass_(DAY_NS)
    assert db.admin.expire() == 1
    assert [row.id for row in db.scan(ITEMS)] == [1, 3]


def test_a_row_that_was_written_since_it_was_found_lives(
    db: Database, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.load(ITEMS, items(1, 9), expires=NOW + 1)
    time.pass_(1)
    commit: Callable[..., Any] = db.core.commit
    conflicts: list[Any] = []

    def late(transaction: Any, about: Any = None) -> Any:
        if transaction.metadata.actor == "everlog" and not conflicts:
            db.put(ITEMS, Item(id=5, text="again"))
            try:
                return commit(transaction, about)
            except ConflictError as error:
                conflicts.append(error)
                raise
        return commit(transaction, about)

    monkeypatch.setattr(db.core, "commit", late)
    assert db.admin.expire() == 8
    assert [row.text for row in db.scan(ITEMS)] == ["again"]
    assert conflicts


def test_many_rows_end_in_chunks(db: Database, time: Time) -> None:
    db.load(ITEMS, items(1, 2 * CHUNK_ROWS + 1), expires=NOW + 1)
    before = db.head
    time.pass_(1)
    assert db.admin.expire() == 2 * CHUNK_ROWS + 1
    assert db.head == before + 3
    assert db.count(ITEMS) == 0


def test_lives_are_kept_by_rebuilding_replaying_and_opening_again(
    opening: Opener, time: Time, tmp_path: Path
) -> None:
    db = opening(clock=time())
    db.load(ITEMS, items(1, 20), expires=NOW + 1)
    db.put(AIRPORTS, airport("JFK"), expires=NOW + 2)
    db.put(ITEMS, Item(id=7))
    known = ends(db)
    assert len(known) == 20
    db.admin.rebuild()
    assert ends(db) == known
    db.admin.rebuild_into(tmp_path / "copy")
    db.close()
    again, copy = (opening(at=path, clock=time()) for path in (db.path, tmp_path / "copy"))
    for one in (again, copy):
        assert ends(one) == known
        assert one.admin.status().expiry == ExpiryStatus(rows=20, next_ns=NOW + 1)
    time.pass_(1)
    assert again.admin.status().expiry.due == 19
    assert again.admin.expire() == 19


def test_tables_that_are_dropped_take_the_ends_of_their_rows_with_them(db: Database) -> None:
    db.load(ITEMS, items(1, 5000), expires=NOW + 1)
    db.put(AIRPORTS, airport("JFK"), expires=NOW + 2)
    declare(db, drop=["items"])
    assert len(ends(db)) == db.admin.status().expiry.rows == 1
    db.admin.rebuild()
    assert len(ends(db)) == db.admin.status().expiry.rows == 1


def test_what_is_no_time_is_refused(db: Database) -> None:
    with pytest.raises(RowError, match="expected a datetime with a time zone"):
        db.put(ITEMS, Item(id=1), expires=datetime(2027, 1, 1))  # noqa: DTZ001  the test is about this
    with pytest.raises(RowError, match="expected nanoseconds since 1970"):
        db.put(ITEMS, Item(id=1), expires=-1)
    for wrong in (timedelta(hours=1), "2027-01-01", 1.5, True, date(2027, 1, 1)):
        some: Any = wrong
        for write in (db.put, db.insert):
            with pytest.raises(RowError, match=rf"found {type(wrong).__name__}; for one hour from now"):
                write(ITEMS, Item(id=1), expires=some)
        with pytest.raises(RowError, match="expected a datetime with a time zone, or nanoseconds"):
            db.load(ITEMS, items(1, 2), expires=some)
    with pytest.raises(SchemaError, match="above 0 and below 200 years"):
        Table("items", Item, key=ITEM_ID, ttl=timedelta(0))


def test_a_reader_beside_sweeps_nothing(opening: Opener, time: Time) -> None:
    db = opening(clock=time())
    db.put(ITEMS, Item(id=1), expires=NOW + 1)
    reader = opening(read_only=True)
    with pytest.raises(ReadOnlyError):
        reader.admin.expire()
