"""Second: another process, which tries to write to an open database; it ends with 0 if it may not.

python -m tests.crash.second PATH       as everlog, and as RocksDB alone, like older versions
"""

from __future__ import annotations

import sys
from pathlib import Path

from rocksdict import Options, Rdict

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
    options = Options(raw_mode=True)
    try:
        names = Rdict.list_cf(str(path / "db"), options)
        Rdict(str(path / "db"), options, dict.fromkeys(names, options)).close()
    except Exception as error:  # noqa: BLE001  rocksdict has no kinds of errors
        # Files that are listed may be gone a moment later, and prove nothing.
        return "lock" not in str(error).lower() and "no such file" not in str(error).lower()
    return True


def main(path: Path) -> None:
    broken.apply()
    for may in (may_everlog, may_rocksdb):
        if may(path):
            raise SystemExit(f"{may.__name__} open it in a second process")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
