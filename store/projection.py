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
from everlog.store.write import Write

ROWS_PER_BATCH = 4096
PREFIX_SIZE = keys.PREFIX.size
NO_VALUES: list[bytes] = []
PUT = log_pb2.PUT


class Batch(Protocol):
    """Writes that are gathered: RocksDB's batch, or one in memory."""

    def __setitem__(self, key: bytes, value: bytes, /) -> None: ...

    def __delitem__(self, key: bytes, /) -> None: ...

    def __len__(self) -> int: ...


class Target(Protocol):
    """What takes projections: the live tables, those of a rebuild, or memory."""

    @property
    def view(self) -> View: ...

    @property
    def get(self) -> Callable[[bytes], bytes | None]:
        """`view.get` without a seam: RocksDB's errors come as they are."""

    def batch(self) -> Batch: ...

    def write(self, writes: Batch) -> None:
        """All of the batch, or nothing."""

    def delete(self, start: bytes, end: bytes) -> None:
        """Everything from `start` on, up to but without `end`."""


class Effects:
    """What a group of commits does to the tables."""

    def __init__(self, target: Target, counts: dict[int, int]) -> None:
        self.writes = target.batch()
        self.size = 0
        self.uniques: dict[bytes, bytes | None] = {}  # values -> key of the row that has them now
        self.rows: dict[bytes, bytes | None] = {}  # whole key -> value, None: deleted
        self.stored = target.get
        self._counts = counts
        self._deltas: dict[int, int] = {}

    def old(self, full: bytes) -> bytes | None:
        """The row's value as the next commit of the group finds it."""
        rows = self.rows
        return rows[full] if full in rows else self.stored(full)

    def row(
        self,
        touched: list[bytes],
        info: TableInfo,
        full: bytes,
        value: bytes | None,
        old: bytes | None,
        values: list[bytes],
    ) -> None:
        """Puts (or, with None, deletes) a row and its index entries; notes the keys touched."""
        writes = self.writes
        if value is None:
            del writes[full]
        else:
            writes[full] = value
        touched.append(full)
        self.rows[full] = value
        self.size += 1
        if old is None or value is None:
            deltas, space = self._deltas, info.space
            deltas[space] = deltas.get(space, 0) + (1 if old is None else -1)
        if old is None:
            for after in values:
                entry = after + full[PREFIX_SIZE:]
                writes[entry] = b""
                touched.append(entry)
        elif info.indexes:
            self._move(touched, full[PREFIX_SIZE:], old_values(info, old), values)

    def _move(self, touched: list[bytes], key: bytes, gone: list[bytes], values: list[bytes]) -> None:
        """Index entries of a row that was there before."""
        writes = self.writes
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

    def rows_of(self, rows: list[tuple[Write, bytes | None]], header: bytes) -> list[bytes]:
        """The rows of a transaction, each with the value it replaces. Returns the keys touched."""
        touched: list[bytes] = []
        for write, old in rows:
            if write.op == PUT:
                self.row(touched, write.info, write.full, header + write.row, old, write.values)
            elif old is not None:
                self.row(touched, write.info, write.full, None, old, NO_VALUES)
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
        prefix, indexed = b"", False
        header = HEADER.pack(0, seq)
        touched: list[bytes] = []
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
                effects.row(touched, info, full, None, old, NO_VALUES)
                continue
            row = change.row
            if change.version or change.expires_ns or change.key_id:
                value = keys.pack_value(
                    seq, row, version=change.version, expires_ns=change.expires_ns, key_id=change.key_id
                )
            else:
                value = header + row
            effects.row(
                touched, info, full, value, old, info.own.values(info.parse(row), row) if indexed else []
            )

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
