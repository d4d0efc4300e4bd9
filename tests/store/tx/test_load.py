"""Bulk loads: in chunks, resumed where they stopped, and done once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import ConflictError, Error, RowError
from everlog.store.progress import Progress
from everlog.store.tx import load as loads
from tests.store.conftest import Opener
from tests.store.models import AIRPORTS, ITEMS, Item, declare, items


def test_a_load_is_commits_of_a_thousand_rows(db: Database) -> None:
    before, told = db.head, list[Progress]()
    result = db.load(
        ITEMS, items(1, 2500), id="a", source="items.csv", actor="ann", total=2500, progress=told.append
    )
    assert (result.rows, result.skipped, result.commits) == (2500, 0, 3)
    commits = [db.log.commit(seq) for seq in range(before + 1, db.head + 1)]
    assert [(c.load.rows, c.load.step, len(c.changes)) for c in commits] == [
        (1000, log_pb2.Load.CHUNK, 1000),
        (2000, log_pb2.Load.CHUNK, 1000),
        (2500, log_pb2.Load.FINISHED, 500),
    ]
    assert {(c.load.id, c.load.table, c.load.source, c.load.kind, c.actor) for c in commits} == {
        ("a", "items", "items.csv", log_pb2.Load.IMPORT, "ann")
    }
    assert [one.done for one in told] == [1000, 2000, 2500]
    assert list(db.scan(ITEMS)) == items(1, 2500)


class BreaksError(Exception):
    """Ends a source of rows in these tests."""


def breaking(rows: list[Any], after: int) -> Iterator[Any]:
    yield from rows[:after]
    raise BreaksError


def test_a_load_goes_on_where_it_stopped_and_is_done_once(opening: Opener) -> None:
    db = opening()
    with pytest.raises(BreaksError):
        db.load(ITEMS, breaking(items(1, 5000), 3500), id="a")
    assert db.count(ITEMS) in (2000, 3000)
    held = db.count(ITEMS)
    db.close()
    db = opening()
    db.delete(ITEMS, 1)
    result = db.load(ITEMS, items(1, 5000), id="a")
    assert (result.rows, result.skipped) == (5000, held)
    before = db.head
    again = db.load(ITEMS, breaking([], 0), id="a")
    assert (again.rows, again.skipped, again.commits, db.head) == (5000, 5000, 0, before)
    assert [row.id for row in db.scan(ITEMS)] == list(range(2, 5001))


def test_a_load_without_rows_is_finished(db: Database) -> None:
    result = db.load(ITEMS, [], id="none")
    assert (result.rows, result.commits) == (0, 1)
    assert db.load(ITEMS, items(1, 3), id="none").commits == 0


def test_loads_without_an_id_are_loads_of_their_own(db: Database) -> None:
    assert db.load(ITEMS, items(1, 3)).id != db.load(ITEMS, items(1, 3)).id


def test_an_id_of_another_table_is_refused(db: Database) -> None:
    db.load(ITEMS, items(1, 3), id="a")
    with pytest.raises(Error, match="load 'a' was begun for table items"):
        db.load(AIRPORTS, [], id="a")


def test_a_bad_row_stops_the_load_and_the_chunks_before_it_stay(db: Database) -> None:
    rows = [*items(1, 2500), "bad", *items(2501, 2600)]
    with pytest.raises(RowError, match=r"expected a row of items to be a flights.Item, found str"):
        db.load(ITEMS, rows, id="a")
    assert db.count(ITEMS) == 2000


def test_a_row_that_comes_twice_is_the_last_of_the_two(db: Database) -> None:
    result = db.load(ITEMS, [Item(id=1, n=1), Item(id=2), Item(id=1, n=2)])
    assert result.rows == 3
    assert list(db.scan(ITEMS)) == [Item(id=1, n=2), Item(id=2)]
    assert len(db.log.commit(db.head).changes) == 2


@pytest.mark.parametrize("small", [0, 20, 1500])
def test_large_rows_make_smaller_commits_wherever_they_come(db: Database, small: int) -> None:
    rows = items(1, small) + [Item(id=10_000 + number, text="x" * 100_000) for number in range(120)]
    result = db.load(ITEMS, rows)
    assert result.rows == small + 120
    sizes = [len(db.log.get(seq)) for seq in range(3, db.head + 1)]
    assert max(sizes) < loads.CHUNK_BYTES + 200_000
    assert db.count(ITEMS) == small + 120


def test_two_at_once_with_one_id_do_not_write_a_row_twice(db: Database) -> None:
    def meddling() -> Iterator[Any]:
        yield from items(1, 1500)
        db.load(ITEMS, items(1, 3000), id="a")
        yield from items(1501, 3000)

    with pytest.raises(ConflictError, match="another process is writing load 'a' as well"):
        db.load(ITEMS, meddling(), id="a")
    assert db.count(ITEMS) == 3000
    assert db.load(ITEMS, items(1, 3000), id="a").commits == 0


def test_a_load_goes_on_over_a_migration(db: Database) -> None:
    def migrating() -> Iterator[Any]:
        yield from items(1, 1500)
        declare(db, ITEMS)
        yield from items(1501, 3000)

    assert db.load(ITEMS, migrating()).rows == 3000
    assert db.schema.version == 2


def test_a_load_goes_on_though_its_last_chunk_is_long_ago(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everlog.store.tables.tables.KEYS_MAX", 10)

    def slow() -> Iterator[Any]:
        for item in items(1, 4000):
            if not item.id % 1000:
                for other in range(20):
                    db.put(ITEMS, Item(id=9000 + other), durability="os")
            yield item

    assert db.load(ITEMS, slow(), durability="os").rows == 4000


def test_rows_too_many_for_one_commit_are_more_commits(db: Database) -> None:
    rows = [Item(id=number, text="x" * 100_000) for number in range(160)]
    loader = db.loader(ITEMS, log_pb2.Load(kind=log_pb2.Load.IMPORT, id="a", table="items"))
    loader.add(rows, last=True)
    assert [db.log.commit(seq).load.rows for seq in range(3, db.head + 1)] == [80, 160]
    assert db.load(ITEMS, rows, id="a").commits == 0


@pytest.mark.parametrize("every", [1, 3, 7, 8, 100])
def test_chunks_of_a_load_are_bounded_in_bytes_wherever_the_large_rows_are(every: int) -> None:
    made = (Item(id=number, text="x" * (10 if number % every else 300_000)) for number in range(3000))
    sizes = [(len(chunk), sum(row.ByteSize() for row in chunk)) for chunk, _ in loads.chunks(made)]
    assert sum(rows for rows, _ in sizes) == 3000
    assert max(size for _, size in sizes) <= 8 << 20
    assert max(rows for rows, _ in sizes) <= 1000
