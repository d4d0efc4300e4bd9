"""backup_1000, backup_1, backup_more: a backup of all records into an empty directory, and of one percent of
new records.

For comparison, `copytree` copies the files of the same closed database, including tables, and waits until
they are on disk, like a backup. A backup also checks and compresses every record, and reads the result again.
"""

import os
import shutil
from pathlib import Path

from benchmarks.measure import Measure, Run, once
from benchmarks.rebuild import own_copy, prepared
from benchmarks.rows import rows


def everlog(run: Run, size: int) -> Measure:
    from benchmarks.items import open_items
    from everlog.audit import backup

    with open_items(own_copy(run, size)) as db:
        return run.measure(run.n, once(lambda: backup(db, run.folder / "backup", hashes=False)))


def everlog_more(run: Run, size: int) -> Measure:
    """Back up new records. The rate is in rows of the whole database, and so independent of its size."""
    from benchmarks.items import ITEMS, message, open_items
    from everlog.audit import backup

    with open_items(own_copy(run, size)) as db:
        backup(db, run.folder / "backup", hashes=False)
        with db.transaction() as tx:
            for row in rows(max(1, run.n // 100)):
                tx.put(ITEMS, message(row))
        return run.measure(run.n, once(lambda: backup(db, run.folder / "backup", hashes=False)))


def copytree(run: Run, size: int) -> Measure:
    folder = prepared(run, size)
    return run.measure(run.n, once(lambda: _copied(folder, run.folder / "copy")))


def _copied(source: Path, target: Path) -> None:
    shutil.copytree(source, target)
    for file in target.rglob("*"):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
