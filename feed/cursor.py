"""Cursor: a position in a database's log, with the identity of its history.

    text := uuid ":" seq ":" checksum          0f8fad5b-d9cb-469f-a165-70867728950e:812:deadbeef

A cursor that names a database is compared with the log before a subscription starts there. A plain seq
is used without a check.

Invariants
  (1) a subscription starts exactly after its cursor, or fails.
"""

from __future__ import annotations

import uuid
from typing import Protocol

from everlog.proto import log_pb2
from everlog.store.errors import CursorError
from everlog.store.schema import arguments
from everlog.store.schema.arguments import seq_of

SEQ_END = 1 << 64  # seqs are uint64


class Positions(Protocol):
    """The part of a log with which a cursor is compared: its ends, and its checksums."""

    @property
    def oldest(self) -> int: ...

    @property
    def head(self) -> int: ...

    def checksum_at(self, seq: int) -> int: ...


def check(after: int | log_pb2.Cursor, log: Positions, database: bytes) -> int:
    """Return the seq to start after. Read-only.

    Raises CursorError if the log cannot continue from there: `why` is "ahead", "removed" or "diverged".
    """
    cursor = of(after)
    seq = cursor.seq
    if cursor.database and cursor.database != database:
        raise CursorError(
            f"the cursor is of database {name(cursor.database)}, this is {name(database)}; follow the"
            " database of the cursor, or start again from the beginning of this one",
            why="diverged",
            seq=seq,
        )
    if seq > log.head:
        raise CursorError(
            f"the cursor is ahead of the log: it is after record {seq}, the newest is {log.head}."
            " The database was restored to an earlier state, or is another one: start again from the"
            " beginning",
            why="ahead",
            seq=seq,
            head=log.head,
        )
    if seq + 1 < log.oldest:
        raise CursorError(
            f"the cursor is after record {seq}, but the records before {log.oldest} were removed from"
            " the log: start again from a snapshot",
            why="removed",
            seq=seq,
            oldest=log.oldest,
        )
    if (cursor.database or cursor.checksum) and seq >= log.oldest:
        found = log.checksum_at(seq)
        if found != cursor.checksum:
            raise CursorError(
                f"the cursor is of another history: its record {seq} has checksum {cursor.checksum:08x}, in"
                f" this log it has {found:08x}. One of the databases was restored and changed since: start"
                " again from the beginning",
                why="diverged",
                seq=seq,
            )
    return seq


def of(after: int | log_pb2.Cursor) -> log_pb2.Cursor:
    """Return a cursor as it is, or make one from a seq. Raises CursorError for an invalid seq."""
    if isinstance(after, log_pb2.Cursor):
        return after
    check_seq(after, "to start after")
    return log_pb2.Cursor(seq=after)


def check_seq(seq: int, role: str) -> None:
    """Raise CursorError for a number that no record can have; `role` completes "a seq …"."""
    arguments.whole(seq, f"a seq {role}", error=CursorError)
    if not 0 <= seq < SEQ_END:
        raise CursorError(f"expected a seq of 0 or more {role}, found {seq}", why="unclear", seq=seq)


def show(cursor: log_pb2.Cursor) -> str:
    """Return the cursor as text."""
    return f"{name(cursor.database)}:{cursor.seq}:{cursor.checksum:08x}"


def parse(text: str) -> log_pb2.Cursor:
    """Parse the output of `show`, or a plain seq. Raises CursorError."""
    try:
        if (seq := seq_of(text)) is not None:
            return log_pb2.Cursor(seq=seq)
        database, digits, checksum = text.split(":")
        if (seq := seq_of(digits)) is None:
            raise ValueError(digits)
        return log_pb2.Cursor(database=uuid.UUID(database).bytes, seq=seq, checksum=int(checksum, 16))
    except ValueError:
        raise CursorError(
            f"expected a cursor as uuid:seq:checksum, or a seq, found {text!r}", why="unclear", text=text
        ) from None


def name(database: bytes) -> str:
    """Return a database's UUID as text."""
    return str(uuid.UUID(bytes=database)) if len(database) == 16 else database.hex() or "(none)"
