"""get, get_by_index, scan: read a table. The number of reads is the number of rows.

A row is returned in the form that a program uses: a decoded message of everlog, a tuple of all columns of
SQLite. The raw limit returns the bytes, not decoded. The reads are made twice, and the second time is
measured: each subject has what it caches of its files.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.measure import Measure, Run, each, once
from benchmarks.rows import name, row, rows

T = TypeVar("T")

SEED = 20260105


def numbers(n: int) -> list[int]:
    """Return the numbers of the rows to read: in random order, some more than once."""
    chance = random.Random(SEED)
    return [chance.randint(1, n) for _ in range(n)]


def names(n: int) -> list[str]:
    return [name(number) for number in numbers(n)]


@contextmanager
def everlog_items(run: Run) -> Iterator[Any]:
    from benchmarks.items import ITEMS, messages, open_items

    folder = run.prepared / f"read-everlog-{run.n}"
    with open_items(folder) as db:
        if not db.count(ITEMS):
            db.load(ITEMS, messages(run.n))
        yield db


@contextmanager
def sqlite_items(run: Run) -> Iterator[Any]:
    from benchmarks.sqlite_items import INSERT, connect

    folder = run.prepared / f"read-sqlite-{run.n}"
    new = made(folder)
    db = connect(folder, synchronous="NORMAL")
    if new:
        db.execute("BEGIN")
        db.executemany(INSERT, rows(run.n))
        db.execute("COMMIT")
    yield db
    db.close()


@contextmanager
def raw_items(run: Run) -> Iterator[Any]:
    from benchmarks.raw_items import commits, open_raw, write

    folder = run.prepared / f"read-raw-{run.n}"
    new = made(folder)
    db = open_raw(folder)
    if new:
        for puts in commits(run.n, 1000):
            write(db, puts)
        db.flush()
    yield db
    db.close()


def made(folder: Path) -> bool:
    """Create a folder, and return whether it was missing."""
    new = not folder.exists()
    folder.mkdir(exist_ok=True)
    return new


def everlog_get(run: Run) -> Measure:
    from benchmarks.items import ITEMS

    with everlog_items(run) as db:
        return reads(run, numbers(run.n), lambda number: db.get(ITEMS, number))


def sqlite_get(run: Run) -> Measure:
    from benchmarks.sqlite_items import COLUMNS

    select = f"SELECT {COLUMNS} FROM items WHERE id = ?"
    with sqlite_items(run) as db:
        return reads(run, numbers(run.n), lambda number: db.execute(select, (number,)).fetchone())


def raw_get(run: Run) -> Measure:
    from benchmarks.raw_items import row_key

    with raw_items(run) as db:
        return reads(run, [row_key(number) for number in numbers(run.n)], db.get)


def everlog_get_by_index(run: Run) -> Measure:
    from benchmarks.items import ITEMS

    with everlog_items(run) as db:
        by_name = ITEMS.by_name
        return reads(run, names(run.n), lambda value: list(db.scan(by_name, value)))


def sqlite_get_by_index(run: Run) -> Measure:
    from benchmarks.sqlite_items import COLUMNS

    select = f"SELECT {COLUMNS} FROM items WHERE name = ?"
    with sqlite_items(run) as db:
        return reads(run, names(run.n), lambda value: db.execute(select, (value,)).fetchall())


def raw_get_by_index(run: Run) -> Measure:
    from benchmarks.raw_items import index_key

    with raw_items(run) as db:

        def get(start: bytes) -> Any:
            entry = next(iter(db.keys(from_key=start)))
            return db.get(b"r" + entry[-8:])

        return reads(run, [index_key(row(number))[:-8] for number in numbers(run.n)], get)


def everlog_scan(run: Run) -> Measure:
    from benchmarks.items import ITEMS

    with everlog_items(run) as db:
        return scan(run, lambda: db.scan(ITEMS))


def sqlite_scan(run: Run) -> Measure:
    from benchmarks.sqlite_items import COLUMNS

    with sqlite_items(run) as db:
        return scan(run, lambda: db.execute(f"SELECT {COLUMNS} FROM items ORDER BY id"))


def raw_scan(run: Run) -> Measure:
    with raw_items(run) as db:
        return scan(run, lambda: db.items(from_key=b"r"))


def everlog_check(run: Run) -> Measure:
    """Check rows, index entries and the log."""
    with everlog_items(run) as db:

        def check() -> None:
            assert not list(db.admin.check())

        return run.measure(run.n, once(check))


def sqlite_check(run: Run) -> Measure:
    with sqlite_items(run) as db:

        def check() -> None:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

        return run.measure(run.n, once(check))


def everlog_scan_index(run: Run) -> Measure:
    from benchmarks.items import ITEMS

    with everlog_items(run) as db:
        return scan(run, lambda: db.scan(ITEMS.by_name))


def sqlite_scan_index(run: Run) -> Measure:
    from benchmarks.sqlite_items import COLUMNS

    with sqlite_items(run) as db:
        return scan(run, lambda: db.execute(f"SELECT {COLUMNS} FROM items ORDER BY name"))


def reads(run: Run, keys: list[T], get: Callable[[T], object]) -> Measure:
    assert all(map(get, keys)), "expected a row"
    seconds, took = each(keys, get)
    return run.measure(run.n, seconds, took)


def scan(run: Run, start: Callable[[], Iterator[Any]]) -> Measure:
    found = 0

    def read() -> None:
        nonlocal found
        for _ in start():
            found += 1

    read()
    found = 0
    seconds = once(read)
    assert found == run.n, f"expected {run.n} rows, found {found}"
    return run.measure(run.n, seconds)
