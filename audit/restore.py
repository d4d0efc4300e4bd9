"""Restore: make a new database from a backup, up to its end, a record, or a time.

    segments ─▶ blocks, checked ─▶ records, checked ─▶ log and tables of a new directory ─▶ EVERLOG

It is made by the code of a rebuild (store/upkeep/rebuild.py): whole or not at all. A killed restore leaves no
database, and the next one resumes it if it is of the same records; a fork starts again, with another UUID.

**Identity.** A log is known by its UUID, which its first record contains, and by its records.

- Restored whole, or to an earlier moment (`at`), it is the same database at an earlier state: the same
  records under the same UUID. A follower that had not read further continues. A follower that was ahead gets
  an error; once new records have replaced those that it read, the checksum in its cursor shows that the
  histories diverged. The same holds for a backup that is brought up to date. A new UUID would force every
  follower to start again, without need for those that had not read further.
- With `fork` it is another database, for a copy that is used beside the first. Its UUID is new. The first
  record, the only one that contains the UUID, is written again and names the origin: its UUID, and the last
  shared seq with its checksum. All other records are byte for byte those of the origin. No follower and no
  backup confuses the two.

Invariants
  (1) a restored database has the tables as of the last record taken;
  (2) a restore depends on nothing but the backup.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

import msgspec

from everlog.audit import manifest as manifests
from everlog.audit.manifest import Manifest
from everlog.audit.place import place
from everlog.audit.reader import Reader
from everlog.audit.segment import position_of
from everlog.proto import log_pb2
from everlog.store import record
from everlog.store.clock import CORRECTED
from everlog.store.errors import CorruptionError, CursorError
from everlog.store.history.past import Times
from everlog.store.progress import OnProgress
from everlog.store.rocks import files
from everlog.store.tables.hashing import TableHash
from everlog.store.upkeep.rebuild import make


class Restored(msgspec.Struct, frozen=True):
    """Result of a restore: the new database's UUID, the seq and time of its last record, and the hashes of
    its tables. `proven`: they equal the hashes recorded with the backup."""

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
    """Make a database in the new directory `to` from a backup: as of its end, or of the record `at`, or of
    the newest record at `at_time_ns`, nanoseconds since the Unix epoch, which is found as `db.at` does.

    `fork`: make it another database, with a new UUID. Returns a `Restored`. Raises OpenError if there is no
    backup or `to` is not empty, CursorError for a moment outside of the backup, and CorruptionError naming
    the damaged file and record; `to` is then not created. Writes to `to` alone.
    """
    where = place(backup)
    manifest = manifests.needed(where)
    reader = Reader(where, manifest)
    last = _last(reader, at, at_time_ns)
    end = position_of(reader.get(last))
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
                f"the tables in {to} differ from those recorded with the backup at record {last}; the"
                " directory is kept for inspection and must not be used",
                seq=last,
            )
    return Restored(str(database), last, end.time_ns, tables, proven)


def same_tables(manifest: Manifest, tables: dict[str, TableHash]) -> bool:
    """Return whether tables have the hashes that a backup recorded."""
    assert manifest.hashes is not None
    return manifest.hashes.tables == {name: (one.rows, one.hash.hex()) for name, one in tables.items()}


def _last(reader: Reader, at: int | None, at_time_ns: int | None) -> int:
    """Return the record to end with. Raises CursorError."""
    manifest = reader.manifest
    if at is not None:
        if not 1 <= at <= manifest.head.seq:
            raise CursorError(f"the backup has records 1 to {manifest.head.seq}, not {at}", seq=at)
        return at
    if at_time_ns is None:
        return manifest.head.seq
    times = Times(reader.get, 1, reader.last, lambda after: _corrections(reader, after), time.time_ns())
    last = times.before(at_time_ns + 1)
    if not last:
        raise CursorError(
            "the database was created after that time; the backup has no record of it", time_ns=at_time_ns
        )
    return last


def _corrections(reader: Reader, after: int) -> Iterator[int]:
    """Yield the seqs of the Notices that correct the clock. Reads all records after a seq."""
    kind = CORRECTED.encode()
    for block in reader.blocks(after, reader.last):
        if kind in block.data:
            for seq, framed in enumerate(record.split(block.data), block.first):
                if record.decode(framed, seq).notice.kind == CORRECTED:
                    yield seq


def _forked(records: Iterator[bytes], origin: log_pb2.Cursor, database: uuid.UUID) -> Iterator[bytes]:
    """Yield the same records, with the first changed to that of another database."""
    commit = record.decode(next(records), 1)
    commit.ClearField("checksum")
    created = commit.created
    created.database = database.bytes
    created.origin, created.origin_seq, created.origin_checksum = origin.database, origin.seq, origin.checksum
    yield record.frame(commit)
    yield from records
