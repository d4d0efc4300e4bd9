"""The result of transactions equals that of a serial execution."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from everlog.store.database import Database
from everlog.store.errors import ConflictError, Error, PreconditionError
from everlog.store.tx.transaction import Transaction
from tests.store.models import AIRPORTS, ITEMS, SEATS, Item, Seat, airport, declare


def conflicts(tx: Transaction, words: str = "run it again") -> None:
    with pytest.raises(ConflictError, match=words):
        tx.commit()


def test_a_lost_update_is_a_conflict_that_names_row_and_commits(db: Database) -> None:
    db.put(ITEMS, Item(id=1, n=1))
    tx = db.transaction()
    row = tx.get(ITEMS, 1)
    assert row is not None
    other = db.put(ITEMS, Item(id=1, n=100))
    row.n += 1
    tx.put(ITEMS, row)
    conflicts(
        tx, f"row items/1 was changed by commit {other.seq} after this .* read it at {other.seq - 1}; run"
    )
    assert db.get(ITEMS, 1) == Item(id=1, n=100)


def test_write_skew_is_a_conflict(db: Database) -> None:
    db.put(ITEMS, Item(id=1, n=1))
    db.put(ITEMS, Item(id=2, n=1))
    first, second = db.transaction(), db.transaction()
    for tx, mine in ((first, 1), (second, 2)):
        assert sum(row.n for row in tx.get_many(ITEMS, [1, 2]) if row) == 2
        tx.put(ITEMS, Item(id=mine, n=0))
    first.commit()
    conflicts(second, "row items/1 was changed")


@pytest.mark.parametrize("change", ["insert", "delete", "move in", "move out"])
def test_a_phantom_in_a_scanned_range_is_a_conflict(db: Database, change: str) -> None:
    db.put(AIRPORTS, airport("JFK", "New York"))
    db.put(AIRPORTS, airport("SFO", "San Francisco"))
    tx = db.transaction()
    assert tx.count(AIRPORTS.by_city, "New York") == len(list(tx.scan(AIRPORTS.by_city, "New York"))) == 1
    if change == "insert":
        db.put(AIRPORTS, airport("LGA", "New York"))
    elif change == "delete":
        db.delete(AIRPORTS, "JFK")
    elif change == "move in":
        db.put(AIRPORTS, airport("SFO", "New York"))
    else:
        db.put(AIRPORTS, airport("JFK", "Idlewild"))
    tx.put(ITEMS, Item(id=1))
    conflicts(tx, "in index by_city was changed by commit|row airports/JFK was changed")


def test_what_lies_outside_of_what_was_read_is_no_conflict(db: Database) -> None:
    for number in range(10):
        db.put(ITEMS, Item(id=number))
    tx = db.transaction()
    assert [row.id for row in tx.scan(ITEMS, start=2, end=5)] == [2, 3, 4]
    assert tx.get(ITEMS, 8) is not None
    db.put(ITEMS, Item(id=5, n=1))
    db.put(ITEMS, Item(id=1, n=1))
    db.put(ITEMS, Item(id=7, n=1))
    tx.put(ITEMS, Item(id=20))
    tx.commit()


@pytest.mark.parametrize(("reverse", "seen", "unseen"), [(False, 1, 8), (True, 8, 1)])
def test_a_scan_that_was_stopped_read_only_what_it_gave(
    db: Database, reverse: bool, seen: int, unseen: int
) -> None:
    for number in range(10):
        db.put(ITEMS, Item(id=number))
    for changed, fails in ((unseen, False), (seen, True)):
        tx = db.transaction()
        assert len(list(tx.scan(ITEMS, limit=3, reverse=reverse))) == 3
        db.put(ITEMS, Item(id=changed, n=changed))
        tx.put(SEATS, Seat(flight=1, row=1, letter=b"A"))
        if fails:
            conflicts(tx)
        else:
            tx.commit()


def test_a_row_that_was_not_there_is_read_too(db: Database) -> None:
    tx = db.transaction()
    assert tx.get(ITEMS, 1) is None
    db.put(ITEMS, Item(id=1))
    tx.put(ITEMS, Item(id=2))
    conflicts(tx)


def test_writes_without_reads_do_not_conflict(db: Database) -> None:
    tx = db.transaction()
    tx.put(ITEMS, Item(id=1, n=1))
    db.put(ITEMS, Item(id=1, n=2))
    tx.commit()
    assert db.get(ITEMS, 1) == Item(id=1, n=1)


def test_a_transaction_reads_one_moment(db: Database) -> None:
    db.put(ITEMS, Item(id=1, n=1))
    tx = db.transaction()
    assert tx.count(ITEMS) == 1
    db.put(ITEMS, Item(id=1, n=2))
    db.put(ITEMS, Item(id=2))
    assert [row.n for row in tx.scan(ITEMS)] == [1]
    tx.rollback()


def test_a_change_of_schema_runs_it_again(db: Database) -> None:
    tx = db.transaction()
    tx.put(ITEMS, Item(id=1))
    declare(db, ITEMS)
    conflicts(tx, "the schema changed to version 2 while this transaction ran")


def test_run_tries_again_until_it_is_through(db: Database) -> None:
    db.put(ITEMS, Item(id=1, n=0))
    tried = []

    def add(tx: Transaction) -> int:
        row = tx.get(ITEMS, 1)
        assert row is not None
        tried.append(row.n)
        if len(tried) < 3:
            db.put(ITEMS, Item(id=1, n=row.n + 10))
        row.n += 1
        tx.put(ITEMS, row)
        return int(row.n)

    assert db.run(add, actor="ann") == 21
    assert tried == [0, 10, 20]
    assert db.log.commit(db.head).actor == "ann"
    tried.clear()
    with pytest.raises(ConflictError):
        db.run(add, retries=1)
    assert len(tried) == 2


@pytest.mark.parametrize(
    ("do", "words"),
    [
        (lambda db: db.insert(ITEMS, Item(id=1)), r"expected no row items/1, found one of version \d"),
        (lambda db: db.update(ITEMS, Item(id=2)), "expected a row items/2, found none"),
        (lambda db: db.put(ITEMS, Item(id=1), expect_version=99), r"items/1 at version 99, found version \d"),
        (lambda db: db.put(ITEMS, Item(id=2), expect_version=99), "items/2 at version 99, found none"),
        (lambda db: db.put(ITEMS, Item(id=1), expect_version=0), "expected no row items/1"),
        (lambda db: db.delete(ITEMS, 1, expect_version=99), r"items/1 at version 99, found version \d"),
        (lambda db: db.delete(ITEMS, 2, expect_version=99), "items/2 at version 99, found none"),
    ],
)
def test_a_precondition_that_does_not_hold_says_what_it_found(db: Database, do: Any, words: str) -> None:
    db.put(ITEMS, Item(id=1, n=7))
    before = db.head
    with pytest.raises(PreconditionError, match=words) as caught:
        do(db)
    assert caught.value.table == "items"
    assert db.head == before


def test_a_precondition_that_holds_lets_the_write_through(db: Database) -> None:
    first = db.insert(ITEMS, Item(id=1))
    second = db.put(ITEMS, Item(id=1, n=2), expect_version=first.seq)
    db.update(ITEMS, Item(id=1, n=3))
    db.put(ITEMS, Item(id=2), expect_version=0)
    with pytest.raises(PreconditionError):
        db.delete(ITEMS, 1, expect_version=second.seq)
    db.delete(ITEMS, 1, expect_version=db.version(ITEMS, 1))
    assert [row.id for row in db.scan(ITEMS)] == [2]


@pytest.mark.parametrize("durability", ["sync", "os"])
def test_threads_that_count_together_lose_nothing(db: Database, durability: str) -> None:
    db.put(ITEMS, Item(id=1, n=0))
    failed: list[Error] = []

    def count() -> None:
        for _ in range(15):
            try:
                db.run(add_one, retries=1000, durability=durability)
            except Error as error:  # would end the thread silently
                failed.append(error)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert db.get(ITEMS, 1) == Item(id=1, n=60)


def add_one(tx: Transaction) -> None:
    row = tx.get(ITEMS, 1)
    assert row is not None
    row.n += 1
    tx.put(ITEMS, row)
