"""commit, commit_sync, commit_sync_8, batch: transactions that write.

`commit` and `batch` write to the operating system; the others wait for the disk at each commit. With eight
threads, each subject is used in its fastest way: SQLite with one connection and a lock in the program (one
connection per thread is several times slower).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from threading import Barrier, Lock, Thread
from time import perf_counter
from typing import Any, TypeVar

from benchmarks.measure import Measure, Run, each
from benchmarks.rows import batched, rows

T = TypeVar("T")

THREADS = 8
BATCH = 1000


def everlog(run: Run, durability: str, threads: int = 1) -> Measure:
    from benchmarks.items import ITEMS, messages, open_items

    with open_items(run.folder, durability=durability) as db:
        return measure(run, messages(run.n), partial(db.insert, ITEMS), threads)


def everlog_batch(run: Run) -> Measure:
    from benchmarks.items import ITEMS, messages, open_items

    with open_items(run.folder, durability="os") as db:

        def write(batch: Iterable[Any]) -> None:
            with db.transaction() as tx:
                for row in batch:
                    tx.insert(ITEMS, row)

        return measure(run, list(batched(messages(run.n), BATCH)), write)


def sqlite(run: Run, synchronous: str, threads: int = 1) -> Measure:
    from benchmarks.sqlite_items import INSERT, connect

    db, turn = connect(run.folder, synchronous=synchronous, shared=threads > 1), Lock()

    def write(row: Sequence[Any]) -> None:
        with turn:
            db.execute(INSERT, row)

    return measure(run, list(rows(run.n)), partial(db.execute, INSERT) if threads == 1 else write, threads)


def sqlite_batch(run: Run) -> Measure:
    from benchmarks.sqlite_items import INSERT, connect

    db = connect(run.folder, synchronous="NORMAL")

    def write(batch: Iterable[Sequence[Any]]) -> None:
        db.execute("BEGIN")
        db.executemany(INSERT, batch)
        db.execute("COMMIT")

    return measure(run, list(batched(rows(run.n), BATCH)), write)


def raw(run: Run, size: int = 1, threads: int = 1, *, sync: bool = False) -> Measure:
    from benchmarks.raw_items import Puts, commits, open_raw, write

    db = open_raw(run.folder)

    def write_through(puts: Puts) -> None:
        write(db, puts)
        db.flush_wal(True)

    return measure(run, list(commits(run.n, size)), write_through if sync else partial(write, db), threads)


def measure(run: Run, items: Sequence[T], write: Callable[[T], object], threads: int = 1) -> Measure:
    """Write all items; each thread writes an equal share."""
    if threads == 1:
        seconds, took = each(items, write)
        return run.measure(run.n, seconds, took)
    start = Barrier(threads + 1)
    found: list[array[int]] = []

    def work(share: Sequence[T]) -> None:
        start.wait()
        found.append(each(share, write)[1])

    workers = [Thread(target=work, args=(items[number::threads],)) for number in range(threads)]
    for worker in workers:
        worker.start()
    start.wait()
    begin = perf_counter()
    for worker in workers:
        worker.join()
    seconds = perf_counter() - begin
    assert sum(map(len, found)) == len(items), "a thread failed"
    return run.measure(run.n, seconds, [took for each_took in found for took in each_took])
