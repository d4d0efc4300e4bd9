"""Unique indexes: two rows never have the same value, and rows can exchange values."""

from __future__ import annotations

from typing import Any

import pytest

from everlog.store.database import Database
from everlog.store.errors import UniqueError
from tests.store.models import AIRPORTS, airport


def test_a_duplicate_names_the_index_the_value_and_the_other_row(db: Database) -> None:
    db.put(AIRPORTS, airport("JFK", icao="KJFK"))
    before = db.head
    with pytest.raises(UniqueError) as caught:
        db.put(AIRPORTS, airport("XXX", icao="KJFK"))
    assert str(caught.value) == (
        "row airports/XXX has the same icao in the unique index by_icao as row airports/JFK has already"
    )
    assert (caught.value.index, caught.value.key, caught.value.table) == ("by_icao", ("JFK",), "airports")
    assert db.head == before
    assert db.get(AIRPORTS, "XXX") is None


def test_a_row_keeps_its_value_when_it_is_written_again(db: Database) -> None:
    db.put(AIRPORTS, airport("JFK", "a", icao="KJFK"))
    db.put(AIRPORTS, airport("JFK", "b", icao="KJFK"))
    assert db.count(AIRPORTS.by_icao) == 1


def test_many_rows_may_have_no_value(db: Database) -> None:
    for code in ("AAA", "BBB"):
        db.put(AIRPORTS, airport(code))
    db.put(AIRPORTS, airport("CCC", icao=""))
    with pytest.raises(UniqueError):
        db.put(AIRPORTS, airport("DDD", icao=""))
    assert db.count(AIRPORTS.by_icao, (None,)) == 2


def test_two_rows_swap_their_values_in_one_transaction(db: Database) -> None:
    put(db, ("A", "1"), ("B", "2"), ("C", "3"))
    put(db, ("A", "2"), ("B", "3"), ("C", "1"))
    assert [(row.icao, row.faa) for row in db.scan(AIRPORTS.by_icao)] == [("1", "C"), ("2", "A"), ("3", "B")]


def put(db: Database, *rows: tuple[str, str]) -> None:
    with db.transaction() as tx:
        for faa, icao in rows:
            tx.put(AIRPORTS, airport(faa, icao=icao))


def test_a_value_moves_from_a_row_that_is_deleted_in_the_same_transaction(db: Database) -> None:
    put(db, ("A", "1"))
    with db.transaction() as tx:
        tx.put(AIRPORTS, airport("B", icao="1"))
        tx.delete(AIRPORTS, "A")
    assert [(row.icao, row.faa) for row in db.scan(AIRPORTS.by_icao)] == [("1", "B")]


def test_two_rows_of_one_transaction_cannot_have_one_value(db: Database) -> None:
    with pytest.raises(
        UniqueError, match=r"row airports/B has the same icao .* as row airports/A has already"
    ):
        put(db, ("A", "1"), ("B", "1"))
    assert db.count(AIRPORTS) == 0


def test_the_last_value_that_a_transaction_gives_a_row_counts(db: Database) -> None:
    put(db, ("A", "1"), ("A", "2"), ("B", "1"))
    assert [(row.icao, row.faa) for row in db.scan(AIRPORTS.by_icao)] == [("1", "B"), ("2", "A")]


def test_a_value_that_is_the_beginning_of_another_is_another(db: Database) -> None:
    put(db, ("A", "1"), ("B", "11"), ("C", "1\0"), ("D", ""))
    rows: list[Any] = list(db.scan(AIRPORTS.by_icao, "1"))
    assert [row.faa for row in rows] == ["A"]
