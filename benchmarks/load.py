"""load: load a million rows, which are already in memory in the form that the subject needs.

everlog: the bulk load. SQLite: `executemany`, 10,000 rows per transaction, with trigger and index. Raw: 1,000
rows per batch, like everlog's load.
"""

from benchmarks.measure import Measure, Run, each, once
from benchmarks.rows import batched, rows

SQLITE_BATCH = 10_000
RAW_BATCH = 1000


def everlog(run: Run) -> Measure:
    from benchmarks.items import ITEMS, messages, open_items

    items = messages(run.n)
    with open_items(run.folder, durability="os") as db:
        return run.measure(run.n, once(lambda: db.load(ITEMS, items)))


def sqlite(run: Run) -> Measure:
    from benchmarks.sqlite_items import INSERT, connect

    db = connect(run.folder, synchronous="NORMAL")
    batches = list(batched(rows(run.n), SQLITE_BATCH))

    def write() -> None:
        for batch in batches:
            db.execute("BEGIN")
            db.executemany(INSERT, batch)
            db.execute("COMMIT")

    return run.measure(run.n, once(write))


def raw(run: Run) -> Measure:
    from benchmarks.raw_items import commits, open_raw, write

    db = open_raw(run.folder)
    seconds, _ = each(list(commits(run.n, RAW_BATCH)), lambda puts: write(db, puts))
    return run.measure(run.n, seconds)
