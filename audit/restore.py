"""Restore: a new database out of a backup, up to its end, a record, or a time.

    segments ─▶ blocks, checked ─▶ records, checked ─▶ log and tables of a new directory ─▶ EVERLOG

It is made by the code that rebuilds one (store/upkeep/rebuild.py): whole or not at all. Killed it is none,
and the next goes on where it was, if it is of the same records; a fork begins anew, with another UUID.

**Which database is it then?** A log is known by its UUID, which its first record says, and by its records.

- Restored whole, or to a moment before (`at`), it is the same database, gone back: the same records under
  the same UUID. A follower that had seen no more goes on. One that was ahead is told so; once new records
  have taken the place of those that it saw, the checksum in its cursor tells it that the two histories
  diverged, as it tells a backup that is brought up to date. A new UUID would send all of them back to the
  beginning, and for those that had seen no more that would be for nothing.
- With `fork` it is another database: for a copy that is used beside the first. Its UUID is new, and the
  one record that says a UUID, the first, is written anew and says where it comes from: the origin's UUID,
  the last seq that both share and its checksum. All others are byte for byte those of the origin. No
  follower and no backup of the one takes the other for it.

Invariants
  (1) what is restored has the tables as they were after the last record taken, not one record more;
  (2) it does not depend on anything but the backup.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

import msgspec

from everlog.audit import manifest as manifests
from everlog.audit.manifest import Manifest
from everlog.audit.place import place
from everlog.audit.reader import Reader
from everlog.audit.segment import head_of
from everlog.proto import log_pb2
from everlog.store import record
from everlog.store.errors import CorruptionError, CursorError
from everlog.store.progress import OnProgress
from everlog.store.rocks import files
from everlog.store.tables.hashing import TableHash
from everlog.store.upkeep.rebuild import make


class Restored(msgspec.Struct, frozen=True):
    """What came of it: the new database's UUID, how far its log goes, and the hashes of its tables.
    `proven`: they are those that were recorded with the backup."""

    database: str
    seq: int
    time_ns: int
    tables: dict[str, TableHash]
    proven: bool


def restore(
    backup: str | PathLike[str],
    to: str | PathLike[str],
    *,
    at: int | None = None,
    at_time_ns: int | None = None,
    fork: bool = False,
    progress: OnProgress | None = None,
) -> Restored:
    """Makes a database in the new directory `to` from a backup, as of its end; or as of the record `at`;
    or as of a time, nanoseconds since the Unix epoch: the last record that is no later.

    `fork`: it is another database. Raises OpenError if there is no backup or `to` is not empty,
    CursorError for a moment that the backup does not have, CorruptionError naming the file and the record
    that is damaged: then nothing is left of it.
    """
    where = place(backup)
    manifest = manifests.needed(where)
    reader = Reader(where, manifest)
    last = _last(reader, at, at_time_ns)
    end = head_of(reader.get(last))
    database = uuid.uuid4() if fork else uuid.UUID(manifest.database)
    marker = msgspec.json.encode(files.Marker(files.FORMAT, str(database))) + b"\n"

    def records(after: int) -> Iterator[bytes]:
        for block in reader.blocks(after, last):
            yield from record.split(block.data)

    origin = log_pb2.Cursor(database=manifest.uuid, seq=last, checksum=end.checksum)
    source = _forked(records(0), origin, database) if fork else records
    tables = make(Path(to), marker, source, last, progress, step="restore")
    proven = False
    if manifest.hashes is not None and manifest.hashes.seq == last:
        proven = same_tables(manifest, tables)
        if not proven:
            raise CorruptionError(
                f"the tables in {to} are not those that were recorded with the backup at record {last}; it is"
                " there to be looked at, and is not to be relied on",
                seq=last,
            )
    return Restored(str(database), last, end.time_ns, tables, proven)


def same_tables(manifest: Manifest, tables: dict[str, TableHash]) -> bool:
    """Whether tables are those that a backup has the hashes of."""
    assert manifest.hashes is not None
    return manifest.hashes.tables == {name: (one.rows, one.hash.hex()) for name, one in tables.items()}


def _last(reader: Reader, at: int | None, at_time_ns: int | None) -> int:
    """The record to end with. Raises CursorError."""
    manifest = reader.manifest
    if at is not None:
        if not 1 <= at <= manifest.head.seq:
            raise CursorError(f"the backup holds records 1 to {manifest.head.seq}, there is no {at}", seq=at)
        return at
    if at_time_ns is None:
        return manifest.head.seq
    begun = [one for one in manifest.segments if one.first_time_ns <= at_time_ns]
    if not begun:
        raise CursorError(
            "the database was made later than that; the backup has nothing of it", time_ns=at_time_ns
        )
    one = begun[-1]
    if one.last_time_ns <= at_time_ns:
        return one.last
    low, high = one.first, one.last  # low is no later, high is
    while high - low > 1:
        middle = (low + high) // 2
        if head_of(reader.get(middle)).time_ns <= at_time_ns:
            low = middle
        else:
            high = middle
    return low


def _forked(records: Iterator[bytes], origin: log_pb2.Cursor, database: uuid.UUID) -> Iterator[bytes]:
    """The same, but for the first record, which is of another database."""
    commit = record.decode(next(records), 1)
    commit.ClearField("checksum")
    created = commit.created
    created.database = database.bytes
    created.origin, created.origin_seq, created.origin_checksum = origin.database, origin.seq, origin.checksum
    yield record.frame(commit)
    yield from records
