"""Scans: in order, both ways, in pages, of one snapshot."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from everlog.store.database import Database
from everlog.store.errors import ClosedError, RowError, SchemaError
from tests.store.conftest import Opener
from tests.store.models import AIRPORTS, ITEMS, SEATS, Item, Seat, airport, items


@pytest.fixture
def cities(db: Database) -> Database:
    with db.transaction() as tx:
        for faa, city in (("JFK", "New York"), ("LGA", "New York"), ("SFO", "San Francisco"), ("NEW", "New")):
            tx.put(AIRPORTS, airport(faa, city))
    return db


def codes(rows: Any) -> list[str]:
    return [row.faa for row in rows]


def test_rows_come_in_the_order_of_key_or_index(cities: Database) -> None:
    assert codes(cities.scan(AIRPORTS)) == ["JFK", "LGA", "NEW", "SFO"]
    assert codes(cities.scan(AIRPORTS, reverse=True)) == ["SFO", "NEW", "LGA", "JFK"]
    assert codes(cities.scan(AIRPORTS.by_city)) == ["NEW", "JFK", "LGA", "SFO"]
    assert codes(cities.scan(AIRPORTS.by_city, reverse=True)) == ["SFO", "LGA", "JFK", "NEW"]


def test_ranges_take_their_start_and_leave_their_end(cities: Database) -> None:
    assert codes(cities.scan(AIRPORTS, start="LGA", end="SFO")) == ["LGA", "NEW"]
    assert codes(cities.scan(AIRPORTS, start="LGA", end="SFO", reverse=True)) == ["NEW", "LGA"]
    assert codes(cities.scan(AIRPORTS, start="K", end="B")) == []
    assert codes(cities.scan(AIRPORTS, start="K", end="B", reverse=True)) == []
    assert codes(cities.scan(AIRPORTS.by_city, start="New York")) == ["JFK", "LGA", "SFO"]
    assert codes(cities.scan(AIRPORTS.by_city, end="New York")) == ["NEW"]
    assert codes(cities.scan(AIRPORTS.by_city, starts_with="New", reverse=True)) == ["LGA", "JFK", "NEW"]
    assert codes(cities.scan(AIRPORTS.by_city, "New")) == ["NEW"]
    assert cities.count(AIRPORTS.by_city, "New York") == 2
    assert cities.count(AIRPORTS, start="K") == 3


def test_a_key_of_many_fields_is_scanned_by_its_first(db: Database) -> None:
    with db.transaction() as tx:
        for flight in (-1, 0, 7):
            for row in (-3, 2):
                tx.put(SEATS, Seat(flight=flight, row=row, letter=b"A", cabin=row, price=flight / 2))
    assert [(s.flight, s.row) for s in db.scan(SEATS, 0)] == [(0, -3), (0, 2)]
    assert [(s.flight, s.row) for s in db.scan(SEATS, start=(0, 2), end=7)] == [(0, 2)]
    assert [s.flight for s in db.scan(SEATS.by_cabin_and_price, 2)] == [-1, 0, 7]
    assert [s.flight for s in db.scan(SEATS.by_cabin_and_price, start=(2, 0.0), end=(2, 3.5))] == [0]
    assert [s.cabin for s in db.scan(SEATS.by_cabin_and_price)] == [-3, -3, -3, 2, 2, 2]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("size", [1, 3, 8, 40, 41, 100])
def test_pages_meet(db: Database, size: int, reverse: bool) -> None:
    with db.transaction() as tx:
        for item in items(1, 40):
            tx.put(ITEMS, item)
    found: list[int] = []
    resume: bytes | None = None
    pages = 0
    while True:
        page = db.scan(ITEMS, start=1, end=41, limit=size, reverse=reverse, resume=resume)
        found += [row.id for row in page]
        pages += 1
        resume = page.resume
        if resume is None:
            break
    assert found == sorted(range(1, 41), reverse=reverse)
    assert pages == -(-40 // size)


def test_a_page_goes_on_though_the_row_it_ended_with_is_gone(db: Database) -> None:
    for item in items(1, 5):
        db.put(ITEMS, item)
    page = db.scan(ITEMS, limit=2)
    assert [row.id for row in page] == [1, 2]
    db.delete(ITEMS, 2)
    assert [row.id for row in db.scan(ITEMS, resume=page.resume)] == [3, 4, 5]


def test_a_token_of_another_scan_is_refused(cities: Database) -> None:
    page = cities.scan(AIRPORTS, limit=1)
    list(page)
    for other in (AIRPORTS.by_city, ITEMS):
        with pytest.raises(RowError, match="the resume token belongs to another scan"):
            cities.scan(other, resume=page.resume)
    with pytest.raises(RowError, match="belongs to another scan"):
        cities.scan(AIRPORTS, start="K", resume=page.resume)


def test_a_limit_of_nothing_gives_nothing_and_a_negative_one_is_refused(cities: Database) -> None:
    page = cities.scan(AIRPORTS, limit=0)
    assert list(page) == []
    with pytest.raises(RowError, match="expected a limit of 0 or more rows, found -1"):
        cities.scan(AIRPORTS, limit=-1)


def test_an_unknown_index_is_an_error(opening: Opener) -> None:
    db = opening(ITEMS)
    with pytest.raises(SchemaError, match="no table 'airports'"):
        db.scan(AIRPORTS.by_city)


def test_a_scan_is_of_the_moment_when_it_began(db: Database) -> None:
    with db.transaction() as tx:
        for item in items(1, 2000):
            tx.put(ITEMS, item)
    rows = iter(db.scan(ITEMS))
    assert next(rows).id == 1
    with db.transaction() as tx:
        for item in items(1500, 2500, text="new"):
            tx.put(ITEMS, item)
        for number in range(2, 100):
            tx.delete(ITEMS, number)
    rest = list(rows)
    assert [row.id for row in rest] == list(range(2, 2001))
    assert not any(row.text.startswith("new") for row in rest)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_snapshot_is_of_its_moment_however_much_is_written(db: Database, reverse: bool) -> None:
    with db.transaction() as tx:
        for number in range(1500):
            tx.put(SEATS, Seat(flight=number, row=1, letter=b"A", cabin=number % 3))
    with db.snapshot() as snapshot:
        before = db.head
        for flight in range(0, 1500, 100):
            db.delete(SEATS, (flight, 1, b"A"))
            db.put(SEATS, Seat(flight=flight + 1, row=1, letter=b"A", cabin=7))
            db.put(SEATS, Seat(flight=flight, row=2, letter=b"A"))
        assert snapshot.seq == before
        rows = [(s.flight, s.row) for s in snapshot.scan(SEATS, reverse=reverse)]
        assert rows == sorted(((n, 1) for n in range(1500)), reverse=reverse)
        assert [s.flight for s in snapshot.scan(SEATS.by_cabin_and_price, 2, reverse=reverse, limit=3)] == (
            [1499, 1496, 1493] if reverse else [2, 5, 8]
        )
        assert snapshot.count(SEATS) == 1500
        assert snapshot.count(SEATS.by_cabin_and_price, 7) == 0
        assert snapshot.get(SEATS, (100, 1, b"A")) is not None
        assert snapshot.version(SEATS, (1, 1, b"A")) < before + 1
    with pytest.raises(ClosedError):
        snapshot.get(SEATS, (1, 1, b"A"))


def test_two_scans_of_one_snapshot_do_not_disturb_each_other(db: Database) -> None:
    with db.transaction() as tx:
        for item in items(1, 50):
            tx.put(ITEMS, item)
    with db.snapshot() as snapshot:
        db.put(ITEMS, Item(id=0))
        pairs = zip(snapshot.scan(ITEMS), snapshot.scan(ITEMS, reverse=True), strict=True)
        assert [(one.id, other.id) for one, other in pairs] == [(n, 51 - n) for n in range(1, 51)]


def test_an_index_scan_beside_a_writer_never_sees_half_a_commit(db: Database) -> None:
    """Two rows always have the same city; the writer moves both at once."""
    cities = ("Paris", "Rome")
    stop = threading.Event()

    def write() -> None:
        for turn in range(10**9):
            if stop.is_set():
                return
            with db.transaction(durability="os") as tx:
                for faa in ("A", "B"):
                    tx.put(AIRPORTS, airport(faa, cities[turn % 2]))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            found = [(row.faa, row.city) for row in db.scan(AIRPORTS.by_city)]
            assert len({city for _, city in found}) <= 1
            assert [faa for faa, _ in found] in ([], ["A", "B"])
            with db.snapshot() as snapshot:
                assert snapshot.count(AIRPORTS.by_city) == len(list(snapshot.scan(AIRPORTS.by_city)))
    finally:
        stop.set()
        writer.join()


def test_a_database_closes_and_opens_though_a_scan_of_it_is_held(opening: Opener) -> None:
    db = opening()
    with db.transaction() as tx:
        for item in items(1, 3000):
            tx.put(ITEMS, item)
    scan, snapshot, tx = db.scan(ITEMS), db.snapshot(), db.transaction()
    of_snapshot, of_transaction = iter(snapshot.scan(ITEMS)), iter(tx.scan(ITEMS))
    for rows in (scan, of_snapshot, of_transaction):
        next(rows)
    db.put(ITEMS, Item(id=0))
    db.close()
    again = opening()
    assert again.count(ITEMS) == 3001
    for rows in (scan, of_snapshot, of_transaction):
        with pytest.raises(ClosedError):
            list(rows)
    with pytest.raises(ClosedError):
        snapshot.get(ITEMS, 1)
    with pytest.raises(ClosedError):
        tx.get(ITEMS, 1)
    with pytest.raises(ClosedError, match="is closed; open it again"):
        db.get(ITEMS, 1)
