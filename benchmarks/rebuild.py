"""rebuild_1000, rebuild_1: rebuild all tables from the log, prove that they are equal, and switch to them.

The time is that of `db.admin.rebuild()`, whole: it reads and checks the log, writes the new tables, and
compares the content hashes of both.
"""

import shutil
from pathlib import Path

from benchmarks.measure import Measure, Run, once
from benchmarks.rows import batched, rows


def prepared(run: Run, size: int) -> Path:
    """Return a closed database of `run.n` rows, written in commits of `size` rows."""
    from benchmarks.items import ITEMS, message, open_items

    folder = run.prepared / f"commits-of-{size}-{run.n}"
    if not folder.exists():
        making = folder.with_suffix(".making")
        with open_items(making) as db:
            for batch in batched(rows(run.n), size):
                with db.transaction() as tx:
                    for row in batch:
                        tx.insert(ITEMS, message(row))
        making.rename(folder)
    return folder


def own_copy(run: Run, size: int) -> Path:
    folder = run.folder / "items"
    shutil.copytree(prepared(run, size), folder)
    return folder


def everlog(run: Run, size: int) -> Measure:
    from benchmarks.items import open_items

    with open_items(own_copy(run, size)) as db:
        return run.measure(run.n, once(db.admin.rebuild))
