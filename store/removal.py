"""Removal: what everlog made in a database's directory goes, and nothing else.

    HEAD, OWNER ─▶ db becomes db.dropped ─▶ the directories ─▶ EVERLOG ─▶ PATH, if nothing is left in it

Invariants
  (1) killed at any point, there is a database, if an empty one, that can be removed again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from everlog.store import head
from everlog.store.slots import KEYS

HALF = "REBUILDING"  # instead of EVERLOG, while a database is rebuilt into the directory

_DATABASE, _DROPPED = "db", "db.dropped"
_DIRECTORIES = (_DROPPED, "db.damaged-*", "repair")
_SMALL = (KEYS, head.HEAD, head.OWNER, head.ARCHIVE, head.BOOKMARKS, head.HOLDS)
_FILES = (*_SMALL, *(f"{name}.new" for name in (*_SMALL, head.MARKER)))


def clear(path: Path) -> None:
    """Removes what is in the directory of a database, all but what says that it is one. Nobody may
    have it open. Raises OSError."""
    for name in _FILES:
        (path / name).unlink(missing_ok=True)
    if (path / _DATABASE).exists():
        shutil.rmtree(path / _DROPPED, ignore_errors=True)
        (path / _DATABASE).rename(path / _DROPPED)
    for pattern in _DIRECTORIES:
        for found in path.glob(pattern):
            shutil.rmtree(found)


def remove(path: Path) -> list[Path]:
    """Removes a database that nobody has open, and its directory if that is empty then. Returns what
    else is in it, and stays. Raises OSError."""
    clear(path)
    for name in (head.MARKER, HALF):
        (path / name).unlink(missing_ok=True)
    left = sorted(path.iterdir())
    if not left:
        path.rmdir()
    return left
