"""Random ranges, prefixes and pages of a table with a composite key and index, against a sorted list."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from everlog.store.tx.source import Span
from tests.model.test_random_histories import seeds
from tests.store.models import SEATS, Seat, open_flights

FLIGHTS, ROWS = (-(2**31), -1, 0, 7, 2**31 - 1), (-(2**63), -2, 0, 3, 2**63 - 1)
LETTERS = (b"", b"\0", b"\0\0", b"\0\xff", b"A", b"A\0", b"AB", b"\xff", b"\xff\xff")
CABINS, PRICES = (-1, 0, 2), (-1e300, -1.5, -0.0, 0.0, 5e-324, 1.5, float("inf"))
QUERIES = 150


def key_of(row: Any) -> tuple[Any, ...]:
    return row.flight, row.row, row.letter


def entry_of(row: Any) -> tuple[Any, ...]:
    return row.cabin, row.price, *key_of(row)


def fill(chance: random.Random, writer: Any, rows: dict[Any, Any], count: int) -> None:
    for _ in range(count):
        seat = Seat(
            flight=chance.choice(FLIGHTS),
            row=chance.choice(ROWS),
            letter=chance.choice(LETTERS) or b"B",
            cabin=chance.choice(CABINS),
            price=chance.choice(PRICES),
        )
        if chance.random() < 0.3 and rows:
            gone = chance.choice(list(rows))
            writer.delete(SEATS, gone)
            del rows[gone]
        writer.put(SEATS, seat)
        rows[key_of(seat)] = seat


def some(chance: random.Random, index: bool) -> tuple[Any, ...]:
    """Return the first fields of a key or of an index, a random number of them."""
    whole = (CABINS, PRICES) if index else (FLIGHTS, ROWS, LETTERS)
    return tuple(chance.choice(values) for values in whole[: chance.randint(1, len(whole))])


def query(chance: random.Random, reader: Any, rows: dict[Any, Any]) -> None:
    index = chance.random() < 0.5
    what, order = (SEATS.by_cabin_and_price, entry_of) if index else (SEATS, key_of)
    ordered = sorted(rows.values(), key=order)
    reverse, size = chance.random() < 0.5, chance.choice((None, 1, 3, 50))
    arguments: dict[str, Any] = {}
    if chance.random() < 0.4:
        arguments["equals"] = head = some(chance, index)
        expected = [row for row in ordered if order(row)[: len(head)] == head]
    else:
        start = some(chance, index) if chance.random() < 0.7 else None
        end = some(chance, index) if chance.random() < 0.7 else None
        arguments |= {"start": start, "end": end}
        expected = [
            row
            for row in ordered
            if (start is None or order(row)[: len(start)] >= start)
            and (end is None or order(row)[: len(end)] < end)
        ]
    assert reader.count(what, **arguments) == len(expected)
    found: list[Any] = []
    resume = None
    while True:
        page = reader.scan(what, **arguments, reverse=reverse, limit=size, resume=resume)
        found += page
        resume = page.resume
        if resume is None:
            break
    assert found == (expected[::-1] if reverse else expected), f"{arguments} {reverse=} {size=}"


@pytest.mark.timeout(0)
def test_every_range_is_that_of_a_sorted_list(tmp_path: Path) -> None:
    assert Span().holds(b"")
    for seed in seeds():
        print(f"EVERLOG_SEED={seed}")  # noqa: T201  shown on failure
        chance, rows = random.Random(seed), dict[Any, Any]()
        with open_flights(tmp_path / f"{seed}-{os.getpid()}", SEATS) as db:
            with db.transaction() as tx:
                fill(chance, tx, rows, 100)
            for _ in range(QUERIES):
                query(chance, db, rows)
            held = db.snapshot()
            before = dict(rows)
            with db.transaction() as tx:
                fill(chance, tx, rows, 40)
                for _ in range(QUERIES):
                    query(chance, tx, rows)
            for _ in range(QUERIES):
                query(chance, held, before)
                query(chance, db, rows)
            held.close()
            assert list(db.admin.check()) == []
