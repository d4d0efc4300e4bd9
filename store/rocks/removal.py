"""Removal: what everlog made in a database's directory goes, and nothing else.

    LOCK, locked ─▶ HEAD, OWNER ─▶ db becomes db.dropped ─▶ the directories ─▶ EVERLOG ─▶ LOCK
                 ─▶ PATH, if nothing is left in it

Invariants
  (1) killed at any point, there is a database, if an empty one, that can be removed again;
  (2) what took the place of the directory meanwhile is left alone (rocks/ownership.py).
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
    """Removes a database that the block made and left empty, with the directories made for it, where
    the block raises. One that was there, or has a second record, stays. The block closes it."""
    path = path.absolute()
    missing = [one for one in (path, *path.parents) if not one.exists()]
    was_there = path.exists() and any(path.iterdir())
    try:
        yield
    except BaseException:
        if not was_there and _is_empty(path):
            with suppress(OpenError, OSError):  # what the block raised is the first to be told
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


def clear_owned(owner: Ownership) -> None:
    """`clear`, of the directory that is owned, and not of another that took its place."""
    if owner.at != owner.path or owner.is_here():
        clear(owner.at)


def remove(path: Path) -> list[Path]:
    """Removes a database that nobody has open, and its directory if that is empty then. Returns what
    else is in it, and stays. Raises OpenError if somebody has it, OSError."""
    with locked(path) as owner:
        return remove_owned(owner)


def remove_owned(owner: Ownership) -> list[Path]:
    """The same for who has locked it."""
    clear_owned(owner)
    for name in (files.MARKER, HALF):
        (owner.at / name).unlink(missing_ok=True)
    owner.drop_lock_file()
    left = sorted(owner.path / file.name for file in owner.at.iterdir())
    if not left and owner.is_here():
        owner.path.rmdir()
    return left
