"""Spill: mappings of bytes, held in memory while they are small, and in a temporary file beyond that.

    Spilled ─┐
    Spilled ─┴▶ set, get ─▶ recent, RECENT_BYTES in all ─▶ Spill: a temporary SQLite database, a table each

They compare the rows of bootstrap data and of tables, of any number. The file is removed with the last of its
mappings.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING

from everlog.store.errors import DiskError

if TYPE_CHECKING:
    import sqlite3

RECENT_BYTES = 8 << 20
ENTRY_BYTES = 150  # overhead of an entry in memory
_CACHE_KIB = 8192

Value = bytes | None
_MISSING = object()


class Spill:
    """What several mappings share: a limit of memory, and a file."""

    def __init__(self) -> None:
        self.recent_bytes = 0
        self.mappings: weakref.WeakSet[Spilled] = weakref.WeakSet()
        self.number = 0
        self._file: sqlite3.Connection | None = None

    def took(self, size: int) -> None:
        """Count bytes that were added in memory, and spill if the limit is exceeded. Raises DiskError."""
        self.recent_bytes += size
        if self.recent_bytes > RECENT_BYTES:
            for one in list(self.mappings):
                one.spill()
            self.recent_bytes = 0

    def file(self) -> sqlite3.Connection:
        if self._file is None:
            import sqlite3  # noqa: PLC0415  rarely needed

            self._file = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            self._file.execute("PRAGMA journal_mode = OFF")
            self._file.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            weakref.finalize(self, self._file.close)  # in a cycle, __del__ may come too late
        return self._file


class Spilled:
    """A mapping of keys to values, which may be None. `spill` is shared with other mappings."""

    def __init__(self, spill: Spill | None = None) -> None:
        self._spill = spill or Spill()
        self._spill.number += 1
        self._spill.mappings.add(self)
        self._table = f"t{self._spill.number}"
        self._recent: dict[bytes, Value] = {}
        self._has_table = False

    def __setitem__(self, key: bytes, value: Value) -> None:
        """Set the value of a key. Raises DiskError."""
        self._recent[key] = value
        self._spill.took(len(key) + len(value or b"") + ENTRY_BYTES)

    def find(self, key: bytes) -> tuple[bool, Value]:
        """Return whether the key exists, and its value. Raises DiskError."""
        found = self._recent.get(key, _MISSING)
        if found is not _MISSING:
            return True, self._recent[key]
        if not self._has_table:
            return False, None
        with _translated():
            row = self._spill.file().execute(f"SELECT v FROM {self._table} WHERE k = ?", (key,)).fetchone()  # noqa: S608
        return (False, None) if row is None else (True, row[0])

    def __contains__(self, key: bytes) -> bool:
        return self.find(key)[0]

    def items(self) -> Iterator[tuple[bytes, Value]]:
        """Yield all entries; none may be set meanwhile. Raises DiskError."""
        if not self._has_table:
            yield from self._recent.items()
            return
        self.spill()
        with _translated():
            yield from self._spill.file().execute(f"SELECT k, v FROM {self._table} ORDER BY k")  # noqa: S608

    def spill(self) -> None:
        """Move the entries in memory to the file. Raises DiskError."""
        if not self._recent:
            return
        with _translated():
            file = self._spill.file()
            if not self._has_table:
                file.execute(f"CREATE TABLE {self._table} (k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID")
                self._has_table = True
            file.execute("BEGIN")
            put = f"INSERT OR REPLACE INTO {self._table} VALUES (?, ?)"  # noqa: S608
            file.executemany(put, sorted(self._recent.items()))
            file.execute("COMMIT")
        self._recent = {}


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Translate errors of SQLite to DiskError."""
    import sqlite3  # noqa: PLC0415  as above

    try:
        yield
    except sqlite3.Error as error:
        raise DiskError(
            f"comparing rows in a temporary file failed: {error}; free space in the directory of temporary"
            " files (TMPDIR), or remove files there if it has no inode left",
            outcome="nothing written",
        ) from error
