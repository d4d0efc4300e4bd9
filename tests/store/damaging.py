"""Databases to be damaged, and conditions that must hold after any damage.

image      a database of which every commit is known: closed, or in the state after a kill
examine    opens it and reads everything: the result is correct, or an everlog error
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from everlog.store.database import Database
from everlog.store.errors import CorruptionError, Error, OpenError
from everlog.store.record import decode, split
from tests.store.models import AIRPORTS, ITEMS, Item, airport, declare, open_flights

COMMITS = 600


class Image(NamedTuple):
    """A closed database, and the framed records in its log, from the first."""

    path: Path
    records: list[bytes]
    flushed: int  # in table files; the rest is in the write-ahead log

    def copy(self, to: Path) -> Path:
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.path, to)
        return to


def make_images(folder: Path) -> tuple[Image, Image]:
    """Return one that was closed, and one that was killed."""
    db = open_flights(folder / "live", durability="os")
    flushed = 0
    for number in range(COMMITS):
        with db.transaction(actor=f"someone {number}") as tx:
            tx.put(ITEMS, Item(id=number % 400, text=f"text {number} " * 12, n=number))
            if not number % 3:
                tx.put(AIRPORTS, airport(f"A{number % 50}", f"city {number}"))
            if not number % 7:
                tx.delete(ITEMS, (number * 31) % 400)
        if number == COMMITS // 2:
            db.tables.flush()
            db.engine.flush()
            flushed = db.log.written
    declare(db, ITEMS)
    db.put(ITEMS, Item(id=1, text="last"), durability="sync")
    db.log.write_head_file(sync=True)
    shutil.copytree(db.path, folder / "killed")
    records = list(split(db.log.read(0, 1 << 30)[0]))
    db.close()
    return Image(folder / "live", records, len(records)), Image(folder / "killed", records, flushed)


class Found(NamedTuple):
    """The result of an examination."""

    read: int  # seq up to which the log was readable; 0: not opened
    whole: bool  # everything was read, and is correct
    errors: list[Error]


def examine(path: Path, image: Image, *, read_only: bool = False) -> Found:
    """Read everything; fail if something is wrong without an error."""
    try:
        db = Database(path, read_only=read_only)
    except (CorruptionError, OpenError) as error:
        return Found(0, False, [error])
    errors: list[Error] = []
    with db:
        read = _read_log(db, image, errors)
        expected = model(image.records[: db.head])
        _read_tables(db, expected, errors)
        problems = list(db.admin.check())
        whole = not errors and not problems
        if whole:
            assert read == db.head == len(image.records), "the end of the log is gone, and nobody said so"
    return Found(read, whole, errors)


def _read_log(db: Database, image: Image, errors: list[Error]) -> int:
    """Read the log until it ends or reports damage. Return the last seq."""
    after = 0
    while after < db.head:
        try:
            joined, last = db.log.read(after, 20_000)
            found = list(split(joined))
            for seq, framed in enumerate(found, after + 1):
                assert framed == image.records[seq - 1]
            assert last == after + len(found)
            after = last
        except CorruptionError as error:
            errors.append(error)
            break
    if after < db.head:
        assert [error.seq for error in errors] == [after + 1], f"the log was read up to {after}"
    return after


def _read_tables(db: Database, expected: dict[str, dict[Any, Any]], errors: list[Error]) -> None:
    for table in (ITEMS, AIRPORTS):
        rows = expected[table.name]
        for reverse in (False, True):
            try:
                found = [row.SerializeToString() for row in db.scan(table, reverse=reverse)]
                assert found == [rows[key] for key in sorted(rows, reverse=reverse)]
            except CorruptionError as error:
                errors.append(error)
        for key, row in rows.items():
            try:
                one = db.get(table, key)
                assert one is not None
                assert one.SerializeToString() == row
            except CorruptionError as error:
                errors.append(error)
    try:
        cities = [row.city for row in db.scan(AIRPORTS.by_city)]
        assert cities == sorted(AIRPORTS.model.FromString(row).city for row in expected["airports"].values())
    except CorruptionError as error:
        errors.append(error)


def model(records: list[bytes]) -> dict[str, dict[Any, Any]]:
    """Return the rows at the end of a log, by table and key."""
    found: dict[int, dict[Any, Any]] = {1: {}, 2: {}, 3: {}}
    for seq, framed in enumerate(records, 1):
        for change in decode(framed, seq).changes:
            key: Any = change.key
            if change.op:
                found[change.space].pop(key, None)
            else:
                found[change.space][key] = change.row
    return {
        "items": {Item.FromString(row).id: row for row in found[3].values()},
        "airports": {AIRPORTS.model.FromString(row).faa: row for row in found[1].values()},
    }
