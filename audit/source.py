"""Source: the log that is backed up, wherever it is: blocks of joined records, in order.

Embedded, blocks are read from the log as they stand there; from a server they come through the feed,
which sends the same bytes (`everlog.rpc.client.audit`).
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
    """Some records, joined."""

    first: int
    last: int
    data: bytes


class Source(Protocol):
    """A log, up to a moment."""

    database: bytes
    head: int

    def check(self, position: log_pb2.Cursor) -> None:
        """Raises OpenError if the log does not go on from there."""

    def blocks(self, after: int, until: int) -> Iterator[Records]:
        """All records after `after`, up to `until`, joined into some MiB at a time."""

    def hashes(self, progress: OnProgress | None, *, any_size: bool) -> Hashes | None:
        """Those of the tables at `head`, where they are to be had: without `any_size`, only of a database
        of few rows."""

    def close(self) -> None:
        """Lets go of the moment."""


class LogSource:
    """The log of an open database, up to what is on disk now."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.database = db.uuid
        self._view, applied = db.tables.snapshot()
        # Without keys: whoever restores has none either, and compares sealed rows as they are.
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
        tell = None if progress is None else lambda done: progress(Progress("hash", done, rows))
        found = hashes(self._view, self._schema, tell)
        return Hashes(self.head, {name: (one.rows, one.hash.hex()) for name, one in found.items()})

    def close(self) -> None:
        self._view.close()


def check_position(position: log_pb2.Cursor, database: bytes, head: int) -> None:
    """Raises OpenError if a backup that ends there cannot be one of this log."""
    if position.database != database:
        raise OpenError(
            f"this is a backup of database {UUID(bytes=position.database)}, and not of"
            f" {UUID(bytes=database)}; name another directory"
        )
    if position.seq > head:
        raise OpenError(
            f"the backup goes up to record {position.seq}, the database only to {head}: it was restored, or"
            " has lost its end. Back it up into another directory",
            seq=position.seq,
        )


def diverged(position: log_pb2.Cursor, why: str) -> OpenError:
    return OpenError(
        f"record {position.seq}, with which the backup ends, is another in the database: they diverged"
        f" ({why}). Back it up into another directory",
        seq=position.seq,
    )
