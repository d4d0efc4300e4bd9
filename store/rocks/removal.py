"""Removal: remove everything that everlog created in a database's directory, and nothing else.

    LOCK, locked ─▶ HEAD, OWNER ─▶ db becomes db.dropped ─▶ the directories ─▶ EVERLOG ─▶ LOCK
                 ─▶ PATH, if it is empty then

Invariants
  (1) killed at any point, a database remains, possibly an empty one, that can be removed again;
  (2) a directory that replaced the database's meanwhile is left alone (rocks/ownership.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from everlog.store.errors import OpenError
from everlog.store.rocks import files
from everlog.store.rocks.files import KEYS
from everlog.store.rocks.ownership import Ownership, locked

HALF = "REBUILDING"  # instead of EVERLOG, while a database is rebuilt into the directory

_DATABASE, _DROPPED = "db", "db.dropped"
_DIRECTORIES = (_DROPPED, "db.damaged-*", "repair")
_SMALL = (KEYS, files.HEAD, files.OWNER, files.ARCHIVE, files.BOOKMARKS, files.HOLDS)
_FILES = (*_SMALL, *(f"{name}.new" for name in (*_SMALL, files.MARKER)))


@contextmanager
def unmade_if_failed(path: Path) -> Iterator[None]:
    """Remove a database that the block created and left empty, and the directories created for it, if the
    block raises.

    A database that existed before, or has a second record, stays. The block closes the database.
    """
    path = path.absolute()
    missing = [one for one in (path, *path.parents) if not one.exists()]
    was_there = path.exists() and any(path.iterdir())
    try:
        yield
    except BaseException:
        if not was_there and _is_empty(path):
            with suppress(OpenError, OSError):  # the error of the block is the one to report
                remove(path)
                if path not in missing:
                    path.mkdir()
                for one in missing[1:]:
                    one.rmdir()
        raise


def _is_empty(path: Path) -> bool:
    """Whether the log had only its first record when it was closed."""
    if files.read_marker(path) is None:
        return False
    known = files.read(path / files.HEAD, files.Head)
    return known is not None and known.seq == 1


def clear(path: Path) -> None:
    """Remove everything in a database's directory except the file that marks it as one. Nobody may have it
    open. Raises OSError."""
    for name in _FILES:
        (path / name).unlink(missing_ok=True)
    if (path / _DATABASE).exists():
        shutil.rmtree(path / _DROPPED, ignore_errors=True)
        (path / _DATABASE).rename(path / _DROPPED)
    for pattern in _DIRECTORIES:
        for found in path.glob(pattern):
            shutil.rmtree(found)


def clear_owned(owner: Ownership) -> None:
    """`clear` the owned directory, but not another one that replaced it."""
    if owner.at != owner.path or owner.is_here():
        clear(owner.at)


def remove(path: Path) -> list[Path]:
    """Remove a database that is not open anywhere, and its directory if that is empty then.

    Returns the remaining files of others. Raises OpenError if the database is open, and OSError.
    """
    with locked(path) as owner:
        return remove_owned(owner)


def remove_owned(owner: Ownership) -> list[Path]:
    """`remove`, for the holder of the lock."""
    clear_owned(owner)
    for name in (files.MARKER, HALF):
        (owner.at / name).unlink(missing_ok=True)
    owner.drop_lock_file()
    left = sorted(owner.path / file.name for file in owner.at.iterdir())
    if not left and owner.is_here():
        owner.path.rmdir()
    return left
