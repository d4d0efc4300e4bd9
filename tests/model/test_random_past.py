"""The past, against a dict of rows for each seq: random transactions, and then the database as of each of
them.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from everlog.store.database import Database
from tests.model.test_random_histories import seeds
from tests.store.models import AIRPORTS, ITEMS, SEATS, Airport, Item, Seat, open_flights

TRANSACTIONS = 120
FAAS = ("A", "AA", "B", "JFK", "LAX", "\0", "\0\0", "Z\0", "ß")
FLIGHTS, ROWS, LETTERS = (-1, 0, 7), (-2, 0, 3), (b"\0", b"\0\xff", b"A", b"AB", b"\xff")

Rows = dict[str, dict[Any, Any]]


def write(chance: random.Random, tx: Any, rows: Rows) -> None:
    kind = chance.random()
    table: Any
    key: Any
    if kind < 0.4:
        table, key = AIRPORTS, chance.choice(FAAS)
        row = Airport(faa=key, city=chance.choice("abc"), name=chance.choice("xyz"))
    elif kind < 0.7:
        table, key = SEATS, (chance.choice(FLIGHTS), chance.choice(ROWS), chance.choice(LETTERS))
        row = Seat(
            flight=key[0], row=key[1], letter=key[2], cabin=chance.choice((0, 1)), price=chance.random()
        )
    else:
        table, key = ITEMS, chance.randint(0, 3)  # few rows, many versions
        row = Item(id=key, text="t" * chance.choice((1, 300)), n=chance.randint(0, 9))
    if chance.random() < 0.3:
        tx.delete(table, key)
        rows[table.name].pop(key, None)
    else:
        tx.put(table, row)
        rows[table.name][key] = row


def fill(chance: random.Random, db: Database) -> dict[int, Rows]:
    """Commit random transactions; return all rows of all tables, as of each seq."""
    rows: Rows = {"airports": {}, "seats": {}, "items": {}}
    then = {db.tables.applied: {name: dict(found) for name, found in rows.items()}}
    for _ in range(TRANSACTIONS):
        with db.transaction() as tx:
            for _ in range(chance.choice((1, 1, 1, 5, 40))):
                write(chance, tx, rows)
        then[db.tables.applied] = {name: dict(found) for name, found in rows.items()}
    return then


def compare(chance: random.Random, db: Database, seq: int, rows: Rows) -> None:
    moment = db.at(seq=seq)
    for table in (AIRPORTS, SEATS, ITEMS):
        held: dict[Any, Any] = rows[table.name]
        ordered = [
            held[key] for key in sorted(held, key=lambda key: key.encode() if isinstance(key, str) else key)
        ]
        assert list(moment.scan(table)) == ordered
        assert list(moment.scan(table, reverse=True)) == ordered[::-1]
        assert moment.count(table) == len(ordered)
        assert [moment.get(table, key) for key in held] == list(held.values())
        page = moment.scan(table, limit=2)
        found = list(page)
        while page.resume is not None:
            page = moment.scan(table, limit=chance.choice((1, 3)), resume=page.resume)
            found += page
        assert found == ordered
    cities = sorted(rows["airports"].values(), key=lambda row: (row.city, row.faa.encode()))
    assert list(moment.scan(AIRPORTS.by_city)) == cities
    assert list(moment.scan(AIRPORTS.by_city, "b", reverse=True)) == [
        row for row in cities[::-1] if row.city == "b"
    ]
    assert moment.get(AIRPORTS, "none") is None


def stored(db: Database) -> list[Any]:
    ((family, _),) = db.past.versions.families()
    return list(family.items())


def test_at_every_seq_the_database_is_what_it_was(tmp_path: Path) -> None:
    for seed in seeds(1):
        print(f"EVERLOG_SEED={seed}")  # noqa: T201  shown on failure
        try_one(tmp_path / str(seed), random.Random(seed))


def try_one(path: Path, chance: random.Random) -> None:
    with open_flights(path, durability="os") as db:
        then = fill(chance, db)
        order = list(then)
        chance.shuffle(order)  # so that it catches up from time to time
        for seq in order:
            compare(chance, db, seq, then[seq])
        db.past.catch_up()
        caught_up = stored(db)
        db.past.forget()
        db.past.catch_up()
        assert stored(db) == caught_up
        with open_flights(path, read_only=True) as reader:  # it has its own projection
            for seq in chance.sample(order, 10):
                compare(chance, reader, seq, then[seq])
    with open_flights(path) as db:
        assert db.past.versions.applied == 0  # nothing was read there
        compare(chance, db, order[0], then[order[0]])
        assert stored(db) == caught_up
    with open_flights(path, read_only=True) as reader:
        for seq in chance.sample(order, 10):
            compare(chance, reader, seq, then[seq])
