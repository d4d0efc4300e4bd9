"""Outside: other openings, forks and copies of a database, and rows at the limits.

    a second opening, by another spelling, here and in another process       refused
    a copy of the directory, made by the process itself                      the lock holds
    a fork (forks.py)                                                         the child is refused, and ends
    rows at the limits (limits.py)                                            refused, or readable permanently

The ends of a run without a kill, by an exit without closing or by moved files, are in campaign.py.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from everlog.store.database import Database
from everlog.store.errors import OpenError, RowError
from everlog.store.keys import ROW_BYTES_MAX
from tests.crash import forks, limits
from tests.crash.folders import MASTER, Value
from tests.crash.maintenance import Maintenance
from tests.crash.transactions import KEYS, REFUSALS

LARGE = (1, 1 << 16, 1 << 20, ROW_BYTES_MAX - 200, ROW_BYTES_MAX, ROW_BYTES_MAX + 1)
LARGE_KEYS = 2  # after those of transactions


def open_again(maintenance: Maintenance) -> None:
    """Open the same files under another name, in the same process."""
    path, link = maintenance.db.path.resolve(), maintenance.scratch / "link"
    if not link.is_symlink():
        link.symlink_to(path)
    spellings = (path, os.path.relpath(path), path.parent / "x" / ".." / path.name, link)
    (path.parent / "x").mkdir(exist_ok=True)
    try:
        Database(Path(maintenance.random.choice(spellings)), create=False, master_key=MASTER).close()
    except OpenError:
        return
    raise AssertionError("opened twice in one process")


def open_elsewhere(maintenance: Maintenance) -> None:
    """Open the same files in another process, after this one has opened and closed each of them."""
    copy = maintenance.scratch / "copy"
    if maintenance.random.random() < 0.5:
        shutil.rmtree(copy, ignore_errors=True)
        with contextlib.suppress(shutil.Error):  # files that were removed meanwhile
            shutil.copytree(maintenance.db.path, copy)
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    words = [sys.executable, "-m", "tests.crash.second", str(maintenance.db.path)]
    done = subprocess.run(words, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"opened in two processes: {done.stderr}"


def at_limits(maintenance: Maintenance) -> None:
    """Write rows at the limits: accepted rows are readable at once, and after every run."""
    way, op = maintenance.way(), f"limit {maintenance.name}"
    number = KEYS + maintenance.random.randrange(LARGE_KEYS)
    value = Value(f"large {'x' * maintenance.random.choice(LARGE)}", maintenance.random.randrange(-50, 50))
    maintenance.journal.say(
        op=op,
        durability="sync",
        id="",
        reads={},
        ranges=[],
        insert=[],
        update=[],
        writes={str(number): value},
    )
    try:
        done = maintenance.db.put(way.table, way.row(number, value), correlation_id=op)
    except (*REFUSALS, RowError):
        maintenance.journal.say(no=op)
        return
    maintenance.journal.say(yes=op, seq=done.seq)
    if maintenance.db.schema.version == way.version:
        row = maintenance.db.get(way.table, way.key(number))
        assert row is not None


# operation: its share, among all of these.
OPERATIONS: dict[Callable[[Maintenance], None], int] = {
    open_again: 4,
    open_elsewhere: 1,
    forks.fork: 3,
    at_limits: 3,
    limits.at_limits: 3,
}
