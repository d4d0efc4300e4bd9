"""Built: how far is what a migration builds beside the live tables, and whether it may go on.

rows      a BACKFILL record in the log, which a note points to
entries   a note for each index := 0x00 rows:u64be key of the last     or 0x01, all are there
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from everlog.proto import log_pb2
from everlog.store import keys
from everlog.store.index_info import IndexInfo
from everlog.store.projection import Edits
from everlog.store.projector import built_note
from everlog.store.schema import Schema
from everlog.store.tables import Tables
from everlog.store.validate import claim

if TYPE_CHECKING:
    from everlog.store.database import Database

BUILDING = b"\x00"


def progress_of(note: bytes | None) -> tuple[int, bytes]:
    """How many rows of an index that is being built have their entry, and the key of the last."""
    if not note:
        return 0, b""
    count: int = keys.SEQ.unpack_from(note, len(BUILDING))[0]
    return count, note[len(BUILDING) + keys.SEQ.size :]


def backfilled(db: Database, schema: Schema) -> log_pb2.Migration | None:
    """The newest record of rows for what `schema` says is being built. Read-only."""
    note = db.tables.get(keys.NOTE_BACKFILL) if schema.building else None
    if note is None:
        return None
    found = db.log.commit(keys.SEQ.unpack(note)[0]).migration
    space: int = keys.SPACE.unpack_from(found.cursor)[0]
    return found if any(info.space == space for info in schema.building.values()) else None


def seeds_of(done: log_pb2.Migration, schema: Schema) -> int:
    """How many rows of bootstrap data are loaded, as the newest record of rows says; 0: it is past them.
    Versions before 2 did not say it, and loaded them into tables that are `remade` only."""
    return done.seeds or (done.rows if all(one.proto.remade for one in schema.building.values()) else 0)


def built_rows(db: Database) -> int:
    """Rows that are done of what is being built: rewritten ones, and entries of indexes. Read-only."""
    newest = backfilled(db, db.schema)
    count = newest.rows if newest else 0
    for info in db.schema.spaces.values():
        for index in info.indexes.values():
            if index.building:
                found = db.tables.get(built_note(index))
                whole = found == keys.ALL_BUILT
                count += db.tables.counts.get(info.space, 0) if whole else progress_of(found)[0]
    return count


def total_rows(db: Database) -> int:
    """Rows that are to be done of what is being built, as many as there are now. Read-only."""
    counts = db.tables.counts
    count = sum(counts.get(info.twin.space, 0) for info in db.schema.building.values() if info.twin)
    for info in db.schema.spaces.values():
        count += sum(counts.get(info.space, 0) for index in info.indexes.values() if index.building)
    return count


def check_unique(tables: Tables, index: IndexInfo, rows: dict[bytes, bytes]) -> Edits:
    """The keys of rows by their values in an index, given the other way round. Nobody may commit
    meanwhile. Raises UniqueError if two have the same, or one has those of a row that is in it."""
    taken: Edits = {}
    tables.flush()
    for key, values in rows.items():
        claim(taken, index, values, key, tables.target.view)
    return taken
