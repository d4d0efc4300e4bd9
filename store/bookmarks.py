"""Bookmarks: how far the consumers are that registered under a name: the file BOOKMARKS beside EVERLOG.

    BOOKMARKS := {"format": 1, "bookmarks": {"<name>": {"seq": 812, "checksum": …, "time_ns": …, "turn": …}}}

    the consumer has it durably ─▶ move ─▶ memory ─▶ the file, once a second at most

They are not in the log, or each of them would be a commit that everybody follows.

Invariants
  (1) a bookmark is never ahead of what its consumer said to have; it may be behind;
  (2) who registered last under a name has it, by its turn: whoever had it before is refused;
  (3) within a turn a bookmark never goes back;
  (4) a file that is none is an error that says so, and what is held by it stays; rows need none of it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Annotated

import msgspec

from everlog.store import head
from everlog.store.errors import CursorError, DiskError, OpenError, RowError

EVERY_S = 1.0
REMEDY = (
    "Put a copy of it back, or delete it: then each consumer is where it registered, and registers again"
    " when it runs the next time. Until then nothing is archived; rows are read and written"
)


class Bookmark(msgspec.Struct, frozen=True):
    """Up to which record a consumer has everything, when it said so (0: it never did), and whose it is."""

    seq: head.Count
    checksum: Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
    time_ns: head.Count
    turn: head.Count


class File(msgspec.Struct):
    """What the file says."""

    format: head.Known
    bookmarks: dict[str, Bookmark]


class Bookmarks:
    """Those of an open database. Safe to use from many threads, and beside other processes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._moved: dict[str, Bookmark] = {}  # and not in the file yet
        self._due = 0.0

    def all(self) -> dict[str, Bookmark]:
        """By name, the newest that is known. Read-only. Raises OpenError if the file is none."""
        found = self._read()
        found.update({name: one for name, one in self._moved.copy().items() if _goes_on(found, name, one)})
        return found

    def take(self, name: str, seq: int, checksum: int) -> Bookmark:
        """Gives a name to whoever registers under it, at this position; the one before has it no more.
        Writes. Raises DiskError."""
        with self._lock, head.locked(self._path):
            found = self._read()
            known = found.get(name)
            turn = max(time.time_ns() // 1000, known.turn + 1 if known else 0)
            found[name] = Bookmark(seq, checksum, known.time_ns if known else 0, turn)
            self._write(found)
            return found[name]

    def move(self, name: str, turn: int, seq: int, checksum: int) -> None:
        """Its consumer has everything up to there. Raises CursorError if another has the name by now,
        RowError if nobody has."""
        with self._lock:
            known = self.all().get(name)
            if known is None:
                raise RowError(
                    f"there is no consumer {name!r} any more: it was removed, or its bookmark was lost;"
                    " register it again",
                    name=name,
                )
            if known.turn != turn:
                raise CursorError(
                    f"consumer {name!r} was registered once more, by somebody else, who has the name now: two"
                    " run under one name; give each its own, or stop one of the two",
                    why="taken",
                    name=name,
                )
            if seq > known.seq or (seq == known.seq and not known.time_ns):
                self._moved[name] = Bookmark(seq, checksum, time.time_ns(), turn)
            if self._moved and time.monotonic() >= self._due:
                self._flush()

    def drop(self, name: str) -> None:
        """Nobody has the name any more. Writes. Raises DiskError."""
        with self._lock, head.locked(self._path):
            found = self._read()
            self._moved.pop(name, None)
            if found.pop(name, None) is not None:
                self._write(found)

    def flush(self) -> None:
        """Brings what was moved to the file. On a full disk that is done later, or never: then the
        bookmarks are behind."""
        with self._lock:
            if self._moved:
                self._flush()

    def _flush(self) -> None:
        self._due = time.monotonic() + EVERY_S
        with contextlib.suppress(DiskError, OpenError), head.locked(self._path):
            found = self._read()
            found.update({name: one for name, one in self._moved.items() if _goes_on(found, name, one)})
            self._write(found)
            self._moved.clear()

    def _read(self) -> dict[str, Bookmark]:
        found = head.read(self._path / head.BOOKMARKS, File, REMEDY)
        return found.bookmarks if found else {}

    def _write(self, found: dict[str, Bookmark]) -> None:
        head.write(self._path / head.BOOKMARKS, File(head.FORMAT, found), sync=False)


def _goes_on(found: dict[str, Bookmark], name: str, one: Bookmark) -> bool:
    """Whether it is of whoever has the name, and further."""
    known = found.get(name)
    return known is not None and known.turn == one.turn and known.seq <= one.seq
