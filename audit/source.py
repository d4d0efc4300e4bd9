"""Source: the log that is backed up, as blocks of joined records in order.

An embedded log is read as stored; the log of a server comes through the feed, which sends the same bytes
(`everlog.rpc.client.audit`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol
from uuid import UUID

from everlog.audit.manifest import Hashes
from everlog.audit.segment import BLOCK_BYTES
from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import CursorError, OpenError
from everlog.store.progress import OnProgress, Progress
from everlog.store.schema.schema import Schema
from everlog.store.tables.hashing import hashes

ROWS_HASHED = 100_000


class Records(NamedTuple):
    """Consecutive records, joined."""

    first: int
    last: int
    data: bytes


class Source(Protocol):
    """A log, up to a position."""

    database: bytes
    head: int

    def check(self, position: log_pb2.Cursor) -> None:
        """Raise OpenError unless the log continues from this position."""

    def blocks(self, after: int, until: int) -> Iterator[Records]:
        """Yield all records after `after`, up to `until`, joined, some MiB at a time."""

    def hashes(self, progress: OnProgress | None, *, any_size: bool) -> Hashes | None:
        """Return the hashes of the tables at `head`, or None; without `any_size`, only for a database of
        few rows."""

    def close(self) -> None:
        """Release the snapshot."""


class LogSource:
    """The log of an open database, up to what is durable now."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.database = db.uuid
        self._view, applied = db.tables.snapshot()
        # Without keys: a restore has none either, and compares sealed rows as bytes.
        self._schema, self.head = Schema(db.schema.proto), min(applied, db.log.head)
        self._is_moment = self.head == applied

    def check(self, position: log_pb2.Cursor) -> None:
        check_position(position, self.database, self.head)
        try:
            found = self._db.log.checksum_at(position.seq)
        except CursorError as error:
            raise diverged(position, str(error)) from None
        if found != position.checksum:
            raise diverged(position, f"checksum {found:08x}, in the backup {position.checksum:08x}")

    def blocks(self, after: int, until: int) -> Iterator[Records]:
        while after < until:
            data, last = self._db.log.read(after, BLOCK_BYTES, until)
            yield Records(after + 1, last, data)
            after = last

    def hashes(self, progress: OnProgress | None, *, any_size: bool) -> Hashes | None:
        rows = sum(self._db.tables.counts.values())
        if not self._is_moment or not (any_size or rows <= ROWS_HASHED):
            return None
        report = None if progress is None else lambda done: progress(Progress("hash", done, rows))
        found = hashes(self._view, self._schema, report)
        return Hashes(self.head, {name: (one.rows, one.hash.hex()) for name, one in found.items()})

    def close(self) -> None:
        self._view.close()


def check_position(position: log_pb2.Cursor, database: bytes, head: int) -> None:
    """Raise OpenError if a backup that ends at this position cannot be one of this log."""
    if position.database != database:
        raise OpenError(
            f"this is a backup of database {UUID(bytes=position.database)}, not of"
            f" {UUID(bytes=database)}; name another directory"
        )
    if position.seq > head:
        raise OpenError(
            f"the backup goes up to record {position.seq}, the database only to {head}: the database was"
            " restored, or lost its end. Back it up into another directory",
            seq=position.seq,
        )


def diverged(position: log_pb2.Cursor, why: str) -> OpenError:
    return OpenError(
        f"record {position.seq}, the last of the backup, differs from the one in the database: they diverged"
        f" ({why}). Back the database up into another directory",
        seq=position.seq,
    )
