"""migrate_*: a change of the schema of a table with rows, by `everlog.migrations.apply`.

add         add a field: instant for any size of the table
index       build an index over one text field, beside the live table
transform   convert every row by `up`, with the index of the new table
beside      the transform with a rate limit, during 200 commits a second: the duration of the commits, and
            of the longest one during the switch

SQLite makes the same change with the statements of a dbmate migration, in this process; dbmate in its own.
Meanwhile nothing else writes.
"""

from __future__ import annotations

import shutil
import sqlite3
import sys
import threading
from array import array
from pathlib import Path
from textwrap import dedent
from time import perf_counter, sleep
from typing import Any

from benchmarks.measure import Measure, Run, once, paced, peak_rss_mb
from benchmarks.rows import row, rows

RATE, COMMITS_PER_S, IDLE_S = 20_000, 200, 5
FIRST = 20260101000000
FIELDS = (
    "uint64 id = 1; string name = 2; string kind = 3; double price = 4; int64 amount = 5; string payload = 6;"
)
CHANGED = FIELDS.replace("int64 amount = 5;", "int64 cents = 7; reserved 5;")
HEADER = """\
from everlog.migrations import *
from .model_pb2 import Item

field = Fields(Item)
ID = field("id", 1, UINT64)
NAME = field("name", 2, STRING)
"""
UP = """\
from ..v20260101000000_create.model_pb2 import Item as ItemV1


def up(old: ItemV1) -> Item:
    return Item(
        id=old.id, name=old.name, kind=old.kind, price=old.price, cents=old.amount * 100, payload=old.payload
    )


"""
PLAIN, INDEXED = (
    'Table("items", Item, key=ID)',
    'Table("items", Item, key=ID, indexes=(Index("by_name", NAME),))',
)
# The second migration: its fields, code before the table, the table, and further arguments of Migration.
CHANGES = {
    "add": (FIELDS + " string more = 8;", "", PLAIN, ""),
    "index": (FIELDS, "", INDEXED, ""),
    "transform": (CHANGED, UP, INDEXED, ", transforms=[Transform(ITEMS, ItemV1, up)]"),
}
SQL = {
    "add": "ALTER TABLE items ADD COLUMN more TEXT NOT NULL DEFAULT ''",
    "index": "CREATE INDEX by_name ON items (name)",
    "transform": """
        CREATE TABLE fresh
            (id INTEGER PRIMARY KEY, name TEXT, kind TEXT, price REAL, cents INTEGER, payload TEXT);
        INSERT INTO fresh SELECT id, name, kind, price, amount * 100, payload FROM items;
        DROP TABLE items;
        ALTER TABLE fresh RENAME TO items;
        CREATE INDEX by_name ON items (name)""",
}


def everlog(run: Run, change: str) -> Measure:
    from everlog import migrations

    path, db = opened(run, change)
    with db:
        seconds = once(lambda: migrations.apply(db, path))
        assert db.schema.version == FIRST + 1
    return run.measure(run.n, seconds)


def sqlite(run: Run, change: str) -> Measure:
    db = filled(run.folder / "items.db", run.n)
    return run.measure(run.n, once(lambda: db.executescript(f"BEGIN; {SQL[change]}; COMMIT")))


def dbmate(run: Run, change: str) -> Measure:
    from benchmarks.dbmate import program, up

    program()  # before all rows are made for nothing
    path = run.folder / "items.db"
    filled(path, run.n).close()
    seconds = up(run.folder, path, SQL[change])
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM schema_migrations").fetchone() == (1,)
    db.close()
    return run.measure(run.n, seconds, rss_mb=peak_rss_mb(children=True))


def filled(path: Path, n: int) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute(
        "CREATE TABLE items"
        " (id INTEGER PRIMARY KEY, name TEXT, kind TEXT, price REAL, amount INTEGER, payload TEXT)"
    )
    db.execute("BEGIN")
    db.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)", rows(n))
    db.execute("COMMIT")
    return db


def beside(run: Run) -> list[Measure]:
    """Commit before the rewrite, during it, and across the switch."""
    from everlog import SchemaError, migrations
    from everlog.migrations import in_progress, load

    path, db = opened(run, "transform")
    loaded = load(path)
    table, following = (migration.tables[0] for migration in loaded)
    numbers, done = iter(range(1 << 60)), threading.Event()

    def write(_: object) -> None:
        item = row(1 + next(numbers) * 7919 % run.n)
        try:
            db.put(table, message(table, item))
        except SchemaError:  # it has switched: so do clients
            db.put(following, message(following, item))

    with db:
        in_progress.attach(db, loaded)
        _, idle = paced(range(int(IDLE_S * COMMITS_PER_S * min(1, run.n / 10_000)) + 1), write, COMMITS_PER_S)
        took: array[int] = array("Q")
        failed: list[BaseException] = []

        def writer() -> None:
            try:
                while not done.is_set():
                    took.extend(paced(range(10), write, COMMITS_PER_S)[1])
            except BaseException as error:  # noqa: BLE001  told below
                failed.append(error)

        thread = threading.Thread(target=writer)
        thread.start()
        begin = perf_counter()
        migrations.apply(db, path, rate=RATE)
        seconds = perf_counter() - begin
        sleep(0.1)
        done.set()
        thread.join()
        assert not failed, failed
    last = took[-COMMITS_PER_S:]
    return [
        run.measure(run.n, seconds, took),
        run.measure(len(idle), sum(idle) / 1e9, idle, bench="migrate_idle"),
        run.measure(1, max(last) / 1e9, bench="migrate_switch"),
    ]


def message(table: Any, item: Any) -> Any:
    id_, name, kind, price, amount, payload = item
    made = table.model(id=id_, name=name, kind=kind, price=price, payload=payload)
    if hasattr(made, "amount"):
        made.amount = amount
    else:
        made.cents = amount * 100
    return made


def opened(run: Run, change: str) -> tuple[Path, Any]:
    """Return the migrations of a change, and a copy of the database with all rows, before the change."""
    from everlog import migrations
    from everlog.store.database import Database

    path = written(run.folder, change)
    kept = run.prepared / f"migrate-{run.n}"
    if not kept.exists():
        making = kept.with_suffix(".making")
        with Database(making, durability="os") as db:
            migrations.apply(db, path, to=FIRST)
            table = migrations.load(path)[0].tables[0]
            db.load(table, (message(table, item) for item in rows(run.n)))
        making.rename(kept)
    shutil.copytree(kept, run.folder / "db")
    return path, Database(run.folder / "db")


def written(folder: Path, change: str) -> Path:
    """Return the migrations FIRST, which creates the table, and a change."""
    from everlog import migrations

    path = folder / "benchmarked" / "migrations"
    path.mkdir(parents=True)
    for package in (path, path.parent):
        (package / "__init__.py").touch()
    write_folder(path, FIRST, "create", FIELDS, "", PLAIN, "")
    write_folder(path, FIRST + 1, change, *CHANGES[change])
    migrations.build(path)
    sys.dont_write_bytecode = True
    return path


def write_folder(path: Path, version: int, *what: str) -> None:
    name, fields, code, table, more = what
    folder = path / f"v{version}_{name}"
    folder.mkdir()
    model = f'syntax = "proto3";\n\npackage benchmarked.v{version};\n\nmessage Item {{\n  {fields}\n}}\n'
    (folder / "model.proto").write_text(model)
    migration = f"MIGRATION = Migration(tables=[ITEMS]{more})\n"
    (folder / "__init__.py").write_text(f"{HEADER}{dedent(code)}\nITEMS = {table}\n{migration}")
