"""Archived: what was removed from a database's log, read from where it was archived to.

    ARCHIVE := {"format": 1, "targets": [{"url": "…", "last": 812}, …]}      beside EVERLOG

Each target is a whole backup, from the first record to its `last`: one of them is enough. They are asked in
order, the one that reaches furthest first; one that cannot be reached is passed over for the next.

Invariants
  (1) a target is noted after all of it was read again, and before anything is removed;
  (2) what no target gives is an error that names the segment.
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
    """One place that has records 1 to `last`."""

    url: str
    last: int


class Archive(msgspec.Struct, frozen=True):
    """What the file says."""

    format: int = 1
    targets: list[Target] = []


def read(path: Path) -> Archive:
    """Where a database's archive is. Read-only. Raises OpenError if the file is none."""
    return files.read(path / files.ARCHIVE, Archive) or Archive()


def note(path: Path, url: str, last: int) -> None:
    """Notes that a target has all records up to `last`. Writes, durably."""
    with files.locked(path):
        others = [one for one in read(path).targets if one.url != url]
        targets = sorted([*others, Target(url, last)], key=lambda one: -one.last)
        files.write(path / files.ARCHIVE, Archive(targets=targets), sync=True)


def reach(target: str | PathLike[str]) -> int:
    """The last record that a place has; 0: it has none, or is not there. Read-only."""
    from everlog.audit import manifest as manifests  # noqa: PLC0415  for those who have an archive
    from everlog.audit.place import place  # noqa: PLC0415

    try:
        found = manifests.read(place(target))
    except OpenError:
        return 0
    return found.head.seq if found else 0


def lacks(path: Path, target: str | PathLike[str], base: int) -> bool:
    """Whether a target lacks some of the `base` records that were removed, or is not noted. Read-only."""
    from everlog.audit.place import same  # noqa: PLC0415  for those who have an archive

    noted = any(one.last >= base and same(one.url, os.fspath(target)) for one in read(path).targets)
    return base > 0 and not (noted and reach(target) >= base)


def attach(db: Database) -> Archived:
    """Lets the log of an open database read what was archived. Nothing is read before it is needed."""
    archived = Archived(db.directory, db.uuid)
    db.log.trimmed.older = archived
    return archived


class Archived:
    """Removed records of one database. Safe to use from many threads."""

    def __init__(self, path: Path, database: bytes) -> None:
        self._path = path
        self._database = database
        self._lock = threading.Lock()
        self._targets: list[Target] | None = None
        self._readers: dict[str, Reader] = {}

    @property
    def last(self) -> int:
        """The newest record that any target has."""
        if self._targets is None:
            self._targets = read(self._path).targets
        return max((one.last for one in self._targets), default=0)

    def get(self, seq: int) -> bytes:
        return self._asked(seq, lambda reader: reader.get(seq))

    def some(self, after: int, until: int, max_bytes: int) -> tuple[list[bytes], int]:
        return self._asked(after + 1, lambda reader: reader.some(after, until, max_bytes))

    def reload(self) -> None:
        """Looks again which targets there are, and what they have."""
        with self._lock:
            self._targets = None
            self._readers.clear()

    def _asked(self, seq: int, ask: Callable[[Reader], R]) -> R:
        """The answer of the first target that has one. Raises CorruptionError."""
        last, why = self.last, list[str]()
        if seq > last:
            self.reload()  # as a reader, beside a process that has archived more since
        for target in self._targets or read(self._path).targets:
            if target.last < seq:
                continue
            for known in (True, False):  # a reader of before knows segments that were merged since
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
            f"record {seq} was archived, and cannot be read from there:"
            f" {'; '.join(why) or 'no target has it'}. The targets are in {self._path / files.ARCHIVE}: put"
            " what is missing back, or name another copy there",
            seq=seq,
        )

    def _reader(self, target: Target) -> Reader:
        from everlog.audit import manifest as manifests  # noqa: PLC0415  for those who have an archive
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
