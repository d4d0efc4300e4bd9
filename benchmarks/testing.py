"""fixture: a new database for each of many tests: cloned from a template, opened, read, closed.
testdata: rows with realistic values and references, generated from a seed and loaded.

fixture, SQLite: copy the file, open, read, close. Both are in memory if the system allows it, like the
plugin's databases. testdata, raw: the rows are only generated.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Measure, Run, each, once
from benchmarks.rows import rows

if TYPE_CHECKING:
    from everlog.migrations.migration import Row

ROWS = 1_500  # of each test's database


def everlog_fixture(run: Run) -> Measure:
    from benchmarks.items import ITEMS, messages, open_items
    from everlog.migrations.testing.template import clone
    from everlog.store.database import Database
    from everlog.store.rocks.files import in_memory

    place = in_memory("everlog-bench-")
    template = place.path / "template"
    with open_items(template) as db:
        db.load(ITEMS, messages(ROWS))

    def test(path: Path) -> None:
        clone(template, path)
        with Database(path) as db:
            assert db.get(ITEMS, 1) is not None
        shutil.rmtree(path)

    found = run.measure(run.n, *each([place.path / str(number) for number in range(run.n)], test))
    place.remove()
    return found


def sqlite_fixture(run: Run) -> Measure:
    from benchmarks.sqlite_items import INSERT, connect
    from everlog.store.rocks.files import in_memory

    place = in_memory("everlog-bench-")
    template = place.path / "template"
    template.mkdir()
    db = connect(template, synchronous="FULL")
    db.executemany(INSERT, rows(ROWS))
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()

    def test(path: Path) -> None:
        shutil.copytree(template, path)
        db = connect(path, synchronous="FULL")
        assert db.execute("SELECT * FROM items WHERE id = 1").fetchone()
        db.close()
        shutil.rmtree(path)

    found = run.measure(run.n, *each([place.path / str(number) for number in range(run.n)], test))
    place.remove()
    return found


def everlog_testdata(run: Run) -> Measure:
    from benchmarks.items import ITEMS, open_items

    with open_items(run.folder, durability="os") as db:
        return run.measure(run.n, once(lambda: db.load(ITEMS, (row for _, row in _testdata(run.n)))))


def raw_testdata(run: Run) -> Measure:
    return run.measure(run.n, once(lambda: [None for _ in _testdata(run.n)]))


def _testdata(count: int) -> Iterator[Row]:
    from benchmarks.items import ITEMS, Item
    from everlog.migrations.testdata import Fake

    fake = Fake(Random(0))
    name, text = fake.pool(fake.person.full_name), fake.pool(fake.text.sentence)
    kind, price = fake.of("book", "film", "game"), fake.pool(lambda: round(fake.random.uniform(1, 99), 2))
    fake.known(ITEMS, [0])

    def items() -> Iterator[Any]:
        for number in range(1, count + 1):
            amount = fake.key(ITEMS)  # of an item that was there before
            yield Item(id=number, name=name(), kind=kind(), price=price(), amount=amount, payload=text())

    return fake.keep(ITEMS, items())
