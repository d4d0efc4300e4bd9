"""Holds: named positions from which the log must not be archived: the file HOLDS beside EVERLOG.

    HOLDS := {"format": 1, "holds": {"<name>": <seq>, …}}       the record at seq, and all after it, stay

Any process on the same machine may add or release a hold, beside the one that writes the database.
Registered consumers hold by their bookmarks, up to a cap (store/upkeep/consumers.py).

Invariants
  (1) concurrent changes do not lose each other: they run under one lock;
  (2) a record that was removed cannot be held: the caller gets an error;
  (3) an invalid file is an error, and nothing is archived that it may have held.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec

from everlog.proto import log_pb2
from everlog.store.database import Database
from everlog.store.errors import RowError
from everlog.store.rocks import files
from everlog.store.schema import arguments
from everlog.store.upkeep.roles import check_name

RELEASED = "hold.released"  # kind of a Notice: its subject is the name, its detail the seq in digits
REMEDY = (
    "Restore a copy of it; or delete it, and add the holds again (`everlog archive --add-hold`)."
    " Until then nothing is archived; reads and writes work"
)


class Holds(msgspec.Struct):
    """The content of the HOLDS file."""

    format: files.Known
    holds: dict[str, Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]]


def read(path: Path) -> dict[str, int]:
    """Return the holds: name to the first record held. Read-only. Raises OpenError."""
    found = files.read(path / files.HOLDS, Holds, REMEDY)
    return found.holds if found else {}


def hold(
    path: Path, name: str, seq: int, *, oldest: Callable[[], int] = lambda: 1, forward: bool = True
) -> None:
    """Hold a database's log from the record at `seq` on; an existing hold of that name moves.

    `oldest` returns the first record of the log; it is called while archiving is blocked. Writes. Raises
    RowError for an invalid name or seq, for a record that was archived and removed, and unless `forward` for
    a later record than the hold has: that releases records.
    """
    check_name(name, "the name of a hold")
    if arguments.counted(seq, "a seq") < 1:
        raise RowError(f"expected a record of the log to hold, found {seq}")
    with files.locked(path):
        if seq < (first := oldest()):
            raise RowError(
                f"record {seq:,} cannot be held: it was archived, and the log starts at record {first:,}."
                f" Hold that (`everlog archive --add-hold {name}={first}`), and keep the archive",
                seq=seq,
                oldest=first,
            )
        holds = read(path)
        if not forward and seq > holds.get(name, seq):
            raise RowError(
                f"hold {name} keeps the log from record {holds[name]:,} on; to move it to {seq:,} releases"
                " records, which needs the right release. Add a hold of another name",
                seq=seq,
            )
        files.write(path / files.HOLDS, Holds(files.FORMAT, {**holds, name: seq}), sync=True)


def hold_in(db: Database, name: str, seq: int, *, forward: bool = True) -> None:
    """Add a hold to an open database, which supplies its own oldest record. Writes. Raises RowError."""

    def oldest() -> int:
        db.refresh()
        return db.log.trimmed.base + 1

    hold(db.directory, name, seq, oldest=oldest, forward=forward)


def release_in(db: Database, name: str, *, actor: str = "", reason: str = "") -> None:
    """Remove a hold of an open database. Where it is open for writing, a Notice records first who removes it.
    Writes. Raises RowError if there is no hold of that name."""
    if name not in (known := read(db.directory)):
        release(db.directory, name)  # raises it
    if not db.read_only:
        notice = log_pb2.Notice(kind=RELEASED, subject=name, detail=str(known[name]).encode())
        transaction = db.transaction(actor=actor, reason=reason, durability="sync")
        db.core.commit(transaction, lambda commit: commit.notice.CopyFrom(notice))
    release(db.directory, name)


def release(path: Path, name: str) -> None:
    """Remove a hold. Writes. Raises RowError if there is no hold of that name."""
    with files.locked(path):
        holds = read(path)
        if name not in holds:
            raise RowError(
                f"there is no hold {name!r}; there are: {', '.join(sorted(holds)) or 'none'}", name=name
            )
        del holds[name]
        files.write(path / files.HOLDS, Holds(files.FORMAT, holds), sync=True)
