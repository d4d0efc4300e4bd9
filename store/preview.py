"""Preview: the tables as a record would leave them that is not in the log yet.

    live tables ◀── Overlay ◀── in memory: what the record does    (nothing is written)

It is projected by the code that would project it for good, and read as any other moment.

Invariants
  (1) nobody writes while a preview is read: it is of whoever has the committer alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from everlog.store.projection import Pending
from everlog.store.projector import Projector
from everlog.store.schema import Schema
from everlog.store.snapshot import Snapshot
from everlog.store.source import LocalSource
from everlog.store.target import MemoryTarget

if TYPE_CHECKING:
    from everlog.store.database import Database


class _Scratch(MemoryTarget):
    """In memory. What is to be deleted is out of reach in the schema that follows: it may stay."""

    def delete(self, start: bytes, end: bytes) -> None:
        pass


def preview(db: Database, framed: bytes, following: Schema) -> Snapshot:
    """What a framed record would make of the tables, whose schema it makes `following`. Read-only. With the
    committer alone, and what was pending flushed."""
    tables = db.tables
    target = _Scratch(tables.target.view)
    counts, checksum = dict(tables.counts), db.log.checksum_at(tables.applied)
    projector = Projector(Pending(target, counts), tables.schema, tables.applied, checksum, following)
    projector.add(framed)
    projector.flush()
    return Snapshot(LocalSource(target.view), projector.applied, projector.schema, lambda: None)
