"""Another process, which tries to write to an open database; it exits with 0 if it is refused.

python -m tests.crash.second PATH       as everlog, and as RocksDB alone, like older versions
"""

from __future__ import annotations

import fcntl
import sys
from pathlib import Path

from everlog.store.database import Database
from everlog.store.errors import OpenError
from tests.crash import broken


def may_everlog(path: Path) -> bool:
    try:
        Database(path, create=False).close()
    except OpenError:
        return False
    return True


def may_rocksdb(path: Path) -> bool:
    """Return whether RocksDB's own lock is free; opening the database would rename the LOG of the other
    process.
    """
    with (path / "db" / "LOCK").open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def main(path: Path) -> None:
    broken.apply()
    for may in (may_everlog, may_rocksdb):
        if may(path):
            raise SystemExit(f"{may.__name__} open it in a second process")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
