"""open_10k, open_100k, open_1m, and each after SIGKILL: open the database and read the first row.

The database has N one-row commits. Killed: another process opened it, committed `KILLED_ROWS` more, and was
killed. SQLite: the same, with its own recovery.
"""

import shutil
from pathlib import Path
from typing import Any

from benchmarks.helper import Helper, Starter
from benchmarks.measure import Measure, Run, once
from benchmarks.rebuild import own_copy
from benchmarks.rows import row, rows

KILLED_ROWS = 30_000


def everlog(run: Run, *, killed: bool = False) -> Measure:
    import everlog.store.database  # noqa: F401  modules are loaded once; a database is opened each time
    from benchmarks.items import ITEMS, open_items

    folder = own_copy(run, 1)
    if killed:
        write_and_die("benchmarks.opening:everlog_writer", run, folder)
    opened: Any = None

    def start() -> None:
        nonlocal opened
        opened = open_items(folder)
        assert opened.get(ITEMS, 1) is not None

    found = run.measure(run.n, once(start))
    opened.close()
    return found


def sqlite(run: Run, *, killed: bool = False) -> Measure:
    from benchmarks.sqlite_items import INSERT, connect

    kept = run.prepared / f"open-sqlite-{run.n}"
    if not kept.exists():
        kept.mkdir()
        db = connect(kept, synchronous="NORMAL")
        db.execute("BEGIN")
        db.executemany(INSERT, rows(run.n))
        db.execute("COMMIT")
        db.close()
    folder = run.folder / "items"
    shutil.copytree(kept, folder)
    if killed:
        write_and_die("benchmarks.opening:sqlite_writer", run, folder)

    def start() -> None:
        db = connect(folder, synchronous="NORMAL")
        assert db.execute("SELECT name FROM items WHERE id = 1").fetchone()

    return run.measure(run.n, once(start))


def write_and_die(function: str, run: Run, folder: Path) -> None:
    count = min(KILLED_ROWS, run.n)
    with Helper(function, folder=str(folder), first=run.n + 1, count=count) as writer:
        assert writer.hear() == "written"
        writer.kill()


def everlog_writer(starter: Starter, folder: str, first: int, count: int) -> None:
    from benchmarks.items import ITEMS, message, open_items

    db = open_items(Path(folder))
    for number in range(first, first + count):
        db.insert(ITEMS, message(row(number)))
    starter.say("written")
    starter.hear()


def sqlite_writer(starter: Starter, folder: str, first: int, count: int) -> None:
    from benchmarks.sqlite_items import INSERT, connect

    db = connect(Path(folder), synchronous="NORMAL")
    for number in range(first, first + count):
        db.execute(INSERT, row(number))
    starter.say("written")
    starter.hear()
