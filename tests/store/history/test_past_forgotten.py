"""The version index is deleted while the past is being read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from everlog.store.database import Database
from tests.store.models import ITEMS, Item

ROWS, COPIES = 1500, 3

Read = Callable[[Database, Any], Iterable[Any]]


def filled(db: Database) -> int:
    for copy in range(COPIES):
        with db.transaction(durability="os") as tx:
            for id in range(ROWS):
                tx.put(ITEMS, Item(id=id, n=copy))
    db.log.sync()
    return db.head - 1


def history(db: Database, _: Any) -> Iterable[Any]:
    return [version.seq for version in db.history(ITEMS, 7)]


READS: dict[str, Read] = {
    "get": lambda _, moment: [moment.get(ITEMS, 7)],
    "get_many": lambda _, moment: moment.get_many(ITEMS, [1, 2, 9]),
    "scan": lambda _, moment: moment.scan(ITEMS),
    "backwards": lambda _, moment: moment.scan(ITEMS, reverse=True),
    "count": lambda _, moment: [moment.count(ITEMS)],
    "history": history,
    "hashes": lambda _, moment: sorted(moment.hashes().items()),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_moment_of_before_gives_what_it_gave(db: Database, read: Read) -> None:
    moment = db.at(seq=filled(db))
    before = list(read(db, moment))
    db.past.forget()
    assert list(read(db, moment)) == before


@pytest.mark.parametrize("name", ["scan", "backwards"])
def test_a_scan_goes_on_where_it_was(db: Database, name: str) -> None:
    moment = db.at(seq=filled(db))
    expected = list(READS[name](db, moment))
    rows = iter(READS[name](db, moment))
    begun = [next(rows) for _ in range(20)]
    db.past.forget()
    assert begun + list(rows) == expected


@pytest.mark.parametrize("name", ["scan", "backwards"])
def test_a_scan_that_leaps_over_many_versions_goes_on_where_it_was(db: Database, name: str) -> None:
    for n in range(200):  # enough that a walk seeks to the requested ones
        with db.transaction(durability="os") as tx:
            for id in range(12):
                tx.put(ITEMS, Item(id=id, n=n))
    db.log.sync()
    moment = db.at(seq=db.head - 100)
    expected = list(READS[name](db, moment))
    found = list[Any]()
    for row in READS[name](db, moment):
        found.append(row)
        db.past.forget()
    assert found == expected


@pytest.mark.long
def test_no_row_is_wrong_while_others_throw_it_away(db: Database) -> None:
    moment = db.at(seq=filled(db))
    expected = {name: list(read(db, moment)) for name, read in READS.items()}
    wrong, done = list[str](), threading.Event()

    def reading(name: str) -> None:
        try:
            while not done.is_set():
                if list(READS[name](db, moment)) != expected[name]:
                    wrong.append(name)
        except Exception as error:  # noqa: BLE001  the test reports it
            wrong.append(f"{name}: {error!r}")

    readers = [threading.Thread(target=reading, args=(name,)) for name in READS]
    for reader in readers:
        reader.start()
    for _ in range(20):
        db.past.forget()
        db.past.catch_up()
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []


def test_a_reader_beside_a_process_that_threw_it_away_reads_all(db: Database, path: Path) -> None:
    filled(db)
    db.past.catch_up()
    db.engine.flush()
    with Database(path, read_only=True) as reader:
        db.put(ITEMS, Item(id=1, n=99))
        reader.refresh()
        moments = reader.at(seq=db.head - 1), reader.at(seq=db.head)
        expected = [list(moment.scan(ITEMS)) for moment in moments]
        db.past.forget()
        db.admin.rebuild()  # after which a reader opens everything again
        reader.refresh()
        assert [list(moment.scan(ITEMS)) for moment in moments] == expected
        assert list(reader.at(seq=db.head - 1).scan(ITEMS)) == expected[0]
