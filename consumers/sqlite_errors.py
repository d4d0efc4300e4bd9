"""Errors: the one seam at which SQLite's become everlog's, with what to do about them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from everlog.store.errors import DiskError, SinkError


@contextmanager
def translated(name: str, doing: str) -> Iterator[None]:
    """`doing` completes "SQLite refused to …". Errors that pass by themselves, such as a lock that another
    process holds, have the fact `transient`."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            outcome = "unknown" if doing == "commit" else "nothing written"
            raise DiskError(
                f"{name}: the disk refused to {doing}: {error}; make room and follow again:"
                " it continues from there",
                outcome=outcome,
                transient=code == sqlite3.SQLITE_FULL and doing != "commit",
            ) from error
        raise SinkError(
            f"{name}: SQLite refused to {doing}: {error}{_remedy(code)}",
            transient=code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED),
        ) from error


def _remedy(code: int) -> str:
    remedies = {
        sqlite3.SQLITE_BUSY: "; somebody else is writing to it: end that transaction, and follow again",
        sqlite3.SQLITE_NOTADB: "; expected an SQLite file, or none: choose another path",
        sqlite3.SQLITE_CORRUPT: "; follow from the beginning into a new file",
        sqlite3.SQLITE_READONLY: "; a follower needs to write to it and to its directory",
        sqlite3.SQLITE_CANTOPEN: "; a follower needs to write to it and to its directory",
    }
    return remedies.get(code, "")
