"""Projection: from commits to the tables, the same way live, on opening and on a rebuild.

    Commit ─▶ Effects: rows, index entries, counts, notes ─▶ one batch ─▶ column family `data`

`Effects` gathers what one group of commits does, before it is written: it answers for rows that
the group has changed already, so that the next commit of the group sees them.

Invariants
  (1) the batch that moves the tables moves `applied` with it: all of a commit or nothing;
  (2) projecting a record again changes nothing (index builds may have been cut short);
  (3) no code of a user runs, and nothing but the log and the tables themselves is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from everlog.proto import log_pb2
from everlog.store import keys, record
from everlog.store.errors import CorruptionError
from everlog.store.keys import APPLIED, HEADER, SEQ
from everlog.store.schema import IndexInfo, Schema, TableInfo
from everlog.store.view import View

ROWS_PER_BATCH = 4096


class Batch(Protocol):
    """Writes that are gathered: RocksDB's batch, or one in memory."""

    def __setitem__(self, key: bytes, value: bytes, /) -> None: ...

    def __delitem__(self, key: bytes, /) -> None: ...

    def __len__(self) -> int: ...


class Target(Protocol):
    """What takes projections: the live tables, those of a rebuild, or memory."""

    @property
    def view(self) -> View: ...

    def batch(self) -> Batch: ...

    def write(self, writes: Batch) -> None:
        """All of the batch, or nothing."""

    def delete(self, start: bytes, end: bytes) -> None:
        """Everything from `start` on, up to but without `end`."""


class Effects:
    """What a group of commits does to the tables."""

    def __init__(self, target: Target, counts: dict[int, int]) -> None:
        self._target = target
        self.writes = target.batch()
        self._rows: dict[bytes, bytes | None] = {}
        self._counts = counts
        self._deltas: dict[int, int] = {}
        self.uniques: dict[bytes, bytes | None] = {}  # values -> key of the row that has them now
        self.size = 0

    def old(self, full: bytes) -> bytes | None:
        """The row's value as the next commit of the group finds it."""
        rows = self._rows
        return rows[full] if full in rows else self._target.view.get(full)

    def row(
        self, info: TableInfo, full: bytes, value: bytes | None, old: bytes | None, values: list[bytes]
    ) -> list[bytes]:
        """Puts (or, with None, deletes) a row and its index entries. Returns the keys touched."""
        writes = self.writes
        touched = [full]
        if value is None:
            del writes[full]
        else:
            writes[full] = value
        self._rows[full] = value
        self.size += 1
        if (old is None) != (value is None):
            space = info.space
            self._deltas[space] = self._deltas.get(space, 0) + (1 if old is None else -1)
        if info.indexes:
            key = full[keys.PREFIX.size :]
            if old is not None:
                gone = old_values(info, old)
                if gone != values:
                    for before in gone:
                        if before not in values:
                            entry = before + key
                            del writes[entry]
                            touched.append(entry)
                    for after in values:
                        if after not in gone:
                            entry = after + key
                            writes[entry] = b""
                            touched.append(entry)
            else:
                for after in values:
                    entry = after + key
                    writes[entry] = b""
                    touched.append(entry)
        return touched

    def finish(self, seq: int, checksum: int) -> Batch:
        """The batch, with `applied` at the last commit of the group."""
        writes, counts = self.writes, self._counts
        for space, delta in self._deltas.items():
            counts[space] = counts.get(space, 0) + delta
            writes[keys.rows_note(space)] = SEQ.pack(counts[space])
        writes[keys.NOTE_APPLIED] = APPLIED.pack(seq, checksum)
        return writes


def old_values(info: TableInfo, old: bytes) -> list[bytes]:
    """The index values of a stored row."""
    row = keys.row_of(old)
    return info.own.values(info.parse(row), row)


def note_about(effects: Effects, commit: log_pb2.Commit) -> list[bytes]:
    """Keeps what a commit is about, besides its rows, where the store will look for it.
    Returns the keys touched."""
    notes = {}
    if commit.commit_id:
        notes[keys.NOTE_COMMIT + commit.commit_id] = SEQ.pack(commit.seq)
    if commit.HasField("load"):
        notes[keys.NOTE_LOAD + commit.load.id.encode()] = commit.load.SerializeToString()
    if commit.HasField("migration"):
        notes[keys.NOTE_MIGRATION + SEQ.pack(commit.seq)] = b""
        if commit.migration.HasField("schema"):
            notes[keys.NOTE_SCHEMA] = SEQ.pack(commit.seq)
    for key, value in notes.items():
        effects.writes[key] = value
    return list(notes)


class Projector:
    """Projects records of the log, decoded, in order, onto a target."""

    def __init__(self, target: Target, schema: Schema, applied: int, counts: dict[int, int]) -> None:
        self.target = target
        self.schema = schema
        self.applied = applied
        self.counts = counts
        self._effects = Effects(target, counts)
        self._checksum = 0

    def add(self, framed: bytes) -> None:
        """One record. Raises CorruptionError if it does not check."""
        commit = record.decode(framed, self.applied + 1)
        self.add_commit(commit, record.checksum_of(framed))

    def add_commit(self, commit: log_pb2.Commit, checksum: int) -> None:
        if commit.HasField("migration") and commit.migration.HasField("schema"):
            self.flush()
            after = Schema(commit.migration.schema)
            change_schema(self.target, self.schema, after, self.counts)
            self.schema = after
            self._effects = Effects(self.target, self.counts)
        if commit.changes:
            self._rows(commit)
        if commit.commit_id or commit.WhichOneof("about"):
            note_about(self._effects, commit)
        self.applied, self._checksum = commit.seq, checksum
        if self._effects.size >= ROWS_PER_BATCH or commit.HasField("migration"):
            self.flush()

    def _rows(self, commit: log_pb2.Commit) -> None:
        effects, spaces, seq = self._effects, self.schema.spaces, commit.seq
        info: TableInfo | None = None
        header = HEADER.pack(0, seq)
        for change in commit.changes:
            if info is None or info.space != change.space:
                info = spaces.get(change.space)
                if info is None:
                    raise CorruptionError(
                        f"record {seq} writes to space {change.space}, which no table has", seq=seq
                    )
                prefix, indexed = info.row_prefix, bool(info.indexes)
            full = prefix + change.key
            old = effects.old(full) if change.prior else None
            if change.op == log_pb2.DELETE:
                effects.row(info, full, None, old, [])
                continue
            row = change.row
            if change.version or change.expires_ns or change.key_id:
                value = keys.pack_value(
                    seq, row, version=change.version, expires_ns=change.expires_ns, key_id=change.key_id
                )
            else:
                value = header + row
            effects.row(info, full, value, old, info.own.values(info.parse(row), row) if indexed else [])

    def flush(self) -> None:
        """Writes what was gathered."""
        if self.applied:
            self.target.write(self._effects.finish(self.applied, self._checksum))
        self._effects = Effects(self.target, self.counts)


def change_schema(target: Target, before: Schema, after: Schema, counts: dict[int, int]) -> None:
    """Builds the indexes that are new, and deletes the tables and indexes that are gone."""
    for space, info in before.spaces.items():
        if space not in after.spaces:
            target.delete(*keys.space_range(space))
            target.delete(keys.rows_note(space), keys.rows_note(space + 1))
            counts.pop(space, None)
            continue
        kept = {index.id for index in after.spaces[space].indexes.values()}
        for index in info.indexes.values():
            if index.id not in kept:
                target.delete(index.prefix, keys.prefix(space, index.id + 1))
    for info, index in new_indexes(before, after):
        build_index(target, info, index)


def new_indexes(before: Schema, after: Schema) -> Iterable[tuple[TableInfo, IndexInfo]]:
    """The indexes of tables that have rows already which the schema before did not have."""
    for space, info in after.spaces.items():
        if space in before.spaces:
            known = {index.id for index in before.spaces[space].indexes.values()}
            for index in info.indexes.values():
                if index.id not in known:
                    yield info, index


def index_entries(
    view: View, info: TableInfo, index: IndexInfo, progress: Callable[[int], None] | None = None
) -> Iterable[tuple[bytes, bytes]]:
    """(values with prefix, key) of each row of a table in an index. Read-only."""
    at = list(info.indexes).index(index.name)
    skip = len(info.row_prefix)
    end = keys.prefix(info.space, 1)
    for done, (full, value) in enumerate(view.items(info.row_prefix, end), 1):
        yield old_values(info, value)[at], full[skip:]
        if progress is not None and done % ROWS_PER_BATCH == 0:
            progress(done)


def build_index(target: Target, info: TableInfo, index: IndexInfo) -> None:
    writes = target.batch()
    for values, key in index_entries(target.view, info, index):
        writes[values + key] = b""
        if len(writes) >= ROWS_PER_BATCH:
            target.write(writes)
            writes = target.batch()
    target.write(writes)
