"""Archived: read the removed records of a log from the targets to which they were archived.

    ARCHIVE := {"format": 1, "targets": [{"url": "…", "last": 812}, …]}      beside EVERLOG

Each target is a whole backup, from the first record to its `last`, so one of them is enough. They are tried
in order of reach, the furthest first; an unreachable target is skipped.

Invariants
  (1) a target is listed after all of it was read again, and before anything is removed;
  (2) a record that no target returns is an error that names the segment.
"""

from __future__ import annotations

import os
import threading
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from everlog.store.errors import CorruptionError, Error, OpenError
from everlog.store.rocks import files

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlog.audit.reader import Reader
    from everlog.store.database import Database

R = TypeVar("R")


class Target(msgspec.Struct, frozen=True):
    """A place that has records 1 to `last`."""

    url: str
    last: int


class Archive(msgspec.Struct, frozen=True):
    """The content of the ARCHIVE file."""

    format: int = 1
    targets: list[Target] = []


def read(path: Path) -> Archive:
    """Return the targets of a database's archive. Read-only. Raises OpenError for an invalid file."""
    return files.read(path / files.ARCHIVE, Archive) or Archive()


def note(path: Path, url: str, last: int) -> None:
    """List a target that has all records up to `last`. Writes, durably."""
    with files.locked(path):
        others = [one for one in read(path).targets if one.url != url]
        targets = sorted([*others, Target(url, last)], key=lambda one: -one.last)
        files.write(path / files.ARCHIVE, Archive(targets=targets), sync=True)


def reach(target: str | PathLike[str]) -> int:
    """Return the last record that a place has; 0 if it is empty or absent. Read-only."""
    from everlog.audit import manifest as manifests  # noqa: PLC0415  only for databases with an archive
    from everlog.audit.place import place  # noqa: PLC0415

    try:
        found = manifests.read(place(target))
    except OpenError:
        return 0
    return found.head.seq if found else 0


def lacks(path: Path, target: str | PathLike[str], base: int) -> bool:
    """Return whether a target is unlisted or lacks some of the `base` removed records. Read-only."""
    from everlog.audit.place import same  # noqa: PLC0415  only for databases with an archive

    is_known = any(one.last >= base and same(one.url, os.fspath(target)) for one in read(path).targets)
    return base > 0 and not (is_known and reach(target) >= base)


def attach(db: Database) -> Archived:
    """Let the log of an open database read archived records. Reads nothing before it is needed."""
    archived = Archived(db.directory, db.uuid)
    db.log.trimmed.older = archived
    return archived


class Archived:
    """The removed records of one database. Thread-safe."""

    def __init__(self, path: Path, database: bytes) -> None:
        self._path = path
        self._database = database
        self._lock = threading.Lock()
        self._targets: list[Target] | None = None
        self._readers: dict[str, Reader] = {}

    @property
    def last(self) -> int:
        """The newest record that any listed target has."""
        if self._targets is None:
            self._targets = read(self._path).targets
        return max((one.last for one in self._targets), default=0)

    def get(self, seq: int) -> bytes:
        return self._asked(seq, lambda reader: reader.get(seq))

    def some(self, after: int, until: int, max_bytes: int) -> tuple[list[bytes], int]:
        return self._asked(after + 1, lambda reader: reader.some(after, until, max_bytes))

    def reload(self) -> None:
        """Drop the cached targets and readers, so that both are read again."""
        with self._lock:
            self._targets = None
            self._readers.clear()

    def _asked(self, seq: int, ask: Callable[[Reader], R]) -> R:
        """Return the answer of the first target that has one. Raises CorruptionError."""
        last, why = self.last, list[str]()
        if seq > last:
            self.reload()  # a reader beside a process that has archived more since
        for target in self._targets or read(self._path).targets:
            if target.last < seq:
                continue
            for known in (True, False):  # a cached reader may list segments that were merged since
                if known and target.url not in self._readers:
                    continue
                try:
                    return ask(self._reader(target))
                except (Error, OSError) as error:
                    with self._lock:
                        self._readers.pop(target.url, None)
                    if not known:
                        why.append(str(error))
        raise CorruptionError(
            f"record {seq} was archived and cannot be read back:"
            f" {'; '.join(why) or 'no target has it'}. Restore the missing files, or list another copy in"
            f" {self._path / files.ARCHIVE}",
            seq=seq,
        )

    def _reader(self, target: Target) -> Reader:
        from everlog.audit import manifest as manifests  # noqa: PLC0415  only for databases with an archive
        from everlog.audit.place import place  # noqa: PLC0415
        from everlog.audit.reader import Reader  # noqa: PLC0415

        with self._lock:
            found = self._readers.get(target.url)
            if found is None:
                where = place(target.url)
                found = Reader(where, manifests.needed(where))
                if found.manifest.uuid != self._database:
                    raise CorruptionError(f"{where.url} is an archive of another database", place=where.url)
                self._readers[target.url] = found
            return found
